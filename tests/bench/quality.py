"""All four real logs, replayed and judged: one table. Run from the checkout: python tests/bench/quality.py [LOG ...]

The logs are looked for in ../shared/data, the judge in ../shared/tools/score.py.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARED = Path(__file__).parents[3] / "shared"
LOGS = {  # log -> (score from, settings)
    "commands": ("2020-01-09T08:00:00Z", []),
    "browsing": ("2014-02-01T00:00:00Z", []),
    "email": ("2020-10-01T00:00:00Z", ["--set", "session.gap=2h"]),
    "cards": ("2018-05-16T00:00:00Z", ["--set", "session.gap=24h"]),
}
SHOWN = ("auc", "hit@0.1%", "hit@1.0%", "hit@5.0%", "cost", "caught@10")


def replay(log: str, events: Path, out: Path) -> float:
    """Replay one log; seconds it took, training included."""
    since, settings = LOGS[log]
    command = [sys.executable, "-m", "detector.cli", "replay", str(events), "--train-until", since, "--verdicts", str(out)]
    began = time.monotonic()
    subprocess.run([*command, *settings], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def judge(log: str, verdicts: Path) -> dict[str, dict[str, float]]:
    """What the judge says of a file of verdicts."""
    truth = SHARED / "data" / log / "compromised.csv"
    command = [sys.executable, str(SHARED / "tools/score.py"), str(verdicts), str(truth), "--from", LOGS[log][0], "--json"]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def main() -> None:
    """Print the table."""
    print("| log | " + " | ".join(SHOWN) + " | AUC, 0-4 sessions known | seconds |\n" + "|---" * (len(SHOWN) + 3) + "|")
    for log in sys.argv[1:] or LOGS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "verdicts.jsonl"
            seconds = replay(log, SHARED / "data" / log / "events.jsonl.gz", out)
            report = judge(log, out)
        young = report.get("history 0-4", {}).get("auc")
        cells = [f"{report['all'][name]:.3f}" for name in SHOWN] + ["-" if young is None else f"{young:.3f}", f"{seconds:.0f}"]
        print(f"| `{log}` | " + " | ".join(cells) + " |", flush=True)
    print(f"largest resident memory of a replay: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
