"""Which two text facets are looked at together: where what comes with what tells accounts apart beyond what each of them tells.

One who logs on in the morning and mails at night is not known by hours alone, nor a card that is swiped at the pump and put in
elsewhere by how it is read. Most pairs say nothing of the kind, and a look at such a one drowns the others (on a made audit trail
it costs .005 to .01 of AUC); what comes with a place or a device says little more than the place does.

Axes: E events, P judged events, owners' and others', X facets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from detector.fusion import auc
from detector.telling import ABSENT, Later

# AUC above one half up to which a facet is asked of, since alone it tells little: of two devices' screens together a made log of
# mice had .950 for .964, of category and state payments .866 for .867; of category and entry mode, which this leaves, .890
WEAK = 0.3
LEAST_GAIN = 0.002  # of AUC: made payments have .003 to .006, logons .017 to .024, other logs up to .001
LEAST = 0.05  # AUC above one half that all such facets and the pair reach: what tells less is chance
FEWEST, FEWEST_ACCOUNTS = 5000, 20  # later events, and accounts: of fewer it would be chance
OFTEN_NEW = 0.2  # share of an account's values that are new to it


def together(account: np.ndarray, values: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The two of the facets `values` that add most to what all facets tell that tell little alone; none where no two do.

    A facet whose values are often new to accounts is none of the two: what comes with a new value is as new as that (on made audit
    trails object and browser together cost up to .008 of AUC and .10 of hit@1%).
    account (E,): codes, in the order of the events; values: (E,) codes by facet, ABSENT where an event has none. Told is by
    log-likelihood ratios of everybody to the account, weighed by logistic regression, an account's later events from others': among
    either half of the accounts, as the other half weighs them.
    """
    later = Later.of(account)
    if len(later.rows) < FEWEST or later.accounts < FEWEST_ACCOUNTS:
        return ()
    cut = later.cut
    nats = {name: later.nats(codes) for name, codes in values.items() if codes[:cut].max(initial=ABSENT) > 0}
    weak = [name for name, x in nats.items() if auc(x[~later.stolen], x[later.stolen]) < 0.5 + WEAK]
    habits = [name for name in weak if later.new(values[name]) < OFTEN_NEW]
    if len(habits) < 2:
        return ()
    alone = np.stack([nats[name] for name in weak], axis=1)
    said = [_weighed(alone, later.stolen, here) for here in later.halves]
    before = _told(later, said)
    best, chosen = LEAST_GAIN, tuple[str, ...]()
    for pair in combinations(habits, 2):
        first, second = (values[name] for name in pair)
        both = np.where((first >= 0) & (second >= 0), first * (second.max() + 1) + second, ABSENT)
        if both[:cut].max() < 0:
            continue
        met = later.nats(np.unique(both, return_inverse=True)[1] - int(both.min() < 0))
        looks = zip(said, later.halves, strict=True)
        after = _told(later, [_weighed(np.stack([x, met], axis=1), later.stolen, here) for x, here in looks])
        gain = after - before
        if gain.mean() >= best and gain.min() > 0 and after.mean() >= LEAST:
            best, chosen = float(gain.mean()), pair
    return chosen


def _weighed(nats: np.ndarray, stolen: np.ndarray, here: np.ndarray) -> np.ndarray:
    """(P,) log-odds of `stolen` by (P, X) nats, as those weigh them that are not `here`."""
    from sklearn.linear_model import LogisticRegression

    return np.asarray(LogisticRegression(max_iter=1000).fit(nats[~here], stolen[~here]).decision_function(nats))


def _told(later: Later, odds: Sequence[np.ndarray]) -> np.ndarray:
    """(2,) AUC above one half among either half of the accounts, of its (P,) log-odds."""
    return np.array([later.told(x)[k] for k, x in enumerate(odds)])
