"""Evidence adds up over sessions: a hidden filter per account, p-values, and how much a session may teach.

An account is as usual, or strange in one of three ways: it is in a thief's hands, or its owner's own ways are strange, for a moment
(a journey) or for long (another device, other work). A thief's visits are soon over; how often, for how long and how strange owners
are shows in the history (a hidden Markov model, Rabiner 1989). The sessions of one run are strange alike, so the first tells most.
The score of a session is its own strangeness plus three quarters of what earlier sessions add to the odds of a thief. A session
that follows strange ones and is strange, too, need not be a thief's: where owners are strange for long, that speaks for the owner.

Calm sessions teach at once, and what has been strange for so long that it is hardly a thief's. Other sessions in doubt wait (see
`waiting`) and teach late; of those that are all but certainly not as usual, and rather a thief's, only people can say that they are
the owner's.

Axes: S sessions, 3 ways of being strange: a thief, an owner for a moment, an owner for long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENTRY = 0.01  # of what is strange, in a session after a usual one
STAY = np.array([0.8, 0.5, 0.97])  # that it is the same in the next session; of owners who are so for a moment at most
THEFTS = 0.01  # runs of thieves' sessions that begin in a session, as often as owners' runs, which the history shows
UNSEEN = 0.001  # of owners' runs beside those of the history, of either length: a short one shows few
FEW_STAYED = 2.0  # strange sessions of owners that STAY is worth beside those of the history
# runs that a long one of a time without thieves counts for: few as they are, each brings many sessions. Of 10 hit@1% is .01 lower
# on commands, whose thieves stay long, too
LONG = 5.0
ALIKE = 0.6  # power of the degree of strangeness after the first session of a run, whose sessions are strange alike
STRIKING = (2.0, 5.0)  # nats for somebody else: a session is strange, very strange
FEW = 5.0  # strange sessions of owners that the degree of thieves' is worth beside them
ROUNDS = 100  # of the fit of owners' runs; more change nothing
NEW = 5  # sessions known
NEVER_SURE = 1e-9  # that an account is strange, however long it has been
CARRY = 0.75  # of all of it email and browsing lost up to .004 of AUC, of half of it commands half a point of cost
DOUBTED, CERTAIN = 0.5, 0.95  # belief from which a session is likely strange; all but certainly
# belief; with .1 a takeover whose first session looked tame was learnt, and learning by 1 - belief cost 3 points on commands
CALM = 0.03
PATIENCE = 25  # sessions; of 20 an earlier detector learnt takeovers that were not over, 40 lock owners out for longer


@dataclass(frozen=True)
class Owners:
    """How owners are strange, as far as the history shows."""

    runs: np.ndarray  # (3,) runs of strange sessions that begin in a session: short ones, long ones, of these those in trusted time
    stay: np.ndarray  # (2,) that such a run goes on in the next session
    degree: np.ndarray  # (2,) how much more often than a thief's a strange session of theirs is strange; very strange


UNKNOWN = Owners(np.zeros(3), STAY[1:], np.ones(2))


def degree_of(owners: np.ndarray, thieves: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(2,) the degree of strange owners' sessions, by llr of owners' sessions (S,) and of thieves' (T,) of weight (T,).

    Only its root: simulated thieves are not real ones. Whole, it costs `commands` up to .02 of hit@5%.
    """
    low, high = STRIKING
    theirs = np.clip((weight * (thieves > high)).sum() / max(float((weight * (thieves > low)).sum()), 1e-9), 0.05, 0.95)
    own = (float((owners > high).sum()) + FEW * theirs) / (float((owners > low).sum()) + FEW)
    return np.sqrt([(1 - own) / (1 - theirs), own / theirs])


def runs_of(strange: np.ndarray, account: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2,) how many runs of strange sessions begin in a session of an owner, short ones and long ones; (2,) that they go on.

    strange (S,) bool: sessions of accounts (S,), in their order; share (S,): the probability that they are the owner's. How long
    runs are is a mixture of two geometric distributions, fitted by expectation and maximisation (Dempster 1977); how long the long
    ones are is not, since the end of few of them is seen.
    """
    order = np.argsort(account, kind="stable")
    odd, of = strange[order], account[order]
    begins = odd & (np.diff(of, prepend=-1).astype(bool) | ~np.concatenate([[False], odd[:-1]]))
    run = np.cumsum(begins)[odd] - 1
    length = np.bincount(run).astype(float)
    ended = np.zeros(len(length), bool)
    last = np.flatnonzero(odd & np.concatenate([odd[1:] != odd[:-1], [True]]))
    ended[np.cumsum(begins)[last] - 1] = np.concatenate([of[1:] == of[:-1], [False]])[last]
    weight = np.bincount(run, share[order][odd]) / np.maximum(length, 1.0)
    stay, parts, total = STAY[1:].copy(), np.full(2, 0.5), float(weight.sum())
    if total <= 0:
        return np.zeros(2), stay
    for _ in range(ROUNDS):
        each = stay ** (length[:, None] - 1) * np.where(ended[:, None], 1 - stay, 1.0) * parts
        each *= (weight / each.sum(axis=1))[:, None]
        parts = each.sum(axis=0) / total
        stayed, left = each[:, 0] @ (length - 1), each[:, 0] @ ended
        stay[0] = min((stayed + FEW_STAYED * STAY[1]) / (stayed + left + FEW_STAYED), STAY[1])  # else it takes long ones for short
    return parts * total / max(int((~strange).sum()), 1), stay


def _entries(owners: Owners) -> np.ndarray:
    """(3,) probability of each way of being strange after a usual session."""
    short, long, sure = owners.runs
    often = np.array([THEFTS, UNSEEN + short, UNSEEN + long + (LONG - 1) * sure])
    return np.asarray(ENTRY * often / often.sum())


def _before(doubt: np.ndarray, owners: Owners) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities before a session, (S, 3) to be still strange and (S, 3) to begin to be; doubt (S, 3): those after the last."""
    usual = np.maximum(1 - doubt.sum(axis=1, keepdims=True), NEVER_SURE)
    return doubt * [STAY[0], *owners.stay], usual * _entries(owners)


def _strange(still: np.ndarray, begins: np.ndarray, llr: np.ndarray, owners: Owners) -> np.ndarray:
    """(S, 3) probabilities before a session, those that it is an owner's times its degree."""
    degree = _degree(llr, owners)[:, None] ** [0, 1, 1]
    return np.asarray(still * degree**ALIKE + begins * degree)


def update(doubt: np.ndarray, llr: np.ndarray, history: np.ndarray, owners: Owners) -> np.ndarray:
    """(S, 3) probabilities after a session with log-likelihood ratio `llr` (S,) of somebody else over the owner as ever.

    history (S,): sessions known before it.
    """
    still, begins = _before(doubt, owners)
    told = llr * trust(history)
    strange = _strange(still, begins, llr, owners) * np.exp(np.minimum(told, 0.0))[:, None]
    usual = (1 - (still + begins).sum(axis=1)) * np.exp(-np.maximum(told, 0.0))
    return np.asarray(strange / (strange.sum(axis=1) + usual)[:, None])


def _degree(llr: np.ndarray, owners: Owners) -> np.ndarray:
    """(S,) how much more often than a thief's a strange session of an owner is as strange as this one."""
    return np.concatenate([[1.0], owners.degree])[np.searchsorted(STRIKING, llr)]


def carried(doubt: np.ndarray, llr: np.ndarray, history: np.ndarray, owners: Owners) -> np.ndarray:
    """(S,) nats that earlier sessions add to the score of one, as `update` takes it: what they do to the odds of a thief.

    0 for an account without doubt. Below 0 where a strange session comes after so many others that it is rather the owner's.
    """
    likely = np.exp(llr * trust(history))
    with_them, without = (_odds(d, llr, likely, owners) for d in (doubt, np.zeros_like(doubt)))
    return CARRY * (with_them - without)


def _odds(doubt: np.ndarray, llr: np.ndarray, likely: np.ndarray, owners: Owners) -> np.ndarray:
    """(S,) log-odds of a thief but for the session's own evidence, `likely` (S,) as it is of an owner who is strange."""
    still, begins = _before(doubt, owners)
    strange = _strange(still, begins, llr, owners)
    others = 1 - (still + begins).sum(axis=1) + strange[:, 1:].sum(axis=1) * likely
    return np.asarray(np.log(strange[:, 0]) - np.log(others))


def trust(history: np.ndarray) -> np.ndarray:
    """(S,) in [0, 1): what a profile of so many sessions is worth, and evidence that comes of it."""
    return history / (history + NEW)


def waits(doubt: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(S,) bool: sessions that are not learnt now, by their weight, but may be later; doubt (S, 3) after them.

    Those that are all but certainly not as usual only where they are rather the owner's than a thief's.
    """
    return (weight == 0) & ((doubt.sum(axis=1) < CERTAIN) | (doubt[:, 0] < DOUBTED))


def lesson(doubt: np.ndarray, history: np.ndarray, unlearnt: np.ndarray) -> np.ndarray:
    """(S,) weight with which a session is learnt at once, doubt (S, 3) after it: calm ones whole, others not at all.

    A new account learns everything, since nothing can be told from it yet. After PATIENCE sessions in a row that taught nothing it
    learns again: an owner whose habits have changed would stay locked out for ever, a thief has been on the list for long.
    """
    return np.where((doubt.sum(axis=1) < CALM) | (history < NEW) | (unlearnt >= PATIENCE), 1.0, 0.0)


def patience(doubt: np.ndarray, unlearnt: np.ndarray) -> np.ndarray:
    """(S,) sessions in a row that were not calm, after one with this doubt (S, 3)."""
    return np.where(doubt.sum(axis=1) < CALM, 0, unlearnt + 1)
