"""PyOD behind fit and score: a second opinion on the vector of deviations that needs no idea of the attack.

The only module that imports pyod. ECOD and COPOD are out of the question: their scores depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.trees import Trees, joined, total

TREES = 100
SAMPLE = 512


@dataclass(frozen=True)
class Forest:
    """An isolation forest as PyOD has grown it."""

    trees: Trees  # how deep a session lies in each
    depth: float  # in all trees together, of a usual one
    offset: float  # PyOD's, for its share of outliers


def fit(deviations: np.ndarray, seed: int) -> Forest:
    """An isolation forest (Liu 2008) on the (S, C) deviations of owners' own sessions."""
    from pyod.models.iforest import IForest

    sample = min(SAMPLE, len(deviations))
    grown = IForest(n_estimators=TREES, max_samples=sample, random_state=seed).fit(deviations).detector_
    trees = joined([_depths(one.tree_) for one in grown.estimators_], 0.0)
    return Forest(trees, TREES * max(float(_unsuccessful(np.array([sample]))[0]), 1e-9), float(grown.offset_))


def score(forest: Forest, deviations: np.ndarray) -> np.ndarray:
    """(S,) outlier scores, higher is stranger; each row's score depends on that row alone."""
    deep = total(forest.trees, deviations.astype(np.float32))  # the width in which the trees were grown
    return np.asarray(2 ** -(deep / forest.depth) + forest.offset)


def _depths(tree: Any) -> tuple[np.ndarray, ...]:
    """A tree of scikit-learn whose leaves say how deep a session lies in it."""
    value = tree.compute_node_depths() + _unsuccessful(tree.n_node_samples) - 1.0
    return tree.feature, tree.threshold, tree.children_left, tree.children_right, value


def _unsuccessful(n: np.ndarray) -> np.ndarray:
    """The mean depth that an isolation tree of n sessions would have (Liu 2008, equation 1)."""
    many = np.maximum(n, 3)
    deep = 2.0 * (np.log(many - 1.0) + np.euler_gamma) - 2.0 * (many - 1.0) / many
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, deep))
