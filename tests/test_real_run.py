"""The daemon on a real log that grows while Prometheus scrapes it: the same verdicts as its replay. Skipped without the log."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import msgspec

from detector.stores import SqliteStore
from tests.servers import prometheus, query, until
from tests.test_daemon import UNLIKE, Running
from tests.test_real_logs import log_of

ACCOUNTS = 40  # enough for a pack that alarms, few enough for a minute
TRAIN_UNTIL = "2020-10-01T00:00:00Z"
PIECE = 1000  # lines appended at once


def slice_of(path: Path) -> list[bytes]:
    """The events of the first accounts by name, and one a day after the last, so that every session ends."""
    with gzip.open(path) as file:
        lines = [(json.loads(line), line) for line in file]
    wanted = set(sorted({event["user"] for event, _ in lines})[:ACCOUNTS])
    kept = [line for event, line in lines if event["user"] in wanted]
    return [*kept, b'{"time": "2026-01-01T00:00:00Z", "user": "heartbeat", "action": "beat"}\n']


def test_a_daemon_beside_prometheus_gives_the_verdicts_of_the_replay_of_real_mail(tmp_path: Path) -> None:
    lines = slice_of(log_of("email"))
    log, folder, out, alerts = (tmp_path / name for name in ("mail.jsonl", "trained", "verdicts.jsonl", "alerts.jsonl"))
    log.write_bytes(b"".join(lines))
    rules = ["--set", "session.gap=2h"]
    trained = [*UNLIKE, "train", str(log), "--until", TRAIN_UNTIL, *rules, "--set", f"state.folder={folder}"]
    subprocess.run(trained, check=True, capture_output=True)
    (pack,) = [p for p in (folder / "packs").iterdir() if p.is_dir()]
    replay = [*UNLIKE, "replay", str(log), "--train-until", "2000-01-01T00:00:00Z", "--pack", str(pack), *rules]
    options = ["--set", "training.every=0s", "--set", "alerts.per_day=1", "--verdicts", str(out), "--alerts", str(alerts)]
    subprocess.run([*replay, *options], check=True, capture_output=True)

    (tmp_path / "live").mkdir()
    daemon = Running(tmp_path / "live", pack)
    daemon.write(session__gap='"2h"', alerts__per_day="1.0", cycle__batch_events="700")
    daemon.start()
    try:
        with prometheus(tmp_path, f"127.0.0.1:{daemon.port}") as address:
            with open(daemon.log, "ab") as growing:
                for low in range(0, len(lines), PIECE):
                    growing.write(b"".join(lines[low : low + PIECE])[:-7])  # the last line is only half written
                    growing.flush()
                    growing.write(b"".join(lines[low : low + PIECE])[-7:])
                    growing.flush()
            until(lambda: daemon.metric("unlike_queue_bytes") == 0 and daemon.metric("unlike_events_total"), 240)
            until(lambda: query(address, f"unlike_events_total + unlike_duplicate_events_total == {len(lines)}"), 60)
            assert query(address, 'up{job="unlike"} == 1')
            assert query(address, "unlike_accounts")
    finally:
        assert daemon.stop()[0] == 0
    store = SqliteStore.reader(str(daemon.state))
    live = [msgspec.json.decode(v) for v in store.verdicts(float("-inf"), float("inf"))]
    raised = {msgspec.json.decode(a)["id"] for a in store.alerts(10_000)}
    store.close()
    replayed = [v for v in map(json.loads, out.read_text().splitlines()) if v["user"] != "heartbeat"]
    assert {(v["user"], v["start"]): v for v in live} == {(v["user"], v["start"]): v for v in replayed}
    assert len(live) == len(replayed) > 1000
    assert raised == {json.loads(a)["id"] for a in alerts.read_text().splitlines()} != set()
