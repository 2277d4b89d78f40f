"""The detector on a made log whose accounts carry what says who they are: figures that must not get worse."""

from __future__ import annotations

import time

import numpy as np

from detector import fusion, training
from detector.cycle import Engine
from detector.records import Chunk, Verdict
from detector.replay import Recorder, empty_batch
from detector.settings import load
from tests.logs import DAY, START, batch_of, part, payments

SINCE = START + 53 * DAY


def test_thieves_of_cards_are_found_though_home_and_age_go_with_the_card() -> None:
    rows, stolen = payments(seed=1)
    batch, settings = batch_of(rows), load(overrides=["session.gap=1h"], environment={})
    past = part(batch, batch.time < SINCE)
    pack = training.train(past, settings.attributes, settings.session, settings.training, settings.seed, SINCE)
    assert set(pack.facets.fixed) == {"home", "job", "age", "zip"}
    verdicts: list[Verdict] = []
    engine = Engine(Recorder(verdicts.append, lambda _: None), pack, settings, (), keep_history=False, casework=False)
    engine.run("log", Chunk(batch, (), {}, False), time.time(), looks=False)
    engine.run("log", Chunk(empty_batch(), (), {}, True), time.time(), drain=True, looks=False)
    late = [v for v in verdicts if v.end >= SINCE]
    theirs = np.array([any(v.user == user and v.start <= when <= v.end for user, when in stolen) for v in late])
    score = np.array([v.score for v in late])
    own = np.sort(score[~theirs])[::-1]
    assert theirs.sum() == 37
    # .981 and .730; before what never changes was told from what is done: .928 and .324
    assert fusion.auc(own, score[theirs]) > 0.965
    assert (score[theirs] > own[int(0.01 * len(own))]).mean() > 0.6
