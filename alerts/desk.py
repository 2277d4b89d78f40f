"""What people see of incidents and accounts, and what they answer: everything that the page, the API and the commands do.

Reads come from the store, so that a long cycle does not hold them up; answers wait for the cycle under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from alerts import incidents as life
from alerts.audit import broken
from alerts.policy import SEVERITIES, alert_id
from alerts.similar import similar
from detector import answering, calibration, describing, history, pack
from detector.casework import ALIKE, Case, likeness, mutes, shown, stored_events
from detector.cycle import NOTHING_SEEN, Engine, EngineState, rows_of
from detector.drift import Drift
from detector.errors import PackError, UnknownError
from detector.lines import rfc3339, seconds
from detector.profiles import from_bytes
from detector.records import Answer, Entry, Incident
from detector.scoring import MATURE, YOUNG
from detector.stores import Store

MOST_EVENTS, MOST_TIMELINE, MOST_ALARMS = 200, 500, 20
MAP_OTHERS = 150  # points of other accounts behind the account's own
Row = dict[str, Any]


class Desk:
    """See the methods. All values are JSON-able, times RFC 3339 in UTC.

    engine: the engine as it is now; lock: held while an answer is carried out; store: to read from, beside the engine's own or the
    same; packs: the folder of packs; clock: wall clock; drift: the newest comparison.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        lock: AbstractContextManager[Any],
        store: Store,
        packs: Path,
        clock: Callable[[], float],
        drift: Callable[[], Drift | None] = lambda: None,
    ) -> None:
        self._engine, self._lock, self._store, self._packs, self._clock, self._drift = engine, lock, store, packs, clock, drift

    # -- reading

    def queue(
        self,
        states: Sequence[str] = life.ACTIVE,
        user: str = "",
        severity: str = "",
        search: str = "",
        limit: int = 100,
        offset: int = 0,
    ) -> Row:
        """Incidents in one of the states and of a severity or above, by account or a part of its name; highest priority first."""
        least = SEVERITIES.index(severity) if severity in SEVERITIES else 0
        found = [
            i
            for i in self._store.incidents(tuple(states), user or None)
            if SEVERITIES.index(i.severity) >= least and search.casefold() in i.user.casefold()
        ]
        return {"incidents": [life.row(i) for i in found[offset : offset + limit]], "total": len(found)}

    def incident(self, prefix: str) -> Row:
        """One incident with all that speaks for and against it. Raises UnknownError."""
        one = self._find(prefix)
        alarms = self._store.exhibits(one.id, MOST_ALARMS)
        answers = [_answer_row(a) for a in self._case(one.user).answers if a.incident == one.id]
        named = [i for i in self._store.incidents() if i.id in one.linked or one.id in i.linked]
        facets, marked = self._facets(alarms), {start for _, start in self._store.members(one.id)}
        timeline, start = self._timeline(one.user, marked), one.verdict["start"]
        ends = [t["end"] for t in timeline if (t["start"], t["session"]) == (start, one.verdict["session"])]
        until = seconds(ends[0]) if ends else max(self._state().newest, seconds(one.verdict["end"]))  # it may still go on
        events, total = self._events(one.user, seconds(start), until, facets)
        return life.row(one) | {
            "alarms": [_alarm_row(body) for body, _ in alarms],
            "facets": facets,
            "events": events,
            "events_total": total,
            "timeline": timeline,
            "map": self._map(one.user, one.embedding, one.verdict.get("pack", "")),
            "audit": [_entry_row(e) for e in self._store.entries(0, 1000, one.id)],
            "answers": answers,
            "linked": [_link_row(one, other) for other in named],
        }

    def account(self, user: str) -> Row:
        """One account: its habits, its incidents, its life. Raises UnknownError."""
        record, using = self._store.accounts([user]).get(user), self._engine().pack
        if record is None or using is None:
            raise UnknownError(f"no account {user}")
        profile, case = from_bytes([record], using.shape), self._case(user)
        text, numbers = describing.habits(profile, using)
        habits = [{"facet": str(h["facet"]), "values": [_value_row(*v) for v in _triples(h["values"])]} for h in text]
        known, newest = int(profile.history[0]), float(profile.last[0])
        now = self._state().newest
        muted = [a for a in mutes(case) if a.until is None or a.until > now]
        frozen = [a.until for a in case.answers if a.kind == "confirm" and not a.undone and a.until is not None and a.until > now]
        return {
            "user": user,
            "history": known,
            "maturity": "new" if known < YOUNG else "young" if known < MATURE else "mature",
            "belief": round(float(profile.doubt[0].sum()), 6),
            "last": _time(newest if newest > 0 else None),
            "muted": _mute_row(muted[-1]) if muted else None,
            "frozen_until": _time(max(frozen)) if frozen else None,
            "habits": habits,
            "numbers": numbers,
            "incidents": [life.row(i) for i in self._store.incidents(user=user)],
            "timeline": self._timeline(user, {s for i in self._store.incidents(user=user) for _, s in self._store.members(i.id)}),
            "map": self._map(user, b"", using.id),
        }

    def accounts(self, search: str, limit: int = 20) -> list[Row]:
        """Accounts whose name has `search` in it."""
        using, found = self._engine().pack, self._store.users(search, limit)
        records = self._store.accounts([user for user, _ in found])
        doubt = from_bytes(list(records.values()), using.shape).doubt.sum(axis=1).tolist() if using and records else []
        belief = dict(zip(records, doubt, strict=False))
        return [{"user": user, "history": known, "belief": round(belief.get(user, 0.0), 6)} for user, known in found]

    def status(self) -> Row:
        """How the daemon is doing."""
        counts, state, engine, drift = self._store.counts(), self._state(), self._engine(), self._drift()
        every, using = self._store.incidents(), engine.pack
        precision: dict[str, Counter[str]] = {s: Counter(confirmed=0, dismissed=0) for s in SEVERITIES}
        for i in every:
            if i.state in ("confirmed", "dismissed"):
                precision[i.severity][i.state] += 1
        return {
            "now": rfc3339(self._clock()),
            "accounts": counts.accounts,
            "open_sessions": counts.open_sessions,
            "store_bytes": counts.store_bytes,
            "outbox": counts.outbox,
            "dead_letters": counts.dead_letters,
            "quarantine": dict(counts.quarantine),
            "events": state.counters.get("events", 0),
            "verdicts": state.counters.get("verdicts", 0),
            "budget_a_day": engine.alerts_per_day,
            "alerts_a_day": round(calibration.alerts_a_day(state.watch), 3),
            "limit": engine.limit_now(state.watch) if using is not None and using.fusion else 0.0,
            "pack": None if using is None else _pack_row(using),
            "drift": None if drift is None else _drift_row(drift),
            "incidents": {s: sum(i.state == s for i in every) for s in life.STATES},
            "precision": {s: dict(n) for s, n in precision.items() if n.total()},
            "event_clock": _time(state.newest if state.newest > NOTHING_SEEN else None),
        }

    def digest(self, day: str = "") -> Row:
        """What happened on a day (YYYY-MM-DD of the event clock; the newest where none is named), and what was held back."""
        newest = self._state().newest
        day = day or life.day_of(max(newest, 0.0))
        given = [a for case in self._cases().values() for a in case.answers if not a.undone and life.day_of(a.clock) == day]
        answers = Counter({a.number: a.kind for a in given}.values())
        return life.digest(self._store.incidents(), self._store.held(day), day, answers)

    def muted(self) -> list[Row]:
        """Accounts whose alarms are only counted."""
        now = self._state().newest
        held = {user: [a for a in mutes(case) if a.until is None or a.until > now] for user, case in self._cases().items()}
        return [{"user": user, **_mute_row(found[-1])} for user, found in held.items() if found]

    def audit(self, after: int = 0, limit: int = 100) -> Row:
        """Lines of the audit, and whether the whole chain holds."""
        head, anchor = self._state().audit, self._state().audit_from
        every = self._store.entries(0, head[0] + 1)
        some, wrong = [e for e in every if e.number > after][:limit], broken(every, head, anchor)
        return {"entries": [_entry_row(e) for e in some], "whole": wrong == "", "broken": wrong}

    def similar(self, prefix: str, limit: int = 20) -> Row:
        """Past sessions of other accounts that are most like the incident's. Raises UnknownError, UnlikeError."""
        one = self._find(prefix)
        verdict = one.verdict | {"user": one.user}
        mark = alert_id(one.user, verdict["session"], seconds(verdict["start"]))
        sessions, elsewhere = similar(self._store, {"id": mark, "verdict": verdict}, limit)
        return {"sessions": sessions, "elsewhere": elsewhere}

    # -- answers

    def preview(self, prefix: str, answer: Mapping[str, Any]) -> Row:
        """What an answer would have silenced in the last 30 days. Raises UnknownError, AnswerError."""
        with self._lock:
            return answering.preview(self._engine(), self._find(prefix).id, answer, self._pack)

    def answer(self, prefix: str, answer: Mapping[str, Any], who: str) -> Row:
        """Carry out an answer. Raises UnknownError, AnswerError, StoreError."""
        with self._lock:
            done = answering.answer(self._engine(), prefix, answer, who, self._clock())
        return self.incident(done.id)

    def undo(self, prefix: str, who: str, why: str = "") -> Row:
        """Take back the newest answer on the incident that holds. Raises UnknownError, AnswerError, StoreError."""
        with self._lock:
            done = answering.undo(self._engine(), prefix, who, why, self._clock())
        return self.incident(done.id)

    def open_similar(self, prefix: str, numbers: Sequence[int], who: str, why: str = "") -> list[Row]:
        """Open incidents for past sessions, by their numbers in `similar`. Raises UnknownError, AnswerError, StoreError."""
        with self._lock:
            return [life.row(i) for i in answering.open_similar(self._engine(), prefix, numbers, who, why, self._clock())]

    def unmute(self, user: str, who: str, why: str = "") -> None:
        """Let an account's alarms through again. Raises UnknownError, StoreError."""
        with self._lock:
            answering.unmute(self._engine(), user, who, why, self._clock())

    # -- parts

    def _find(self, prefix: str) -> Incident:
        found = self._store.incident(prefix) if prefix else None
        if found is None:
            raise UnknownError(f"no incident {prefix}")
        return found

    def _state(self) -> EngineState:
        saved = self._store.engine()
        return msgspec.json.decode(saved, type=EngineState) if saved else EngineState()

    def _cases(self) -> dict[str, Case]:
        return {user: msgspec.msgpack.decode(body, type=Case) for user, body in self._store.cases().items()}

    def _case(self, user: str) -> Case:
        return self._cases().get(user, Case())

    def _pack(self, id_: str) -> pack.Pack | None:
        using = self._engine().pack
        return using if using is not None and using.id == id_ else _saved(self._packs / id_)

    def _facets(self, alarms: Sequence[tuple[bytes, bytes]]) -> list[Row]:
        """By facet, what the strongest alarm's session showed and what is usual; nothing where its pack is gone."""
        exhibits = [exhibit for _, exhibit in alarms if exhibit]
        using = self._pack(msgspec.msgpack.decode(exhibits[0])[3]) if exhibits else None
        if using is None:
            return []
        _, session, profile = shown(exhibits[0], using)
        out: list[Row] = []
        for name, told in describing.told(session, profile, using).items():
            if "usual_mean" in told:
                out.append({"facet": name, "kind": "number", **told, "seen": [told["seen"]]})
            else:
                usual = [_value_row(*value) for value in _triples(told["usual"])]
                rest = {key: told[key] for key in ("seen", "new", "peers", "everyone")}
                last = told["last_seen"]
                out.append({"facet": name, "kind": "text", **rest, "usual": usual, "last_seen": _day(last)})
        return out

    def _events(self, user: str, start: float, end: float, facets: Sequence[Row]) -> tuple[list[Row], int]:
        engine = self._engine()
        batches = stored_events(self._store, engine.settings.state.folder, user, start, end) if engine.keep_history else []
        batch = history.concat(batches)
        strange = {(f["facet"], v) for f in facets if f["kind"] == "text" for v, _ in f["seen"][: f["new"]]}
        out: list[Row] = []
        for time, row in zip(batch.time.tolist(), rows_of(batch), strict=True):
            attributes = {name: value for name, value in row.items() if value is not None and name != "action"}
            unusual = [name for name, value in row.items() if (name, str(value)) in strange]
            out.append({"time": rfc3339(time), "action": row["action"], "attributes": attributes, "unusual": unusual})
            if len(out) == MOST_EVENTS:
                break
        return out, len(batch)

    def _timeline(self, user: str, alarmed: set[float]) -> list[Row]:
        rows = [msgspec.json.decode(body) for body in self._store.verdicts_of(user, MOST_TIMELINE)]
        names = ("start", "end", "p", "belief", "score", "session")
        return [{name: row[name] for name in names} | {"alarm": seconds(row["start"]) in alarmed} for row in rows]

    def _map(self, user: str, embedding: bytes, pack_id: str) -> list[Row]:
        """The account's sessions under a pack, the incident's own among them, and some of others', on their two main axes (PCA)."""
        using = self._pack(pack_id)
        own = [r.embedding for r in self._store.remembered(user) if r.pack == pack_id and r.embedding != embedding][-MOST_TIMELINE:]
        if using is None or not own or using.fusion is None:
            return []
        others = using.population.cohort
        others = others[:: max(1, len(others) // MAP_OTHERS)][:MAP_OTHERS].astype(float)
        mine = np.stack([np.frombuffer(body, "<f2").astype(float) for body in [*own, *([embedding] if embedding else [])]])
        points = np.concatenate([mine, others])
        centre = points.mean(axis=0)
        _, _, axes = np.linalg.svd(points - centre, full_matrices=False)
        flat = (points - centre) @ axes[:2].T
        what = ["own"] * len(own) + ["this"] * bool(embedding) + ["others"] * len(others)
        return [{"x": round(float(x), 4), "y": round(float(y), 4), "what": w} for (x, y), w in zip(flat, what, strict=True)]


@lru_cache(maxsize=4)
def _saved(path: Path) -> pack.Pack | None:
    try:
        return pack.load(path)
    except PackError:
        return None  # it was deleted: what it judged cannot be scored again, and is shown without that


def _time(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)


def _day(at: object) -> str | None:
    return life.day_of(at) if isinstance(at, float) else None


def _triples(values: object) -> list[tuple[str, float, float]]:
    return values if isinstance(values, list) else []


def _value_row(value: str, count: float, last_seen: float) -> Row:
    return {"value": value, "count": count, "last_seen": life.day_of(last_seen)}


def _alarm_row(body: bytes) -> Row:
    alert: Row = msgspec.json.decode(body)
    del alert["incident"]
    return alert


def _entry_row(entry: Entry) -> Row:
    return msgspec.to_builtins(entry) | {"time": rfc3339(entry.time)}


def _answer_row(answer: Answer) -> Row:
    names = ("number", "kind", "as", "scope", "facet", "value", "who", "why", "undone")
    told = msgspec.to_builtins(answer)
    return {name: told[name] for name in names} | {"time": rfc3339(answer.time), "until": _time(answer.until)}


def _mute_row(answer: Answer) -> Row:
    return {"until": _time(answer.until), "who": answer.who, "why": answer.why, "since": rfc3339(answer.time)}


def _link_row(one: Incident, other: Incident) -> Row:
    why = life.why_linked(one, other, likeness, ALIKE) or ["opened for its likeness"]
    return {"id": other.id, "user": other.user, "severity": other.severity, "state": other.state, "why": why}


def _pack_row(using: pack.Pack) -> Row:
    trained = _time(using.trained_until if using.trained_until > 0 else None)
    return {"id": using.id, "sessions": using.sessions, "trained_until": trained, "report": using.report}


def _drift_row(drift: Drift) -> Row:
    measures = {name: float(value) for name, value in drift.relative.items()}
    return {"day": str(np.datetime64(drift.day, "D")), "moved": list(drift.moved), "measures": measures}
