"""Whether the alert budget is held on a quiet log: python -m tests.bench.budget [LOG [PER_DAY ...]]

Leaves the takeovers out of a real log, replays it, and prints how many alerts (spells of trouble, as the budget counts them) a day
each 28 days after "score from" brought; in how many of those that had the sessions for it the budget was held within 10 %; and how
often p is small in each half of the time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from alerts.policy import HIGHEST_THRESHOLD
from detector.calibration import DAY, SPELL
from detector.lines import seconds
from detector.settings import SourceSettings, load
from detector.sources import read_all
from tests.bench.quality import LOGS, SHARED
from tests.bench.robustness import NOMINAL, how_often, takeover_of, windows_of

MONTH = 28


def main() -> None:
    """Print a line for each budget."""
    log, budgets = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("email", [])
    since, options = LOGS[log]
    with tempfile.TemporaryDirectory() as made:
        quiet = Path(made) / "quiet.jsonl"
        without_takeovers(log, quiet)
        for budget in map(float, budgets or ("1", "2")):
            verdicts, alerts = Path(made) / "verdicts.jsonl", Path(made) / "alerts.jsonl"
            command = [sys.executable, "-m", "detector.cli", "replay", str(quiet), "--train-until", since, *options]
            command += ["--verdicts", str(verdicts), "--alerts", str(alerts), "--set", f"alerts.per_day={budget}"]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            ends, p = judged(verdicts, seconds(since))
            sessions = np.bincount(((ends - seconds(since)) // DAY).astype(int)).astype(float)
            means, each = by_month(spells_by_day(alerts, seconds(since), len(sessions))), by_month(sessions)
            spendable = HIGHEST_THRESHOLD * each >= budget  # a log may trickle on for long after its end
            held = np.abs(means - budget) <= 0.1 * budget
            told = {"log": log, "budget": budget, "sessions_a_day": each.round(1).tolist(), "alerts_a_day": means.round(2).tolist()}
            told |= {"months": int(spendable.sum()), "of_them_within_10_percent": int((held & spendable).sum())}
            often = how_often(p, ends, np.ones(len(p), bool)).T[1:].round(5).tolist()
            print(json.dumps(told | {f"p_at_most_{x}": halves for x, halves in zip(NOMINAL, often, strict=True)}), flush=True)


def without_takeovers(log: str, path: Path) -> None:
    """The events of the log that are their account's owner's."""
    windows, settings = windows_of(log), load(environment={})
    source = [str(SHARED / "data" / log / "events.jsonl.gz")]
    with path.open("w") as file:
        for chunk in read_all(source, SourceSettings(), settings.events, 20_000, time.time()):
            batch = chunk.batch
            columns = {name: column.tolist() for name, column in batch.attributes.items()}
            rows = zip(batch.time.tolist(), batch.user.tolist(), batch.session.tolist(), batch.event_id.tolist(), strict=True)
            for e, (when, user, session, id_) in enumerate(rows):
                if takeover_of(windows, user, session, when, when) is None:
                    event = {"time": when, "user": user, "session": session, "id": id_} | {n: c[e] for n, c in columns.items()}
                    file.write(json.dumps({name: value for name, value in event.items() if value is not None}) + "\n")


def by_month(days: np.ndarray) -> np.ndarray:
    """(M,) means of each 28 days, the last days left out."""
    return np.asarray(days[: len(days) // MONTH * MONTH].reshape(-1, MONTH).mean(axis=1))


def judged(verdicts: Path, since: float) -> tuple[np.ndarray, np.ndarray]:
    """(S,) ends of the sessions, seconds, and their p."""
    found = [json.loads(line) for line in verdicts.open()]
    ends = np.array([seconds(v["end"]) for v in found])
    return ends[ends >= since], np.array([v["p"] for v in found])[ends >= since]


def spells_by_day(alerts: Path, since: float, days: int) -> np.ndarray:
    """(D,) spells of trouble that began on each day."""
    last: dict[str, float] = {}
    count = np.zeros(days)
    for line in alerts.open():
        alert = json.loads(line)
        user, when = alert["verdict"]["user"], seconds(alert["time"])
        day = int((when - since) // DAY)
        if when - last.get(user, -np.inf) > SPELL and 0 <= day < days:
            count[day] += 1
        last[user] = when
    return count


if __name__ == "__main__":
    main()
