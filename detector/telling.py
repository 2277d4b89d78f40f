"""What tells accounts apart, asked of history: an account's later events beside others', by the habits of the earlier ones.

Axes: E events, P judged events, owners' and others'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detector.facets import FORM, LEVELS, RARE, as_text, factorize, parent
from detector.fusion import auc

EARLIER = 0.65  # share of the events that habits are taken from, before the rest is judged
STRENGTH = 5.0  # events that everybody's habits are worth beside an account's
UNSEEN = 0.5  # events of a value that nobody had
ABSENT = -1
# of AUC, by which what values lie in must tell more than the values do: made logs have .03 to .28 of addresses, browsers, paths and
# identifiers, sites of a real one .002. What is less than the second figure below the best is as good
LEAST_GAIN, AS_GOOD = 0.02, 0.005
CHANCE = 2.0  # standard deviations, of an AUC that says nothing (Mann & Whitney 1947), that it must be more
FEWEST, FEWEST_ACCOUNTS = 500, 10  # later events, and accounts: of fewer it would be chance


@dataclass(frozen=True)
class Later:
    """An account's later events, each once more as if it were another account's."""

    account: np.ndarray  # (E,) codes, in the order of the events
    cut: int  # where the earlier part ends
    rows: np.ndarray  # later events, of accounts that have earlier ones
    whose: np.ndarray  # (P,) the account that each is judged as
    at: np.ndarray  # (P,) events
    stolen: np.ndarray  # (P,) bool: those of others

    @staticmethod
    def of(account: np.ndarray) -> Later:
        cut = int(EARLIER * len(account))
        rows = np.flatnonzero(np.isin(account, account[:cut]) & (np.arange(len(account)) >= cut))
        other = np.random.default_rng(0).permutation(account[rows])
        foreign = other != account[rows]
        whose, at = np.concatenate([account[rows], other[foreign]]), np.concatenate([rows, rows[foreign]])
        return Later(account, cut, rows, whose, at, np.repeat([False, True], [len(rows), int(foreign.sum())]))

    @property
    def accounts(self) -> int:
        """How many there are."""
        return len(np.unique(self.account[self.rows]))

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """(P,) bool: the events of either half of the accounts."""
        return self.whose % 2 == 0, self.whose % 2 == 1

    def nats(self, codes: np.ndarray) -> np.ndarray:
        """(P,) log-likelihood ratio of everybody to the account, of a facet's values, of codes (E,): ABSENT where there is none."""
        kinds = int(codes.max()) + 1
        there = np.flatnonzero(codes[: self.cut] >= 0)
        everybody = np.bincount(codes[there], minlength=kinds) + UNSEEN
        everybody /= everybody.sum()
        total = np.bincount(self.account[there], minlength=int(self.account.max()) + 1)
        known, counted = np.unique(self.account[there] * kinds + codes[there], return_counts=True)
        wanted = self.whose * kinds + codes[self.at]
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        own = np.where(known[place] == wanted, counted[place], 0) + STRENGTH * everybody[codes[self.at]]
        ratio = everybody[codes[self.at]] * (total[self.whose] + STRENGTH) / own
        return np.where(codes[self.at] >= 0, np.log(ratio), 0.0)

    def new(self, codes: np.ndarray) -> float:
        """Share of a facet's values in later events, of codes (E,), that their accounts did not have before."""
        there = np.flatnonzero(codes[: self.cut] >= 0), self.rows[codes[self.rows] >= 0]
        known, shown = (self.account[rows] * (codes.max() + 1) + codes[rows] for rows in there)
        return float((~np.isin(shown, known)).sum() / max(len(shown), 1))

    def told(self, nats: np.ndarray) -> np.ndarray:
        """(2,) AUC above one half of (P,) log-odds of being another's, among the accounts of either half."""
        return np.array([auc(nats[here & ~self.stolen], nats[here & self.stolen]) - 0.5 for here in self.halves])


def ancestors(users: Sequence[str], columns: Mapping[str, Sequence[object]]) -> dict[str, int]:
    """How many levels above the values of each text attribute to look, of `columns` (E,): as `Facets.parents` has it.

    Where what values lie in, or their form, tells later events of the accounts of `users` (E,) from others' better than the values
    do. Of levels that are as good the lowest.
    """
    later, out = Later.of(factorize(users, len(users))[1]), {}
    if len(later.rows) < FEWEST or later.accounts < FEWEST_ACCOUNTS:
        return {}
    for name, column in columns.items():
        values, code = factorize(column, len(column))
        texts = [None if v is None else as_text(v) for v in values]
        if sum(v is not None for v in column) < RARE * len(column):
            continue
        gains, tried, before = dict[int, float](), list[str | None](), np.zeros(2)
        for level in (0, *range(1, LEVELS), FORM):
            above = [None if t is None else parent(t, level) for t in texts]
            if above == tried or (level and len({*above} - {None}) < 2):
                continue
            tried, (distinct, of) = above, factorize(above, len(above))
            numbered = np.array([ABSENT if text is None else n for n, text in enumerate(distinct)])
            told = later.told(later.nats(numbered[of[code]]))
            before = before if level else told
            gains[level] = float((told - before).mean()) if np.all(told > before) else 0.0
        best = max(gains.values())
        if best >= LEAST_GAIN + CHANCE / np.sqrt(6 * len(later.rows)):
            out[name] = next(level for level, gain in gains.items() if gain >= best - AS_GOOD)
    return out
