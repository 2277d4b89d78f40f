"""Events kept for training: columnar files under `history/day=YYYY-MM-DD/` in the state folder, one folder per UTC day.

A commit stages encoded events in the store; `compact` moves them into files later. A file's name carries the first and last sequence
number of what is in it, so what a crash leaves twice is counted once: a file within the range of another is not read, and neither is
a staged row up to the last number of its day's files.

The format is numpy's npz without pickled objects, followed by its CRC-32. Axes: E events, C columns, T distinct texts, N numbers.
"""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from detector.errors import StoreDamagedError, StoreError
from detector.records import Batch

DAY = 86400.0  # seconds
FILE_BYTES = 32 << 20  # a file grows by merging up to about here: few files a day, and never much to rewrite
TRIES = 10  # a file that vanished was merged into another, so the next look finds that one
NONE, NUMBER = -1, -2  # codes of values that are not text
FIXED = ("user", "session", "event_id", "position")  # columns before the attributes


class Stage(Protocol):
    """What history needs of a store; see stores.Store."""

    def staged_days(self) -> list[str]:
        """Days (YYYY-MM-DD) that have staged events, in order."""

    def staged(self, day: str) -> Iterator[tuple[int, bytes]]:
        """(sequence number, encoded events) of a day, in order."""

    def unstage(self, day: str, last: int) -> None:
        """Forget the staged events of a day up to and with the number `last`."""


@dataclass(frozen=True, order=True)
class Part:
    """A file of a day, and the sequence numbers of the staged rows that went into it."""

    first: int
    last: int
    path: Path


def encode(batch: Batch, *, small: bool = False) -> list[tuple[str, bytes]]:
    """(day, encoded events) for each UTC day in the batch, days in order, events in the order of their arrival.

    small: compressed, for files. Raises ValueError where a column holds anything but str, float and None.
    """
    days = np.floor(batch.time / DAY)
    return [(str(np.datetime64(int(day), "D")), _pack(_where(batch, days == day), small)) for day in np.unique(days)]


def decode(data: bytes, where: object = "events") -> Batch:
    """The batch that was encoded; raises StoreDamagedError, naming `where`, if these are not the bytes that `encode` gave."""
    body, check = data[:-4], data[-4:]
    if len(data) < 4 or zlib.crc32(body).to_bytes(4, "little") != check:
        raise StoreDamagedError(f"{where}: damaged: its checksum does not fit; move it away to go on without its events")
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        blob, ends = arrays["blob"].tobytes(), arrays["ends"].tolist()
        texts = [blob[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        lookup = np.array([*texts, None, None], object)  # NUMBER and NONE, as indices, are the last two
        codes = arrays["codes"]  # (C, E)
        values = lookup[codes]
        values[codes == NUMBER] = arrays["numbers"].tolist()
        names, time = lookup[arrays["names"]].tolist(), arrays["time"]
    user, session, event_id, position = values[: len(FIXED)]
    return Batch(time, user, session, dict(zip(names, values[len(FIXED) :], strict=True)), event_id, position)


def concat(batches: Sequence[Batch]) -> Batch:
    """All events in order; an attribute that a batch lacks is None there. No batches: no events."""
    names = dict.fromkeys(name for batch in batches for name in batch.attributes) or {"action": None}

    def joined(columns: Iterable[np.ndarray], kind: type) -> np.ndarray:
        return np.concatenate([np.empty(0, kind), *columns])

    return Batch(
        time=joined((b.time for b in batches), float),
        user=joined((b.user for b in batches), object),
        session=joined((b.session for b in batches), object),
        attributes={n: joined((b.attributes.get(n, np.full(len(b), None, object)) for b in batches), object) for n in names},
        event_id=joined((b.event_id for b in batches), object),
        position=joined((b.position for b in batches), object),
    )


def compact(store: Stage, folder: Path) -> int:
    """Move staged events into files under the state folder; how many staged rows moved. Killed anywhere, nothing is lost or doubled.

    Raises StoreError where the folder cannot be written, StoreDamagedError where a file to merge with is damaged.
    """
    moved = 0
    for day in store.staged_days():
        place = _root(folder) / f"day={day}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            _sync(place.parent)
            _tidy(place)
            moved += _compact_day(store, place, day)
        except OSError as error:
            raise StoreError(f"{place}: cannot be written: {error.strerror}; events stay in the store; a retry helps") from error
    return moved


def read(store: Stage, folder: Path | None, since: float = -np.inf, until: float = np.inf) -> Iterator[Batch]:
    """Batches of the events with since <= time < until, by UTC day, within a day in the order of arrival. folder None: staged only.

    May run beside `compact` in another thread or process. Raises StoreDamagedError naming the file, StoreError.
    """
    files = set() if folder is None else {path.name.removeprefix("day=") for path in _root(folder).glob("day=*")}
    for day in sorted(files | set(store.staged_days())):
        start = _start(day)
        if start >= until or start + DAY <= since:
            continue
        rows = list(store.staged(day))  # before the files are listed: what is moved in between is in both, not in neither
        with ExitStack() as opened:
            parts = [] if folder is None else _open(_root(folder) / f"day={day}", opened)
            mark = parts[-1][0].last if parts else 0
            stored = (decode(file.read(), part.path) for part, file in parts)
            staged = (decode(body, f"staged events {number} of {day}") for number, body in rows if number > mark)
            for batch in (*stored, *staged) if len(rows) + len(parts) < 2 else _chain(stored, staged):
                wanted = (batch.time >= since) & (batch.time < until)
                if wanted.any():
                    yield batch if wanted.all() else _where(batch, wanted)


def prune(store: Stage, folder: Path | None, before: float) -> int:
    """Delete each UTC day that has ended by `before` (seconds), whole; how many. Raises StoreError."""
    days = store.staged_days()
    files = {} if folder is None else {path.name.removeprefix("day="): path for path in _root(folder).glob("day=*")}
    gone = [day for day in sorted({*days, *files}) if _start(day) + DAY <= before]
    for day in gone:
        last = max((number for number, _ in store.staged(day)), default=0)
        store.unstage(day, last)
        if day in files:
            try:
                shutil.rmtree(files[day])
            except OSError as error:
                raise StoreError(f"{files[day]}: cannot be deleted: {error.strerror}; the next run tries again") from error
    return len(gone)
