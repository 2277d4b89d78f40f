"""p-values that stay true while habits drift, and an alarm limit that keeps to the budget: learnt from the last weeks' sessions.

The pack's p-values are right for the time it was trained on. Later, sessions that were not in doubt show how often p is really at
most .05, .1, .2 and .3, beside how often that was so of such sessions in training; a power law through these points carries the
correction to smaller p (in the body thieves do not show, in the tail they would be taken for owners). Where fewer sessions have
small p than it says, they are heeded, too: thieves only add to them.

The alarm limit follows the budget by feedback: after a day with too many alerts it falls, after one with too few it rises; a day
asks for what the four weeks before it lack (a PI controller); and once it has brought that, only what is much rarer alarms.

All is counted by day (UTC) of the event clock. What p and limit are on a day follows from the days before it, and what is left of a
day from the alarms in the order of event time: no cut of a batch and no restart shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from detector.belief import DOUBTED

BODY = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.3])  # where p is compared with how often it comes
SURE = 0.05  # below it, thieves that nobody is in doubt about may be more than the owners
UNHEARD = 0.05  # of owners' sessions of a p without doubt, up to which they say nothing of all
DAY = 86400.0
KEPT_DAYS, HALF_LIFE_DAYS = 28, 14.0
FEW = 50.0  # sessions that BODY itself is worth beside those of training
PRIOR_SESSIONS = 100.0  # how many sessions the pack's own p-values are worth
PRIOR_DAYS = 3.0  # how many days the pack's sessions a day are worth
STEEPEST = 2.0  # of the power law, and its inverse the flattest
GAIN = 0.2  # of a day's error that the logarithm of the limit takes up: it settles within a week
SETTLED_IN, LEAST, MOST = 2.0, 0.1, 3.0  # days in which what is lacking is made up for; shares of the budget that a day may ask for
STRIKING, LEAST_P = 0.1, 1e-12  # p from which a session is an owner's as likely as any other; smaller ones tell no more
SPENT = 30.0  # times rarer than before is what still alarms on a day that has brought what it asked for: a thief often is
SPELL = 7 * DAY  # an account that alarms again within this is in the same trouble: one alert, however many sessions
FARTHEST = 3.0  # nats that feedback may move the limit either way


class Watch(msgspec.Struct, frozen=True):
    """What the last days showed under the present pack; part of the engine's state."""

    days: dict[int, list[int]] = {}  # day -> sessions, those not in doubt, of them with p at most each of BODY; spells last
    day: int = -1  # the newest day; -1: none yet
    lean: float = 0.0  # log of what the limit of `day` is multiplied by
    spells: dict[str, float] = {}  # account -> when a session of it last alarmed


NOTHING = [0] * (3 + len(BODY))  # what a day begins with


@dataclass(frozen=True)
class Seen:
    """What one day, or a part of it, adds. p as the pack has it."""

    p: np.ndarray  # (S,) of closed sessions
    clean: np.ndarray  # (S,) bool, not in doubt


def turned(watch: Watch, day: int, per_day: float) -> Watch:
    """The watch at the beginning of a day; `per_day` alerts are wanted. Days without sessions are no days."""
    if day <= watch.day:
        return watch
    lean = watch.lean
    if watch.day in watch.days:
        missed = wanted(watch, per_day) - _brought(watch, watch.day, per_day)
        lean = float(np.clip(lean + GAIN * missed / per_day, -FARTHEST, FARTHEST))
    kept = {d: counts for d, counts in watch.days.items() if d >= day - KEPT_DAYS}
    return Watch(kept, day, lean, {user: time for user, time in watch.spells.items() if time >= day * DAY - SPELL})


def wanted(watch: Watch, per_day: float) -> float:
    """How many alerts the watch's day should bring: what the last weeks lack, or had too many, is made up for within days."""
    lacking = sum(per_day - _brought(watch, day, per_day) for day in watch.days if day < watch.day)
    return float(np.clip(per_day + lacking / SETTLED_IN, LEAST * per_day, MOST * per_day))


def _brought(watch: Watch, day: int, per_day: float) -> float:
    """The alerts of a day, as far as later days must make up for them: a wave of takeovers must not silence the weeks after it."""
    return min(watch.days[day][-1], MOST * (per_day + 1))


def begins(watch: Watch, user: str, time: float) -> bool:
    """Whether an alarm of the account would begin a spell of trouble, which is what counts as one alert."""
    return time - watch.spells.get(user, -np.inf) > SPELL


def rationed(limit: float, watch: Watch, per_day: float) -> float:
    """The largest p that begins a spell now, on a day of this limit."""
    brought = watch.days[watch.day][-1] if watch.day in watch.days else 0
    return limit / SPENT if brought >= wanted(watch, per_day) else limit


def spelled(watch: Watch, user: str, time: float) -> Watch:
    """The watch after a session of the account alarmed."""
    *counts, alerts = watch.days.get(watch.day, NOTHING)
    days = watch.days | {watch.day: [*counts, alerts + begins(watch, user, time)]}
    return Watch(days, watch.day, watch.lean, watch.spells | {user: time})


def added(watch: Watch, seen: Seen) -> Watch:
    """The watch after more of its day."""
    more = [len(seen.p), int(seen.clean.sum()), *(int((seen.p[seen.clean] <= x).sum()) for x in BODY), 0]
    before = watch.days.get(watch.day, NOTHING)
    return Watch(watch.days | {watch.day: [a + b for a, b in zip(before, more, strict=True)]}, watch.day, watch.lean, watch.spells)


def _weighted(watch: Watch) -> tuple[np.ndarray, float]:
    """(K+2,) counts of the days before, recent ones for more; and how many days they stand for."""
    days = [d for d in watch.days if d < watch.day]
    weight = np.array([0.5 ** ((watch.day - d) / HALF_LIFE_DAYS) for d in days])
    counts = np.array([watch.days[d] for d in days], float).reshape(len(days), 3 + len(BODY))
    return weight @ counts, float(weight.sum())


def calm_shares(p: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """(K,) BODY as it shows in sessions that are not in doubt, where it is true of all: small p are what makes for doubt.

    p (S,) and whether not in doubt (S,) of owners' sessions in training; of FEW sessions little can be said.
    """
    every, calm = ((FEW * BODY + (some[:, None] <= BODY).sum(axis=0)) / (FEW + len(some)) for some in (p, p[clean]))
    return np.asarray(BODY * calm / every)


def shares(watch: Watch, usual: np.ndarray) -> np.ndarray:
    """(K,) how often p is really at most each of BODY, of all owners' sessions; usual (K,): as `calm_shares` has it."""
    counts = _weighted(watch)[0]
    return np.asarray((PRIOR_SESSIONS * usual + counts[2:-1]) / (PRIOR_SESSIONS + counts[1]) * BODY / usual)


def corrected(p: np.ndarray, watch: Watch, usual: np.ndarray) -> np.ndarray:
    """(S,) p-values as the last days have it: a power law through BODY, continued to p = 1 by another. Increasing in p.

    usual: (K,) as `calm_shares` has it. The fewer sessions of a p are without doubt, the less is heard of them.
    """
    x, y, sure = np.log(BODY), np.log(shares(watch, usual)), BODY >= SURE
    heard = np.sqrt(np.maximum(usual / BODY - UNHEARD, 1e-6))
    slope, middle = _power_law(x[sure], y[sure], heard[sure])
    slope, middle = _power_law(x, np.where(sure, y, np.minimum(y, middle + slope * x)), heard)
    top = min(middle + slope * x[-1], -1e-3)  # log share at the end of the body
    logs = np.log(np.clip(p, 1e-300, 1.0))
    return np.exp(np.where(logs <= x[-1], top + slope * (logs - x[-1]), top * logs / x[-1]))


def _power_law(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the line through logarithms x (K,) and y (K,)."""
    slope = float(np.clip(np.polyfit(x, y, 1, w=weight)[0], 1 / STEEPEST, STEEPEST))
    return slope, float(np.average(y - slope * x, weights=weight**2))


def told(belief: float, p: float) -> bool:
    """Whether the next training should know how a session was judged."""
    return belief >= DOUBTED or p <= STRIKING


def owners_share(p: np.ndarray) -> np.ndarray:
    """(S,) probability in [0, 1] that a session with this p is its owner's: the local false discovery rate (Efron 2001).

    Of owners' sessions every p is as frequent as any other, those of thieves crowd at small p. The density of all is the slope of
    the least concave majorant of their distribution (Grenander 1956).
    """
    from sklearn.isotonic import isotonic_regression

    values, inverse, count = np.unique(np.maximum(p, LEAST_P), return_inverse=True, return_counts=True)
    width = np.diff(values, prepend=0.0)
    density = isotonic_regression(count / len(p) / width, sample_weight=width, increasing=False)
    return np.asarray(np.minimum(1 / density, 1.0))[inverse]


def of_owners(p: np.ndarray) -> np.ndarray:
    """(S,) bool: as many of the sessions of every p as are the owners'; deterministic."""
    order = np.argsort(p, kind="stable")
    counted = np.floor(np.cumsum(owners_share(p)[order]) + 0.5)
    out = np.zeros(len(p), bool)
    out[order] = np.diff(counted, prepend=0.0) > 0
    return out


def sessions_a_day(watch: Watch, expected: float) -> float:
    """Sessions of all accounts; `expected` is what the pack saw."""
    counts, days = _weighted(watch)
    return (PRIOR_DAYS * expected + float(counts[0])) / (PRIOR_DAYS + days)


def alerts_a_day(watch: Watch) -> float:
    """The mean of the days that have been watched, today left out; 0 where there is none."""
    past = [counts[-1] for day, counts in watch.days.items() if day < watch.day]
    return sum(past) / len(past) if past else 0.0
