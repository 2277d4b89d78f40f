"""Evidence → how strange a session is: each channel against its own noise, then four opinions that add up, and one apart.

1. calibration: a channel's nats become e = -log p, p from owners' own sessions of similar history; beyond the reference an
   exponential tail with a ceiling, so that one wild channel does not outshout the rest.
2. boosting: gradient boosting, monotone in every e, trained on simulated takeovers; history and length of the session are context.
3. outlier model: PyOD's isolation forest on the e of the relevant channels, which needs no idea of how channels go together.
4. sum: the e of all channels, weighted by relevance, which those that say the same of owners share: the plainest opinion.
5. even sum: the same without relevance, but each channel the less the more of what it says lasts within an account.
6. apart: the sum of what is relevant for thieves whose events come between such as are the owner's (copied, or in turn).

A channel is relevant as far as it alone catches some kind of simulated takeovers at few false alarms, beside the channel that
catches most of that kind: what all kinds together are caught by would silence what alone catches some.

Simulated takeovers are strangers' everyday: a real thief does what is rare with everybody, which no relevance shows, and has of the
owner what he keeps to. What an owner is strange in for long (a device, a place) makes many of his sessions strange. So the even sum
hears all that a thief may differ in; of a log with one attribute that is what simulated takeovers show, and it is silent.

strangeness = the e of the first four opinions added up; where little is known of the account, boosting speaks for the others, since
it alone heeds how much is: otherwise young accounts' scores are not comparable with others' (accounts without history: AUC .748 for
.765 on email).

What the owner's values make look usual calms all of these; of a log with one attribute the order alone gives such a thief away. So
the last opinion does not add up with them but has a say of its own: strangeness is theirs, or what as few owners' sessions have of
theirs as it may disturb, if that is more. It may make SAY false alarms for each that the others make (a union of tests, of unequal
shares: Holm 1979), and next to none where there are several attributes: what of them is not copied tells the others. Belief hears
it in the same way, or it would learn from such thieves. It is measured against owners' sessions as in live running.

Belief is fed by boosting and sum alike, shifted so that over owners' sessions the mean likelihood ratio is 1, which a likelihood
ratio must have. With the boosting alone takeovers are learnt from that the sum sees: over four seeds commands' AUC is .976 for
.979, its cost the same.

Axes: S sessions, C channels, M maturity bins, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from detector import outliers, trees

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

MATURITY = (1, 5, 20)  # bounds of the bins of history: none, new, young, mature
QUANTILES = 2000  # Q: a reference is kept as so many quantiles at most
SLACK = 0.1  # nats: differences below it are nothing, and constant channels stay silent
UNITLESS_SLACK, LEAST_SLACK = 0.3, 1e-6  # of the spread, at most SLACK, of what is not in nats; what rounding may do is nothing
FINEST = 2000.0  # 1 / p that a channel's or an opinion's reference resolves, however large
TAIL_CEILING = 3.0  # nats above the reference's largest e
TAIL_SHARE = 0.02  # of the reference gives the scale of the tail
LEAST_SCALE = 0.5  # nats: of a tail whose slack is SLACK
MOST_BEND, LEAST_BEND = 0.5, 1e-3  # of the tail of p, its shape with the sign changed; below the least it is exponential
ROOM = 1.2  # the tail does not end before this many times the largest score's distance from where the tail begins
FEWEST_TAIL = 20  # scores that the tail of p is fitted to; of fewer it would say anything
LLR_ODDS, LLR_HEARD = 0.75, 0.5  # half of what each would say alone: 1.5 times the log-odds, once the e of boosting and sum
KNOWN = 10.0  # sessions known at which forest and sum speak half for themselves; of 5 to 40 none is clearly better
LLR_LOW, LLR_HIGH = -5.0, 6.0  # one session alone neither clears nor condemns for good
FEW = (0.0125, 0.025, 0.05)  # shares of false alarms at which a channel must catch something to be relevant
RELEVANT = 0.5  # share of the best channel's AUC above 0.5, for some kind, from which a channel is shown to the outlier model
CAUGHT = 0.1  # what a kind's best channel catches beyond chance, or has of AUC above 0.5, from which it counts in full
LASTS = 2.0  # power of a channel's variance within accounts, as a share of all, that it counts in the even sum; of 1 less is gained
# of the even sum's nats, where there are many attributes; with all of it made payments gain up to .02 of what is caught at few
# false alarms, made logs of commits and of strangers spliced in lose as much
EVEN = 0.75
# false alarms of the sum apart for each of the others, where there is one attribute: of thieves who copy half on commands .39 are
# caught with it at 1 %, without it .12, with 1 .41. And the power of the number of attributes that it is divided by: of the first
# power 16 made logs lose .01 of hit@1%
SAY, SEVERAL, NO_SAY = 0.5, 3, 1e-12
FARTHEST = 0.95  # of the nats beyond a reference's largest score that any score has
GRID = 0.05  # nats between thresholds of the boosting: quantiles took up to a quarter of a training, and are coarse in the tail
# of what the looks at single numbers weigh, for the one at all of them; with all of it hit@1% is .03 to .05 more on made mice, and
# .05 to .08 less on made payments with a dozen numbers, whose thieves are strange in one
WHOLE = 0.25
FEWEST = 30  # sessions: a bin with fewer sessions borrows the reference of all


@dataclass(frozen=True)
class Reference:
    """Sorted scores of owners' sessions, and the scale of what lies beyond."""

    values: np.ndarray  # (Q,) ascending
    count: int  # how many scores the quantiles stand for
    scale: float
    slack: float = SLACK  # differences below it are nothing


def unitless(scores: np.ndarray) -> Reference:
    """The reference of (S,) owners' scores that are not in nats: what is nothing follows from how far they spread."""
    low, high = np.quantile(scores, (0.16, 0.84))
    return reference(scores, float(np.clip(UNITLESS_SLACK * (high - low) / 2, LEAST_SLACK, SLACK)))


def reference(scores: np.ndarray, slack: float = SLACK) -> Reference:
    """The reference of (S,) owners' scores in nats."""
    values = np.sort(scores)
    top = values[int((1 - TAIL_SHARE) * len(values)) :]
    scale = max(float((top - top[0]).mean()), LEAST_SCALE * slack / SLACK)
    kept = values
    if len(values) > QUANTILES:  # all of the tail, and quantiles of the rest
        tail = values[-QUANTILES // 4 :]
        body = np.quantile(values[: -QUANTILES // 4], np.linspace(0, 1, QUANTILES - len(tail)))
        kept = np.concatenate([body, tail])
    return Reference(kept, len(values), scale, slack)


def surprise(scores: np.ndarray, ref: Reference) -> np.ndarray:
    """(S,) e = -log p of scores against a reference; monotone."""
    x = scores - ref.slack
    size, tail = len(ref.values), QUANTILES // 4
    above = size - np.searchsorted(ref.values, x, side="left").astype(float)
    if ref.count > size:
        body = size - tail
        above = np.where(above > tail, tail + (above - tail) / body * (ref.count - tail), above)
    finest = max(ref.count / FINEST, 1.0)  # as if of FINEST scores, so that packs of longer histories do not shout louder
    e = -np.log((finest + above) / (finest + ref.count))
    beyond = np.maximum(x - ref.values[-1], 0) / ref.scale
    return e + TAIL_CEILING * -np.expm1(-beyond / TAIL_CEILING)


def level(e: np.ndarray, ref: Reference) -> np.ndarray:
    """(S,) scores whose surprise is `e`, the inverse of `surprise`; the least of the reference where e is not above 0."""
    size, tail, finest = len(ref.values), QUANTILES // 4, max(ref.count / FINEST, 1.0)
    above = (finest + ref.count) * np.exp(-np.maximum(e, 0.0)) - finest
    if ref.count > size:
        above = np.where(above > tail, tail + (above - tail) * (size - tail) / (ref.count - tail), above)
    inside = np.interp(size - above, np.arange(size), ref.values)
    beyond = np.clip((e - np.log1p(ref.count / finest)) / TAIL_CEILING, 0.0, FARTHEST)
    return np.asarray(inside + ref.slack - TAIL_CEILING * ref.scale * np.log1p(-beyond))


@dataclass(frozen=True)
class Fusion:
    """What turns (S, C) channels into strangeness and log-likelihood ratios."""

    channels: tuple[tuple[Reference, ...], ...]  # C channels of M references
    boosting: trees.Trees  # (C + 2 columns: e and context) log-odds
    forest: outliers.Forest
    boosting_reference: Reference
    forest_reference: Reference
    sum_reference: Reference
    even_reference: Reference
    weight: np.ndarray  # (C,) in [0, 1]: of the channels in the sum
    even: np.ndarray  # (C,) of the channels in the even sum
    voice: float  # in [0, 1]: of the even sum beside the other opinions
    shown: np.ndarray  # (C,) bool: what the outlier model looks at
    among: np.ndarray  # (C,) of the channels in the sum that looks for thieves among the owner's values
    among_reference: Reference  # its sums for owners' sessions, at last as `lived_through` has them
    odds_reference: Reference  # what belief is fed of owners' sessions, but for the shift
    strange_reference: Reference  # what the others add up to for owners' sessions
    say: float  # false alarms that the sum apart may make for each of the others
    llr_shift: float


@dataclass(frozen=True)
class Opinion:
    """What the fusion says of S sessions."""

    e: np.ndarray  # (S, C) nats per channel, ≥ 0
    boosting: np.ndarray  # (S,) nats
    heard: np.ndarray  # (S,) nats of boosting and sum
    history: np.ndarray  # (S,) sessions known
    llr: np.ndarray  # (S,) log-likelihood ratio, somebody else over owner, in [LLR_LOW, LLR_HIGH]


def calibrate(references: tuple[tuple[Reference, ...], ...], channels: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S, C) e of the channels, against sessions of accounts with a similar history."""
    columns = [by_history(references[c], channels[:, c], history) for c in range(channels.shape[1])]
    return np.stack(columns, axis=1)


def references_by_history(
    scores: np.ndarray, history: np.ndarray, made: Callable[[np.ndarray], Reference] = reference
) -> tuple[Reference, ...]:
    """(M) references of (S,) owners' scores; a bin with too few borrows that of all. Without history all are alike: one will do."""
    bins, everybody = np.searchsorted(MATURITY, history, side="right"), made(scores)
    size = np.bincount(bins, minlength=len(MATURITY) + 1)
    return tuple(made(scores[bins == b]) if n >= (FEWEST if b else 1) else everybody for b, n in enumerate(size))


def by_history(
    references: tuple[Reference, ...],
    scores: np.ndarray,
    history: np.ndarray,
    measure: Callable[[np.ndarray, Reference], np.ndarray] = surprise,
) -> np.ndarray:
    """(S,) e of scores, or what else measures them, against sessions of accounts with a similar history."""
    bins, out = np.searchsorted(MATURITY, history, side="right"), np.zeros(len(scores))
    for b in np.unique(bins):
        out[bins == b] = measure(scores[bins == b], references[b])
    return out


def p_values(references: tuple[Reference, ...], scores: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) p in (0, 1] of scores: the share of owners' sessions, of accounts with a similar history, that are as strange."""
    return by_history(references, scores, history, _p_values)


def _p_values(scores: np.ndarray, ref: Reference) -> np.ndarray:
    """(S,) p; the largest scores, if there are enough, follow a generalised Pareto tail: which of them came is chance.

    Peaks over a threshold (Pickands 1975), fitted by mean and variance (Hosking & Wallis 1987). Scores add up what is bounded, so
    the tail is an exponential one at most, and ends beyond the largest score. How far beyond that a score lies says little, as in
    `surprise`.
    """
    p, tail = np.exp(-surprise(scores, ref)), min(int(TAIL_SHARE * ref.count), QUANTILES // 4)
    if tail < FEWEST_TAIL:
        return p
    x, threshold, largest = scores - ref.slack, ref.values[-tail - 1], ref.values[-1]
    above = ref.values[-tail:] - threshold
    mean = max(float(above.mean()), LEAST_SCALE)
    lighter = max(mean**2 / max(float(above.var()), 1e-9) - 1, 0.0) / 2
    bend = min(lighter, MOST_BEND, 1 / (ROOM * max(float(above[-1]) / mean, 1.0) - 1))
    scale = mean * (1 + bend)
    inside = (np.minimum(x, largest) - threshold) / scale
    if bend > LEAST_BEND:
        inside = -np.log1p(-bend * np.maximum(inside, 0)) / bend
    beyond = TAIL_CEILING * -np.expm1(-np.maximum(x - largest, 0) / scale / TAIL_CEILING)
    return np.where(x > threshold, (1 + tail) / (1 + ref.count) * np.exp(-inside - beyond), p)


def context(history: np.ndarray, events: np.ndarray) -> np.ndarray:
    """(S, 2): how much is known of the account, and how much happened in the session."""
    return np.stack([np.log1p(history), np.log(np.maximum(events, 1))], axis=1)


def judge(fusion: Fusion, channels: np.ndarray, history: np.ndarray, events: np.ndarray) -> Opinion:
    """The fusion's opinion of (S, C) channels; each session's opinion depends on that session alone."""
    e = calibrate(fusion.channels, channels, history)
    odds = trees.total(fusion.boosting, np.concatenate([e, context(history, events)], axis=1))
    boosting = surprise(odds, fusion.boosting_reference)
    heard = boosting + _spoken(surprise(np.einsum("sc,c->s", e, fusion.weight), fusion.sum_reference), boosting, history)
    raw = np.maximum(LLR_ODDS * odds + LLR_HEARD * heard, level(_apart(fusion, e, history), fusion.odds_reference))
    return Opinion(e, boosting, heard, history, np.clip(raw + fusion.llr_shift, LLR_LOW, LLR_HIGH))


def _apart(fusion: Fusion, e: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) nats that the sum apart has by its say, of (S, C) e; of young accounts it has less."""
    nats = surprise(np.einsum("sc,c->s", e, fusion.among), fusion.among_reference)
    return np.asarray(nats + np.log(np.maximum(fusion.say * history / (history + KNOWN), NO_SAY)))


def lived_through(fusion: Fusion, channels: np.ndarray, history: np.ndarray) -> Fusion:
    """The fusion with its sum apart measured against owners' sessions (S, C) as they are in live running; history (S,).

    There who changes is strange for longer than where all is learnt at once. Measured as the others are, it costs commands a point.
    """
    e = calibrate(fusion.channels, channels, history)
    return replace(fusion, among_reference=reference(np.einsum("sc,c->s", e, fusion.among)))


def _spoken(other: np.ndarray, boosting: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) nats of another opinion; as far as little is known, those of the boosting in place of its own."""
    known = history / (history + KNOWN)
    return known * other + (1 - known) * boosting


def strangeness(fusion: Fusion, opinion: Opinion) -> np.ndarray:
    """(S,) nats. Not a part of `judge`: the next session of an account does not wait for the forest, which is slow on few."""
    forest = surprise(outliers.score(fusion.forest, opinion.e[:, fusion.shown]), fusion.forest_reference)
    even = surprise(np.einsum("sc,c->s", opinion.e, fusion.even), fusion.even_reference)
    others = opinion.heard + _unheard(forest, even, fusion.voice, opinion.boosting, opinion.history)
    return np.maximum(others, level(_apart(fusion, opinion.e, opinion.history), fusion.strange_reference))


def _unheard(forest: np.ndarray, even: np.ndarray, voice: float, boosting: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) nats of the opinions that belief does not hear."""
    return _spoken(forest, boosting, history) + voice * _spoken(even, boosting, history)


@dataclass(frozen=True)
class Owned:
    """Owners' sessions (S) that a fusion learns from."""

    channels: np.ndarray  # (S, C) nats
    history: np.ndarray  # (S,) sessions known
    events: np.ndarray  # (S,)
    account: np.ndarray  # (S,) whose; of those below 0 it is not asked what lasts


@dataclass(frozen=True)
class Taken:
    """Takeovers (S) that a fusion learns from."""

    channels: np.ndarray  # (S, C) nats
    history: np.ndarray  # (S,)
    events: np.ndarray  # (S,)
    weight: np.ndarray  # (S,) > 0
    kind: np.ndarray  # (S,) codes; of those below 0 it is not asked what catches them
    among: np.ndarray  # (S,) bool: their events come between such as are the owner's


@dataclass(frozen=True)
class Heldout:
    """What a fusion says of what it was fitted on, by boostings that did not see it (two folds)."""

    strangeness: np.ndarray  # (S,) nats of the owners' sessions
    owners: np.ndarray  # (S,) their llr
    taken: np.ndarray  # (T,) llr of the takeovers


def fit(
    owned: Owned, taken: Taken, in_nats: np.ndarray, whole: np.ndarray, attributes: int, seed: int
) -> tuple[Fusion, np.ndarray, Heldout]:
    """Fit on owners' sessions and on takeovers.

    Comes with how relevant each channel is, (C,) in [0, 1], and what is said of all these by who did not see them.

    in_nats: (C,) bool, which channels are. whole: (C,) the channel that looks at what this one looks at and more; -1: none.
    attributes: in how many a thief may differ.
    """
    owners, history, events = owned.channels, owned.history, owned.events
    made = [reference if nats else unitless for nats in in_nats]
    references = tuple(references_by_history(owners[:, c], history, of) for c, of in enumerate(made))
    e_owners, e_attacks = calibrate(references, owners, history), calibrate(references, taken.channels, taken.history)
    relevance, shown = relevance_of(e_owners, e_attacks, taken.weight, taken.kind)
    heeded = for_all(shared(relevance, e_owners), relevance, whole)
    even, voice = evenly(e_owners, owned.account, whole), EVEN * (1 - 1 / max(attributes, 1))
    weight = taken.weight
    x = np.concatenate([np.c_[e_owners, context(history, events)], np.c_[e_attacks, context(taken.history, taken.events)]])
    coarse = np.round(x / GRID) * GRID
    y = np.concatenate([np.zeros(len(owners)), np.ones(len(weight))])
    weights = np.concatenate([np.ones(len(owners)), weight * len(owners) / weight.sum()])
    fold = np.arange(len(x)) % 2
    odds = np.zeros(len(x))
    for k in (0, 1):
        there, here = fold != k, fold == k
        odds[here] = trees.total(_boosting(coarse[there], y[there], weights[there], seed), x[here])
    forest = outliers.fit(e_owners[:, shown], seed)
    outlier, own, total = outliers.score(forest, e_owners[:, shown]), odds[: len(owners)], e_owners @ heeded
    references_of = opinions_of(own, outlier, total, e_owners @ even)
    boosting = surprise(own, references_of[0])
    heard = boosting + _spoken(surprise(total, references_of[2]), boosting, history)
    theirs = surprise(odds[len(owners) :], references_of[0])
    of_them = theirs + _spoken(surprise(e_attacks @ heeded, references_of[2]), theirs, taken.history)
    unheard = surprise(outlier, references_of[1]), surprise(e_owners @ even, references_of[3])
    strangeness = heard + _unheard(*unheard, voice, boosting, history)
    raw, raw_of_them = LLR_ODDS * own + LLR_HEARD * heard, LLR_ODDS * odds[len(owners) :] + LLR_HEARD * of_them
    among = among_of(e_owners, e_attacks[taken.among], weight[taken.among])
    fitted = Fusion(
        references,
        _boosting(coarse, y, weights, seed),
        forest,
        *references_of,
        heeded,
        even,
        voice,
        shown,
        among,
        reference(e_owners @ among),
        reference(raw),
        reference(strangeness),
        say=SAY / max(attributes, 1) ** SEVERAL,
        llr_shift=0.0,
    )
    says = _apart(fitted, e_owners, history), _apart(fitted, e_attacks, taken.history)
    raw, raw_of_them = (np.maximum(x, level(s, fitted.odds_reference)) for x, s in zip((raw, raw_of_them), says, strict=True))
    fitted = replace(fitted, llr_shift=_llr_shift(raw))
    llr, llr_of_them = (np.clip(x + fitted.llr_shift, LLR_LOW, LLR_HIGH) for x in (raw, raw_of_them))
    return fitted, relevance, Heldout(np.maximum(strangeness, level(says[0], fitted.strange_reference)), llr, llr_of_them)


def opinions_of(
    odds: np.ndarray, outlier: np.ndarray, total: np.ndarray, even: np.ndarray
) -> tuple[Reference, Reference, Reference, Reference]:
    """What each of the four opinions is measured against: owners' log-odds (S,), outlier scores (S,), sums (S,), even sums (S,)."""
    return reference(odds), unitless(outlier), reference(total), reference(even)


def relevance_of(owners: np.ndarray, attacks: np.ndarray, weight: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How relevant each column of (S, C) e is, (C,) in [0, 1], and whether the outlier model looks at it, (C,) bool.

    For each kind of the attacks: what a column catches beyond chance, as a share of what the best one does; less where the kind is
    rarer than most or no column catches it. Of a column's shares the largest counts, squared. Looked at is what tells owners from
    all attacks, or from those of a kind that is not rare, half as well as the best column does.
    """
    asked, channels = kind >= 0, owners.shape[1]
    shares, shown = np.zeros((1, channels)), np.zeros(channels, bool)
    for k in (None, *np.unique(kind[asked])):
        some = asked if k is None else kind == k
        usual = min(float(weight[some].mean()), 1.0)
        if usual == 1.0:
            gain = np.array([max(auc(owners[:, c], attacks[some, c], weight[some]) - 0.5, 0.0) for c in range(channels)])
            shown |= (gain >= RELEVANT * gain.max()) & (k is None or gain.max() > CAUGHT)
        if k is not None:
            beyond = np.maximum(caught(owners, attacks[some], weight[some]) - np.mean(FEW), 0.0)
            share = usual * min(float(beyond.max()) / CAUGHT, 1.0) * beyond / max(float(beyond.max()), 1e-9)
            shares = np.concatenate([shares, share[None]])
    largest = shares.max(axis=0)
    return (largest / max(float(largest.max()), 1e-9)) ** 2, shown


def among_of(owners: np.ndarray, attacks: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(C,) weights of the sum apart, by e of owners' sessions and of attacks (S, C), of weight (S,), of one kind; 0 without any."""
    if not len(attacks):
        return np.zeros(owners.shape[1])
    return shared(relevance_of(owners, attacks, weight, np.zeros(len(weight), np.int64))[0], owners)


def shared(relevance: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(C,) weights of a sum: each channel's relevance (C,), shared with those that say the same of owners (S, C).

    Otherwise seven looks at where somebody is outvote the three at what he buys there.
    """
    centred = owners - owners.mean(axis=0)
    size = np.sqrt(np.einsum("sc,sc->c", centred, centred))
    alike = np.maximum(centred.T @ centred / np.maximum(np.outer(size, size), 1e-9), 0.0)
    np.fill_diagonal(alike, 1.0)
    return relevance**2 / np.maximum(alike @ relevance, 1e-9)


def evenly(owners: np.ndarray, account: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(C,) weights of the even sum, by e of owners' sessions (S, C) of the accounts (S,); whole (C,) as `fit` has it."""
    known = account >= 0
    passes = (1 - lasting(owners[known], account[known])) ** LASTS
    return for_all(shared(passes, owners), passes, whole)


def lasting(owners: np.ndarray, account: np.ndarray) -> np.ndarray:
    """(C,) share of the variance of e (S, C) that lies between accounts (S,), not between the sessions of one.

    The intraclass correlation by analysis of variance (Fisher 1925), of accounts with different numbers of sessions.
    """
    _, rows, size = np.unique(account, return_inverse=True, return_counts=True)
    accounts, sessions = len(size), len(rows)
    if not 1 < accounts < sessions:
        return np.zeros(owners.shape[1])
    sums = np.zeros((accounts, owners.shape[1]))
    np.add.at(sums, rows, owners)
    means = sums / size[:, None]
    between = size @ (means - owners.mean(axis=0)) ** 2 / (accounts - 1)
    within = np.sum((owners - means[rows]) ** 2, axis=0) / (sessions - accounts)
    usual = (sessions - size @ size / sessions) / (accounts - 1)  # sessions of an account
    apart = np.maximum(between - within, 0.0) / usual
    return apart / np.maximum(apart + within, 1e-9)


def for_all(weight: np.ndarray, relevance: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(C,) weights of a sum: what looks at several things together counts, as far as it is relevant (C,), for WHOLE of them.

    Otherwise dozens of looks at one number each outvote the one that knows how they go together. weight (C,) as `shared` has it;
    whole (C,) as `fit` has it.
    """
    part = whole >= 0
    of_all = np.bincount(whole[part], weight[part], len(weight))
    return np.maximum(weight, WHOLE * relevance * of_all)


def caught(owners: np.ndarray, attacks: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(C,) what share of the attacks, of weight (S,), each column of (S, C) scores catches at FEW false alarms, on average.

    Of scores at the limit as many as of the owners' may: what says the same of everybody catches what chance does.
    """
    out = np.zeros(owners.shape[1])
    for few in FEW:
        limit = np.quantile(owners, 1 - few, axis=0, method="inverted_cdf")
        above, at = (owners > limit).mean(axis=0), (owners == limit).mean(axis=0)
        may = np.clip((few - above) / at, 0.0, 1.0)
        out += weight @ ((attacks > limit) + may * (attacks == limit)) / weight.sum()
    return out / len(FEW)


def _llr_shift(raw: np.ndarray) -> float:
    """What to add to the (S,) owners' log-likelihood ratios so that, clipped, the mean ratio is 1."""
    shift = 0.0
    for _ in range(100):
        shift -= float(np.log(np.mean(np.exp(np.clip(raw + shift, LLR_LOW, LLR_HIGH)))))
    return shift


def _boosting(x: np.ndarray, y: np.ndarray, weights: np.ndarray, seed: int) -> trees.Trees:
    """Trees that tell thieves (y 1) from owners (y 0) by the e of the channels and, last, the context (S, C + 2)."""
    return trees_of(grown(x, y, weights, seed))


def grown(x: np.ndarray, y: np.ndarray, weights: np.ndarray, seed: int) -> HistGradientBoostingClassifier:
    """The boosting as its library has it."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=60,
        max_leaf_nodes=4,  # few interactions: the simulated attacks are not the real ones
        learning_rate=0.1,
        min_samples_leaf=30,
        l2_regularization=1.0,
        monotonic_cst=[1] * (x.shape[1] - 2) + [0, 0],
        early_stopping=False,
        random_state=seed,
    ).fit(x, y, weights)


def trees_of(boosting: HistGradientBoostingClassifier) -> trees.Trees:
    """The same as arrays."""
    asked = ("feature_idx", "num_threshold", "left", "right", "value")
    parts = [tuple(one.nodes[name] for name in asked) for (one,) in boosting._predictors]
    return trees.joined(parts, float(boosting._baseline_prediction.item()))


def auc(owners: np.ndarray, thieves: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the ROC curve (Mann-Whitney), ties shared; weight (S,) of the thieves."""
    weight = np.ones(len(thieves)) if weight is None else weight
    held = np.sort(owners)
    below = (np.searchsorted(held, thieves, side="left") + np.searchsorted(held, thieves, side="right")) / 2
    return float((weight * below).sum() / (weight.sum() * len(owners)))


def contributions(e: np.ndarray, strangeness: np.ndarray) -> np.ndarray:
    """(S, C) parts of the strangeness by channel, summing to it: in proportion to how far each e is above what is usual."""
    excess = np.maximum(e - 0.5, 0) ** 2 + 1e-6  # a usual e is about 1; the square lets the striking channels speak
    excess = np.where(excess < 0.01 * excess.max(axis=1, keepdims=True), 0.0, excess)
    return excess / excess.sum(axis=1, keepdims=True) * strangeness[:, None]
