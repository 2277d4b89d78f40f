"""One cycle: read, score, decide, commit. The daemon runs it on a schedule, replay runs it over history; there is no other way in.

Everything that a cycle changes goes to the store in one commit, source position included, so a kill at any moment leaves the state
of a whole number of cycles. Alerts leave after the commit (alerts.delivery).
"""

from __future__ import annotations

import time as wall
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from alerts.audit import NONE
from alerts.policy import Policy
from detector import calibration, drift, history, scoring, training
from detector.casework import Casework, Part, stored_events
from detector.guidance import NOBODY, Guidance
from detector.history import select
from detector.opened import open_from_bytes, open_to_bytes
from detector.pack import Pack
from detector.profiles import Profiles, blank, from_bytes, put, to_bytes
from detector.profiles import take as take_profiles
from detector.recent import Recent, fingerprints
from detector.records import Batch, Changes, Chunk, Reject
from detector.reports import CycleReport
from detector.sessions import Sessions, close_time, concat, empty, take
from detector.settings import Settings
from detector.stores import Store

LINE_KEPT = 4096  # characters of a late event kept in quarantine
NOTHING_SEEN = -1e18
ENTRIES = 10_000  # of the audit that are looked through at a time


class EngineState(msgspec.Struct, frozen=True):
    """What the engine itself remembers; committed with every cycle."""

    newest: float = NOTHING_SEEN  # newest event time seen
    newest_at: float = 0.0  # wall clock when it was seen
    pack: str = ""  # the pack that profiles and open sessions belong to
    counters: dict[str, int] = msgspec.field(default_factory=dict)
    days: dict[int, list[int]] = msgspec.field(default_factory=dict)  # of the last days under this pack; see drift
    watch: calibration.Watch = calibration.Watch()
    audit: tuple[int, str] = NONE  # number and hash of its newest entry
    audit_from: tuple[int, str] = NONE  # of the newest entry that is no longer kept


@dataclass(frozen=True)
class Prepared:
    """A cycle that is ready to be committed."""

    changes: Changes
    report: CycleReport
    state: EngineState
    part: Part  # of the casework
    marks: np.ndarray
    times: np.ndarray


class Engine:
    """Runs cycles on a store with a pack. One at a time; the caller holds the lock."""

    def __init__(
        self,
        store: Store,
        pack: Pack | None,
        settings: Settings,
        sinks: Sequence[str],
        keep_history: bool = True,
        casework: bool = True,
    ) -> None:
        self.store, self.pack, self.settings, self.sinks, self.keep_history = store, pack, settings, tuple(sinks), keep_history
        saved = store.engine()
        self.state = msgspec.json.decode(saved, type=EngineState) if saved else EngineState()
        self.recent = Recent.load(store.recent())
        self.casework = Casework(store, settings) if casework else None
        self.rejected: Counter[str] = Counter()

    @property
    def rules(self) -> scoring.Rules:
        s = self.settings
        return scoring.Rules(s.session.gap, s.session.named_gap, s.events.lateness)

    @property
    def alerts_per_day(self) -> float:
        """The budget: of alerts a day, or of alerts per 1,000 accounts a day where that is set."""
        wanted = self.settings.alerts
        accounts = float(self.pack.report.get("accounts", 0)) if self.pack else 0.0
        if wanted.per_1000_accounts_a_day > 0 and accounts:
            return wanted.per_1000_accounts_a_day * accounts / 1000
        return wanted.per_day

    def limit(self, watch: calibration.Watch) -> float:
        """The largest p that alarms on the watch's day, before that is spent."""
        sessions = calibration.sessions_a_day(watch, self.pack.sessions_per_day) if self.pack else 0.0
        return Policy(calibration.wanted(watch, self.alerts_per_day), sessions, watch.lean).threshold

    def limit_now(self, watch: calibration.Watch) -> float:
        """The largest p at which an account that is not in trouble alarms at this moment of the watch's day."""
        return calibration.rationed(self.limit(watch), watch, self.alerts_per_day)

    def run(
        self, source: str, chunk: Chunk, now: float, *, idle: bool = False, drain: bool = False, looks: bool = True
    ) -> CycleReport:
        """One cycle over one chunk of one source: score, commit, report. `idle`: nothing more is there to read.

        `drain`: no event will come any more; all sessions close. Raises StoreError; the state is then that before the cycle.
        """
        started = wall.perf_counter()
        prepared = self._prepare(source, chunk, now, idle, drain, looks)
        self.store.commit(prepared.changes)
        self.state = prepared.state
        if self.casework is not None:
            self.casework.apply(prepared.part)
        self.rejected.update(prepared.report.rejects)
        self.recent.add(prepared.marks, prepared.times, self.state.newest - self.settings.events.lateness)
        return replace(prepared.report, duration_s=wall.perf_counter() - started)

    def taken(self, changes: Changes, state: EngineState, part: Part) -> None:
        """Commit what an answer changes. Raises StoreError; nothing was changed then."""
        self.store.commit(changes)
        self.state = state
        if self.casework is not None:
            self.casework.apply(part)

    def tidy(self, now: float) -> None:
        """Give up what answers no longer need and what is past its time. `now`: wall clock. Raises StoreError."""
        if self.casework is not None:
            part, line = self.casework.tidied(self.state.newest), now - self.settings.history.keep_incidents
            kept_from = self.state.audit_from
            for entry in self.store.entries(0, ENTRIES):
                if entry.time >= line:
                    break
                kept_from = entry.number, entry.hash
            state = msgspec.structs.replace(self.state, audit_from=kept_from)
            changes = replace(part.changes, forget_audit=kept_from[0], engine=msgspec.json.encode(state), now=now)
            self.taken(changes, state, part)

    def _prepare(self, source: str, chunk: Chunk, now: float, idle: bool, drain: bool, looks: bool) -> Prepared:
        batch, lateness = chunk.batch, self.settings.events.lateness
        marks = fingerprints(batch) if chunk.marks is None else chunk.marks
        fresh = self.recent.fresh(marks)
        duplicates = int((~fresh).sum())
        batch, marks = select(batch, fresh), marks[fresh]
        in_time, clock = scoring.admit(batch.time, self.state.newest, lateness)
        late = tuple(late_reject(source, batch, int(e)) for e in np.flatnonzero(~in_time))
        batch, marks, clock = select(batch, in_time), marks[in_time], clock[in_time]
        newest = max(self.state.newest, float(clock[-1])) if len(clock) else self.state.newest
        newest_at = now if newest > self.state.newest else self.state.newest_at
        silence = now - newest_at if idle and newest > NOTHING_SEEN else 0.0
        watermark = np.inf if drain else newest - lateness + (silence if silence > lateness else 0.0)
        pack = self.pack
        if pack is None and len(batch):
            pack = self.pack = training.untrained(batch, self.settings.attributes, self.settings.seed)
        changed, outcome, part = Changes(), None, Part(head=self.state.audit)
        if pack is not None:
            changed, outcome, part = self._score(batch, clock, pack, watermark, looks, now)
        verdicts, alarms = (outcome.verdicts, len(outcome.alarming)) if outcome else ((), 0)
        rejects = (*chunk.rejects, *late)
        reasons = Counter(r.reason for r in rejects)
        counters = Counter(self.state.counters)
        counters.update(events=len(batch), duplicates=duplicates, verdicts=len(verdicts), alerts=alarms, rejects=len(rejects))
        state = EngineState(
            newest,
            newest_at,
            pack.id if pack else "",
            dict(counters),
            self._days(outcome),
            outcome.watch if outcome else self.state.watch,
            part.head,
            self.state.audit_from,
        )
        changes = replace(
            changed,
            positions={source: chunk.position} if chunk.position else {},
            engine=msgspec.json.encode(state),
            recent=((float(batch.time.max()), marks.tobytes() + batch.time.tobytes()),) if len(batch) else (),
            forget_recent_before=newest - lateness,
            history=tuple(history.encode(batch)) if self.keep_history and len(batch) else (),
            verdicts=verdicts,
            embeddings=tuple(row.tobytes() for row in outcome.embeddings.astype("<f2")) if outcome else (),
            sinks=self.sinks,
            rejects=rejects,
            now=now,
        )
        report = CycleReport(
            events=len(batch),
            sources={source: len(batch)},
            rejects=dict(reasons),
            duplicates=duplicates,
            late=len(late),
            event_lags_s=np.maximum(now - batch.time, 0),
            scores=np.array([v.score for v in verdicts]),
            ps=np.array([v.p for v in verdicts]),
            scoring_lags_s=np.array([max(now - v.end, 0) for v in verdicts]),
            threshold=self.limit_now(state.watch) if pack is not None and pack.fusion else 0.0,
            alerts_a_day=calibration.alerts_a_day(state.watch),
            budget_a_day=self.alerts_per_day,
            alerts=dict(Counter(a.severity for a in changed.alerts)),
            opened=dict(Counter(e.detail["severity"] for e in changed.audit if e.what == "open")),
            held=dict(Counter({why: n for (_, why), n in changed.held.items()})),
            event_clock=newest if newest > NOTHING_SEEN else 0.0,
        )
        return Prepared(changes, report, state, part, marks, batch.time)

    def _days(self, outcome: scoring.Outcome | None) -> dict[int, list[int]]:
        if outcome is None or not outcome.verdicts or self.pack is None or self.pack.drift is None:
            return self.state.days
        usual, ps = self.pack.drift, np.array([v.p for v in outcome.verdicts])
        closed = outcome.closed, outcome.embeddings, ps
        return drift.added(self.state.days, drift.count(*closed, usual.frequent, usual.edges, self.pack.population.vocabulary))

    def drift(self) -> drift.Drift | None:
        """How far the last day whose sessions have all closed lies from what is usual; None where that cannot be told."""
        pack, rules = self.pack, self.rules
        if pack is None or pack.drift is None or pack.id != self.state.pack:
            return None
        closed_until = self.state.newest - rules.lateness - max(rules.gap, rules.named_gap)
        return drift.judge(pack.drift, self.state.days, closed_until, (*pack.facets.text, *pack.facets.number, "volume"))

    def _score(
        self, batch: Batch, clock: np.ndarray, pack: Pack, watermark: float, looks: bool, now: float
    ) -> tuple[Changes, scoring.Outcome | None, Part]:
        users = sorted({*batch.user.tolist(), *self.store.due(watermark)})
        if not users:
            return Changes(), None, Part(head=self.state.audit)
        records = self.store.accounts(users)
        profiles = from_bytes([records.get(u) for u in users], pack.shape)
        opened = self.store.open_sessions(users)
        outcome = scoring.step(
            batch,
            clock,
            users,
            profiles,
            open_from_bytes(opened, len(pack.facets.number)),
            pack,
            self.rules,
            watermark,
            self.state.watch,
            scoring.Budget(self.alerts_per_day, self.limit),
            looks,
            self.casework.guidance if self.casework is not None else {},
        )
        time = float(clock[-1]) if len(clock) else self.state.newest
        part = self._cases(outcome, records, pack, batch, max(time, self.state.newest), now)
        changed = np.flatnonzero(outcome.changed)
        changes = replace(
            part.changes,
            accounts=tuple(
                (users[a], int(outcome.profiles.history[a]), record)
                for a, record in zip(changed, to_bytes(take_profiles(outcome.profiles, changed)), strict=True)
            ),
        )
        return with_open(changes, outcome.open_sessions, opened, self.rules), outcome, part

    def _cases(
        self, outcome: scoring.Outcome, records: Mapping[str, bytes], pack: Pack, batch: Batch, clock: float, now: float
    ) -> Part:
        """What the cycle makes of incidents, with the alarms that the budget held back counted."""
        if self.casework is None:
            return Part(head=self.state.audit)

        def events(user: str, first: float, last: float) -> list[Mapping[str, object]]:
            stored = stored_events(self.store, self.settings.state.folder, user, first, last) if self.keep_history else []
            mine = select(batch, (batch.user == user) & (batch.time >= first) & (batch.time <= last))
            return [row for part in (*stored, mine) for row in rows_of(part)]

        part = self.casework.take(outcome, records, pack, clock, self.state.audit, now, events)
        sessions = calibration.sessions_a_day(outcome.watch, pack.sessions_per_day)
        limit, nominal = self.limit_now(outcome.watch), Policy(self.alerts_per_day, sessions).threshold
        alarmed = {(a.verdict.user, a.verdict.session, a.verdict.start) for a in outcome.alarming}
        over = Counter(
            str(np.datetime64(int(v.end // 86400), "D"))
            for v in outcome.verdicts
            if pack.fusion and limit < v.p <= nominal and (v.user, v.session, v.start) not in alarmed
        )
        held = dict(part.changes.held) | {(day, "over_budget"): n for day, n in over.items()}
        return replace(part, changes=replace(part.changes, held=held))


def with_open(changes: Changes, table: Sessions, before: Mapping[str, bytes], rules: scoring.Rules) -> Changes:
    """The changes with what is open now; `before`: what was open of the same accounts."""
    due: dict[str, float] = {}
    count: Counter[str] = Counter()
    for user, end in zip(table.user, close_time(table, rules.gap, rules.named_gap).tolist(), strict=True):
        due[user] = min(end, due.get(user, np.inf))
        count[user] += 1
    packed = open_to_bytes(table)
    opened = tuple((user, due[user], count[user], record) for user, record in packed.items() if before.get(user) != record)
    return replace(changes, open_sessions=opened, closed_users=tuple(user for user in before if user not in packed))


def rows_of(batch: Batch) -> list[Mapping[str, object]]:
    """The attributes of each event."""
    columns = {name: column.tolist() for name, column in batch.attributes.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def late_reject(source: str, batch: Batch, e: int) -> Reject:
    """The quarantine entry of an event that came too late."""
    content = {"time": float(batch.time[e]), "user": batch.user[e], "session": batch.session[e]}
    content |= {name: column[e] for name, column in batch.attributes.items() if column[e] is not None}
    line = msgspec.json.encode(content).decode()[:LINE_KEPT]
    return Reject(source, str(batch.position[e]), "late", "later than events.lateness after the newest event", line)


def rebuild(
    pack: Pack,
    settings: Settings,
    batches: Iterable[Batch],
    stop: Callable[[], bool] = lambda: False,
    guidance: Mapping[str, Guidance] = NOBODY,
    until: float | None = None,
) -> tuple[Profiles, list[str], Sessions, float]:
    """Profiles and open sessions under a pack, from the stored history of events, as people said; nothing is written.

    until: at last, what closes before this event time is closed; None: only what the events themselves close.

    Returns (A) profiles with their users, the open sessions, and the newest event time.
    """
    rules = scoring.Rules(settings.session.gap, settings.session.named_gap, settings.events.lateness)
    index: dict[str, int] = {}
    profiles, opened, newest = blank(0, pack.shape), empty(len(pack.facets.number)), NOTHING_SEEN
    for part in pieces(batches, settings.cycle.batch_events, until is not None):
        if stop():
            break
        _, clock = scoring.admit(part.time, newest, rules.lateness)
        newest = float(clock[-1]) if len(clock) else newest
        watermark = until if until is not None and not len(part) else newest - rules.lateness
        for user in dict.fromkeys(part.user.tolist()):
            index.setdefault(user, len(index))
        profiles = grown(profiles, len(index), pack)
        ends = close_time(opened, rules.gap, rules.named_gap)
        involved = dict.fromkeys([*part.user.tolist(), *opened.user[ends < watermark].tolist()])
        users = list(involved)
        mine = np.array([user in involved for user in opened.user], bool)
        rows = np.array([index[u] for u in users], np.int64)
        outcome = scoring.step(
            part,
            clock,
            users,
            take_profiles(profiles, rows),
            take(opened, np.flatnonzero(mine)),
            pack,
            rules,
            watermark,
            calibration.Watch(),
            scoring.Budget(1.0, lambda _: 0.0),
            False,
            guidance,
        )
        put(profiles, rows, outcome.profiles)
        opened = concat([take(opened, np.flatnonzero(~mine)), outcome.open_sessions])
    return profiles, list(index), opened, newest


def pieces(batches: Iterable[Batch], size: int, at_last: bool) -> Iterator[Batch]:
    """Batches cut to at most `size` events each; and at last, where asked, one of no events."""
    batch = None
    for batch in batches:
        for low in range(0, len(batch), size):
            yield select(batch, np.arange(low, min(low + size, len(batch))))
    if at_last and batch is not None:
        yield select(batch, np.arange(0))


def move(engine: Engine, pack: Pack, batches: Iterable[Batch], stop: Callable[[], bool] = lambda: False) -> bool:
    """Go over to another pack: profiles and open sessions are made anew from history; False if `stop` said so before the end.

    One transaction: killed before it, the state still names the old pack, and the move is made again at the next start.
    """
    rebuilt = rebuild(pack, engine.settings, batches, stop, engine.casework.guidance if engine.casework is not None else NOBODY)
    if stop():
        return False
    settle(engine, pack, *rebuilt)
    return True


def settle(engine: Engine, pack: Pack, profiles: Profiles, users: list[str], opened: Sessions, newest: float) -> None:
    """Put what `rebuild` made in the place of the engine's profiles and open sessions."""
    records = (to_bytes(take_profiles(profiles, np.array([a]))) for a in range(len(users)))
    rows = ((user, int(profiles.history[a]), record[0]) for a, (user, record) in enumerate(zip(users, records, strict=True)))
    before = dict.fromkeys(engine.store.due(np.inf), b"")
    state = msgspec.structs.replace(
        engine.state,
        pack=pack.id,
        newest=max(engine.state.newest, newest),
        days={},
        watch=calibration.Watch(lean=engine.state.watch.lean, spells=engine.state.watch.spells),
        counters=engine.state.counters | {"verdicts_at_training": engine.state.counters.get("verdicts", 0)},
    )
    engine.store.replace_accounts(rows, with_open(Changes(engine=msgspec.json.encode(state)), opened, before, engine.rules))
    engine.pack, engine.state = pack, state


def grown(profiles: Profiles, size: int, pack: Pack) -> Profiles:
    """Profiles with room for `size` accounts, doubled when full; the new ones blank."""
    if len(profiles) >= size:
        return profiles
    bigger = blank(max(size, 2 * len(profiles), 256), pack.shape)
    put(bigger, np.arange(len(profiles)), profiles)
    return bigger
