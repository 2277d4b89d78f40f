"""What the daemon remembers, behind one port: `Store`. One cycle's `Changes` are committed whole or not at all.

`MemoryStore` keeps it in dicts: for replay, and the honest fake in tests. `SqliteStore` keeps it in `unlike.db` in the state
folder; one process, through one connection, owns all writes and checkpoints: older releases of SQLite can damage a database whose
log two connections write. Everyone else reads through `SqliteStore.reader`.
"""

from __future__ import annotations

import heapq
import sqlite3
import threading
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from detector import casebook
from detector.casebook import MemoryBook, SqliteBook
from detector.database import CHECKPOINT_PAGES, REMEDY, connect, create, hold, inspect, let_go, log_of, prepare, size_of, translated
from detector.errors import StoreDamagedError, StoreError
from detector.lines import alert_line, verdict_line
from detector.records import Alert, Changes, Entry, Incident, OutboxItem, Reject, Remembered, Verdict

HISTORY_BUCKETS = (0, 1, 5, 20, 100)  # accounts are counted by the sessions known of them; each bucket starts here
PAGE = 1000  # rows per read of an iterator: other threads get their turn in between
ASKED = 256  # accounts a query
FILE = "unlike.db"


@dataclass(frozen=True)
class Counts:
    """How much there is, for metrics."""

    accounts: int
    histories: tuple[int, ...]  # accounts per bucket of HISTORY_BUCKETS
    open_sessions: int
    outbox: int  # items on their way, dead letters not included
    dead_letters: int
    quarantine: Mapping[str, int]  # reason -> lines kept
    store_bytes: int  # on disk


class Store(Protocol):
    """The state, for any thread. A method that cannot read or write the state raises StoreError, and changed nothing."""

    def commit(self, changes: Changes) -> None:
        """All of it or nothing. An alert whose id is known is ignored; a verdict on a known (user, session, start) is an error."""

    def replace_accounts(self, rows: Iterator[tuple[str, int, bytes]], changes: Changes) -> None:
        """Only these accounts (user, history, profile) remain, and with them come these changes. All of it or nothing.

        `rows` may be made from `all_accounts()` of the same store while it is written.
        """

    def accounts(self, users: Sequence[str]) -> dict[str, bytes]:
        """user -> profile, of those known, in the order asked."""

    def all_accounts(self) -> Iterator[tuple[str, bytes]]:
        """(user, profile) ordered by user."""

    def open_sessions(self, users: Sequence[str]) -> dict[str, bytes]:
        """user -> bytes of the account's open sessions, of those that have any, in the order asked."""

    def due(self, before: float) -> list[str]:
        """Users whose earliest close time is below `before`, ordered by (close time, user)."""

    def positions(self) -> dict[str, dict[str, Any]]:
        """source name -> where its next read starts."""

    def engine(self) -> bytes | None:
        """The clock and counters of the engine; None before the first commit."""

    def recent(self) -> list[tuple[float, bytes]]:
        """(newest event time, hashes of accepted events) in the order of their commits."""

    def counts(self) -> Counts:
        """Cheap enough for every cycle."""

    def users(self, search: str, limit: int) -> list[tuple[str, int]]:
        """(account, sessions known) of at most `limit` accounts with `search` in their name, whatever its case, in order."""

    def verdicts_of(self, user: str, limit: int) -> list[bytes]:
        """JSON of the newest `limit` verdicts on an account, the oldest first."""

    def verdicts(self, since: float, until: float) -> Iterator[bytes]:
        """JSON of the verdicts on sessions with since <= end < until, ordered by end, then by commit."""

    def remembered(self, user: str | None = None) -> Iterator[Remembered]:
        """The sessions, of all accounts or of one, whose embedding came with their verdict, in the order of their commits."""

    def alerts(self, limit: int, since: float | None = None) -> list[bytes]:
        """JSON of at most `limit` alerts, newest event time first; only those raised at `since` or later."""

    def alert(self, prefix: str) -> bytes | None:
        """JSON of the alert whose id is or starts with `prefix`; StoreError where several do and none is it."""

    def incidents(self, states: Sequence[str] = (), user: str | None = None) -> list[Incident]:
        """Incidents in one of the states (none: in any), of one account or of all, the highest priority first."""

    def incident(self, prefix: str) -> Incident | None:
        """The incident whose id is or starts with `prefix`; StoreError where several do and none is it."""

    def members(self, incident: str) -> list[tuple[str | None, float]]:
        """(name, start) of the alarming sessions of an incident."""

    def exhibits(self, incident: str, limit: int) -> list[tuple[bytes, bytes]]:
        """(JSON of the alert, what it takes to score it again) of an incident, the smallest p first."""

    def cases(self) -> dict[str, bytes]:
        """account -> what people said of it."""

    def kept(self, user: str) -> list[bytes]:
        """Closed sessions kept of an account, in the order of their commits."""

    def held(self, day: str) -> dict[str, int]:
        """why -> alarms of a day (YYYY-MM-DD, event time) that no message was sent of."""

    def entries(self, after: int, limit: int, incident: str | None = None) -> list[Entry]:
        """At most `limit` lines of the audit with a number above `after`, of one incident or of all, in order."""

    def quarantine(self, limit: int) -> list[Reject]:
        """The newest `limit` lines in quarantine, newest first."""

    def outbox_due(self, now: float, limit: int, /) -> list[OutboxItem]:
        """At most `limit` items with due <= now, the longest due first."""

    def outbox_sent(self, item: int, /) -> None:
        """The sink has it: forget it. StoreError for an item that is not there, here and below."""

    def outbox_retry(self, item: int, due: float, error: str, /) -> None:
        """Count one attempt, and hold it back until `due`."""

    def outbox_dead(self, item: int, error: str, /) -> None:
        """Keep it for people; it is not due any more."""

    def outbox_dead_letters(self) -> list[tuple[OutboxItem, str]]:
        """(item, its last error), oldest first."""

    def outbox_revive(self) -> int:
        """Every dead letter is due again, with no attempts counted; how many there were."""

    def staged_days(self) -> list[str]:
        """Days (YYYY-MM-DD) that have staged events, in order."""

    def staged(self, day: str) -> Iterator[tuple[int, bytes]]:
        """(sequence number, encoded events) of a day, in the order of their commits. Numbers only grow and are never used again."""

    def unstage(self, day: str, last: int) -> None:
        """Forget the staged events of a day up to and with the number `last`."""

    def prune(self, verdicts_before: float, quarantine_before: float, letters_before: float) -> dict[str, int]:
        """Forget what was written (dead letters: due) before these times, wall clock, and give the space back; rows by kind."""

    def close(self) -> None:
        """Let go of the state folder. Calls after it are errors."""


def body_of(record: Alert | Verdict) -> bytes:
    """The JSON of an alert or verdict; raises TypeError."""
    return alert_line(record) if isinstance(record, Alert) else verdict_line(record)


class MemoryStore(MemoryBook):
    """A store that forgets everything at exit."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._accounts: dict[str, tuple[int, bytes]] = {}
        self._histories = [0] * len(HISTORY_BUCKETS)
        self._open: dict[str, tuple[float, int, bytes]] = {}
        self._open_count = 0
        self._closing: list[tuple[float, str]] = []  # a heap; an entry holds only where _open agrees with it
        self._positions: dict[str, bytes] = {}
        self._engine: bytes | None = None
        self._recent: list[tuple[float, bytes]] = []
        self._staged: dict[str, dict[int, bytes]] = {}
        self._sequence = 0
        self._verdicts: dict[tuple[str, str | None, float], tuple[float, bytes, Remembered]] = {}  # -> written, body
        self._judged = 0
        self._outbox: dict[int, OutboxItem] = {}
        self._dead: dict[int, tuple[OutboxItem, str]] = {}
        self._items = 0
        self._quarantine: list[tuple[float, Reject]] = []
        self._reasons: Counter[str] = Counter()

    def commit(self, changes: Changes) -> None:
        """See Store."""
        positions = {name: msgspec.json.encode(position) for name, position in changes.positions.items()}
        with self._lock:
            verdicts = {
                (v.user, v.session, v.start): (changes.now, body_of(v), _remembered(number, v, embedding))
                for number, (v, embedding) in enumerate(_with_embeddings(changes), self._judged + 1)
            }
            if len(verdicts) != len(changes.verdicts) or not self._verdicts.keys().isdisjoint(verdicts):
                raise StoreError(_doubled("memory"))
            for user, history, profile in changes.accounts:
                self._put_account(user, history, profile)
            self._put_open(changes)
            self._positions |= positions
            self._engine = self._engine if changes.engine is None else changes.engine
            self._recent += changes.recent
            if changes.forget_recent_before is not None:
                self._recent = [row for row in self._recent if row[0] >= changes.forget_recent_before]
            for day, body in changes.history:
                self._sequence += 1
                self._staged.setdefault(day, {})[self._sequence] = body
            self._verdicts |= verdicts
            self._judged += len(verdicts)
            self._put_book(changes)
            for id_, body in changes.messages:
                self._put_message(id_, body, changes)
            self._quarantine += [(changes.now, reject) for reject in changes.rejects]
            self._reasons.update(reject.reason for reject in changes.rejects)

    def _put_account(self, user: str, history: int, profile: bytes) -> None:
        before = self._accounts.get(user)
        if before is not None:
            self._histories[_bucket(before[0])] -= 1
        self._histories[_bucket(history)] += 1
        self._accounts[user] = history, profile

    def _put_open(self, changes: Changes) -> None:
        for user, closes, count, body in changes.open_sessions:
            before = self._open.get(user)
            self._open_count += count - (before[1] if before else 0)
            self._open[user] = closes, count, body
            if before is None or before[0] != closes:
                heapq.heappush(self._closing, (closes, user))
        for user in changes.closed_users:
            gone = self._open.pop(user, None)
            self._open_count -= gone[1] if gone else 0

    def _put_message(self, id_: str, body: bytes, changes: Changes) -> None:
        for sink in changes.sinks:
            self._items += 1
            self._outbox[self._items] = OutboxItem(self._items, id_, sink, body, 0, changes.now)

    def replace_accounts(self, rows: Iterator[tuple[str, int, bytes]], changes: Changes) -> None:
        """See Store."""
        with self._lock:
            accounts: dict[str, tuple[int, bytes]] = {}
            for user, history, profile in rows:
                if user in accounts:
                    raise StoreError("memory: an account came twice in one set of accounts; expected each once")
                accounts[user] = history, profile
            found = Counter(_bucket(history) for history, _ in accounts.values())
            before = self._accounts, self._histories
            self._accounts, self._histories = accounts, [found[b] for b in range(len(HISTORY_BUCKETS))]
            try:
                self.commit(changes)
            except BaseException:
                self._accounts, self._histories = before
                raise

    def accounts(self, users: Sequence[str]) -> dict[str, bytes]:
        """See Store."""
        with self._lock:
            return {user: self._accounts[user][1] for user in users if user in self._accounts}

    def all_accounts(self) -> Iterator[tuple[str, bytes]]:
        """See Store."""
        with self._lock:
            rows = sorted((user, profile) for user, (_, profile) in self._accounts.items())
        yield from rows

    def open_sessions(self, users: Sequence[str]) -> dict[str, bytes]:
        """See Store."""
        with self._lock:
            return {user: self._open[user][2] for user in users if user in self._open}

    def due(self, before: float) -> list[str]:
        """See Store."""
        with self._lock:
            found: list[tuple[float, str]] = []
            while self._closing and self._closing[0][0] < before:
                closes, user = entry = heapq.heappop(self._closing)
                if user in self._open and self._open[user][0] == closes and found[-1:] != [entry]:
                    found.append(entry)
            for entry in found:  # due until they are committed as closed
                heapq.heappush(self._closing, entry)
            return [user for _, user in found]

    def positions(self) -> dict[str, dict[str, Any]]:
        """See Store."""
        with self._lock:
            return {name: msgspec.json.decode(body) for name, body in sorted(self._positions.items())}

    def engine(self) -> bytes | None:
        """See Store."""
        return self._engine

    def recent(self) -> list[tuple[float, bytes]]:
        """See Store."""
        with self._lock:
            return list(self._recent)

    def counts(self) -> Counts:
        """See Store; store_bytes is 0."""
        with self._lock:
            reasons = {reason: n for reason, n in sorted(self._reasons.items()) if n}
            histories = tuple(self._histories)
            return Counts(sum(histories), histories, self._open_count, len(self._outbox), len(self._dead), reasons, 0)

    def users(self, search: str, limit: int) -> list[tuple[str, int]]:
        """See Store."""
        with self._lock:
            found = sorted((user, known) for user, (known, _) in self._accounts.items() if search.lower() in user.lower())
        return found[:limit]

    def verdicts_of(self, user: str, limit: int) -> list[bytes]:
        """See Store."""
        with self._lock:
            rows = [(row.start, row.number, body) for _, body, row in self._verdicts.values() if row.user == user]
        return [body for *_, body in sorted(rows)[-limit:]]

    def verdicts(self, since: float, until: float) -> Iterator[bytes]:
        """See Store."""
        with self._lock:
            rows = [(row.end, body) for _, body, row in self._verdicts.values() if since <= row.end < until]
        yield from (body for _, body in sorted(rows, key=lambda row: row[0]))

    def remembered(self, user: str | None = None) -> Iterator[Remembered]:
        """See Store."""
        with self._lock:
            rows = [row for *_, row in self._verdicts.values() if row.embedding and user in (None, row.user)]
        yield from rows

    def alerts(self, limit: int, since: float | None = None) -> list[bytes]:
        """See Store."""
        with self._lock:
            rows = [alert for alert, _ in reversed(self._alerts.values()) if since is None or alert.time >= since]
        return [body_of(alert) for alert in sorted(rows, key=lambda alert: -alert.time)[:limit]]

    def alert(self, prefix: str) -> bytes | None:
        """See Store."""
        with self._lock:
            found = [(id_, body_of(alert)) for id_, (alert, _) in sorted(self._alerts.items()) if id_.startswith(prefix)]
        body: bytes | None = casebook.only("memory", "alerts", prefix, found)
        return body

    def quarantine(self, limit: int) -> list[Reject]:
        """See Store."""
        with self._lock:
            return [reject for _, reject in self._quarantine[::-1][:limit]]

    def outbox_due(self, now: float, limit: int, /) -> list[OutboxItem]:
        """See Store."""
        with self._lock:
            return sorted((i for i in self._outbox.values() if i.due <= now), key=lambda i: (i.due, i.id))[:limit]

    def outbox_sent(self, item: int, /) -> None:
        """See Store."""
        with self._lock:
            self._item(item)
            del self._outbox[item]

    def outbox_retry(self, item: int, due: float, error: str, /) -> None:
        """See Store."""
        with self._lock:
            found = self._item(item)
            self._outbox[item] = replace(found, attempts=found.attempts + 1, due=due)

    def outbox_dead(self, item: int, error: str, /) -> None:
        """See Store."""
        with self._lock:
            self._dead[item] = self._item(item), error
            del self._outbox[item]

    def _item(self, item: int) -> OutboxItem:
        if item not in self._outbox:
            raise StoreError(_no_item("memory", item))
        return self._outbox[item]

    def outbox_dead_letters(self) -> list[tuple[OutboxItem, str]]:
        """See Store."""
        with self._lock:
            return [self._dead[item] for item in sorted(self._dead)]

    def outbox_revive(self) -> int:
        """See Store."""
        with self._lock:
            revived = {id_: replace(item, attempts=0) for id_, (item, _) in self._dead.items()}
            self._outbox |= revived
            self._dead = {}
            return len(revived)

    def staged_days(self) -> list[str]:
        """See Store."""
        with self._lock:
            return sorted(self._staged)

    def staged(self, day: str) -> Iterator[tuple[int, bytes]]:
        """See Store."""
        with self._lock:
            rows = list(self._staged.get(day, {}).items())
        yield from rows

    def unstage(self, day: str, last: int) -> None:
        """See Store."""
        with self._lock:
            left = {sequence: body for sequence, body in self._staged.pop(day, {}).items() if sequence > last}
            if left:
                self._staged[day] = left

    def prune(self, verdicts_before: float, quarantine_before: float, letters_before: float) -> dict[str, int]:
        """See Store."""
        with self._lock:
            verdicts = {key: row for key, row in self._verdicts.items() if row[0] >= verdicts_before}
            quarantine = [row for row in self._quarantine if row[0] >= quarantine_before]
            dead = {id_: row for id_, row in self._dead.items() if row[0].due >= letters_before}
            gone = {"verdicts": len(self._verdicts) - len(verdicts), "quarantine": len(self._quarantine) - len(quarantine)}
            gone["dead_letters"], self._dead = len(self._dead) - len(dead), dead
            self._verdicts, self._quarantine = verdicts, quarantine
            self._reasons = Counter(reject.reason for _, reject in quarantine)
            return gone

    def close(self) -> None:
        """Nothing to let go of."""


_BUCKET = " + ".join(f"({{0}} >= {least})" for least in HISTORY_BUCKETS[1:])
_ACCOUNTS = "CREATE TABLE {}(user TEXT PRIMARY KEY, history INTEGER NOT NULL, profile BLOB NOT NULL)"
_ACCOUNT_TRIGGERS = (  # counts follow the rows within the same transaction, whoever writes them
    f"""CREATE TRIGGER account_new AFTER INSERT ON accounts BEGIN
        UPDATE tally SET n = n + 1 WHERE what = 'accounts' AND name = {_BUCKET.format("new.history")}; END""",
    f"""CREATE TRIGGER account_older AFTER UPDATE OF history ON accounts
        WHEN {_BUCKET.format("old.history")} <> {_BUCKET.format("new.history")} BEGIN
        UPDATE tally SET n = n - 1 WHERE what = 'accounts' AND name = {_BUCKET.format("old.history")};
        UPDATE tally SET n = n + 1 WHERE what = 'accounts' AND name = {_BUCKET.format("new.history")}; END""",
)
_SCHEMA = (
    "CREATE TABLE tally(what TEXT NOT NULL, name NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(what, name)) WITHOUT ROWID",
    "INSERT INTO tally VALUES ('open', 0, 0)",
    *(f"INSERT INTO tally VALUES ('accounts', {bucket}, 0)" for bucket in range(len(HISTORY_BUCKETS))),
    _ACCOUNTS.format("accounts"),
    *_ACCOUNT_TRIGGERS,
    "CREATE TABLE open_sessions(user TEXT PRIMARY KEY, closes REAL NOT NULL, sessions INTEGER NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX open_closes ON open_sessions(closes, user)",
    """CREATE TRIGGER open_new AFTER INSERT ON open_sessions BEGIN
        UPDATE tally SET n = n + new.sessions WHERE what = 'open'; END""",
    """CREATE TRIGGER open_more AFTER UPDATE OF sessions ON open_sessions WHEN old.sessions <> new.sessions BEGIN
        UPDATE tally SET n = n + new.sessions - old.sessions WHERE what = 'open'; END""",
    """CREATE TRIGGER open_gone AFTER DELETE ON open_sessions BEGIN
        UPDATE tally SET n = n - old.sessions WHERE what = 'open'; END""",
    "CREATE TABLE positions(source TEXT PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE engine(id INTEGER PRIMARY KEY CHECK(id = 1), body BLOB NOT NULL)",
    "CREATE TABLE recent(id INTEGER PRIMARY KEY, time REAL NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE staged(id INTEGER PRIMARY KEY AUTOINCREMENT, day TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX staged_day ON staged(day, id)",
    """CREATE TABLE verdicts(id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, session TEXT,
        start REAL NOT NULL, end REAL NOT NULL, score REAL NOT NULL, p REAL NOT NULL, belief REAL NOT NULL,
        written REAL NOT NULL, pack TEXT NOT NULL, embedding BLOB NOT NULL, body BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX verdict_once ON verdicts(user, start, coalesce(session, x''))",  # text never equals a blob
    "CREATE INDEX verdict_end ON verdicts(end, id)",
    "CREATE INDEX verdict_written ON verdicts(written)",
    *casebook.SCHEMA,
    """CREATE TABLE quarantine(id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, position TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, line TEXT NOT NULL, written REAL NOT NULL)""",
    "CREATE INDEX quarantine_written ON quarantine(written)",
    """CREATE TRIGGER quarantine_new AFTER INSERT ON quarantine BEGIN
        INSERT INTO tally VALUES ('quarantine', new.reason, 1) ON CONFLICT(what, name) DO UPDATE SET n = n + 1; END""",
    """CREATE TRIGGER quarantine_gone AFTER DELETE ON quarantine BEGIN
        UPDATE tally SET n = n - 1 WHERE what = 'quarantine' AND name = old.reason; END""",
)
_OUTBOX = "SELECT id, message, sink, body, attempts, due, error FROM outbox "


class SqliteStore(SqliteBook):
    """The state in a folder. Opening raises StoreBusyError where another process holds it, StoreDamagedError where it is not whole.

    max_bytes: the database grows no further; a commit beyond it fails like one on a full disk. None: as far as the disk goes.
    """

    def __init__(self, folder: str | Path, *, reading: bool = False, max_bytes: int | None = None) -> None:
        self._path = Path(folder).absolute() / FILE
        self._lock = threading.RLock()
        self._guard = None if reading else hold(self._path.parent)
        try:
            if reading and not self._path.exists():
                raise StoreError(f"{self._path}: not there; expected the state folder of a daemon that has run")
            with translated(self._path):
                if not self._path.exists():
                    create(self._path, _SCHEMA)
                self._db = connect(self._path, "ro" if reading else "rw")
                try:
                    inspect(self._db, self._path, whole=not reading)
                    if not reading:
                        prepare(self._db, max_bytes)
                except BaseException:
                    self._db.close()
                    raise
        except BaseException:
            self._let_go()
            raise

    @classmethod
    def reader(cls, folder: str | Path) -> SqliteStore:
        """Read-only, beside a running daemon or without one: writes are errors. StoreError where there is no store."""
        return cls(folder, reading=True)

    def commit(self, changes: Changes) -> None:
        """See Store. The disk has it when this returns."""
        with self._transaction() as db:
            self._put(db, changes)

    def _put(self, db: sqlite3.Connection, changes: Changes) -> None:
        db.executemany(
            """INSERT INTO accounts VALUES (?, ?, ?)
            ON CONFLICT(user) DO UPDATE SET history = excluded.history, profile = excluded.profile""",
            ((user, history, _seal(profile)) for user, history, profile in changes.accounts),
        )
        db.executemany(
            """INSERT INTO open_sessions VALUES (?, ?, ?, ?)
            ON CONFLICT(user) DO UPDATE SET closes = excluded.closes, sessions = excluded.sessions, body = excluded.body""",
            ((user, closes, count, _seal(body)) for user, closes, count, body in changes.open_sessions),
        )
        db.executemany("DELETE FROM open_sessions WHERE user = ?", ((user,) for user in changes.closed_users))
        db.executemany(
            "INSERT INTO positions VALUES (?, ?) ON CONFLICT(source) DO UPDATE SET body = excluded.body",
            ((source, msgspec.json.encode(position)) for source, position in changes.positions.items()),
        )
        _put_engine(db, changes.engine)
        db.executemany("INSERT INTO recent(time, body) VALUES (?, ?)", ((time, _seal(body)) for time, body in changes.recent))
        if changes.forget_recent_before is not None:
            db.execute("DELETE FROM recent WHERE time < ?", (changes.forget_recent_before,))
        db.executemany("INSERT INTO staged(day, body) VALUES (?, ?)", ((day, _seal(body)) for day, body in changes.history))
        self._put_verdicts(db, changes)
        casebook.put(db, changes)
        db.executemany(
            "INSERT INTO quarantine(source, position, reason, detail, line, written) VALUES (?, ?, ?, ?, ?, ?)",
            ((r.source, r.position, r.reason, r.detail, r.line, changes.now) for r in changes.rejects),
        )

    def _put_verdicts(self, db: sqlite3.Connection, changes: Changes) -> None:
        rows = (
            (v.user, v.session, v.start, v.end, v.score, v.p, v.belief, changes.now, v.pack, embedding, body_of(v))
            for v, embedding in _with_embeddings(changes)
        )
        columns = "user, session, start, end, score, p, belief, written, pack, embedding, body"
        try:
            db.executemany(f"INSERT INTO verdicts({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            raise StoreError(_doubled(self._path)) from error

    def replace_accounts(self, rows: Iterator[tuple[str, int, bytes]], changes: Changes) -> None:
        """See Store. Needs room for both sets on the disk."""
        found: Counter[int] = Counter()

        def counted() -> Iterator[tuple[str, int, bytes]]:
            for user, history, profile in rows:
                found[_bucket(history)] += 1
                yield user, history, _seal(profile)

        with self._transaction() as db:
            db.execute(_ACCOUNTS.format("fresh"))
            db.executemany("INSERT INTO fresh VALUES (?, ?, ?)", counted())
            db.execute("DROP TABLE accounts")
            db.execute("ALTER TABLE fresh RENAME TO accounts")
            for trigger in _ACCOUNT_TRIGGERS:
                db.execute(trigger)
            numbers = ((found[bucket], bucket) for bucket in range(len(HISTORY_BUCKETS)))
            db.executemany("UPDATE tally SET n = ? WHERE what = 'accounts' AND name = ?", numbers)
            self._put(db, changes)

    def accounts(self, users: Sequence[str]) -> dict[str, bytes]:
        """See Store."""
        return self._bodies("SELECT user, profile FROM accounts", users)

    def all_accounts(self) -> Iterator[tuple[str, bytes]]:
        """See Store."""
        user = ""
        while rows := self._rows("SELECT user, profile FROM accounts WHERE user > ? ORDER BY user LIMIT ?", user, PAGE):
            yield from ((user, self._unseal(body)) for user, body in rows)
            user = rows[-1][0]

    def open_sessions(self, users: Sequence[str]) -> dict[str, bytes]:
        """See Store."""
        return self._bodies("SELECT user, body FROM open_sessions", users)

    def due(self, before: float) -> list[str]:
        """See Store."""
        return [user for (user,) in self._rows("SELECT user FROM open_sessions WHERE closes < ? ORDER BY closes, user", before)]

    def positions(self) -> dict[str, dict[str, Any]]:
        """See Store."""
        rows = self._rows("SELECT source, body FROM positions ORDER BY source")
        return {source: msgspec.json.decode(body) for source, body in rows}

    def engine(self) -> bytes | None:
        """See Store."""
        rows = self._rows("SELECT body FROM engine")
        return self._unseal(rows[0][0]) if rows else None

    def recent(self) -> list[tuple[float, bytes]]:
        """See Store."""
        return [(time, self._unseal(body)) for time, body in self._rows("SELECT time, body FROM recent ORDER BY id")]

    def counts(self) -> Counts:
        """See Store; store_bytes is the database with its log."""
        with self._lock:
            tally = self._rows("SELECT what, name, n FROM tally ORDER BY what, name")
            letters = dict(self._rows("SELECT dead, count(*) FROM outbox GROUP BY dead"))
        histories = tuple(n for what, _, n in tally if what == "accounts")
        reasons = {name: n for what, name, n in tally if what == "quarantine" and n}
        opened = sum(n for what, _, n in tally if what == "open")
        size = size_of(self._path) + size_of(log_of(self._path))
        return Counts(sum(histories), histories, opened, letters.get(0, 0), letters.get(1, 0), reasons, size)

    def users(self, search: str, limit: int) -> list[tuple[str, int]]:
        """See Store."""
        sql = "SELECT user, history FROM accounts WHERE instr(lower(user), lower(?)) ORDER BY user LIMIT ?"
        return [(user, known) for user, known in self._rows(sql, search, limit)]

    def verdicts_of(self, user: str, limit: int) -> list[bytes]:
        """See Store."""
        rows = self._rows("SELECT body FROM verdicts WHERE user = ? ORDER BY start DESC, id DESC LIMIT ?", user, limit)
        return [body for (body,) in reversed(rows)]

    def verdicts(self, since: float, until: float) -> Iterator[bytes]:
        """See Store."""
        key, where = (since, 0), "(end, id) > (?, ?) AND end < ?"
        while rows := self._rows(f"SELECT end, id, body FROM verdicts WHERE {where} ORDER BY end, id LIMIT ?", *key, until, PAGE):
            yield from (body for _, _, body in rows)
            key = rows[-1][:2]

    def remembered(self, user: str | None = None) -> Iterator[Remembered]:
        """See Store."""
        number, named = 0, () if user is None else (user,)
        sql = "SELECT id, user, session, start, end, p, belief, pack, embedding FROM verdicts WHERE id > ? AND embedding <> x''"
        sql += " AND user = ?" * len(named) + " ORDER BY id LIMIT ?"
        while rows := self._rows(sql, number, *named, PAGE):
            yield from (Remembered(*row) for row in rows)
            number = rows[-1][0]

    def alerts(self, limit: int, since: float | None = None) -> list[bytes]:
        """See Store."""
        least = float("-inf") if since is None else since
        rows = self._rows("SELECT body FROM alerts WHERE time >= ? ORDER BY time DESC, rowid DESC LIMIT ?", least, limit)
        return [body for (body,) in rows]

    def alert(self, prefix: str) -> bytes | None:
        """See Store."""
        where = "id >= ? AND substr(id, 1, ?) = ?"
        found = self._rows(f"SELECT id, body FROM alerts WHERE {where} ORDER BY id LIMIT 2", prefix, len(prefix), prefix)
        body: bytes | None = casebook.only(self._path, "alerts", prefix, found)
        return body

    def quarantine(self, limit: int) -> list[Reject]:
        """See Store."""
        columns = "source, position, reason, detail, line"
        return [Reject(*row) for row in self._rows(f"SELECT {columns} FROM quarantine ORDER BY id DESC LIMIT ?", limit)]

    def outbox_due(self, now: float, limit: int, /) -> list[OutboxItem]:
        """See Store."""
        rows = self._rows(_OUTBOX + "WHERE dead = 0 AND due <= ? ORDER BY due, id LIMIT ?", now, limit)
        return [OutboxItem(*row[:-1]) for row in rows]

    def outbox_sent(self, item: int, /) -> None:
        """See Store."""
        self._change_item("DELETE FROM outbox WHERE dead = 0 AND id = ?", item)

    def outbox_retry(self, item: int, due: float, error: str, /) -> None:
        """See Store."""
        sql = "UPDATE outbox SET attempts = attempts + 1, due = ?, error = ? WHERE dead = 0 AND id = ?"
        self._change_item(sql, due, error, item)

    def outbox_dead(self, item: int, error: str, /) -> None:
        """See Store."""
        self._change_item("UPDATE outbox SET dead = 1, error = ? WHERE dead = 0 AND id = ?", error, item)

    def _change_item(self, sql: str, *values: object) -> None:
        with self._transaction() as db:
            if not db.execute(sql, values).rowcount:
                raise StoreError(_no_item(self._path, values[-1]))

    def outbox_dead_letters(self) -> list[tuple[OutboxItem, str]]:
        """See Store."""
        rows = self._rows(_OUTBOX + "WHERE dead = 1 ORDER BY id")
        return [(OutboxItem(*row[:-1]), row[-1]) for row in rows]

    def outbox_revive(self) -> int:
        """See Store."""
        with self._transaction() as db:
            return db.execute("UPDATE outbox SET dead = 0, attempts = 0 WHERE dead = 1").rowcount

    def staged_days(self) -> list[str]:
        """See Store."""
        return [day for (day,) in self._rows("SELECT DISTINCT day FROM staged ORDER BY day")]

    def staged(self, day: str) -> Iterator[tuple[int, bytes]]:
        """See Store."""
        last = 0
        while rows := self._rows("SELECT id, body FROM staged WHERE day = ? AND id > ? ORDER BY id LIMIT 32", day, last):
            yield from ((sequence, self._unseal(body)) for sequence, body in rows)
            last = rows[-1][0]

    def unstage(self, day: str, last: int) -> None:
        """See Store."""
        with self._transaction() as db:
            db.execute("DELETE FROM staged WHERE day = ? AND id <= ?", (day, last))

    def prune(self, verdicts_before: float, quarantine_before: float, letters_before: float) -> dict[str, int]:
        """See Store. Many short transactions, so that cycles go on in between."""
        before = {"verdicts": verdicts_before, "quarantine": quarantine_before}
        gone = {table: self._delete_written(table, time) for table, time in before.items()}
        with self._transaction() as db:
            gone["dead_letters"] = db.execute("DELETE FROM outbox WHERE dead = 1 AND due < ?", (letters_before,)).rowcount
        for _ in range(0, self._rows("PRAGMA freelist_count")[0][0], CHECKPOINT_PAGES):
            with self._lock, translated(self._path):
                self._db.executescript(f"PRAGMA incremental_vacuum({CHECKPOINT_PAGES})")  # execute() would free one page only
        return gone

    def _delete_written(self, table: str, before: float) -> int:
        total, sql = 0, f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE written < ? LIMIT ?)"
        while True:
            with self._transaction() as db:
                count = db.execute(sql, (before, 10 * PAGE)).rowcount
            total += count
            if not count:
                return total

    def close(self) -> None:
        """See Store. Writes the log into the database; the folder is free for another process."""
        with self._lock, translated(self._path):
            self._db.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._guard is not None:
            let_go(self._guard)
            self._guard = None

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, translated(self._path):
            return self._db.execute(sql, values).fetchall()

    def _bodies(self, sql: str, users: Sequence[str]) -> dict[str, bytes]:
        rows: list[tuple[str, bytes]] = []
        for low in range(0, len(users), ASKED):
            some = users[low : low + ASKED]
            rows += self._rows(f"{sql} WHERE user IN ({', '.join('?' * len(some))})", *some)
        return {user: self._unseal(body) for user, body in rows}

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise

    def _unseal(self, sealed: bytes) -> bytes:
        body = sealed[4:]
        if sealed[:4] != zlib.crc32(body).to_bytes(4, "little"):
            raise StoreDamagedError(f"{self._path}: damaged: a record is not what was written; {REMEDY}")
        return body


def _seal(body: bytes) -> bytes:
    """SQLite notices damage to its own structure, not to a value; the checksum does."""
    return zlib.crc32(body).to_bytes(4, "little") + body


def _put_engine(db: sqlite3.Connection, engine: bytes | None) -> None:
    if engine is not None:
        db.execute("INSERT INTO engine VALUES (1, ?) ON CONFLICT(id) DO UPDATE SET body = excluded.body", (_seal(engine),))


def _with_embeddings(changes: Changes) -> Iterator[tuple[Verdict, bytes]]:
    return zip(changes.verdicts, changes.embeddings or [b""] * len(changes.verdicts), strict=True)


def _remembered(number: int, verdict: Verdict, embedding: bytes) -> Remembered:
    v = verdict
    return Remembered(number, v.user, v.session, v.start, v.end, v.p, v.belief, v.pack, embedding)


def _bucket(history: int) -> int:
    return bisect_right(HISTORY_BUCKETS, history, lo=1) - 1


def _doubled(where: object) -> str:
    return f"{where}: a verdict on the same user, session and start is already there, expected one; a retry does not help"


def _no_item(where: object, item: object) -> str:
    return f"{where}: the outbox has no item {item} on its way; expected one that outbox_due gave"
