"""Evidence adds up over sessions: a hidden two-state filter per account, p-values, and how much a session may teach.

Between two sessions an account falls into other hands with probability ENTRY and stays there with probability STAY (a hidden Markov
model, Rabiner 1989). The score of a session is its own strangeness plus half of what earlier sessions carry over: the whole of it
made owners' sessions beside a thief's alarming too (measured on two of four logs).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

ENTRY = 0.01
NEW = 5  # sessions known
PATIENCE = 40  # sessions
STAY = 0.8
CARRY = 0.5
CALM = 0.1  # belief; learning every session in proportion to 1 - belief let takeovers in and lost 3 points of cost on commands


def prior(doubt: np.ndarray) -> np.ndarray:
    """(S,) probability, before a session, that the account is in other hands; doubt is the probability after the last one."""
    return STAY * doubt + ENTRY * (1 - doubt)


def update(doubt: np.ndarray, llr: np.ndarray) -> np.ndarray:
    """(S,) probability after a session with log-likelihood ratio `llr`."""
    return expit(logit(prior(doubt)) + llr)


def confident(llr: np.ndarray, history: np.ndarray) -> np.ndarray:
    """(S,) log-likelihood ratios, smaller where little is known of the account."""
    return llr * history / (history + NEW)


def carried(doubt: np.ndarray) -> np.ndarray:
    """(S,) nats that earlier sessions add to a session's score; 0 for an account without doubt."""
    return CARRY * np.maximum(logit(prior(doubt)) - logit(prior(np.zeros_like(doubt))), 0)


def lesson(belief: np.ndarray, history: np.ndarray, unlearnt: np.ndarray) -> np.ndarray:
    """(S,) weight with which a session is learnt: calm ones whole, others not at all.

    A new account learns everything, since nothing can be told from it yet. After PATIENCE sessions in a row that taught nothing it
    learns again: an owner whose habits have changed would stay locked out for ever, a thief has been on the list for long.
    """
    return np.where((belief < CALM) | (history < NEW) | (unlearnt >= PATIENCE), 1.0, 0.0)


def filtered(llr: np.ndarray, account: np.ndarray) -> np.ndarray:
    """(S,) `carried` for sessions in the order of their closing, accounts told apart by int codes, nothing known before."""
    doubt = np.zeros(account.max(initial=-1) + 1)
    out = np.zeros(len(llr))
    for s in range(len(llr)):  # training only
        a = account[s : s + 1]
        out[s] = carried(doubt[a])[0]
        doubt[a] = update(doubt[a], llr[s : s + 1])
    return out
