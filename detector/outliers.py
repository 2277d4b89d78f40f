"""PyOD behind fit and score: a second opinion on the vector of deviations that needs no idea of the attack.

The only module that imports pyod. ECOD and COPOD are out of the question: their scores depend on the batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from detector.errors import PackError

if TYPE_CHECKING:
    from pyod.models.iforest import IForest

    Forest = IForest

TREES = 100
SAMPLE = 512
ALLOWED = frozenset({"pyod.models.iforest.IForest", "sklearn.tree._tree.Tree"})


def fit(deviations: np.ndarray, seed: int) -> IForest:
    """An isolation forest (Liu 2008) on the (S, C) deviations of owners' own sessions."""
    from pyod.models.iforest import IForest

    return IForest(n_estimators=TREES, max_samples=min(SAMPLE, len(deviations)), random_state=seed).fit(deviations)


def score(model: IForest, deviations: np.ndarray) -> np.ndarray:
    """(S,) outlier scores, higher is stranger; each row's score depends on that row alone."""
    if not len(deviations):
        return np.zeros(0)
    return np.asarray(model.decision_function(deviations), float)


def save(model: IForest, path: Path) -> None:
    """Write the model without pickle."""
    import skops.io

    skops.io.dump(model, path)


def load(path: Path) -> IForest:
    """Read a model; only the types of an isolation forest are accepted. Raises PackError."""
    import skops.io

    found = set(skops.io.get_untrusted_types(file=path))
    if not found <= ALLOWED:
        raise PackError(f"{path}: holds types that a pack never has: {', '.join(sorted(found - ALLOWED))}")
    return cast("IForest", skops.io.load(path, trusted=sorted(found)))
