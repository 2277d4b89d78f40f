"""Files of events, opened: text lines, plain or gzip, and Parquet rows; read in pieces from an offset on.

An offset counts bytes of the (decompressed) text, or rows of a table. Whether an opened file is the one that was read before is
told by its content: the first bytes, and the end of the last line before the offset.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from importlib import import_module
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from detector.errors import SourceError
from detector.events import Decode, LineError, Parser, Raw, csv_cells

FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
HEAD_BYTES = 1024  # a few lines with their times: no two logs begin alike
TAIL_BYTES = 256  # of the last line read
PIECE_BYTES = 32 << 20  # memory of one read, whatever the length of its lines
TOGETHER = 64  # lines that are read at once, where all are whole
TABLE_ROWS = 4096  # rows that are decoded at once
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where reading of a file goes on, and how to know the file again."""

    offset: int = 0
    inode: int = 0
    head: str = ""  # hash of the first `head_bytes` bytes
    head_bytes: int = 0
    tail: str = ""  # hash of the last `tail_bytes` bytes before the offset
    tail_bytes: int = 0
    done: int = -1  # size in bytes at which a file of a folder was read to its end


@dataclass(frozen=True)
class Piece:
    """Consecutive lines or rows with their offsets."""

    lines: list[tuple[int, Raw]]
    offset: int  # behind the last of them
    ended: bool  # there is nothing more that is whole
    half: bool  # the beginning of a line waits behind the offset
    damaged: str  # what is wrong behind the offset, else empty

    def after(self, count: int) -> int:
        """The offset behind the first `count` lines."""
        return self.lines[count][0] if count < len(self.lines) else self.offset


class Mark(NamedTuple):
    """What changes when a file is replaced or written to."""

    path: str
    device: int
    inode: int
    size: int  # bytes
    written_ns: int


class LineFile:
    """JSON lines or CSV, plain or gzip; raises OSError where it cannot be opened."""

    def __init__(self, path: Path, form: str, parser: Parser) -> None:
        self.path, self.form, self.parser = path, form, parser
        self.compressed = path.suffix == ".gz"
        self.longest = parser.events.max_line_bytes + 2  # with its line break
        with self._open() as stream:
            self.head = beginning(stream)
        self.stream: BinaryIO | None = None
        self.at = 0
        self.start = 0  # behind the header
        self.decode: Decode = parser.json_object

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path, "rb")) if self.compressed else open(self.path, "rb")

    def holds(self, place: Place) -> bool:
        """Whether what was read up to a place is in this file."""
        if place.offset and place.offset == self.at:
            return True
        if not same(self.head[: place.head_bytes], place.head_bytes, place.head):
            return False
        if not self.compressed and os.stat(self.path).st_size < place.offset:
            return False
        try:
            stream = self._seek(place.offset - place.tail_bytes)
            return same(stream.read(place.tail_bytes), place.tail_bytes, place.tail) and stream.tell() == place.offset
        except DAMAGE:
            self.close()
            return False
        finally:
            self._rest()

    def read(self, offset: int, limit: int, final: bool) -> Piece:
        """At most `limit` lines; `final`: nothing will be appended any more, so the last line needs no line break."""
        lines: list[tuple[int, Raw]] = []
        half, damaged, size = False, "", 0
        final = final or self.compressed
        try:
            if self.form == "csv" and not self.start:
                damaged = self._read_header(final)
                half = not damaged and not self.start and bool(self.head)
            offset = max(offset, self.start)
            stream = self._seek(offset)
            while not self.compressed and len(lines) < limit and size < PIECE_BYTES and not half and not damaged:
                some = list(islice(iter(partial(stream.readline, self.longest), b""), min(limit - len(lines), TOGETHER)))
                if not some or not all(raw.endswith(b"\n") for raw in some):
                    stream.seek(offset)  # what is unusual is read line by line
                    break
                ends = list(accumulate(map(len, some), initial=offset))
                lines += zip(ends, some, strict=False)
                size, offset = size + ends[-1] - offset, ends[-1]
            while len(lines) < limit and size < PIECE_BYTES and not half and not damaged:
                raw = stream.readline(self.longest)
                length, whole = len(raw), raw.endswith(b"\n") or (final and bool(raw))
                if len(raw) == self.longest and not raw.endswith(b"\n"):
                    skipped, whole = skip_line(stream, final)
                    length += skipped
                half = bool(raw) and not whole
                if not whole:
                    break
                lines.append((offset, raw))
                offset += length
                size += len(raw)
        except DAMAGE as error:
            damaged = f"{type(error).__name__}: {error}"
            self.close()
        finally:
            self._rest()
        ended = len(lines) < limit and size < PIECE_BYTES
        self.at = offset
        return Piece(lines, offset, ended, half, damaged)

    def _read_header(self, final: bool) -> str:
        """Reads the names of the columns; returns what is wrong with them, else an empty text."""
        raw = self._seek(0).readline(self.longest)
        if not raw or not (final or raw.endswith(b"\n") or len(raw) == self.longest):
            return ""
        try:
            names = csv_cells(raw)
        except LineError as error:
            return f"header: {error.detail}"
        if not any(names) or len(raw) == self.longest:
            return "header: expected the names of the columns in the first line"
        self.decode = self.parser.csv_row(column_names(names))
        self.start = len(raw)
        return ""

    def _seek(self, offset: int) -> BinaryIO:
        if self.stream is None:
            self.stream = self._open()
        if self.stream.tell() != offset:
            self.stream.seek(offset)
        return self.stream

    def _rest(self) -> None:
        if not self.compressed:  # cheap to enter again, and what is open may be deleted
            self.close()

    def close(self) -> None:
        """Closes the file; reading opens it again."""
        if self.stream is not None:
            self.stream.close()
        self.stream = None


class TableFile:
    """A Parquet file; raises OSError where it cannot be opened, SourceError where pyarrow is missing."""

    compressed = True

    def __init__(self, path: Path, parser: Parser) -> None:
        self.path, self.decode = path, cast(Decode, parser.table_row)
        with open(path, "rb") as stream:
            self.head = beginning(stream)
        self.arrow: Any = arrow(str(path))
        self.at = 0
        self.rows: Iterator[tuple[int, Mapping[str, object]]] = iter(())
        self.table: Any = None

    def holds(self, place: Place) -> bool:
        """Whether the file begins like the one that was read before."""
        return same(self.head[: place.head_bytes], place.head_bytes, place.head)

    def read(self, offset: int, limit: int, final: bool) -> Piece:
        """At most `limit` rows; a table has its end written in it, so `final` changes nothing."""
        lines: list[tuple[int, Raw]] = []
        damaged = ""
        try:
            if self.table is None or offset != self.at:
                self.rows = self._rows_from(offset)
            lines.extend(islice(self.rows, limit))
        except (self.arrow.ArrowException, OSError, ValueError) as error:
            damaged = f"{type(error).__name__}: {error}"
            self.close()
        self.at = offset + len(lines)
        return Piece(lines, self.at, len(lines) < limit, False, damaged)

    def _rows_from(self, offset: int) -> Iterator[tuple[int, Mapping[str, object]]]:
        if self.table is None:
            self.table = import_module("pyarrow.parquet").ParquetFile(self.path)
        start = 0
        for group in range(self.table.metadata.num_row_groups):
            end = start + self.table.metadata.row_group(group).num_rows
            if end > offset:
                for part in self.table.iter_batches(TABLE_ROWS, row_groups=[group]):
                    if start + part.num_rows > offset:
                        rows = whole_microseconds(self.arrow, part).to_pylist()
                        yield from ((start + n, row) for n, row in enumerate(rows) if start + n >= offset)
                    start += part.num_rows
            start = end

    def close(self) -> None:
        """Closes the file; reading opens it again."""
        if self.table is not None:
            self.table.close()
        self.table = None


class Shelf:
    """Holds the one file that is open. What is costly to enter in the middle stays open while it does not change."""

    def __init__(self, parser: Parser, form: str) -> None:
        self.parser, self.form = parser, form
        self.file: LineFile | TableFile | None = None
        self.mark = Mark("", 0, 0, 0, 0)

    def open(self, path: Path) -> LineFile | TableFile:
        """The file at a path; raises OSError or SourceError."""
        mark = file_mark(path)
        if self.file is None or self.mark != mark or not self.file.compressed:
            self.close()
            form = format_of(path.name, self.form) or "jsonl"
            self.file = TableFile(path, self.parser) if form == "parquet" else LineFile(path, form, self.parser)
            self.mark = mark
        return self.file

    def standing_at(self, place: Place) -> Path | None:
        """The path of the costly file that stands open at a place, if there is one and it did not change."""
        file = self.file
        with contextlib.suppress(OSError):
            if file and file.compressed and place.offset == file.at > 0 and file_mark(file.path) == self.mark:
                return file.path
        return None

    def close(self) -> None:
        """Closes the open file."""
        if self.file is not None:
            self.file.close()
        self.file = None


def place_after(file: LineFile | TableFile, inode: int, place: Place, piece: Piece, count: int) -> Place:
    """Where reading goes on behind the first `count` lines of a piece that began at `place`."""
    offset = piece.after(count)
    head = file.head[: offset if isinstance(file, LineFile) else HEAD_BYTES]
    tail, tail_bytes = place.tail, place.tail_bytes
    if count:
        start, raw = piece.lines[count - 1]
        end = raw[-TAIL_BYTES:] if isinstance(raw, bytes) and start + len(raw) == offset else b""
        tail, tail_bytes = digest(end), len(end)
    elif offset != place.offset:
        tail, tail_bytes = "", 0
    return Place(offset, inode, digest(head), len(head), tail, tail_bytes)


def format_of(name: str, asked: str) -> str | None:
    """The format of a file as asked for, or by its name where that is "auto"; None: the name tells nothing."""
    return FORMATS.get(Path(name.removesuffix(".gz")).suffix) if asked == "auto" else asked


def file_mark(path: Path) -> Mark:
    """The mark of the file that is at a path now; raises OSError."""
    stat = os.stat(path)
    return Mark(str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def beginning(stream: BinaryIO) -> bytes:
    """The first bytes of a file, as many as can be read."""
    head = b""
    with contextlib.suppress(*DAMAGE):
        while len(head) < HEAD_BYTES and (more := cast(io.BufferedReader, stream).read1(HEAD_BYTES - len(head))):
            head += more
    return head


def skip_line(stream: BinaryIO, final: bool) -> tuple[int, bool]:
    """Reads over the rest of a line: bytes skipped, and whether its end was found."""
    skipped = 0
    while raw := stream.readline(1 << 16):
        skipped += len(raw)
        if raw.endswith(b"\n"):
            return skipped, True
    return skipped, final


def column_names(names: list[str]) -> list[str]:
    """The names of a CSV header; a column without one is named by its place."""
    return [name.strip() or f"column{n + 1}" for n, name in enumerate(names)]


def digest(some: bytes) -> str:
    """A short hash; empty for nothing."""
    return blake2b(some, digest_size=8).hexdigest() if some else ""


def same(some: bytes, size: int, hashed: str) -> bool:
    """Whether bytes are those that were hashed."""
    return len(some) == size and digest(some) == hashed


def arrow(where: str) -> Any:
    """pyarrow, imported when it is first needed; raises SourceError where it is not installed."""
    try:
        return import_module("pyarrow")
    except ImportError as error:
        raise SourceError(f"{where}: reading Parquet needs pyarrow, which is not installed: install unlike[parquet]") from error


def whole_microseconds(arrow: Any, part: Any) -> Any:
    """A record batch with its nanosecond times cut to microseconds, all that Python's times can hold."""
    columns = []
    for column in part.columns:
        kind = column.type
        exact = arrow.types.is_timestamp(kind) and kind.unit == "ns"
        columns.append(column.cast(arrow.timestamp("us", kind.tz), safe=False) if exact else column)
    return arrow.RecordBatch.from_arrays(columns, names=part.schema.names)
