"""Drift: p-values of owners' sessions are uniform while the world stays as it was at training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 200  # sessions; fewer say nothing
ALARMING = 0.15  # largest distance between the share found and the share expected


@dataclass(frozen=True)
class Drift:
    """How far the p-values of some sessions are from uniform."""

    distance: float  # Kolmogorov-Smirnov, in [0, 1]; 0 where there are too few
    sessions: int

    @property
    def alarming(self) -> bool:
        return self.distance > ALARMING


def drift_of(ps: Sequence[float]) -> Drift:
    """The Kolmogorov-Smirnov distance of p-values from uniform."""
    count = len(ps)
    if count < FEWEST:
        return Drift(0.0, count)
    ordered, steps = np.sort(np.asarray(ps)), np.arange(count + 1) / count
    return Drift(float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())), count)
