"""What is counted and measured of events."""

import numpy as np

from detector.facets import Facets, as_sessions, discover, key_of, observe
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
