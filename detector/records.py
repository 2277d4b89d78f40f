"""What flows through the program: frozen values without behaviour. Times are seconds since 1970 in UTC, as float.

Axes: E events of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np


@dataclass(frozen=True)
class Batch:
    """Events in the order of their arrival, as columns.

    time         (E,) float64, seconds since 1970, UTC
    user         (E,) object, non-empty str
    session      (E,) object, str or None
    attributes   name -> (E,) object, str or float or None; always has "action" (str)
    event_id     (E,) object, str or None: the log's own identity of the event
    position     (E,) object, str: "source:offset", for people
    """

    time: np.ndarray
    user: np.ndarray
    session: np.ndarray
    attributes: Mapping[str, np.ndarray]
    event_id: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True)
class Reject:
    """A line that cannot be an event, or an event that comes too late: kept in quarantine.

    reason is one of a bounded set of identifiers (see events.REASONS), detail is for people.
    """

    source: str
    position: str
    reason: str
    detail: str
    line: str  # at most 4,096 characters of it, undecodable bytes escaped


@dataclass(frozen=True)
class Chunk:
    """What one read of a source gave. `position` is where the next read starts; it is committed with the results."""

    batch: Batch
    rejects: tuple[Reject, ...]
    position: Mapping[str, object]  # JSON-able
    exhausted: bool  # nothing more is there now
    marks: np.ndarray | None = None  # (E,) fingerprints of the events, where they are known already


@dataclass(frozen=True)
class Verdict:
    """The outcome for a session, written once it has closed."""

    user: str
    session: str | None
    start: float
    end: float
    events: int
    score: float  # log-odds that somebody else made it, belief included; higher = less like the owner
    p: float  # share of owners' sessions that look at least this strange, in (0, 1]
    belief: float  # probability that the account is not as usual now: in a thief's hands, or its owner's ways are strange
    history: int  # sessions of the account known before this one
    maturity: str  # "new", "young" or "mature"
    evidence: Mapping[str, float]  # channel -> nats
    pack: str  # id of the pack that judged
    trust: float = 1.0  # share of the evidence that belief takes up; little is known of a young account, and doubt about it is wide


@dataclass(frozen=True)
class Doubt:
    """How a session was judged that may be a thief's."""

    belief: float
    p: float


@dataclass(frozen=True)
class Remembered:
    """A closed session as it is kept beside its verdict, to find others like it."""

    number: int  # of the verdict in its store: only grows, and is never used again
    user: str
    session: str | None
    start: float
    end: float
    p: float
    belief: float
    pack: str  # embeddings of different packs cannot be compared
    embedding: bytes  # (D,) little-endian float16, a unit vector


@dataclass(frozen=True)
class Alert:
    """What leaves the program for people. The id is the same however often the alert is sent."""

    id: str
    time: float  # event time at which it was raised
    severity: str  # "low", "medium", "high" or "critical"
    verdict: Verdict  # as known when the alert was raised; the session may still have been open
    open: bool  # the session was still open
    summary: str
    reasons: tuple[Mapping[str, object], ...]  # identifier, text, share; see alerts.explanations
    limit: float = 0.0  # the largest p that alarmed then
    incident: str = ""  # that it belongs to
    counterfactuals: tuple[Mapping[str, object], ...] = ()  # without, score, p, alarms: scored again without a facet


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """What a person reviews: the alarming sessions of one account in one spell of trouble. Times are event times."""

    id: str
    user: str
    state: str = "open"  # or "acknowledged", "confirmed", "dismissed", "expired"
    severity: str  # the highest so far
    priority: float  # the highest so far: -log10 p times what is at stake
    sessions: int  # alarming ones, exact
    opened: float
    updated: float
    closed: float | None = None
    shown_for: str = "alarm"  # or "similar": a person opened it
    messages: int = 0  # sent so far
    alert: str  # id of the alert that stands for it: the strongest
    p: float  # of that alert
    summary: str
    reasons: tuple[dict[str, Any], ...] = ()
    verdict: dict[str, Any]  # JSON-able
    open: bool = False  # its session had not ended
    rules: tuple[str, ...] = ()  # what raised the priority
    linked: tuple[str, ...] = ()  # incidents of other accounts that it is like
    marks: tuple[str, ...] = ()  # rare values that it could share with others: "device=x"
    embedding: bytes = b""  # of the alert's session, as in Remembered; of the pack in the verdict


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a person said of an incident, or of an account. `clock` and `until` are event times, `time` is the wall clock."""

    number: int  # of its entry in the audit
    incident: str
    user: str
    kind: str  # "confirm", "dismiss", "mute"; "withdraw" of a wide answer's other half
    as_: str = msgspec.field(default="", name="as")  # "false_alarm" or "expected"
    scope: str = "session"  # or "value", "everyone"
    facet: str = ""
    value: str = ""
    least: float | None = None  # of a number facet: the value and what lies nearer to the usual is in order
    most: float | None = None
    clock: float = 0.0
    time: float = 0.0
    until: float | None = None  # None: for ever
    who: str = ""
    why: str = ""
    undone: bool = False
    sessions: tuple[tuple[str | None, float], ...] = ()  # name and start of those that it is about
    known: tuple[Any, ...] = ()  # of a dismissal: what they did (see guidance.Known)


@dataclass(frozen=True)
class Label:
    """What people said of a past session, for training."""

    owner: bool
    weight: float = 1.0  # more where a person found it than where the detector showed it, which sees its own choice again


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the audit. `hash` covers the line and the hash of the one before (see alerts.audit)."""

    number: int
    time: float  # wall clock
    who: str
    incident: str
    what: str
    why: str
    detail: dict[str, Any]
    hash: str


@dataclass(frozen=True)
class OutboxItem:
    """One message on its way to one sink."""

    id: int
    alert_id: str  # of the message
    sink: str
    body: bytes  # JSON
    attempts: int
    due: float  # wall clock, seconds


@dataclass(frozen=True)
class Changes:
    """Everything that one cycle changes. A store writes all of it in one transaction, or nothing."""

    accounts: tuple[tuple[str, int, bytes], ...] = ()  # user, history, profile
    open_sessions: tuple[tuple[str, float, int, bytes], ...] = ()  # user, earliest close time, how many, their bytes
    closed_users: tuple[str, ...] = ()  # accounts that no longer have an open session
    positions: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # source name -> position
    engine: bytes | None = None  # the clock and the counters of the engine
    recent: tuple[tuple[float, bytes], ...] = ()  # newest event time, 64-bit hashes of accepted events
    forget_recent_before: float | None = None
    history: tuple[tuple[str, bytes], ...] = ()  # day (YYYY-MM-DD), encoded events
    verdicts: tuple[Verdict, ...] = ()
    embeddings: tuple[bytes, ...] = ()  # of the verdicts' sessions, one each (see Remembered); or none at all
    alerts: tuple[Alert, ...] = ()
    exhibits: tuple[bytes, ...] = ()  # of the alerts, one each: what it takes to score them again (see casework); or none at all
    incidents: tuple[Incident, ...] = ()  # as they are now
    members: tuple[tuple[str, str | None, float], ...] = ()  # incident, name and start of a session that belongs to it
    cases: tuple[tuple[str, bytes], ...] = ()  # account -> what people said of it, and how it was before
    kept: tuple[tuple[str, bytes], ...] = ()  # account, closed session: to learn the account anew
    forget_kept: tuple[str, ...] = ()  # accounts of which no session needs to be kept any more
    held: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (day, why) -> alarms that no message was sent of
    messages: tuple[tuple[str, bytes], ...] = ()  # id, JSON: each goes into the outbox once for each of the sinks
    audit: tuple[Entry, ...] = ()
    forget_incidents: tuple[str, ...] = ()  # with their alerts and members
    forget_held_before: str = ""  # day (YYYY-MM-DD)
    forget_audit: int = 0  # up to and with the entry of this number
    sinks: tuple[str, ...] = ()
    rejects: tuple[Reject, ...] = ()
    now: float = 0.0  # wall clock, seconds: when rows were written, for retention
