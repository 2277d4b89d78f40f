"""Verdicts and alerts as lines of JSON: one place, so that files, the store and the outbox agree. Times are RFC 3339 in UTC."""

from __future__ import annotations

from dataclasses import fields
from datetime import date, datetime
from functools import lru_cache
from typing import Any

import msgspec

from detector.records import Alert, Verdict

EPOCH = date(1970, 1, 1).toordinal()


def rfc3339(seconds: float) -> str:
    """Text of a time in seconds since 1970, UTC: whole seconds, or milliseconds where there are any."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    day, second = divmod(whole, 86400)
    text = f"{_date(day)}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    return f"{text}.{thousandths:03d}Z" if thousandths else f"{text}Z"


@lru_cache(1024)
def _date(day: int) -> str:
    """Text of the day since 1970."""
    return date.fromordinal(EPOCH + day).isoformat()


def seconds(text: str) -> float:
    """The inverse of `rfc3339`; also takes any ISO 8601 time with a zone. Raises ValueError."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"expected a time with its zone, such as 2026-01-31T08:00:00Z, got {text!r}")
    return moment.timestamp()


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a JSON-able mapping, keys in the order of the record."""
    return {**vars(verdict), "start": rfc3339(verdict.start), "end": rfc3339(verdict.end)}


def verdict_line(verdict: Verdict) -> bytes:
    """One line of JSON without its line feed."""
    return msgspec.json.encode(verdict_dict(verdict))


def alert_line(alert: Alert) -> bytes:
    """One alert as a line of JSON without its line feed; the verdict is nested."""
    out = {f.name: getattr(alert, f.name) for f in fields(alert)}
    return msgspec.json.encode(out | {"time": rfc3339(alert.time), "verdict": verdict_dict(alert.verdict)})
