"""What an open session costs as it grows: python -m tests.bench.opened

Feeds one session of one account to THE step in batches and prints, at lengths from 100 to a million events: how long a batch of ten
more events takes that end with the session's embedding and the account's opinion (its bytes read and written as in a cycle), the
same without a session that is open, its distinct values, its bytes, how long it takes to compute the embedding afresh from all of
its events, and by how much the two embeddings differ.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from detector import scoring
from detector.calibration import Watch
from detector.cycle import NOTHING_SEEN
from detector.encoder import encode, measures
from detector.facets import Facets, as_sessions, observe
from detector.history import select
from detector.opened import open_from_bytes, open_to_bytes
from detector.pack import Pack
from detector.profiles import blank
from detector.records import Batch
from detector.sessions import Sessions, assign, combine, empty
from detector.settings import Settings
from detector.training import untrained

LENGTHS = (100, 1_000, 10_000, 100_000, 1_000_000)
MORE, AT_ONCE, TIMES, USER = 10, 20_000, 15, "u"


def events(first: int, count: int) -> Batch:
    """Events of one account a second apart, with six attributes."""
    rng = np.random.default_rng(first)

    def column(kind: str, kinds: int) -> np.ndarray:
        return np.array([f"{kind}{n}" for n in rng.integers(0, kinds, count)], object)

    names = {"action": 40, "page": 2000, "file": 4000, "device": 3, "network": 10**4}
    columns = {name: column(name, kinds) for name, kinds in names.items()} | {"bytes": rng.lognormal(5, 1, count).astype(object)}
    nobody = np.full(count, None, object)
    return Batch(1.7e9 + np.arange(first, first + count), np.full(count, USER, object), nobody, columns, nobody, nobody)


def stepped(batch: Batch, opened: Sessions, pack: Pack, end: float) -> scoring.Outcome:
    """One step of the account."""
    settings = Settings()
    rules = scoring.Rules(settings.session.gap, settings.session.named_gap, settings.events.lateness)
    clock = scoring.admit(batch.time, NOTHING_SEEN, rules.lateness)[1]
    profile, budget = blank(1, pack.shape), scoring.Budget(1.0, lambda _: 0.0)
    return scoring.step(batch, clock, [USER], profile, opened, pack, rules, end, Watch(), budget, looks=False)


def afresh(batch: Batch, facets: Facets, pack: Pack) -> np.ndarray:
    """(1, D) embedding of the session of all events at once."""
    none = empty(len(facets.number))
    assignment = assign(batch, none, np.inf, np.inf)
    seen, numbers = observe(batch, assignment, none, facets)
    whole = combine(as_sessions(batch, seen, numbers), assignment.session, 1)
    return encode(pack.encoder, whole, measures(whole, pack.population.centre, pack.population.spread))


def median(run: Callable[[], object]) -> float:
    """Milliseconds."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return round(float(np.median(took)) * 1000, 2)


def main() -> None:
    """A line for each length."""
    os.environ["OMP_NUM_THREADS"] = "1"
    pack = untrained(events(0, 10_000), {}, 0)
    numbers, parts = len(pack.facets.number), events(0, max(LENGTHS) + MORE)
    record, done = b"", 0
    for length in LENGTHS:
        for low in range(done, length, AT_ONCE):
            opened = open_from_bytes({USER: record} if record else {}, numbers)
            outcome = stepped(part(parts, low, min(low + AT_ONCE, length)), opened, pack, -np.inf)
            record = open_to_bytes(outcome.open_sessions)[USER]
        done = length
        few, kept = part(parts, length, length + MORE), record

        def grown(few: Batch = few, kept: bytes = kept) -> scoring.Outcome:
            outcome = stepped(few, open_from_bytes({USER: kept}, numbers), pack, np.inf)
            open_to_bytes(outcome.closed)
            return outcome

        whole = part(parts, 0, length + MORE)
        new = afresh(whole, pack.facets, pack)
        told = {
            "events": length,
            "ten_more_ms": median(grown),
            "ten_alone_ms": median(partial(stepped, few, empty(numbers), pack, np.inf)),
            "values": int(np.diff(grown().closed.indptr)[0]),
            "bytes": len(record),
            "afresh_ms": round(measured(partial(afresh, whole, pack.facets, pack)), 1),
            "largest_difference": float(np.abs(grown().embeddings - new).max()),
        }
        print(json.dumps(told), flush=True)


def part(batch: Batch, low: int, high: int) -> Batch:
    """The events from low to high."""
    return select(batch, np.arange(low, high))


def measured(run: Callable[[], object]) -> float:
    """Milliseconds of one run."""
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
