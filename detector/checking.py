"""`unlike check`: what of the settings and of a sample of events is understood, and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from alerts.sinks import Sink
from detector import history, pack
from detector.app import packs_folder, status
from detector.errors import DeliveryError, SourceError
from detector.facets import as_text, discover
from detector.lines import rfc3339
from detector.records import Batch, Chunk, Reject
from detector.sessions import assign, bounded, empty
from detector.settings import Settings, SourceSettings
from detector.sources import open_source, read_all

SHOWN = 5  # rejects shown per reason
WIDTH = 100  # characters of a line shown


def check(settings: Settings, events: Sequence[str], sample: int, now: float, tell: Callable[[str], None]) -> int:
    """Tell what is understood; 1 where nothing can be used, else 0. The settings have been read already. Raises SourceError."""
    tell("settings: understood")
    folder = Path(settings.state.folder)
    if (folder / "unlike.db").exists():
        for name, value in status(settings).items():
            tell(f"state {folder}: {name}: {value}")
        chosen = pack.installed(packs_folder(settings))
        if chosen:
            tell(f"state {folder}: pack {pack.load(packs_folder(settings) / chosen).id} is readable")
    batches: list[Batch] = []
    rejects: list[Reject] = []
    for chunk in _chunks(settings, events, now):
        batches.append(chunk.batch)
        rejects += chunk.rejects
        if sum(map(len, batches)) + len(rejects) >= sample:
            break
    if batches or rejects:
        _tell_events(settings, history.concat(batches), tell)
    _tell_rejects(rejects, tell)
    return 1 if rejects and not sum(map(len, batches)) else 0


def _chunks(settings: Settings, events: Sequence[str], now: float) -> Iterator[Chunk]:
    if events:
        fields = settings.source[0] if settings.source else SourceSettings()
        yield from read_all(events, fields, settings.events, settings.cycle.batch_events, now)
        return
    for section in settings.source:
        if section.kind == "stdin":
            continue
        source = open_source(section, settings.events)
        try:
            yield source.read(None, settings.cycle.batch_events, now)
        except SourceError:
            raise
        finally:
            source.close()


def _tell_events(settings: Settings, batch: Batch, tell: Callable[[str], None]) -> None:
    if not len(batch):
        tell("events: none")
        return
    order = np.argsort(batch.time, kind="stable")
    disorder = int((batch.time < np.maximum.accumulate(batch.time) - settings.events.lateness).sum())
    named = int(sum(s is not None for s in batch.session))
    rules = settings.session
    batch = bounded(batch, empty(0), rules.named_gap)
    sessions = len(assign(batch, empty(0), rules.gap, rules.named_gap).continues)
    first, last = rfc3339(batch.time[order[0]]), rfc3339(batch.time[order[-1]])
    tell(f"events: {len(batch):,} of {len(set(batch.user)):,} accounts, {first} to {last}")
    tell(f"sessions: {sessions:,}; {named / len(batch):.0%} of the events name theirs, others end after {rules.gap:g} s of silence")
    if disorder:
        tell(
            f"late: {disorder:,} events are later than events.lateness ({settings.events.lateness:g} s) and would go to quarantine"
        )
    text, number = discover({n: c.tolist() for n, c in batch.attributes.items()}, settings.attributes)
    for name, column in batch.attributes.items():
        kind = "text" if name in text else "number" if name in number else "ignored"
        values = Counter(as_text(v) for v in column if v is not None)
        most = ", ".join(f"{value[:30]!r} ({count:,})" for value, count in values.most_common(3))
        tell(f"attribute {name}: {kind}, in {sum(values.values()) / len(column):.0%} of the events, {len(values):,} values: {most}")


def _tell_rejects(rejects: Sequence[Reject], tell: Callable[[str], None]) -> None:
    for reason, count in Counter(r.reason for r in rejects).most_common():
        tell(f"quarantine: {count:,} lines would go there: {reason}")
        for reject in [r for r in rejects if r.reason == reason][:SHOWN]:
            tell(f"  {reject.position}: {reject.detail}: {reject.line[:WIDTH]!r}")


def notify(sinks: Mapping[str, Sink], url: str, now: float, tell: Callable[[str], None]) -> int:
    """Send a test message through every sink; 1 where one did not take it, else 0."""
    body = msgspec.json.encode(
        {
            "message": f"test-{int(now)}",
            "kind": "test",
            "id": "0" * 16,
            "time": rfc3339(now),
            "user": "test",
            "state": "open",
            "severity": "low",
            "priority": 0.0,
            "sessions": 0,
            "summary": "a test message of unlike check --notify",
            "reasons": [],
            "url": url,
        }
    )
    failed = 0
    for name, sink in sinks.items():
        try:
            sink.send(body)
            tell(f"{name}: arrived")
        except DeliveryError as error:
            failed = 1
            tell(f"{name}: did not arrive: {error}")
    return failed
