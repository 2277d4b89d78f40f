"""What a million accounts cost: python -m tests.bench.scale [ACCOUNTS]

Fills stores with 10,000 and with ACCOUNTS (1,000,000) accounts, whose profiles are those of a generated log, and prints for each,
in processes of their own: bytes on disk per account, seconds from nothing to the end of the first cycle, seconds of a cycle over
20,000 events (the median of five, other accounts each time), and resident memory; then how much dearer a cycle has become.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from detector.cycle import Engine
from detector.pack import Pack, load
from detector.records import Batch, Changes, Chunk
from detector.settings import Settings, SourceSettings
from detector.settings import load as load_settings
from detector.sources import read_all
from detector.stores import FILE, MemoryStore, SqliteStore
from tests.bench.speed import generate

FEW, EVENTS, CYCLES = 10_000, 20_000, 5
PER_COMMIT = 20_000


def main() -> int:
    """Print the figures."""
    if len(sys.argv) > 3:
        return one(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        log = folder / "log.jsonl"
        generate(log, 300_000, FEW)
        train = [sys.executable, "-m", "detector.cli", "train", str(log), "--set", f"state.folder={folder}"]
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        pack = folder / "packs" / (folder / "packs/installed").read_text().strip()
        records = profiles(log, load(pack))
        told = []
        for accounts in (FEW, many):
            state = folder / f"state-{accounts}"
            fill(state, accounts, records)
            command = [sys.executable, "-m", "tests.bench.scale", str(state), str(accounts), str(pack), str(time.time())]
            told.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(json.dumps(told[-1]), flush=True)
        print(json.dumps({"cycle_cost_ratio": round(told[1]["cycle_s"] / told[0]["cycle_s"], 2)}))
    return 0


def profiles(log: Path, pack: Pack) -> list[tuple[int, bytes]]:
    """(sessions known, profile) of the accounts of a log."""
    settings = load_settings(environment={})
    store = MemoryStore()
    engine = Engine(store, pack, settings, (), keep_history=False, casework=False)
    for chunk in read_all([str(log)], SourceSettings(), settings.events, EVENTS, time.time()):
        engine.run("log", chunk, time.time())
    known = dict(store.users("", FEW))
    out = [(known[user], record) for user, record in store.all_accounts()]
    sizes = np.array([len(record) for _, record in out])
    print(json.dumps({"record_bytes": {"mean": round(sizes.mean()), "p99": round(float(np.percentile(sizes, 99)))}}), flush=True)
    return out


def fill(state: Path, accounts: int, records: list[tuple[int, bytes]]) -> None:
    """A store with so many accounts."""
    store = SqliteStore(state)
    for low in range(0, accounts, PER_COMMIT):
        some = range(low, min(low + PER_COMMIT, accounts))
        store.commit(Changes(accounts=tuple((f"u{n}", *records[n % len(records)]) for n in some)))
    store.close()


def one(state: Path, accounts: int, pack_folder: Path, began: float) -> int:
    """The figures of one store; the process was started at `began`."""
    size = (state / FILE).stat().st_size
    settings: Settings = load_settings(overrides=[f"state.folder={state}", "alerts.per_day=0.001"], environment={})
    store = SqliteStore(state)
    pack = load(pack_folder)
    engine = Engine(store, pack, settings, ())
    rng = np.random.default_rng(0)
    took: list[float] = []
    first = 0.0
    for cycle in range(CYCLES + 1):
        begins = time.perf_counter()
        engine.run("log", Chunk(batch(accounts, cycle, rng), (), {"n": cycle}, False), time.time())
        took.append(time.perf_counter() - begins)
        first = first or time.time() - began
    store.close()
    told = {
        "accounts": accounts,
        "bytes_per_account": round(size / accounts),
        "first_cycle_after_s": round(first, 2),
        "cycle_s": round(float(np.median(took[1:])), 3),
        "resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(told))
    return 0


def batch(accounts: int, cycle: int, rng: np.random.Generator) -> Batch:
    """20,000 events of 2,500 accounts, a session of eight each."""
    who = np.repeat(rng.choice(accounts, EVENTS // 8, replace=False), 8)
    when = (
        1_770_000_000.0
        + 7200.0 * cycle
        + np.tile(np.arange(8) * 20.0, EVENTS // 8)
        + np.repeat(rng.uniform(0, 600, EVENTS // 8), 8)
    )
    order = np.argsort(when, kind="stable")

    def texts(letter: str, of: np.ndarray) -> np.ndarray:
        out = np.empty(EVENTS, object)
        out[:] = [f"{letter}{x}" for x in of[order].tolist()]
        return out

    def numbers(of: np.ndarray) -> np.ndarray:
        out = np.empty(EVENTS, object)
        out[:] = of[order].tolist()
        return out

    attributes = {
        "action": texts("open", rng.integers(0, 1, EVENTS)),
        "device": texts("d", who % 30_000),
        "network": texts("n", who % 5000),
        "country": texts("c", who % 60),
        "page": texts("p", rng.integers(0, 20_000, EVENTS)),
        "browser": texts("b", rng.integers(0, 6, EVENTS)),
        "amount": numbers(rng.lognormal(3, 1, EVENTS)),
        "bytes": numbers(rng.integers(200, 9000, EVENTS).astype(float)),
    }
    none = np.full(EVENTS, None, object)
    return Batch(when[order], texts("u", who), none, attributes, none, texts("log:", np.arange(EVENTS)))


if __name__ == "__main__":
    sys.exit(main())
