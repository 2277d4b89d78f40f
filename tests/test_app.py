"""Jobs of the daemon that run seldom, called by hand; drift; logging."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog

from alerts.audit import broken
from detector import pack
from detector.app import Daemon, packs_folder, unlike_command
from detector.lines import rfc3339
from detector.pack import Pack
from detector.records import Chunk, Reject
from detector.settings import load
from tests.logs import DAY, START, batch_of, rows_of_people, stolen

NOW = START + 60 * DAY


@pytest.fixture
def daemon(tmp_path: Path, trained: Pack) -> Iterator[Daemon]:
    log = tmp_path / "log.jsonl"
    rows = [r | {"time": rfc3339(float(str(r["time"])) + 15 * DAY)} for r in rows_of_people(14, 40)]
    log.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "u.toml").write_text(
        f'[[source]]\npath = "{log}"\n[state]\nfolder = "{tmp_path / "state"}"\n[metrics]\nlisten = ""\n'
    )
    settings = load(tmp_path / "u.toml", ["history.keep=10d", "history.keep_verdicts=5d", "log.format=json"], {})
    packs_folder(settings).mkdir(parents=True)
    pack.save(trained, packs_folder(settings))
    pack.install(packs_folder(settings), trained.id)
    daemon = Daemon(settings, lambda: settings, unlike_command(), clock=lambda: NOW)
    yield daemon
    daemon.shut()


def test_retention_keeps_what_the_settings_say_and_no_more(daemon: Daemon) -> None:
    daemon.cycle()
    history = Path(daemon.settings.state.folder) / "history"
    daemon.retain()
    days = sorted(p.name for p in history.glob("day=*"))
    assert days
    assert days[0] >= f"day={rfc3339(daemon.engine.state.newest - 11 * DAY)[:10]}"
    daemon.clock = lambda: NOW + 6 * DAY
    daemon.retain()
    assert not list(daemon.store.verdicts(-np.inf, np.inf))


def test_a_year_takes_no_more_room_than_its_last_weeks(tmp_path: Path, trained: Pack) -> None:
    rows, days = rows_of_people(14, 365), 365
    for n in range(20, days - 9, 9):
        rows += stolen(rows, f"u{n % 7:02d}", f"u{7 + n % 7:02d}", START + n * DAY + 3 * 3600)
    rows.sort(key=lambda r: float(str(r["time"])))
    keep = ["keep=20d", "keep_verdicts=15d", "keep_quarantine=10d", "keep_incidents=30d"]
    made = ["metrics.listen=", "review.listen=", f"state.folder={tmp_path}", "alerts.log=false", "alerts.file="]
    settings = load(None, [*(f"history.{k}" for k in keep), *made], {})
    packs_folder(settings).mkdir()
    pack.save(trained, packs_folder(settings))
    pack.install(packs_folder(settings), trained.id)
    clock = [START]
    daemon = Daemon(settings, lambda: settings, unlike_command(), clock=lambda: clock[0], sources=[])
    day_of = np.array([(float(str(r["time"])) - START) // DAY for r in rows])
    room, held, incidents = [], [], 0
    for day in range(days):
        clock[0] = START + (day + 1) * DAY
        today = batch_of([rows[i] for i in np.flatnonzero(day_of == day)])
        daemon.engine.run("log", Chunk(today, (Reject("log", "1", "not_json", "", "{"),), {"day": day}, False), clock[0])
        daemon.retain()
        incidents += len([e for e in daemon.store.entries(0, 10_000) if e.what == "open" and e.time == clock[0]])
        room.append(sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()))
        held.append((len(daemon.store.incidents()), len(daemon.store.entries(0, 10_000)), len(daemon.store.quarantine(10_000))))
    assert max(room[-90:]) < 1.1 * max(room[90:180])
    assert incidents > 20
    assert np.array(held)[-90:].max() < 0.3 * incidents + 40
    state = daemon.engine.state
    assert state.audit_from[0] > 0
    assert broken(daemon.store.entries(0, 10_000), state.audit, state.audit_from) == ""
    assert "missing" in broken(daemon.store.entries(0, 10_000), state.audit)
    daemon.shut()


def test_a_cycle_that_hangs_is_counted_once_and_the_daemon_is_not_healthy_until_it_moves(daemon: Daemon) -> None:
    def hangs() -> float | None:
        return daemon.metrics.registry.get_sample_value("unlike_job_hangs_total", {"task": "cycle"})

    daemon.busy_since = NOW
    daemon.clock = lambda: NOW + daemon.settings.cycle.hangs_after
    daemon.watch_cycle()
    assert hangs() == 0
    daemon.clock = lambda: NOW + daemon.settings.cycle.hangs_after + 1
    daemon.watch_cycle()
    daemon.watch_cycle()
    assert hangs() == 1
    assert daemon.healthy() == (False, "the cycle has not moved for 301 s")
    daemon.cycle()
    assert daemon.hanging() == 0


def drifted(daemon: Daemon, of: str) -> float | None:
    return daemon.metrics.registry.get_sample_value("unlike_drift", {"of": of})


def test_the_drift_job_tells_of_each_kind_how_far_the_last_day_is_from_what_is_usual(daemon: Daemon) -> None:
    daemon.drift()
    assert drifted(daemon, "facet") == 0
    daemon.cycle()
    daemon.drift()
    assert all((drifted(daemon, of) or 0) > 0 for of in ("p_value", "embedding", "facet"))


def test_drift_makes_training_due_at_once_but_not_more_than_once_a_day(daemon: Daemon, tmp_path: Path) -> None:
    daemon.cycle()
    log = tmp_path / "log.jsonl"
    for row in (r | {"device": "new-" + str(r["device"])} for r in rows_of_people(14, 8)):
        with log.open("a") as file:
            file.write(json.dumps(row | {"time": rfc3339(float(str(row["time"])) + 55 * DAY)}) + "\n")
    daemon.cycle()
    daemon.engine.state.counters["verdicts_at_training"] = 10_000  # so that growth is no reason
    assert not daemon._training_due()
    for _ in range(2):
        daemon.drift()
    assert (drifted(daemon, "facet") or 0) > 1
    assert daemon.metrics.registry.get_sample_value("unlike_drift_alarms_total") == 1
    assert daemon._training_due()
    daemon.command = [sys.executable, "-c", "import sys; sys.exit(0)"]
    daemon.watch_training()
    assert daemon.metrics.registry.get_sample_value("unlike_trainings_total", {"outcome": "installed"}) == 1
    assert not daemon._training_due()
    daemon.engine.state.counters["drift_untrained"] = 1  # it is told again the next day
    assert not daemon._training_due()
    daemon.clock = lambda: NOW + DAY
    assert daemon._training_due()


def test_a_cycle_that_fails_is_counted_and_the_next_one_goes_on_from_what_is_stored(daemon: Daemon) -> None:
    daemon.cycle()
    events = daemon.engine.state.counters["events"]
    daemon._restore()
    daemon.cycle()
    assert daemon.engine.state.counters["events"] == events


def test_another_installed_pack_is_followed(daemon: Daemon, trained: Pack) -> None:
    daemon.cycle()
    folder = packs_folder(daemon.settings)
    other = folder / "copy"
    other.mkdir()
    for file in (folder / trained.id).iterdir():
        (other / file.name).write_bytes(file.read_bytes().replace(f'"id": "{trained.id}"'.encode(), b'"id": "copy"'))
    pack.install(folder, "copy")
    daemon.cycle()
    assert daemon.engine.state.pack == "copy"
    assert daemon.store.counts().accounts == 14


def test_a_hostile_value_cannot_forge_a_log_line_and_libraries_are_heard() -> None:
    code = (
        "import logging, structlog; from detector.logs import configure; configure('info', 'json');"
        "structlog.get_logger().info('seen', user='a\\n{\"event\": \"forged\"}\\x1b[31m\\u202e');"
        "logging.getLogger('apscheduler').warning('job %s late', 'x'); structlog.get_logger().debug('hidden')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["seen", "job x late"]
    assert not {"\n", "\x1b", "\u202e"} & set(lines[0]["user"])
    assert done.stdout == ""


def test_the_digest_of_a_day_is_logged_once_when_the_next_has_begun(daemon: Daemon) -> None:
    daemon.cycle()
    with structlog.testing.capture_logs() as told:
        daemon.digest()
        assert told == []
        daemon.engine.state.counters["digest_told"] -= 1
        daemon.digest()
        daemon.digest()
    (line,) = told
    assert (line["event"], line["day"]) == ("digest", rfc3339(daemon.engine.state.newest - DAY)[:10])
    assert {"opened", "closed", "grouped", "muted", "cooling", "dismissed", "over_budget"} <= line.keys()
