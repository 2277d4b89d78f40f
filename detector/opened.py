"""Open sessions of accounts, and closed ones that are kept, as bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from detector.sessions import Sessions, empty


class OpenRow(msgspec.Struct, array_like=True):
    """One open session as it is stored."""

    name: str | None
    start: float
    end: float
    events: int
    alerted: bool
    last: int
    key: bytes
    facet: bytes
    count: bytes
    text: list[str]
    numbers: bytes


def open_to_bytes(table: Sessions) -> dict[str, bytes]:
    """All open sessions of each account, in the order of their start."""
    rows: dict[str, list[OpenRow]] = {}
    for s in range(len(table)):
        at = slice(table.indptr[s], table.indptr[s + 1])
        row = OpenRow(
            table.name[s],
            float(table.start[s]),
            float(table.end[s]),
            int(table.events[s]),
            bool(table.alerted[s]),
            int(table.last[s]),
            table.key[at].tobytes(),
            table.facet[at].tobytes(),
            table.count[at].tobytes(),
            [str(t) for t in table.text[at]],
            table.numbers[s].tobytes(),
        )
        rows.setdefault(table.user[s], []).append(row)
    return {user: msgspec.msgpack.encode(sorted(some, key=lambda r: (r.start, r.name or ""))) for user, some in rows.items()}


def open_from_bytes(records: Mapping[str, bytes], numbers: int) -> Sessions:
    """The table of the open sessions of some accounts."""
    table = empty(numbers)
    pairs = [(user, row) for user, record in records.items() for row in msgspec.msgpack.decode(record, type=list[OpenRow])]
    if not pairs:
        return table
    rows = [row for _, row in pairs]
    keys = [np.frombuffer(r.key, np.uint32) for r in rows]
    return Sessions(
        user=_objects([user for user, _ in pairs]),
        name=_objects([r.name for r in rows]),
        start=np.array([r.start for r in rows]),
        end=np.array([r.end for r in rows]),
        events=np.array([r.events for r in rows], np.int64),
        alerted=np.array([r.alerted for r in rows], bool),
        last=np.array([r.last for r in rows], np.uint32),
        indptr=np.concatenate([[0], np.cumsum([len(k) for k in keys])]),
        key=np.concatenate(keys),
        facet=np.concatenate([np.frombuffer(r.facet, np.int16) for r in rows]),
        count=np.concatenate([np.frombuffer(r.count, np.float32) for r in rows]),
        text=_objects([t for r in rows for t in r.text]),
        numbers=np.stack([np.frombuffer(r.numbers).reshape(numbers, -1) for r in rows])
        if numbers
        else np.empty((len(rows), 0, table.numbers.shape[2])),
    )


def _objects(values: Sequence[object]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out
