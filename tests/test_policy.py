from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.policy import HIGHEST_THRESHOLD, SEVERITIES, UNKNOWN_THRESHOLD, Policy, alert_id, once, raise_alerts, severity
from detector.records import Verdict

VERDICT = Verdict("ada", "s1", 100.0, 160.0, 5, 4.2, 0.0001, 0.9, 40, "mature", {"device": 5.0, "hour": -0.8}, "pack")
POLICY = Policy(per_day=5, sessions_per_day=5000)
P = st.floats(1e-12, 1)
BELIEF = st.floats(0, 1)
USERS = st.text(st.characters())


@given(P, P, BELIEF, BELIEF, st.floats(1e-6, 0.05))
def test_severity_never_falls_as_p_falls_or_belief_grows(p: float, q: float, b: float, c: float, threshold: float) -> None:
    mild = SEVERITIES.index(severity(max(p, q), min(b, c), threshold))
    grave = SEVERITIES.index(severity(min(p, q), max(b, c), threshold))
    assert mild <= grave


def test_every_severity_is_reached() -> None:
    steps = [severity(p, belief, 0.001) for p, belief in ((0.001, 0.1), (0.0002, 0.1), (0.0002, 0.6), (0.00001, 0.99))]
    assert steps == list(SEVERITIES)


@given(st.floats(0.01, 1000), st.floats(0, 1e7))
def test_the_budget_is_never_overspent_by_calibrated_verdicts(per_day: float, sessions_per_day: float) -> None:
    threshold = Policy(per_day, sessions_per_day).threshold
    assert 0 < threshold <= HIGHEST_THRESHOLD
    if sessions_per_day:
        assert threshold * sessions_per_day <= per_day * (1 + 1e-9)


@pytest.mark.parametrize("unknown", [0.0, -1.0, float("nan"), float("inf")])
def test_an_unknown_number_of_sessions_makes_the_policy_careful(unknown: float) -> None:
    assert Policy(5, unknown).threshold == UNKNOWN_THRESHOLD


def test_a_verdict_at_the_threshold_is_an_alert_and_one_above_is_none() -> None:
    ps = [0.5, 0.0011, 0.001, 0.0001]
    verdicts = [replace(VERDICT, user=f"u{p}", p=p) for p in ps]
    assert [alert.verdict.p for alert in raise_alerts(verdicts, POLICY.threshold, 200.0)] == [0.001, 0.0001]


def test_an_alert_carries_its_verdict_and_an_explanation_that_adds_up() -> None:
    (alert,) = raise_alerts([VERDICT], POLICY.threshold, 200.0, still_open=True)
    assert (alert.verdict, alert.time, alert.open) == (VERDICT, 200.0, True)
    assert alert.summary == "device unusual (+5.0)"
    assert [reason["nats"] for reason in alert.reasons] == [5.0, -0.8]


def test_only_verdicts_that_become_alerts_are_described() -> None:
    asked = []

    def describe(verdict: Verdict) -> dict[str, dict[str, object]]:
        asked.append(verdict.user)
        return {"device": {"seen": [("Nokia", 1)], "last_seen": None}}

    calm = replace(VERDICT, user="bob", p=0.5)
    (alert,) = raise_alerts([calm, VERDICT], POLICY.threshold, 200.0, describe=describe)
    assert asked == ["ada"]
    assert alert.summary == "device never seen before (+5.0)"


def test_stages_are_applied_in_order_to_what_the_stages_before_left() -> None:
    seen = []

    def mute_ada(verdicts):
        seen.append([v.user for v in verdicts])
        return [v for v in verdicts if v.user != "ada"]

    def first(verdicts):
        seen.append([v.user for v in verdicts])
        return verdicts[:1]

    verdicts = [replace(VERDICT, user=user, p=p) for user, p in (("calm", 0.9), ("ada", 1e-5), ("bob", 1e-5), ("eve", 1e-5))]
    assert [a.verdict.user for a in raise_alerts(verdicts, POLICY.threshold, 1.0, stages=[mute_ada, first])] == ["bob"]
    assert seen == [["ada", "bob", "eve"], ["bob", "eve"]]


def test_one_session_gives_one_alert_from_its_first_verdict() -> None:
    again, other = replace(VERDICT, p=1e-6), replace(VERDICT, session="s2")
    assert list(once([VERDICT, other, again])) == [VERDICT, other]


def test_the_id_is_the_same_while_the_session_is_open_and_when_it_has_closed() -> None:
    (early,) = raise_alerts([replace(VERDICT, end=110.0, events=2, score=3.0)], POLICY.threshold, 110.0, still_open=True)
    (late,) = raise_alerts([VERDICT], POLICY.threshold, 900.0)
    assert early.id == late.id


def test_the_id_stays_the_same_between_versions_and_kinds_of_numbers() -> None:
    assert alert_id("ada", None, 100) == alert_id("ada", None, np.float64(100)) == "3cb6625a168bd37f"


@given(st.tuples(USERS, st.none() | USERS, st.floats(0, 4e9)), st.tuples(USERS, st.none() | USERS, st.floats(0, 4e9)))
def test_different_sessions_have_different_ids(a: tuple[str, str | None, float], b: tuple[str, str | None, float]) -> None:
    assert len(alert_id(*a)) == 16
    assert (alert_id(*a) == alert_id(*b)) == (a == b)


def test_an_alert_can_be_written_as_json() -> None:
    (alert,) = raise_alerts([VERDICT], POLICY.threshold, 200.0)
    assert msgspec.json.decode(msgspec.json.encode(alert))["verdict"]["user"] == "ada"
