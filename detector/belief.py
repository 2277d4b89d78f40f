"""Evidence adds up over sessions: a hidden two-state filter per account, p-values, and how much a session may teach.

Between two sessions an account falls into other hands with probability ENTRY and stays there with probability STAY (a hidden Markov
model, Rabiner 1989). The score of a session is its own strangeness plus three quarters of what earlier sessions carry over: of
all of it email and browsing lost up to .004 of AUC, of half of it commands half a point of cost.

Calm sessions teach at once. Sessions in doubt wait (see `waiting`) and teach late; of those that are all but certainly a thief's
only people can say that they are the owner's.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

ENTRY = 0.01
NEW = 5  # sessions known
PATIENCE = 40  # sessions
STAY = 0.8
CARRY = 0.75
DOUBTED, CERTAIN = 0.5, 0.95  # belief from which a session is likely a thief's; all but certainly
# belief; with .1 a takeover whose first session looked tame was learnt, and learning by 1 - belief cost 3 points on commands
CALM = 0.03


def prior(doubt: np.ndarray) -> np.ndarray:
    """(S,) probability, before a session, that the account is in other hands; doubt is the probability after the last one."""
    return STAY * doubt + ENTRY * (1 - doubt)


def update(doubt: np.ndarray, llr: np.ndarray) -> np.ndarray:
    """(S,) probability after a session with log-likelihood ratio `llr`."""
    return expit(logit(prior(doubt)) + llr)


def confident(llr: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) log-likelihood ratios, smaller where little is known of the account."""
    return llr * trust(history)


def trust(history: np.ndarray) -> np.ndarray:
    """(S,) in [0, 1): what a profile of so many sessions is worth."""
    return history / (history + NEW)


def carried(doubt: np.ndarray) -> np.ndarray:
    """(S,) nats that earlier sessions add to a session's score; 0 for an account without doubt."""
    return CARRY * np.maximum(logit(prior(doubt)) - logit(prior(np.zeros_like(doubt))), 0)


def waits(belief: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(S,) bool: sessions that are not learnt now, by their weight, but may be later."""
    return (weight == 0) & (belief < CERTAIN)


def lesson(belief: np.ndarray, history: np.ndarray, unlearnt: np.ndarray) -> np.ndarray:
    """(S,) weight with which a session is learnt at once: calm ones whole, others not at all.

    A new account learns everything, since nothing can be told from it yet. After PATIENCE sessions in a row that taught nothing it
    learns again: an owner whose habits have changed would stay locked out for ever, a thief has been on the list for long.
    """
    return np.where((belief < CALM) | (history < NEW) | (unlearnt >= PATIENCE), 1.0, 0.0)


def patience(belief: np.ndarray, unlearnt: np.ndarray) -> np.ndarray:
    """(S,) sessions in a row that were not calm, after one with this belief."""
    return np.where(belief < CALM, 0, unlearnt + 1)
