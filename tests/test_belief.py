"""Belief: a filter that tells thieves from owners whose ways are strange, and what it reads off the history."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import belief


@given(st.lists(st.floats(0, 1 / 3), min_size=3, max_size=3), st.floats(-5, 6), st.floats(0, 3))
def test_belief_is_a_probability_and_rises_with_evidence(doubt: list[float], llr: float, more: float) -> None:
    low, high = belief.update(np.array([doubt, doubt]), np.array([llr, llr + more]), np.full(2, 50), belief.UNKNOWN)
    assert (low >= 0).all()
    assert low.sum() <= high.sum() + 1e-9 <= 1 + 1e-8


def lived(llr: list[float], owners: belief.Owners = belief.UNKNOWN) -> tuple[list[np.ndarray], list[float]]:
    """Belief after each of an account's sessions, and what the earlier ones add to the score of each."""
    doubt, known, after, added = np.zeros((1, 3)), np.full(1, 1000), [], []
    for x in llr:
        added.append(float(belief.carried(doubt, np.array([x]), known, owners)[0]))
        doubt = belief.update(doubt, np.array([x]), known, owners)
        after.append(doubt[0])
    return after, added


def test_belief_adds_up_over_sessions_and_fades_without_evidence() -> None:
    after, _ = lived([2.0] * 4 + [-2.0] * 6)
    rising, fading = ([float(x.sum()) for x in part] for part in (after[:4], after[4:]))
    assert rising == sorted(rising)
    assert rising[-1] > 0.8
    assert fading == sorted(fading, reverse=True)
    assert fading[-1] < 0.05


def test_little_known_of_an_account_is_little_evidence() -> None:
    doubt, llr, known = np.full((2, 3), 0.1), np.full(2, 4.0), np.array([1, 100])
    young, mature = belief.update(doubt, llr, known, belief.UNKNOWN).sum(axis=1)
    assert young < mature


def test_earlier_sessions_speak_against_a_tame_one_more_than_against_one_that_speaks_for_itself() -> None:
    assert lived([-3.0, 0.0, 6.0])[1][0] == 0
    tame, striking = (lived([5.0, x])[1][1] for x in (0.0, 6.0))
    assert 3 < tame < 4
    assert 0 < striking < 1


def test_what_is_strange_for_long_is_rather_the_owners_and_sooner_where_owners_are_strange_for_long() -> None:
    _, added = lived([5.0] * 40)
    _, sooner = lived([5.0] * 40, replace(belief.UNKNOWN, runs=np.array([0.002, 0.02, 0.0])))
    _, soonest = lived([5.0] * 40, replace(belief.UNKNOWN, runs=np.array([0.002, 0.02, 0.02])))  # in a time without thieves
    assert added[1] > 0 > added[16] > added[30]
    assert all(a > b > c for a, b, c in zip(added[1:], sooner[1:], soonest[1:], strict=True))


def test_what_is_strange_for_ever_stays_a_number() -> None:
    after, added = lived([6.0] * 3000)
    assert np.isfinite(added).all()
    assert 0 < after[-1][0] < 1e-4
    assert lived([6.0] * 3000 + [-5.0] * 6 + [6.0])[1][-1] == pytest.approx(0, abs=0.1)


def test_what_was_in_doubt_for_long_is_learnt_again() -> None:
    doubt, unlearnt, known, taught = np.full((1, 3), 0.3), np.zeros(1, np.int64), np.full(1, 100), []
    for _ in range(2 * belief.PATIENCE):
        taught.append(float(belief.lesson(doubt, known, unlearnt)[0]))
        unlearnt = belief.patience(doubt, unlearnt)
    assert taught == [0.0] * belief.PATIENCE + [1.0] * belief.PATIENCE
    assert belief.patience(np.zeros((1, 3)), unlearnt)[0] == 0


@pytest.mark.parametrize("moment", [0.15, 0.5])
def test_how_often_and_how_long_owners_are_strange_is_read_off_their_runs(moment: float) -> None:
    rng = np.random.default_rng(0)
    strange, account = [], []
    for a in range(1000):
        line: list[bool] = []
        while len(line) < 200:
            line += [False] * int(rng.geometric(0.012))
            line += [True] * int(rng.geometric(0.03 if rng.random() < 0.25 else 1 - moment))
        strange += line[:200]
        account += [a] * 200
    order = np.argsort(np.arange(1000 * 200) % 200, kind="stable")  # accounts in turn, each in its order
    (short, long), stay = belief.runs_of(np.array(strange)[order], np.array(account)[order], np.ones(len(order)))
    assert short == pytest.approx(0.009, rel=0.2)
    assert long == pytest.approx(0.003, rel=0.2)
    assert stay == pytest.approx([moment, 0.97], abs=0.03)


def test_runs_that_are_hardly_the_owners_do_not_count_and_without_any_all_is_as_if_unseen() -> None:
    strange, account = np.array([False, True, True, False, True, False]), np.zeros(6, np.int64)
    whole, less = (belief.runs_of(strange, account, np.where(strange, x, 1.0))[0] for x in (1.0, 0.1))
    assert less.sum() == pytest.approx(0.1 * whole.sum())
    assert whole.sum() == pytest.approx(2 / 3)
    for odd, often in ((np.zeros(0, bool), 1.0), (np.zeros(6, bool), 1.0), (strange, 0.0)):
        runs, stay = belief.runs_of(odd, account[: len(odd)], np.full(len(odd), often))
        assert np.array_equal(runs, np.zeros(2))
        assert stay == pytest.approx(belief.UNKNOWN.stay)


def test_how_strange_owners_are_tells_them_from_thieves() -> None:
    thieves, known = np.repeat([3.0, 5.5], [40, 60]), np.full(1, 1000)
    degree = belief.degree_of(np.repeat([-1.0, 3.0, 5.5], [300, 80, 20]), thieves, np.ones(100))
    assert degree == pytest.approx(np.sqrt([(1 - 23 / 105) / 0.4, 23 / 105 / 0.6]))
    mild = replace(belief.UNKNOWN, degree=degree)
    more_a_thief = []  # in a session after a usual one, and in one after doubt: a run's sessions are strange alike
    for doubt in (np.zeros((1, 3)), np.full((1, 3), 0.2)):
        somewhat, very = (belief.update(doubt, np.array([x]), known, mild)[0] for x in (3.0, 5.5))
        more_a_thief.append(very[0] / very[1:].sum() / (somewhat[0] / somewhat[1:].sum()))
    assert more_a_thief[0] > 2 > more_a_thief[1] > 1.5
    less, more = (
        belief.carried(doubt, np.array([x]), known, mild) - belief.carried(doubt, np.array([x]), known, belief.UNKNOWN)
        for x in (3.0, 5.5)
    )
    assert less < 0 < more
    assert belief.degree_of(np.zeros(0), thieves, np.ones(100)) == pytest.approx(np.ones(2))
