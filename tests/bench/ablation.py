"""What each channel and each idea is worth: the detector without it, on the real logs. python -m tests.bench.ablation [LOG ...]

Every line trains anew on the time before "score from" and judges the rest, without retraining. A difference below about .01 of AUC
or .04 of hit@1 % is no more than another seed makes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest import mock

import numpy as np

from detector import attacks, belief, contrastive, evidence, fusion, joints, models, samples, scoring, training
from detector.evidence import EMBEDDING_CHANNELS, EXTREME, RATE, channel_names, channels
from detector.facets import Facets
from detector.fusion import relevance_of
from detector.history import concat
from detector.settings import SourceSettings, load
from detector.sources import read_all
from tests.bench.quality import LOGS, SHARED
from tests.bench.robustness import BATCH, area, hit, judge, windows_of

Patch = AbstractContextManager[Any]


def without(silent: Callable[[str, Facets], bool]) -> list[Patch]:
    """Some channels silent, in training and in judging."""

    def silenced(*given: Any) -> np.ndarray:
        looks = given[5]
        keep = [not silent(name, looks) for name in channel_names(looks.text, (*looks.number, "volume"))]
        return channels(*given) * np.array(keep)

    return [mock.patch.object(module, "channels", silenced) for module in (models, samples, scoring)]


def opinions(boosting: bool, forest: bool, plain: bool, even: bool) -> list[Patch]:
    """Only some of the four opinions; what is left out is measured against a reference that nothing is beyond."""
    silent, heard = fusion.Reference(np.array([np.inf]), 1, 1.0), fusion.opinions_of

    def some(*scores: np.ndarray) -> Any:
        return tuple(ref if wanted else silent for ref, wanted in zip(heard(*scores), (boosting, forest, plain, even), strict=True))

    quiet = [] if boosting else [mock.patch.object(fusion, "LLR_ODDS", 0.0)]
    return [mock.patch.object(fusion, "opinions_of", some), *quiet]


def nothing_waits(doubt: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sessions in doubt never teach."""
    return np.zeros(len(doubt), bool)


def owners_never(*_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is strange is a thief's."""
    return np.zeros(2), belief.STAY[1:]


def everything_taught(doubt: np.ndarray, history: np.ndarray, unlearnt: np.ndarray) -> np.ndarray:
    """A lesson without a gate."""
    return np.ones(len(doubt))


def nothing_kept(looks: Facets) -> dict[str, float]:
    """What a thief may have of the owner where nobody is inside."""
    return {}


def of_all_kinds(owners: np.ndarray, thieves: np.ndarray, weight: np.ndarray, kind: np.ndarray) -> Any:
    """Relevance without regard to kinds."""
    return relevance_of(owners, thieves, weight, np.minimum(kind, 0))


def never_shared(relevance: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Weights of the sum where each channel counts as if no other said the same."""
    return relevance


IDEAS: dict[str, Callable[[], list[Patch]]] = {
    "all of it": list,
    "no torch embedding": lambda: without(lambda name, _: name in EMBEDDING_CHANNELS),
    "no boosting": lambda: opinions(False, True, True, True),
    "no PyOD forest": lambda: opinions(True, False, True, True),
    "no plain sum": lambda: opinions(True, True, False, True),
    "no even sum": lambda: opinions(True, True, True, False),
    "nothing looked for among the owner's values": lambda: [mock.patch.object(fusion, "SAY", 0.0)],
    "the even sum hears what lasts": lambda: [mock.patch.object(fusion, "LASTS", 0.0)],
    "one encoder, not four merged": lambda: [mock.patch.object(contrastive, "MEMBERS", 1)],
    "encoder never whitened": lambda: [mock.patch.object(models, "WAYS", (False,))],
    "encoder always whitened": lambda: [mock.patch.object(models, "WAYS", (True,))],
    "no evidence per value": lambda: without(lambda name, _: name.endswith(RATE)),
    "no strangest value": lambda: without(lambda name, looks: name.removesuffix(EXTREME) in {*looks.text} - {name}),
    "no order beside its values": lambda: without(lambda name, _: name == f"pair{RATE}"),
    "two habits in a new order are as new as any": lambda: [mock.patch.object(evidence, "REORDERED", 0.0)],
    "nobody has what owners keep to": lambda: [mock.patch.object(attacks, "levels", nothing_kept)],
    "nobody copies in no order": lambda: [mock.patch.object(attacks, "PRIOR", attacks.PRIOR | {"copy": 1e-9})],
    "belief fed by the boosting alone": lambda: [
        mock.patch.object(fusion, "LLR_ODDS", 1.5),
        mock.patch.object(fusion, "LLR_HEARD", 0.0),
    ],
    "forest and sum speak of young accounts, too": lambda: [mock.patch.object(fusion, "KNOWN", 1e-9)],
    "nothing suits an embedding": lambda: [mock.patch.object(models, "LEAST_ALIKE", 1.0)],
    "nothing learnt late": lambda: [mock.patch.object(belief, "waits", nothing_waits)],
    "belief not carried over": lambda: [mock.patch.object(belief, "CARRY", 0.0)],
    "owners are never strange for long": lambda: [
        mock.patch.object(belief, "runs_of", owners_never),
        mock.patch.object(belief, "UNSEEN", 1e-9),
    ],
    "learns whatever comes": lambda: [mock.patch.object(belief, "lesson", everything_taught)],
    "kinds of attack alike": lambda: [mock.patch.object(attacks, "PRIOR", dict.fromkeys(attacks.PRIOR, 1.0))],
    "relevant is what catches all kinds together": lambda: [mock.patch.object(fusion, "relevance_of", of_all_kinds)],
    "channels that say the same count each": lambda: [mock.patch.object(fusion, "shared", never_shared)],
    "nothing looked at together": lambda: [mock.patch.object(joints, "LEAST_GAIN", 1.0)],
    "numbers only one by one": lambda: [mock.patch.object(module, "FEWEST_NUMBERS", 10**9) for module in (evidence, models)],
    "likeness and outlier scores measured as nats": lambda: [mock.patch.object(fusion, "unitless", fusion.reference)],
    "own peers only": lambda: [mock.patch.object(models, "BLENDS", (0.0,))],
    "all channels to the forest": lambda: [mock.patch.object(fusion, "RELEVANT", 0.0)],
}


def main() -> None:
    """Print a line as soon as it is known."""
    print("| log | without | AUC | hit@1% | hit@5% |\n|---|---|---|---|---|")
    for log in sys.argv[1:] or LOGS:
        settings = load(None, [x for x in LOGS[log][1] if x != "--set"], {})
        source = [str(SHARED / "data" / log / "events.jsonl.gz")]
        batch = concat([c.batch for c in read_all(source, SourceSettings(), settings.events, BATCH, time.time())])
        found = training.find_facets(batch, settings.attributes)
        looked_at = (*found.text, *found.number, "volume", *EMBEDDING_CHANNELS)
        facets = {f"no {of}": (lambda of=of: without(lambda name, _: name in (of, of + RATE, of + EXTREME))) for of in looked_at}
        for title, patches in (IDEAS | facets).items():
            with ExitStack() as stack:
                for patch in patches():
                    stack.enter_context(patch)
                of = judge(batch, log, settings, windows_of(log))
            told = f"{area(of.score, of.stolen):.3f} | {hit(of.score, of.stolen):.3f} | {hit(of.score, of.stolen, 0.05):.3f}"
            print(f"| `{log}` | {title} | {told} |", flush=True)


if __name__ == "__main__":
    main()
