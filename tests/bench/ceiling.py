"""What the evidence could give at most: python -m tests.bench.ceiling [LOG ...]

A boosting is trained on the labels themselves, which the detector never sees: on the channels of the sessions after "score from"
and our score, on those of the account's last three sessions, and on how much is known of it; five folds, whole accounts in each,
so that it is judged on accounts that it did not learn from. Beside it what our fusion gives, trained on simulated takeovers
of the time before. What is left between the two is the fusion's to win, what is left above the first is the channels'.

Of the takeovers that each misses at 1 % of false alarms it says how many are in no channel beyond what 1 % of owners' sessions
show.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from detector.history import concat
from detector.settings import SourceSettings, load
from detector.sources import read_all
from tests.bench.quality import LOGS, SHARED
from tests.bench.robustness import BATCH, Judged, area, hit, judge, limit, windows_of

FOLDS, SEEDS, BEFORE = 5, 5, 3


def taught(found: Judged, monotone: bool) -> np.ndarray:
    """(S,) log-odds of a boosting that saw the labels of other accounts; the mean of a few seeds."""
    order = np.lexsort((found.end, found.user.astype(str)))
    x = np.c_[found.channels, found.score][order]
    user, stolen = found.user[order].astype(str), found.stolen[order]
    earlier = []
    for back in range(1, BEFORE + 1):
        shifted = np.roll(x, back, axis=0)
        shifted[user != np.roll(user, back)] = np.nan
        earlier.append(shifted)
    known = np.c_[np.log1p(found.known[order])]
    features = np.concatenate([x, known, *earlier], axis=1)
    rising = [1] * x.shape[1] + [0] * (features.shape[1] - x.shape[1]) if monotone else None
    odds = np.zeros((SEEDS, len(x)))
    for seed in range(SEEDS):
        folds = GroupKFold(FOLDS, shuffle=True, random_state=seed).split(features, stolen, user)
        for learnt, judged in folds:
            model = HistGradientBoostingClassifier(
                max_iter=100, learning_rate=0.05, max_leaf_nodes=8, l2_regularization=1.0, monotonic_cst=rising, random_state=seed
            )
            odds[seed, judged] = model.fit(features[learnt], stolen[learnt]).decision_function(features[judged])
    out = np.empty(len(x))
    out[order] = odds.mean(axis=0)
    return out


def cost(scores: np.ndarray, stolen: np.ndarray) -> float:
    """The least of 6 times the false alarms and the misses, both in per cent (Maxion 2002)."""
    order = np.argsort(-scores, kind="stable")
    false, caught = np.cumsum(~stolen[order]) / (~stolen).sum(), np.cumsum(stolen[order]) / stolen.sum()
    return float((600 * false + 100 * (1 - caught)).min())


def unremarkable(found: Judged, scores: np.ndarray) -> float:
    """Of the stolen sessions that (S,) scores miss at 1 % of false alarms: the share that is in no channel strange."""
    missed = found.stolen & (scores <= limit(scores, found.stolen))
    strange = (found.channels > np.quantile(found.channels[~found.stolen], 0.99, axis=0)).any(axis=1)
    return float((~strange[missed]).mean())


def main() -> None:
    """Print the table."""
    print("| log | | AUC | hit@1% | hit@5% | cost | missed, and nowhere strange |\n|---|---|---|---|---|---|---|")
    for log in sys.argv[1:] or LOGS:
        settings = load(None, [x for x in LOGS[log][1] if x != "--set"], {})
        source = [str(SHARED / "data" / log / "events.jsonl.gz")]
        batch = concat([c.batch for c in read_all(source, SourceSettings(), settings.events, BATCH, time.time())])
        found = judge(batch, log, settings, windows_of(log))
        ways = {"ours": found.score, "taught by labels": taught(found, False), "taught by labels, monotone": taught(found, True)}
        for title, scores in ways.items():
            caught = " | ".join(f"{hit(scores, found.stolen, few):.3f}" for few in (0.01, 0.05))
            told = f"{area(scores, found.stolen):.3f} | {caught} | {cost(scores, found.stolen):.1f}"
            print(f"| `{log}` | {title} | {told} | {unremarkable(found, scores):.2f} |", flush=True)


if __name__ == "__main__":
    main()
