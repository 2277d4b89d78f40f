"""A file of SQLite as the store opens it: held by one process, created whole, inspected, its errors translated into ours."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from detector.errors import StoreBusyError, StoreDamagedError, StoreError

LOCK = "unlike.lock"
APPLICATION, VERSION = 0x756E6C6B, 4  # "unlk" and the schema's version, in the file's header
CHECKED_WHOLE = 256 << 20  # bytes: up to here the whole file is checked at opening, in about half a second
CHECKPOINT_PAGES = 8192  # 32 MB of log between checkpoints: hot pages are written to the file once, not at each commit
CACHE_KIB = 65536  # upper levels of the indexes of a million accounts stay in memory
REMEDY = "nothing was changed; put a backup back, or move the folder away to start anew; a retry does not help"


def hold(folder: Path) -> int:
    """A descriptor that holds the folder for this process; the kernel lets go of it however the process ends."""
    lock = folder / LOCK
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        guard = os.open(lock, os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as error:
        raise StoreError(f"{lock}: cannot be opened: {error.strerror}; expected a folder that may be written to") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(guard, 0)
        os.pwrite(guard, str(os.getpid()).encode(), 0)
    except BlockingIOError as error:
        holder = os.read(guard, 20).decode("ascii", "replace") or "unknown"
        os.close(guard)
        raise StoreBusyError(f"{folder}: held by process {holder}; stop it, or use another state folder") from error
    except OSError as error:
        os.close(guard)
        raise StoreError(f"{lock}: cannot be locked: {error.strerror}; a retry helps once it can") from error
    return guard


def let_go(guard: int) -> None:
    """The folder is free for another process."""
    os.close(guard)


def create(path: Path, schema: Sequence[str]) -> None:
    """A database appears under its name only when it is complete, so one that is empty or partial is known to be damaged."""
    if log_of(path).exists():
        raise StoreDamagedError(f"{path}: missing, but its log {log_of(path).name} is there; {REMEDY}")
    fresh = path.with_suffix(".new")
    try:
        fresh.unlink(missing_ok=True)
        db = sqlite3.connect(fresh, isolation_level=None)
        try:
            for name, value in {"auto_vacuum": "INCREMENTAL", "journal_mode": "MEMORY", "synchronous": "FULL"}.items():
                db.execute(f"PRAGMA {name} = {value}")
            db.execute("BEGIN")
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            for statement in schema:
                db.execute(statement)
            db.execute("COMMIT")
        finally:
            db.close()
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreError(f"{path}: cannot be created: {error.strerror}; a retry helps once the folder can be written to") from error


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection for any thread, without transactions of its own; mode: "ro" or "rw"."""
    return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=5)


def prepare(db: sqlite3.Connection, max_bytes: int | None) -> None:
    """Settings of the one writing connection."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {4 * CHECKPOINT_PAGES * 4096}")
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    if max_bytes is not None:
        db.execute(f"PRAGMA max_page_count = {max_bytes // 4096}")


def inspect(db: sqlite3.Connection, path: Path, whole: bool) -> None:
    """Refuse a file that is not whole. Of a large one only the small tables are looked through; records carry checksums."""
    if size_of(path) == 0:
        raise StoreDamagedError(f"{path}: empty, expected a database; {REMEDY}")
    application, version, page, pages = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version", "page_size", "page_count")
    )
    if application != APPLICATION:
        raise StoreDamagedError(f"{path}: not a store of this program; {REMEDY}")
    if version != VERSION:
        raise StoreError(f"{path}: schema version {version}, expected {VERSION}: written by another release; use that one")
    if not whole:
        return
    if size_of(path) + size_of(log_of(path)) < page * pages:
        raise StoreDamagedError(f"{path}: cut off: {size_of(path)} bytes, expected {page * pages}; {REMEDY}")
    small = ("tally", "engine", "positions", "recent", "outbox", "alerts", "incidents", "cases", "audit")
    checks = [""] if size_of(path) <= CHECKED_WHOLE else [f"({table})" for table in small]
    for check in checks:
        found = db.execute(f"PRAGMA quick_check{check}").fetchone()[0]
        if found != "ok":
            raise StoreDamagedError(f"{path}: damaged: {found}; {REMEDY}")


def log_of(path: Path) -> Path:
    """Where SQLite writes ahead."""
    return path.with_name(path.name + "-wal")


def size_of(path: Path) -> int:
    """Bytes; 0 for a file that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors become ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StoreDamagedError(f"{path}: damaged: {error}; {REMEDY}") from error
        hint = "free some space; a retry helps then" if code == sqlite3.SQLITE_FULL else "nothing of it was written"
        raise StoreError(f"{path}: {error}; {hint}") from error
