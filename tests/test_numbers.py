"""The scale of numbers, and what is said of all of them at once."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector import evidence, fusion, models, profiles, training
from detector.cycle import Engine
from detector.facets import scaled, unit_of, unscaled
from detector.pack import Pack, save
from detector.pack import load as load_pack
from detector.records import Chunk, Verdict
from detector.replay import Recorder
from detector.sessions import Sessions, take
from detector.settings import SessionSettings, load
from tests.logs import DAY, START, batch_of, rows_of_people, typists
from tests.test_made_logs import judged

Judged = tuple[Pack, np.ndarray, np.ndarray]
SINCE = START + 54 * DAY


@pytest.fixture(scope="module")
def typed() -> Judged:
    rows, stolen = typists(seed=1)
    return judged(batch_of(rows), stolen, SINCE)


@pytest.fixture(scope="module")
def known(typed: Judged) -> tuple[Sessions, profiles.Profiles, np.ndarray]:
    """Later sessions, the profiles that their accounts had before, and which are thieves'."""
    pack, (rows, stolen) = typed[0], typists(seed=1)
    table = training.sessions_of(batch_of(rows), pack.facets, SessionSettings(gap=3600))
    users, account = np.unique(table.user.astype(str), return_inverse=True)
    late = np.flatnonzero(table.end >= SINCE)
    before = np.zeros((len(users), table.numbers.shape[1] + 1, 3))
    np.add.at(before, account[table.end < SINCE], evidence.with_volume(take(table, np.flatnonzero(table.end < SINCE)))[:, :, :3])
    blank = profiles.blank(len(late), pack.shape)
    some = take(table, late)
    theirs = [theft in stolen for theft in zip(some.user, some.start.tolist(), strict=True)]
    return some, replace(blank, number=before[account[late]], history=np.full(len(late), 54)), np.array(theirs)


def drawn(accounts: int = 30, each: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Accounts of so many events each, and how far each event lies from its account's mean."""
    return np.repeat(np.arange(accounts), each), np.random.default_rng(seed).normal(size=accounts * each)


def test_times_have_the_same_scale_in_seconds_and_in_milliseconds() -> None:
    account, off = drawn()
    times = np.exp(-2 + 0.1 * (account % 7) + 0.5 * off)
    unit = unit_of(account, times)
    assert 0 < unit < 0.2
    assert unit_of(account, 1000 * times) == pytest.approx(1000 * unit)
    assert np.allclose(scaled(1000 * times, 1000 * unit), scaled(times, unit))


def test_amounts_that_are_normal_stay_as_they_are_though_large_ones_spread_more() -> None:
    account, off = drawn()
    usual = np.exp(account % 5)
    assert unit_of(account, usual * (3 + off)) == 0  # everybody's together are far from normal, no account's are
    assert unit_of(account, usual * np.exp(off)) > 0


def test_numbers_of_either_sign_may_have_a_log_scale_and_come_back_from_it() -> None:
    account, off = drawn()
    heavy = np.sign(off) * np.exp(2 * np.abs(off))
    unit = unit_of(account, heavy)
    assert unit > 0
    assert np.allclose(unscaled(scaled(heavy, unit), unit), heavy)
    assert np.allclose(unscaled(scaled(heavy, 0.0), 0.0), heavy)


def test_what_is_absent_and_accounts_of_few_values_say_nothing_of_a_scale() -> None:
    account, off = drawn()
    values, kept = np.exp(off), np.arange(len(off)) % 3 == 2
    assert unit_of(account, np.where(kept, values, np.nan)) == unit_of(account[kept], values[kept]) > 0
    assert unit_of(np.arange(len(values)) // 2, values) == 0  # of two values each
    assert unit_of(account, np.full(len(values), 7.0)) == 0
    assert unit_of(account, np.zeros(len(values))) == 0
    assert unit_of(account, np.full(len(values), np.nan)) == 0


def test_numbers_are_known_as_well_in_a_large_unit_as_in_a_small_one() -> None:
    """Normal ones, which stay on a linear scale; the large unit makes them small."""
    account, off = drawn()
    of, values = account // 2, (3 + account % 7) + off
    assert unit_of(account, values) == unit_of(account, values * 1e-6) == 0

    def fitted(unit: float) -> np.ndarray:
        x = values * unit
        statistics = np.stack([np.ones(len(x)), x, x**2, x, x], axis=1)[:, None, :]
        centre, pull, shape, scale = models.fit_numbers(statistics, of, 15)
        return np.array([centre[0] / unit, pull[0], shape[0], scale[0] / unit**2])

    assert fitted(1e-6) == pytest.approx(fitted(1.0))
    rows = [row | {"tiny": float(str(row["amount"])) * 1e-9, "same": 1e-9} for row in rows_of_people()]
    found = training.find_facets(batch_of(rows), {"same": "number"})
    table = training.sessions_of(batch_of(rows), found, SessionSettings())
    left, _ = training._without_constants(replace(found, unit=(0.0,) * len(found.number)), table)
    assert "tiny" in left.number
    assert "same" not in left.number


def test_where_there_are_heaps_of_nothing_it_does_not_lie_far_below_the_rest() -> None:
    account, off = drawn()
    values = np.exp(off)
    heaps = np.where(np.random.default_rng(1).random(len(values)) < 0.3, 0.0, values)
    assert unit_of(account, heaps) > 2 * unit_of(account, values) > 0
    assert unit_of(account, heaps**0.6) == 0 < unit_of(account, values**0.6)


@pytest.mark.parametrize("amount", [1e200, -1e308, "1e300"])
def test_a_gross_number_is_strange_and_blinds_no_account(amount: object, trained: Pack) -> None:
    rows = [row for row in rows_of_people(days=46) if float(str(row["time"])) > START + 40 * DAY]
    day = [START + 42 * DAY, START + 43 * DAY]
    for row in rows:
        if row["user"] == "u03" and day[0] < float(str(row["time"])) < day[1]:
            row["amount"] = amount
    settings, verdicts = load(overrides=[], environment={}), list[Verdict]()
    engine = Engine(Recorder(verdicts.append, lambda _: None), trained, settings, (), keep_history=False, casework=False)
    engine.run("log", Chunk(batch_of(rows_of_people()), (), {}, False), time.time())
    engine.run("log", Chunk(batch_of(rows), (), {}, True), time.time(), drain=True)
    late = [v for v in verdicts if v.start > START + 40 * DAY]
    assert len(late) > 80
    assert all(np.isfinite([v.score, v.p, v.belief, *v.evidence.values()]).all() for v in late)
    gross = [v for v in late if v.user == "u03" and day[0] < v.start < day[1]]
    assert gross
    assert all(v.evidence["amount"] > 1 and v.evidence["amount:extreme"] > 1 for v in gross)


def test_thieves_are_found_by_how_their_numbers_go_together(typed: Judged) -> None:
    pack, own, theirs = typed
    assert all(unit > 0 for unit in pack.facets.unit)
    assert len(theirs) == 23
    # .993 and .87; before times had their own scale and numbers were looked at together: .976 and .52
    assert fusion.auc(own, theirs) > 0.985
    assert (theirs > own[int(0.01 * len(own))]).mean() > 0.7


def test_numbers_together_tell_more_than_any_does_alone(
    typed: Judged, known: tuple[Sessions, profiles.Profiles, np.ndarray]
) -> None:
    pack, (table, mine, theirs) = typed[0], known
    assert theirs.sum() == 23
    together = evidence.together(table, mine, pack.population)[:, 0]
    alone, _ = evidence.number_channels(table, mine, pack.population, [])
    best = max(fusion.auc(alone[~theirs, n], alone[theirs, n]) for n in range(alone.shape[1]))
    assert fusion.auc(together[~theirs], together[theirs]) > max(0.98, best + 0.1)


def test_what_is_said_of_all_numbers_depends_on_the_session_and_its_owner_alone(
    typed: Judged, known: tuple[Sessions, profiles.Profiles, np.ndarray]
) -> None:
    pack, (table, mine, _) = typed[0], known
    whole = evidence.together(table, mine, pack.population)
    apart = [evidence.together(take(table, np.array([s])), profiles.take(mine, np.array([s])), pack.population) for s in range(40)]
    assert np.array_equal(whole[:40], np.concatenate(apart))
    longer = replace(table, events=table.events * 9)  # what is still open is short
    assert np.array_equal(whole, evidence.together(longer, mine, pack.population))
    assert not evidence.together(table, profiles.blank(len(table), pack.shape), pack.population).any()
    absent = replace(table, numbers=np.zeros_like(table.numbers))
    assert not evidence.together(absent, mine, pack.population).any()
    gross = replace(table, numbers=table.numbers + np.array([0.0, 1e30, 0.0, 0.0, 0.0]))
    assert np.isfinite(evidence.together(gross, mine, pack.population)).all()


def test_the_variance_that_a_sessions_values_have_in_common_is_found(typed: Judged) -> None:
    """Tempo: .4 from day to day, .15 from value to value."""
    population, numbers = typed[0].population, typed[0].facets.number
    keys = [n for n, name in enumerate(numbers) if name != "pace"]
    assert population.common[keys] == pytest.approx(np.full(8, 0.16 / (0.16 + 0.0225)), abs=0.06)
    covariance = np.linalg.inv(population.own_precision)
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (correlation[np.ix_(keys, keys)] > 0.8).all()


def test_few_numbers_are_looked_at_one_by_one(trained: Pack) -> None:
    assert trained.facets.number == ("amount", "pace")
    assert evidence.NUMBERS not in trained.channels
    assert (evidence.whole_of(trained.facets.text, trained.facets.number) == -1).all()
    assert evidence.NUMBERS not in evidence.channel_names((), ("a", "b", "pace", "volume"))
    assert evidence.NUMBERS in evidence.channel_names((), ("a", "b", "c", "pace", "volume"))


def test_what_looks_at_all_counts_as_far_as_it_is_relevant_for_all_of_them(typed: Judged) -> None:
    weight, relevance = np.array([0.3, 0.2, 0.1, 0.4]), np.array([1.0, 0.5, 0.8, 1.0])
    assert fusion.for_all(weight, relevance, np.array([2, 2, -1, 2])) == pytest.approx([0.3, 0.2, 0.18, 0.4])
    assert fusion.for_all(weight, relevance, np.array([-1, 2, -1, -1])) == pytest.approx(weight)  # never less than as one of many
    assert np.array_equal(fusion.for_all(weight, relevance, np.full(4, -1)), weight)
    pack = typed[0]
    whole = evidence.whole_of(pack.facets.text, pack.facets.number)
    names = np.array(pack.channels)
    assert set(names[whole >= 0]) == set(pack.facets.number)
    assert set(names[whole[whole >= 0]]) == {evidence.NUMBERS}
    assert pack.fusion is not None
    assert pack.fusion.weight[names == evidence.NUMBERS] > 0.9 * fusion.WHOLE * pack.fusion.weight[whole >= 0].sum()


def test_a_pack_remembers_the_scale_of_numbers_and_how_they_go_together(typed: Judged, tmp_path: Path) -> None:
    pack = typed[0]
    again = load_pack(save(pack, tmp_path))
    assert again.facets == pack.facets
    assert again.channels == pack.channels
    for name in ("common", "own_precision", "all_precision"):
        assert np.array_equal(getattr(again.population, name), getattr(pack.population, name))
