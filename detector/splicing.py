"""Simulated takeovers at the level of events: a log → a copy of it with somebody else's sessions in some accounts. Pure.

The kinds are those of `attacks`, with the same meaning, but made of events, so that a rehearsal judges them on the same way as
everything else: reading, sessions, looks at open sessions, belief. A takeover is one to three sessions of one stranger, made from
as many sessions of the owner, and put between sessions of the owner's: on a day of the owner's, at the time of day that the kind
says. Where the owner is then active, the nearest free time is taken. In a log that names its sessions a thief's session has a name
of its own, so it may lie beside the owner's. All events of the owner stay.

Axes: E events of the log, S sessions, n events of one thief's session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detector.attacks import KINDS, MIXED
from detector.facets import as_number
from detector.history import concat, select
from detector.records import Batch
from detector.sessions import assign, bounded, empty

DAY = 86400.0
MOST_SESSIONS = 3  # of a takeover
BURST_TIMES, BURST_EVENTS = (5.0, 50.0), 2000  # so many times over; beyond so many events only as often as must be
QUICK_S = 1.0  # between the events of a burst
ANOTHER_DAY, IDLE_DAY = 600.0, 3600.0  # seconds of another time of day that are as bad as a day away, or a day without the owner
TRIES = 5  # anchors per victim: a session that nothing can be made of is not the only one


@dataclass(frozen=True)
class Log:
    """Events in the order of time, and their sessions by account and start."""

    batch: Batch
    order: np.ndarray  # (E,) events by session, in time
    indptr: np.ndarray  # (S+1,)
    account: np.ndarray  # (S,) codes
    start: np.ndarray  # (S,)
    end: np.ndarray  # (S,)
    nth: np.ndarray  # (S,) how many of the account's sessions started before

    def rows(self, session: int) -> np.ndarray:
        """Events of a session."""
        return self.order[self.indptr[session] : self.indptr[session + 1]]


@dataclass(frozen=True)
class Rules:
    """What splicing must know: sides of behaviour that a thief can have of either, silences, and where takeovers may lie."""

    text: tuple[str, ...]  # attributes, and "hour"
    number: tuple[str, ...]  # attributes, and "pace" unless it never varies
    fixed: tuple[str, ...]  # attributes that say who an account is
    gap: float  # seconds of silence that end a session without a name
    named_gap: float
    since: float  # takeovers lie in [since, until]
    until: float
    steady: tuple[tuple[str, float], ...] = ()  # attributes that a thief may have of the owner, how much owners keep to one value


@dataclass(frozen=True)
class Takeover:
    """What was spliced into one account."""

    kind: str
    user: str
    sessions: tuple[tuple[str | None, float], ...]  # name and start of each
    times: np.ndarray  # events of these sessions from the first foreign one on, ascending


@dataclass(frozen=True)
class Draft:
    """A thief's session that has no place yet."""

    base: np.ndarray  # (n,) event of the log that each event is copied from
    of: Mapping[str, np.ndarray]  # attribute -> (n,) event that its value comes from instead
    values: Mapping[str, np.ndarray]  # attribute -> (n,) values that no event of the log has
    offset: np.ndarray  # (n,) seconds after the first event
    clock: float  # seconds after midnight at which it wants to begin
    foreign: int  # index of the first event that is the thief's


def log_of(batch: Batch, gap: float, named_gap: float) -> Log:
    """The sessions of a history; the batch is put in the order of time."""
    batch = select(batch, np.argsort(batch.time, kind="stable"))
    session = assign(bounded(batch, empty(0), named_gap), empty(0), gap, named_gap).session
    by_session = np.argsort(session, kind="stable")
    size = np.bincount(session)
    heads = np.cumsum(size) - size
    account = np.unique(batch.user.astype(str), return_inverse=True)[1][by_session[heads]]
    start, end = batch.time[by_session[heads]], batch.time[by_session[heads + size - 1]]
    rank = np.lexsort((start, account))
    order = np.concatenate([np.empty(0, np.int64), *(by_session[heads[s] : heads[s] + size[s]] for s in rank)])
    first = np.searchsorted(account[rank], account[rank])
    indptr = np.concatenate([[0], np.cumsum(size[rank])])
    return Log(batch, order, indptr, account[rank], start[rank], end[rank], np.arange(len(rank)) - first)


def victims(log: Log, rules: Rules) -> np.ndarray:
    """Accounts with a session between `since` and `until` and one before it."""
    return np.unique(log.account[(log.start >= rules.since) & (log.end <= rules.until) & (log.nth > 0)])


def splice(
    log: Log, rules: Rules, kinds: Sequence[str], most_sessions: int, label: str, rng: np.random.Generator
) -> tuple[Batch, tuple[Takeover, ...]]:
    """The log with takeovers of these kinds, each in an account of its own, as many as `most_sessions` and the accounts allow.

    `label` makes names of sessions and ids of events that the log does not have.
    """
    pieces: list[Batch] = []
    takeovers: list[Takeover] = []
    left, spent = list(kinds), 0
    recent = np.flatnonzero((log.start >= rules.since) & (log.end <= rules.until))
    for victim in rng.permutation(victims(log, rules)):
        if not left or spent >= most_sessions:
            break
        for kind in dict.fromkeys(left):  # where the kind whose turn it is cannot be made, the next one
            made = _takeover(log, rules, kind, int(victim), recent, f"{label}-{len(takeovers)}", rng)
            if made:
                takeovers.append(made[0])
                pieces += made[1]
                spent += len(made[1])
                left.remove(kind)
                break
    whole = concat([log.batch, *pieces])
    return select(whole, np.argsort(whole.time, kind="stable")), tuple(takeovers)


def next_kinds(taken: Counter[str], each: int) -> tuple[str, ...]:
    """Kinds still wanted, the seldom first, so that each comes to `each`."""
    left = {kind: each - taken[kind] for kind in KINDS}
    return tuple(kind for turn in range(each) for kind in KINDS if left[kind] >= each - turn)


def _takeover(
    log: Log, rules: Rules, kind: str, victim: int, recent: np.ndarray, label: str, rng: np.random.Generator
) -> tuple[Takeover, list[Batch]] | None:
    """A takeover of an account and its events, one batch a session; None where nothing can be made or nothing is free."""
    mine, others = recent[log.account[recent] == victim], recent[log.account[recent] != victim]
    mine = mine[log.nth[mine] > 0]
    if not len(others):
        return None
    for _ in range(TRIES):
        many = int(rng.integers(1, MOST_SESSIONS + 1))
        anchor, thief = int(rng.choice(mine)), int(rng.choice(others))
        way = draw(rules, log.batch, log.rows(anchor), rng)
        pieces: list[Batch] = []
        foreign = 0
        since = rules.since
        for i in range(many):
            own, other = anchor + i, thief + i
            if max(own, other) >= len(log.start) or log.account[own] != victim or log.account[other] != log.account[thief]:
                break
            draft = drafted(log.batch, log.rows(own), log.rows(other), kind, way, rules, rng)
            begin = None if draft is None else place(log, rules, own, draft, since)
            if draft is None or begin is None:
                break
            foreign = foreign if i else draft.foreign
            pieces.append(_events(log.batch, log.rows(own), draft, begin, f"{label}-{i}"))
            since = float(pieces[-1].time[-1]) + rules.gap + QUICK_S
        if pieces:
            times = np.concatenate([p.time for p in pieces])[foreign:]
            named = tuple((p.session[0], float(p.time[0])) for p in pieces)
            return Takeover(kind, str(pieces[0].user[0]), named, times), pieces
    return None


@dataclass(frozen=True)
class Way:
    """What one takeover does, alike in all of its sessions."""

    borrowed: frozenset[str]  # sides that `borrow` and `copy` have of the owner
    single: str  # the side that `alone` has of the stranger
    share: float  # of chance, in [0, 1): how much is foreign where a part is
    number: str  # what `inflate` makes larger; "" where the owner has nothing to
    factor: float
    only_largest: bool
    times: float  # how often a burst repeats
    kept: frozenset[str] = frozenset()  # attributes that `inside` has of the owner


def draw(rules: Rules, batch: Batch, own: np.ndarray, rng: np.random.Generator) -> Way:
    """Chance, once for a takeover."""
    sides = (*rules.text, *rules.number)
    half = frozenset(rng.permutation(sides)[: len(sides) // 2].tolist())
    held = rng.random() * max((share for _, share in rules.steady), default=0.0)
    larger = [name for name in rules.number if _numbers(batch, name, own).any()]
    return Way(
        half,
        str(rng.choice(sides)),
        float(rng.random()),
        str(rng.choice(larger)) if larger else "",
        float(np.exp(rng.uniform(np.log(2), np.log(10)))),
        bool(rng.random() < 0.5),
        float(rng.uniform(*BURST_TIMES)),
        frozenset(name for name, share in rules.steady if share > held),
    )


def drafted(
    batch: Batch, own: np.ndarray, other: np.ndarray, kind: str, way: Way, rules: Rules, rng: np.random.Generator
) -> Draft | None:
    """A thief's session from the events `own` of the owner and `other` of the stranger; None where the kind changes nothing."""
    draft = _of_kind(batch, own, other, kind, way, rng)
    if draft is None:
        return None
    silence = rules.gap if batch.session[own[0]] is None else rules.named_gap
    gaps = np.minimum(np.diff(draft.offset), 0.999 * silence)  # a longer one would end the session
    given = [name for name in rules.fixed if kind != "alone" or name != way.single]  # comes with the account
    of = {**draft.of, **dict.fromkeys(given, np.full(len(draft.base), own[0]))}
    return replace(draft, of=of, offset=np.concatenate([[0.0], np.cumsum(gaps)]))


def _of_kind(batch: Batch, own: np.ndarray, other: np.ndarray, kind: str, way: Way, rng: np.random.Generator) -> Draft | None:
    if kind in ("swap", "borrow"):
        return _crossed(batch, other, own, way.borrowed if kind == "borrow" else frozenset())
    if kind == "inside":
        return _crossed(batch, other, own, way.kept) if way.kept else None
    if kind == "copy":
        return _copied(batch, own, other, way, rng)
    if kind in ("alone", "hours"):
        return _crossed(batch, own, other, frozenset({way.single} if kind == "alone" else {"hour"}))
    if kind == "hijack":
        return _hijacked(batch, own, other, 0.3 + 0.5 * way.share)
    if kind == "mix":
        return _mixed(batch, own, other, MIXED[0] + (MIXED[1] - MIXED[0]) * way.share, rng)
    if kind == "burst":
        size = int(min(way.times * len(own), max(BURST_TIMES[0] * len(own), BURST_EVENTS)))
        return replace(_crossed(batch, np.resize(own, size), own, frozenset()), offset=QUICK_S * np.arange(size))
    return _inflated(batch, own, way)


def _crossed(batch: Batch, base: np.ndarray, guest: np.ndarray, sides: frozenset[str]) -> Draft:
    """The events of `base`, but for some sides that come from `guest`, stretched to the same number of events."""
    n = len(base)
    stretched = guest[np.arange(n) * len(guest) // n]
    of = {name: stretched for name in batch.attributes if name in sides}
    gaps, theirs = np.diff(batch.time[base]), np.diff(batch.time[guest])
    if "pace" in sides and len(theirs):
        gaps = theirs[np.arange(n - 1) * len(theirs) // max(n - 1, 1)]
    clock = batch.time[(guest if "hour" in sides else base)[0]] % DAY
    return Draft(base, of, {}, np.concatenate([[0.0], np.cumsum(gaps)]), float(clock), 0)


def _copied(batch: Batch, own: np.ndarray, other: np.ndarray, way: Way, rng: np.random.Generator) -> Draft:
    """The stranger's events, half of them, or some of their sides, with values of the owner's events in no order."""
    plain = _crossed(batch, other, own, frozenset())
    sides = [name for name in batch.attributes if name in way.borrowed]
    if not sides or way.share < 0.5:
        drawn = np.where(rng.random(len(other)) < 0.5, rng.choice(own, len(other)), other)
        return replace(plain, of=dict.fromkeys(batch.attributes, drawn))
    return replace(plain, of={name: rng.choice(own, len(other)) for name in sides})


def _hijacked(batch: Batch, own: np.ndarray, other: np.ndarray, part: float) -> Draft:
    """The owner's first part and the stranger's second, of which `part` is foreign."""
    kept, skipped = max(1, round((1 - part) * len(own))), min(len(other) - 1, round((1 - part) * len(other)))
    first, second = batch.time[own[:kept]], batch.time[other[skipped:]]
    between = second[0] - batch.time[other[skipped - 1]] if skipped else QUICK_S
    offset = np.concatenate([first - first[0], first[-1] - first[0] + between + second - second[0]])
    return Draft(np.concatenate([own[:kept], other[skipped:]]), {}, {}, offset, float(first[0] % DAY), kept)


def _mixed(batch: Batch, own: np.ndarray, other: np.ndarray, part: float, rng: np.random.Generator) -> Draft:
    """The owner's events with a few of the stranger's in their place, in the same order as the stranger's.

    So the session is as long as the owner's: another length alone would give it away where all sessions are equally long. Only to a
    single event another is added.
    """
    base = own if len(own) > 1 else np.repeat(own, 2)
    few = max(1, round(part * len(base)))
    where = np.sort(rng.choice(np.arange(1, len(base)), min(few, len(base) - 1), replace=False))
    plain = _crossed(batch, base, base, frozenset())
    mixed = base.copy()
    mixed[where] = np.sort(rng.choice(other, len(where)))
    offset = plain.offset if len(own) > 1 else np.array([0.0, QUICK_S])
    return replace(plain, base=mixed, offset=offset, foreign=int(where[0]))


def _inflated(batch: Batch, own: np.ndarray, way: Way) -> Draft | None:
    """The owner's events with one number larger: all of its values, or only the largest."""
    plain = _crossed(batch, own, own, frozenset())
    if not way.number:
        return None
    x = _numbers(batch, way.number, own)
    if not x.any():
        return None
    which = np.arange(len(x)) == np.abs(x).argmax() if way.only_largest else x != 0
    larger = np.where(which, way.factor * x, x)
    if way.number == "pace":
        return replace(plain, offset=np.concatenate([[0.0], np.cumsum(larger)]))
    values = batch.attributes[way.number][own].copy()
    values[which] = larger[which].tolist()
    return replace(plain, values={way.number: values}, foreign=int(np.flatnonzero(which)[0]))


def _numbers(batch: Batch, name: str, rows: np.ndarray) -> np.ndarray:
    """(n,) values of a number attribute, 0 where there is none; (n-1,) seconds between events for the pace."""
    if name == "pace":
        return np.diff(batch.time[rows])
    return np.nan_to_num([np.nan if v is None else as_number(v) for v in batch.attributes[name][rows]])


def place(log: Log, rules: Rules, own: int, draft: Draft, since: float) -> float | None:
    """When a thief's session begins: near the owner's session `own`, at its time of day or as near to it as is free."""
    mine = np.flatnonzero(log.account == log.account[own])
    named = log.batch.session[log.rows(own)[0]] is not None
    margin = QUICK_S + (0.0 if named else rules.gap)
    begin = max(since, float(log.end[mine[0]]) + margin)  # something is known of the owner
    ends, starts = np.maximum.accumulate(log.end[mine]), log.start[mine]
    low = np.array([begin]) if named else np.maximum(begin, ends + margin)
    high = np.array([rules.until]) if named else np.minimum(np.append(starts[1:], np.inf) - margin, rules.until)
    high = high - draft.offset[-1]
    free = high >= low
    if not free.any():
        return None
    day = np.arange(np.floor(begin / DAY), np.floor(rules.until / DAY) + 1)
    wanted = day[:, None] * DAY + draft.clock  # (days, 1)
    found = np.clip(wanted, low[free], high[free])  # (days, gaps)
    away, idle = np.abs(day - np.floor(log.start[own] / DAY)), ~np.isin(day, np.floor(starts / DAY))
    cost = np.abs(found - wanted) + (ANOTHER_DAY * away + IDLE_DAY * idle)[:, None]
    return float(np.floor(found.ravel()[cost.argmin()] * 1000) / 1000)


def _events(batch: Batch, own: np.ndarray, draft: Draft, begin: float, label: str) -> Batch:
    """The events of a thief's session at its place, in the owner's account."""
    made = select(batch, draft.base)
    n = len(draft.base)
    columns = {name: column[draft.of.get(name, draft.base)] for name, column in batch.attributes.items()} | dict(draft.values)
    ids = np.array([None if old is None else f"{label}-{i}" for i, old in enumerate(made.event_id)], object)
    name = None if batch.session[own[0]] is None else label
    time = np.round(begin + draft.offset, 3)
    return Batch(time, np.full(n, batch.user[own[0]], object), np.full(n, name, object), columns, ids, np.full(n, label, object))
