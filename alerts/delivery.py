"""The way of alerts out of the outbox: after the commit, at least once, with retries, and an end to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from alerts.sinks import Sink
from detector.errors import DeliveryError, RefusedError
from detector.records import OutboxItem
from detector.settings import AlertSettings

BATCH = 100  # a file on a slow disk waits for it at each alert; the daemon still has to stop within seconds
MOST_DOUBLINGS = 60  # far beyond any retry_at_most, and the power stays a number


class Outbox(Protocol):
    """What delivery needs of a store. The `attempts` of an item is how often `outbox_retry` was called for it."""

    def outbox_due(self, now: float, limit: int, /) -> Sequence[OutboxItem]:
        """At most `limit` items with due ≤ now, the longest due first."""

    def outbox_sent(self, item: int, /) -> None:
        """The sink has it: forget it."""

    def outbox_retry(self, item: int, due: float, error: str, /) -> None:
        """Count one attempt, and hold it back until `due`."""

    def outbox_dead(self, item: int, error: str, /) -> None:
        """Keep it for people; it is not due any more."""


@dataclass(frozen=True)
class DeliveryReport:
    """What one round of delivery did, in items."""

    sent: int = 0
    retried: int = 0
    dead: int = 0
    errors: tuple[str, ...] = ()  # each distinct error once, in order of appearance
    by_sink: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False)  # (outcome, sink) -> items


def deliver(store: Outbox, sinks: Mapping[str, Sink], now: float, settings: AlertSettings, limit: int = BATCH) -> DeliveryReport:
    """Send what is due at `now` (wall clock, seconds), at most `limit` items.

    An item is marked as sent after its sink took it, so a crash in between repeats it. A refused one is tried again after
    `retry_after`, doubled at each attempt up to `retry_at_most`, and becomes a dead letter at attempt `max_attempts`; at once where
    the sink refuses it for good, or no sink of its name is there. Each item is tried on its own: a sink that fails delays only its
    own items.

    Raises StoreError from the store.
    """
    counts: Counter[tuple[str, str]] = Counter()
    errors: dict[str, None] = {}
    for item in store.outbox_due(now, limit):
        error, final = _try(item, sinks, settings.max_attempts)
        if error is None:
            store.outbox_sent(item.id)
            counts["sent", item.sink] += 1
            continue
        errors[error] = None
        if final:
            store.outbox_dead(item.id, error)
            counts["dead", item.sink] += 1
        else:
            store.outbox_retry(item.id, now + backoff(item.attempts, settings), error)
            counts["retried", item.sink] += 1
    sent, retried, dead = (sum(n for (what, _), n in counts.items() if what == outcome) for outcome in ("sent", "retried", "dead"))
    return DeliveryReport(sent, retried, dead, tuple(errors), counts)


def backoff(attempts: int, settings: AlertSettings) -> float:
    """Seconds to wait after a failure that `attempts` failures came before."""
    return min(settings.retry_after * 2.0 ** min(attempts, MOST_DOUBLINGS), settings.retry_at_most)


def _try(item: OutboxItem, sinks: Mapping[str, Sink], max_attempts: int) -> tuple[str | None, bool]:
    """(error or None, whether it is the last word)."""
    sink = sinks.get(item.sink)
    if sink is None:
        return f"message {item.alert_id}: no sink is called {item.sink!r}, expected one of {sorted(sinks)}", True
    try:
        sink.send(item.body)
    except DeliveryError as error:
        return str(error), isinstance(error, RefusedError) or item.attempts + 1 >= max_attempts
    return None, False
