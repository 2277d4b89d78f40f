"""What is counted and measured of events."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.facets import (
    Facets,
    as_sessions,
    counters,
    discover,
    key_of,
    observe,
    parent,
    steadiness,
    unchanging,
)
from detector.sessions import Sessions, assign, combine, empty, with_volume
from tests.logs import batch_of

GAP = 1800.0


def sessions_of(rows: list[dict[str, object]], facets: Facets) -> Sessions:
    batch, nothing = batch_of(rows), empty(len(facets.number))
    a = assign(batch, nothing, GAP, GAP)
    seen, numbers = observe(batch, a, nothing, facets)
    return combine(as_sessions(batch, seen, numbers), a.session, len(a.continues))


def counts(table: Sessions) -> dict[str, float]:
    return dict(zip(table.text.tolist(), table.count.tolist(), strict=True))


def test_values_are_counted_by_facet_and_absent_ones_are_not() -> None:
    rows: list[dict[str, object]] = [
        {"time": 0, "user": "u", "action": a, "device": d} for a, d in (("x", "pc"), ("x", None), ("y", "pc"))
    ]
    assert counts(sessions_of(rows, Facets(("action", "device"), (), ()))) == {"x": 2, "y": 1, "pc": 2}


def test_the_same_text_in_two_facets_is_two_values() -> None:
    assert key_of("device", "x") != key_of("network", "x")


def test_an_hour_is_spread_over_its_neighbours_around_midnight() -> None:
    table = sessions_of([{"time": 23.5 * 3600, "user": "u"}], Facets(("hour",), (), ()))
    assert counts(table) == {"22h": 0.25, "23h": 0.5, "00h": 0.25}


def test_pairs_follow_the_order_of_events_and_carry_over_an_open_part() -> None:
    facets = Facets(("action", "pair"), (), (), "action")
    rows: list[dict[str, object]] = [{"time": i, "user": "u", "action": a} for i, a in enumerate("abab")]
    table = sessions_of(rows, facets)
    pairs = table.count[table.facet == 1]
    assert sorted(pairs.tolist()) == [1, 2]  # ba once, ab twice
    other = sessions_of([{"time": 0, "user": "u", "action": "b"}, {"time": 1, "user": "u", "action": "a"}], facets)
    assert set(other.key[other.facet == 1]) < set(table.key[table.facet == 1])


def test_numbers_keep_count_sum_squares_and_extremes_and_text_numbers_count_too() -> None:
    rows: list[dict[str, object]] = [{"time": i, "user": "u", "amount": v} for i, v in enumerate((2.0, "3", None, "much"))]
    table = sessions_of(rows, Facets((), ("amount",), (False,)))
    assert table.numbers[0, 0].tolist() == [2, 5, 13, 2, 3]


def test_volume_is_the_log_of_the_events() -> None:
    table = sessions_of([{"time": i, "user": "u"} for i in range(8)], Facets((), (), ()))
    assert with_volume(table)[0, 0, 1] == np.log(8)


def test_kinds_are_found_and_the_settings_overrule_them() -> None:
    columns: dict[str, list[object]] = {
        "action": ["a", "b"] * 100,
        "constant": ["c"] * 200,
        "amount": [float(i) for i in range(200)],
        "request": [f"r{i}" for i in range(200)],
        "port": [float(i % 3) for i in range(200)],
    }
    assert discover(columns, {}) == (("action", "port"), ("amount",))
    assert discover(columns, {"amount": "ignored", "port": "number", "request": "text"}) == (("action", "request"), ("port",))


@pytest.mark.parametrize(
    ("value", "above"),
    [
        ("src/core/main.c", ["src/core", "src", "src"]),
        ("/api/users/17?full=1", ["/api/users/17", "/api/users", "/api", "/api"]),
        ("https://x.example.org/a/b", ["https://x.example.org/a", "https://x.example.org"]),
        (r"C:\Program Files\tool.exe", [r"C:\Program Files", "C:"]),
        ("git commit -m x/y", ["git", "git"]),
        ("/usr/bin/env python3 x", ["/usr/bin", "/usr", "/usr"]),
        ("ada@mail.example.org", ["mail.example.org", "example.org", "example.org"]),
        ("www.shop.example.org", ["shop.example.org", "example.org", "example.org"]),
        ("10.65.5.17", ["10.65.5", "10.65", "10", "10"]),
        ("2001:db8:0:1:aa:bb:cc:dd", ["2001:db8:0:1:aa:bb:cc", "2001:db8:0:1:aa:bb"]),
        ("login", ["login"]),
        ("", [""]),
        ("/", ["/"]),
        ("?", ["?"]),
        ("@", ["@"]),
        (" x", [" x"]),
    ],
)
def test_what_a_value_lies_in(value: str, above: list[str]) -> None:
    assert [parent(value, level + 1) for level in range(len(above))] == above
    assert parent(value, 0) == value


@given(st.text(max_size=30), st.integers(0, 8))
def test_what_a_value_lies_in_is_a_part_of_it_and_never_empty(value: str, levels: int) -> None:
    above = parent(value, levels)
    assert above in value
    assert bool(above) == bool(value)


def test_what_hardly_ever_changes_within_accounts_but_differs_between_them_is_fixed() -> None:
    users = [f"u{i % 20}" for i in range(4000)]
    days = np.arange(4000) // 200
    columns: dict[str, list[object]] = {
        "home": [f"town {u}" if i != 7 else "elsewhere" for i, u in enumerate(users)],
        "age": [float(len(u)) for u in users],
        "device": [f"pc {u}" if i % 50 else "a phone" for i, u in enumerate(users)],
        "version": [f"v{d // 10}" for d in days.tolist()],
        "app": ["shop"] * 4000,
        "plan": [u[-1] if i % 7 else None for i, u in enumerate(users)],
        "nothing": [None] * 4000,
    }
    assert unchanging(users, days, columns) == ("home", "age", "plan")
    assert unchanging(users, days // 5, columns) == ()  # four days are too few to tell
    assert unchanging(users[:3] * 1000, days[:3000], {"home": columns["home"][:3] * 1000}) == ()  # and three accounts
    assert unchanging([], np.empty(0, int), {"home": []}) == ()


def test_what_accounts_keep_to_is_the_share_of_the_value_that_each_shows_most() -> None:
    users = [f"u{i % 20}" for i in range(2000)]
    columns: dict[str, list[object]] = {
        "page": [f"p{i // 20 % 10}" for i in range(2000)],
        "device": [f"pc {u}" if i // 20 % 4 else f"phone {u}" for i, u in enumerate(users)],
        "app": ["shop"] * 2000,
        "plan": ["gold" if i % 20 == 3 else None for i in range(2000)],
        "seldom": ["x" if i < 180 else None for i in range(2000)],  # nine times an account: too few to tell
        "nothing": [None] * 2000,
    }
    shares = steadiness(users, columns)
    assert shares == pytest.approx({"app": 1.0, "plan": 1.0, "device": 0.75, "page": 0.1, "seldom": 0.0, "nothing": 0.0})
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert steadiness([], {"page": []}) == {"page": 0.0}


def test_clocks_and_serial_numbers_only_grow() -> None:
    users, time = [f"u{i % 10}" for i in range(1000)], np.arange(1000.0)
    shuffled = np.random.default_rng(0).permutation(1000)
    columns: dict[str, list[object]] = {
        "clock": [float(i) for i in range(1000)],
        "text of it": [str(i // 10) for i in range(1000)],
        "amount": [float(i) for i in shuffled],
        "constant": [1.0] * 1000,
        "seldom": [float(i) if i < 50 else None for i in range(1000)],
    }
    assert counters(users, time, columns) == ("clock", "text of it")
    mixed = {name: [column[i] for i in shuffled] for name, column in columns.items()}
    assert counters([users[i] for i in shuffled], time[shuffled], mixed) == ("clock", "text of it")


def test_a_parent_is_counted_beside_its_values_and_pairs_are_of_parents() -> None:
    facets = Facets(("file", "file:parent", "pair"), (), (), "file", {"file": 1})
    rows: list[dict[str, object]] = [{"time": i, "user": "u", "file": f} for i, f in enumerate(("a/1", "a/2", "b/3", "a/4", "b/5"))]
    table = sessions_of(rows, facets)
    assert counts(table) == {"a/1": 1, "a/2": 1, "b/3": 1, "a/4": 1, "b/5": 1, "a": 3, "b": 2, "… a": 1, "… b": 2}
    assert facets.sources.tolist() == [0, 0, 0]
    alone = sessions_of(rows, Facets(("file:parent",), (), (), None, {"file": 1}))
    assert counts(alone) == {"a": 3, "b": 2}


def test_what_is_looked_at_together_is_counted_by_what_comes_with_what() -> None:
    facets = Facets(("action", "how", "action+how"), (), (), together=("action", "how"))
    events = (("a", "x"), ("a", "y"), ("a", None), ("b", "x"), ("a", "x"))
    table = sessions_of([{"time": i, "user": "u", "action": a, "how": h} for i, (a, h) in enumerate(events)], facets)
    assert facets.joint == "action+how"
    assert facets.sources.tolist() == [0, 1, 0]
    assert counts(table) == {"a": 4, "b": 1, "x": 3, "y": 1, "a + x": 2, "a + y": 1, "b + x": 1}
    again = sessions_of([{"time": 0, "user": "v", "action": "a", "how": "y"}], facets)
    assert set(again.key.tolist()) < set(table.key.tolist())  # the same in every session and batch


def test_what_comes_at_which_hour_is_spread_like_the_hour_and_parents_come_in_place_of_their_values() -> None:
    facets = Facets(("file:parent", "file:parent+hour", "hour"), (), (), None, {"file": 1}, (), ("file:parent", "hour"))
    table = sessions_of([{"time": 3600.0, "user": "u", "file": f} for f in ("a/1", "a/2")], facets)
    assert counts(table) == {"a": 2, "a + 00h": 0.5, "a + 01h": 1, "a + 02h": 0.5, "00h": 0.5, "01h": 1, "02h": 0.5}
    nameless = sessions_of([{"time": 0, "user": "u", "": "x"}], Facets(("",), (), ()))
    assert counts(nameless) == {"x": 1}
    without = sessions_of([{"time": 3600.0, "user": "u"}], facets)
    assert counts(without) == {"00h": 0.25, "01h": 0.5, "02h": 0.25}
