"""A live daemon under load: python -m tests.bench.live [--seconds 60] [--rate 5000] [--flood RATE | --burst] [--strict]

Writes a log of 8 attributes at a steady rate into a file that a daemon follows, and prints, from outside of it: the time from a
line written to the verdicts that it brings about (a verdict is due when an event comes that ends the silence after its session),
what waited to be read, resident memory and open files in each quarter of the run, and whether every line was counted. `--flood`
writes at another rate in the second half and waits until the daemon has caught up. `--burst` adds a million events of one account,
half of them in sessions of their own, to the second half, and compares what the others' verdicts take before and meanwhile.
`--strict` fails where memory or files grow, the queue does not empty or a line is missing: the soak. An hour of the log passes in a
second (`--haste`), so that sessions end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detector.settings import Settings
from detector.stores import FILE
from tests.bench.speed import generate
from tests.servers import free_port, get

PAST, ACCOUNTS = 300_000, 10_000  # events before, that the pack is trained on; accounts of the log
SLICE, POLL, SAMPLE, SETTLED_S = 0.02, 0.05, 1.0, 600.0
BURST, BURST_USER = 1_000_000, "u-burst"
CYCLE = 1.0
FLAT = 1.15  # memory of the last quarter over that of the second


@dataclass
class Load:
    """What was written and what was seen of the daemon meanwhile."""

    lines: list[tuple[int, float]] = field(default_factory=list)  # so many of the log by then
    burst: int = 0
    seen: list[tuple[float, float]] = field(default_factory=list)  # end of a session, when its verdict was there
    samples: list[dict[str, float]] = field(default_factory=list)
    ended: float = 0.0  # when the last line was written


def main() -> int:
    """Print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--rate", type=int, default=5000, help="events a second")
    options.add_argument("--flood", type=int, default=0, help="events a second in the second half")
    options.add_argument("--burst", action="store_true")
    options.add_argument("--haste", type=float, default=3600, help="seconds of the log in a second")
    options.add_argument("--strict", action="store_true")
    asked = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    half = asked.seconds / 2
    rates = [(half, asked.rate), (half, asked.flood or asked.rate)]
    live = int(sum(seconds * rate for seconds, rate in rates))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        log = folder / "all.jsonl"
        times = generate(log, PAST + live, ACCOUNTS, max(1, round((PAST + live) / asked.rate * asked.haste / 86400)))
        data = np.memmap(log, np.uint8, "r")
        offsets = np.concatenate([[0], np.flatnonzero(data == ord("\n")) + 1])
        past = folder / "past.jsonl"
        past.write_bytes(data[: offsets[PAST]].tobytes())
        state = folder / "state"
        train = [sys.executable, "-m", "detector.cli", "train", str(past), "--set", f"state.folder={state}"]
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        load = watched(folder, state, data, offsets, times, rates, asked.burst)
    told = figures(load, times, len(times) + load.burst, half if asked.burst else None)
    print(json.dumps(told))
    return int(asked.strict and bool(told["wrong"]))


def watched(
    folder: Path, state: Path, data: np.ndarray, offsets: np.ndarray, times: np.ndarray, rates: list[tuple[float, int]], burst: bool
) -> Load:
    """Run a daemon on what is written at the rates (seconds, lines a second), until it has read everything."""
    target, port, load = folder / "live.jsonl", free_port(), Load()
    target.write_bytes(data[: offsets[PAST]].tobytes())
    config = folder / "unlike.toml"
    config.write_text(
        f'[[source]]\npath = "{target}"\nname = "log"\n[state]\nfolder = "{state}"\n[cycle]\nevery = "{CYCLE:g}s"\n'
        f'[training]\nevery = "0s"\n[metrics]\nlisten = "127.0.0.1:{port}"\n[review]\nlisten = "127.0.0.1:0"\n'
    )
    with (folder / "daemon.log").open("wb") as messages:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "detector.cli", "run", "--config", str(config)], stdout=messages, stderr=messages
        )
    done = threading.Event()
    helpers = [
        threading.Thread(target=look, args=(state / FILE, load, done)),
        threading.Thread(target=sample, args=(daemon.pid, port, load, done)),
    ]
    try:
        while counted(port) < PAST:
            time.sleep(0.2)
        for helper in helpers:
            helper.start()
        write(target, data, offsets, times, rates, burst, load)
        deadline = time.monotonic() + SETTLED_S
        while counted(port) < len(times) + load.burst and time.monotonic() < deadline and daemon.poll() is None:
            time.sleep(0.2)
        time.sleep(3 * CYCLE)
        done.set()
        for helper in helpers:
            helper.join()
    finally:
        done.set()
        daemon.terminate()
        daemon.wait(60)
        sys.stderr.write("".join(line for line in (folder / "daemon.log").open() if "error" in line.lower()))
    return load


def write(
    target: Path,
    data: np.ndarray,
    offsets: np.ndarray,
    times: np.ndarray,
    rates: list[tuple[float, int]],
    burst: bool,
    load: Load,
) -> None:
    """Append the lines after PAST at the rates; with a burst, a million others of one account to the second half."""
    begun, line, before = time.time(), PAST, 0.0
    rng = np.random.default_rng(1)
    with target.open("ab", buffering=0) as file:
        for part, (seconds, rate) in enumerate(rates):
            first = line
            while line < first + int(seconds * rate):
                now = time.time() - begun - before
                upto = first + int(min(now, seconds) * rate)
                file.write(data[offsets[line] : offsets[upto]].tobytes())
                load.lines.append((upto, time.time()))
                if burst and part and upto > line:
                    more = min(round(BURST * min(now, seconds) / seconds), BURST) - load.burst
                    file.write(flurry(int(times[upto - 1]), load.burst, rng.integers(0, 10**6, more)))
                    load.burst += more
                line = upto
                time.sleep(SLICE)
            before += seconds
    load.ended = time.time()


def flurry(when: int, first: int, pages: np.ndarray) -> bytes:
    """Events of one account at one time, numbered from `first`, every other one in a session of its own."""
    line = b'{"time":%d,"user":"u-burst","action":"download","device":"d1","page":"p%d","id":"b%d"%s}\n'
    return b"".join(
        line % (when, page, first + n, b',"session":"s%d"' % (first + n) if n % 2 else b"") for n, page in enumerate(pages.tolist())
    )


def look(path: Path, load: Load, done: threading.Event) -> None:
    """Note when verdicts are there, but for those on the burst."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    (last,) = db.execute("SELECT coalesce(max(id), 0) FROM verdicts").fetchone()
    while not done.is_set():
        rows = db.execute('SELECT id, "end", user FROM verdicts WHERE id > ? ORDER BY id', (last,)).fetchall()
        now = time.time()
        load.seen.extend((end, now) for _, end, user in rows if user != BURST_USER)
        last = rows[-1][0] if rows else last
        done.wait(POLL)
    db.close()


def sample(pid: int, port: int, load: Load, done: threading.Event) -> None:
    """Note memory, files and queue of the daemon."""
    while not done.wait(SAMPLE):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        files = len(os.listdir(f"/proc/{pid}/fd"))
        numbers = metrics(port)
        load.samples.append(
            {"at": time.time(), "mb": resident, "files": files, "queue": numbers.get("unlike_queue_bytes", 0.0), **numbers}
        )


def metrics(port: int) -> dict[str, float]:
    """The daemon's metrics without labels."""
    try:
        text = get(f"http://127.0.0.1:{port}/metrics")[1]
    except OSError:
        return {}
    found = re.findall(r"^(\w+) ([\d.e+-]+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def counted(port: int) -> float:
    """Events and lines that the daemon has accounted for."""
    found = metrics(port)
    return sum(found.get(f"unlike_{name}_total", 0.0) for name in ("events", "duplicate_events", "late_events"))


def figures(load: Load, times: np.ndarray, expected: int, half: float | None) -> dict[str, Any]:
    """What is printed."""
    rules = Settings()
    silence = rules.session.gap + rules.events.lateness
    seen = np.array(load.seen)
    upto, at = np.array([n for n, _ in load.lines]), np.array([t for _, t in load.lines])
    due = np.searchsorted(times, seen[:, 0] + silence, side="right")  # the line that brings the verdict about
    live = (due >= PAST) & (due < len(times))
    written = at[np.minimum(np.searchsorted(upto, due, side="right"), len(at) - 1)]
    waits = (seen[:, 1] - written)[live]
    quarters = np.array_split(np.array([[s["mb"], s["files"], s["queue"]] for s in load.samples if s["at"] <= load.ended]), 4)
    last = load.samples[-1]
    total = sum(last.get(f"unlike_{name}_total", 0.0) for name in ("events", "duplicate_events", "late_events"))
    told: dict[str, Any] = {
        "verdicts": int(live.sum()),
        "cycle_s": CYCLE,
        "wait_s": percentiles(waits),
        "resident_mb": [round(float(q[:, 0].max())) for q in quarters],
        "open_files": [int(q[:, 1].max()) for q in quarters],
        "queue_mb": [round(float(q[:, 2].max()) / 2**20, 1) for q in quarters],
        "queue_mb_largest": round(max(s["queue"] for s in load.samples) / 2**20, 1),
        "caught_up_after_s": round(
            next((s["at"] for s in load.samples if s["at"] > load.ended and not s["queue"]), 0) - load.ended, 1
        ),
        "lines": expected,
        "counted": int(total),
        "cycles": {name: last.get(f"unlike_cycle_duration_seconds_{name}", 0.0) for name in ("count", "sum")},
    }
    if half is not None:
        meanwhile = written[live] >= at[0] + half
        told |= {"wait_s_before": percentiles(waits[~meanwhile]), "wait_s_meanwhile": percentiles(waits[meanwhile])}
    told["wrong"] = [
        what
        for what, is_so in (
            ("memory grows", quarters[3][:, 0].max() > FLAT * quarters[1][:, 0].max()),
            ("files grow", quarters[3][:, 1].max() > quarters[1][:, 1].max() + 5),
            ("the queue is not empty", last["queue"] > 0),
            ("lines are missing", total != expected),
        )
        if is_so
    ]
    return told


def percentiles(waits: np.ndarray) -> dict[str, float]:
    """Of seconds."""
    return {f"p{q}": round(float(np.percentile(waits, q)), 2) for q in (50, 90, 99)} if len(waits) else {}


if __name__ == "__main__":
    sys.exit(main())
