"""Verdicts → alerts. Pure: a list of stages of one signature, each of which passes on some of the verdicts.

The alert budget: a verdict's p is the share of owners' sessions that look at least as strange, so of `sessions_per_day` sessions of
owners, `sessions_per_day · p` a day fall at or below p. An alert is raised at p ≤ per_day / sessions_per_day, which spends the
budget and no more where p is calibrated, times what the alerts of the last days ask for, and less once the day has brought that
(detector.calibration); never at p above 0.05, however quiet the log, since a session as strange as that of one owner in twenty
is no alarm; and at p ≤ 0.001 where nobody knows yet how many sessions a day there are.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from alerts.explanations import Details, explain, summary
from detector.records import Alert, Verdict

SEVERITIES = ("low", "medium", "high", "critical")
HIGHEST_THRESHOLD = 0.05
UNKNOWN_THRESHOLD = 0.001
RARER = (4.0, 20.0)  # times below the threshold at which an alert is a step more severe
SURER = (0.5, 0.95)  # belief from which an alert is a step more severe: more likely than not; all but certain

Stage = Callable[[Sequence[Verdict]], Sequence[Verdict]]


@dataclass(frozen=True)
class Policy:
    """How many alerts people want, and of how many sessions."""

    per_day: float  # alerts, > 0
    sessions_per_day: float = 0.0  # of all accounts; 0: unknown
    lean: float = 0.0  # log of what feedback multiplies the threshold by

    @property
    def threshold(self) -> float:
        """The largest p that raises an alert."""
        if not (self.sessions_per_day > 0 and math.isfinite(self.sessions_per_day)):
            return UNKNOWN_THRESHOLD
        return min(HIGHEST_THRESHOLD, self.per_day / self.sessions_per_day * math.exp(self.lean))


def raise_alerts(
    verdicts: Iterable[Verdict],
    threshold: float,
    time: float,
    *,
    still_open: bool = False,
    describe: Callable[[Verdict], Details] = lambda verdict: {},
    stages: Sequence[Stage] = (),
) -> list[Alert]:
    """An alert for each verdict that is within the budget and passes every stage, in the order of the verdicts.

    `time` is the event time at which they are raised; `still_open` says that the sessions have not ended. `describe` is asked for
    the details of a verdict only where it becomes an alert; see `explanations.explain`.
    """
    left: Sequence[Verdict] = list(verdicts)
    for stage in (within_budget(threshold), once, *stages):
        left = stage(left)
    return [_alert(verdict, threshold, time, still_open, describe(verdict)) for verdict in left]


def within_budget(threshold: float) -> Stage:
    """The stage that passes on what is strange enough."""
    return lambda verdicts: [verdict for verdict in verdicts if verdict.p <= threshold]


def once(verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """The stage that passes on the first verdict on each session."""
    first: dict[str, Verdict] = {}
    for verdict in verdicts:
        first.setdefault(alert_id(verdict.user, verdict.session, verdict.start), verdict)
    return list(first.values())


def severity(p: float, belief: float, threshold: float) -> str:
    """One of SEVERITIES: never lower for a smaller p or a larger belief."""
    rarity = threshold / p if p > 0 else math.inf
    steps = bisect_right(RARER, rarity) + bisect_right(SURER, belief)
    return SEVERITIES[min(steps, len(SEVERITIES) - 1)]


def alert_id(user: str, session: str | None, start: float) -> str:
    """16 hexadecimal digits, the same on every machine, while the session is open and after it has closed."""
    canonical = json.dumps([user, session, float(start) + 0.0], separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _alert(verdict: Verdict, threshold: float, time: float, still_open: bool, details: Details) -> Alert:
    reasons = explain(verdict, details)
    return Alert(
        id=alert_id(verdict.user, verdict.session, verdict.start),
        time=time,
        severity=severity(verdict.p, verdict.belief, threshold),
        verdict=verdict,
        open=still_open,
        summary=summary(reasons),
        reasons=reasons,
    )
