"""A desk with something on it: the small log's later life with two takeovers in it, on a store in memory."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from alerts.desk import Desk
from detector.cycle import Engine
from detector.pack import Pack
from detector.records import Batch, Chunk
from detector.settings import Settings, load
from detector.stores import MemoryStore, Store
from tests.logs import DAY, START, batch_of, part, rows_of_people, stolen

SETTINGS = load(overrides=["alerts.per_day=3"], environment={})
NOW = START + 400 * DAY
THEFT = START + 46 * DAY + 3 * 3600
HOSTILE = "<script>alert(1)</script>\u202eevil\x1b[31m"  # markup, a bidi control, a terminal escape


def later(hostile: bool = False) -> Batch:
    """Ten days in which u03 and u05 are robbed; the second thief's device has a hostile name where asked."""
    rows = [r | {"time": float(str(r["time"])) + 40 * DAY} for r in rows_of_people(14, 10)]
    rows += stolen(rows, "u03", "u08", THEFT)
    second = stolen(rows, "u05", "u11", THEFT + 2 * DAY)
    rows += [r | {"device": HOSTILE} for r in second] if hostile else second
    return batch_of(sorted(rows, key=lambda r: float(str(r["time"]))))


def lived(
    batch: Batch, pack: Pack, size: int = 100, settings: Settings = SETTINGS, until: float = np.inf, store: Store | None = None
) -> Engine:
    """An engine after the events before `until`; on a store that has seen some of them, those alone that are new."""
    engine = Engine(store or MemoryStore(), pack, settings, ["memory"])
    begin = int(str(engine.store.positions().get("log", {}).get("row", 0)))
    for low in range(begin, int((batch.time < until).sum()), size):
        piece = part(batch, slice(low, min(low + size, int((batch.time < until).sum()))))
        engine.run("log", Chunk(piece, (), {"row": low + len(piece)}, False), NOW)
    return engine


def desk_of(engine: Engine, packs: Path = Path("packs")) -> Desk:
    """The desk over an engine."""
    return Desk(lambda: engine, threading.RLock(), engine.store, packs, lambda: NOW)
