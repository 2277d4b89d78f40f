from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from statistics import median

import pytest

from detector.errors import SettingsError
from detector.residents import ARCHETYPES
from detector.town import KINDS, Takeover, Town, simulate

WEEK = 7 * 86400.0
ALWAYS = {"time", "user", "action", "id", "device", "browser", "network", "country"}
SHAPES = {"device": r"dev-[0-9a-f]{6}", "network": r"10\.\d+\.\d+\.0/24", "resource": r"/(docs|items|payees|api)/[0-9a-f]{3}"}


@pytest.fixture(scope="module")
def town() -> Town:
    return simulate(seed=1)


def at(event: dict) -> float:
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()


def foreign(town: Town, *kinds: str) -> set[str]:
    return {i for takeover in town.takeovers for i in takeover.event_ids if not kinds or takeover.kind in kinds}


def own(town: Town, takeover: Takeover) -> list[dict]:
    return [e for e in town.events if e["user"] == takeover.user and e["id"] not in set(takeover.event_ids)]


def stolen(town: Town, takeover: Takeover) -> list[dict]:
    ids = set(takeover.event_ids)
    return [e for e in town.events if e["id"] in ids]


def test_the_same_seed_gives_the_same_town_and_another_seed_another() -> None:
    assert simulate(3, accounts=60, weeks=6) == simulate(3, accounts=60, weeks=6)
    assert simulate(3, accounts=60, weeks=6).events != simulate(4, accounts=60, weeks=6).events


def test_the_default_town_is_large_enough_to_learn_from_and_small_enough_for_a_demo(town: Town) -> None:
    assert len({e["user"] for e in town.events}) == len(town.accounts) >= 200
    assert at(town.events[-1]) - at(town.events[0]) > 7.5 * WEEK
    assert 100_000 < len(town.events) < 200_000


def test_every_archetype_lives_in_town(town: Town) -> None:
    assert set(town.accounts.values()) == set(ARCHETYPES)
    assert sum(archetype.share for archetype in ARCHETYPES.values()) == pytest.approx(1)


def test_there_are_five_takeovers_of_each_kind_on_as_many_accounts(town: Town) -> None:
    assert Counter(takeover.kind for takeover in town.takeovers) == dict.fromkeys(KINDS, 5)
    assert len({takeover.user for takeover in town.takeovers}) == len(town.takeovers)


def test_takeovers_hit_old_young_and_dormant_accounts(town: Town) -> None:
    assert {"office", "shopper", "new", "dormant", "api"} <= {town.accounts[takeover.user] for takeover in town.takeovers}


def test_nobody_is_taken_over_while_the_town_is_being_learnt(town: Town) -> None:
    assert min(takeover.start for takeover in town.takeovers) >= town.learn_until
    assert at(town.events[-1]) - town.learn_until == pytest.approx(3 * WEEK, abs=86400)


def test_events_are_sorted_and_their_ids_unique(town: Town) -> None:
    assert all(a["time"] <= b["time"] for a, b in pairwise(town.events))
    assert len({e["id"] for e in town.events}) == len(town.events)


def test_a_takeover_spans_exactly_its_own_events(town: Town) -> None:
    by_id = {e["id"]: e for e in town.events}
    for takeover in town.takeovers:
        events = [by_id[i] for i in takeover.event_ids]
        assert {e["user"] for e in events} == {takeover.user}
        assert at(events[0]) == pytest.approx(takeover.start, abs=0.002)
        assert at(events[-1]) == pytest.approx(takeover.end, abs=0.002)


def test_events_survive_json_and_have_the_same_shape_whoever_made_them(town: Town) -> None:
    assert json.loads(json.dumps(town.events[:1000])) == town.events[:1000]
    optional = defaultdict(set)
    for event in town.events:
        optional[event["action"]].add(frozenset(event) - ALWAYS)
        assert event.keys() >= ALWAYS
        assert all(re.fullmatch(shape, event[name]) for name, shape in SHAPES.items() if name in event)
        assert event.get("amount", 1) >= 0
        assert event.get("bytes", 1) >= 0
    assert all(len(shapes) == 1 for shapes in optional.values())


@pytest.mark.parametrize("name", ["action", "browser", "country"])
def test_what_thieves_do_and_use_honest_people_do_and_use_too(town: Town, name: str) -> None:
    thieves = foreign(town)
    assert {e[name] for e in town.events if e["id"] in thieves} <= {e[name] for e in town.events if e["id"] not in thieves}


def test_a_network_or_a_device_first_seen_late_is_mostly_honest(town: Town) -> None:
    thieves = foreign(town)
    for name in ("network", "device"):
        first: dict[str, dict] = {}
        for event in town.events:
            first.setdefault(event[name], event)
        late = [e["id"] in thieves for e in first.values() if at(e) > town.learn_until]
        assert 0 < sum(late) < len(late) / 2


def test_honest_accounts_drift_to_new_devices_networks_and_countries(town: Town) -> None:
    victims, used = {takeover.user for takeover in town.takeovers}, defaultdict(list)
    for event in town.events:
        if event["user"] not in victims and town.accounts[event["user"]] != "new":
            used[event["user"]].append(event)
    for name, least in (("device", 0.06), ("network", 0.15), ("country", 0.08)):
        drifted = 0
        for events in used.values():
            before = {e[name] for e in events if at(e) < town.learn_until}
            later = Counter(e[name] for e in events if at(e) >= town.learn_until)
            drifted += any(count >= 20 and value not in before for value, count in later.items())
        assert drifted / len(used) > least


def test_households_and_companies_share_networks(town: Town) -> None:
    users = defaultdict(set)
    for event in town.events:
        users[event["network"]].add(event["user"])
    sizes = Counter(len(u) for u in users.values())
    assert sizes[2] > 10
    assert max(sizes) > 10


def test_new_accounts_also_appear_after_the_learning(town: Town) -> None:
    first: dict[str, float] = {}
    for event in town.events:
        first.setdefault(event["user"], at(event))
    arrivals = [time for user, time in first.items() if town.accounts[user] == "new"]
    assert min(arrivals) > at(town.events[0]) + WEEK
    assert max(arrivals) > town.learn_until


def test_a_dormant_account_is_silent_for_two_weeks_before_it_is_revived(town: Town) -> None:
    for takeover in town.takeovers:
        if takeover.kind == "dormant_revival":
            assert max(at(e) for e in own(town, takeover)) < takeover.start - 13 * 86400


@pytest.mark.parametrize("kind", ["insider", "cash_out"])
def test_an_insider_and_a_copied_device_show_a_device_of_the_owner(town: Town, kind: str) -> None:
    for takeover in (t for t in town.takeovers if t.kind == kind):
        known = {e["device"] for e in own(town, takeover)}
        assert {e["device"] for e in stolen(town, takeover)} <= known


@pytest.mark.parametrize("kind", ["credential_theft", "session_hijack", "api_token_theft", "dormant_revival"])
def test_other_thieves_bring_a_device_of_their_own(town: Town, kind: str) -> None:
    for takeover in (t for t in town.takeovers if t.kind == kind):
        known = {e["device"] for e in own(town, takeover)}
        assert not {e["device"] for e in stolen(town, takeover)} & known


def test_a_hijack_goes_on_within_the_owners_visit(town: Town) -> None:
    for takeover in (t for t in town.takeovers if t.kind == "session_hijack"):
        before = max(at(e) for e in own(town, takeover) if at(e) <= takeover.start)
        assert takeover.start - before < 3600
        assert stolen(town, takeover)[0]["action"] != "login"


def test_cashing_out_moves_larger_sums_than_the_owner_does(town: Town) -> None:
    amounts = [e["amount"] for t in town.takeovers if t.kind == "cash_out" for e in stolen(town, t) if "amount" in e]
    assert len(amounts) > 20
    assert median(amounts) > 3 * median(e["amount"] for e in town.events if "amount" in e)


def test_a_burst_is_fast_and_long(town: Town) -> None:
    for takeover in (t for t in town.takeovers if t.kind == "burst"):
        times = [at(e) for e in stolen(town, takeover)]
        assert len(times) > 50
        assert median(b - a for a, b in pairwise(times)) < 10


def test_too_small_a_town_is_refused() -> None:
    with pytest.raises(SettingsError, match="10 accounts over 8 weeks, expected at least 50 over 5"):
        simulate(1, accounts=10)
