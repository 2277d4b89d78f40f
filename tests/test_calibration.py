"""Truths of calibration: p-values come as often as they say, and alerts as often as they are wanted."""

from __future__ import annotations

import numpy as np
import pytest

from alerts.policy import Policy
from detector import calibration
from detector.calibration import (
    BODY,
    DAY,
    SPENT,
    Seen,
    Watch,
    added,
    alerts_a_day,
    calm_shares,
    corrected,
    of_owners,
    rationed,
    sessions_a_day,
    spelled,
    turned,
    wanted,
)
from detector.fusion import SLACK, p_values, reference

PER_DAY = 5.0


def after(days: int, p: np.ndarray, alerts: int = 5, clean: float = 1.0) -> Watch:
    """The watch after some days, each with the same p-values."""
    watch = Watch()
    for day in range(days):
        watch = added(turned(watch, day, PER_DAY), Seen(p, np.arange(len(p)) < clean * len(p)))
        watch = alarmed(watch, alerts)
    return turned(watch, days, PER_DAY)


def alarmed(watch: Watch, alerts: int) -> Watch:
    """The watch after so many accounts more have alarmed."""
    for _ in range(alerts):
        watch = spelled(watch, f"u{len(watch.spells)} of {watch.day}", watch.day * DAY)
    return watch


def test_without_experience_p_is_what_the_pack_says() -> None:
    p = np.array([1e-9, 0.001, 0.04, 0.3, 0.7, 1.0])
    assert corrected(p, Watch(), BODY) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("power", [0.7, 1.0, 1.4])
def test_p_values_come_as_often_as_they_say_once_drift_has_been_seen(power: float) -> None:
    uniform = (np.arange(4000) + 0.5) / 4000
    drifted = uniform**power
    found = corrected(drifted, after(20, drifted), BODY)
    for share in (0.001, 0.01, 0.1, 0.3):
        assert (found <= share).mean() == pytest.approx(share, rel=0.15, abs=1 / 4000)


def test_the_correction_keeps_the_order_and_stays_in_range() -> None:
    watch = after(5, np.random.default_rng(0).random(300) ** 1.6)
    p = np.geomspace(1e-12, 1, 500)
    found = corrected(p, watch, BODY)
    assert (np.diff(found) >= 0).all()
    assert found[0] > 0
    assert found[-1] == pytest.approx(1)


@pytest.mark.parametrize("thieves", [0, 30, 300])
def test_of_sessions_of_every_p_as_many_are_taken_for_the_owners_as_there_are(thieves: int) -> None:
    rng = np.random.default_rng(3)
    p = rng.permutation(np.r_[rng.random(3000), 10 ** -rng.uniform(2, 9, thieves)])
    taken = of_owners(p)
    for share in (0.01, 0.03, 0.1, 1.0):
        assert (taken & (p <= share)).sum() == pytest.approx(3000 * share, rel=0.12, abs=12)
    assert (of_owners(p) == taken).all()


@pytest.mark.parametrize("count", [300, 4000, 15_000])
def test_p_of_owners_scores_comes_as_often_as_it_says_also_where_the_reference_is_thin(count: int) -> None:
    """The mean of many references, since the largest scores of one are chance."""
    rng = np.random.default_rng(5)
    asked, found = rng.gamma(3.0, 2.0, 200_000), []
    for _ in range(30):
        p = p_values(tuple([reference(rng.gamma(3.0, 2.0, count))] * 4), asked + SLACK, np.full(len(asked), 99))
        found.append([(p <= x).mean() for x in (0.1, 0.01, 0.001)])
    assert np.mean(found, axis=0)[: 3 if count > 1000 else 2] == pytest.approx(
        [0.1, 0.01, 0.001][: 3 if count > 1000 else 2], rel=0.3
    )


def test_p_is_true_in_the_tail_of_scores_that_have_an_end() -> None:
    """Scores add up what is bounded, so few are near the largest."""
    rng = np.random.default_rng(5)
    asked, found = rng.beta(2.0, 4.0, 200_000) * 40, []
    for _ in range(30):
        p = p_values((reference(rng.beta(2.0, 4.0, 15_000) * 40),) * 4, asked + SLACK, np.full(len(asked), 99))
        found.append([(p <= x).mean() for x in (0.01, 0.001)])
    assert np.mean(found, axis=0) == pytest.approx([0.01, 0.001], rel=0.25)


def test_p_falls_as_scores_rise_and_has_a_floor() -> None:
    for count in (1, 2, 40, 999, 1000, 5000, 60_000):
        ref = reference(np.random.default_rng(count).gamma(3.0, 2.0, count))
        p = p_values((ref,) * 4, np.linspace(-5, 300, 20_001), np.full(20_001, 99))
        assert (np.diff(p) <= 0).all()
        assert 0 < p[-1] < p[0] <= 1
        assert p[-1] > 1e-4 / count


def test_sessions_in_doubt_do_not_make_thieves_usual() -> None:
    uniform = (np.arange(1000) + 0.5) / 1000
    thieves = np.full(50, 1e-6)
    clean = np.r_[np.ones(1000, bool), np.zeros(50, bool)]
    watch = Watch()
    for day in range(20):
        watch = added(turned(watch, day, PER_DAY), Seen(np.r_[uniform, thieves], clean))
    assert corrected(np.array([0.001]), turned(watch, 20, PER_DAY), BODY) == pytest.approx(0.001, rel=0.15)


def test_thieves_that_nobody_is_in_doubt_about_do_not_make_p_much_larger() -> None:
    """They crowd at small p; fewer sessions of small p are heeded."""
    uniform = (np.arange(40_000) + 0.5) / 40_000
    found = corrected(uniform, after(20, np.r_[uniform, np.geomspace(0.002, 0.05, 500)]), BODY)
    for share in (0.001, 0.01, 0.1):
        assert share / 2 < (found <= share).mean() <= share
    thin = np.where(uniform < 0.1, 0.1 * (10 * uniform) ** 0.7, uniform)
    assert (corrected(thin, after(20, thin), BODY) <= 0.01).mean() > 1.5 * (thin <= 0.01).mean()


def test_owners_in_doubt_do_not_make_p_smaller_than_it_is() -> None:
    """What is in doubt has small p, the owners' too: p stays right only if that was heeded in training."""
    uniform = (np.arange(4000) + 0.5) / 4000
    clean = uniform > 0.03
    usual = calm_shares(uniform, clean)
    assert (usual < 0.97 * BODY).all()
    assert calm_shares(uniform, uniform > 0) == pytest.approx(BODY)
    watch = Watch()
    for day in range(20):
        watch = added(turned(watch, day, PER_DAY), Seen(uniform, clean))
    watch = turned(watch, 20, PER_DAY)
    for share in (0.001, 0.01, 0.1, 0.3):
        assert (corrected(uniform, watch, usual) <= share).mean() == pytest.approx(share, rel=0.15, abs=1 / 4000)
    assert (corrected(uniform, watch, BODY) <= 0.01).mean() > 0.015


def test_a_day_is_judged_by_the_days_before_it_however_it_is_cut() -> None:
    p = np.random.default_rng(1).random(100)
    before = after(3, p)
    whole = alarmed(added(before, Seen(p, p > 0)), 7)
    parts = alarmed(added(alarmed(added(before, Seen(p[:30], p[:30] > 0)), 2), Seen(p[30:], p[30:] > 0)), 5)
    assert whole == parts
    assert (corrected(p, whole, BODY) == corrected(p, before, BODY)).all()
    assert turned(whole, 4, PER_DAY) == turned(parts, 4, PER_DAY)


def test_sessions_a_day_go_over_from_what_the_pack_saw_to_what_is_seen() -> None:
    assert sessions_a_day(Watch(), 70.0) == 70.0
    assert sessions_a_day(after(28, np.ones(300)), 70.0) == pytest.approx(300, rel=0.2)


@pytest.mark.parametrize("per_day", [1.0, 5.0])
@pytest.mark.parametrize("wrong", [0.4, 1.0, 3.0])
def test_the_budget_is_held_over_28_days_though_p_be_wrong_by_a_factor(wrong: float, per_day: float) -> None:
    rng = np.random.default_rng(2)
    watch = Watch()
    raised = []
    for day in range(80):
        watch = turned(watch, day, per_day)
        raised.append(0)
        limit = Policy(wanted(watch, per_day), sessions_a_day(watch, 1000.0), watch.lean).threshold
        for user, p in enumerate((rng.random(1000) * wrong).tolist()):
            if p <= rationed(limit, watch, per_day):
                watch = spelled(watch, f"u{user} of {day}", day * DAY)
                raised[-1] += 1
        watch = added(watch, Seen(np.linspace(0.001, 1, 1000), np.ones(1000, bool)))
    for first in (24, 38, 52):
        assert np.mean(raised[first : first + 28]) == pytest.approx(per_day, rel=0.10)
    assert alerts_a_day(watch) == pytest.approx(np.mean(raised[-29:-1]), rel=0.05)


def test_a_day_that_has_brought_what_it_asked_for_lets_only_what_is_much_rarer_alarm() -> None:
    fresh = turned(after(28, np.ones(10)), 28, PER_DAY)
    assert wanted(fresh, PER_DAY) == PER_DAY
    assert rationed(0.01, alarmed(fresh, 4), PER_DAY) == 0.01
    assert rationed(0.01, alarmed(fresh, 5), PER_DAY) == rationed(0.01, alarmed(fresh, 50), PER_DAY) == 0.01 / SPENT
    assert rationed(0.01, turned(alarmed(fresh, 5), 29, PER_DAY), PER_DAY) == 0.01


def test_a_wave_of_takeovers_does_not_silence_the_weeks_after_it() -> None:
    wave = alarmed(added(turned(after(28, np.ones(10)), 28, PER_DAY), Seen(np.ones(10), np.ones(10, bool))), 200)
    for day in range(29, 34):
        wave = added(turned(wave, day, PER_DAY), Seen(np.ones(10), np.ones(10, bool)))
    assert wanted(wave, PER_DAY) >= PER_DAY
    assert wave.lean >= -0.2


def test_an_account_that_alarms_again_within_a_week_counts_once() -> None:
    watch = turned(Watch(), 10, PER_DAY)
    for days in (0, 1, 6, 12):
        watch = spelled(watch, "ann", (10 + days) * DAY)
    assert watch.days[10][-1] == 1
    assert spelled(watch, "ann", 30 * DAY).days[10][-1] == 2


def test_a_watch_forgets_what_is_older_than_four_weeks() -> None:
    assert len(after(100, np.ones(10)).days) == calibration.KEPT_DAYS


def test_days_without_sessions_do_not_raise_the_limit() -> None:
    watch = after(3, np.ones(10))
    assert turned(watch, 90, PER_DAY).lean == turned(watch, 4, PER_DAY).lean == watch.lean


def test_a_day_asks_for_what_the_weeks_before_lack_within_bounds() -> None:
    p = np.ones(10)
    assert wanted(after(28, p, 5), PER_DAY) == PER_DAY
    assert wanted(after(3, p, 4), PER_DAY) == pytest.approx(PER_DAY + 1.5)
    assert wanted(after(3, p, 6), PER_DAY) == pytest.approx(PER_DAY - 1.5)
    assert wanted(after(28, p, 0), PER_DAY) == calibration.MOST * PER_DAY
    assert wanted(after(28, p, 50), PER_DAY) == calibration.LEAST * PER_DAY
