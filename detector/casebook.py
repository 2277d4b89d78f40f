"""How both stores keep incidents, answers, the audit and what goes with them; see stores.Store for what each method promises."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from detector.errors import StoreError
from detector.lines import alert_line
from detector.records import Alert, Changes, Entry, Incident

SCHEMA = (
    """CREATE TABLE alerts(id TEXT PRIMARY KEY, time REAL NOT NULL, written REAL NOT NULL, incident TEXT NOT NULL, p REAL NOT NULL,
        body BLOB NOT NULL, exhibit BLOB NOT NULL)""",
    "CREATE INDEX alert_time ON alerts(time)",
    "CREATE INDEX alert_incident ON alerts(incident, p)",
    """CREATE TABLE incidents(id TEXT PRIMARY KEY, user TEXT NOT NULL, state TEXT NOT NULL, priority REAL NOT NULL,
        updated REAL NOT NULL, body BLOB NOT NULL)""",
    "CREATE INDEX incident_queue ON incidents(state, priority)",
    "CREATE INDEX incident_user ON incidents(user)",
    "CREATE TABLE members(incident TEXT NOT NULL, start REAL NOT NULL, session TEXT)",
    "CREATE UNIQUE INDEX member_once ON members(incident, start, coalesce(session, x''))",
    "CREATE TABLE cases(user TEXT PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE kept(id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX kept_user ON kept(user, id)",
    "CREATE TABLE held(day TEXT NOT NULL, why TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(day, why)) WITHOUT ROWID",
    "CREATE TABLE audit(number INTEGER PRIMARY KEY, incident TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX audit_incident ON audit(incident, number)",
    """CREATE TABLE outbox(id INTEGER PRIMARY KEY AUTOINCREMENT, message TEXT NOT NULL, sink TEXT NOT NULL, body BLOB NOT NULL,
        attempts INTEGER NOT NULL, due REAL NOT NULL, dead INTEGER NOT NULL, error TEXT NOT NULL)""",
    "CREATE INDEX outbox_order ON outbox(dead, due, id)",
)


def only(where: object, what: str, prefix: str, found: Sequence[tuple[str, Any]]) -> Any:
    """The one meant by a prefix, of those that match in the order of their ids: an exact match comes first; None of none."""
    if len(found) > 1 and found[0][0] != prefix:
        raise StoreError(f"{where}: several {what} have an id that starts with {prefix!r}; expected more of its characters")
    return found[0][1] if found else None


def exhibits_of(changes: Changes) -> Sequence[bytes]:
    """One for each alert."""
    return changes.exhibits or [b""] * len(changes.alerts)


def put(db: sqlite3.Connection, changes: Changes) -> None:
    """Write this part of the changes, within a transaction."""
    rows = (
        (a.id, a.time, changes.now, a.incident, a.verdict.p, alert_line(a), exhibit)
        for a, exhibit in zip(changes.alerts, exhibits_of(changes), strict=True)
    )
    db.executemany("INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT(id) DO NOTHING", rows)
    db.executemany(
        "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?, ?)",
        ((i.id, i.user, i.state, i.priority, i.updated, msgspec.msgpack.encode(i)) for i in changes.incidents),
    )
    db.executemany("INSERT OR IGNORE INTO members(incident, session, start) VALUES (?, ?, ?)", changes.members)
    db.executemany("INSERT OR REPLACE INTO cases VALUES (?, ?)", changes.cases)
    db.executemany("DELETE FROM kept WHERE user = ?", ((user,) for user in changes.forget_kept))
    db.executemany("INSERT INTO kept(user, body) VALUES (?, ?)", changes.kept)
    sql = "INSERT INTO held VALUES (?, ?, ?) ON CONFLICT(day, why) DO UPDATE SET n = n + excluded.n"
    db.executemany(sql, ((day, why, n) for (day, why), n in changes.held.items()))
    db.executemany("INSERT INTO audit VALUES (?, ?, ?)", ((e.number, e.incident, msgspec.msgpack.encode(e)) for e in changes.audit))
    for table, column in (("incidents", "id"), ("alerts", "incident"), ("members", "incident")):
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", ((id_,) for id_ in changes.forget_incidents))
    db.execute("DELETE FROM held WHERE day < ?", (changes.forget_held_before,))
    db.execute("DELETE FROM audit WHERE number <= ?", (changes.forget_audit,))
    items = ((id_, sink, body, changes.now) for id_, body in changes.messages for sink in changes.sinks)
    db.executemany("INSERT INTO outbox(message, sink, body, attempts, due, dead, error) VALUES (?, ?, ?, 0, ?, 0, '')", items)


class SqliteBook:
    """The reading side, in SQLite."""

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        raise StoreError("expected a store with rows")

    def incidents(self, states: Sequence[str] = (), user: str | None = None) -> list[Incident]:
        """See Store."""
        sql = (
            f"SELECT body FROM incidents WHERE state IN ({', '.join('?' * len(states))})"
            if states
            else "SELECT body FROM incidents"
        )
        sql += "" if user is None else f" {'AND' if states else 'WHERE'} user = ?"
        named = () if user is None else (user,)
        rows = self._rows(sql + " ORDER BY priority DESC, id", *states, *named)
        return [msgspec.msgpack.decode(body, type=Incident) for (body,) in rows]

    def incident(self, prefix: str) -> Incident | None:
        """See Store."""
        where = "id >= ? AND substr(id, 1, ?) = ?"
        found = self._rows(f"SELECT id, body FROM incidents WHERE {where} ORDER BY id LIMIT 2", prefix, len(prefix), prefix)
        body = only("incidents", "incidents", prefix, found)
        return None if body is None else msgspec.msgpack.decode(body, type=Incident)

    def members(self, incident: str) -> list[tuple[str | None, float]]:
        """See Store."""
        return self._rows("SELECT session, start FROM members WHERE incident = ? ORDER BY start, session", incident)

    def exhibits(self, incident: str, limit: int) -> list[tuple[bytes, bytes]]:
        """See Store."""
        return self._rows("SELECT body, exhibit FROM alerts WHERE incident = ? ORDER BY p, rowid LIMIT ?", incident, limit)

    def cases(self) -> dict[str, bytes]:
        """See Store."""
        return dict(self._rows("SELECT user, body FROM cases ORDER BY user"))

    def kept(self, user: str) -> list[bytes]:
        """See Store."""
        return [body for (body,) in self._rows("SELECT body FROM kept WHERE user = ? ORDER BY id", user)]

    def held(self, day: str) -> dict[str, int]:
        """See Store."""
        return dict(self._rows("SELECT why, n FROM held WHERE day = ? ORDER BY why", day))

    def entries(self, after: int, limit: int, incident: str | None = None) -> list[Entry]:
        """See Store."""
        named = () if incident is None else (incident,)
        sql = "SELECT body FROM audit WHERE number > ?" + " AND incident = ?" * len(named) + " ORDER BY number LIMIT ?"
        return [msgspec.msgpack.decode(body, type=Entry) for (body,) in self._rows(sql, after, *named, limit)]


class MemoryBook:
    """All of it in memory."""

    def __init__(self) -> None:
        self._incidents: dict[str, Incident] = {}
        self._members: dict[str, dict[tuple[float, str], str | None]] = {}
        self._cases: dict[str, bytes] = {}
        self._kept: list[tuple[str, bytes]] = []
        self._held: Counter[tuple[str, str]] = Counter()
        self._audit: list[Entry] = []
        self._alerts: dict[str, tuple[Alert, bytes]] = {}  # with their exhibits

    def _put_book(self, changes: Changes) -> None:
        for alert, exhibit in zip(changes.alerts, exhibits_of(changes), strict=True):
            self._alerts.setdefault(alert.id, (alert, exhibit))
        self._incidents |= {i.id: i for i in changes.incidents}
        for incident, session, start in changes.members:
            self._members.setdefault(incident, {})[start, session or ""] = session
        self._cases |= dict(changes.cases)
        self._kept = [row for row in self._kept if row[0] not in changes.forget_kept] if changes.forget_kept else self._kept
        self._kept += changes.kept
        self._held.update(changes.held)
        self._audit += changes.audit
        for id_ in changes.forget_incidents:
            self._incidents.pop(id_, None)
            self._members.pop(id_, None)
        if changes.forget_incidents:
            self._alerts = {id_: row for id_, row in self._alerts.items() if row[0].incident not in changes.forget_incidents}
        self._held = Counter({key: n for key, n in self._held.items() if key[0] >= changes.forget_held_before})
        self._audit = [entry for entry in self._audit if entry.number > changes.forget_audit]

    def incidents(self, states: Sequence[str] = (), user: str | None = None) -> list[Incident]:
        """See Store."""
        found = [i for i in self._incidents.values() if (not states or i.state in states) and user in (None, i.user)]
        return sorted(found, key=lambda i: (-i.priority, i.id))

    def incident(self, prefix: str) -> Incident | None:
        """See Store."""
        named = [(id_, incident) for id_, incident in sorted(self._incidents.items()) if id_.startswith(prefix)]
        found: Incident | None = only("memory", "incidents", prefix, named)
        return found

    def members(self, incident: str) -> list[tuple[str | None, float]]:
        """See Store."""
        return [(session, start) for (start, _), session in sorted(self._members.get(incident, {}).items())]

    def exhibits(self, incident: str, limit: int) -> list[tuple[bytes, bytes]]:
        """See Store."""
        mine = [(a.verdict.p, alert_line(a), exhibit) for a, exhibit in self._alerts.values() if a.incident == incident]
        return [(body, exhibit) for _, body, exhibit in sorted(mine, key=lambda row: row[0])[:limit]]

    def cases(self) -> dict[str, bytes]:
        """See Store."""
        return dict(sorted(self._cases.items()))

    def kept(self, user: str) -> list[bytes]:
        """See Store."""
        return [body for name, body in self._kept if name == user]

    def held(self, day: str) -> dict[str, int]:
        """See Store."""
        return {why: n for (on, why), n in sorted(self._held.items()) if on == day}

    def entries(self, after: int, limit: int, incident: str | None = None) -> list[Entry]:
        """See Store."""
        return [e for e in self._audit if e.number > after and incident in (None, e.incident)][:limit]
