"""Many lines at once, for the usual case: flat JSON objects, one a line, and times of one form. What is unusual gives None.

Whoever calls it then takes the lines one by one, which tells what is wrong with which.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

_decode = msgspec.json.Decoder(dict[str, Any]).decode_lines
POWERS = 10 ** np.arange(6, -1, -1)
DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])
DAYS_IN = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
MARKS = ((4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":"))
PARTS = ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))  # year, month, day, hour, minute, second
LONGEST = 40  # characters of a time


def flat_objects(lines: Sequence[bytes], longest: int) -> list[dict[str, Any]] | None:
    """(E) objects of lines that are each a flat JSON object of at most `longest` bytes, without lists and NUL characters; or None.

    Since each line begins with a brace and ends with one, and no object holds another, no value can go over the end of a line.
    """
    blob = b"\n".join([line.rstrip(b"\r\n") for line in lines])
    size = len(lines)
    plain = blob.startswith(b"{") and blob.endswith(b"}") and blob.count(b"}\n{") == size - 1 == blob.count(b"\n")
    if not plain or blob.count(b"{") != size or b"[" in blob or b"\\u0000" in blob or max(map(len, lines)) > longest:
        return None
    try:
        found = _decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if len(found) == size else None


def moments(times: Sequence[Any]) -> np.ndarray | None:
    """(E,) seconds since 1970 of numbers of seconds, or of RFC 3339 texts of one form; or None."""
    kinds = set(map(type, times))
    if kinds == {str}:
        return _text_moments(times)
    if not kinds <= {int, float}:
        return None
    if max(times) >= 1e11 or min(times) <= -1e11:  # another unit, or none
        return None
    return np.array(times, float)


def _text_moments(texts: Sequence[str]) -> np.ndarray | None:
    """(E,) seconds of texts such as 2026-01-31T08:00:00.123Z, to the microsecond; or None."""
    length = len(texts[0])
    joined = "".join(texts)
    if not 20 <= length <= LONGEST or len(joined) != length * len(texts) or not joined.isascii():
        return None
    letters = np.frombuffer(joined.encode(), np.uint8).reshape(len(texts), length)
    zone = length - 1 if texts[0][-1] == "Z" else length - 6
    try:
        offset = datetime.fromisoformat(texts[0]).utcoffset()
    except ValueError:
        return None
    numbers = letters.astype(np.int64) - ord("0")
    fraction = range(20, zone)
    digits = numbers[:, [*(c for low, high in PARTS for c in range(low, high)), *fraction]]
    fixed = offset is not None and all((letters[:, at] == ord(mark)).all() for at, mark in MARKS)
    fixed &= zone == 19 or (21 <= zone <= 26 and bool((letters[:, 19] == ord(".")).all()))
    if offset is None or not fixed or not (letters[:, zone:] == letters[0, zone:]).all() or ((digits < 0) | (digits > 9)).any():
        return None
    year, month, day, hour, minute, second = (numbers[:, low:high] @ POWERS[7 - (high - low) :] for low, high in PARTS)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    month = month - 1
    if ((month < 0) | (month > 11) | (hour > 23) | (minute > 59) | (second > 59) | (year < 1) | (day < 1)).any():
        return None
    if (day > DAYS_IN[month] + (leap & (month == 1))).any():
        return None
    past = year - 1
    days = past * 365 + past // 4 - past // 100 + past // 400 + DAYS_BEFORE[month] + (leap & (month > 1)) + day - 1 - 719_162
    micros = numbers[:, list(fraction)] @ POWERS[1 : zone - 19] if zone > 19 else np.zeros(len(texts), np.int64)
    whole = ((days * 24 + hour) * 60 + minute) * 60 + second - int(offset.total_seconds())
    return np.asarray((whole * 1_000_000 + micros) / 1e6)
