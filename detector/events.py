"""Lines of a log → `records.Batch`, and a reason for each line that is no event. Pure: bytes and `now` in, values out.

Our fields are `time`, `user`, `action`, `session` and `id`; whatever else an event holds is an attribute under its own name, names
of nested objects joined by dots. What is accepted as time: RFC 3339 text with its zone, or a number (also as text) since 1970,
whose size tells the unit: below 1e11 seconds (the year 5138), below 1e14 milliseconds, else microseconds.

Axes: E events of a batch.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from detector.bulk import flat_objects, moments
from detector.records import Batch, Reject
from detector.settings import EventSettings, SourceSettings

REASONS = frozenset(
    {
        "file_damaged",  # a whole file of a folder
        "invalid_utf8",
        "late",  # given by the engine, which alone knows the newest event
        "line_too_long",
        "nested_too_deep",
        "not_an_object",
        "not_json",
        "nul_byte",
        "number_out_of_range",
        "time_before_1970",
        "time_in_future",
        "time_missing",
        "time_unparsable",
        "time_without_zone",
        "too_many_attributes",
        "user_missing",
        "user_not_text",
        "user_too_long",
        "wrong_columns",
    }
)
OURS = ("time", "user", "action", "session", "id")
LINE_KEPT = 4096  # characters of a refused line: enough to see what it was
LONGEST_TEXT = 256  # of an attribute; habits need identity, not content
LONGEST_NAME = 512  # of a user, a session, an event's id
DEEPEST = 16  # levels of objects and lists
CELLS = 1 << 24  # events times attribute names of a batch, 128 MB: events that share no names must not fill the memory
DEFAULT_ACTION = "event"
TOGETHER = 512  # lines taken at once; where one is unusual, these are taken one by one
ABSENT: tuple[object, ...] = (None, "", [])  # what a constant stands in for
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors put it at the beginning of a file
NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
EPOCH_TEXT = re.compile(r"[+-]?\d{9,17}(\.\d+)?", re.ASCII)
LEAP_SECOND = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d):60(\D.*)", re.ASCII)

Raw = bytes | Mapping[str, object]  # a line, or the row of a columnar file
Decode = Callable[[Any], dict[str, object]]  # raw → the event as a flat dict that the caller may change; raises LineError


class LineError(Exception):
    """A line is no event: its reason and detail. Never leaves this module but through a decoder."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Taken:
    """What became of the first `count` lines; less than all only where the batch would not fit the memory."""

    batch: Batch
    rejects: tuple[Reject, ...]
    count: int


class Parser:
    """Turns the lines of one source into events, by its settings."""

    def __init__(self, source: SourceSettings, events: EventSettings) -> None:
        self.name = source.name or source.path or source.kind
        self.events = events
        self.theirs = tuple(source.fields.get(ours, ours) for ours in OURS)
        self.renamed = tuple((ours, theirs) for ours, theirs in source.fields.items() if ours not in OURS)
        self.consumed = frozenset({*self.theirs, *(theirs for _, theirs in self.renamed)})
        self.fallbacks = tuple(source.constants.get(ours) for ours in OURS)
        self.constants = {ours: value for ours, value in source.constants.items() if ours not in OURS}

    def parse(self, lines: Sequence[tuple[str, bytes]], now: float) -> tuple[Batch, tuple[Reject, ...]]:
        """Events and rejects of (position, JSON line) pairs, blank lines left out; `now`: wall clock, seconds. Never raises."""
        taken = self.take([(self.json_object, lines)], now, cells=None)
        return taken.batch, taken.rejects

    def take(self, groups: Iterable[tuple[Decode, Sequence[tuple[str, Raw]]]], now: float, cells: int | None = CELLS) -> Taken:
        """Events and rejects of groups of (position, raw) pairs, each group with its decoder; stops before `cells` are exceeded."""
        latest = now + self.events.future
        own: tuple[list[Any], ...] = ([], [], [], [], [], [], [], [])
        times, users, actions, sessions, ids, attributes, positions, raws = own
        names: set[str] = set()
        bad_rows: dict[int, LineError] = {}
        count = 0
        parts = ((decode, some[n : n + TOGETHER]) for decode, some in groups for n in range(0, len(some), TOGETHER))
        for decode, lines in parts:
            quick = self.events_of(lines, latest) if decode == self.json_object else None
            if quick and (cells is None or len(names.union(*quick[5])) * (len(raws) + len(lines)) <= cells):
                names.update(*quick[5])
                names -= self.consumed
                for one, more in zip(own, quick, strict=True):
                    one += more
                count += len(lines)
                continue
            for position, raw in lines:
                if cells is not None and len(names) * len(raws) > cells:
                    break
                count += 1
                if type(raw) is bytes and not raw.strip():
                    continue
                try:
                    row = self.event(raw, decode, latest, position)
                except LineError as refused:
                    row, bad_rows[len(raws)] = (0.0, "", None, None, None, {}, position, raw), refused
                for one, value in zip(own, row, strict=True):
                    one.append(value)
                names.update(row[5])
            else:
                continue
            break
        columns = {short(name, LONGEST_TEXT): column(_values(attributes, name), bad_rows) for name in names}
        columns["action"] = actions
        good: np.ndarray | slice = slice(None)
        if bad_rows:
            good = np.ones(len(raws), bool)
            good[list(bad_rows)] = False
        kept = {name: objects(columns[name])[good] for name in sorted(columns)}
        batch = Batch(
            np.array(times, np.float64)[good],
            objects(users)[good],
            objects(sessions)[good],
            {name: values for name, values in kept.items() if name == "action" or any(v is not None for v in values)},
            objects(ids)[good],
            objects(positions)[good],
        )
        return Taken(batch, tuple(self.reject(positions[e], raws[e], bad_rows[e]) for e in sorted(bad_rows)), count)

    def events_of(self, lines: Sequence[tuple[str, Raw]], latest: float) -> tuple[Sequence[Any], ...] | None:
        """The columns of `event`, attributes with our fields among them, where all of the lines are usual; else None."""
        raws = [raw for _, raw in lines if type(raw) is bytes]
        if len(raws) < len(lines) or self.renamed or self.constants or any(self.fallbacks):
            return None
        found = flat_objects(raws, self.events.max_line_bytes)
        if not found or max(map(len, found)) > self.events.max_attributes:
            return None
        times, users, actions, sessions, names = (_values(found, theirs) for theirs in self.theirs)
        if set(map(type, users)) != {str}:
            return None
        if max(map(len, users)) > LONGEST_NAME or any(not user or user.isspace() for user in set(users)):
            return None
        moment = moments(times)
        if moment is None or moment.min() < 0 or moment.max() > latest:
            return None
        named = [_names(actions, LONGEST_TEXT, DEFAULT_ACTION), *(_names(some, LONGEST_NAME, None) for some in (sessions, names))]
        return moment.tolist(), users, *named, found, [position for position, _ in lines], raws

    def event(self, raw: Raw, decode: Decode, latest: float, position: str) -> tuple:
        """(time, user, action, session, id, attributes, position, raw) of one line; raises LineError."""
        if type(raw) is bytes and len(raw.rstrip(b"\r\n")) > self.events.max_line_bytes:
            raise LineError("line_too_long", f"more than events.max_line_bytes = {self.events.max_line_bytes:,} bytes")
        values = decode(raw)
        time, user, action, session, name = map(values.get, self.theirs)
        more = [(ours, values.get(theirs)) for ours, theirs in self.renamed] if self.renamed else ()
        for theirs in self.consumed:
            values.pop(theirs, None)
        for ours, value in more:
            values[ours] = value
        for ours, constant in self.constants.items():
            if values.get(ours) in ABSENT:
                values[ours] = constant
        if any(self.fallbacks):
            given = zip((time, user, action, session, name), self.fallbacks, strict=True)
            time, user, action, session, name = (c if v in ABSENT else v for v, c in given)
        if len(values) > self.events.max_attributes:
            used = sum(v is not None for v in values.values())
            if used > self.events.max_attributes:
                raise LineError(
                    "too_many_attributes", f"{used} attributes, at most events.max_attributes = {self.events.max_attributes}"
                )
        return (
            seconds(time, latest),
            user if type(user) is str and 0 < len(user) <= LONGEST_NAME and not user.isspace() else user_text(user),
            DEFAULT_ACTION if action is None else name_text(action, LONGEST_TEXT) or DEFAULT_ACTION,
            None if session is None else name_text(session, LONGEST_NAME) or None,
            None if name is None else name_text(name, LONGEST_NAME) or None,
            values,
            position,
            raw,
        )

    def json_object(self, raw: bytes) -> dict[str, object]:
        """Decodes a JSON line into a flat dict; raises LineError."""
        try:
            value = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            bare = raw.removeprefix(BYTE_ORDER_MARK)
            if bare is not raw and not bare.startswith(BYTE_ORDER_MARK):
                return self.json_object(bare)
            raise json_fault(raw, error) from error
        if type(value) is not dict:
            raise LineError("not_an_object", f"expected a JSON object, found {shown(value)}")
        if b"\\u0000" in raw and NUL_ESCAPE.search(raw):
            raise LineError("nul_byte", "a text holds a NUL character")
        opened = raw.count(b"{")
        if opened > DEEPEST or opened + raw.count(b"[") > DEEPEST:
            refuse_deep(value)
        return flat(value, self.events.max_attributes + len(self.consumed)) if opened > 1 else value

    def csv_row(self, names: Sequence[str]) -> Decode:
        """The decoder of the rows below a CSV header; values are text, empty ones absent."""

        def decode(raw: bytes) -> dict[str, object]:
            cells = csv_cells(raw)
            if len(cells) != len(names):
                raise LineError("wrong_columns", f"{len(cells)} columns, the header has {len(names)}")
            return {name: cell for name, cell in zip(names, cells, strict=True) if cell}

        return decode

    def table_row(self, row: Mapping[str, object]) -> dict[str, object]:
        """The decoder of the rows of a columnar file."""
        refuse_deep(row)
        if any(type(v) is str and "\0" in v for v in row.values()):
            raise LineError("nul_byte", "a text holds a NUL character")
        return flat(row, self.events.max_attributes + len(self.consumed))

    def reject(self, position: str, raw: Raw, refused: LineError) -> Reject:
        """The quarantine entry of a line."""
        line = raw if isinstance(raw, bytes) else msgspec.json.encode(raw, enc_hook=str)
        return Reject(self.name, position, refused.reason, refused.detail, line_text(line))


_decode = msgspec.json.Decoder().decode


def json_fault(raw: bytes, error: Exception) -> LineError:
    """Why a line that does not decode is refused."""
    if isinstance(error, RecursionError):
        return LineError("nested_too_deep", f"more than {DEEPEST} levels")
    if isinstance(error, UnicodeDecodeError):
        return LineError("invalid_utf8", f"byte {error.object[error.start] if error.object else 0:#04x} inside a text")
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        return LineError("invalid_utf8", f"byte {raw[wrong.start]:#04x} at {wrong.start}")
    if b"\0" in raw:
        return LineError("nul_byte", f"at byte {raw.index(0)}")
    if "out of range" in str(error):
        return LineError("number_out_of_range", "a number does not fit a float")
    return LineError("not_json", str(error)[:200])


def csv_cells(raw: bytes) -> list[str]:
    """The cells of one CSV line, which is one row: line breaks inside quotes are not supported; raises LineError."""
    if b"\0" in raw:
        raise LineError("nul_byte", f"at byte {raw.index(0)}")
    try:
        text = raw.decode("utf-8-sig").rstrip("\r\n")
        return next(csv.reader([text], strict=True), [])
    except UnicodeDecodeError as wrong:
        raise LineError("invalid_utf8", f"byte {raw[wrong.start]:#04x} at {wrong.start}") from wrong
    except csv.Error as error:
        raise LineError("wrong_columns", f"{error}; a row is one line") from error


def flat(value: Mapping[str, object], at_most: int) -> dict[str, object]:
    """One level instead of many, names joined by dots; a name that has its dots already wins. Raises LineError."""
    out: dict[str, object] = {}
    _flatten(value, "", out, at_most)
    return out


def _flatten(value: Mapping[str, object], prefix: str, out: dict[str, object], at_most: int) -> None:
    for name, inner in value.items():
        if isinstance(inner, dict):
            _flatten(inner, short(f"{prefix}{name}", LONGEST_TEXT) + ".", out, at_most)
    for name, inner in value.items():
        if inner is not None and not isinstance(inner, dict):
            out[prefix + name] = inner
    if len(out) > at_most:  # here and not at the end: names repeat their parents', a small line could become large
        raise LineError("too_many_attributes", f"more than {at_most} fields")


def refuse_deep(value: object) -> None:
    """Raises LineError where objects and lists lie in each other more than DEEPEST levels."""
    level: list[object] = [value]
    for _ in range(DEEPEST):
        inside = (inner.values() if isinstance(inner, dict) else inner for inner in level if isinstance(inner, dict | list))
        level = [inner for many in inside for inner in many if isinstance(inner, dict | list)]
    if level:
        raise LineError("nested_too_deep", f"more than {DEEPEST} levels")


def seconds(value: object, latest: float) -> float:
    """Seconds since 1970 from RFC 3339 text, a number or a datetime, at most `latest`; raises LineError."""
    if type(value) is str:
        time = _text_seconds(value)
    elif type(value) is float or type(value) is int:
        time = _epoch_seconds(value)
    elif isinstance(value, datetime):
        time = _moment_seconds(value)
    elif value is None:
        raise LineError("time_missing", "no time")
    else:
        raise LineError("time_unparsable", f"expected RFC 3339 text or a number, found {shown(value)}")
    if not 0 <= time <= latest:
        raise LineError("time_before_1970" if time < 0 else "time_in_future", shown(value))
    return time


def _text_seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _unusual_seconds(text)
    return _unusual_seconds(text) if moment.tzinfo is None else moment.timestamp()


def _unusual_seconds(text: str) -> float:
    """Seconds of text that is no plain time with a zone: digits alone, lower case, a leap second."""
    if not text.strip():
        raise LineError("time_missing", "empty time")
    if EPOCH_TEXT.fullmatch(text):
        return _epoch_seconds(float(text))
    leap = LEAP_SECOND.fullmatch(text)
    try:
        moment = datetime.fromisoformat((f"{leap[1]}:59{leap[2]}" if leap else text).strip().upper())
    except ValueError as error:
        raise LineError("time_unparsable", f"expected RFC 3339 text or a number, found {shown(text)}") from error
    return _moment_seconds(moment) + bool(leap)


def _moment_seconds(moment: datetime) -> float:
    if moment.tzinfo is None:
        raise LineError("time_without_zone", f"expected Z or +hh:mm at the end, found {shown(str(moment))}")
    return moment.timestamp()


def _epoch_seconds(number: float) -> float:
    size = abs(number)
    if size < 1e11:
        return float(number)
    if size < 1e17:
        return number / (1e3 if size < 1e14 else 1e6)
    raise LineError("time_unparsable", f"{shown(number)} is no number of seconds, milliseconds or microseconds since 1970")


def user_text(value: object) -> str:
    """A user's name from non-empty text or a whole number; raises LineError."""
    if type(value) is int:
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise LineError("user_missing", "no user, or an empty one")
    if not isinstance(value, str):
        raise LineError("user_not_text", f"expected text or a whole number, found {shown(value)}")
    if len(value) > LONGEST_NAME:
        raise LineError("user_too_long", f"{len(value):,} characters, at most {LONGEST_NAME}")
    return value


def name_text(value: object, longest: int) -> str:
    """The text of an action, a session or an id, of at most `longest` characters."""
    return short(value if isinstance(value, str) else scalar_text(value), longest)


def _values(objects: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """(E,) what each object has under a name, else None."""
    return [one.get(name) for one in objects]


def _names(values: list[Any], longest: int, default: str | None) -> list[str | None]:
    """(E,) `name_text` of each value, the default where there is none or an empty one."""
    kinds = set(map(type, values))
    if kinds <= {type(None)}:
        return [default] * len(values)
    if kinds == {str} and min(map(len, values)) > 0 and max(map(len, values)) <= longest:
        return values
    return [default if value is None else name_text(value, longest) or default for value in values]


def scalar_text(value: object) -> str:
    """A value as people would write it in a list."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return list_text(value)
    return value.isoformat() if isinstance(value, date | time_of_day) else str(value)


def list_text(values: list[object]) -> str:
    """Scalars joined by commas; a list with anything else in it as compact JSON."""
    if any(isinstance(v, list | dict) for v in values):
        return msgspec.json.encode(values, enc_hook=str).decode()
    return ",".join(map(scalar_text, values))


def attribute(value: object) -> str | float | None:
    """An attribute's value: short text, or a finite number; null and the empty list are absent. Raises LineError."""
    if isinstance(value, str):
        return short(value, LONGEST_TEXT)
    if value is None or value == []:
        return None
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise LineError("number_out_of_range", f"{shown(value)} does not fit a float")
        return number
    return short(scalar_text(value), LONGEST_TEXT)


def column(values: list, bad_rows: dict[int, LineError]) -> list:
    """(E,) values of one attribute; a row whose value is refused is added to `bad_rows`."""
    kinds = set(map(type, values))
    if kinds <= {str, type(None)} and max(map(len, filter(None, values)), default=0) <= LONGEST_TEXT:
        return values
    if kinds <= {float, type(None)} and all(map(math.isfinite, filter(None, values))):
        return values
    out: list[str | float | None] = []
    for row, value in enumerate(values):
        try:
            out.append(attribute(value))
        except LineError as refused:
            bad_rows.setdefault(row, refused)
            out.append(None)
    return out


def short(text: str, longest: int) -> str:
    """Text of at most `longest` characters; what was longer ends in a hash of the whole, so that different texts stay different."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 17]}~{blake2b(text.encode(), digest_size=8).hexdigest()}"


def shown(value: object) -> str:
    """A found value for a message, not all of it where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def line_text(raw: bytes) -> str:
    """The beginning of a refused line, with what is no text escaped."""
    return raw[:LINE_KEPT].rstrip(b"\r\n").decode("utf-8", "backslashreplace").replace("\0", "\\x00")[:LINE_KEPT]


def objects(values: Sequence[object]) -> np.ndarray:
    """(E,) object array of the values as they are."""
    out = np.empty(len(values), object)
    out[:] = values
    return out
