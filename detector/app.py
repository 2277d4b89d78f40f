"""The daemon: wires sources, store, engine, sinks, metrics and the schedule; the only place that knows all of them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler

from alerts.delivery import deliver
from alerts.desk import Desk
from alerts.incidents import day_of
from alerts.incidents import digest as digest_of
from alerts.server import Server, serve
from alerts.sinks import FileSink, LogSink, Sink
from alerts.ways import ways
from detector import history, pack, web
from detector.cycle import NOTHING_SEEN, Engine, move
from detector.drift import Drift
from detector.errors import PackError, SettingsError, SourceError, StoreError, UnlikeError
from detector.metrics import Metrics
from detector.reports import CycleReport
from detector.settings import Settings
from detector.sources import Source, open_source
from detector.stores import SqliteStore

LEAVE_WITHIN_S = 10.0
TRAINING_AT_MOST_S = 3600.0  # a training that takes longer hangs
BREATH_S = 0.001  # between two rounds of a cycle
DAY = 86400.0  # seconds; drift makes training due no more often


def packs_folder(settings: Settings) -> Path:
    """Where the packs of a state folder are."""
    return Path(settings.state.folder) / "packs"


def sinks_of(settings: Settings) -> dict[str, Sink]:
    """The ways out that the settings name."""
    sinks: dict[str, Sink] = {}
    if settings.alerts.file:
        sinks["file"] = FileSink(Path(settings.state.folder) / settings.alerts.file)
    if settings.alerts.log:
        sinks["log"] = LogSink()
    return sinks | ways(settings.notify, settings.state.folder)


def current_pack(settings: Settings, named: str) -> pack.Pack | None:
    """The installed pack, or else the untrained one that the state was made with, or None."""
    folder = packs_folder(settings)
    chosen = pack.installed(folder) or named
    return pack.load(folder / chosen) if chosen else None


class Daemon:
    """One daemon on one state folder. `reload` gives new settings at SIGHUP; it raises SettingsError."""

    def __init__(
        self,
        settings: Settings,
        reload: Callable[[], Settings],
        command: list[str],
        clock: Callable[[], float] = time.time,
        sources: list[Source] | None = None,
    ) -> None:
        self.settings, self.reload, self.command, self.clock = settings, reload, command, clock
        self.log = structlog.get_logger("unlike")
        self.stop = threading.Event()
        self.lock, self.compacting = threading.RLock(), threading.Lock()
        self.store = SqliteStore(settings.state.folder)
        self.metrics = Metrics()
        try:
            self.engine = Engine(self.store, None, settings, list(sinks_of(settings)))
            self.engine.pack = current_pack(settings, self.engine.state.pack)
            self.sources = sources if sources is not None else [open_source(s, settings.events) for s in settings.source]
        except BaseException:
            self.store.close()
            raise
        self.sinks = sinks_of(settings)
        self.metrics.sinks(self.sinks)
        self.scheduler = BackgroundScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self.child: subprocess.Popen[bytes] | None = None
        self.started, self.last_good = clock(), 0.0
        self.busy_since: float | None = None  # when the cycle under way began, or read its last chunk
        self.told_hang: float | None = None
        self.exhausted = False
        self.server: web.Server | None = None
        self.review: Server | None = None
        self.reader: SqliteStore | None = None
        self.drifted: Drift | None = None

    # -- jobs

    def cycle(self) -> None:
        """Read every source to its end, a commit per chunk, delivering as it goes."""
        self.busy_since = self.clock()
        try:
            self._cycle()
        finally:
            self.busy_since = None

    def _cycle(self) -> None:
        with self.lock:
            self._follow_installed_pack()
        behind = True
        while behind and not self.stop.is_set():  # a round a time: a backlog holds up neither alerts nor answers
            behind = False
            with self.lock:
                for source in self.sources:
                    behind |= self._read_one(source)
                    self.busy_since = self.clock()
                self._deliver()
                self.last_good = self.clock()
                self.metrics.cycle_succeeded(self.last_good)
                self._tell_counts()
            self.stop.wait(BREATH_S)  # who waits for the lock gets it
        self.exhausted = not behind

    def _read_one(self, source: Source) -> bool:
        """One chunk of one source; whether there is more."""
        now = self.clock()
        try:
            chunk = source.read(self.store.positions().get(source.name), self.settings.cycle.batch_events, now)
        except SourceError as error:
            self.metrics.source_failed()
            self.log.warning("source unreadable, will be tried again", source=source.name, error=str(error))
            return False
        had = self.engine.pack
        report = self.engine.run(source.name, chunk, now, idle=chunk.exhausted)
        if self.engine.pack is not had and self.engine.pack is not None:
            pack.save(self.engine.pack, packs_folder(self.settings))
        self._tell(report)
        return not chunk.exhausted

    def _tell(self, report: CycleReport) -> None:
        self.metrics.cycle(report)
        for reason, count in report.rejects.items():
            self.log.warning("lines put into quarantine", reason=reason, lines=count, sources=list(report.sources))
        if report.events:
            self.log.debug("cycle", events=report.events, verdicts=len(report.ps), seconds=round(report.duration_s, 3))

    def _deliver(self) -> None:
        report = deliver(self.store, self.sinks, self.clock(), self.settings.alerts)
        self.metrics.delivered(report.by_sink)
        for error in report.errors:
            self.log.error("alert not delivered", error=error)

    def _tell_counts(self) -> None:
        self.metrics.counts(self.store.counts(), sum(s.lag_bytes() for s in self.sources))
        if self.engine.casework is not None:
            self.metrics.incidents_are(Counter((i.severity, i.state) for i in self.engine.casework.all.values()))

    def _follow_installed_pack(self) -> None:
        """Go over to the installed pack where it is another than the state was made with."""
        folder = packs_folder(self.settings)
        wanted = pack.installed(folder)
        current = self.engine.pack.id if self.engine.pack is not None else ""
        if wanted and (wanted != current or self.engine.state.pack not in ("", wanted)):
            new = pack.load(folder / wanted)
            if self.engine.state.counters.get("events", 0):
                self.log.info("going over to another pack", pack=wanted, before=self.engine.state.pack)
                self.compact()
                if not move(self.engine, new, history.read(self.store, Path(self.settings.state.folder)), self.stop.is_set):
                    return
            self.engine.pack = new
        if self.engine.pack is not None and self.engine.pack.id != self.told_pack:
            self.told_pack = self.engine.pack.id
            self.metrics.pack(self.engine.pack, self.clock())

    def train(self) -> None:
        """Train in a process of its own where training is due; the cycle notices the installed pack."""
        if not self._training_due():
            return
        began = time.monotonic()
        self.log.info("training")
        self.compact()
        self.child = subprocess.Popen([*self.command, "train", *self._settings_arguments()], stdin=subprocess.DEVNULL)
        try:
            code = self.child.wait(TRAINING_AT_MOST_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
            self.metrics.job_hung("train")
        finally:
            self.child = None
        outcome = "installed" if code == 0 else "stopped" if self.stop.is_set() else "failed"
        with self.lock:
            counters = self.engine.state.counters
            counters |= {"verdicts_at_training": counters.get("verdicts", 0), "drift_untrained": 0, "trained_at": int(self.clock())}
        self.metrics.trained(outcome, time.monotonic() - began)
        self.log.info("trained", outcome=outcome, seconds=round(time.monotonic() - began, 1))

    def _settings_arguments(self) -> list[str]:
        folder = str(self.settings.state.folder)
        return [*self.config_arguments, "--set", f"state.folder={folder}"]

    told_pack = ""
    config_arguments: tuple[str, ...] = ()

    def _training_due(self) -> bool:
        counters, limits = self.engine.state.counters, self.settings.training
        closed, before = counters.get("verdicts", 0), counters.get("verdicts_at_training", 0)
        if not limits.every or self.child is not None:
            return False
        trained = self.engine.pack is not None and self.engine.pack.fusion is not None
        if not trained:
            return closed >= max(limits.min_sessions, 1.2 * before)
        return self._drift_untrained() or closed >= (1 + limits.growth) * max(before, limits.min_sessions)

    def _drift_untrained(self) -> bool:
        """The population has drifted since the last training, which was not within a day."""
        counters = self.engine.state.counters
        return bool(counters.get("drift_untrained")) and self.clock() - counters.get("trained_at", 0) >= DAY

    def watch_training(self) -> None:
        """Train as soon as there is enough history for a first pack, or after drift; other trainings wait for their schedule."""
        trained = self.engine.pack is not None and self.engine.pack.fusion is not None
        if not trained or self._drift_untrained():
            self.train()

    def digest(self) -> None:
        """Once a day of the event clock, log what happened on the day before, and what was held back."""
        with self.lock:
            newest, counters = self.engine.state.newest, self.engine.state.counters
            today = int(newest // DAY)
            if newest <= NOTHING_SEEN or counters.get("digest_told", today) >= today:
                counters.setdefault("digest_told", today)
                return
            counters["digest_told"] = today
            casework = self.engine.casework
            held = self.store.held(day_of(newest - DAY))
        incidents = [] if casework is None else list(casework.all.values())
        told = digest_of(incidents, held, day_of(newest - DAY), {})
        self.log.info("digest", day=told["day"], opened=told["opened"], closed=told["closed"], **told["held_back"])

    def drift(self) -> None:
        """Compare the last whole day with what is usual; where it is not, say what moved, once, and ask for a training."""
        with self.lock:
            found, counters = self.engine.drift(), self.engine.state.counters
            if found is None:
                return
            self.drifted = found
            self.metrics.drift(found)
            if not found.moved or counters.get("drift_told") == found.day:
                return
            counters |= {"drift_told": found.day, "drift_untrained": 1}
        self.metrics.drift_alarm()
        for what in found.moved:
            self.log.warning("drift", what=what, day=str(np.datetime64(found.day, "D")), sessions=found.sessions)

    def compact(self) -> None:
        """Move staged history into files, while cycles go on."""
        with self.compacting:  # taken last, where the engine's lock is held too
            history.compact(self.store, Path(self.settings.state.folder))

    def retain(self) -> None:
        """Forget what is older than the settings say; move staged history into files."""
        keep, now = self.settings.history, self.clock()
        with self.lock:
            self.engine.tidy(now)
        self.compact()
        dropped = self.store.prune(now - keep.keep_verdicts, now - keep.keep_quarantine, now - keep.keep_incidents)
        with self.compacting:  # a day that goes must not be written to
            days = history.prune(Path(self.settings.state.folder), self.engine.state.newest - keep.keep)
        self.log.info("retention", days_of_history=days, **dropped)

    # -- life

    def start(self) -> None:
        """Serve metrics and start the schedule."""
        if self.settings.metrics.listen:
            self.server = web.serve(self.settings.metrics.listen, self.metrics.registry, self.healthy, self.ready)
            self.log.info("metrics", address=self.server.address)
        self.scheduler.add_listener(self._job_event, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
        now = datetime.now(UTC)
        every, jobs = self.settings.cycle.every, self.scheduler.add_job
        jobs(self.cycle, "interval", seconds=every, id="cycle", next_run_time=now)
        if self.settings.training.every:
            jobs(self.train, "interval", seconds=self.settings.training.every, id="train")
            jobs(self.watch_training, "interval", seconds=max(every, 5.0), id="first_training")
        jobs(self.watch_cycle, "interval", seconds=5, id="watch_cycle")
        jobs(self.drift, "interval", hours=1, id="drift")
        jobs(self.digest, "interval", minutes=10, id="digest")
        if self.settings.review.listen:
            self.review = serve(self.settings.review, self.desk(), self.settings.state.folder)
            self.log.info("review page", address=self.review.url, sign_in="unlike review open")
        jobs(self.compact, "interval", minutes=10, id="compaction")
        jobs(self.retain, "interval", hours=1, id="retention")
        self.scheduler.start()
        self.log.info("started", state=self.settings.state.folder, sources=[s.name for s in self.sources])

    def desk(self) -> Desk:
        """What people see and answer."""
        self.reader = SqliteStore.reader(self.settings.state.folder)
        return Desk(lambda: self.engine, self.lock, self.reader, packs_folder(self.settings), self.clock, lambda: self.drifted)

    def _job_event(self, event: JobEvent) -> None:
        if event.code == EVENT_JOB_ERROR:
            self.metrics.job_failed(event.job_id)
            self.log.error("job failed", job=event.job_id, error=str(getattr(event, "exception", "")))
            if isinstance(getattr(event, "exception", None), StoreError) and event.job_id == "cycle":
                self._restore()
        else:
            self.metrics.job_missed(event.job_id)
            self.log.warning("job missed: the one before still runs", job=event.job_id)

    def _restore(self) -> None:
        """After a failed commit, memory goes back to what is stored."""
        with self.lock:
            held = self.engine.pack
            self.engine = Engine(self.store, held, self.settings, list(self.sinks))

    def hanging(self) -> float:
        """Seconds since the cycle under way last moved, where it hangs; else 0."""
        since = self.busy_since
        idle = self.clock() - since if since is not None else 0.0
        return idle if idle > self.settings.cycle.hangs_after else 0.0

    def watch_cycle(self) -> None:
        """Count and tell a cycle that hangs, once."""
        idle = self.hanging()
        if idle and self.told_hang != self.busy_since:
            self.told_hang = self.busy_since
            self.metrics.job_hung("cycle")
            self.log.error("the cycle hangs", seconds=round(idle))

    def healthy(self) -> tuple[bool, str]:
        """Alive: the schedule runs, and no cycle hangs."""
        if idle := self.hanging():
            return False, f"the cycle has not moved for {idle:.0f} s"
        return self.scheduler.running, "the schedule runs" if self.scheduler.running else "the schedule does not run"

    def ready(self) -> tuple[bool, str]:
        """Ready: the last good cycle is recent."""
        if not self.last_good:
            return False, "no cycle has finished yet"
        age = self.clock() - self.last_good
        return age <= self.settings.metrics.ready_after, f"last good cycle {age:.0f} s ago"

    def hang_up(self, *_: Any) -> None:
        """SIGHUP: take new settings, or refuse them with the reason."""
        try:
            new = self.reload()
            if (
                new.state != self.settings.state
                or new.source != self.settings.source
                or new.metrics.listen != self.settings.metrics.listen
            ):
                raise SettingsError("state, source and metrics.listen change only at a restart")
        except UnlikeError as error:
            self.metrics.reloaded(False)
            self.log.error("settings refused, the old ones stay", error=str(error))
            return
        threading.Thread(target=self._take, args=(new,), daemon=True).start()

    def _take(self, new: Settings) -> None:
        with self.lock:
            self.settings = self.engine.settings = new
            self.sinks = sinks_of(new)
            self.engine.sinks = tuple(self.sinks)
        self.scheduler.reschedule_job("cycle", trigger="interval", seconds=new.cycle.every)
        self.metrics.reloaded(True)
        self.log.info("settings taken")

    def run(self) -> None:
        """Until SIGTERM or SIGINT; the cycle under way is finished."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: self.stop.set())
        signal.signal(signal.SIGHUP, self.hang_up)
        self.start()
        while not self.stop.wait(0.2):
            continue
        self.shut()

    def shut(self) -> None:
        """Finish the cycle under way, deliver, let go of everything."""
        self.stop.set()
        child = self.child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
        if self.scheduler.running:
            self.scheduler.shutdown(wait=True)
        for server in (self.server, self.review):
            if server is not None:
                server.close()
        if self.reader is not None:
            self.reader.close()
        for source in self.sources:
            source.close()
        self.store.close()
        self.log.info("stopped")


def unlike_command() -> list[str]:
    """How this program starts itself again."""
    return [sys.executable, "-m", "detector.cli"]


def status(settings: Settings) -> Mapping[str, Any]:
    """What a state folder holds, for `unlike check`."""
    reader = SqliteStore.reader(settings.state.folder)
    try:
        counts = reader.counts()
        return {"accounts": counts.accounts, "open sessions": counts.open_sessions, "quarantine": dict(counts.quarantine)}
    finally:
        reader.close()


__all__ = ["Daemon", "PackError", "current_pack", "packs_folder", "sinks_of", "status", "unlike_command"]
