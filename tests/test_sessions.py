"""Sessions do not depend on where a batch is cut, and parts of a session merge."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.encoder import drawn, encode, measures
from detector.facets import Facets, as_sessions, observe
from detector.opened import open_to_bytes
from detector.records import Batch
from detector.sessions import (
    MORE,
    MOST_OPEN,
    MOST_VALUES,
    Sessions,
    assign,
    bounded,
    close_time,
    combine,
    concat,
    empty,
    running_maximum,
    take,
)
from tests.logs import batch_of, part, rows_of_people

GAP, NAMED_GAP = 1800.0, 7200.0
FACETS = Facets(("action", "page", "pair", "hour"), ("amount", "pace"), (False, True), "action")


def whole(batch: Batch, facets: Facets = FACETS) -> Sessions:
    nothing = empty(len(facets.number))
    batch = bounded(batch, nothing, NAMED_GAP)
    a = assign(batch, nothing, GAP, NAMED_GAP)
    seen, numbers = observe(batch, a, nothing, facets)
    return combine(as_sessions(batch, seen, numbers), a.session, len(a.continues))


def same(a: Sessions, b: Sessions) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Sessions))


def session_numbers(times: list[float], name: str | None = None) -> list[int]:
    batch = batch_of([{"time": t, "user": "u", "session": name} for t in times])
    return assign(batch, empty(0), GAP, NAMED_GAP).session.tolist()


def test_silence_longer_than_the_gap_starts_a_session() -> None:
    assert session_numbers([0, 1800, 3600, 5401]) == [0, 0, 0, 1]


def test_a_named_session_outlasts_the_gap_of_unnamed_ones() -> None:
    assert session_numbers([0, 5000, 12000, 20000], "s") == [0, 0, 0, 1]


def test_an_event_out_of_order_joins_the_open_session_and_does_not_shorten_it() -> None:
    assert session_numbers([0, 1700, 100, 3400]) == [0, 0, 0, 0]


def test_accounts_and_names_do_not_share_sessions() -> None:
    rows = [{"time": 0, "user": u, "session": s} for u, s in (("a", None), ("b", None), ("a", "x"), ("a", None), ("b", "x"))]
    found = assign(batch_of(rows), empty(0), GAP, NAMED_GAP).session
    assert found[0] == found[3]
    assert len(set(found.tolist())) == 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_any_cut_of_the_batches_gives_the_same_sessions_bit_for_bit(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        {
            "time": float(t),
            "user": f"u{rng.integers(3)}",
            "action": str(rng.integers(4)),
            "amount": float(rng.normal()),
            "page": "p",
        }
        for t in np.cumsum(rng.exponential(700, 60)) + rng.normal(0, 100, 60)
    ]
    batch = batch_of(rows)
    expected = whole(batch)
    opened = in_pieces(batch, size)
    found = take(opened, np.lexsort((opened.start, opened.user.astype(str))))
    assert same(found, take(expected, np.lexsort((expected.start, expected.user.astype(str)))))


@pytest.mark.parametrize("size", [7, 64, 2000])
def test_an_account_has_only_so_many_named_sessions_open_wherever_the_batches_were_cut(size: int) -> None:
    rng = np.random.default_rng(3)
    rows: list[dict[str, object]] = []
    for t in np.cumsum(rng.exponential(24, 2000)) + rng.normal(0, 300, 2000):
        name = None if rng.random() < 0.1 else f"s{rng.integers(1 + t // 60, 300 + t // 60)}"
        rows.append({"time": float(t), "user": f"u{int(rng.random() < 0.2)}", "session": name, "action": "a", "page": "p"})
    batch = batch_of(rows)
    named = bounded(batch, empty(2), NAMED_GAP).session.tolist()
    assert 200 < named.count(MORE) < 1800
    opened: dict[str, float] = {}
    newest = -np.inf
    for t, user, name in zip(batch.time.tolist(), batch.user, named, strict=True):
        if user == "u0":
            newest = max(newest, t)
            if name not in (None, MORE):
                begins = t > opened.get(name, -np.inf) + NAMED_GAP
                opened[name] = max(t, opened.get(name, t))
                assert not begins or sum(end + NAMED_GAP >= newest for end in opened.values()) <= MOST_OPEN
    table = in_pieces(batch, size)
    expected = whole(batch)
    order = [np.lexsort((x.name.astype(str), x.start, x.user.astype(str))) for x in (table, expected)]
    assert same(take(table, order[0]), take(expected, order[1]))


def test_a_rush_of_sessions_of_one_account_is_one_session_beyond_the_bound() -> None:
    rows = [{"time": n / 100, "user": f"u{n % 2}", "session": f"s{n}" if n % 2 else "work"} for n in range(4000)]
    found = bounded(batch_of(rows), empty(0), NAMED_GAP)
    assert (found.user == "u1").sum() - (found.session == MORE).sum() == MOST_OPEN
    assert set(found.session[found.user == "u0"]) == {"work"}


def in_pieces(batch: Batch, size: int) -> Sessions:
    """The open sessions after a batch that came in pieces."""
    opened = empty(2)
    for low in range(0, len(batch), size):
        piece = part(batch, slice(low, low + size))
        piece = bounded(piece, opened, NAMED_GAP)
        a = assign(piece, opened, GAP, NAMED_GAP)
        seen, numbers = observe(piece, a, opened, FACETS)
        single = as_sessions(piece, seen, numbers)
        continued = np.flatnonzero(a.continues >= 0)
        rest = np.setdiff1d(np.arange(len(opened)), a.continues)
        grown = combine(
            concat([take(opened, a.continues[continued]), single]), np.concatenate([continued, a.session]), len(a.continues)
        )
        opened = concat([take(opened, rest), grown])
    return opened


def one_long_session(events: int) -> Batch:
    rng = np.random.default_rng(1)
    rows = [
        {"time": n * 0.05, "user": "u", "action": f"a{rng.integers(9)}", "page": f"p{rng.integers(10**6)}"} for n in range(events)
    ]
    return batch_of(rows)


@pytest.mark.parametrize("size", [1, 7, 100, 999])
def test_of_too_many_values_the_first_stay_wherever_the_batches_were_cut(size: int) -> None:
    batch = one_long_session(1000)
    table = in_pieces(batch, size)
    assert same(table, whole(batch))
    pages = FACETS.text.index("page")
    assert set(table.text[table.facet == pages]) == set(list(dict.fromkeys(batch.attributes["page"].tolist()))[:MOST_VALUES])
    assert table.events.tolist() == [1000]
    assert table.count[table.facet == FACETS.text.index("action")].sum() == 1000


def test_an_open_session_grown_event_by_event_is_embedded_as_one_computed_afresh() -> None:
    batch, model = one_long_session(2000), drawn(len(FACETS.number) + 1, 0)
    centre, spread = np.zeros(len(FACETS.number) + 1), np.ones(len(FACETS.number) + 1)
    grown, afresh = (encode(model, t, measures(t, centre, spread)) for t in (in_pieces(batch, 50), whole(batch)))
    assert np.abs(grown - afresh).max() <= 1e-5


def test_an_open_session_takes_no_more_room_however_long_it_is() -> None:
    short, long = (len(open_to_bytes(whole(one_long_session(n)))["u"]) for n in (3000, 30_000))
    assert long < 1.01 * short


def test_parts_of_sessions_merge_to_the_whole() -> None:
    batch = batch_of(rows_of_people(3, 4))
    a = assign(batch, empty(2), GAP, NAMED_GAP)
    seen, numbers = observe(batch, a, empty(2), FACETS)
    single, count = as_sessions(batch, seen, numbers), len(a.continues)
    early = a.ordinal <= 2  # the first two events of every session
    parts, number = zip(*((take(single, np.flatnonzero(m)), a.session[m]) for m in (early, ~early)), strict=True)
    merged = combine(concat(list(parts)), np.concatenate(number), count)
    assert same(merged, combine(single, a.session, count))


def test_take_and_concat_are_inverse() -> None:
    table = whole(batch_of(rows_of_people(4, 6)))
    parts = [take(table, np.arange(0, 5)), take(table, np.arange(5, len(table)))]
    assert same(concat(parts), table)


def test_close_time_is_the_newest_event_and_the_gap_of_its_kind() -> None:
    batch = batch_of([{"time": 10.0, "user": "a"}, {"time": 20.0, "user": "a", "session": "s"}])
    table = whole(batch)
    assert sorted(close_time(table, GAP, NAMED_GAP).tolist()) == [10 + GAP, 20 + NAMED_GAP]


@pytest.mark.parametrize("values", [[], [3.0, 1.0, 2.0, 5.0]])
def test_running_maximum_starts_anew_in_each_group(values: list[float]) -> None:
    group = np.array([0, 0, 1, 1])[: len(values)]
    assert running_maximum(np.array(values), group).tolist() == [3.0, 3.0, 2.0, 5.0][: len(values)]
