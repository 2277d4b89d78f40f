"""`unlike demo`: a simulated town, the daemon's own cycle over it in fast time, and what was caught."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from alerts.delivery import deliver
from alerts.explanations import harmless
from alerts.listing import console_for, when
from alerts.sinks import FileSink
from detector import history, logs, pack, training
from detector.app import Daemon, packs_folder, unlike_command
from detector.cycle import Engine
from detector.events import Parser
from detector.records import Alert, Changes, Chunk, Verdict
from detector.replay import empty_batch
from detector.settings import Settings, SourceSettings, load
from detector.stores import SqliteStore
from detector.town import KINDS, Takeover, Town, simulate

BATCH = 4000  # events per cycle: small enough that alerts come one by one


class Watched(SqliteStore):
    """The store of the daemon, which also shows what is committed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.alerts_seen: list[Alert] = []
        self.verdicts_seen: list[Verdict] = []

    def commit(self, changes: Changes) -> None:
        """As ever, and remember for the table at the end."""
        super().commit(changes)
        self.alerts_seen += changes.alerts
        self.verdicts_seen += changes.verdicts


def demo(seed: int, accounts: int, weeks: int, keep: str | None, serve: bool) -> int:
    """Run the whole demo; the exit code. The state stays in `keep`, or goes with the end."""
    started = time.monotonic()
    out = console_for(sys.stdout)
    folder = Path(keep) if keep else Path(tempfile.mkdtemp(prefix="unlike-demo-"))
    settings = load(overrides=[f"state.folder={folder}", "alerts.log=false", "training.every=0s", f"seed={seed}"], environment={})
    try:
        logs.configure("warning", "auto")
        out.print(f"simulating a town of {accounts} accounts over {weeks} weeks (seed {seed})")
        town = simulate(seed, accounts, weeks)
        past = [e for e in town.events if str(e["time"]) < _text(town.learn_until)]
        size = f"{len(town.events):,} events, {len(town.takeovers)} takeovers of {len(KINDS)} kinds"
        out.print(f"{size}; learning from {len(past):,} events", highlight=False)
        trained = _train(past, settings, town.learn_until)
        for line in training.report_lines(trained.report):
            out.print(line, highlight=False)
        store = Watched(folder)
        try:
            _watch(store, trained, settings, town, out)
            _tell(store, settings, town, out, time.monotonic() - started, keep)
        finally:
            store.close()
        if serve:
            _serve(settings, out)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _text(seconds: float) -> str:
    from detector.lines import rfc3339

    return rfc3339(seconds)


def _lines(events: Sequence[dict[str, object]], first: int) -> list[tuple[str, bytes]]:
    return [(f"town:{first + i}", msgspec.json.encode(event)) for i, event in enumerate(events)]


def _train(past: Sequence[dict[str, object]], settings: Settings, until: float) -> pack.Pack:
    batch, rejects = Parser(SourceSettings(), settings.events).parse(_lines(past, 1), time.time())
    if rejects:
        raise AssertionError(f"the town's events are malformed: {rejects[0]}")
    trained = training.train(batch, settings.attributes, settings.session, settings.training, settings.seed, trusted_until=until)
    folder = packs_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    pack.save(trained, folder)
    pack.install(folder, trained.id)
    return trained


def _watch(store: Watched, trained: pack.Pack, settings: Settings, town: Town, out: Console) -> None:
    """The daemon's cycle over the whole town, alerts printed as they are raised."""
    parser = Parser(SourceSettings(), settings.events)
    engine = Engine(store, trained, settings, ["file"])
    sinks = {"file": FileSink(Path(settings.state.folder) / settings.alerts.file)}
    told = 0
    columns = Progress(console=out, transient=True, disable=not out.is_terminal)
    with columns as progress:
        task = progress.add_task("watching", total=len(town.events))
        for low in range(0, len(town.events), BATCH):
            piece = town.events[low : low + BATCH]
            batch, rejects = parser.parse(_lines(piece, low + 1), time.time())
            engine.run("town", Chunk(batch, rejects, {"line": low + len(piece)}, False), time.time())
            deliver(store, sinks, time.time(), settings.alerts)
            told = _print_opened(store.alerts_seen, told, town, out)
            progress.update(task, completed=low + len(piece))
        engine.run("town", Chunk(empty_batch(), (), {}, True), time.time(), drain=True)
        deliver(store, sinks, time.time(), settings.alerts)
    _print_opened(store.alerts_seen, told, town, out)
    history.compact(store, Path(settings.state.folder))


def takeover_of(verdict: Verdict, takeovers: Sequence[Takeover]) -> Takeover | None:
    """The takeover that a session belongs to, if any: the same account, overlapping times."""
    for takeover in takeovers:
        if takeover.user == verdict.user and verdict.start <= takeover.end and verdict.end >= takeover.start:
            return takeover
    return None


def _print_opened(alerts: Sequence[Alert], told: int, town: Town, out: Console) -> int:
    """Print the first alert of each incident, those before `told` apart; how many alerts there are."""
    known = {alert.incident for alert in alerts[:told]}
    for alert in alerts[told:]:
        if alert.incident not in known:
            known.add(alert.incident)
            _print_alert(alert, town, out)
    return len(alerts)


def _print_alert(alert: Alert, town: Town, out: Console) -> None:
    takeover = takeover_of(alert.verdict, town.takeovers)
    truth = f"takeover: {takeover.kind}" if takeover else "false alarm"
    who = harmless(alert.verdict.user, 40)
    out.print(
        f"{when(alert.time)}  {alert.severity:8} {who:16} {alert.incident[:8]}  {harmless(alert.summary, 400)}  [{truth}]",
        markup=False,
        highlight=False,
    )


def _tell(store: Watched, settings: Settings, town: Town, out: Console, took: float, keep: str | None) -> None:
    """The table at the end: caught and missed by kind, false alarms, time to detection, where to look next."""
    caught: dict[str, Alert] = {}
    true: set[str] = set()
    for alert in store.alerts_seen:
        takeover = takeover_of(alert.verdict, town.takeovers)
        if takeover is not None:
            true.add(alert.incident)
            caught.setdefault(takeover.id, alert)
    false = len({alert.incident for alert in store.alerts_seen} - true)
    table = Table(title="takeovers", title_justify="left")
    for name in ("kind", "caught", "missed", "median time to detection"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    delays: dict[str, list[float]] = defaultdict(list)
    for takeover in town.takeovers:
        if takeover.id in caught:
            delays[takeover.kind].append(max(caught[takeover.id].time - takeover.start, 0))
    total = 0
    for kind in KINDS:
        of_kind = [t for t in town.takeovers if t.kind == kind]
        hits = len(delays[kind])
        total += hits
        middle = sorted(delays[kind])[hits // 2] if hits else None
        table.add_row(kind, str(hits), str(len(of_kind) - hits), "-" if middle is None else f"{middle / 60:.0f} min")
    days = (max(v.end for v in store.verdicts_seen) - town.learn_until) / 86400
    table.add_section()
    table.add_row("all", str(total), str(len(town.takeovers) - total), "")
    out.print(table)
    out.print(
        f"{false} false alarms in {days:.0f} days ({false / days:.1f} a day; budget: {settings.alerts.per_day:g} alerts a day); "
        f"{len(store.verdicts_seen):,} sessions judged; {took:.0f} s in all",
        highlight=False,
    )
    if keep:
        out.print(f"look next: unlike alerts --set state.folder={keep}", highlight=False)
        out.print(f"           unlike alerts show ID --set state.folder={keep}", highlight=False)
        out.print("           unlike demo --keep DIR --serve serves metrics and the review page", highlight=False)
    else:
        out.print(
            "look next: unlike demo --keep DIR keeps the state for `unlike alerts`; --serve serves metrics and the review page",
            highlight=False,
        )


def _serve(settings: Settings, out: Console) -> None:
    """Stay up as a daemon on the state, until interrupted."""
    daemon = Daemon(settings, lambda: settings, unlike_command(), sources=[])
    out.print(f"serving http://{settings.metrics.listen}/metrics until interrupted", highlight=False)
    out.print(f"review: unlike review open --set state.folder={settings.state.folder}", highlight=False)
    daemon.run()
