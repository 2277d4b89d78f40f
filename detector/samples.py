"""What a fusion is fitted on: the later part of history, session by session, with simulated takeovers beside it.

Each session is turned into channels against its profile as it then was; and once more with profiles that start empty, for young
accounts. What people said of sessions goes with them.

Axes: S sessions, C channels, A accounts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from detector import attacks, belief, calibration, fusion, waiting
from detector.errors import TrainingError
from detector.evidence import EMBEDDING_CHANNELS, channels, whole_of
from detector.models import ENOUGH_SESSIONS, Model, in_turn, lesson
from detector.profiles import Profiles, blank, learn, put
from detector.profiles import take as take_profiles
from detector.records import Label
from detector.sessions import Sessions, take

ATTACKS_PER_SESSION, ENOUGH_ATTACKS = 3, 10_000  # simulated on the later part, the larger of the two; and again on young accounts
TRUE = 20.0  # simulated takeovers, of mean weight, that a confirmed one is worth
HARD = 5.0  # owners' sessions that a dismissed one is worth


@dataclass(frozen=True)
class Said:
    """Sessions that people spoke of."""

    table: Sessions
    owner: np.ndarray  # (S,) bool
    weight: np.ndarray  # (S,)

    @staticmethod
    def of(table: Sessions, told: Sequence[Label | None]) -> Said:
        rows = np.array([s for s, label in enumerate(told) if label is not None], np.int64)
        known = [label for label in told if label is not None]
        return Said(take(table, rows), np.array([x.owner for x in known], bool), np.array([x.weight for x in known]))


@dataclass(frozen=True)
class Sample:
    """Channels with their context."""

    channels: np.ndarray  # (S, C)
    history: np.ndarray  # (S,)
    events: np.ndarray  # (S,)


@dataclass(frozen=True)
class Lived(Sample):
    """Owners' sessions, as in live running."""

    score: np.ndarray  # (S,) nats
    llr: np.ndarray  # (S,)
    doubt: np.ndarray  # (S,) belief after the session


@dataclass(frozen=True)
class Stolen(Sample):
    """Simulated takeovers."""

    kind: np.ndarray  # (S,) of attack
    number: np.ndarray  # (S,) that is inflated, or how many attributes are the owner's


Some = TypeVar("Some", bound=Sample)


def fit_fusion(
    model: Model,
    table: Sessions,
    account: np.ndarray,
    cut: int,
    late: tuple[Sessions, np.ndarray],
    p: np.ndarray,
    trusted: np.ndarray,
    users: np.ndarray,
    warm: Profiles,
    said: Said,
    seed: int,
) -> tuple[fusion.Fusion, tuple[fusion.Reference, ...], belief.Owners, np.ndarray, np.ndarray, dict[str, Any]]:
    """Fusion, reference of scores, how owners are strange, p-values of the later part of history (of its last sessions),
    what of those shows in sessions that are not in doubt (K,), and what separates how well.

    Sessions from `cut` on are judged. References of scores come from `late` (S), lived through with what is in doubt; p (S,) as
    they were judged before says which of them are the owners', all those of a time that is `trusted` (S,).
    """
    rng = np.random.default_rng(seed)
    nothing = blank(len(users), model.shape)
    judged = np.arange(max(cut, len(table) - ENOUGH_SESSIONS), len(table))
    some, mine = take(table, judged), account[judged]
    starts = (warm, nothing)  # young accounts are seen by forgetting all
    walks = [_walk(model, some, mine, start, rng) for start in starts]
    own = _with_young([known for known, _ in walks])
    bad = _with_young([taken for _, taken in walks if taken is not None])
    thieves, worth = _labelled(model, said, False, users, warm)
    dismissed, times = _labelled(model, said, True, users, warm)
    again = np.repeat(np.arange(len(times)), (HARD * times).astype(int))  # an owner's session that alarmed is worth more than most
    made = _taken(bad, thieves, worth)
    whose = np.append(mine, np.full(len(own.channels) + len(again) - len(mine), -1))
    owners_seen = _joined([Sample(own.channels, own.history, own.events), _of(dismissed, again)])
    owned = fusion.Owned(owners_seen.channels, owners_seen.history, owners_seen.events, whose)
    in_nats, whole = ~np.isin(model.names, EMBEDDING_CHANNELS), whole_of(model.facets.text, model.facets.number)
    fitted, relevance, heldout = fusion.fit(owned, made, in_nats, whole, model.facets.brought, seed)
    taken, n = walks[0][1], len(some)
    if taken is None:
        raise TrainingError("no later part of history to judge")
    opinion = fusion.judge(fitted, taken.channels, taken.history, taken.events)
    first = _walk(model, *late, warm, fitted=fitted)[0]
    theirs = _of(first, calibration.of_owners(p))
    fitted, strange = fusion.lived_through(fitted, theirs.channels, theirs.history), first.llr > belief.STRIKING[0]
    share = calibration.owners_share(p)
    (runs, stay), (sure, _) = (belief.runs_of(strange, late[1], often) for often in (share, share * trusted))
    degree = belief.degree_of(heldout.owners[:n], heldout.taken, made.weight)
    owners = belief.Owners(np.append(runs, sure[1]), stay, degree)
    lived = [_of(_walk(model, *late, start, fitted=fitted, owners=owners)[0], calibration.of_owners(p)) for start in starts]
    everybody = _with_young(lived)
    scores = fusion.references_by_history(everybody.score, everybody.history)
    caught = fusion.strangeness(fitted, opinion)
    limit = float(np.quantile(heldout.strangeness[:n], 0.99))
    by_kind = {attacks.NAMES[k]: round(float((caught[taken.kind == k] > limit).mean()), 3) for k in np.unique(taken.kind)}
    report = {
        "relevance": {name: round(float(r), 2) for name, r in zip(model.names, relevance, strict=True)},
        "simulated_auc": round(fusion.auc(heldout.strangeness[:n], caught), 4),
        "caught_at_1_percent": by_kind,
        "owners_strange": [round(float(x), 4) for x in (*runs, *degree)],
    }
    ps = fusion.p_values(scores, lived[0].score, lived[0].history)
    calm = calibration.calm_shares(ps, lived[0].doubt < belief.DOUBTED)
    return fitted, scores, owners, ps, calm, report


def _walk(
    model: Model,
    table: Sessions,
    account: np.ndarray,
    profiles: Profiles,
    attacks_rng: np.random.Generator | None = None,
    fitted: fusion.Fusion | None = None,
    owners: belief.Owners = belief.UNKNOWN,
) -> tuple[Lived, Stolen | None]:
    """Turn sessions into channels and learn them, in their order; beside simulated takeovers where `attacks_rng` is given.

    With a fusion, it goes as in live running: doubt is carried over, and only calm sessions are learnt.
    """
    embedding, ground, nats = model.embedding(table), model.ground, np.zeros((len(table), len(model.names)))
    e, (boosting, heard, llr, carried, after) = np.zeros_like(nats), np.zeros((5, len(table)))
    history = np.zeros(len(table), np.int64)
    taken: list[Stolen] = []
    profiles = take_profiles(profiles, np.arange(len(profiles)))
    for now in in_turn(account):
        some, mine = take(table, now), take_profiles(profiles, account[now])
        peers = model.peers(some)
        nats[now] = channels(some, mine, embedding[now], peers, model.population, model.facets)
        history[now] = mine.history
        if attacks_rng is not None:
            again = np.tile(np.arange(len(now)), max(ATTACKS_PER_SESSION, -(-ENOUGH_ATTACKS // len(table))))
            victims = take_profiles(mine, again), take(some, again)
            taken.append(_attack(model, ground, table, account, now[again], *victims, attacks_rng))
        weight, doubt = np.ones(len(now)), mine.doubt
        if fitted is not None:
            opinion = fusion.judge(fitted, nats[now], mine.history, some.events)
            e[now], boosting[now], heard[now], llr[now] = opinion.e, opinion.boosting, opinion.heard, opinion.llr
            carried[now] = belief.carried(mine.doubt, opinion.llr, mine.history, owners)
            doubt = belief.update(mine.doubt, opinion.llr, mine.history, owners)
            weight = belief.lesson(doubt, mine.history, mine.unlearnt)
        new = learn(mine, some, weight, embedding[now], peers.sum(axis=1))
        after[now] = doubt.sum(axis=1)
        new = replace(new, doubt=doubt, unlearnt=belief.patience(doubt, mine.unlearnt))
        new = waiting.held(new, some, belief.waits(doubt, weight))
        put(profiles, account[now], waiting.taught(new, some.user, len(model.facets.number), partial(lesson, model)))
    said = fusion.Opinion(e, boosting, heard, history, llr)
    score = fusion.strangeness(fitted, said) + carried if fitted is not None else carried
    return Lived(nats, history, table.events, score, llr, after), _joined(taken) if taken else None


def _attack(
    model: Model,
    ground: attacks.Ground,
    table: Sessions,
    account: np.ndarray,
    now: np.ndarray,
    mine: Profiles,
    some: Sessions,
    rng: np.random.Generator,
) -> Stolen:
    """One simulated takeover per session; strangers are drawn from all sessions."""
    strangers = rng.integers(0, len(table), len(now))
    kind, number = attacks.drawn(len(now), ground, rng)
    stolen = attacks.simulate(some, take(table, strangers), kind, number, ground, rng)
    valid = np.flatnonzero(account[strangers] != account[now])
    stolen, mine = take(stolen, valid), take_profiles(mine, valid)
    return Stolen(model.channels(stolen, mine), mine.history, stolen.events, kind[valid], number[valid])


def _taken(simulated: Stolen, told: Sample, worth: np.ndarray) -> fusion.Taken:
    """Simulated takeovers, and those that people told of, which count as swaps and are worth more.

    Who shows who he is does not say what else gives thieves away. Each number that is inflated is a kind of its own, and so are
    thieves who have the same of the owner: what gives most of them away hides what is left of those who have it.
    """
    apart = np.isin(simulated.kind, (attacks.INFLATE, attacks.INSIDE))
    asked = np.where(apart, simulated.kind + len(attacks.NAMES) * (1 + simulated.number), simulated.kind)
    asked = np.where(simulated.kind == attacks.STRANGER, -1, asked)
    weight = attacks.weights(simulated.kind)
    return fusion.Taken(
        channels=np.concatenate([simulated.channels, told.channels]),
        history=np.concatenate([simulated.history, told.history]),
        events=np.concatenate([simulated.events, told.events]),
        weight=np.concatenate([weight, TRUE * weight.mean() * worth]),
        kind=np.concatenate([asked, np.full(len(worth), attacks.SWAP)]),
        among=np.concatenate([np.isin(simulated.kind, attacks.AMONG), np.zeros(len(worth), bool)]),
    )


def _labelled(model: Model, said: Said, owner: bool, users: np.ndarray, warm: Profiles) -> tuple[Sample, np.ndarray]:
    """Channels of the owners' or the thieves' sessions against the profiles of the earlier part, and their weights."""
    at = np.minimum(np.searchsorted(users, said.table.user.astype(str)), len(users) - 1)
    known = (users[at] == said.table.user.astype(str)) & (warm.history[at] > 0) & (said.owner == owner)
    if owner:
        known &= said.table.end > warm.last[at]  # what a profile has learnt already says nothing
    rows = np.flatnonzero(known)
    some, mine = take(said.table, rows), take_profiles(warm, at[rows])
    return Sample(model.channels(some, mine), mine.history, some.events), said.weight[rows]


def _of(sample: Some, which: np.ndarray) -> Some:
    """The sample of the sessions `which`, bool (S,) or their rows."""
    return type(sample)(*(getattr(sample, f.name)[which] for f in fields(sample)))


def _joined(samples: Sequence[Some]) -> Some:
    """The sample of all."""
    return type(samples[0])(*(np.concatenate([getattr(s, f.name) for s in samples]) for f in fields(samples[0])))


def _with_young(samples: Sequence[Some]) -> Some:
    """The sample of all; of walks after the first only young accounts, since of mature ones the first knows better."""
    return _joined([_of(s, s.history < fusion.MATURITY[-1]) if k else s for k, s in enumerate(samples)])
