"""Which events have come before: a 64-bit fingerprint of each, and those that could still come again in time.

Axes: E events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from detector.facets import factorize
from detector.records import Batch


def fingerprints(batch: Batch) -> np.ndarray:
    """(E,) int64: the log's own id of an event, or its whole content where there is none.

    Each distinct value of a column is hashed once; an event's hash is the sum of its values' hashes, in 128 bits before they are
    folded to 64, so that neither the order of the columns nor the other events of the batch matter.
    """
    # no attribute's name begins with a NUL
    ours = {
        "\0time": batch.time,
        "\0user": batch.user,
        "\0session": batch.session,
        "\0id": batch.event_id,
    }
    columns = {name: factorize(column, len(batch)) for name, column in (*ours.items(), *batch.attributes.items())}
    values, codes = columns["\0id"]
    named = np.array([value is not None for value in values], bool)[codes]
    lanes = _lanes("\0user", *columns["\0user"]) + _lanes("\0id", values, codes)
    for name in columns.keys() - {"\0user", "\0id"} if not named.all() else ():
        lanes += np.where(named[:, None], np.uint64(0), _lanes(name, *columns[name]))
    return _mixed(lanes[:, 0] + _mixed(lanes[:, 1])).view(np.int64)


def _lanes(name: str, values: list[object], codes: np.ndarray) -> np.ndarray:
    """(E, 2) uint64 hashes of the values of a column; 0 where there is none."""
    hashes = np.zeros((len(values), 2), np.uint64)
    texts = np.array([isinstance(v, str) for v in values], bool)
    numbers = np.array([isinstance(v, float) for v in values], bool)
    digests = (
        blake2b(f"{name}\0{v}".encode("utf-8", "surrogatepass"), digest_size=16).digest() for v in values if isinstance(v, str)
    )
    hashes[texts] = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    key = np.frombuffer(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest(), np.uint64)
    exact = np.array([v for v in values if isinstance(v, float)]) + 0.0  # -0.0 is 0.0
    hashes[numbers] = _mixed(_mixed(exact.view(np.uint64))[:, None] ^ key)
    return hashes[codes]


def _mixed(x: np.ndarray) -> np.ndarray:
    """uint64 with every bit spread over all others (the finish of splitmix64, Steele 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass
class Recent:
    """Fingerprints of events that could still come again in time, in a few sorted runs, each at least twice the next one."""

    runs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # (R,) fingerprints, ascending, and event times

    @staticmethod
    def load(rows: Sequence[tuple[float, bytes]]) -> Recent:
        halves = [(packed[: len(packed) // 2], packed[len(packed) // 2 :]) for _, packed in rows]
        recent = Recent()
        if halves:
            marks, times = (b"".join(parts) for parts in zip(*halves, strict=True))
            recent.add(np.frombuffer(marks, np.int64), np.frombuffer(times), -np.inf)
        return recent

    def fresh(self, marks: np.ndarray) -> np.ndarray:
        """(E,) which events are new: neither remembered nor earlier in this batch."""
        out = np.zeros(len(marks), bool)
        out[np.unique(marks, return_index=True)[1]] = True
        for known, _ in self.runs:
            out &= known[np.searchsorted(known, marks).clip(max=len(known) - 1)] != marks
        return out

    def add(self, marks: np.ndarray, times: np.ndarray, line: float) -> None:
        """Remember events, forget those before the line of lateness (some of them later, where that is cheaper)."""
        runs = [run for run in self.runs if run[1].max() >= line]
        while runs and len(runs[-1][0]) < 2 * len(marks):
            more, when = runs.pop()
            kept = when >= line
            marks, times = np.concatenate([more[kept], marks]), np.concatenate([when[kept], times])
        order = np.argsort(marks, kind="stable")
        self.runs = [*runs, (marks[order], times[order])] if len(marks) else runs
