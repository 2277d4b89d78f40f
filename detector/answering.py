"""Answers of people, carried out: recorded, taken up by the account's memory, told to the sinks; in one commit each.

Confirming freezes the account and unlearns the incident's sessions: its profile becomes the one it would have without them.
Dismissing learns them as the owner's, as often as it takes for the same sessions not to alarm again; with a scope, a value is in
order from now on, for the account or for everyone. Taking an answer back learns the account as if it had not been given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from alerts import incidents as life
from alerts.audit import Draft, chained
from alerts.impact import Stake
from alerts.policy import alert_id, severity
from detector import describing, history, scoring
from detector.casework import (
    Case,
    Part,
    allowance,
    guidance_of,
    kept_sessions,
    of_user,
    shown,
    would_alarm,
)
from detector.cycle import NOTHING_SEEN, Engine, rebuild
from detector.errors import AnswerError, UnknownError
from detector.guidance import EVERYONE, Guidance, Known, known
from detector.lines import rfc3339, seconds
from detector.opened import open_from_bytes
from detector.pack import Pack
from detector.profiles import Profiles, from_bytes, take, to_bytes
from detector.records import Alert, Answer, Batch, Changes, Incident, Verdict
from detector.sessions import close_time, concat, empty

DAY = 86400.0
LOOKED_BACK = 30 * DAY  # seconds, for previews
CLOSING = {"confirm": "confirmed", "dismiss": "dismissed"}
Packs = Callable[[str], Pack | None]


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person says."""

    kind: str
    as_: str = msgspec.field(default="false_alarm", name="as")
    scope: str = "session"
    facet: str = ""
    value: str = ""
    days: float | None = None
    why: str = ""


def asked(answer: Mapping[str, Any]) -> Asked:
    """An answer, checked; raises AnswerError."""
    try:
        out = msgspec.convert(dict(answer), Asked, strict=False)
    except msgspec.ValidationError as error:
        raise AnswerError(f"answer: {error}") from error
    known = {"kind": ("acknowledge", "confirm", "dismiss", "mute"), "as_": ("false_alarm", "expected")}
    for name, values in (known | {"scope": ("session", "value", "everyone")}).items():
        if getattr(out, name) not in values:
            raise AnswerError(f"answer: {name.strip('_')} {getattr(out, name)!r}, expected one of {', '.join(values)}")
    if out.kind != "dismiss" and out.scope != "session":
        raise AnswerError(f"answer: scope {out.scope!r} is for dismiss, not for {out.kind}")
    if out.kind == "dismiss" and out.scope != "session" and not (out.facet and out.value):
        raise AnswerError(f"answer: scope {out.scope!r} needs a facet and a value")
    if out.days is not None and not 0 < out.days < 36500:
        raise AnswerError(f"answer: days {out.days}, expected more than 0, or none for ever")
    return out


def find(engine: Engine, prefix: str) -> Incident:
    """The incident whose id is or starts with `prefix`; raises UnknownError."""
    found = engine.store.incident(prefix) if prefix else None
    if found is None:
        raise UnknownError(f"no incident {prefix}; unlike alerts lists them")
    return found


def answer(engine: Engine, prefix: str, said: Mapping[str, Any], who: str, now: float) -> Incident:
    """Carry out an answer. `now`: wall clock. Raises UnknownError, AnswerError, StoreError; nothing was changed then."""
    incident, wanted = find(engine, prefix), asked(said)
    clock = max(engine.state.newest, incident.updated)
    if wanted.kind == "acknowledge":
        if incident.state != "open":
            raise AnswerError(f"incident {incident.id} is {incident.state}, expected an open one to acknowledge")
        after = msgspec.structs.replace(incident, state="acknowledged")
        return _commit(engine, after, {}, [Draft(who, incident.id, "acknowledge", wanted.why)], (), now)
    given = _given(engine, incident, wanted, who, now, clock)
    after, messages = incident, list[Incident]()
    if wanted.kind in CLOSING:
        told = incident.messages + (incident.state in life.ACTIVE)
        closed = clock if incident.closed is None else incident.closed
        after = msgspec.structs.replace(incident, state=CLOSING[wanted.kind], closed=closed, messages=told)
        messages = [after] if incident.state in life.ACTIVE else []
    users = (incident.user, EVERYONE) if given.scope == "everyone" else (incident.user,)
    cases = {user: _with_answer(engine, user, given) for user in users}
    detail = tuple((k, v) for k, v in dict(said).items() if k not in ("kind", "why") and v not in (None, ""))
    return _commit(engine, after, cases, [Draft(who, incident.id, wanted.kind, wanted.why, detail)], messages, now)


def undo(engine: Engine, prefix: str, who: str, why: str, now: float) -> Incident:
    """Take back the newest answer on an incident that still holds. Raises UnknownError, AnswerError, StoreError."""
    incident = find(engine, prefix)
    case = engine.casework.cases.get(incident.user, Case()) if engine.casework is not None else Case()
    holding = [a for a in case.answers if a.incident == incident.id and not a.undone]
    if not holding and incident.state != "acknowledged":
        raise AnswerError(f"incident {incident.id}: no answer to take back")
    if incident.state == "acknowledged" and not any(a.kind in CLOSING for a in holding):
        after = msgspec.structs.replace(incident, state="open")
        return _commit(engine, after, {}, [Draft(who, incident.id, "undo", why, (("answer", "acknowledge"),))], (), now)
    last = holding[-1]
    closing = [a for a in holding[:-1] if a.kind in CLOSING]
    after = incident
    if last.kind in CLOSING and closing:
        after = msgspec.structs.replace(incident, state=CLOSING[closing[-1].kind])
    elif last.kind in CLOSING:
        newest = engine.casework is not None and engine.casework.latest[incident.user].id == incident.id
        after = msgspec.structs.replace(incident, state="open", closed=None) if newest else _as_expired(incident)
    return _withdrawn(
        engine, after, last, Draft(who, incident.id, "undo", why, (("answer", last.number), ("kind", last.kind))), now
    )


def unmute(engine: Engine, user: str, who: str, why: str, now: float) -> None:
    """Take back every mute of an account. Raises UnknownError where there is none."""
    muted = [a for a in _cases(engine).get(user, Case()).answers if a.kind == "mute" and not a.undone]
    if not muted:
        raise UnknownError(f"account {user!r} is not muted")
    for one in muted:
        _withdrawn(engine, find(engine, one.incident), one, Draft(who, one.incident, "unmute", why, (("answer", one.number),)), now)


def open_similar(engine: Engine, prefix: str, numbers: Sequence[int], who: str, why: str, now: float) -> list[Incident]:
    """Open incidents for past sessions of other accounts, by the numbers of their verdicts. Raises UnknownError, AnswerError."""
    asked_of, found = find(engine, prefix), {r.number: r for r in engine.store.remembered() if r.number in set(numbers)}
    missing = sorted(set(numbers) - found.keys())
    if missing:
        raise UnknownError(f"no session {missing[0]} is remembered")
    out: list[Incident] = []
    for number in sorted(found):
        row = found[number]
        current = _cases_latest(engine, row.user)
        if current is not None and current.state in life.ACTIVE:
            raise AnswerError(f"account {row.user!r} has an open incident already: {current.id}")
        alert = Alert(
            id=alert_id(row.user, row.session, row.start),
            time=row.end,
            severity=severity(row.p, row.belief, row.p),
            verdict=_verdict_of(engine, row.user, row.session, row.start, row.end),
            open=False,
            summary=f"like the session of incident {asked_of.id}",
            reasons=(),
        )
        alarm = life.Alarm(alert, Stake(), (), row.embedding, (asked_of.id,))
        incident = life.opened(alarm, "similar")
        if engine.store.incident(incident.id) is not None:
            raise AnswerError(f"incident {incident.id} was opened for this session before")
        incident = msgspec.structs.replace(
            incident, summary=alert.summary, messages=1, updated=max(alert.time, engine.state.newest)
        )
        entries, head = chained(engine.state.audit, [Draft(who, incident.id, "open", why, (("like", asked_of.id),))], now)
        state = msgspec.structs.replace(engine.state, audit=head)
        changes = Changes(
            incidents=(incident,),
            members=((incident.id, row.session, row.start),),
            messages=(life.message(incident, "opened", engine.state.newest, engine.settings.review.url),),
            audit=entries,
            engine=msgspec.json.encode(state),
            sinks=engine.sinks,
            now=now,
        )
        engine.taken(changes, state, Part(changes, (incident,), {}, head))
        out.append(incident)
    return out


def preview(engine: Engine, prefix: str, said: Mapping[str, Any], packs: Packs) -> dict[str, Any]:
    """What an answer would have silenced in the last 30 days, by scoring again; JSON-able. Raises UnknownError, AnswerError."""
    incident, wanted = find(engine, prefix), asked(said)
    since = engine.state.newest - LOOKED_BACK
    given = _given(engine, incident, wanted, "", 0.0, engine.state.newest)
    wide = wanted.scope == "everyone"
    pool = [i for i in engine.store.incidents() if i.updated >= since and (wide or i.user == incident.user)]
    if wanted.kind != "mute" and wanted.scope == "session":
        pool = [incident]
    sessions, silenced = 0, []
    for one in pool:
        kept = [exhibit for _, exhibit in engine.store.exhibits(one.id, life.KEPT_ALERTS) if exhibit]
        if wanted.kind == "dismiss" and wanted.scope != "session":
            quiet = sum(not _alarms(body, given, packs) for body in kept)
            sessions += quiet
            silenced += [one] if kept and quiet == len(kept) else []
        elif wanted.kind in ("mute", "dismiss"):
            sessions += one.sessions
            silenced.append(one)
    return {
        "incidents": len(silenced),
        "sessions": sessions,
        "confirmed": sum(i.state == "confirmed" for i in silenced),
        "examples": [life.row(i) for i in silenced[:5]],
        "since": rfc3339(max(since, 0.0)),
    }


def relearn(engine: Engine, user: str, cases: Mapping[str, Case]) -> Profiles | None:
    """The (1) profile of an account under other answers; None where nothing is left to learn it from."""
    pack, case = engine.pack, cases.get(user, Case())
    if pack is None:
        return None
    everybody = _cases(engine) | dict(cases)
    guidance = guidance_of({name: everybody[name] for name in (user, EVERYONE) if name in everybody})
    if case.before is not None and case.pack == pack.id:
        before = from_bytes([case.before or None], pack.shape)
        return scoring.relearnt(before, kept_sessions(engine.store, user, len(pack.facets.number)), pack, guidance)
    return _from_history(engine, user, pack, guidance) if engine.keep_history else None


def _from_history(engine: Engine, user: str, pack: Pack, guidance: Mapping[str, Guidance]) -> Profiles | None:
    batches: list[Batch] = list(of_user(history.read(engine.store, Path(engine.settings.state.folder)), user))
    if not batches:
        return None
    opened = open_from_bytes(engine.store.open_sessions([user]), len(pack.facets.number))
    until = float(close_time(opened, engine.rules.gap, engine.rules.named_gap).min()) if len(opened) else np.inf
    return take(rebuild(pack, engine.settings, batches, guidance=guidance, until=until)[0], np.arange(1))


def _given(engine: Engine, incident: Incident, wanted: Asked, who: str, now: float, clock: float) -> Answer:
    until = clock + wanted.days * DAY if wanted.days is not None else None
    least = most = None
    if wanted.kind == "confirm":
        until = clock + engine.settings.incidents.freeze
    facets = engine.pack.facets if engine.pack is not None else None
    if wanted.scope != "session" and facets is not None:
        if wanted.facet not in (*facets.text, *facets.number):
            raise AnswerError(f"answer: no facet {wanted.facet!r}, expected one of {', '.join((*facets.text, *facets.number))}")
        if wanted.facet in facets.number:
            least, most = _range(engine, incident, wanted)
    return Answer(
        number=engine.state.audit[0] + 1,
        incident=incident.id,
        user=incident.user,
        kind=wanted.kind,
        as_=wanted.as_ if wanted.kind == "dismiss" else "",
        scope=wanted.scope,
        facet=wanted.facet,
        value=wanted.value,
        least=least,
        most=most,
        clock=clock,
        time=now,
        until=until,
        who=who,
        why=wanted.why,
        sessions=tuple(engine.store.members(incident.id)) if wanted.kind in CLOSING else (),
        known=_known(engine, incident, until) if wanted.kind == "dismiss" else (),
    )


def _range(engine: Engine, incident: Incident, wanted: Asked) -> tuple[float | None, float | None]:
    """A number is in order with all that lies on the usual's side of it."""
    try:
        value = float(wanted.value)
    except ValueError as error:
        raise AnswerError(f"answer: value {wanted.value!r} of {wanted.facet}, expected a number") from error
    pack, rows = engine.pack, engine.store.exhibits(incident.id, 1)
    mean = value
    if pack is not None and rows and rows[0][1]:
        _, session, profile = shown(rows[0][1], pack)
        mean = float(str(describing.told(session, profile, pack).get(wanted.facet, {}).get("usual_mean", value)))
    return (None, value) if value >= mean else (value, None)


def _alarms(body: bytes, given: Answer, packs: Packs) -> bool:
    """Whether an exhibit would still alarm with the value in order; yes where its pack is gone."""
    pack = packs(msgspec.msgpack.decode(body)[3])
    if pack is None:
        return True
    exhibit, session, profile = shown(body, pack)
    said = msgspec.structs.replace(allowance(given), until=np.inf)
    return would_alarm(exhibit, session, profile, pack, {exhibit.user: Guidance(allowed=(said,))})


def _known(engine: Engine, incident: Incident, until: float | None) -> tuple[Known, ...]:
    """What the incident's sessions did: as they closed, or as far as they had come when they alarmed."""
    pack, members = engine.pack, set(engine.store.members(incident.id))
    if pack is None:
        return ()
    bodies = [e for _, e in engine.store.exhibits(incident.id, life.KEPT_ALERTS) if e and msgspec.msgpack.decode(e)[3] == pack.id]
    looked = concat([empty(len(pack.facets.number)), *(shown(body, pack)[1] for body in bodies)])
    closed = kept_sessions(engine.store, incident.user, len(pack.facets.number))
    table = concat([looked, closed])
    rows = {(table.name[s], float(table.start[s])): s for s in range(len(table))}  # a closed one stands for its own beginning
    return tuple(
        known(table, rows[m], pack.facets, np.inf if until is None else until) for m in sorted(members & rows.keys(), key=str)
    )


def _with_answer(engine: Engine, user: str, given: Answer) -> Case:
    case = _cases(engine).get(user, Case())
    return msgspec.structs.replace(case, answers=(*case.answers, given))


def _withdrawn(engine: Engine, after: Incident, last: Answer, draft: Draft, now: float) -> Incident:
    """Commit an incident with one of its answers taken back, wherever it holds."""
    cases = {}
    for user in (after.user, EVERYONE):
        case = _cases(engine).get(user)
        if case is not None and any(a.number == last.number for a in case.answers):
            answers = (msgspec.structs.replace(a, undone=True) if a.number == last.number else a for a in case.answers)
            cases[user] = msgspec.structs.replace(case, answers=tuple(answers))
    return _commit(engine, after, cases, [draft], (), now)


def _as_expired(incident: Incident) -> Incident:
    return msgspec.structs.replace(incident, state="expired")


def _cases(engine: Engine) -> dict[str, Case]:
    if engine.casework is None:
        raise AnswerError("this engine keeps no incidents")
    return engine.casework.cases


def _cases_latest(engine: Engine, user: str) -> Incident | None:
    return engine.casework.latest.get(user) if engine.casework is not None else None


def _verdict_of(engine: Engine, user: str, session: str | None, start: float, end: float) -> Verdict:
    """The verdict on a session; raises UnknownError where it is forgotten."""
    for body in engine.store.verdicts(end, float(np.nextafter(end, np.inf))):
        found = msgspec.json.decode(body)
        if (found["user"], found["session"], seconds(found["start"])) == (user, session, start):
            return Verdict(**(found | {"start": start, "end": end}))
    raise UnknownError(f"the verdict on the session of {user!r} is forgotten")


def _commit(
    engine: Engine, incident: Incident, cases: Mapping[str, Case], drafts: Sequence[Draft], closed: Sequence[Incident], now: float
) -> Incident:
    """Write an answered incident, its cases, and what they make of the account's memory."""
    clock = engine.state.newest if engine.state.newest > NOTHING_SEEN else incident.updated
    entries, head = chained(engine.state.audit, drafts, now)
    counters = Counter(engine.state.counters)
    counters.update({f"answers:{draft.what}:{incident.severity}": 1 for draft in drafts})
    state = msgspec.structs.replace(engine.state, audit=head, counters=dict(counters))
    profile = relearn(engine, incident.user, cases) if incident.user in cases and _teaches(engine, cases, incident.user) else None
    accounts = () if profile is None else ((incident.user, int(profile.history[0]), to_bytes(profile)[0]),)
    changes = Changes(
        accounts=accounts,
        incidents=(incident,),
        cases=tuple((user, msgspec.msgpack.encode(case)) for user, case in cases.items()),
        messages=tuple(life.message(i, "closed", clock, engine.settings.review.url) for i in closed),
        audit=entries,
        engine=msgspec.json.encode(state),
        sinks=engine.sinks,
        now=now,
    )
    engine.taken(changes, state, Part(changes, (incident,), cases, head))
    return incident


def _teaches(engine: Engine, cases: Mapping[str, Case], user: str) -> bool:
    """Whether the guidance of the account changes."""
    return guidance_of({user: cases[user]}) != guidance_of({user: _cases(engine).get(user, Case())})
