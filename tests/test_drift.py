"""Drift: what moved is named, what is quiet stays quiet, and neither batches nor restarts change what is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector import drift, training
from detector.cycle import Engine, move
from detector.drift import Drift, added, judge
from detector.pack import Pack
from detector.records import Chunk
from detector.settings import SessionSettings, TrainingSettings, load
from detector.stores import MemoryStore
from tests.logs import DAY, START, batch_of, rows_of_people

SETTINGS = load(overrides=["alerts.per_day=3"], environment={})
LATER = START + 40 * DAY
Rows = list[dict[str, object]]


@pytest.fixture(scope="module")
def life() -> Rows:
    """Sixty-eight days in which nobody changes a habit."""
    return rows_of_people(14, 68)


@pytest.fixture(scope="module")
def trained(life: Rows) -> Pack:
    """A pack of the first forty of them."""
    early = [r for r in life if float(str(r["time"])) < LATER]
    return training.train(batch_of(early), {}, SessionSettings(), TrainingSettings(), 0)


@pytest.fixture(scope="module")
def quiet(life: Rows) -> Rows:
    """The other twenty-eight."""
    return [r for r in life if float(str(r["time"])) >= LATER]


def watched(pack: Pack, rows: Rows, size: int = 10_000, restart: bool = False) -> tuple[dict[int, Drift], Engine]:
    """Drift at the end of each day of a log that is read a day at a time, in batches of `size`, by one who knows the people."""
    store, found = MemoryStore(), {}
    engine = Engine(store, pack, SETTINGS, [])
    assert move(engine, pack, [batch_of([r for r in rows_of_people(14, 68) if float(str(r["time"])) < LATER])])
    day_of = np.array([int(float(str(r["time"])) // DAY) for r in rows])
    for day in range(day_of.min(), day_of.max() + 1):
        today = [rows[i] for i in np.flatnonzero(day_of == day)]
        for low in range(0, len(today), size):
            engine.run("log", Chunk(batch_of(today[low : low + size]), (), {}, True), LATER + 1000 * DAY)
        if restart:
            engine = Engine(store, pack, SETTINGS, [])
        judged = engine.drift()
        if judged is not None:
            found[judged.day] = judged
    return found, engine


@pytest.fixture(scope="module")
def new_devices(quiet: Rows) -> Rows:
    """On the tenth day everybody comes with a new device."""
    changed = LATER + 10 * DAY
    return [r | {"device": f"new-{r['device']}"} if float(str(r["time"])) >= changed else r for r in quiet]


def test_a_quiet_log_raises_no_alarm_in_four_weeks(trained: Pack, quiet: Rows) -> None:
    found, _ = watched(trained, quiet)
    assert len(found) >= 24
    assert {day: d.moved for day, d in found.items() if d.moved} == {}
    assert all(0 < d.relative[of] <= 1 for d in found.values() for of in ("p_value", "embedding", "facet"))


def test_new_devices_for_everybody_raise_an_alarm_that_names_them(trained: Pack, new_devices: Rows) -> None:
    found, _ = watched(trained, new_devices)
    alarming = sorted(day for day, d in found.items() if d.moved)
    first = int((LATER + 10 * DAY) // DAY)
    assert first <= alarming[0] <= first + 2
    assert max(found[day].relative["facet"] for day in range(first, first + 3)) > 1
    assert any("facet device:" in what and "never seen before (usually 0 %)" in what for what in found[first + 2].moved)


@pytest.mark.parametrize(("size", "restart"), [(37, False), (10_000, True)])
def test_batches_and_restarts_change_nothing(trained: Pack, new_devices: Rows, size: int, restart: bool) -> None:
    some = [r for r in new_devices if float(str(r["time"])) < LATER + 13 * DAY]
    expected, got = watched(trained, some), watched(trained, some, size, restart)
    assert got[0] == expected[0]
    assert got[1].state.days == expected[1].state.days
    assert any(d.moved for d in got[0].values())


def test_a_number_that_moves_is_named_by_its_tenth(trained: Pack, quiet: Rows) -> None:
    dear = [r | {"amount": 900.0 + float(str(r["amount"]))} for r in quiet if float(str(r["time"])) < LATER + 8 * DAY]
    last = max(watched(trained, dear)[0].items())[1]
    assert any(what.startswith("facet amount: 100 % of sessions are in the usual 10. tenth") for what in last.moved)


def test_p_values_that_are_all_small_are_drift(trained: Pack, quiet: Rows) -> None:
    _, engine = watched(trained, [r for r in quiet if float(str(r["time"])) < LATER + 8 * DAY])
    usual, names = trained.drift, (*trained.facets.text, *trained.facets.number, "volume")
    assert usual is not None
    small = {day: [*counts[: -drift.BINS], counts[0], *[0] * (drift.BINS - 1)] for day, counts in engine.state.days.items()}
    found = judge(usual, small, np.inf, names)
    assert found is not None
    assert found.relative["p_value"] > 1
    assert any(what.startswith("p-values: 100 % at or below 0.01 (usually") for what in found.moved)


def test_a_day_with_few_sessions_is_taken_together_with_those_before_it_but_never_more_than_a_week(trained: Pack) -> None:
    usual, names = trained.drift, (*trained.facets.text, *trained.facets.number, "volume")
    assert usual is not None
    share = (usual.usual // 10).tolist()
    days = dict.fromkeys(range(100, 120), share)
    found = judge(usual, days, np.inf, names)
    assert found is not None
    assert found.sessions == share[0] * min(7, -(-drift.ENOUGH // share[0]))
    assert judge(usual, {100: [0] * len(share)}, np.inf, names) is None
    assert judge(usual, days, 100 * DAY, names) is None


def test_days_that_no_window_reaches_any_more_are_forgotten() -> None:
    days: dict[int, list[int]] = {}
    for day in range(50):
        days = added(days, {day: np.array([1, 2]), max(day - 1, 0): np.array([1, 0])})
    assert sorted(days) == list(range(41, 50))
    assert days[45] == [2, 2]


def test_a_reference_without_limits_raises_no_alarm(trained: Pack, quiet: Rows) -> None:
    usual = trained.drift
    assert usual is not None
    blind = replace(trained, drift=replace(usual, limits=np.full(len(usual.limits), np.inf)))
    found, _ = watched(blind, [r | {"device": "x"} for r in quiet if float(str(r["time"])) < LATER + 4 * DAY])
    assert all(set(d.relative.values()) == {0} and not d.moved for d in found.values())
