"""Alarming sessions → incidents: one per account and spell of trouble, with a life. Pure.

open ──► acknowledged ──► confirmed | dismissed        by people
  └──────────┴──────────► expired                      after a time without a further alarm

While an incident is open, further alarms of its account join it, its severity and priority only rise, and a message leaves when the
severity rises. After people have closed it, alarms of the account are only counted until the cool-down is over.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from alerts.audit import ITSELF, Draft
from alerts.impact import Stake
from alerts.policy import SEVERITIES
from detector.lines import rfc3339, verdict_dict
from detector.records import Alert, Incident

ACTIVE = ("open", "acknowledged")
STATES = (*ACTIVE, "confirmed", "dismissed", "expired")
HELD = ("grouped", "muted", "cooling", "dismissed", "over_budget")  # why no message is sent of an alarm
KEPT_ALERTS = 20  # of an incident, in full; and every one that is the strongest so far


@dataclass(frozen=True)
class Alarm:
    """An alert with what else decides on its incident."""

    alert: Alert
    stake: Stake
    marks: tuple[str, ...]  # rare values of its session
    embedding: bytes
    linked: tuple[str, ...] = ()  # incidents of other accounts that it is like


class Linking(Protocol):
    """Finds what an alarm has in common with incidents of other accounts."""

    def like(self, alarm: Alarm, /) -> tuple[str, ...]:
        """Ids of incidents of other accounts."""

    def add(self, incident: Incident, /) -> None:
        """One more incident, or one as it is now."""


@dataclass
class Grouped:
    """What became of some alarms."""

    incidents: dict[str, Incident] = field(default_factory=dict)  # by id, those that changed
    newest: dict[str, str] = field(default_factory=dict)  # account -> id of its newest among them
    alerts: list[Alert] = field(default_factory=list)  # to be kept in full
    members: list[tuple[str, str | None, float]] = field(default_factory=list)
    messages: list[tuple[str, Incident, str]] = field(default_factory=list)  # id, incident as it is then, kind
    drafts: list[Draft] = field(default_factory=list)
    held: Counter[tuple[str, str]] = field(default_factory=Counter)


def group(
    alarms: Iterable[Alarm],
    latest: Callable[[str], Incident | None],
    muted: Callable[[str, float], bool],
    cooldown: float,
    expire: float,
    others: Linking,
) -> Grouped:
    """Alarms, in the order of their time, into the newest incident of their account, or into new ones. Durations in seconds."""
    out = Grouped()
    for one in alarms:
        alarm = replace(one, linked=others.like(one))
        alert, user = alarm.alert, alarm.alert.verdict.user
        day = day_of(alert.time)
        now = out.incidents[out.newest[user]] if user in out.newest else latest(user)
        if now is not None and now.state in ACTIVE and alert.time > now.updated + expire:
            now = end(out, now, expire)
        if muted(user, alert.time):
            out.held[day, "muted"] += 1
        elif now is not None and now.state in ACTIVE:
            _join(out, now, alarm, day)
        elif now is not None and now.state != "expired" and now.closed is not None and alert.time < now.closed + cooldown:
            out.held[day, "cooling"] += 1
        else:
            incident = opened(alarm)
            _put(out, incident, alarm, True)
            _tell(out, incident, "opened")
            out.drafts.append(Draft(ITSELF, incident.id, "open", alert.summary, (("severity", incident.severity),)))
        if user in out.newest:
            others.add(out.incidents[out.newest[user]])
    return out


def opened(alarm: Alarm, shown_for: str = "alarm") -> Incident:
    """A new incident of one alarming session."""
    verdict = alarm.alert.verdict
    return _with_alert(
        Incident(
            id=incident_id(verdict.user, verdict.session, verdict.start, shown_for),
            user=verdict.user,
            severity=alarm.alert.severity,
            priority=priority(verdict.p, alarm.stake),
            sessions=1,
            opened=alarm.alert.time,
            updated=alarm.alert.time,
            alert=alarm.alert.id,
            p=verdict.p,
            summary="",
            verdict={},
            shown_for=shown_for,
            rules=alarm.stake.rules,
            linked=alarm.linked,
            marks=alarm.marks,
        ),
        alarm,
    )


def incident_id(user: str, session: str | None, start: float, shown_for: str = "alarm") -> str:
    """16 hexadecimal digits, the same on every machine, from the session that it began with."""
    canonical = json.dumps(["incident", user, session, float(start) + 0.0, shown_for], separators=(",", ":"), ensure_ascii=False)
    return blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def priority(p: float, stake: Stake) -> float:
    """How strange (-log10 p) times what is at stake."""
    return round(-math.log10(max(p, 1e-12)) * stake.weight, 3)


def end(out: Grouped, incident: Incident, expire: float) -> Incident:
    """The incident, closed because nothing more came for `expire` seconds."""
    closed = incident.updated + expire
    gone = msgspec.structs.replace(incident, state="expired", closed=closed, messages=incident.messages + 1)
    out.incidents[gone.id] = gone
    out.newest[gone.user] = gone.id
    out.messages.append((f"{gone.id}-{gone.messages}", gone, "closed"))
    out.drafts.append(Draft(ITSELF, gone.id, "expire"))
    return gone


def message(incident: Incident, kind: str, time: float, url: str) -> tuple[str, bytes]:
    """(id, JSON) of what the sinks are sent; the id is the same at each repeat. `time`: event time, seconds."""
    id_ = f"{incident.id}-{incident.messages}"
    link = f"{url.rstrip('/')}/incidents/{incident.id}" if url else ""
    return id_, msgspec.json.encode({"message": id_, "kind": kind, "time": rfc3339(time), **row(incident), "url": link})


def day_of(time: float) -> str:
    """The UTC day (YYYY-MM-DD) of a time in seconds."""
    return datetime.fromtimestamp(time, UTC).date().isoformat()


def row(incident: Incident) -> dict[str, Any]:
    """An incident as a JSON-able mapping; times as text."""
    names = ("id", "user", "state", "severity", "priority", "sessions")
    out: dict[str, Any] = {name: getattr(incident, name) for name in names}
    out |= {name: rfc3339(getattr(incident, name)) for name in ("opened", "updated")}
    out["closed"] = None if incident.closed is None else rfc3339(incident.closed)
    rest = ("summary", "verdict", "reasons", "open", "rules", "linked", "shown_for")
    told = {name: getattr(incident, name) for name in rest}
    return out | {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


def _join(out: Grouped, now: Incident, alarm: Alarm, day: str) -> None:
    alert = alarm.alert
    rises = SEVERITIES.index(alert.severity) > SEVERITIES.index(now.severity)
    stronger = alert.verdict.p < now.p
    after = msgspec.structs.replace(
        now,
        sessions=now.sessions + 1,
        severity=alert.severity if rises else now.severity,
        priority=max(now.priority, priority(alert.verdict.p, alarm.stake)),
        updated=max(now.updated, alert.time),
        rules=tuple(dict.fromkeys((*now.rules, *alarm.stake.rules))),
        linked=tuple(dict.fromkeys((*now.linked, *alarm.linked))),
        marks=tuple(dict.fromkeys((*now.marks, *alarm.marks))),
        messages=now.messages + rises,
    )
    if stronger:
        after = _with_alert(msgspec.structs.replace(after, alert=alert.id, p=alert.verdict.p), alarm)
    _put(out, after, alarm, stronger or after.sessions <= KEPT_ALERTS)
    if rises:
        out.messages.append((f"{after.id}-{after.messages}", after, "raised"))
        out.drafts.append(Draft(ITSELF, after.id, "raise", alert.summary, (("severity", after.severity),)))
    else:
        out.held[day, "grouped"] += 1


def _with_alert(incident: Incident, alarm: Alarm) -> Incident:
    alert = alarm.alert
    reasons = tuple(dict(reason) for reason in alert.reasons)
    told = {"summary": alert.summary, "reasons": reasons, "verdict": verdict_dict(alert.verdict), "open": alert.open}
    return msgspec.structs.replace(incident, **told, embedding=alarm.embedding)


def _put(out: Grouped, incident: Incident, alarm: Alarm, kept: bool) -> None:
    verdict = alarm.alert.verdict
    out.incidents[incident.id] = incident
    out.newest[incident.user] = incident.id
    out.members.append((incident.id, verdict.session, verdict.start))
    if kept:
        out.alerts.append(replace(alarm.alert, incident=incident.id))


def _tell(out: Grouped, incident: Incident, kind: str) -> None:
    told = msgspec.structs.replace(incident, messages=incident.messages + 1)
    out.incidents[incident.id] = told
    out.messages.append((f"{told.id}-{told.messages}", told, kind))


def why_linked(alarm: Alarm | Incident, other: Incident, likeness: Callable[[bytes, bytes], float], least: float) -> list[str]:
    """What two have in common: rare values, and how like their sessions are; none for one account."""
    if isinstance(alarm, Alarm):
        user, pack = alarm.alert.verdict.user, alarm.alert.verdict.pack
    else:
        user, pack = alarm.user, str(alarm.verdict.get("pack"))
    if user == other.user:
        return []
    shared = sorted({*alarm.marks} & {*other.marks})
    comparable = alarm.embedding and other.embedding and pack == other.verdict.get("pack")
    alike = likeness(alarm.embedding, other.embedding) if comparable else 0.0
    return shared + ([f"like ({alike:.2f})"] if alike >= least else [])


def digest(rows: Sequence[Incident], held: Mapping[str, int], day: str, answers: Mapping[str, int]) -> dict[str, Any]:
    """What happened on a day (YYYY-MM-DD, event time): incidents opened and closed, alarms held back, answers."""

    def on(time: float | None) -> bool:
        return time is not None and day_of(time) == day

    listed = [row(i) for i in rows if on(i.opened)]
    closed = sum(on(i.closed) for i in rows)
    counts = dict.fromkeys(HELD, 0)
    counts |= held
    return {"day": day, "opened": len(listed), "closed": closed, "held_back": counts, "answers": dict(answers), "incidents": listed}
