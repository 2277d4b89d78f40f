"""Events kept for training: columnar files under `history/day=YYYY-MM-DD/` in the state folder, one folder per UTC day.

A commit stages encoded events in the store; `compact` moves them into files later. The name of a file carries the first and last
sequence number of what is in it, so what a crash leaves twice is counted once: a file within the range of another is not read, nor
is a staged row up to the last number of its day's files.

The format is numpy's npz without pickled objects, followed by its CRC-32. Axes: E events, C columns, T distinct texts, N numbers.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from detector.errors import StoreDamagedError, StoreError
from detector.records import Batch

DAY = 86400.0  # seconds
FILE_BYTES = 8 << 20  # a file grows by merging up to here: few files a day, and little to rewrite or to hold in memory
TRIES = 10  # a file that vanished was merged into another, so the next look finds that one
NONE, NUMBER = -1, -2  # codes of values that are not text


class Stage(Protocol):
    """What history needs of a store; see stores.Store."""

    def staged_days(self) -> list[str]:
        """Days (YYYY-MM-DD) that have staged events, in order."""

    def staged(self, day: str) -> Iterator[tuple[int, bytes]]:
        """(sequence number, encoded events) of a day, in order."""

    def unstage(self, day: str, last: int) -> None:
        """Forget the staged events of a day up to and with the number `last`."""


@dataclass(frozen=True)
class Part:
    """A file of a day, and the sequence numbers of the staged rows that went into it."""

    first: int
    last: int
    path: Path


def encode(batch: Batch) -> list[tuple[str, bytes]]:
    """(day, encoded events) for each UTC day in the batch, days in order, events of a day in the order of their arrival.

    Raises ValueError where a column holds anything but str, float and None.
    """
    days = np.floor(batch.time / DAY)  # (E,)
    return [(str(np.datetime64(int(day), "D")), _pack(select(batch, days == day), np.savez)) for day in np.unique(days)]


def decode(data: bytes, name: object = "events") -> Batch:
    """The batch that was encoded; raises StoreDamagedError, naming `name`, if these are not the bytes that were written."""
    body, check = data[:-4], data[-4:]
    if len(data) < 4 or zlib.crc32(body).to_bytes(4, "little") != check:
        raise StoreDamagedError(f"{name}: damaged: its checksum does not fit; move it away to go on without its events")
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        blob, ends = arrays["blob"].tobytes(), arrays["ends"].tolist()  # (T,)
        texts = [blob[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends, strict=False)]
        lookup = np.array([*texts, None, None], object)  # (T + 2,): NUMBER and NONE index the last two
        codes = arrays["codes"]  # (C, E)
        values = lookup[codes]  # (C, E)
        values[codes == NUMBER] = arrays["numbers"].tolist()  # (N,)
        names, time = lookup[arrays["names"]].tolist(), arrays["time"]
    user, session, event_id, position, *attributes = values
    return Batch(time, user, session, dict(zip(names, attributes, strict=True)), event_id, position)


def concat(batches: Sequence[Batch]) -> Batch:
    """All events in order; an attribute that a batch lacks is None there. Of no batches: no events."""
    names = dict.fromkeys(name for batch in batches for name in batch.attributes) or {"action": None}

    def joined(columns: Iterable[np.ndarray], kind: type = object) -> np.ndarray:
        return np.concatenate([np.empty(0, kind), *columns])

    return Batch(
        time=joined((b.time for b in batches), float),
        user=joined(b.user for b in batches),
        session=joined(b.session for b in batches),
        attributes={n: joined(b.attributes.get(n, np.full(len(b), None, object)) for b in batches) for n in names},
        event_id=joined(b.event_id for b in batches),
        position=joined(b.position for b in batches),
    )


def thinned(batches: Iterable[Batch], most: int) -> tuple[Batch, float]:
    """All events and 1.0; or, where they are more than `most`, those of a sample of the accounts, and its share of all accounts.

    Without their ids and positions, and each distinct value once in memory.
    """
    kept: list[Batch] = []
    events, share = 0, 1.0
    table: dict[object, object] = {}
    for batch in batches:
        kept.append(lean(select(batch, lots(batch.user) < share) if share < 1 else batch, table))
        events += len(kept[-1])
        while events > most:
            share /= 2
            kept = [part for b in kept if len(part := select(b, lots(b.user) < share))]
            events = sum(map(len, kept))
    return concat(kept), share


def lean(batch: Batch, table: dict[object, object]) -> Batch:
    """The batch to be kept for long: without ids and positions, and with values that are the same objects as those in `table`."""

    def shared(column: np.ndarray) -> np.ndarray:
        values = column.tolist()
        index = {value: n for n, value in enumerate(dict.fromkeys(values))}
        once = np.empty(len(index), object)
        once[:] = [table.setdefault(value, value) for value in index]
        return once[np.fromiter(map(index.__getitem__, values), np.int64, len(values))]

    none = np.full(len(batch), None, object)
    columns = {name: shared(column) for name, column in batch.attributes.items()}
    return Batch(batch.time, shared(batch.user), shared(batch.session), columns, none, none)


def lots(users: np.ndarray) -> np.ndarray:
    """(E,) in [0, 1): what decides whether an account is in a sample, the same at any time."""
    drawn = {user: zlib.crc32(user.encode("utf-8", "surrogatepass")) / 2**32 for user in dict.fromkeys(users.tolist())}
    return np.fromiter(map(drawn.__getitem__, users.tolist()), float, len(users))


def compact(store: Stage, folder: str | Path) -> int:
    """Move staged events into files under the state folder; how many staged rows moved. Killed anywhere: nothing lost or doubled.

    Only the process that owns the store may call it, once at a time. Raises StoreError where the folder cannot be written, and
    StoreDamagedError where a file to merge with is damaged.
    """
    moved, folder = 0, Path(folder)
    for day in store.staged_days():
        place = folder / "history" / f"day={day}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            _sync(folder)
            _sync(place.parent)
            _tidy(place)
            moved += _compact_day(store, place, day)
        except OSError as error:
            raise StoreError(f"{place}: cannot be written: {error.strerror}; events stay in the store; a retry helps") from error
    return moved


def read(store: Stage, folder: str | Path | None, since: float | None = None, until: float | None = None) -> Iterator[Batch]:
    """Batches of the events with since <= time < until, by UTC day, within a day in the order of arrival.

    folder: the state folder; None: staged events only. since, until: seconds; None: no limit.

    May run beside `compact` in another thread or process. Raises StoreDamagedError naming the file, StoreError.
    """
    least, end = -np.inf if since is None else since, np.inf if until is None else until
    for day in sorted({*store.staged_days(), *_days(folder)}):
        start = _start(day)
        if start >= end or start + DAY <= least:
            continue
        rows = list(store.staged(day))  # before the files are listed: what moves in between is then in both, not in neither
        with ExitStack() as opened:
            parts = [] if folder is None else _open(Path(folder) / "history" / f"day={day}", opened)
            mark = parts[-1][0].last if parts else 0
            stored = (decode(file.read(), part.path) for part, file in parts)
            staged = (decode(body, _staged(day, number)) for number, body in rows if number > mark)
            for batch in chain(stored, staged):
                wanted = (batch.time >= least) & (batch.time < end)
                if wanted.any():
                    yield select(batch, wanted)


def prune(folder: str | Path, before: float) -> int:
    """Delete the files of each UTC day that has ended by `before` (seconds); how many days. Raises StoreError."""
    gone = [place for day, place in sorted(_days(folder).items()) if _start(day) + DAY <= before]
    for place in gone:
        try:
            shutil.rmtree(place)
        except OSError as error:
            raise StoreError(f"{place}: cannot be deleted: {error.strerror}; the next run tries again") from error
    return len(gone)


def pack(batch: Batch) -> bytes:
    """All events of a batch, whatever their days; `decode` takes them back. Raises ValueError as `encode` does."""
    return _pack(batch, np.savez)


def _pack(batch: Batch, save: Callable[..., None]) -> bytes:
    """One dictionary of texts for all columns; numbers beside it, in the order of columns and events."""
    table: dict[str, int] = {}
    columns = [batch.user, batch.session, batch.event_id, batch.position, *batch.attributes.values()]
    lists = [column.tolist() for column in columns]
    odd = set().union(*(map(type, values) for values in lists)) - {str, float, type(None)}
    if odd:
        raise ValueError(f"events: a value of type {min(kind.__name__ for kind in odd)} in a column, expected str, float or None")
    codes = [_codes(values, table) for values in lists]  # (C) of (E,)
    numbers = [v for values, some in zip(lists, codes, strict=True) if NUMBER in some for v in values if isinstance(v, float)]
    names = [table.setdefault(name, len(table)) for name in batch.attributes]
    texts = [text.encode("utf-8", "surrogatepass") for text in table]  # T
    out = io.BytesIO()
    save(
        out,
        time=batch.time,
        codes=np.stack(codes),
        numbers=np.array(numbers, float),
        blob=np.frombuffer(b"".join(texts), np.uint8),
        ends=np.cumsum([len(text) for text in texts], dtype=np.int64),
        names=np.array(names, np.int32),
    )
    body = out.getvalue()
    return body + zlib.crc32(body).to_bytes(4, "little")


def select(batch: Batch, rows: np.ndarray) -> Batch:
    """The events at `rows` (mask or indices); the same batch where the mask leaves none out."""
    if rows.dtype == bool and rows.all():
        return batch
    columns = {name: column[rows] for name, column in batch.attributes.items()}
    return Batch(batch.time[rows], batch.user[rows], batch.session[rows], columns, batch.event_id[rows], batch.position[rows])


def _codes(values: list[Any], table: dict[str, int]) -> np.ndarray:
    """(E,) int32 numbers of the texts, which the table gives or is given; NONE and NUMBER for what is none."""
    index = {
        v: table.setdefault(v, len(table)) if isinstance(v, str) else NONE if v is None else NUMBER for v in dict.fromkeys(values)
    }
    return np.fromiter(map(index.__getitem__, values), np.int32, len(values))


def _compact_day(store: Stage, place: Path, day: str) -> int:
    files, moved = _live(place), 0
    if files:
        store.unstage(day, files[-1].last)  # rows that a crash left behind, after they had become a file
    for rows in _groups(store.staged(day)):
        tail = [part for part in files[-1:] if part.path.stat().st_size < FILE_BYTES]
        before = [decode(part.path.read_bytes(), part.path) for part in tail]
        now = [decode(body, _staged(day, number)) for number, body in rows]
        first, last = tail[0].first if tail else rows[0][0], rows[-1][0]
        part = Part(first, last, place / f"{first:012d}-{last:012d}.npz")
        _write(part.path, _pack(concat([*before, *now]), np.savez_compressed))
        for covered in tail:
            covered.path.unlink()
        store.unstage(day, last)
        files, moved = [*files[: len(files) - len(tail)], part], moved + len(rows)
    return moved


def _groups(rows: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Rows by about FILE_BYTES, so that memory is bounded."""
    group: list[tuple[int, bytes]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row[1])
        if size >= FILE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _staged(day: str, number: int) -> str:
    return f"staged events {number} of {day}"


def _live(place: Path) -> list[Part]:
    """The files of a day that count, in the order of their numbers."""
    named = [(re.fullmatch(r"(\d+)-(\d+)\.npz", path.name), path) for path in place.glob("*.npz")]
    parts = [Part(int(name[1]), int(name[2]), path) for name, path in named if name]
    live: list[Part] = []
    for part in sorted(parts, key=lambda part: (part.first, -part.last)):
        if not live or part.last > live[-1].last:
            live.append(part)
    return live


def _open(place: Path, opened: ExitStack) -> list[tuple[Part, BinaryIO]]:
    """The files of a day, open: they can be read even if a merge deletes them meanwhile."""
    for _ in range(TRIES):
        try:
            return [(part, opened.enter_context(part.path.open("rb"))) for part in _live(place)]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"{error.filename}: cannot be opened: {error.strerror}") from error
    raise StoreError(f"{place}: files vanish faster than they can be opened; a retry helps")


def _tidy(place: Path) -> None:
    """Delete what a crash left: half-written files, and those that were merged into another."""
    live = {part.path for part in _live(place)}
    for path in place.iterdir():
        if path.suffix in (".tmp", ".npz") and path not in live:
            path.unlink()


def _write(path: Path, data: bytes) -> None:
    """The file is on the disk, whole and under its name, when this returns."""
    draft = path.with_suffix(".tmp")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """The names in the folder are on the disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _days(folder: str | Path | None) -> dict[str, Path]:
    """day -> its folder."""
    return {} if folder is None else {path.name[4:]: path for path in Path(folder, "history").glob("day=????-??-??")}


def _start(day: str) -> float:
    """Seconds at which a UTC day begins."""
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
