"""What jobs report of themselves. Metrics listen to reports; the jobs know nothing of metrics. Times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class CycleReport:
    """What one cycle did. V verdicts, E events."""

    events: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)  # source name -> events
    rejects: Mapping[str, int] = field(default_factory=dict)  # reason -> lines
    duplicates: int = 0
    late: int = 0
    event_lags_s: np.ndarray = field(default_factory=lambda: np.empty(0))  # (E,) now minus the event's time
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))  # (V,)
    ps: np.ndarray = field(default_factory=lambda: np.empty(0))  # (V,)
    scoring_lags_s: np.ndarray = field(default_factory=lambda: np.empty(0))  # (V,) now minus the session's end
    threshold: float = 0.0  # p at which a session alarms
    alerts_a_day: float = 0.0  # mean of the days watched, at most 28
    budget_a_day: float = 0.0  # alerts
    alerts: Mapping[str, int] = field(default_factory=dict)  # severity -> alerts
    opened: Mapping[str, int] = field(default_factory=dict)  # severity -> incidents
    held: Mapping[str, int] = field(default_factory=dict)  # why -> alarms that no message was sent of
    event_clock: float = 0.0  # newest event time seen
    duration_s: float = 0.0
