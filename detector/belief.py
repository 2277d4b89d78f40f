"""Evidence adds up over sessions: a hidden filter per account, p-values, and how much a session may teach.

An account is as usual, or strange in one of three ways: it is in a thief's hands, or its owner's own ways are strange, for a moment
(a journey) or for long (another device, other work). All that is strange looks alike; but a thief's sessions are soon over, and how
often and for how long owners are strange shows in the history (a hidden Markov model, Rabiner 1989). The score of a session is its
own strangeness plus three quarters of what earlier sessions add to the odds of a thief. A session that follows strange ones and is
strange, too, need not be a thief's: where owners are strange for long, that speaks for the owner.

Calm sessions teach at once, and what has been strange for so long that it is hardly a thief's. Other sessions in doubt wait (see
`waiting`) and teach late; of those that are all but certainly no owner's only people can say that they are the owner's.

Axes: S sessions, 3 ways of being strange: a thief, an owner for a moment, an owner for long.
"""

from __future__ import annotations

import numpy as np

ENTRY = 0.01  # of what is strange, in a session after a usual one
STAY = np.array([0.8, 0.5, 0.97])  # that it is the same in the next session
THEFTS = 0.01  # runs of thieves' sessions that begin in a session, as often as owners' runs, which the history shows
UNSEEN = 0.001  # of owners' runs beside those of the history, of either length: a short one shows few
STRIKING = 2.0  # nats for somebody else: an owner's session is strange
ROUNDS = 100  # of the fit of owners' runs; more change nothing
NEW = 5  # sessions known
CARRY = 0.75  # of all of it email and browsing lost up to .004 of AUC, of half of it commands half a point of cost
DOUBTED, CERTAIN = 0.5, 0.95  # belief from which a session is likely strange; all but certainly
# belief; with .1 a takeover whose first session looked tame was learnt, and learning by 1 - belief cost 3 points on commands
CALM = 0.03
HARDLY = 0.05  # of what is strange is a thief's: after some 25 sessions in a row
OWNERS = np.full(2, UNSEEN)  # runs of strange sessions that begin in a session of an owner, short and long, as far as is known


def runs(strange: np.ndarray, account: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(2,) how many runs of strange sessions begin in a session of an owner: short ones and long ones.

    strange (S,) bool: sessions of accounts (S,), in their order; share (S,): the probability that they are the owner's. How long
    runs are is a mixture of two geometric distributions, fitted by expectation and maximisation (Dempster 1977).
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
    stay = STAY[1:]
    likely = stay ** (length[:, None] - 1) * np.where(ended[:, None], 1 - stay, 1.0)
    parts = np.full(2, 0.5)
    for _ in range(ROUNDS):
        each = likely * parts
        each *= (weight / each.sum(axis=1))[:, None]
        parts = each.sum(axis=0) / max(float(weight.sum()), 1e-9)
    return OWNERS + parts * weight.sum() / max(int((~strange).sum()), 1)


def _entries(owners: np.ndarray) -> np.ndarray:
    """(3,) probability of each way of being strange after a usual session; owners (2,): as `runs` has them."""
    often = np.array([THEFTS, *owners])
    return np.asarray(ENTRY * often / often.sum())


def prior(doubt: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(S, 3) probabilities before a session; doubt (S, 3): those after the last one, owners (2,): as `runs` has them."""
    return STAY * doubt + (1 - doubt.sum(axis=1, keepdims=True)) * _entries(owners)


def update(doubt: np.ndarray, llr: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(S, 3) probabilities after a session with log-likelihood ratio `llr` (S,) of somebody else over the owner as ever."""
    strange = prior(doubt, owners) * np.exp(np.minimum(llr, 0.0))[:, None]
    usual = (1 - prior(doubt, owners).sum(axis=1)) * np.exp(-np.maximum(llr, 0.0))
    return np.asarray(strange / (strange.sum(axis=1) + usual)[:, None])


def carried(doubt: np.ndarray, llr: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(S,) nats that earlier sessions add to the score of one with `llr`: what they do to the odds of a thief.

    0 for an account without doubt. Below 0 where a strange session comes after so many others that it is rather the owner's.
    """
    return CARRY * (_odds(prior(doubt, owners), llr) - _odds(prior(np.zeros_like(doubt), owners), llr))


def _odds(strange: np.ndarray, llr: np.ndarray) -> np.ndarray:
    """(S,) log-odds of a thief, but for the session's own evidence, of which an owner who is strange has as much."""
    others = 1 - strange.sum(axis=1) + strange[:, 1:].sum(axis=1) * np.exp(llr)
    return np.asarray(np.log(strange[:, 0]) - np.log(others))


def confident(llr: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) log-likelihood ratios, smaller where little is known of the account."""
    return llr * trust(history)


def trust(history: np.ndarray) -> np.ndarray:
    """(S,) in [0, 1): what a profile of so many sessions is worth."""
    return history / (history + NEW)


def waits(doubt: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(S,) bool: sessions that are not learnt now, by their weight, but may be later; doubt (S, 3) after them."""
    return (weight == 0) & (doubt.sum(axis=1) < CERTAIN)


def lesson(doubt: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) weight with which a session is learnt at once, doubt (S, 3) after it: calm ones whole, others not at all.

    A new account learns everything, since nothing can be told from it yet. What has been strange for long is learnt again: an owner
    whose habits have changed would stay locked out for ever, a thief has been on the list for long.
    """
    belief = doubt.sum(axis=1)
    return np.where((belief < CALM) | (doubt[:, 0] < HARDLY * belief) | (history < NEW), 1.0, 0.0)
