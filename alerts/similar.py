"""Which other accounts had sessions like an alert's: for takeovers that spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np

from alerts.policy import alert_id
from detector.errors import UnlikeError
from detector.lines import rfc3339
from detector.neighbours import index, nearest
from detector.records import Remembered


class Memory(Protocol):
    """What is needed of a store; see stores.Store."""

    def remembered(self, user: str | None = None) -> Iterator[Remembered]:
        """The sessions, of all accounts or of one, in the order of their commits."""

    def alert(self, prefix: str) -> bytes | None:
        """JSON of the alert whose id is or starts with `prefix`."""


def similar(store: Memory, alert: Mapping[str, Any], limit: int) -> tuple[list[dict[str, Any]], int]:
    """The sessions of other accounts that are most like the session of an alert, nearest first; JSON-able.

    Also how many sessions were left out because another pack judged them. Raises UnlikeError where the session has not ended, or is
    forgotten.
    """
    user, mark = alert["verdict"]["user"], alert["id"]
    asked = next((row for row in store.remembered(user) if alert_id(row.user, row.session, row.start) == mark), None)
    if asked is None:
        raise UnlikeError(
            f"alert {mark}: its session is not remembered: it has not ended yet, or ended longer than history.keep_verdicts ago"
        )
    numbers: list[int] = []
    users: list[str] = []
    vectors = bytearray()
    codes: dict[str, int] = {user: 0}
    elsewhere = 0
    for row in store.remembered():
        if row.pack == asked.pack:
            numbers.append(row.number)
            users.append(row.user)
            codes.setdefault(row.user, len(codes))
            vectors += row.embedding
        else:
            elsewhere += row.user != user
    account = np.array([codes[name] for name in users], np.int64)
    width = len(asked.embedding) // 2
    known = index(np.frombuffer(bytes(vectors), "<f2").reshape(-1, width), account)
    ((positions, likeness),) = nearest(known, np.frombuffer(asked.embedding, "<f2")[None], limit, np.zeros(1, np.int64))
    near = {numbers[s] for s in positions}
    rows = {row.number: row for name in {users[s] for s in positions} for row in store.remembered(name) if row.number in near}
    return [_told(store, rows[numbers[s]], float(cosine)) for s, cosine in zip(positions, likeness, strict=True)], elsewhere


def _told(store: Memory, row: Remembered, likeness: float) -> dict[str, Any]:
    mark = alert_id(row.user, row.session, row.start)
    found = store.alert(mark)
    return {
        "user": row.user,
        "session": row.session,
        "start": rfc3339(row.start),
        "end": rfc3339(row.end),
        "number": row.number,
        "likeness": round(likeness, 4),
        "p": row.p,
        "belief": row.belief,
        "alert": None if found is None else mark,
        "incident": None if found is None else msgspec.json.decode(found)["incident"] or None,
    }
