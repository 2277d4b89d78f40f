"""Where events come from: a file that grows, a folder that files are dropped into, standard input; each read gives a Chunk.

The position in a chunk says where the next read starts; it is committed with what the chunk led to. A read with an earlier position
gives the same lines again. What is read at once is bounded by lines and by bytes, so memory is too.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import structlog

from detector.errors import SettingsError, SourceError
from detector.events import Decode, LineError, Parser, Raw, csv_cells
from detector.files import PIECE_BYTES, LineFile, Piece, Place, Shelf, TableFile, arrow, column_names, format_of, place_after
from detector.records import Chunk, Reject
from detector.settings import EventSettings, SourceSettings

STDIN_BLOCK_BYTES = 1 << 18
UNFINISHED = (".tmp", ".part")  # names of files that somebody is still writing
PEEKED = 100  # lines looked at to find the first event of a file
ROTATED = re.compile(r"[.-]\d[\d._T-]*(\.gz)?")  # what rotation adds to a name
Readable = LineFile | TableFile
Group = tuple[Decode, list[tuple[str, Raw]]]
Form = TypeVar("Form")

log = structlog.get_logger()


class Source(Protocol):
    """A stream of events that can be read again from a position."""

    name: str

    def read(self, position: Mapping[str, object] | None, limit: int, now: float) -> Chunk:
        """At most `limit` events and rejects from a position on (None: the beginning); `now` in seconds; raises SourceError."""

    def lag_bytes(self) -> int:
        """Bytes that were there but not yet read, after the last read; of compressed files only those not begun."""

    def close(self) -> None:
        """Gives back what is open; a later read opens it again."""


class FileSource:
    """A file that is appended to. Without a position it is read from its beginning; what was rotated away before is not.

    After a rotation the old file is finished under its new name, compressed or not, then those between, then the new file. A file
    that was cut to nothing is read from its beginning, after its copy where there is one. A last line without its line break is
    waited for. A file that is not there yet is waited for too; one that was read and is gone is a SourceError until it is back.
    """

    def __init__(self, settings: SourceSettings, events: EventSettings) -> None:
        self.path = Path(settings.path)
        self.parser = Parser(settings, events)
        self.name = self.parser.name
        self._shelf = Shelf(self.parser, settings.format)
        self._lag = 0

    def read(self, position: Mapping[str, object] | None, limit: int, now: float) -> Chunk:
        """The next lines; see Source."""
        place = converted(position, Place, self.name) if position else None
        with reading(str(self.path)):
            found = self._find(place)
            if found is None:
                return Chunk(self.parser.take([], now).batch, (), position or {}, True)
            path, place = found
            file = self._shelf.open(path)
            next_path = self._next(path)
            piece = file.read(place.offset, limit, final=next_path is not None)
            mark = self._shelf.mark
        if piece.damaged and not piece.lines:
            raise damaged(path, piece)
        taken = self.parser.take([group(file, self.name if path == self.path else str(path), piece)], now)
        after = place_after(file, mark.inode, place, piece, taken.count)
        self._lag = 0 if file.compressed else max(mark.size - after.offset, 0)
        ended = piece.ended and not piece.damaged and taken.count == len(piece.lines)
        if ended and next_path is not None:
            after, ended = Place(inode=inode_of(next_path)), False
        return Chunk(taken.batch, taken.rejects, msgspec.to_builtins(after), ended)

    def _find(self, place: Place | None) -> tuple[Path, Place] | None:
        """The file to go on with, and where in it; None: it is not there yet. Raises OSError, SourceError."""
        here = inode_of(self.path)
        if place is None:
            return (self.path, Place(inode=here)) if here else None
        standing = self._shelf.standing_at(place)
        if standing:
            return standing, place
        for path in self._candidates(place):
            with contextlib.suppress(FileNotFoundError):
                if self._shelf.open(path).holds(place):
                    return path, place
        if not here and place.offset:
            raise SourceError(f"{self.path}: vanished after {place.offset:,} bytes of it were read; the next read tries again")
        if not here:
            return None
        if place.offset:
            log.warning("source_restarted", source=self.name, offset=place.offset, reason="truncated, or its old content is gone")
        return self.path, Place(inode=here)

    def _candidates(self, place: Place) -> Iterator[Path]:
        """Files that may be the one that was read: first by inode, then by content."""
        if inode_of(self.path) == place.inode:
            yield self.path
        beside = list(os.scandir(self.path.parent)) if self.path.parent.is_dir() else []
        yield from (Path(e.path) for e in beside if e.inode() == place.inode and e.name != self.path.name and e.is_file())
        if place.tail_bytes:
            yield from reversed(self._rotated())
            if self.path.is_file():
                yield self.path

    def _rotated(self) -> list[Path]:
        """The rotated files, oldest first; a file that is being compressed counts once."""
        names = {n for n in os.listdir(self.path.parent) if n.startswith(self.path.name)} if self.path.parent.is_dir() else set()
        rotated = [
            n for n in names if ROTATED.fullmatch(n.removeprefix(self.path.name)) and n.removesuffix(".gz") not in names - {n}
        ]
        return sorted((self.path.parent / n for n in rotated), key=age_order)

    def _next(self, path: Path) -> Path | None:
        """The file that follows a rotated one; None for the present one, which may still grow."""
        if path == self.path:
            return None
        newer = [p for p in self._rotated() if age_order(p) > age_order(path)]
        return newer[0] if newer else self.path if self.path.is_file() and self.path.stat().st_size else None

    def lag_bytes(self) -> int:
        """Bytes of the file behind the last read."""
        return self._lag

    def close(self) -> None:
        """Closes the file."""
        self._shelf.close()


class FolderSource:
    """A folder that files are dropped into: they are read in the order of their names, and further as they grow.

    Hidden files and those called *.tmp or *.part are left alone; by the format "auto" so are those with an unknown ending. A last
    line without its line break counts as whole once another file is newer and the size is the same at two reads that found nothing
    more. A damaged file is quarantined as one reject once its size is the same at two such reads, and read again when it changes.
    The position has one entry per file that is there.
    """

    def __init__(self, settings: SourceSettings, events: EventSettings) -> None:
        self.path = Path(settings.path)
        self.parser = Parser(settings, events)
        self.name = self.parser.name
        self.format = settings.format
        self._shelf = Shelf(self.parser, settings.format)
        self._sizes: dict[str, int] = {}  # of unfinished files, at the last read that found nothing more
        self._lag = 0

    def read(self, position: Mapping[str, object] | None, limit: int, now: float) -> Chunk:
        """The next lines of one or more files; see Source."""
        with reading(str(self.path)):
            stats = folder_files(self.path, self.format)
        known = converted((position or {}).get("files", {}), dict[str, Place], self.name)
        places = {name: known.get(name, Place()) for name in stats}
        found, complete = self._pieces(stats, places, limit)
        taken = self.parser.take([group(file, f"{self.name}/{name}", piece) for name, file, piece in found], now)
        left, broken, unfinished = taken.count, [], {}
        for name, file, piece in found:
            count, size = min(left, len(piece.lines)), stats[name].st_size
            left -= count
            waits = piece.half or bool(piece.damaged)
            given_up = bool(piece.damaged) and not piece.lines and self._sizes.get(name) == size
            if given_up:
                broken.append(Reject(self.name, f"{self.name}/{name}:{piece.offset}", "file_damaged", piece.damaged[:200], ""))
            elif waits:
                unfinished[name] = size
            read_all = piece.ended and not waits and count == len(piece.lines)
            after = place_after(file, 0, places[name], piece, count)
            places[name] = msgspec.structs.replace(after, done=size if read_all or given_up else -1)
        exhausted = complete and all(piece.ended for _, _, piece in found) and taken.count == sum(len(p.lines) for _, _, p in found)
        if exhausted:
            self._sizes = unfinished
        unread = (stats[n].st_size - p.offset for n, p in places.items() if p.done != stats[n].st_size)
        self._lag = sum(max(size, 0) for size in unread)
        files = {name: msgspec.to_builtins(place) for name, place in places.items() if place != Place()}
        return Chunk(taken.batch, (*taken.rejects, *broken), {"files": files}, exhausted)

    def _pieces(
        self, stats: Mapping[str, os.stat_result], places: dict[str, Place], limit: int
    ) -> tuple[list[tuple[str, Readable, Piece]], bool]:
        """What there is to read, and whether all files were looked at; sets the places of replaced files to their beginning."""
        found: list[tuple[str, Readable, Piece]] = []
        failures: list[OSError] = []
        room, room_bytes = limit, PIECE_BYTES
        complete = True
        for name in stats:
            if places[name].done == stats[name].st_size:
                continue
            if room <= 0 or room_bytes <= 0:
                complete = False
                break
            final = self._sizes.get(name) == stats[name].st_size and newer_than(name, stats)
            try:
                file = self._shelf.open(self.path / name)
                places[name] = places[name] if file.holds(places[name]) else Place()
                piece = file.read(places[name].offset, room, final)
            except FileNotFoundError:
                continue  # taken away since the folder was listed
            except OSError as error:
                failures.append(error)
                continue
            found.append((name, file, piece))
            room -= len(piece.lines) + bool(piece.damaged)
            room_bytes -= sum(len(raw) for _, raw in piece.lines)
        if failures and not any(piece.lines for _, _, piece in found):
            raise unreadable(str(failures[0].filename or self.path), failures[0])
        return found, complete

    def lag_bytes(self) -> int:
        """Bytes of the files that were not read; of compressed ones about."""
        return self._lag

    def close(self) -> None:
        """Closes the open file."""
        self._shelf.close()


class StdinSource:
    """Lines as they arrive on standard input, or on another descriptor; what was given is kept until a later position is asked for.

    A stream cannot be entered in the middle: after a restart its first line is the first that arrives, only the count goes on.
    `wait_s`: how long a read waits for the first and each further block; None: until the limit or the end is reached.
    """

    def __init__(
        self, settings: SourceSettings, events: EventSettings, descriptor: int | None = None, wait_s: float | None = 0.0
    ) -> None:
        self.parser = Parser(settings, events)
        self.name = self.parser.name
        self.ended = False  # the other side has closed
        self._descriptor, self._wait_s = sys.stdin.fileno() if descriptor is None else descriptor, wait_s
        self._decode: Decode | None = None if settings.format == "csv" else self.parser.json_object
        self._lines: deque[tuple[int, bytes]] = deque()
        self._count: int | None = None  # lines read so far
        self._half, self._skipping = b"", False
        self._fault = ""

    def read(self, position: Mapping[str, object] | None, limit: int, now: float) -> Chunk:
        """The lines that are there; see Source."""
        line = converted((position or {}).get("line", 0), int, self.name)
        self._count = line if self._count is None else self._count
        while self._lines and self._lines[0][0] <= line:
            self._lines.popleft()
        with reading(self.name):
            self._fill(limit)
        if self._fault:
            raise SourceError(f"{self.name}: {self._fault}; expected the names of the columns in the first line")
        lines = list(islice(self._lines, limit))
        labelled = [(f"{self.name}:{number}", raw) for number, raw in lines]
        taken = self.parser.take([(self._decode or self.parser.json_object, labelled)], now)
        after = lines[taken.count - 1][0] if taken.count else line
        return Chunk(taken.batch, taken.rejects, {"line": after}, taken.count == len(self._lines) < limit)

    def _fill(self, limit: int) -> None:
        while not self.ended and not self._fault and len(self._lines) < limit and self.lag_bytes() < PIECE_BYTES:
            if not select.select([self._descriptor], [], [], self._wait_s)[0]:
                break
            block = os.read(self._descriptor, STDIN_BLOCK_BYTES)
            self.ended = not block
            *whole, self._half = (self._half + block).split(b"\n")
            if self.ended and self._half:
                whole, self._half = [self._half], b""
            for raw in whole:
                self._add(raw)
            if len(self._half) > self.parser.events.max_line_bytes:
                self._add(self._half)
                self._half, self._skipping = b"", True

    def _add(self, raw: bytes) -> None:
        if self._skipping:  # the rest of a line that was refused for its length
            self._skipping = False
            return
        self._count = (self._count or 0) + 1
        if self._decode is None:
            try:
                self._decode = self.parser.csv_row(column_names(csv_cells(raw)))
            except LineError as error:
                self._fault = f"header: {error.detail}"
        else:
            self._lines.append((self._count, raw))

    def lag_bytes(self) -> int:
        """Bytes that have arrived and were not committed."""
        return sum(len(raw) for _, raw in self._lines)

    def close(self) -> None:
        """Leaves the descriptor to its owner."""
        self._lines.clear()


def open_source(settings: SourceSettings, events: EventSettings) -> Source:
    """The source that the settings describe; raises SettingsError, and SourceError where reading Parquet is not installed."""
    if settings.kind == "stdin":
        if settings.format == "parquet":
            raise SettingsError("source: standard input is read as jsonl or csv, not as parquet")
        return StdinSource(settings, events)
    if not settings.path:
        raise SettingsError(f"source: kind = {settings.kind!r} needs a path")
    if format_of(settings.path, settings.format) == "parquet":
        arrow(settings.path)
    return (FolderSource if settings.kind == "folder" else FileSource)(settings, events)


def read_all(paths: Sequence[str], settings: SourceSettings, events: EventSettings, limit: int, now: float) -> Iterator[Chunk]:
    """Files, folders and "-" (standard input) read once to their end, the last line also without its line break.

    Files are read one after the other, in the order of the first event of each, standard input last: they are not merged. At most
    `limit` events and rejects a chunk; positions are empty; the last chunk alone is exhausted. Raises SourceError.
    """
    files = [file for path in paths if path != "-" for file in files_of(Path(path), settings.format)]
    files = [file for _, file in sorted((first_time(file, settings, events, now), file) for file in files)]
    for file in files:
        yield from whole_file(file, settings, events, limit, now)
    if "-" in paths:
        yield from whole_stream(StdinSource(named(settings, ""), events, wait_s=None), limit, now)
    yield Chunk(Parser(settings, events).take([], now).batch, (), {}, True)


def whole_file(path: Path, settings: SourceSettings, events: EventSettings, limit: int, now: float) -> Iterator[Chunk]:
    """All of a file, in chunks; raises SourceError."""
    shelf = Shelf(Parser(named(settings, str(path)), events), settings.format)
    offset, ended = 0, False
    with reading(str(path)), contextlib.closing(shelf):
        file = shelf.open(path)
        while not ended:
            piece = file.read(offset, limit, final=True)
            if piece.damaged and not piece.lines:
                raise damaged(path, piece)
            taken = shelf.parser.take([group(file, str(path), piece)], now)
            offset = piece.after(taken.count)
            ended = piece.ended and not piece.damaged and taken.count == len(piece.lines)
            yield Chunk(taken.batch, taken.rejects, {}, False)


def whole_stream(source: StdinSource, limit: int, now: float) -> Iterator[Chunk]:
    """All of a stream, in chunks; raises SourceError."""
    chunk = source.read(None, limit, now)
    yield replace(chunk, position={}, exhausted=False)
    while not (source.ended and chunk.exhausted):
        chunk = source.read(chunk.position, limit, now)
        yield replace(chunk, position={}, exhausted=False)


def first_time(path: Path, settings: SourceSettings, events: EventSettings, now: float) -> float:
    """Time of the first event of a file, infinite where its first lines hold none; raises SourceError."""
    shelf = Shelf(Parser(named(settings, str(path)), events), settings.format)
    with reading(str(path)), contextlib.closing(shelf):
        file = shelf.open(path)
        times = shelf.parser.take([group(file, str(path), file.read(0, PEEKED, final=True))], now).batch.time
    return float(times[0]) if len(times) else math.inf


def files_of(path: Path, form: str) -> list[Path]:
    """A file alone, or the files of a folder that hold events; raises SourceError."""
    with reading(str(path)):
        return [path / name for name in folder_files(path, form)] if path.is_dir() else [path]


def folder_files(folder: Path, form: str) -> dict[str, os.stat_result]:
    """The files of a folder that hold events, in the order of their names, with size and time; raises OSError."""
    with os.scandir(folder) as entries:
        found = sorted((e.name, e) for e in entries if not e.name.startswith(".") and not e.name.endswith(UNFINISHED))
    return {name: entry.stat() for name, entry in found if format_of(name, form) and entry.is_file()}


def newer_than(name: str, stats: Mapping[str, os.stat_result]) -> bool:
    """Whether a folder has a file that is later than this one, by name or by time."""
    return any(other > name or stat.st_mtime_ns > stats[name].st_mtime_ns for other, stat in stats.items() if other != name)


def group(file: Readable, label: str, piece: Piece) -> Group:
    """The lines of a piece with their positions for people, and what decodes them."""
    return file.decode, [(f"{label}:{offset}", raw) for offset, raw in piece.lines]


def named(settings: SourceSettings, path: str) -> SourceSettings:
    """The same settings for another file, which gives its name."""
    return msgspec.structs.replace(settings, path=path, name="" if path else "stdin")


def inode_of(path: Path) -> int:
    """The inode at a path, 0 where there is nothing; raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_ino
    return 0


def age_order(path: Path) -> tuple[int, int]:
    """Sorts rotated files from old to new: by the time of their last write, then .2 before .1; raises OSError."""
    number = re.search(r"\.(\d{1,3})(\.gz)?$", path.name)
    return os.stat(path).st_mtime_ns, -int(number[1]) if number else 0


def converted(position: object, form: type[Form], name: str) -> Form:
    """A stored position in the form that a source understands; raises SourceError."""
    try:
        return msgspec.convert(position, form)
    except msgspec.ValidationError as error:
        raise SourceError(
            f"{name}: the stored position is of another kind of source: {error}; give the source a new name"
        ) from error


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns the system's errors into SourceError."""
    try:
        yield
    except OSError as error:
        raise unreadable(str(error.filename or where), error) from error


def unreadable(where: str, error: OSError) -> SourceError:
    """The error of a file or folder that the system refuses to give."""
    return SourceError(f"{where}: cannot be read: {error.strerror or error}; the next read tries again")


def damaged(path: Path, piece: Piece) -> SourceError:
    """The error of a file whose content is not what its format says."""
    return SourceError(
        f"{path}: damaged behind offset {piece.offset:,}: {piece.damaged}; what is before was read; "
        "replace the file, or take it away to go on without the rest"
    )
