"""Between cycles and people: alarms become incidents, answers become guidance, and accounts are learnt anew as people said.

An account with an incident keeps its profile as it was before the cycle of the first alarm, and every session that closed since: an
answer, or one taken back, lets it be learnt again from there, by the same step. Where that is not there (another pack, a session
found by likeness) it is learnt from the stored history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from alerts import incidents as life
from alerts.audit import NONE, Head, chained
from alerts.explanations import channel_facet
from alerts.impact import Stake, Stakes, stake
from alerts.policy import raise_alerts
from detector import describing, history, scoring
from detector.calibration import Watch
from detector.evidence import base_share
from detector.guidance import EVERYONE, Allowance, Guidance, Known, Lesson, covered, exempt
from detector.opened import open_from_bytes, open_to_bytes
from detector.pack import Pack
from detector.profiles import Profiles, from_bytes, lookup, to_bytes
from detector.records import Alert, Answer, Batch, Changes, Incident, Label, Verdict
from detector.sessions import Sessions, concat, empty, take
from detector.settings import Settings

RARE = 0.001  # a value that so small a share of everybody's is can link accounts
ALIKE = 0.9  # cosine of two sessions' embeddings from which their incidents are linked
LINKED_WITHIN = 30 * 86400.0  # seconds
FOUND = 2.0  # what a label is worth where a person found the session, rather than the detector
MOST_LINKED = 50  # an attack on thousands of accounts is a campaign of itself
FLOOD = 200  # alarms of one cycle that are scored again without their facets; each costs as much as a session
OTHERWISE = 3  # reasons without which an alert is scored again


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of an account because of its incidents."""

    answers: tuple[Answer, ...] = ()
    before: bytes | None = None  # its profile before the first alarm, b"" where it had none; None: not kept
    pack: str = ""  # of that profile


class Exhibit(msgspec.Struct, frozen=True, array_like=True):
    """What it takes to score an alert's session again."""

    user: str
    session: bytes
    profile: bytes
    pack: str
    watch: Watch
    open: bool
    limit: float


@dataclass(frozen=True)
class Part:
    """What casework adds to the changes of a cycle or an answer, and what memory becomes once they are committed."""

    changes: Changes = field(default_factory=Changes)
    incidents: tuple[Incident, ...] = ()
    cases: Mapping[str, Case] = field(default_factory=dict)
    head: Head = NONE
    forgotten: tuple[str, ...] = ()  # ids of incidents


class Book(Protocol):
    """What is needed of a store; see stores.Store."""

    def incidents(self, states: Sequence[str] = (), user: str | None = None) -> list[Incident]:
        """Incidents in one of the states (none: in any), the highest priority first."""

    def cases(self) -> dict[str, bytes]:
        """account -> what people said of it."""

    def kept(self, user: str) -> list[bytes]:
        """Closed sessions kept of an account, in the order of their commits."""


class Casework:
    """Incidents and cases in memory, as the store has them. The caller holds the engine's lock."""

    def __init__(self, store: Book, settings: Settings) -> None:
        self.store, self.settings = store, settings
        self.cases = {user: msgspec.msgpack.decode(body, type=Case) for user, body in store.cases().items()}
        self.all: dict[str, Incident] = {i.id: i for i in store.incidents()}
        self.latest: dict[str, Incident] = {}
        for incident in sorted(self.all.values(), key=lambda i: i.opened):
            self.latest[incident.user] = incident
        self.stakes = stakes_of(settings)
        self.guidance = guidance_of(self.cases)

    def apply(self, part: Part) -> None:
        """The part has been committed."""
        for incident in part.incidents:
            self.all[incident.id] = incident
            newest = self.latest.get(incident.user)
            if newest is None or newest.opened <= incident.opened or newest.id == incident.id:
                self.latest[incident.user] = incident
        for id_ in part.forgotten:
            user = self.all.pop(id_).user
            if user in self.latest and self.latest[user].id == id_:
                del self.latest[user]
        if part.cases:
            self.cases |= part.cases
            self.guidance = guidance_of(self.cases)

    def muted(self, user: str, time: float) -> bool:
        """Whether alarms of the account at this event time are only counted."""
        return any(answer.until is None or time < answer.until for answer in mutes(self.cases.get(user)))

    def take(
        self,
        outcome: scoring.Outcome,
        records: Mapping[str, bytes],
        pack: Pack,
        clock: float,
        head: Head,
        now: float,
        events: Callable[[str, float, float], list[Mapping[str, object]]],
    ) -> Part:
        """What the alarms and the closed sessions of a cycle make of incidents and cases.

        records: profiles before the cycle; clock: event time, seconds; now: wall clock; events: (account, first, last) -> events.
        """
        oldest = min((one.verdict.end for one in outcome.alarming), default=np.inf)
        others = Others([i for i in self.all.values() if i.updated >= oldest - LINKED_WITHIN], pack.id)
        alerts = alerts_of(outcome.alarming, pack, clock)
        alarms = [self._alarm(one, alert, pack, events) for one, alert in zip(outcome.alarming, alerts, strict=True)]
        rules = self.settings.incidents
        grouped = life.group(alarms, self.latest.get, self.muted, rules.cooldown, rules.expire, others)
        for incident in self.latest.values():
            if incident.state in life.ACTIVE and incident.user not in grouped.newest and clock > incident.updated + rules.expire:
                life.end(grouped, incident, rules.expire)
        cases = {
            user: msgspec.structs.replace(self.cases.get(user, Case()), before=records.get(user, b""), pack=pack.id)
            for user in grouped.newest
            if grouped.incidents[grouped.newest[user]].state in life.ACTIVE and not self._whole(user, pack)
        }
        tracked = {user for user in {*outcome.closed.user.tolist()} if user in cases or self._whole(user, pack)}
        rows = [s for s in range(len(outcome.closed)) if outcome.closed.user[s] in tracked] if tracked else []
        exhibits = {key_of(one.verdict): exhibit_of(one, pack) for one in outcome.alarming}
        for time in outcome.quiet:
            grouped.held[life.day_of(time), "dismissed"] += 1
        entries, head = chained(head, grouped.drafts, now)
        changed = tuple(grouped.incidents.values())
        changes = Changes(
            alerts=tuple(grouped.alerts),
            exhibits=tuple(exhibits[key_of(alert.verdict)] for alert in grouped.alerts),
            incidents=changed,
            members=tuple(grouped.members),
            cases=tuple((user, msgspec.msgpack.encode(case)) for user, case in cases.items()),
            forget_kept=tuple(cases),
            kept=tuple((str(outcome.closed.user[s]), _row(outcome.closed, s)) for s in rows),
            held=dict(grouped.held),
            messages=tuple(self.message(i, kind, clock) for _, i, kind in grouped.messages),
            audit=entries,
        )
        return Part(changes, changed, cases, head)

    def message(self, incident: Incident, kind: str, clock: float) -> tuple[str, bytes]:
        """(id, JSON) for the sinks."""
        return life.message(incident, kind, clock, self.settings.review.url)

    def _whole(self, user: str, pack: Pack) -> bool:
        case = self.cases.get(user)
        return case is not None and case.before is not None and case.pack == pack.id

    def _alarm(
        self,
        one: scoring.Alarming,
        alert: Alert,
        pack: Pack,
        events: Callable[[str, float, float], list[Mapping[str, object]]],
    ) -> life.Alarm:
        risk = Stake()
        if self.stakes is not None:
            risk = stake(one.verdict.user, events(one.verdict.user, one.verdict.start, one.verdict.end), self.stakes)
        return life.Alarm(alert, risk, marks_of(one.session, one.profile, pack), one.embedding.astype("<f2").tobytes())

    def tidied(self, clock: float) -> Part:
        """What is past its time: incidents that closed long ago, and what it takes to undo answers that are too old for it."""
        line = clock - self.settings.incidents.undo
        closed = {user: incident.closed or clock for user, incident in self.latest.items()}
        old = [user for user, case in self.cases.items() if case.before is not None and closed.get(user, clock) < line]
        cases = {user: msgspec.structs.replace(self.cases[user], before=None) for user in old}
        packed = tuple((user, msgspec.msgpack.encode(case)) for user, case in cases.items())
        end = clock - self.settings.history.keep_incidents
        gone = tuple(i.id for i in self.all.values() if i.closed is not None and i.closed < end)
        changes = Changes(
            cases=packed, forget_kept=tuple(old), forget_incidents=gone, forget_held_before=life.day_of(max(end, 0.0))
        )
        return Part(changes, (), cases, forgotten=gone)


def key_of(verdict: Verdict) -> tuple[str, str | None, float]:
    """What tells sessions apart."""
    return verdict.user, verdict.session, verdict.start


class Others:
    """Incidents that an alarm could be linked with, as arrays; those of the cycle are added as they come."""

    def __init__(self, incidents: Sequence[Incident], pack: str) -> None:
        self.pack = pack
        self.row: dict[str, int] = {}
        self.ids: list[str] = []
        self.users: list[str] = []
        self.updated: list[float] = []
        self.by_mark: dict[str, set[int]] = {}  # rare value -> which of them have it
        self.embedding = np.zeros((max(len(incidents), 64), 0))  # (I or more, D) unit vectors; zeros of other packs
        for incident in incidents:
            self.add(incident)

    def add(self, incident: Incident) -> None:
        """One more, or one as it is now."""
        n = self.row.setdefault(incident.id, len(self.ids))
        if n == len(self.ids):
            self.ids.append(incident.id)
            self.users.append(incident.user)
            self.updated.append(incident.updated)
        self.updated[n] = incident.updated
        for mark in incident.marks:
            self.by_mark.setdefault(mark, set()).add(n)
        vector = np.frombuffer(incident.embedding if incident.verdict.get("pack") == self.pack else b"", "<f2").astype(float)
        if not self.embedding.shape[1]:
            self.embedding = np.zeros((len(self.embedding), len(vector)))
        if n == len(self.embedding):
            self.embedding = np.concatenate([self.embedding, np.zeros_like(self.embedding)])
        if len(vector) == self.embedding.shape[1]:
            self.embedding[n] = vector

    def like(self, alarm: life.Alarm) -> tuple[str, ...]:
        """Ids of those of other accounts that share a rare value, or whose session is like the alarm's."""
        found: set[int] = set().union(*(self.by_mark.get(mark, set()) for mark in alarm.marks))
        vector = np.frombuffer(alarm.embedding, "<f2").astype(float)
        if self.embedding.shape[1] == len(vector):
            found |= set(np.flatnonzero(self.embedding[: len(self.ids)] @ vector >= ALIKE).tolist())
        user, since = alarm.alert.verdict.user, alarm.alert.time - LINKED_WITHIN
        return tuple(sorted({self.ids[n] for n in found if self.users[n] != user and self.updated[n] >= since})[:MOST_LINKED])


def alerts_of(alarming: Sequence[scoring.Alarming], pack: Pack, clock: float) -> list[Alert]:
    """The alerts for sessions that alarm; none is older than its session's newest event. The first FLOOD are scored again."""
    alerts = [_alert_of(one, pack, clock) for one in alarming]
    first = alerts[:FLOOD]
    accusing = [[channel_facet(str(r["channel"])) for r in alert.reasons if float(str(r["nats"])) > 0] for alert in first]
    known = {*pack.facets.text, *pack.facets.number}
    names = [[name for name in dict.fromkeys(some) if name in known][:OTHERWISE] for some in accusing]
    others = describing.otherwise(names, alarming[:FLOOD], pack)
    return [replace(a, counterfactuals=o) for a, o in zip(first, others, strict=True)] + alerts[FLOOD:]


def _alert_of(one: scoring.Alarming, pack: Pack, clock: float) -> Alert:
    verdict, details = one.verdict, describing.told(one.session, one.profile, pack)
    (alert,) = raise_alerts([verdict], one.limit, min(verdict.end, clock), still_open=one.open, describe=lambda _: details)
    return replace(alert, limit=one.limit)


def exhibit_of(one: scoring.Alarming, pack: Pack) -> bytes:
    """What it takes to score the session of an alarm again."""
    (profile,) = to_bytes(one.profile)
    watch = msgspec.structs.replace(one.watch, spells={})
    return msgspec.msgpack.encode(Exhibit(one.verdict.user, _row(one.session, 0), profile, pack.id, watch, one.open, one.limit))


def shown(body: bytes, pack: Pack) -> tuple[Exhibit, Sessions, Profiles]:
    """An exhibit with its (1) session and (1) profile; `pack` is the one that it names."""
    exhibit = msgspec.msgpack.decode(body, type=Exhibit)
    session = open_from_bytes({exhibit.user: exhibit.session}, len(pack.facets.number))
    return exhibit, session, from_bytes([exhibit.profile], pack.shape)


def would_alarm(exhibit: Exhibit, session: Sessions, profile: Profiles, pack: Pack, guidance: Mapping[str, Guidance]) -> bool:
    """Whether the session would alarm under guidance, against a profile."""
    if covered(session, pack.facets, guidance).any():
        return False
    spared = exempt(session, pack.facets, guidance)
    (_, (p,)) = scoring.again(spared, profile, pack, [exhibit.watch], np.array([exhibit.open]))
    return bool(p <= exhibit.limit)


def marks_of(session: Sessions, profile: Profiles, pack: Pack) -> tuple[str, ...]:
    """Values of the (1) session that are new to its account and rare everywhere."""
    counted, _ = lookup(profile, session.row, session.key)
    weight = np.ones((1, pack.population.log_peer.shape[1]))
    share = base_share(session, weight, pack.population, np.ones(len(session.key)))
    names = pack.facets.text
    found = {
        f"{names[session.facet[t]]}={session.text[t]}"[:200]
        for t in np.flatnonzero((counted == 0) & (share <= RARE))
        if names[session.facet[t]] not in describing.HIDDEN
    }
    return tuple(sorted(found)[:20])


def likeness(one: bytes, other: bytes) -> float:
    """Cosine of two stored embeddings."""
    a, b = (np.frombuffer(x, "<f2").astype(float) for x in (one, other))
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9))


def _row(table: Sessions, s: int) -> bytes:
    (body,) = open_to_bytes(take(table, np.array([s]))).values()
    return body


def stakes_of(settings: Settings) -> Stakes | None:
    """What the settings put at stake; None where they name nothing. Raises SettingsError for a list that cannot be read."""
    impact = settings.impact
    if not (impact.weights or impact.lists or impact.sensitive or impact.chain):
        return None
    accounts = {user: weight for path, weight in impact.lists.items() for user in impact.read(path)}
    values = {(name, value): w for (name, _, value), w in ((pair.partition("="), w) for pair, w in impact.weights.items())}
    return Stakes(accounts, values, impact.sensitive, tuple(map(frozenset, impact.chain)), impact.chain_weight)


def labels_of(cases: Mapping[str, Case], shown_for: Mapping[str, str]) -> dict[tuple[str, float], Label]:
    """(account, start) -> whose a session was, by the answers that hold; shown_for: incident -> why it was shown."""
    out: dict[tuple[str, float], Label] = {}
    for user, case in cases.items():
        for answer in case.answers:
            if user != EVERYONE and answer.kind in ("confirm", "dismiss") and not answer.undone:
                found = shown_for.get(answer.incident) == "similar"
                label = Label(answer.kind == "dismiss", FOUND if found else 1.0)
                out |= {(user, start): label for _, start in answer.sessions}
    return out


def mutes(case: Case | None) -> list[Answer]:
    """Those that have not been taken back."""
    return [] if case is None else [a for a in case.answers if a.kind == "mute" and not a.undone]


def guidance_of(cases: Mapping[str, Case]) -> dict[str, Guidance]:
    """What follows for the core from the answers that hold, by account; only of accounts where anything does."""
    out = {user: _guidance(case.answers, user == EVERYONE) for user, case in cases.items() if case.answers}
    return {user: said for user, said in out.items() if said != Guidance()}


def _guidance(answers: Sequence[Answer], everyone: bool) -> Guidance:
    lessons: dict[tuple[str | None, float], bool] = {}
    known: list[Known] = []
    frozen: list[tuple[float, float]] = []
    allowed: list[Allowance] = []
    for answer in answers:
        if answer.undone or answer.kind == "mute":
            continue
        if not everyone:
            lessons |= dict.fromkeys(answer.sessions, answer.kind == "dismiss")
        if answer.kind == "confirm" and answer.until is not None and answer.until > answer.clock:
            frozen.append((answer.clock, answer.until))
        if answer.kind == "dismiss" and answer.scope == ("everyone" if everyone else "value"):
            allowed.append(allowance(answer))
        if answer.kind == "dismiss" and not everyone:
            known += [msgspec.convert(one, Known) for one in answer.known]
    told = tuple(Lesson(name, start, owner) for (name, start), owner in lessons.items())
    return Guidance(told, tuple(frozen), tuple(allowed), tuple(known))


def allowance(answer: Answer) -> Allowance:
    """What a dismissal says is in order."""
    until = np.inf if answer.until is None else answer.until
    if answer.least is not None or answer.most is not None:
        least, most = -np.inf if answer.least is None else answer.least, np.inf if answer.most is None else answer.most
        return Allowance(answer.facet, None, least, most, until)
    return Allowance(answer.facet, answer.value, until=until)


def of_user(batches: Iterable[Batch], user: str) -> Iterator[Batch]:
    """The events of one account."""
    for batch in batches:
        mask = batch.user == user
        if mask.any():
            yield history.select(batch, mask)


def kept_sessions(store: Book, user: str, numbers: int) -> Sessions:
    """The closed sessions kept of an account, in the order of their closing."""
    return concat([empty(numbers), *(open_from_bytes({user: body}, numbers) for body in store.kept(user))])


def stored_events(store: history.Stage, folder: str, user: str, since: float, until: float) -> list[Batch]:
    """The events of one account with since <= time <= until."""
    return list(of_user(history.read(store, Path(folder), since, np.nextafter(until, np.inf)), user))
