"""Replay: the same cycle over history, with event time as the clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np

from detector import calibration, training
from detector.cycle import Engine, move
from detector.errors import TrainingError
from detector.history import lean, select, thinned
from detector.lines import alert_line, verdict_line
from detector.pack import Pack
from detector.records import Alert, Batch, Changes, Chunk, Doubt, Verdict
from detector.reports import CycleReport
from detector.settings import Settings
from detector.stores import MemoryStore


@dataclass(frozen=True)
class Summary:
    """What a replay did."""

    events: int
    verdicts: int
    alerts: int
    rejects: dict[str, int]
    duplicates: int
    packs: tuple[str, ...]


class Recorder(MemoryStore):
    """The store of a replay: hands verdicts and alerts on as they are committed, and does not keep them."""

    def __init__(self, on_verdict: Callable[[Verdict], None], on_alert: Callable[[Alert], None]) -> None:
        super().__init__()
        self._on_verdict, self._on_alert = on_verdict, on_alert

    def commit(self, changes: Changes) -> None:
        """Everything but verdicts and alerts is kept."""
        for verdict in changes.verdicts:
            self._on_verdict(verdict)
        for alert in changes.alerts:
            self._on_alert(alert)
        super().commit(replace(changes, verdicts=(), embeddings=(), alerts=(), exhibits=(), sinks=(), history=(), rejects=()))


def replay(
    chunks: Iterable[Chunk],
    train_until: float,
    settings: Settings,
    on_verdict: Callable[[Verdict], None],
    on_alert: Callable[[Alert], None],
    now: float,
    pack: Pack | None = None,
    looks: bool = True,
    tell: Callable[[str], None] = lambda _: None,
    progress: Callable[[CycleReport], None] = lambda _: None,
) -> Summary:
    """Learn from every event before `train_until` (seconds), then score the rest causally, retraining when training is due.

    Only sessions that end at or after `train_until` are handed on. `now` is the wall clock, against which future events are told.
    With a `pack` given, it is used throughout. Raises TrainingError where there is too little to learn from.
    """
    past: list[Batch] = []
    texts: dict[object, object] = {}
    waiting: deque[Chunk] = deque()
    source = iter(chunks)
    for chunk in source:
        waiting.append(chunk)
        if len(chunk.batch) and chunk.batch.time.max() >= train_until:
            break
    retrain = pack is None and settings.training.every > 0 and settings.training.growth > 0
    if pack is None:
        before = (select(c.batch, c.batch.time < train_until) for c in waiting if len(c.batch))
        pack = _trained(before, settings, train_until, {})
        for line in training.report_lines(pack.report):
            tell(line)
    packs, told, alerts = [pack.id], 0, 0

    doubtful: dict[tuple[str, float], Doubt] = {}

    def take_verdict(verdict: Verdict) -> None:
        nonlocal told
        if calibration.told(verdict.belief, verdict.p):
            doubtful[verdict.user, verdict.start] = Doubt(verdict.belief, verdict.p)
        if verdict.end >= train_until:
            told += 1
            on_verdict(verdict)

    def take_alert(alert: Alert) -> None:
        nonlocal alerts
        if alert.verdict.end >= train_until:
            alerts += 1
            on_alert(alert)

    engine = Engine(Recorder(take_verdict, take_alert), pack, settings, (), keep_history=False, casework=looks)
    sessions, checked = None if pack.report.get("sampled") else pack.sessions, train_until
    for chunk in _together(waiting, source):
        report = engine.run("replay", chunk, now, looks=looks)
        progress(report)
        if retrain and len(chunk.batch):
            past.append(lean(chunk.batch, texts))
            newest = engine.state.newest
            if sessions is None and newest > train_until:
                sessions = engine.state.counters["verdicts"]
            if sessions is not None and newest - checked >= settings.training.every and newest > train_until:
                checked = newest
                if engine.state.counters["verdicts"] >= (1 + settings.training.growth) * sessions:
                    sessions = engine.state.counters["verdicts"]
                    pack = _retrained(past, settings, pack, doubtful)
                    if pack.id != packs[-1]:
                        packs.append(pack.id)
                        move(engine, pack, past)
                        tell(f"trained again: {pack.id}, {pack.report['sessions']:,} sessions")
    progress(engine.run("replay", Chunk(empty_batch(), (), {}, True), now, drain=True, looks=looks))
    counters = engine.state.counters
    return Summary(counters["events"], told, alerts, dict(engine.rejected), counters["duplicates"], tuple(packs))


def _together(first: deque[Chunk], rest: Iterator[Chunk]) -> Iterator[Chunk]:
    while first:
        yield first.popleft()
    yield from rest


def _retrained(past: list[Batch], settings: Settings, old: Pack, doubtful: dict[tuple[str, float], Doubt]) -> Pack:
    """A new pack from everything so far, or the old one if the new one is worse."""
    new = _trained(past, settings, old.trusted_until, doubtful)
    return old if training.worse(new, old) else new


def _trained(past: Iterable[Batch], settings: Settings, trusted_until: float, doubtful: dict[tuple[str, float], Doubt]) -> Pack:
    limits = settings.training
    known, share = thinned(past, limits.max_events)
    if not len(known):
        raise TrainingError("no event lies before --train-until; choose a later time")
    return training.train(known, settings.attributes, settings.session, limits, settings.seed, trusted_until, doubtful, share=share)


def empty_batch() -> Batch:
    """A batch of no events."""
    none = np.empty(0, object)
    return Batch(np.empty(0), none, none, {"action": none}, none, none)


def write_verdict(file: BinaryIO) -> Callable[[Verdict], None]:
    """A taker of verdicts that writes lines."""
    return lambda verdict: _write(file, verdict_line(verdict))


def write_alert(file: BinaryIO) -> Callable[[Alert], None]:
    """A taker of alerts that writes lines."""
    return lambda alert: _write(file, alert_line(alert))


def _write(file: BinaryIO, line: bytes) -> None:
    file.write(line + b"\n")
