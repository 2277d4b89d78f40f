"""Evidence → how strange a session is: each channel against its own noise, then three opinions that add up.

1. calibration: a channel's nats become e = -log p, p from owners' own sessions of similar history; beyond the reference an
   exponential tail with a ceiling, so that one wild channel does not outshout the rest.
2. boosting: gradient boosting, monotone in every e, trained on simulated takeovers; history and length of the session are context.
3. outlier model: PyOD's isolation forest on the e of the relevant channels, which needs no idea of how channels go together.
4. sum: the e of all channels, weighted by relevance: the plainest opinion, and the best one where history is short.

A channel is relevant as far as it alone tells simulated takeovers from owners' sessions. strangeness = the e of the three opinions
added up. The log-odds also feed the belief, scaled and shifted so that over owners' sessions the mean likelihood ratio is 1, which
a likelihood ratio must have.

Axes: S sessions, C channels, M maturity bins, Q quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detector import outliers

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

MATURITY = (1, 5, 20)  # bounds of the bins of history: none, new, young, mature
QUANTILES = 2000  # Q: a reference is kept as so many quantiles at most
SLACK = 0.1  # nats: differences below it are nothing, and constant channels stay silent
FINEST = 2000.0  # 1 / p that a reference resolves, however large
TAIL_CEILING = 3.0  # nats above the reference's largest e
TAIL_SHARE = 0.02  # of the reference gives the scale of the tail
LLR_SLOPE, LLR_LOW, LLR_HIGH = 1.5, -5.0, 6.0  # one session alone neither clears nor condemns for good
RELEVANT = 0.25  # relevance from which a channel is shown to the outlier model: half of the best one's gain
FEWEST = 30  # sessions: a bin with fewer sessions borrows the reference of all


@dataclass(frozen=True)
class Reference:
    """Sorted scores of owners' sessions, and the scale of what lies beyond."""

    values: np.ndarray  # (Q,) ascending
    count: int  # how many scores the quantiles stand for
    scale: float


def reference(scores: np.ndarray) -> Reference:
    """The reference of (S,) owners' scores."""
    values = np.sort(scores)
    top = values[int((1 - TAIL_SHARE) * len(values)) :]
    scale = max(float((top - top[0]).mean()), 0.5)
    kept = values
    if len(values) > QUANTILES:  # all of the tail, and quantiles of the rest
        tail = values[-QUANTILES // 4 :]
        body = np.quantile(values[: -QUANTILES // 4], np.linspace(0, 1, QUANTILES - len(tail)))
        kept = np.concatenate([body, tail])
    return Reference(kept, len(values), scale)


def surprise(scores: np.ndarray, ref: Reference) -> np.ndarray:
    """(S,) e = -log p of scores against a reference; monotone."""
    x = scores - SLACK
    size, tail = len(ref.values), QUANTILES // 4
    above = size - np.searchsorted(ref.values, x, side="left").astype(float)
    if ref.count > size:
        body = size - tail
        above = np.where(above > tail, tail + (above - tail) / body * (ref.count - tail), above)
    finest = max(ref.count / FINEST, 1.0)  # as if of FINEST scores, so that packs of longer histories do not shout louder
    e = -np.log((finest + above) / (finest + ref.count))
    beyond = np.maximum(x - ref.values[-1], 0) / ref.scale
    return e + TAIL_CEILING * -np.expm1(-beyond / TAIL_CEILING)


@dataclass(frozen=True)
class Fusion:
    """What turns (S, C) channels into strangeness and log-likelihood ratios."""

    channels: tuple[tuple[Reference, ...], ...]  # C channels of M references
    boosting: HistGradientBoostingClassifier
    forest: outliers.Forest
    boosting_reference: Reference
    forest_reference: Reference
    sum_reference: Reference
    relevance: np.ndarray  # (C,) in [0, 1]
    llr_shift: float


@dataclass(frozen=True)
class Opinion:
    """What the fusion says of S sessions."""

    e: np.ndarray  # (S, C) nats per channel, ≥ 0
    odds: np.ndarray  # (S,) log-odds of the boosting
    llr: np.ndarray  # (S,) log-likelihood ratio, somebody else over owner, in [LLR_LOW, LLR_HIGH]


def calibrate(references: tuple[tuple[Reference, ...], ...], channels: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S, C) e of the channels, against sessions of accounts with a similar history."""
    columns = [by_history(references[c], channels[:, c], history) for c in range(channels.shape[1])]
    return np.stack(columns, axis=1)


def references_by_history(scores: np.ndarray, history: np.ndarray) -> tuple[Reference, ...]:
    """(M) references of (S,) owners' scores; a bin with too few borrows that of all. Without history all are alike: one will do."""
    bins, everybody = np.searchsorted(MATURITY, history, side="right"), reference(scores)
    size = np.bincount(bins, minlength=len(MATURITY) + 1)
    return tuple(reference(scores[bins == b]) if n >= (FEWEST if b else 1) else everybody for b, n in enumerate(size))


def by_history(references: tuple[Reference, ...], scores: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) e of scores, against sessions of accounts with a similar history."""
    bins, out = np.searchsorted(MATURITY, history, side="right"), np.zeros(len(scores))
    for b in np.unique(bins):
        out[bins == b] = surprise(scores[bins == b], references[b])
    return out


def context(history: np.ndarray, events: np.ndarray) -> np.ndarray:
    """(S, 2): how much is known of the account, and how much happened in the session."""
    return np.stack([np.log1p(history), np.log(np.maximum(events, 1))], axis=1)


def judge(fusion: Fusion, channels: np.ndarray, history: np.ndarray, events: np.ndarray) -> Opinion:
    """The fusion's opinion of (S, C) channels; each session's opinion depends on that session alone."""
    e = calibrate(fusion.channels, channels, history)
    odds = fusion.boosting.decision_function(np.concatenate([e, context(history, events)], axis=1))
    return Opinion(e, odds, likelihood_ratio(fusion, odds))


def strangeness(fusion: Fusion, opinion: Opinion) -> np.ndarray:
    """(S,) nats. Not a part of `judge`: the next session of an account waits for the odds only, and the forest is slow on few."""
    return added_up(fusion, opinion.odds, outliers.score(fusion.forest, opinion.e[:, fusion.relevance >= RELEVANT]), opinion.e)


def added_up(fusion: Fusion, odds: np.ndarray, outlier: np.ndarray, e: np.ndarray) -> np.ndarray:
    """(S,) nats from the three opinions: log-odds (S,), outlier scores (S,), and e (S, C)."""
    total = e @ fusion.relevance
    return (
        surprise(odds, fusion.boosting_reference)
        + surprise(outlier, fusion.forest_reference)
        + surprise(total, fusion.sum_reference)
    )


def likelihood_ratio(fusion: Fusion, odds: np.ndarray) -> np.ndarray:
    """(S,) log-likelihood ratio, somebody else over owner, from (S,) log-odds."""
    return np.clip(fusion.llr_shift + LLR_SLOPE * odds, LLR_LOW, LLR_HIGH)


def fit(
    owners: np.ndarray,
    owners_context: tuple[np.ndarray, np.ndarray],
    attacks: np.ndarray,
    attacks_context: tuple[np.ndarray, np.ndarray],
    weight: np.ndarray,
    seed: int,
) -> tuple[Fusion, np.ndarray]:
    """Fit on channels of owners' sessions (S, C) and of simulated takeovers with their weights; contexts are (history, events).

    Returns the fusion, and the owners' strangeness after a boosting that did not see them (two folds).
    """
    history, channels = owners_context[0], owners.shape[1]
    references = tuple(references_by_history(owners[:, c], history) for c in range(channels))
    e_owners, e_attacks = calibrate(references, owners, history), calibrate(references, attacks, attacks_context[0])
    gain = np.array([max(auc(e_owners[:, c], e_attacks[:, c], weight) - 0.5, 0.0) for c in range(channels)])
    relevance = (gain / max(float(gain.max()), 1e-9)) ** 2
    x = np.concatenate([np.c_[e_owners, context(*owners_context)], np.c_[e_attacks, context(*attacks_context)]])
    y = np.concatenate([np.zeros(len(owners)), np.ones(len(attacks))])
    weights = np.concatenate([np.ones(len(owners)), weight * len(owners) / weight.sum()])
    fold = np.arange(len(x)) % 2
    odds = np.zeros(len(x))
    for k in (0, 1):
        there, here = fold != k, fold == k
        odds[here] = _boosting(channels, seed).fit(x[there], y[there], weights[there]).decision_function(x[here])
    relevant = e_owners[:, relevance >= RELEVANT]
    forest = outliers.fit(relevant, seed)
    outlier, own = outliers.score(forest, relevant), odds[: len(owners)]
    fitted = Fusion(
        channels=references,
        boosting=_boosting(channels, seed).fit(x, y, weights),
        forest=forest,
        boosting_reference=reference(own),
        forest_reference=reference(outlier),
        sum_reference=reference(e_owners @ relevance),
        relevance=relevance,
        llr_shift=-float(np.log(np.mean(np.exp(np.clip(LLR_SLOPE * own, LLR_LOW - 1, LLR_HIGH + 2))))),
    )
    return fitted, added_up(fitted, own, outlier, e_owners)


def _boosting(channels: int, seed: int) -> HistGradientBoostingClassifier:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=60,
        max_leaf_nodes=4,  # few interactions: the simulated attacks are not the real ones
        learning_rate=0.1,
        min_samples_leaf=30,
        l2_regularization=1.0,
        monotonic_cst=[1] * channels + [0, 0],
        early_stopping=False,
        random_state=seed,
    )


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
