"""Which two text facets are looked at together: where what comes with what tells accounts apart beyond what each of them tells.

One who logs on in the morning and mails at night is not known by hours alone, nor a card that is swiped at the pump and put in
elsewhere by how it is read. Most pairs say nothing of the kind, and a look at such a one drowns the others (on a made audit trail
it costs .005 to .01 of AUC); what comes with a place or a device says little more than the place does.

Axes: E events, P judged events, owners' and others', X facets.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from detector.facets import OFTEN_NEW
from detector.fusion import auc

# AUC above one half up to which a facet is asked of, since alone it tells little: of two devices' screens together a made log of
# mice had .950 for .964, of category and state payments .866 for .867; of category and entry mode, which this leaves, .890
WEAK = 0.3
LEAST_GAIN = 0.002  # of AUC: made payments have .003 to .006, logons .017 to .024, other logs up to .001
LEAST = 0.05  # AUC above one half that all such facets and the pair reach: what tells less is chance
EARLIER = 0.65  # share of the events that habits are taken from, before the rest is judged
FEWEST, FEWEST_ACCOUNTS = 5000, 20  # to judge: of fewer it would be chance
STRENGTH = 5.0  # events that everybody's habits are worth beside an account's
UNSEEN = 0.5  # events of a value that nobody had
ABSENT = -1


def together(account: np.ndarray, values: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The two of the facets `values` that add most to what all facets tell that tell little alone; none where no two do.

    A facet whose values are often new to accounts is none of the two: what comes with a new value is as new as that (on made audit
    trails object and browser together cost up to .008 of AUC and .10 of hit@1%).
    account (E,): codes, in the order of the events; values: (E,) codes by facet, ABSENT where an event has none. Told is by
    log-likelihood ratios of everybody to the account, weighed by logistic regression, an account's later events from others': among
    either half of the accounts, as the other half weighs them.
    """
    cut = int(EARLIER * len(account))
    later = np.flatnonzero(np.isin(account, account[:cut]) & (np.arange(len(account)) >= cut))
    if len(later) < FEWEST or len(np.unique(account[later])) < FEWEST_ACCOUNTS:
        return ()
    other = np.random.default_rng(0).permutation(account[later])
    foreign = other != account[later]
    whose, at = np.concatenate([account[later], other[foreign]]), np.concatenate([later, later[foreign]])
    stolen = np.repeat([False, True], [len(later), int(foreign.sum())])
    nats = {name: _nats(account, codes, cut, whose, at) for name, codes in values.items() if codes[:cut].max(initial=ABSENT) > 0}
    weak = [name for name, x in nats.items() if auc(x[~stolen], x[stolen]) < 0.5 + WEAK]
    habits = [name for name in weak if _new(account, values[name], cut, later) < OFTEN_NEW]
    if len(habits) < 2:
        return ()
    alone = np.stack([nats[name] for name in weak], axis=1)
    halves = [whose % 2 == k for k in (0, 1)]
    said = [_weighed(alone, stolen, here) for here in halves]
    before = np.array([_told(x, stolen, here) for x, here in zip(said, halves, strict=True)])
    best, chosen = LEAST_GAIN, tuple[str, ...]()
    for pair in combinations(habits, 2):
        first, second = (values[name] for name in pair)
        both = np.where((first >= 0) & (second >= 0), first * (second.max() + 1) + second, ABSENT)
        if both[:cut].max() < 0:
            continue
        met = _nats(account, np.unique(both, return_inverse=True)[1] - int(both.min() < 0), cut, whose, at)
        with_it = [_weighed(np.stack([x, met], axis=1), stolen, here) for x, here in zip(said, halves, strict=True)]
        after = np.array([_told(x, stolen, here) for x, here in zip(with_it, halves, strict=True)])
        gain = after - before
        if gain.mean() >= best and gain.min() > 0 and after.mean() >= LEAST:
            best, chosen = float(gain.mean()), pair
    return chosen


def _new(account: np.ndarray, codes: np.ndarray, cut: int, later: np.ndarray) -> float:
    """Share of the values of events `later` that their accounts did not have before `cut`."""
    there = np.flatnonzero(codes[:cut] >= 0), later[codes[later] >= 0]
    known, shown = (account[rows] * (codes.max() + 1) + codes[rows] for rows in there)
    return float((~np.isin(shown, known)).sum() / max(len(shown), 1))


def _nats(account: np.ndarray, codes: np.ndarray, cut: int, whose: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(P,) log-likelihood ratio of everybody to accounts `whose` (P,), by the events before `cut`, of the values of events `at`."""
    kinds = int(codes.max()) + 1
    there = np.flatnonzero(codes[:cut] >= 0)
    everybody = np.bincount(codes[there], minlength=kinds) + UNSEEN
    everybody /= everybody.sum()
    total = np.bincount(account[there], minlength=int(account.max()) + 1)
    known, counted = np.unique(account[there] * kinds + codes[there], return_counts=True)
    wanted = whose * kinds + codes[at]
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    own = np.where(known[place] == wanted, counted[place], 0) + STRENGTH * everybody[codes[at]]
    return np.where(codes[at] >= 0, np.log(everybody[codes[at]] * (total[whose] + STRENGTH) / own), 0.0)


def _weighed(nats: np.ndarray, stolen: np.ndarray, here: np.ndarray) -> np.ndarray:
    """(P,) log-odds of `stolen` by (P, X) nats, as those weigh them that are not `here`."""
    from sklearn.linear_model import LogisticRegression

    return np.asarray(LogisticRegression(max_iter=1000).fit(nats[~here], stolen[~here]).decision_function(nats))


def _told(odds: np.ndarray, stolen: np.ndarray, here: np.ndarray) -> float:
    """AUC above one half of (P,) log-odds among those `here`."""
    return auc(odds[here & ~stolen], odds[here & stolen]) - 0.5
