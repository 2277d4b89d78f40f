"""THE step: events, open sessions and profiles in; verdicts, looks at open sessions, and the new state out.

Used alike by the daemon, by replay and by the back-fill after a training. Pure. Nothing here depends on where batches are cut: an
open session is looked at when its number of events reaches a power of four, and closes at a time given by its events; tasks of
one account run in the order of the events that caused them, and accounts do not see each other.

Axes: E events, S sessions, A accounts, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import groupby, pairwise

import numpy as np

from detector import belief, calibration, facets, fusion, waiting
from detector.calibration import Watch
from detector.encoder import encode, measures
from detector.evidence import EXTREME, RATE, channels, peer_log_likelihood, posterior
from detector.guidance import NOBODY, OWNER, STRANGER, UNSAID, Guidance, covered, exempt, lessons
from detector.pack import Pack
from detector.profiles import Profiles, learn, put
from detector.profiles import take as take_profiles
from detector.records import Batch, Verdict
from detector.sessions import Sessions, assign, bounded, close_time, combine, concat, mark_alerted, take

LOOKS = 4 ** np.arange(1, 16)  # events at which an open session is looked at; one event alone looked strange too often
YOUNG, MATURE = 5, 20  # sessions known
DETAILED = 0.05  # p, as the pack has it, from which details are kept: no limit allows more
LOOKS_PER_SESSION = 4.0  # each look is a chance for a false alarm, so a look must be this much rarer to alarm
UNTRAINED_P = 0.05  # without a reference nothing is rarer than this, so nothing alarms
SILENT = -1e6  # nats: below every reference
ROUND = 6  # decimals of what is written


@dataclass(frozen=True)
class Rules:
    """What ends a session, in seconds."""

    gap: float
    named_gap: float
    lateness: float


@dataclass(frozen=True)
class Budget:
    """How many alerts people want, as a limit on p."""

    per_day: float
    limit: Callable[[Watch], float]  # the largest p that alarms on the watch's day


@dataclass(frozen=True)
class Alarming:
    """A session that looks alarming, when it first did."""

    verdict: Verdict
    open: bool
    limit: float  # the largest p that alarms on its day, before the day is spent
    session: Sessions  # (1)
    profile: Profiles  # (1), as it was judged against
    embedding: np.ndarray  # (D,) of the session
    watch: Watch  # of its day


@dataclass(frozen=True)
class Outcome:
    """What one step gives."""

    verdicts: tuple[Verdict, ...]  # of closed sessions, in the order of their closing
    closed: Sessions  # (V) the verdicts' sessions
    embeddings: np.ndarray  # (V, D) float32 unit vectors of theirs
    alarming: tuple[Alarming, ...]  # the first opinion of each session with p at most the limit of its day
    quiet: tuple[float, ...]  # event times at which what people dismissed would have alarmed
    watch: Watch
    profiles: Profiles  # (A), the rows given, updated
    changed: np.ndarray  # (A,) bool
    open_sessions: Sessions  # of the accounts given


def admit(time: np.ndarray, newest: float, lateness: float) -> tuple[np.ndarray, np.ndarray]:
    """(E,) which events are in time, and (E,) the newest time seen up to each event (itself included)."""
    clock = np.maximum.accumulate(np.concatenate([[newest], time]))
    return time >= clock[:-1] - lateness, clock[1:]


def step(
    batch: Batch,
    clock: np.ndarray,
    users: list[str],
    profiles: Profiles,
    open_parts: Sessions,
    pack: Pack,
    rules: Rules,
    watermark: float,
    watch: Watch,
    budget: Budget,
    looks: bool = True,
    guidance: Mapping[str, Guidance] = NOBODY,
) -> Outcome:
    """Carry one batch through.

    batch (E events, all in time), clock (E,) from `admit`; users (A) with their profiles and all their open sessions, which must
    cover the batch's accounts; watermark: event time minus lateness after the batch (or later, where time has gone on without
    events). What alarms follows from the days that `watch` has seen, and the budget. `guidance`: what people said of an account.
    """
    row_of = {user: a for a, user in enumerate(users)}
    batch = bounded(batch, open_parts, rules.named_gap)
    assignment = assign(batch, open_parts, rules.gap, rules.named_gap)
    seen, numbers = facets.observe(batch, assignment, open_parts, pack.facets)
    single = facets.as_sessions(batch, seen, numbers)
    whole = _grown(open_parts, single, assignment.session, assignment.continues, np.arange(len(assignment.continues)))
    untouched = np.setdiff1d(np.arange(len(open_parts)), assignment.continues)
    table = concat([take(open_parts, untouched), whole])
    ends = close_time(table, rules.gap, rules.named_gap)
    closing = np.flatnonzero(ends < watermark)
    arrival = np.searchsorted(clock - rules.lateness, ends[closing], side="right")  # the event that closes it; E: none of these
    parts, when, origin = [take(table, closing)], [arrival * 2.0], [np.full(len(closing), -1)]
    if looks:
        for size in LOOKS[: np.searchsorted(LOOKS, assignment.ordinal.max(initial=0), side="right")]:
            hit = np.flatnonzero(assignment.ordinal == size)
            hit = hit[np.argsort(assignment.session[hit])]
            which = assignment.session[hit]
            upto = np.zeros(len(assignment.continues), np.int64)
            upto[which] = hit + 1
            inside = np.arange(len(batch)) < upto[assignment.session]
            parts.append(
                _grown(open_parts, take(single, np.flatnonzero(inside)), assignment.session[inside], assignment.continues, which)
            )
            when.append(hit * 2.0 + 1)
            origin.append(len(untouched) + which)
    tasks, moment, source = concat(parts), np.concatenate(when), np.concatenate(origin)
    account = np.fromiter((row_of[u] for u in tasks.user), np.int64, len(tasks))
    order = np.lexsort((tasks.start, np.concatenate([ends[closing], np.zeros(len(tasks) - len(closing))]), moment, account))
    judged = _judge_all(tasks, account, order, source < 0, profiles, pack, guidance)
    in_order = np.lexsort((tasks.start, account, moment))
    owner = np.concatenate([closing, source[len(closing) :]])  # row of the table that each task is of
    times = np.concatenate([ends[closing] + rules.lateness, clock[moment[len(closing) :].astype(np.int64) // 2]])
    verdicts, first, quiet, watch = _decide(tasks, judged, in_order, times, source < 0, owner, table.alerted, pack, watch, budget)
    rest = mark_alerted(table, np.array(list(first), np.int64))
    closed = in_order[source[in_order] < 0]
    return Outcome(
        verdicts=tuple(verdicts),
        closed=take(tasks, closed),
        embeddings=judged.embedding[closed],
        alarming=tuple(first.values()),
        quiet=tuple(quiet),
        watch=watch,
        profiles=judged.profiles,
        changed=judged.changed,
        open_sessions=take(rest, np.setdiff1d(np.arange(len(table)), closing)),
    )


def _decide(
    tasks: Sessions,
    judged: _Judged,
    order: np.ndarray,
    times: np.ndarray,
    closes: np.ndarray,
    owner: np.ndarray,
    alerted: np.ndarray,
    pack: Pack,
    watch: Watch,
    budget: Budget,
) -> tuple[list[Verdict], dict[int, Alarming], list[float], Watch]:
    """Verdicts of closed sessions and what alarms by session, day after day: p and limit of a day follow from the days before it.

    An account that is in trouble already takes nothing of what the day asked for.

    times: the event time of each task, or when its session had been silent for long enough: the same live and in replay.
    """
    raw = judged.p
    day = np.maximum(np.floor(times / calibration.DAY).astype(np.int64), watch.day)
    verdicts: list[Verdict] = []
    first: dict[int, Alarming] = {}
    quiet: list[float] = []
    for today in np.unique(day):
        now = order[day[order] == today]
        watch = calibration.turned(watch, int(today), budget.per_day)
        limit = budget.limit(watch) if pack.fusion else 0.0
        p = calibration.corrected(raw[now], watch, pack.calm) if pack.fusion else raw[now]
        watched = tasks.end[now] >= pack.trusted_until  # what ended before is history, taken to be clean
        told, chance = _digits(p), np.where(closes[now], 1.0, LOOKS_PER_SESSION)
        verdicts += [judged.verdicts[i](p=x) for i, x in zip(now.tolist(), told.tolist(), strict=True) if closes[i]]
        may = np.flatnonzero((raw[now] <= DETAILED) & (p * chance <= limit) & watched)
        for k in may[np.lexsort((closes[now[may]], times[now[may]]))].tolist():  # by event time, so that no cut of a batch shows
            i = int(now[k])
            verdict, time = judged.verdicts[i](p=float(told[k])), float(times[i])
            begins = calibration.begins(watch, verdict.user, time)
            if begins and p[k] * chance[k] > calibration.rationed(limit, watch, budget.per_day):
                continue
            if judged.quiet[i]:
                quiet.append(time)
            elif not alerted[owner[i]]:
                one = np.array([i])
                found = Alarming(verdict, not closes[i], limit, take(tasks, one), judged.against[i], judged.embedding[i], watch)
                if first.setdefault(int(owner[i]), found) is found:
                    watch = calibration.spelled(watch, verdict.user, time)
        ended = now[watched & closes[now]]
        if pack.fusion and watched.any():
            watch = calibration.added(watch, calibration.Seen(raw[ended], judged.belief[ended] < belief.DOUBTED))
    return verdicts, first, quiet, watch


def _grown(open_parts: Sessions, single: Sessions, session: np.ndarray, continues: np.ndarray, which: np.ndarray) -> Sessions:
    """Sessions `which` from their open parts and their events ((E',) one row each, of sessions `session`)."""
    opened = which[continues[which] >= 0]
    rows = np.concatenate([opened, session])
    position = np.full(len(continues), -1)
    position[which] = np.arange(len(which))
    return combine(concat([take(open_parts, continues[opened]), single]), position[rows], len(which))


@dataclass(frozen=True)
class _Judged:
    verdicts: list[Callable[..., Verdict]]  # but for p, which the day gives
    p: np.ndarray  # (S,) as the pack has it
    belief: np.ndarray  # (S,)
    embedding: np.ndarray  # (S, D)
    against: Mapping[int, Profiles]  # task -> (1) profile that it was judged against; of those strange enough to alarm
    quiet: np.ndarray  # (S,) bool: does nothing but what a dismissed session did, so it does not alarm
    profiles: Profiles
    changed: np.ndarray


def _judge_all(
    tasks: Sessions,
    account: np.ndarray,
    order: np.ndarray,
    closes: np.ndarray,
    profiles: Profiles,
    pack: Pack,
    guidance: Mapping[str, Guidance],
) -> _Judged:
    """Judge all tasks: the first of every account, then the second of every account, and so on; closed sessions are learnt.

    What people allowed is left out where a session is judged, not where it is learnt.
    """
    profiles = take_profiles(profiles, np.arange(len(profiles)))  # our own copy
    changed = np.zeros(len(profiles), bool)
    embedding, peers = _looked_at(tasks, pack)
    shown, seen, looked = tasks, embedding, peers
    if guidance:
        shown = exempt(tasks, pack.facets, guidance)
        seen, looked = _looked_at(shown, pack) if shown is not tasks else (embedding, peers)
    quiet = covered(tasks, pack.facets, guidance)
    said = lessons(tasks, guidance)
    said = np.where(quiet & (said == UNSAID), OWNER, said)
    sorted_account = account[order]
    heads = np.flatnonzero(np.diff(sorted_account, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(heads, np.diff(np.append(heads, len(order))))
    by_rank = order[np.argsort(rank, kind="stable")]
    bounds = np.searchsorted(np.sort(rank), np.arange(rank.max(initial=-1) + 2))
    weighed = _nothing_weighed(len(tasks), len(pack.channels))
    before: list[Profiles] = []  # of each rank, as its sessions were judged against
    for low, high in pairwise(bounds):
        now = by_rank[low:high]
        table, mine = take(tasks, now), take_profiles(profiles, account[now])
        opinion = weigh(table if shown is tasks else take(shown, now), mine, seen[now], looked[now], pack, ~closes[now])
        for f in fields(Weighed):
            getattr(weighed, f.name)[now] = getattr(opinion, f.name)
        before.append(mine)
        last = closes[now] & (said[now] != STRANGER)
        if last.any():
            rows, sure = account[now][last], said[now][last] == OWNER
            lesson = belief.lesson(opinion.doubt, mine.history, mine.unlearnt)
            weight = np.where((table.end < pack.trusted_until) | (said[now] == OWNER), 1.0, lesson)[last]
            kept, ended = (mine, table) if last.all() else (take_profiles(mine, last), take(table, np.flatnonzero(last)))
            new = learn(kept, ended, weight, embedding[now][last], peers[now][last].sum(1))
            after, unlearnt = opinion.doubt[last], belief.patience(opinion.doubt[last], mine.unlearnt[last])
            new = replace(new, doubt=np.where(sure[:, None], 0.0, after), unlearnt=np.where(sure, 0, unlearnt))
            new = waiting.held(new, ended, belief.waits(after, weight))
            put(profiles, rows, waiting.taught(new, ended.user, len(pack.facets.number), partial(_lesson, pack, guidance)))
            changed[rows] = True
    whole = concluded(weighed, pack)
    p = _digits(whole.p)
    strange = np.flatnonzero(p[by_rank] <= DETAILED if pack.fusion else np.zeros(len(tasks), bool))
    which = np.searchsorted(bounds, strange, side="right") - 1
    against = {
        int(by_rank[i]): take_profiles(before[r], np.array([i - bounds[r]]))
        for i, r in zip(strange.tolist(), which.tolist(), strict=True)
    }
    beliefs = np.round(weighed.doubt.sum(axis=1), ROUND)
    return _Judged(verdicts_of(tasks, whole, pack), p, beliefs, embedding, against, quiet, profiles, changed)


def _digits(p: np.ndarray) -> np.ndarray:
    """(S,) p-values with the six digits that are kept of them."""
    return np.array([float(f"{x:.6g}") for x in p.tolist()])


def _looked_at(table: Sessions, pack: Pack) -> tuple[np.ndarray, np.ndarray]:
    """(S, D) embeddings and (S, F, J) log-likelihoods under the peers."""
    return _embedded(table, pack), peer_log_likelihood(table, pack.population, len(pack.facets.text))


def _embedded(table: Sessions, pack: Pack) -> np.ndarray:
    """(S, D) embeddings."""
    return encode(pack.encoder, table, measures(table, pack.population.centre, pack.population.spread))


def _lesson(pack: Pack, guidance: Mapping[str, Guidance], table: Sessions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a late lesson takes of sessions: (S, D) embeddings, (S, J) affinities, and (S,) weights, 0 of what is another's."""
    embedding, peers = _looked_at(table, pack)
    return embedding, peers.sum(axis=1), (lessons(table, guidance) != STRANGER).astype(float)


def relearnt(profile: Profiles, sessions: Sessions, pack: Pack, guidance: Mapping[str, Guidance]) -> Profiles:
    """The (1) profile of one account after its closed sessions (S, in the order of their closing), as `step` would have left it."""
    rows = np.arange(len(sessions))
    account, closes = np.zeros(len(rows), np.int64), np.ones(len(rows), bool)
    return _judge_all(sessions, account, rows, closes, profile, pack, guidance).profiles


def again(
    table: Sessions, profiles: Profiles, pack: Pack, watches: Sequence[Watch], unfinished: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(S,) scores and (S,) p of sessions against their profiles (row by row), as the days of (S) watches have it.

    For what would have been otherwise: none is learnt, and each is judged as if alone; unfinished (S,) bool.
    """
    opinion = concluded(weigh(table, profiles, *_looked_at(table, pack), pack, unfinished), pack)
    p = _digits(opinion.p)
    for _, run in groupby(range(len(table)), lambda s: id(watches[s])):
        rows = list(run)
        p[rows] = calibration.corrected(p[rows], watches[rows[0]], pack.calm)
    return np.round(np.round(opinion.evidence, ROUND).sum(axis=1), ROUND), _digits(p)


@dataclass(frozen=True)
class Weighed:
    """What must be known of S sessions before the next ones of their accounts; the rest of the opinion can wait."""

    e: np.ndarray  # (S, C) nats per channel
    boosting: np.ndarray  # (S,) nats of the boosting, and
    heard: np.ndarray  # (S,) of boosting and sum, and
    llr: np.ndarray  # (S,) of the fusion
    carried: np.ndarray  # (S,) nats from earlier sessions
    doubt: np.ndarray  # (S, 3) probabilities of what is strange, after the session
    history: np.ndarray  # (S,) int64, sessions known before


def _nothing_weighed(sessions: int, channels: int) -> Weighed:
    boosting, heard, llr, carried = np.zeros((4, sessions))
    doubt, history = np.zeros((sessions, 3)), np.zeros(sessions, np.int64)
    return Weighed(np.zeros((sessions, channels)), boosting, heard, llr, carried, doubt, history)


@dataclass(frozen=True)
class Opinion:
    """The whole opinion of S sessions."""

    evidence: np.ndarray  # (S, R+1) nats as `by_facet` has them, the last one carried over from earlier sessions; sums to the score
    score: np.ndarray  # (S,)
    p: np.ndarray  # (S,)
    belief: np.ndarray  # (S,)
    history: np.ndarray  # (S,)


def weigh(
    table: Sessions, profiles: Profiles, embedding: np.ndarray, peers: np.ndarray, pack: Pack, unfinished: np.ndarray
) -> Weighed:
    """Weigh sessions against their profiles (row by row); peers (S, F, J) from `peer_log_likelihood`; unfinished (S,) bool.

    That a session which goes on is shorter than usual says nothing: its volume counts only once it is above the owner's usual, and
    its context and its embedding are those of a session of usual length.
    """
    usual = np.exp(posterior(profiles.number, pack.population)[0][:, -1])  # (S,) events
    short = unfinished & (table.events < usual)
    events = np.where(short, usual, table.events)
    if short.any():
        rows = np.flatnonzero(short)
        embedding = embedding.copy()
        embedding[rows] = _embedded(replace(take(table, rows), events=events[rows]), pack)
    nats = channels(table, profiles, embedding, peers, pack.population, pack.facets)
    nats[short, pack.channels.index("volume")] = SILENT
    if pack.fusion is None:
        parts = np.maximum(nats, 0) / (1 + np.maximum(nats, 0)) * (profiles.history > 0)[:, None]
        return replace(_nothing_weighed(*nats.shape), e=parts, history=profiles.history)
    trusted = table.end < pack.trusted_until
    doubt = np.where(trusted[:, None], 0.0, profiles.doubt)
    opinion = fusion.judge(pack.fusion, nats, profiles.history, events)
    after = np.where(trusted[:, None], 0.0, belief.update(doubt, opinion.llr, profiles.history, pack.owners))
    carried = belief.carried(doubt, opinion.llr, profiles.history, pack.owners)
    return Weighed(opinion.e, opinion.boosting, opinion.heard, opinion.llr, carried, after, profiles.history)


def concluded(weighed: Weighed, pack: Pack) -> Opinion:
    """The opinion of what was weighed, all at once."""
    if pack.fusion is None or pack.scores is None:
        score = weighed.e.sum(axis=1)
        p = np.maximum(np.exp(-score), UNTRAINED_P)
        return Opinion(np.c_[by_facet(weighed.e, pack), weighed.carried], score, p, weighed.doubt.sum(axis=1), weighed.history)
    said = fusion.Opinion(weighed.e, weighed.boosting, weighed.heard, weighed.history, weighed.llr)
    strangeness = fusion.strangeness(pack.fusion, said)
    evidence = np.c_[by_facet(fusion.contributions(weighed.e, strangeness), pack), weighed.carried]
    score = strangeness + weighed.carried
    p = fusion.p_values(pack.scores, score, weighed.history)
    return Opinion(evidence, score, np.clip(p, 1e-12, 1.0), weighed.doubt.sum(axis=1), weighed.history)


def by_facet(parts: np.ndarray, pack: Pack) -> np.ndarray:
    """(S, R) parts as people are told of them, of (S, C) parts by channel: all looks at a text facet are one."""
    told = _told(pack)
    names = list(dict.fromkeys(told))
    out = np.zeros((len(parts), len(names)))
    for c, name in enumerate(told):
        out[:, names.index(name)] += parts[:, c]
    return out


def _told(pack: Pack) -> list[str]:
    """What people are told of each of the C channels."""
    whole = {name + look: name for name in pack.facets.text for look in (RATE, EXTREME)}
    return [whole.get(name, name) for name in pack.channels]


def verdicts_of(table: Sessions, opinion: Opinion, pack: Pack) -> list[Callable[..., Verdict]]:
    """One verdict per session, but for its p; numbers rounded so that the parts still sum to the score."""
    names = (*dict.fromkeys(_told(pack)), "belief")
    parts = np.round(opinion.evidence, ROUND)
    score = np.round(parts.sum(axis=1), ROUND)
    known, trust = opinion.history, belief.trust(opinion.history)
    maturity = (
        np.where(known < YOUNG, "new", np.where(known < MATURE, "young", "mature"))
        if pack.fusion
        else np.full(len(table), "untrained")
    )
    columns = zip(
        table.user.tolist(),
        table.name.tolist(),
        table.start.tolist(),
        table.end.tolist(),
        table.events.tolist(),
        score.tolist(),
        np.round(opinion.belief, ROUND).tolist(),
        known.tolist(),
        maturity.tolist(),
        parts.tolist(),
        np.round(trust, 3).tolist(),
        strict=True,
    )
    return [
        partial(
            Verdict,
            user=user,
            session=name,
            start=start,
            end=end,
            events=events,
            score=total,
            belief=doubt,
            history=history,
            maturity=age,
            evidence={name: x for name, x in zip(names, evidence, strict=True) if x},
            pack=pack.id,
            trust=worth,
        )
        for user, name, start, end, events, total, doubt, history, age, evidence, worth in columns
    ]
