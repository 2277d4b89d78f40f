"""Verdicts and alerts as lines of JSON: one place, so that files, the store and the outbox agree. Times are RFC 3339 in UTC."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import msgspec

from detector.records import Alert, Verdict

TIMES = ("start", "end")
VERDICT = tuple(f.name for f in fields(Verdict))


def rfc3339(seconds: float) -> str:
    """Text of a time in seconds since 1970, UTC: whole seconds, or milliseconds where there are any."""
    whole = round(seconds * 1000) / 1000
    return datetime.fromtimestamp(whole, UTC).isoformat(timespec="seconds" if whole == int(whole) else "milliseconds")[:-6] + "Z"


def seconds(text: str) -> float:
    """The inverse of `rfc3339`; also takes any ISO 8601 time with a zone. Raises ValueError."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"expected a time with its zone, such as 2026-01-31T08:00:00Z, got {text!r}")
    return moment.timestamp()


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a JSON-able mapping, keys in the order of the record."""
    out: dict[str, Any] = {name: getattr(verdict, name) for name in VERDICT}
    for name in TIMES:
        out[name] = rfc3339(out[name])
    return out


def verdict_line(verdict: Verdict) -> bytes:
    """One line of JSON without its line feed."""
    return msgspec.json.encode(verdict_dict(verdict))


def alert_line(alert: Alert) -> bytes:
    """One alert as a line of JSON without its line feed; the verdict is nested."""
    out = {f.name: getattr(alert, f.name) for f in fields(alert)}
    return msgspec.json.encode(out | {"time": rfc3339(alert.time), "verdict": verdict_dict(alert.verdict)})
