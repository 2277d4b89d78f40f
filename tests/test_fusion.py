"""Fusion: how comparisons become e, what is relevant, and the opinions that add up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector import fusion, outliers, training, trees
from detector.pack import Pack


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=80), st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=20))
def test_surprise_is_monotone_bounded_and_never_negative(reference: list[float], scores: list[float]) -> None:
    e = fusion.surprise(np.sort(np.array(scores)), fusion.reference(np.array(reference)))
    assert (np.diff(e) >= -1e-12).all()
    assert (e >= -1e-12).all()
    assert (e <= np.log(1 + len(reference)) + fusion.TAIL_CEILING + 1e-9).all()


def test_a_reference_of_many_scores_keeps_its_quantiles() -> None:
    scores = np.random.default_rng(0).exponential(size=50_000)
    ref = fusion.reference(scores)
    probe = np.array([0.5, 1.0, 3.0, 5.0])
    found = np.exp(-fusion.surprise(probe + fusion.SLACK, ref))
    assert len(ref.values) <= fusion.QUANTILES
    assert np.allclose(found, np.exp(-probe), rtol=0.15)


def test_over_owners_sessions_the_mean_likelihood_ratio_is_one() -> None:
    raw = np.random.default_rng(0).exponential(2.0, 4000)
    ratio = np.exp(np.clip(raw + fusion._llr_shift(raw), fusion.LLR_LOW, fusion.LLR_HIGH))
    assert ratio.mean() == pytest.approx(1.0, abs=1e-6)


def test_what_catches_at_few_false_alarms_is_relevant_and_what_only_ranks_is_less() -> None:
    rng = np.random.default_rng(0)
    owners, attacks_ = rng.exponential(size=(4000, 3)), rng.exponential(size=(4000, 3))
    attacks_[:2000, 0] += 6  # half of them stand out
    attacks_[:, 1] += 0.7  # all of them are a little stranger
    relevance, _ = fusion.relevance_of(owners, attacks_, np.ones(4000), np.zeros(4000, int))
    assert relevance[0] == 1.0
    assert relevance[1:].max() < 0.1
    assert fusion.auc(owners[:, 1], attacks_[:, 1]) > 0.7


def test_what_alone_catches_some_kind_is_relevant_however_much_others_catch_of_the_rest() -> None:
    rng = np.random.default_rng(0)
    owners, attacks_ = rng.exponential(size=(4000, 4)), rng.exponential(size=(4000, 4))
    owners[:, 3] = attacks_[:, 3] = 0.0  # says the same of everybody
    kind = np.arange(4000) % 8
    attacks_[kind > 0, 0] += 9  # seven kinds are easy
    attacks_[kind == 0, 1] += 3
    relevance, shown = fusion.relevance_of(owners, attacks_, np.ones(4000), kind)
    assert relevance[0] == relevance[1] == 1.0
    assert relevance[2:].max() < 0.1
    assert shown.tolist() == [True, True, False, False]
    rare, _ = fusion.relevance_of(owners, attacks_, np.where(kind == 0, 0.25, 1.0), kind)
    assert 0 < rare[1] < 0.1
    unasked, _ = fusion.relevance_of(owners, attacks_, np.ones(4000), np.where(kind == 0, -1, kind))
    assert unasked[1] < 0.01


def test_looks_that_say_the_same_of_owners_share_what_they_count() -> None:
    rng = np.random.default_rng(0)
    owners = rng.exponential(size=(4000, 4))
    many = np.repeat(owners, (3, 1, 1, 1), axis=1)  # three looks at the first
    many[:, 5] = 0.0  # says the same of everybody
    weight = fusion.shared(np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.5]), many)
    assert weight[:3].sum() == pytest.approx(1.0, abs=0.1)
    assert weight[3:] == pytest.approx([1.0, 0.5, 0.5], abs=0.1)
    alone = fusion.shared(np.array([1.0, 0.0, 0.0, 1.0, 0.5, 0.0]), many)  # the irrelevant have no share
    assert alone == pytest.approx([1.0, 0.0, 0.0, 1.0, 0.5, 0.0], abs=0.1)
    opposed = fusion.shared(np.ones(2), np.stack([owners[:, 0], -owners[:, 0]], axis=1))
    assert opposed.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6])
def test_what_lasts_is_the_share_of_the_variance_that_lies_between_accounts(share: float) -> None:
    rng = np.random.default_rng(0)
    account = rng.choice(400, 6000, p=rng.dirichlet(np.ones(400)))  # some have many sessions, some one
    alike, own = rng.normal(size=400)[account], rng.normal(size=6000)
    e = np.stack([np.sqrt(share) * alike + np.sqrt(1 - share) * own, np.full(6000, 2.0), alike], axis=1)
    assert fusion.lasting(e, account) == pytest.approx([share, 0.0, 1.0], abs=0.05)
    assert np.array_equal(fusion.lasting(e, np.arange(6000)), np.zeros(3))  # of a session an account nobody knows
    assert np.array_equal(fusion.lasting(e, np.zeros(6000, int)), np.zeros(3))


def test_the_even_sum_hears_what_no_simulated_thief_shows_and_less_what_lasts() -> None:
    rng = np.random.default_rng(0)
    account = np.arange(4000) % 40
    owners, stolen = rng.exponential(size=(4000, 4)), rng.exponential(size=(2000, 4))
    owners[:, 3] = rng.exponential(size=40)[account] + 0.1 * owners[:, 3]  # who is strange in it is so for long
    stolen[:, :2] += 6  # the last two tell simulated takeovers from nobody
    taken = fusion.Taken(stolen, np.full(2000, 50), np.full(2000, 5), np.ones(2000), np.zeros(2000, int), np.zeros(2000, bool))
    owned = fusion.Owned(owners, np.full(4000, 50), np.full(4000, 5), account)
    strange = {c: np.where(np.arange(4) == c, 9.0, 1.0)[None] for c in range(4)}
    known, events = np.array([50]), np.array([5])

    def said(attributes: int) -> list[float]:
        fitted, *_ = fusion.fit(owned, taken, np.ones(4, bool), np.full(4, -1), attributes, 0)
        rows = [fusion.judge(fitted, strange[c], known, events) for c in range(4)]
        return [float(fusion.strangeness(fitted, row)[0]) for row in rows]

    one, many = said(1), said(8)
    gained = np.array(many) - one
    assert gained[2] > 1.0
    assert gained[2] > gained[3] + 0.5
    assert many[0] > many[2] > many[3]


@pytest.mark.parametrize("count", [50, 1500, 20_000])
def test_a_level_is_the_score_that_is_so_surprising(count: int) -> None:
    rng = np.random.default_rng(0)
    ref = fusion.reference(rng.gamma(3, 2, count))
    e = fusion.surprise(rng.gamma(3, 3, 500), ref)
    score = fusion.level(e, ref)
    assert (np.diff(score[np.argsort(e)]) >= 0).all()
    some = e < np.log1p(count) - 1  # the largest few are steps
    assert fusion.surprise(score - 1e-9, ref)[some] == pytest.approx(e[some], abs=0.02)
    assert fusion.level(np.array([-3.0, 0.0]), ref) == pytest.approx(ref.values[0] + ref.slack)
    assert np.isfinite(fusion.level(np.array([1e3]), ref)).all()


def test_a_thief_among_the_owners_values_is_heard_where_little_else_tells_at_few_false_alarms() -> None:
    rng = np.random.default_rng(0)
    owners, stolen = rng.exponential(size=(4000, 8)), rng.exponential(size=(4000, 8))
    among = np.arange(4000) % 8 == 0
    stolen[~among, :7] += 3
    stolen[among, :7] *= 0.2  # calm by what is the owner's, but for the order
    stolen[among, 7] += 5
    weight = np.where(among, 0.2, 1.0)
    taken = fusion.Taken(stolen, np.full(4000, 50), np.full(4000, 5), weight, among.astype(int), among)
    owned = fusion.Owned(owners, np.full(4000, 50), np.full(4000, 5), np.arange(4000) % 40)
    later, thieves = rng.exponential(size=(4000, 8)), np.append(np.full(7, 0.1), 9.0)[None]
    known, events = np.full(4000, 50), np.full(4000, 5)

    fitted, *_ = fusion.fit(owned, taken, np.ones(8, bool), np.full(8, -1), 1, 0)
    several, *_ = fusion.fit(owned, taken, np.ones(8, bool), np.full(8, -1), 6, 0)

    def said(of: fusion.Fusion, history: int = 50) -> tuple[np.ndarray, float, float]:
        own = fusion.strangeness(of, fusion.judge(of, later, known, events))
        thief = fusion.judge(of, thieves, np.array([history]), np.array([5]))
        return own, float(fusion.strangeness(of, thief)[0]), float(thief.llr[0])

    (alone, heard, llr), (plain, calm, quiet) = said(fitted), said(replace(fitted, say=0.0))
    assert heard > np.quantile(alone, 0.99)
    assert calm < np.quantile(plain, 0.99)
    assert llr > quiet
    limit = np.quantile(plain, 0.98)
    more = (alone > limit).mean() / (plain > limit).mean() - 1  # of its false alarms beside the others'
    assert 0 <= more <= 1.3 * fusion.SAY
    assert said(fitted, 1)[1] < heard  # little is known of the account, and so of the order
    assert 0 < several.say < 0.01 * fitted.say


def test_the_sum_apart_is_measured_against_owners_as_in_live_running() -> None:
    rng = np.random.default_rng(0)
    owners, stolen = rng.exponential(size=(4000, 2)), rng.exponential(size=(2000, 2))
    stolen[:, 1] += 5
    taken = fusion.Taken(stolen, np.full(2000, 50), np.full(2000, 5), np.ones(2000), np.zeros(2000, int), np.ones(2000, bool))
    owned = fusion.Owned(owners, np.full(4000, 50), np.full(4000, 5), np.arange(4000) % 40)
    fitted, *_ = fusion.fit(owned, taken, np.ones(2, bool), np.full(2, -1), 1, 0)
    stranger = owners + [0.0, 4.0] * (np.arange(4000) % 5 == 0)[:, None]  # some change, and are strange for long
    lived = fusion.lived_through(fitted, stranger, np.full(4000, 50))
    thieves, known, events = np.array([[1.0, 5.0]]), np.array([50]), np.array([5])
    before, after = (fusion.judge(of, thieves, known, events) for of in (fitted, lived))
    assert fusion._apart(lived, after.e, known) < fusion._apart(fitted, before.e, known) - 1
    assert after.llr <= before.llr


def test_what_says_the_same_of_everybody_catches_what_chance_does() -> None:
    rng = np.random.default_rng(0)
    owners, thieves = np.zeros((1000, 2)), np.zeros((500, 2))
    owners[:, 1], thieves[:, 1] = rng.random(1000) < 0.01, rng.random(500) < 0.5  # the owners' few lie within what may alarm
    caught = fusion.caught(owners, thieves, np.ones(500))
    assert caught[0] == pytest.approx(np.mean(fusion.FEW))
    assert caught[1] == pytest.approx(0.5, abs=0.1)


def test_what_is_not_in_nats_is_heard_on_any_scale_and_silent_where_it_is_constant() -> None:
    scores = np.random.default_rng(0).normal(size=3000)
    probe = np.linspace(-2, 5, 50)
    large, small = (fusion.surprise(probe * x, fusion.unitless(scores * x)) for x in (1e-1, 1e-4))
    assert np.allclose(large, small, rtol=1e-6)
    assert large[-1] - large[0] > 7
    assert fusion.surprise(probe * 1e-4, fusion.reference(scores * 1e-4)).max() < 0.01
    assert not fusion.surprise(np.full(5, 0.3), fusion.unitless(np.full(100, 0.3))).any()
    assert fusion.surprise(np.full(5, 0.3 + 1e-8), fusion.unitless(0.3 + 1e-9 * scores)).max() < 0.01  # rounding is no news


def test_contributions_sum_to_the_strangeness() -> None:
    e = np.random.default_rng(0).exponential(size=(30, 7))
    parts = fusion.contributions(e, e.sum(axis=1))
    assert np.allclose(parts.sum(axis=1), e.sum(axis=1))
    assert (parts >= 0).all()


@pytest.mark.parametrize("rows", [1, 7, 2000])
def test_an_isolation_forest_says_what_pyod_says_of_it(rows: int) -> None:
    from pyod.models.iforest import IForest

    rng = np.random.default_rng(0)
    x, asked = rng.normal(size=(700, 4)), rng.normal(size=(rows, 4)) * 2
    x[:, 3] = np.round(x[:, 3])  # many alike
    theirs = IForest(n_estimators=outliers.TREES, max_samples=outliers.SAMPLE, random_state=0).fit(x).decision_function(asked)
    assert np.allclose(outliers.score(outliers.fit(x, 0), asked), theirs, rtol=0, atol=1e-12)


def test_trees_that_lead_back_are_refused() -> None:
    whole = outliers.fit(np.random.default_rng(0).normal(size=(100, 2)), 0).trees
    for child in (0, len(whole.child)):
        with pytest.raises(ValueError, match="leads back"):
            replace(whole, child=np.where(np.arange(len(whole.child))[:, None] == 1, child, whole.child))


@pytest.mark.parametrize("rows", [1, 7, 2000])
def test_a_boosting_says_what_its_library_says_of_it_whatever_the_company(rows: int) -> None:
    rng = np.random.default_rng(0)
    x, asked = rng.exponential(size=(900, 5)), rng.exponential(size=(rows, 5))
    y = (x[:, 0] + rng.normal(size=900) > 1).astype(float)
    model = fusion.grown(x, y, np.ones(900), 0)
    ours = fusion.trees_of(model)
    said = trees.total(ours, asked)
    assert np.array_equal(said, model.decision_function(asked))
    assert np.array_equal(said[:3], np.concatenate([trees.total(ours, one[None]) for one in asked[:3]]))


def test_not_a_bit_of_an_opinion_depends_on_what_else_is_judged() -> None:
    rng = np.random.default_rng(0)
    owners, stolen = rng.exponential(size=(2000, 17)), rng.exponential(3.0, (2000, 17))
    taken = fusion.Taken(stolen, np.full(2000, 50), np.full(2000, 5), np.ones(2000), np.zeros(2000, int), np.zeros(2000, bool))
    owned = fusion.Owned(owners, np.full(2000, 50), np.full(2000, 5), np.arange(2000) % 20)
    fitted, *_ = fusion.fit(owned, taken, np.ones(17, bool), np.full(17, -1), 3, 0)
    strange = stolen[:240]  # mostly beyond what owners had in sum, where the sum is not a step
    history, events = np.full(240, 50), np.full(240, 5)
    whole = fusion.judge(fitted, strange, history, events)
    assert 10 < len(np.unique(whole.heard)) <= 240
    for size in (1, 2, 3, 7, 60):
        for low in range(0, 240, size):
            part = slice(low, low + size)
            one = fusion.judge(fitted, strange[part], history[part], events[part])
            assert np.array_equal(one.heard, whole.heard[part])
            assert np.array_equal(one.llr, whole.llr[part])
            assert np.array_equal(fusion.strangeness(fitted, one), fusion.strangeness(fitted, whole)[part])


def test_a_pack_that_is_worse_or_no_numbers_does_not_replace_another(trained: Pack) -> None:
    assert training.worse(trained, None) is None
    assert training.worse(trained, trained) is None
    before = float(trained.report["simulated_auc"])
    weaker = replace(trained, report=trained.report | {"simulated_auc": before - 0.1})
    assert f"AUC {before - 0.1:.3f}" in str(training.worse(weaker, trained))
    blind = replace(trained, owners=replace(trained.owners, runs=np.array([0.01, np.nan, 0.0])))
    assert "owners.runs" in str(training.worse(blind, None))
