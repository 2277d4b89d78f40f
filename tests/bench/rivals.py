"""Beside what people would write instead, on one log: python -m tests.bench.rivals [ACCOUNTS]. Needs ../shared and `river`.

The log is the demo's town, with takeovers in its last three weeks; everything before may be learnt from. In turn, each in a process
of its own, from the file to verdicts: ours; PyOD's isolation forest and ECOD on counts per session, as their tutorials do; river's
half-space trees, which learn event by event (a session's score is that of its strangest event). Printed for each: events a second
(training included), resident memory, and what the judge says of the verdicts.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from detector.lines import rfc3339, seconds
from detector.residents import ACTIONS
from detector.town import Town, simulate
from tests.bench.quality import SHARED

ACCOUNTS, WEEKS, PER_KIND, GAP = 960, 8, 20, 1800.0
SHOWN = ("auc", "hit@1.0%", "hit@5.0%", "caught@10")
Session = tuple[str, float, float, np.ndarray]  # user, start, end, features


def main() -> int:
    """Print the table, or run one rival."""
    if len(sys.argv) > 2:
        name, events_of, from_, to = sys.argv[1:]
        RIVALS[name](Path(events_of), float(from_), Path(to))
        return 0
    town = simulate(0, int(sys.argv[1]) if len(sys.argv) > 1 else ACCOUNTS, WEEKS, PER_KIND)
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{len(town.events):,} events, {len(town.takeovers)} takeovers")
    print("| system | events a second | seconds | MB | " + " | ".join(SHOWN) + " |\n" + "|---" * (4 + len(SHOWN)) + "|")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        log, truth, out = written(town, folder)
        since = rfc3339(town.learn_until)
        ours = [sys.executable, "-m", "detector.cli", "replay", str(log), "--train-until", since, "--verdicts", str(out)]
        commands = {"unlike": ours} | {
            name: [sys.executable, "-m", "tests.bench.rivals", name, str(log), str(town.learn_until), str(out)] for name in RIVALS
        }
        for name, command in commands.items():
            took, mb = measured(command)
            judge = [sys.executable, str(SHARED / "tools/score.py"), str(out), str(truth), "--from", since, "--json"]
            told = json.loads(subprocess.run(judge, check=True, capture_output=True).stdout)["all"]
            shown = " | ".join(f"{told[what]:.3f}" for what in SHOWN)
            print(f"| {name} | {len(town.events) / took:,.0f} | {took:.0f} | {mb} | {shown} |", flush=True)
    return 0


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and the most MB that it had in memory."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed with status {status}")
    return time.perf_counter() - began, round(used.ru_maxrss / 1024)


def written(town: Town, folder: Path) -> tuple[Path, Path, Path]:
    """The log, the truth, and where verdicts go."""
    log, truth = folder / "log.jsonl", folder / "compromised.csv"
    with log.open("w") as lines:
        lines.writelines(json.dumps(event) + "\n" for event in town.events)
    with truth.open("w", newline="") as rows:
        table = csv.writer(rows)
        table.writerow(["user", "start", "end", "takeover", "session"])
        table.writerows([t.user, rfc3339(t.start), rfc3339(t.end), t.id, ""] for t in town.takeovers)
    return log, truth, folder / "verdicts.jsonl"


def events(log: Path) -> Iterator[tuple[float, dict[str, Any]]]:
    """The events with their times."""
    with log.open() as lines:
        for line in lines:
            event = json.loads(line)
            yield seconds(event["time"]), event


def put(out: Path, sessions: list[tuple[str, float, float, float]]) -> None:
    """Verdicts as the judge reads them; of two sessions that overlap a takeover each counts."""
    with out.open("w") as file:
        for user, start, end, score in sessions:
            verdict = {"user": user, "session": None, "start": rfc3339(start), "end": rfc3339(end), "score": score, "history": 9}
            file.write(json.dumps(verdict) + "\n")


def counted(log: Path) -> list[Session]:
    """Sessions by silence, as counts: what a tutorial makes of a log."""
    opened: dict[str, list[Any]] = {}
    done: list[Session] = []
    for time_, event in events(log):
        mine = opened.get(event["user"])
        if mine is not None and time_ - mine[1] > GAP:
            done.append(closed(event["user"], mine))
            mine = None
        if mine is None:
            mine = opened[event["user"]] = [time_, time_, np.zeros(len(ACTIONS)), [set() for _ in range(4)], 0.0, 0.0]
        mine[1] = time_
        mine[2][ACTIONS.index(event["action"])] += 1
        for values, name in zip(mine[3], ("device", "network", "country", "resource"), strict=True):
            values.add(event.get(name))
        mine[4] = max(mine[4], event.get("amount", 0.0))
        mine[5] += event.get("bytes", 0)
    return done + [closed(user, mine) for user, mine in opened.items()]


def closed(user: str, mine: list[Any]) -> Session:
    """A session with its features."""
    start, end, actions, values, amount, size = mine
    more = [end - start, actions.sum(), start / 3600 % 24, start // 86400 % 7, amount, size, *(len(v) for v in values)]
    return user, start, end, np.concatenate([actions, more])


def outliers(make: Callable[[], Any]) -> Callable[[Path, float, Path], None]:
    """A model of PyOD: fitted on the sessions before, scoring those after."""

    def run(log: Path, since: float, out: Path) -> None:
        sessions = counted(log)
        x = np.array([s[3] for s in sessions])
        later = np.array([s[2] >= since for s in sessions])
        model = make().fit(x[~later])
        scores = model.decision_function(x[later])
        put(out, [(*sessions[s][:3], float(score)) for s, score in zip(np.flatnonzero(later), scores, strict=True)])

    return run


def forest() -> Any:
    """Isolation forest."""
    from pyod.models.iforest import IForest

    return IForest(random_state=0)


def ecod() -> Any:
    """Empirical cumulative distributions."""
    from pyod.models.ecod import ECOD

    return ECOD()


def half_space_trees(log: Path, since: float, out: Path) -> None:
    """river, event by event."""
    from river import anomaly, compose, preprocessing

    model = compose.Pipeline(preprocessing.MinMaxScaler(), anomaly.HalfSpaceTrees(n_trees=25, seed=0))
    opened: dict[str, list[float]] = {}
    done: list[tuple[str, float, float, float]] = []
    codes: dict[str, int] = {}
    for time_, event in events(log):
        user = event["user"]
        mine = opened.get(user)
        if mine is None or time_ - mine[1] > GAP:
            if mine is not None:
                done.append((user, mine[0], mine[1], mine[2]))
            mine = opened[user] = [time_, time_, 0.0]
        x = {name: float(event.get(name) or 0) for name in ("amount", "bytes")}
        x |= {name: float(codes.setdefault(f"{name} {event.get(name)}", len(codes))) for name in ("action", "device", "country")}
        x |= {"hour": time_ / 3600 % 24, "since": time_ - mine[1]}
        mine[1], mine[2] = time_, max(mine[2], model.score_one(x))
        model.learn_one(x)
    done += [(user, mine[0], mine[1], mine[2]) for user, mine in opened.items()]
    put(out, [row for row in done if row[2] >= since])


RIVALS: dict[str, Callable[[Path, float, Path], None]] = {
    "PyOD IForest": outliers(forest),
    "PyOD ECOD": outliers(ecod),
    "river half-space trees": half_space_trees,
}

if __name__ == "__main__":
    sys.exit(main())
