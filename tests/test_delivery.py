from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.delivery import DeliveryReport, backoff, deliver
from alerts.sinks import MemorySink
from detector.errors import DeliveryError, StoreError
from detector.records import OutboxItem
from detector.settings import AlertSettings, Duration

SETTINGS = AlertSettings(max_attempts=4, retry_after=Duration(2), retry_at_most=Duration(5))


@dataclass
class MemoryOutbox:
    """The outbox of a store, alone. `crash` makes the next mark fail, as when the process dies after a send."""

    items: dict[int, OutboxItem] = field(default_factory=dict)
    dead: dict[int, str] = field(default_factory=dict)
    crash: bool = False

    def outbox_due(self, now: float, limit: int) -> list[OutboxItem]:
        return sorted((i for i in self.items.values() if i.due <= now), key=lambda i: (i.due, i.id))[:limit]

    def outbox_sent(self, item: int) -> None:
        if self.crash:
            self.crash = False
            raise StoreError("state: told to fail")
        del self.items[item]

    def outbox_retry(self, item: int, due: float, error: str) -> None:
        self.items[item] = replace(self.items[item], due=due, attempts=self.items[item].attempts + 1)

    def outbox_dead(self, item: int, error: str) -> None:
        del self.items[item]
        self.dead[item] = error


def filled(*sinks: str, count: int = 1) -> MemoryOutbox:
    names = [(n, sink) for n in range(count) for sink in sinks]
    return MemoryOutbox({i: OutboxItem(i, f"alert{n}", sink, str(n).encode(), 0, 0.0) for i, (n, sink) in enumerate(names)})


def test_what_a_sink_took_is_not_sent_again() -> None:
    outbox, sink = filled("a", count=3), MemorySink()
    assert deliver(outbox, {"a": sink}, 0.0, SETTINGS) == DeliveryReport(sent=3)
    assert deliver(outbox, {"a": sink}, 1.0, SETTINGS) == DeliveryReport()
    assert sink.bodies == [b"0", b"1", b"2"]


def test_what_is_not_due_is_left_alone() -> None:
    outbox = filled("a")
    outbox.outbox_retry(0, 10.0, "")
    assert deliver(outbox, {"a": MemorySink()}, 9.9, SETTINGS) == DeliveryReport()
    assert deliver(outbox, {"a": MemorySink()}, 10.0, SETTINGS) == DeliveryReport(sent=1)


def test_a_crash_between_the_send_and_its_mark_repeats_the_alert() -> None:
    outbox, sink = filled("a"), MemorySink()
    outbox.crash = True
    with pytest.raises(StoreError):
        deliver(outbox, {"a": sink}, 0.0, SETTINGS)
    deliver(outbox, {"a": sink}, 0.0, SETTINGS)
    assert sink.bodies == [b"0", b"0"]


def test_waits_double_up_to_the_longest_and_then_the_letter_is_dead() -> None:
    outbox, sinks = filled("a"), {"a": MemorySink("a", failures=1.0)}
    dues, now = [], 100.0
    while outbox.items:
        report = deliver(outbox, sinks, now, SETTINGS)
        assert report.errors == ("a: told to fail; will be tried again",)
        dues += [item.due - now for item in outbox.items.values()]
        now = max((item.due for item in outbox.items.values()), default=now)
    assert dues == [2.0, 4.0, 5.0]
    assert report == DeliveryReport(dead=1, errors=report.errors)
    assert outbox.dead == {0: "a: told to fail; will be tried again"}


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_later_wait_is_never_shorter_and_always_bounded(few: int, more: int) -> None:
    settings = AlertSettings()
    assert settings.retry_after <= backoff(min(few, more), settings) <= backoff(max(few, more), settings) <= settings.retry_at_most


def test_an_alert_for_a_sink_that_is_gone_is_a_dead_letter_that_says_so() -> None:
    outbox = filled("gone", "a")
    report = deliver(outbox, {"a": MemorySink()}, 0.0, SETTINGS)
    assert (report.sent, report.dead) == (1, 1)
    assert outbox.dead == {0: "message alert0: no sink is called 'gone', expected one of ['a']"}


def test_a_failing_sink_does_not_hold_up_the_other() -> None:
    outbox, good = filled("bad", "good", count=10), MemorySink()
    sinks = {"bad": MemorySink(failures=1.0), "good": good}
    assert deliver(outbox, sinks, 0.0, SETTINGS).sent == 10
    assert len(good.bodies) == 10


def test_a_failing_sink_with_more_than_a_round_holds_the_other_up_only_until_its_own_wait() -> None:
    outbox, good = filled("bad", count=50), MemorySink()
    outbox.items[99] = OutboxItem(99, "alert99", "good", b"99", 0, 0.0)
    sinks = {"bad": MemorySink(failures=1.0), "good": good}
    for _ in range(6):
        deliver(outbox, sinks, 0.0, SETTINGS, limit=10)
    assert good.bodies == [b"99"]


def test_a_round_sends_no_more_than_its_limit() -> None:
    assert deliver(filled("a", count=9), {"a": MemorySink()}, 0.0, SETTINGS, limit=4).sent == 4


def test_errors_that_are_not_the_sinks_are_not_hidden() -> None:
    class Broken:
        name = "broken"

        def send(self, body: bytes) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        deliver(filled("broken"), {"broken": Broken()}, 0.0, SETTINGS)


@given(seed=st.integers(0, 1000))
def test_under_any_faults_every_alert_arrives_at_least_once_or_is_a_dead_letter(seed: int) -> None:
    rng = Random(seed)
    outbox, sinks = filled("a", "b", count=8), {name: MemorySink(name, rng, failures=0.4) for name in ("a", "b")}
    expected, now = {(i.sink, i.body): i.id for i in outbox.items.values()}, 0.0
    while outbox.items:
        outbox.crash = rng.random() < 0.2
        try:
            deliver(outbox, sinks, now, SETTINGS, limit=3)
        except StoreError:
            now -= 1.0  # the daemon starts again; clocks may even step back
        now += 1.0
    for (sink, body), item in expected.items():
        assert body in sinks[sink].bodies or item in outbox.dead


def test_delivery_errors_are_of_the_tree_of_errors() -> None:
    with pytest.raises(DeliveryError):
        MemorySink(failures=1.0).send(b"")
