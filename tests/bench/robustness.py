"""The fused score beside each channel alone, p-values beside how often they come, thieves who copy, accounts that are new.

Run from the checkout: python tests/bench/robustness.py [LOG ...]. A pack is trained on the time before "score from" and stays (no
retraining), but for the last table, which is of a plain replay that trains again as the daemon does. Labels are used to judge, and
to build the attack of the second table: in the events of each takeover a random half of the attributes (of the events where there
is but one attribute) get values of the owner's own earlier events.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np

from detector import scoring, training
from detector.cycle import Engine
from detector.evidence import channels
from detector.fusion import auc
from detector.history import concat, select
from detector.lines import seconds
from detector.pack import Pack
from detector.profiles import Profiles
from detector.records import Batch, Chunk, Verdict
from detector.replay import Recorder, empty_batch
from detector.sessions import Sessions
from detector.settings import Settings, SourceSettings, load
from detector.sources import read_all
from tests.bench.quality import LOGS, SHARED, replay

BATCH = 20_000
NOMINAL = (0.1, 0.01, 0.001)  # p
NEW_SHARE = 1 / 3  # of accounts lose their history for the cold start
Windows = dict[str, list[tuple[float, float, str | None, str]]]


@dataclass(frozen=True)
class Judged:
    """S sessions after "score from"."""

    names: tuple[str, ...]
    user: np.ndarray  # (S,) object
    channels: np.ndarray  # (S, C) nats
    score: np.ndarray  # (S,)
    known: np.ndarray  # (S,) sessions
    end: np.ndarray  # (S,) seconds
    stolen: np.ndarray  # (S,) bool


def windows_of(log: str) -> Windows:
    """Labelled takeovers: user -> (start, end, session name, takeover)."""
    found: Windows = defaultdict(list)
    with open(SHARED / "data" / log / "compromised.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["user"]].append((seconds(row["start"]), seconds(row["end"]), row["session"] or None, row["takeover"]))
    return found


def takeover_of(windows: Windows, user: str, name: str | None, start: float, end: float) -> str | None:
    """The takeover that a session belongs to, as the judge has it: by name, or by overlap where the window has none."""
    for low, high, session, takeover in windows.get(user, ()):
        if (name == session) if session else (low <= end and high >= start):
            return takeover
    return None


def borrowed(batch: Batch, windows: Windows, rng: np.random.Generator) -> Batch:
    """The log with thieves who copy half of what they show from the owner."""
    columns = {name: column.copy() for name, column in batch.attributes.items()}
    names = [name for name in columns if len(set(columns[name][:BATCH].tolist())) > 1]
    rows: dict[str, np.ndarray] = {user: np.flatnonzero(batch.user == user) for user in windows}
    for user, some in windows.items():
        mine, times, sessions = rows[user], batch.time[rows[user]], batch.session[rows[user]]
        thefts: dict[str, np.ndarray] = {}
        for low, high, name, takeover in some:
            within = (sessions == name) if name else (times >= low) & (times <= high)
            thefts[takeover] = thefts.get(takeover, np.zeros(len(mine), bool)) | within
        anybodys = np.any(list(thefts.values()), axis=0)
        for theft in thefts.values():
            own = mine[~anybodys & (times < times[theft].min(initial=np.inf))]
            if not theft.any() or not len(own):
                continue
            half = rng.permutation(names)[: max(1, len(names) // 2)]
            changed = mine[theft] if len(names) > 1 else mine[theft][rng.random(theft.sum()) < 0.5]
            for name in half:
                columns[name][changed] = columns[name][rng.choice(own, len(changed))]
    return replace(batch, attributes=columns)


def judge(batch: Batch, log: str, settings: Settings, windows: Windows) -> Judged:
    """Train before "score from" and judge everything, as the daemon does."""
    since = seconds(LOGS[log][0])
    past = select(batch, batch.time < since)
    pack = training.train(past, settings.attributes, settings.session, settings.training, settings.seed, since)
    nats: dict[tuple[str, str | None, float], np.ndarray] = {}
    verdicts: list[Verdict] = []
    plain = scoring.weigh

    def recording(
        table: Sessions, profiles: Profiles, embedding: np.ndarray, peers: np.ndarray, pack: Pack, unfinished: np.ndarray
    ) -> scoring.Weighed:
        found = channels(table, profiles, embedding, peers, pack.population, pack.facets)
        nats.update(zip(zip(table.user, table.name, table.start.tolist(), strict=True), found, strict=True))
        return plain(table, profiles, embedding, peers, pack, unfinished)

    engine = Engine(Recorder(verdicts.append, lambda _: None), pack, settings, (), keep_history=False, casework=False)
    with mock.patch.object(scoring, "weigh", recording):
        for low in range(0, len(batch), BATCH):
            part = select(batch, np.arange(low, min(low + BATCH, len(batch))))
            engine.run(log, Chunk(part, (), {}, False), time.time(), looks=False)
        engine.run(log, Chunk(empty_batch(), (), {}, True), time.time(), drain=True, looks=False)
    late = [v for v in verdicts if v.end >= since]
    return Judged(
        pack.channels,
        np.array([v.user for v in late], object),
        np.array([nats[v.user, v.session, v.start] for v in late]),
        np.array([v.score for v in late]),
        np.array([v.history for v in late]),
        np.array([v.end for v in late]),
        np.array([takeover_of(windows, v.user, v.session, v.start, v.end) is not None for v in late]),
    )


def realised(log: str, windows: Windows) -> list[str]:
    """How often owners' p are small in a replay, a line for each half of the time."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "verdicts.jsonl"
        replay(log, SHARED / "data" / log / "events.jsonl.gz", out)
        found = [json.loads(line) for line in out.read_bytes().splitlines()]
    spans = [(v["user"], v["session"], seconds(v["start"]), seconds(v["end"])) for v in found]
    own = np.array([takeover_of(windows, *span) is None for span in spans])
    p, end = np.array([v["p"] for v in found]), np.array([span[-1] for span in spans])
    shares = how_often(p, end, own)
    halves = zip(("first half", "second half"), shares, strict=True)
    return [f"| `{log}` | {half} | {count:.0f} | " + " | ".join(f"{x:.4f}" for x in some) + " |" for half, (count, *some) in halves]


def how_often(p: np.ndarray, end: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(2, 4) owners' sessions, and how often their p are at most NOMINAL, by half of the time; p, end and whether (S,)."""
    early = end <= np.median(end)
    return np.array([[mask.sum(), *((p[mask] <= x).mean() for x in NOMINAL)] for mask in (early & own, ~early & own)])


def area(scores: np.ndarray, stolen: np.ndarray) -> float:
    """AUC of (S,) scores; nan where there is only one kind of session."""
    return auc(scores[~stolen], scores[stolen]) if stolen.any() and not stolen.all() else float("nan")


def limit(scores: np.ndarray, stolen: np.ndarray, few: float = 0.01) -> float:
    """The score that the share `few` of the owners' sessions reaches."""
    own = np.sort(scores[~stolen])[::-1]
    return float(own[int(few * len(own))])


def hit(scores: np.ndarray, stolen: np.ndarray, few: float = 0.01) -> float:
    """Share of stolen sessions above the score that the share `few` of the owners' reaches."""
    return float((scores[stolen] > limit(scores, stolen, few)).mean())


def rows_of(log: str, title: str, found: Judged) -> None:
    """Channels and fused score, a line each."""
    for c, name in enumerate(found.names):
        x = found.channels[:, c]
        print(f"| `{log}` | {title} | {name} | {area(x, found.stolen):.3f} | {hit(x, found.stolen):.3f} |")
    print(
        f"| `{log}` | {title} | **fused** | {area(found.score, found.stolen):.3f} | {hit(found.score, found.stolen):.3f} |",
        flush=True,
    )


def main() -> None:
    """Print the tables."""
    print("| log | thief | channel | AUC | hit@1% |\n|---|---|---|---|---|")
    often: list[str] = []
    for log in sys.argv[1:] or LOGS:
        settings = load(None, [x for x in LOGS[log][1] if x != "--set"], {})
        windows, rng = windows_of(log), np.random.default_rng(0)
        source = [str(SHARED / "data" / log / "events.jsonl.gz")]
        batch = concat([c.batch for c in read_all(source, SourceSettings(), settings.events, BATCH, time.time())])
        found = judge(batch, log, settings, windows)
        rows_of(log, "as labelled", found)
        often += realised(log, windows)
        rows_of(log, "copies half", judge(borrowed(batch, windows, rng), log, settings, windows))
        users = np.unique(batch.user.astype(str))
        if len(users) >= 100:
            new = rng.choice(users, int(NEW_SHARE * len(users)), replace=False)
            kept = ~np.isin(batch.user.astype(str), new) | (batch.time >= seconds(LOGS[log][0]))
            cold = judge(select(batch, kept), log, settings, windows)
            young = cold.known < 5
            few = f"{area(cold.score[young], cold.stolen[young]):.3f} | {int((young & cold.stolen).sum())} stolen |"
            print(f"| `{log}` | as labelled | **fused, 0 to 4 sessions known** | {few}", flush=True)
    print("\n| log | time | owners' sessions | p <= 0.1 | p <= 0.01 | p <= 0.001 |\n|---|---|---|---|---|---|")
    print("\n".join(often))


if __name__ == "__main__":
    main()
