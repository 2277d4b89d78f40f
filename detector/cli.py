"""The command `unlike`: results on stdout, messages on stderr; exits 0: done, 1: the work failed, 2: wrong command or settings."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from detector import __version__
from detector.errors import SettingsError, UnlikeError

if TYPE_CHECKING:
    from detector.records import Batch, Doubt, Label
    from detector.settings import Settings

EXAMPLES = {
    "demo": "unlike demo\nunlike demo --keep /tmp/town --serve",
    "run": "unlike run --config unlike.toml\nunlike run --config unlike.toml --set state.folder=/var/lib/unlike",
    "train": "unlike train --config unlike.toml\nunlike train --set state.folder=state old.jsonl.gz --until 2026-01-01T00:00:00Z",
    "packs": "unlike packs list --config unlike.toml\nunlike packs use 06d71da9a394 --config unlike.toml",
    "replay": "unlike replay events.jsonl.gz --train-until 2026-01-09T08:00:00Z --verdicts out.jsonl\n"
    "unlike replay logs/ --train-until 2026-10-01T00:00:00Z --verdicts - --set session.gap=2h",
    "rehearse": "unlike rehearse events.jsonl.gz --report rehearsal.html\n"
    "unlike rehearse --config unlike.toml --held-back 14d --takeovers 50 --json",
    "alerts": "unlike alerts --config unlike.toml\nunlike alerts show 1f3a --config unlike.toml\nunlike alerts list --json\n"
    "unlike alerts similar 1f3a --limit 20 --config unlike.toml\n"
    "unlike alerts confirm 1f3a --why 'she called'\nunlike alerts dismiss 1f3a --scope value --facet device --value pixel-9\n"
    "unlike alerts undo 1f3a\nunlike alerts digest",
    "review": "unlike review token ann --role analyst --config unlike.toml\nunlike review open --config unlike.toml",
    "check": "unlike check --config unlike.toml\nunlike check events.jsonl\nunlike check --notify --config unlike.toml",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # sessions are judged in small groups: more threads only wait for each other
    try:
        return int(options.work(options) or 0)
    except SettingsError as error:
        print(f"unlike: {error}", file=sys.stderr)
        return 2
    except UnlikeError as error:
        print(f"unlike: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("unlike: interrupted", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The whole command line; nothing heavy is imported."""
    top = argparse.ArgumentParser(prog="unlike", description="Flags the sessions that are unlike the account's owner.")
    top.add_argument("--version", action="version", version=f"unlike {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, text: str, work: Callable[[argparse.Namespace], int | None], settings: bool = True
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="examples:\n  " + EXAMPLES[name].replace("\n", "\n  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(work=work)
        if settings:
            sub.add_argument("--config", metavar="FILE", help="settings (TOML)")
            sub.add_argument(
                "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting; may repeat"
            )
        return sub

    demo = command(
        "demo", "the main job from nothing: a simulated town, takeovers, alerts, and how many were caught", _demo, settings=False
    )
    demo.add_argument("--keep", metavar="DIR", help="keep the state in this folder")
    demo.add_argument("--serve", action="store_true", help="stay up to be scraped, until interrupted")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--accounts", type=int, default=240)
    demo.add_argument("--weeks", type=int, default=8)

    command("run", "the daemon", _run)

    train = command("train", "train a pack from the stored history, or from files, and install it if it is not worse", _train)
    train.add_argument("events", nargs="*", metavar="EVENTS", help="files or folders; the stored history where none is given")
    train.add_argument("--until", metavar="TIME", help="learn only from events before this time")
    train.add_argument("--force", action="store_true", help="install it even if it is worse than the present pack")

    packs = command("packs", "list the packs, or go to another one", _packs)
    packs.add_argument("action", nargs="?", choices=("list", "use"), default="list")
    packs.add_argument("id", nargs="?")

    replay = command("replay", "the same cycle over history, with event time as the clock", _replay)
    replay.add_argument("events", nargs="+", metavar="EVENTS", help="files, folders, or - for standard input")
    replay.add_argument("--train-until", required=True, metavar="TIME", help="learn from everything before; score what ends after")
    replay.add_argument("--verdicts", required=True, metavar="OUT", help="where verdicts go, one JSON object a line; - is stdout")
    replay.add_argument("--alerts", metavar="OUT", help="where alerts go")
    replay.add_argument("--pack", metavar="FOLDER", help="use this pack throughout instead of training")
    replay.add_argument("--seed", type=int, help="overrides the setting `seed`")

    rehearse = command(
        "rehearse", "how good it would be on this log: simulated takeovers in the part held back, caught or not", _rehearse
    )
    rehearse.add_argument("events", nargs="*", metavar="EVENTS", help="files or folders; the stored history where none is given")
    rehearse.add_argument(
        "--held-back", metavar="HOW-MUCH", help="share of the time (0.3, 30%%) or duration (14d); without it a quarter, at most 28d"
    )
    rehearse.add_argument("--takeovers", type=int, metavar="N", help="of each kind (default: 25, as far as the log has room)")
    rehearse.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the table")
    rehearse.add_argument("--report", metavar="FILE.html", help="also write the table and plots to a single file")
    rehearse.add_argument("--seed", type=int, help="overrides the setting `seed`")

    _reviewing(command)

    check = command("check", "validate settings, and say what is understood of a sample of events", _check)
    check.add_argument("events", nargs="*", metavar="EVENTS")
    check.add_argument("--sample", type=int, default=100_000, metavar="N", help="events to read at most (default 100,000)")
    check.add_argument("--notify", action="store_true", help="send a test message through every way out, and nothing else")
    return top


def _reviewing(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands of people who review."""
    alerts = command(
        "alerts",
        "the incidents of a state folder: list them, show one, find sessions like it, answer it; the day's digest",
        _alerts,
    )
    alerts.add_argument("action", nargs="?", choices=("list", "show", "similar", *ANSWERS), default="list")
    alerts.add_argument("id", nargs="?", help="the id of an incident or its beginning; unmute: the account; digest: the day")
    alerts.add_argument("--limit", type=int, default=50, metavar="N", help="incidents or sessions at most (default 50)")
    alerts.add_argument("--all", action="store_true", help="closed incidents as well")
    alerts.add_argument("--json", action="store_true", help="one JSON object a line")
    alerts.add_argument("--why", default="", metavar="TEXT", help="the reason, for the audit")
    alerts.add_argument("--days", type=float, metavar="N", help="how long a mute or an allowed value holds (default: for ever)")
    alerts.add_argument("--kind", choices=("confirm", "dismiss", "mute"), default="dismiss", help="the answer to preview")
    alerts.add_argument("--as", dest="as_", choices=("false_alarm", "expected"), default="false_alarm", help="why it is dismissed")
    alerts.add_argument("--scope", choices=("session", "value", "everyone"), default="session", help="how far a dismissal goes")
    alerts.add_argument("--facet", default="", help="the facet whose value is in order, with --scope value or everyone")
    alerts.add_argument("--value", default="", help="the value, with --facet")
    alerts.add_argument("--numbers", type=int, nargs="+", default=[], metavar="N", help="sessions to open, as similar lists them")

    review = command("review", "the review page: make or revoke a token, or a link that signs you in", _review)
    review.add_argument("action", choices=("token", "open"))
    review.add_argument("name", nargs="?", help="token: whose; open: the id of an incident")
    review.add_argument("--role", choices=("viewer", "analyst", "admin"), default="analyst")
    review.add_argument("--revoke", action="store_true", help="the name's token holds no more")


def _settings(options: argparse.Namespace) -> Settings:
    import msgspec

    from detector.settings import load

    settings = load(options.config, options.set)
    seed = getattr(options, "seed", None)
    return settings if seed is None else msgspec.structs.replace(settings, seed=seed)


def _time(text: str, option: str) -> float:
    from detector.lines import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise SettingsError(f"{option} {text}: {error}") from error


def say(text: str) -> None:
    """A message for people."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def output(path: str) -> Iterator[BinaryIO]:
    """A file for results that appears whole or not at all; `-` is stdout."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    unfinished = Path(f"{path}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise UnlikeError(f"{path}: cannot be written: {error.strerror}") from error


def _demo(options: argparse.Namespace) -> int:
    from detector.demo import demo

    return demo(options.seed, options.accounts, options.weeks, options.keep, options.serve)


def _run(options: argparse.Namespace) -> int:
    from detector import logs
    from detector.app import Daemon, unlike_command

    settings = _settings(options)
    if not settings.source:
        raise SettingsError(f"{options.config or 'settings'}: no source; add a section [[source]] with kind and path")
    logs.configure(settings.log.level, settings.log.format)
    daemon = Daemon(settings, lambda: _settings(options), unlike_command())
    daemon.config_arguments = (
        *(("--config", options.config) if options.config else ()),
        *(a for s in options.set for a in ("--set", s)),
    )
    daemon.run()
    return 0


def _history(
    settings: Settings, events: Sequence[str], until: float, most: int = 0
) -> tuple[Batch, float, dict[tuple[str, float], Doubt], dict[tuple[str, float], Label]]:
    """Events before `until` of files, or of the stored history where none are named; if known, doubt and labels of sessions.

    Of more than `most` events (where it is not 0) those of a sample of the accounts; the second is its share of all accounts.
    """
    import msgspec

    from detector import history
    from detector.calibration import told
    from detector.casework import Case, labels_of
    from detector.history import select
    from detector.lines import seconds
    from detector.records import Doubt
    from detector.settings import SourceSettings
    from detector.sources import read_all
    from detector.stores import SqliteStore

    doubtful: dict[tuple[str, float], Doubt] = {}
    labels: dict[tuple[str, float], Label] = {}
    if events:
        fields = settings.source[0] if settings.source else SourceSettings()
        chunks = read_all(events, fields, settings.events, settings.cycle.batch_events, time.time())
        batches = (select(c.batch, c.batch.time < until) for c in chunks)
        past, share = history.thinned(batches, most) if most else (history.concat(list(batches)), 1.0)
    else:
        store = SqliteStore.reader(settings.state.folder)
        stored = history.read(store, Path(settings.state.folder), until=until)
        past, share = history.thinned(stored, most) if most else (history.concat(list(stored)), 1.0)
        judged = [msgspec.json.decode(body) for body in store.verdicts(float("-inf"), until)]
        doubtful = {(v["user"], seconds(v["start"])): Doubt(v["belief"], v["p"]) for v in judged if told(v["belief"], v["p"])}
        cases = {user: msgspec.msgpack.decode(body, type=Case) for user, body in store.cases().items()}
        labels = labels_of(cases, {i.id: i.shown_for for i in store.incidents()})
        store.close()
    return past, share, doubtful, labels


def _train(options: argparse.Namespace) -> int:
    from detector import pack, training
    from detector.app import packs_folder
    from detector.errors import PackError

    settings = _settings(options)
    until = _time(options.until, "--until") if options.until else float("inf")
    limits = settings.training
    past, share, doubtful, labels = _history(settings, options.events, until, limits.max_events)
    folder = packs_folder(settings)
    installed = pack.installed(folder)
    old = None
    if installed:
        try:
            old = pack.load(folder / installed)
        except PackError as error:
            say(f"unlike: the present pack is not readable and is not compared with: {error}")
    trusted = old.trusted_until if old is not None else until if options.until else None
    new = training.train(past, settings.attributes, settings.session, limits, settings.seed, trusted, doubtful, labels, share)
    folder.mkdir(parents=True, exist_ok=True)
    pack.save(new, folder)
    for line in training.report_lines(new.report):
        print(line)
    reason = training.worse(new, old)
    if reason and not options.force:
        print(f"pack {new.id} saved but not installed: {reason}; --force installs it")
        return 1
    pack.install(folder, new.id)
    print(f"pack {new.id} installed; a running daemon goes over to it at its next cycle")
    return 0


def _packs(options: argparse.Namespace) -> int:
    from detector import pack
    from detector.app import packs_folder

    folder = packs_folder(_settings(options))
    if options.action == "use":
        if not options.id:
            raise SettingsError("packs use: the id of a pack is missing; unlike packs list shows them")
        pack.load(folder / options.id)
        pack.install(folder, options.id)
        print(f"pack {options.id} installed; a running daemon goes over to it at its next cycle")
        return 0
    chosen = pack.installed(folder)
    for name in pack.saved(folder):
        try:
            p = pack.load(folder / name)
            what = f"{p.sessions:,} sessions, AUC {p.report['simulated_auc']:.3f}" if p.fusion else "untrained"
        except UnlikeError as error:
            what = str(error)
        print(f"{'*' if name == chosen else ' '} {name}  {what}")
    return 0


def _replay(options: argparse.Namespace) -> int:
    from detector import pack
    from detector.ahead import ahead
    from detector.replay import replay, write_alert, write_verdict
    from detector.settings import SourceSettings
    from detector.sources import read_all

    settings = _settings(options)
    until = _time(options.train_until, "--train-until")
    fields = settings.source[0] if settings.source else SourceSettings()
    now = time.time()
    chunks = ahead(lambda: read_all(options.events, fields, settings.events, settings.cycle.batch_events, now))
    given = pack.load(Path(options.pack)) if options.pack else None
    with contextlib.ExitStack() as stack:
        verdicts = write_verdict(stack.enter_context(output(options.verdicts)))
        alerts = write_alert(stack.enter_context(output(options.alerts))) if options.alerts else lambda _: None
        done = replay(chunks, until, settings, verdicts, alerts, now, given, bool(options.alerts), say)
    say(f"{done.events:,} events, {done.verdicts:,} verdicts, {done.alerts:,} alerts; packs {', '.join(done.packs)}")
    if done.duplicates:
        say(f"{done.duplicates:,} duplicates left out")
    for reason, count in sorted(done.rejects.items()):
        hint = " (sort the input, or raise events.lateness)" if reason == "late" else ""
        say(f"{count:,} lines not used: {reason}{hint}")
    return 0


def _rehearse(options: argparse.Namespace) -> int:
    import msgspec

    from alerts.listing import console_for
    from alerts.rehearsals import page, terminal
    from detector.rehearsal import held_back, rehearse

    settings = _settings(options)
    hold = held_back(options.held_back)
    if options.takeovers is not None and options.takeovers < 1:
        raise SettingsError(f"--takeovers {options.takeovers}: expected at least 1")
    log, _, doubtful, _ = _history(settings, options.events, float("inf"))
    with progress_bars() as progress:
        found = rehearse(
            log, settings, time.time(), hold=hold, each=options.takeovers, doubtful=doubtful, tell=say, progress=progress
        )
    if options.report:
        with output(options.report) as file:
            file.write(page(found))
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        console_for(sys.stdout).print(terminal(found))
    if found["partial"]:
        say(f"unlike: {found['partial']}; the report is of that part alone")
    return 1 if found["partial"] else 0


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, float, float], None]]:
    """A taker of (what, days done, days in all; 0: unknown): a bar for each `what` on a terminal, else a line at each quarter."""
    from rich.progress import Progress, TaskID

    from alerts.listing import console_for

    console = console_for(sys.stderr)
    bars: dict[str, TaskID] = {}
    quarters: set[tuple[str, int]] = set()
    with Progress(console=console, disable=not console.is_terminal) as progress:

        def take(what: str, done: float, total: float) -> None:
            quarter = int(4 * done / total) if total else 0
            if not console.is_terminal and (what, quarter) not in quarters:
                say(f"{what}: {done:.1f} of {total:.1f} days" if total else what)
            quarters.add((what, quarter))
            if what not in bars:
                bars[what] = progress.add_task(what, total=total or None)
            progress.update(bars[what], completed=done)

        yield take


def _alerts(options: argparse.Namespace) -> int:
    import msgspec

    from alerts import listing
    from alerts.incidents import ACTIVE, STATES, row
    from alerts.similar import similar
    from detector.stores import SqliteStore

    if options.limit < 1:
        raise SettingsError(f"alerts --limit {options.limit}: expected at least 1")
    if options.action in ANSWERS:
        return _answer(options)
    store = SqliteStore.reader(_settings(options).state.folder)
    elsewhere = 0
    try:
        if options.action == "list":
            found = [row(i) for i in store.incidents(STATES if options.all else ACTIVE)[: options.limit]]
        else:
            if not options.id:
                raise SettingsError(f"alerts {options.action}: the id of an incident is missing; unlike alerts lists them")
            incident = store.incident(options.id)
            if incident is None:
                raise UnlikeError(f"no incident {options.id}; unlike alerts lists them")
            found = [row(incident)]
            if options.action == "similar":
                found, elsewhere = similar(store, {"id": incident.alert, "verdict": {"user": incident.user}}, options.limit)
    finally:
        store.close()
    if elsewhere:
        say(f"{elsewhere:,} sessions were judged by other packs and are left out: their embeddings cannot be compared")
    if options.json:
        for one in found:
            print(msgspec.json.encode(one).decode())
        return 0
    console = listing.console_for(sys.stdout)
    if options.action == "show":
        console.print(listing.show(found[0]))
    elif options.action == "similar":
        console.print(listing.similar_table(found))
    elif found:
        console.print(listing.table(found))
    else:
        say("no open incidents" + ("" if options.all else "; --all shows those that are closed"))
    return 0


ANSWERS = ("acknowledge", "confirm", "dismiss", "mute", "preview", "undo", "unmute", "digest", "muted", "audit", "open")


def _answer(options: argparse.Namespace) -> int:
    """What only the running daemon does, by its API."""
    from urllib.parse import quote

    import msgspec

    from alerts import control
    from alerts.listing import answered

    folder, what = _settings(options).state.folder, options.action
    needs = what not in ("digest", "muted", "audit")
    if needs and not options.id:
        raise SettingsError(f"alerts {what}: {'an account' if what == 'unmute' else 'the id of an incident'} is missing")
    one = f"/incidents/{quote(options.id or '', safe='')}"
    answer = {"kind": options.kind if what == "preview" else what, "why": options.why, "days": options.days}
    if answer["kind"] == "dismiss":
        answer |= {"as": options.as_, "scope": options.scope, "facet": options.facet, "value": options.value}
    if what == "digest":
        told = control.call(folder, "GET", f"/digest?day={quote(options.id or '')}")
    elif what in ("muted", "audit"):
        told = control.call(folder, "GET", f"/{what}")
    elif what == "unmute":
        told = control.call(folder, "POST", "/unmute", {"user": options.id, "why": options.why})
    elif what == "undo":
        told = control.call(folder, "POST", f"{one}/undo", {"why": options.why})
    elif what == "open":
        told = control.call(folder, "POST", f"{one}/similar", {"numbers": options.numbers, "why": options.why})
    else:
        told = control.call(folder, "POST", f"{one}/{'preview' if what == 'preview' else 'answer'}", answer)
    print(msgspec.json.encode(told).decode() if options.json else answered(what, told))
    return 0


def _review(options: argparse.Namespace) -> int:
    from alerts import control
    from alerts.access import Tokens

    settings = _settings(options)
    if options.action == "token":
        if not options.name:
            raise SettingsError("review token: the name of a person or program is missing")
        tokens = Tokens(Path(settings.state.folder))
        if options.revoke:
            tokens.revoke(options.name)
            say(f"the token of {options.name} holds no more")
        else:
            print(tokens.new(options.name, options.role))
            say(f"the token of {options.name} ({options.role}); it is not kept and not shown again")
        return 0
    told = control.call(settings.state.folder, "POST", "/links", {"incident": options.name or ""})
    print(f"{settings.review.url.rstrip('/') or control.address(settings.state.folder)}{told['path']}")
    say("the link signs you in once, within five minutes")
    return 0


def _check(options: argparse.Namespace) -> int:
    from detector.checking import check

    settings = _settings(options)
    if options.notify:
        from detector.app import sinks_of
        from detector.checking import notify

        return notify(sinks_of(settings), settings.review.url, time.time(), print)
    return check(settings, options.events, options.sample, time.time(), print)


if __name__ == "__main__":
    sys.exit(main())
