"""How fast a replay is, side by side with merely parsing the same file: python -m tests.bench.speed [EVENTS [ACCOUNTS]]

Generates a log of 8 attributes (5,000,000 events of 100,000 accounts where nothing else is said), trains a pack on its first part,
replays all of it with every channel and every verdict written, and prints events a second, the largest resident memory, and the
multiple of the time that pyarrow needs merely to parse the file, taken in the same run. `--profile FILE` writes a cProfile.

What got it there: a process beside the replay reads, parses and fingerprints the next chunks (`ahead`), 512 lines at a time where
they are usual (`bulk`), and sends each distinct value once. Whatever is done to a value (hash, key, text) is done once for each
distinct one, by codes. Sums over the values of sessions are sparse products, and what depends on the vocabulary alone is a table
made once. Profiles go to and from bytes by column, and are merged at the width in use. What is left is spread thin: about a
quarter is the judging itself, a tenth the shares of the values among the peers, which wait for memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

START = 1_767_225_600
ACTIONS = ("open", "read", "edit", "search", "download", "share", "pay", "login")
CHUNK = 100_000  # events written at a time


def generate(path: Path, events: int, accounts: int, days: int = 30, seed: int = 0) -> np.ndarray:
    """A log in order of time: every account has devices, networks, pages, hours and amounts of its own. Gives the (E,) times."""
    rng = np.random.default_rng(seed)
    device, network, country = (
        rng.integers(0, 3 * accounts, (accounts, 2)),
        rng.integers(0, 5000, accounts),
        rng.integers(0, 60, accounts),
    )
    pages, hour, amount = rng.integers(0, 20_000, (accounts, 8)), rng.integers(0, 24, accounts), rng.lognormal(3, 1, accounts)
    sessions = events // 8
    who = rng.integers(0, accounts, sessions)
    start = np.sort(
        rng.integers(0, days, sessions) * 86400
        + ((hour[who] + rng.integers(-2, 3, sessions)) % 24) * 3600
        + rng.integers(0, 3600, sessions)
    )
    rng.shuffle(who)
    times = start[:, None] + np.cumsum(rng.integers(1, 90, (sessions, 8)), axis=1)
    order = np.argsort(times, axis=None, kind="stable")
    with path.open("w", encoding="ascii") as file:
        for low in range(0, len(order), CHUNK):
            at = order[low : low + CHUNK]
            user, when = who[at // 8], times.ravel()[at]
            page = np.where(rng.random(len(at)) < 0.9, pages[user, rng.integers(0, 8, len(at))], rng.integers(0, 20_000, len(at)))
            columns = (
                user,
                when + START,
                rng.integers(0, 8, len(at)),
                device[user, (rng.random(len(at)) < 0.1).astype(int)],
                network[user],
            )
            more = (
                country[user],
                page,
                rng.integers(0, 6, len(at)),
                np.round(amount[user] * rng.lognormal(0, 0.3, len(at)), 2),
                rng.integers(200, 9000, len(at)),
            )
            file.writelines(
                f'{{"time":{t},"user":"u{u}","action":"{ACTIONS[a]}","device":"d{d}","network":"n{n}","country":"c{c}","page":"p{p}",'
                f'"browser":"b{b}","amount":{m},"bytes":{s}}}\n'
                for u, t, a, d, n, c, p, b, m, s in zip(*(x.tolist() for x in (*columns, *more)), strict=True)
            )
    return np.asarray(times.ravel()[order] + START, float)


def parse_only(path: Path) -> float:
    """Seconds that pyarrow needs to parse the file."""
    from pyarrow import json as arrow

    began = time.perf_counter()
    arrow.read_json(path)
    return time.perf_counter() - began


def main() -> int:
    """Print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("events", type=int, nargs="?", default=5_000_000)
    options.add_argument("accounts", type=int, nargs="?", default=100_000)
    options.add_argument("--profile")
    options.add_argument("--keep", help="folder for the log and the pack, used again where they are there")
    asked = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(asked.keep or made)
        folder.mkdir(exist_ok=True)
        log, past, verdicts = folder / "log.jsonl", folder / "past.jsonl", folder / "verdicts.jsonl"
        unlike = [sys.executable, "-m", "detector.cli"]
        if not log.exists():
            generate(log, asked.events, asked.accounts)
        if not (folder / "packs").exists():
            with log.open() as file, past.open("w") as out:
                out.writelines(line for _, line in zip(range(min(asked.events // 2, 400_000)), file, strict=False))
            began = time.perf_counter()
            subprocess.run([*unlike, "train", str(past), "--set", f"state.folder={folder}"], check=True, stdout=subprocess.DEVNULL)
            print(json.dumps({"training_s": round(time.perf_counter() - began, 1)}), flush=True)
        pack = folder / "packs" / (folder / "packs/installed").read_text().strip()
        parsing = parse_only(log)
        command = ["replay", str(log), "--train-until", "2026-01-01T00:00:00Z", "--pack", str(pack), "--verdicts", str(verdicts)]
        profiled = ["-m", "cProfile", "-o", asked.profile] if asked.profile else []
        began = time.perf_counter()
        subprocess.run([sys.executable, *profiled, "-m", "detector.cli", *command], check=True, stderr=subprocess.DEVNULL)
        took = time.perf_counter() - began
        told = {
            "events": asked.events,
            "accounts": asked.accounts,
            "events_per_second": round(asked.events / took),
            "times_parsing": round(took / parsing, 1),
            "parsing_events_per_second": round(asked.events / parsing),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
            "verdicts": sum(1 for _ in verdicts.open("rb")),
        }
        print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
