"""The whole daemon as a user runs it: a process, a log that grows, signals, kills, a real Prometheus."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alerts import control
from alerts.audit import broken
from detector.answering import relearn
from detector.cycle import Engine
from detector.errors import UnlikeError
from detector.lines import rfc3339
from detector.pack import load as load_pack
from detector.profiles import to_bytes
from detector.settings import load
from detector.stores import SqliteStore
from tests.logs import DAY, START, rows_of_people, stolen
from tests.servers import chromium, free_port, get, prometheus, query, until

UNLIKE = [sys.executable, "-m", "detector.cli"]
LEARN_UNTIL = START + 30 * DAY
KILLS = int(os.environ.get("KILLS_OF_THE_DAEMON", "6"))  # the bench runs the same with more


def log_lines() -> list[bytes]:
    """Forty days of people, takeovers in the last ten, one line doubled and two bad, and a last event that closes what is open."""
    rows = rows_of_people(14, 40)
    rows += stolen(rows, "u03", "u08", START + 34 * DAY + 3 * 3600)
    rows += stolen(rows, "u05", "u11", START + 36 * DAY + 2 * 3600)
    rows.sort(key=lambda r: float(str(r["time"])))
    rows.append({"time": START + 41 * DAY, "user": "heartbeat", "action": "beat"})
    lines = [json.dumps(r | {"time": rfc3339(float(str(r["time"])))}).encode() for r in rows]
    return [*lines[:500], lines[499], b"{not json", b'{"time": "2026-02-01T00:00:00Z"}', *lines[500:]]


class Running:
    """A daemon of the tests: its folder, its settings, its process."""

    def __init__(self, folder: Path, pack: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.state, self.log, self.config = folder / "state", folder / "events.jsonl", folder / "unlike.toml"
        (self.state / "packs").mkdir(parents=True)
        os.symlink(pack, self.state / "packs" / pack.name)
        (self.state / "packs/installed").write_text(pack.name)
        self.log.touch()
        self.write()
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, **changes: str) -> None:
        """The settings file: section__key = TOML value."""
        values = {"cycle__every": '"100ms"', "cycle__batch_events": "150", "training__every": '"0s"', "alerts__per_day": "2.0"}
        values |= {
            "state__folder": f'"{self.state}"',
            "metrics__listen": f'"127.0.0.1:{self.port}"',
            "review__listen": '"127.0.0.1:0"',
        } | changes
        text = f'[[source]]\npath = "{self.log}"\nname = "log"\n'
        for name, value in values.items():
            section, _, key = name.partition("__")
            text += f"[{section}]\n{key} = {value}\n" if f"[{section}]" not in text else ""
            if f"[{section}]\n{key} = " not in text:
                text = text.replace(f"[{section}]\n", f"[{section}]\n{key} = {value}\n")
        self.config.write_text(text)

    def start(self) -> None:
        """Start it; its messages go to a file."""
        with open(self.folder / "stderr.log", "ab") as log:
            self.process = subprocess.Popen([*UNLIKE, "run", "--config", str(self.config)], stdout=log, stderr=log)

    def told(self) -> str:
        """What it has written to its log."""
        return (self.folder / "stderr.log").read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Its exit code, and how long it took to leave."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(how)
        return self.process.wait(30), time.monotonic() - began

    def metric(self, name: str) -> float | None:
        """A metric without labels, None before it is served."""
        try:
            text = get(f"http://127.0.0.1:{self.port}/metrics")[1]
        except OSError:
            return None
        return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), None)


def everything(state: Path) -> dict[str, Any]:
    """All that a state folder holds and that must not depend on kills: verdicts, alerts, profiles, counts, delivered alerts."""
    store = SqliteStore.reader(state)
    try:
        engine = json.loads(store.engine() or b"{}")
        delivered = [json.loads(line)["message"] for line in (state / "alerts.jsonl").read_text().splitlines()]
        return {
            "verdicts": sorted(store.verdicts(-1e18, 1e18)),
            "alerts": sorted(store.alerts(10_000)),
            "incidents": [(i, store.members(i.id)) for i in store.incidents()],
            "profiles": list(store.all_accounts()),
            "counters": engine["counters"],
            "clock": engine["newest"],
            "quarantine": sorted((r.position, r.reason) for r in store.quarantine(1000)),
            "delivered": sorted(set(delivered)),
        }
    finally:
        store.close()


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    (folder / "past.jsonl").write_bytes(b"\n".join(log_lines()))
    command = [*UNLIKE, "train", "--set", f"state.folder={folder}", str(folder / "past.jsonl"), "--until", rfc3339(LEARN_UNTIL)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "packs" / (folder / "packs/installed").read_text().strip()


@pytest.fixture
def daemon(tmp_path: Path, pack: Path) -> Iterator[Running]:
    running = Running(tmp_path, pack)
    yield running
    if running.process is not None and running.process.poll() is None:
        running.process.kill()
        running.process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pack: Path) -> dict[str, Any]:
    """The state after a run over the whole log without any disturbance."""
    running = Running(tmp_path_factory.mktemp("undisturbed"), pack)
    running.log.write_bytes(b"\n".join(log_lines()) + b"\n")
    running.start()
    until(lambda: running.metric("unlike_events_total") == len(log_lines()) - 3, 90)
    until(lambda: running.metric("unlike_outbox_alerts") == 0, 30)
    assert running.stop()[0] == 0
    return everything(running.state)


def test_the_live_run_ends_with_the_verdicts_of_the_replay(undisturbed: dict[str, Any], pack: Path, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(log_lines()))
    out, alerts = tmp_path / "verdicts.jsonl", tmp_path / "alerts.jsonl"
    command = [*UNLIKE, "replay", str(tmp_path / "log.jsonl"), "--train-until", "2026-01-01T00:00:00Z", "--verdicts", str(out)]
    subprocess.run(
        [*command, "--alerts", str(alerts), "--pack", str(pack), "--set", "alerts.per_day=2.0"], check=True, capture_output=True
    )
    replayed = [v for v in map(json.loads, out.read_text().splitlines()) if v["user"] != "heartbeat"]
    live = [json.loads(v) for v in undisturbed["verdicts"]]
    assert {(v["user"], v["start"]): v for v in live} == {(v["user"], v["start"]): v for v in replayed}
    assert len(live) == len(replayed)
    assert {json.loads(a)["id"] for a in undisturbed["alerts"]} == {json.loads(a)["id"] for a in alerts.read_text().splitlines()}
    assert any(json.loads(a)["verdict"]["user"] == "u03" for a in undisturbed["alerts"])


def test_nothing_is_lost_or_doubled_by_kills_at_random_moments(daemon: Running, undisturbed: dict[str, Any]) -> None:
    rng = random.Random(7)
    lines = log_lines()
    cuts = sorted(rng.sample(range(1, len(lines)), KILLS))
    for low, high in zip([0, *cuts], [*cuts, len(lines)], strict=True):
        with open(daemon.log, "ab") as log:
            log.write(b"".join(line + b"\n" for line in lines[low:high]))
        daemon.start()
        if high < len(lines):
            until(lambda: daemon.metric("unlike_events_total") is not None, 60)
            time.sleep(rng.uniform(0, 0.6))
            daemon.stop(signal.SIGKILL)
    until(lambda: (daemon.metric("unlike_event_clock_timestamp_seconds") or 0) >= START + 41 * DAY, 90)
    until(lambda: daemon.metric("unlike_outbox_alerts") == 0 and daemon.metric("unlike_queue_bytes") == 0, 30)
    assert daemon.stop()[0] == 0
    assert everything(daemon.state) == undisturbed


def test_no_answer_is_lost_or_doubled_by_kills_while_people_answer(daemon: Running, pack: Path) -> None:
    """Somebody confirms and dismisses, again and again, while the daemon is killed; what was acknowledged is there once."""
    rng, lines, given = random.Random(11), log_lines(), 0
    daemon.log.write_bytes(b"\n".join(lines) + b"\n")
    daemon.start()
    until(lambda: (daemon.metric("unlike_event_clock_timestamp_seconds") or 0) >= START + 41 * DAY, 90)
    ids = [i["id"] for i in control.call(daemon.state, "GET", "/incidents?limit=500")["incidents"]]
    told: dict[str, int] = dict.fromkeys(ids, 0)
    for _ in range(KILLS):
        doomed = threading.Timer(rng.uniform(0.05, 0.6), lambda: daemon.process and daemon.process.kill())
        doomed.start()
        while doomed.is_alive() or (daemon.process is not None and daemon.process.poll() is None):
            id_, kind = rng.choice(ids), rng.choice(["confirm", "dismiss"])
            try:
                control.call(daemon.state, "POST", f"/incidents/{id_}/answer", {"kind": kind, "why": f"answer {given}"})
            except UnlikeError:
                break  # it was killed: nobody knows whether this one was taken
            finally:
                given += 1
            told[id_] += 1
        doomed.join()
        daemon.stop(signal.SIGKILL)
        daemon.start()
        until(lambda: daemon.metric("unlike_events_total") is not None, 60)
    assert daemon.stop()[0] == 0
    store = SqliteStore(daemon.state)
    try:
        engine = Engine(store, load_pack(pack), load(daemon.config, environment={}), [])
        whys = [e.why for e in store.entries(0, 10_000) if e.what in ("confirm", "dismiss")]
        assert len(whys) == len(set(whys))
        assert sum(told.values()) <= len(whys) <= sum(told.values()) + KILLS
        assert broken(store.entries(0, 10_000), engine.state.audit) == ""
        assert engine.casework is not None
        answers = {a.why for case in engine.casework.cases.values() for a in case.answers}
        assert answers == set(whys)
        for user, case in engine.casework.cases.items():
            learnt = relearn(engine, user, {user: case})
            if learnt is not None:  # the memory of the account is what the answers make of it
                assert to_bytes(learnt)[0] == store.accounts([user])[user]
    finally:
        store.close()


def test_a_takeover_appears_on_the_page_is_confirmed_by_keyboard_and_the_queue_and_the_metrics_follow(daemon: Running) -> None:
    lines = log_lines()
    taken = next(n for n, line in enumerate(lines) if b'"u03"' in line and b"2026-02-04T03:00:00" in line)
    daemon.log.write_bytes(b"\n".join(lines[:taken]) + b"\n")
    daemon.start()
    until(lambda: (daemon.state / control.FILE).exists() and daemon.metric("unlike_queue_bytes") == 0, 60)
    link = control.address(daemon.state) + control.call(daemon.state, "POST", "/links", {})["path"]
    with chromium() as browser:
        page = browser.new_page()
        page.goto(link)
        page.get_by_role("button", name="Sign in").press("Enter")
        page.locator("#search").wait_for()
        page.keyboard.press("/")
        page.keyboard.type("u03")
        page.keyboard.press("Enter")
        page.wait_for_url("**search=u03*")
        before = page.locator("#queue tbody tr").count()
        with open(daemon.log, "ab") as log:
            log.write(b"\n".join(lines[taken:]) + b"\n")

        def appeared() -> bool:
            page.reload()
            return page.locator("#queue tbody tr").count() > before

        until(appeared, 60)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/incidents/*")
        page.keyboard.press("c")
        page.get_by_role("status").filter(has_text="confirmed as a takeover").wait_for()
        page.keyboard.press("q")
        page.wait_for_url("**/")
        assert control.call(daemon.state, "GET", "/incidents?state=confirmed")["total"] == 1
    text = 'unlike_incidents{state="confirmed"} 1.0'
    until(lambda: text in get(f"http://127.0.0.1:{daemon.port}/metrics")[1], 30)


def test_a_daemon_is_scraped_by_a_real_prometheus_and_leaves_in_time(daemon: Running, tmp_path: Path) -> None:
    daemon.log.write_bytes(b"\n".join(log_lines()[:1500]) + b"\n")
    daemon.start()
    until(lambda: daemon.metric("unlike_events_total") is not None, 60)
    with prometheus(tmp_path, f"127.0.0.1:{daemon.port}") as address:
        until(lambda: [r for r in query(address, "unlike_events_total") if not str(r["value"]).endswith("'0']")], 60)
        assert query(address, 'up{job="unlike"} == 1')
        assert query(address, "unlike_pack_info")
    assert get(f"http://127.0.0.1:{daemon.port}/readyz")[0] == 200
    code, took = daemon.stop()
    assert code == 0
    assert took < 10


def test_a_second_daemon_on_the_same_state_is_refused(daemon: Running) -> None:
    daemon.start()
    until(lambda: daemon.metric("unlike_events_total") is not None, 60)
    second = subprocess.run([*UNLIKE, "run", "--config", str(daemon.config)], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert str(daemon.state) in second.stderr


def test_settings_are_taken_or_refused_at_sighup(daemon: Running) -> None:
    daemon.start()
    until(lambda: daemon.metric("unlike_alert_budget_per_day") == 2, 60)
    assert daemon.process is not None
    daemon.write(alerts__per_day="9.0")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.metric("unlike_alert_budget_per_day") == 9, 20)
    daemon.write(alerts__per_day='"many"')
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "settings refused" in daemon.told(), 20)
    assert daemon.metric("unlike_alert_budget_per_day") == 9
    assert "per_day" in daemon.told()


def test_a_new_daemon_learns_at_once_and_trains_as_soon_as_it_can(daemon: Running) -> None:
    (daemon.state / "packs/installed").unlink()
    daemon.write(training__every='"1h"')
    daemon.log.write_bytes(b"\n".join(log_lines()[:3000]) + b"\n")
    daemon.start()
    until(lambda: (daemon.metric("unlike_events_total") or 0) > 2900, 90)
    assert daemon.metric("unlike_pack_sessions") == 0
    until(lambda: (daemon.metric("unlike_pack_sessions") or 0) > 300, 150)
    with open(daemon.log, "ab") as log:
        log.write(b"".join(line + b"\n" for line in log_lines()[3000:]))
    until(lambda: (daemon.metric("unlike_event_clock_timestamp_seconds") or 0) >= START + 41 * DAY, 90)
    assert daemon.stop()[0] == 0
    verdicts = [json.loads(v) for v in everything(daemon.state)["verdicts"]]
    assert {v["maturity"] for v in verdicts} >= {"untrained", "mature"}
    assert len({(v["user"], v["session"], v["start"]) for v in verdicts}) == len(verdicts)


def test_a_damaged_pack_is_refused_with_a_word_on_what_to_do(daemon: Running, pack: Path) -> None:
    (daemon.state / "packs" / pack.name).unlink()
    copy = daemon.state / "packs" / pack.name
    copy.mkdir()
    for file in pack.iterdir():
        (copy / file.name).write_bytes(file.read_bytes()[:-7] if file.name == "arrays.npz" else file.read_bytes())
    done = subprocess.run([*UNLIKE, "run", "--config", str(daemon.config)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert "unlike packs use" in done.stderr
