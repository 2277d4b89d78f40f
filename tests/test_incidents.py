"""Incidents: one per account and spell of trouble, with an exact count; what is held back is counted; stakes raise priority."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.impact import Stake, Stakes, longest, stake
from alerts.incidents import Alarm, Grouped, digest, group, message, opened, why_linked
from alerts.policy import SEVERITIES
from detector.casework import Others
from detector.errors import SettingsError
from detector.pack import Pack
from detector.records import Alert, Incident, Verdict
from detector.settings import load
from detector.stores import SqliteStore
from tests.desks import THEFT, later, lived
from tests.logs import DAY, batch_of, rows_of_people, stolen

WEEK = 7 * DAY
VERDICT = Verdict("ada", None, 0.0, 60.0, 9, 12.0, 1e-4, 0.9, 40, "mature", {"device": 12.0}, "pack-1")


def alarm(time: float, user: str = "ada", severity: str = "low", p: float = 1e-3) -> Alarm:
    verdict = replace(VERDICT, user=user, start=time - 60, end=time, p=p)
    alert = Alert(f"{user}{time}", time, severity, verdict, False, "strange", ())
    return Alarm(alert, Stake(), (), b"")


def grouped(*alarms: Alarm, before: Grouped | None = None, muted: bool = False) -> Grouped:
    latest = {} if before is None else {user: before.incidents[id_] for user, id_ in before.newest.items()}
    return group(alarms, latest.get, lambda user, time: muted, DAY, WEEK, Others([], "pack-1"))


def only(found: Grouped) -> Incident:
    (incident,) = found.incidents.values()
    return incident


def test_ten_thousand_alarming_sessions_are_one_incident_with_an_exact_count_and_few_are_kept_in_full() -> None:
    first = grouped(*(alarm(60.0 * n) for n in range(5_000)))
    whole = grouped(*(alarm(60.0 * n) for n in range(5_000, 10_000)), before=first)
    assert only(whole).sessions == 10_000
    assert len(first.members) + len(whole.members) == 10_000
    assert len(first.alerts) + len(whole.alerts) == 20
    assert [kind for _, _, kind in first.messages] == ["opened"]
    assert whole.messages == []
    assert sum(first.held.values()) + sum(whole.held.values()) == 9_999


def test_severity_and_priority_only_rise_and_a_rise_is_told() -> None:
    found = grouped(alarm(0, severity="medium"), alarm(1, severity="low", p=0.01), alarm(2, severity="critical", p=1e-6))
    incident = only(found)
    assert (incident.severity, incident.priority, incident.p) == ("critical", 6.0, 1e-6)
    assert [kind for _, _, kind in found.messages] == ["opened", "raised"]
    assert [id_ for id_, _, _ in found.messages] == [f"{incident.id}-1", f"{incident.id}-2"]
    after = only(grouped(alarm(3, severity="low"), before=found))
    assert (after.severity, after.priority, after.sessions) == ("critical", 6.0, 4)


@given(st.lists(st.tuples(st.sampled_from(SEVERITIES), st.floats(1e-9, 0.05)), min_size=1, max_size=20))
def test_whatever_comes_the_count_is_exact_and_nothing_falls(many: list[tuple[str, float]]) -> None:
    found: Grouped | None = None
    for n, (severity, p) in enumerate(many):
        before = found
        found = grouped(alarm(float(n), severity=severity, p=p), before=found)
        now = only(found)
        assert now.sessions == n + 1
        if before is not None:
            assert SEVERITIES.index(now.severity) >= SEVERITIES.index(only(before).severity)
            assert now.priority >= only(before).priority
    assert found is not None
    assert only(found).p == min(p for _, p in many)


def test_after_an_answer_alarms_are_only_counted_until_the_cool_down_is_over() -> None:
    first = grouped(alarm(0))
    incident = msgspec.structs.replace(only(first), state="dismissed", closed=100.0)
    closed = Grouped({incident.id: incident}, {"ada": incident.id})
    cooling = grouped(alarm(100 + DAY - 1), before=closed)
    assert (cooling.incidents, dict(cooling.held)) == ({}, {("1970-01-02", "cooling"): 1})
    again = grouped(alarm(100 + DAY), before=closed)
    assert only(again).id != incident.id


def test_an_incident_expires_without_a_further_alarm_and_the_next_one_opens_another() -> None:
    first = grouped(alarm(0))
    later_ = grouped(alarm(WEEK + 1), before=first)
    old, new = later_.incidents[only(first).id], later_.incidents[later_.newest["ada"]]
    assert (old.state, old.closed, new.state, new.sessions) == ("expired", WEEK, "open", 1)
    assert [kind for _, _, kind in later_.messages] == ["closed", "opened"]


def test_a_muted_account_opens_nothing() -> None:
    found = grouped(alarm(0), alarm(1), muted=True)
    assert (found.incidents, found.messages, dict(found.held)) == ({}, [], {("1970-01-01", "muted"): 2})


def test_a_message_says_what_receivers_need_and_nothing_of_other_accounts() -> None:
    incident = only(grouped(alarm(0)))
    id_, body = message(incident, "opened", 5.0, "https://review.example/")
    told = msgspec.json.decode(body)
    assert (told["message"], told["kind"], told["user"]) == (id_, "opened", "ada")
    assert told["url"] == f"https://review.example/incidents/{incident.id}"
    assert message(incident, "opened", 5.0, "")[1].count(b'"url":""') == 1


def test_incidents_of_different_accounts_are_linked_by_rare_values_or_likeness() -> None:
    one = msgspec.structs.replace(opened(alarm(0)), marks=("device=tor",), embedding=b"x")
    other = msgspec.structs.replace(opened(alarm(0, user="bob")), marks=("device=tor", "page=p1"), embedding=b"y")
    assert why_linked(one, other, lambda a, b: 0.95, 0.9) == ["device=tor", "like (0.95)"]
    assert why_linked(one, other, lambda a, b: 0.5, 0.9) == ["device=tor"]
    assert why_linked(one, msgspec.structs.replace(other, marks=()), lambda a, b: 0.5, 0.9) == []
    assert why_linked(one, one, lambda a, b: 1.0, 0.9) == []
    one_cycle = grouped(
        *(
            replace(alarm(60.0 * n, user=u), marks=m)
            for n, (u, m) in enumerate([("ada", ("x",)), ("bob", ("x", "y")), ("cy", ("y",))])
        )
    )
    ada, bob, cy = (one_cycle.incidents[one_cycle.newest[u]] for u in ("ada", "bob", "cy"))
    assert (ada.linked, bob.linked, cy.linked) == ((), (ada.id,), (bob.id,))
    elsewhere = msgspec.structs.replace(other, marks=(), verdict={"pack": "another"})
    assert why_linked(one, elsewhere, lambda a, b: 1.0, 0.9) == []


def test_the_digest_tells_a_day() -> None:
    found = only(grouped(alarm(DAY + 5)))
    told = digest([found], {"muted": 3}, "1970-01-02", {"confirm": 1})
    assert (told["opened"], told["closed"], told["held_back"]["muted"], told["held_back"]["grouped"]) == (1, 0, 3, 0)
    assert digest([found], {}, "1970-01-01", {})["opened"] == 0


STAKES = Stakes(
    {"root": 3.0},
    {("role", "admin"): 5.0, ("role", "guest"): 0.5},
    {"export": 2.0},
    (frozenset({"password"}), frozenset({"recovery"}), frozenset({"payee"}), frozenset({"export"})),
)


@pytest.mark.parametrize(
    ("user", "events", "weight", "rules"),
    [
        ("ann", [], 1.0, ()),
        ("root", [], 3.0, ("account",)),
        ("ann", [{"action": "x", "role": "guest"}, {"action": "x", "role": "admin"}], 5.0, ("value:role=admin",)),
        ("root", [{"action": "export", "role": "admin"}], 30.0, ("account", "value:role=admin", "sensitive:export")),
        ("ann", [{"action": a} for a in ("password", "view", "payee", "export")], 8.0, ("sensitive:export", "chain:3")),
        ("ann", [{"action": a} for a in ("payee", "recovery", "password")], 1.0, ()),  # out of order
    ],
)
def test_what_is_at_stake_multiplies_the_priority(
    user: str, events: list[dict[str, object]], weight: float, rules: tuple[str, ...]
) -> None:
    assert stake(user, events, STAKES) == Stake(weight, rules)


@given(st.lists(st.integers(0, 5), max_size=9))
def test_the_longest_rising_run_is_the_longest(numbers: list[int]) -> None:
    subsets = ([n for k, n in enumerate(numbers) if chosen >> k & 1] for chosen in range(1 << len(numbers)))
    assert longest(numbers) == max(len(s) for s in subsets if s == sorted(set(s)))


def test_a_chain_of_actions_in_the_log_raises_the_priority_of_its_incident(trained: Pack, tmp_path: Path) -> None:
    (tmp_path / "vip").write_text("u03\n\n")
    chain = {"chain": [["view"], ["edit"], ["pay"]], "lists": {str(tmp_path / "vip"): 2.0}}
    settings = msgspec.convert({"alerts": {"per_day": 3.0}, "impact": chain}, type(load(environment={})), strict=False)
    plain = {i.user: i for i in lived(later(), trained).store.incidents()}
    raised = {i.user: i for i in lived(later(), trained, settings=settings).store.incidents()}
    assert "account" in raised["u03"].rules
    assert any(rule.startswith("chain:") for i in raised.values() for rule in i.rules)
    assert raised["u03"].priority >= 2 * plain["u03"].priority - 0.002
    with pytest.raises(SettingsError, match="an account a line"):
        settings.impact.read("absent")


def test_two_takeovers_from_one_new_device_are_linked_in_the_queue(trained: Pack) -> None:
    rows = [r | {"time": float(str(r["time"])) + 40 * DAY} for r in rows_of_people(14, 10)]
    for victim, thief, when in (("u03", "u08", THEFT), ("u05", "u11", THEFT + 2 * DAY)):
        rows += [r | {"device": "tor"} for r in stolen(rows, victim, thief, when)]
    engine = lived(batch_of(sorted(rows, key=lambda r: float(str(r["time"])))), trained)
    by_user = {i.user: i for i in engine.store.incidents() if "device=tor" in i.marks}
    assert set(by_user) == {"u03", "u05"}
    assert by_user["u05"].linked == (by_user["u03"].id,)


def test_incidents_and_their_counts_go_on_after_a_restart_as_if_there_had_been_none(trained: Pack, tmp_path: Path) -> None:
    whole = lived(later(), trained)
    for until in (THEFT + 100, THEFT + 3 * DAY, np.inf):
        store = SqliteStore(tmp_path)
        lived(later(), trained, until=until, store=store)
        store.close()
    store = SqliteStore(tmp_path)
    assert store.incidents() == whole.store.incidents()
    assert [store.members(i.id) for i in store.incidents()] == [whole.store.members(i.id) for i in whole.store.incidents()]
    assert all(i.sessions == len(store.members(i.id)) for i in store.incidents())
    store.close()
