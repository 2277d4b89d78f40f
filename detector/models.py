"""The model of a history: population habits, encoder and profiles from its earlier part, as the later part speaks for them.

Axes: S sessions, T tokens, C channels, A accounts, J peers, V vocabulary, F text facets, N numbers, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from detector import attacks, encoder, fusion
from detector.evidence import (
    EMBEDDING_SCALE,
    FEWEST_NUMBERS,
    Population,
    Shares,
    base_of,
    channel_names,
    channels,
    embedding_channels,
    expected,
    off,
    peer_log_likelihood,
    predictive,
    shares_of,
    text_channels,
    with_habits,
)
from detector.facets import Facets
from detector.profiles import Profiles, Shape, blank, learn, lookup, put
from detector.profiles import take as take_profiles
from detector.sessions import Sessions, take, with_volume

if TYPE_CHECKING:
    from detector import contrastive

PEERS = 64  # J: more blurred nothing and cost memory per account
VOCABULARY = 1 << 16  # V: the most frequent values; the others share one probability per facet
PEER_SMOOTHING = 20.0  # damped counts of the population added to each peer
COHORT = 1000
STEPS = 300  # of the encoder: with 150, email's AUC is .881 for .906; with 900 it is the same
# more of them for the encoder of the whole history, which goes on from the one that the fusion was fitted with: one that starts
# anew (300 steps) lies elsewhere, and owners' scores with it (browsing: AUC .858 for .863, p <= .01 of 1.7 % for 1.0 %)
STEPS_ON = 150
WAYS = (False, True)  # whether the encoder is whitened: what tells later sessions apart better (email: not, the other logs: it is)
DISCOUNTS, STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9), (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
BLENDS = (0.0, 0.1, 0.3, 1.0)
LEAST_GAIN = 0.005  # of AUC: a larger blend must earn its place
ALIKE, LEAST_ALIKE = 0.5, 0.001  # share of what suits the embedding, where that gains so much of AUC; .25 to .8 gain alike
MEAN_OF = 256  # accounts, for how well a value suits the mean one
PREDICTIVE = ("discount", "strength", "blend", "alike")  # what of the population the later part of history speaks for
TEXT_BYTES = 48
RIDGE = 0.01  # of a standard deviation, squared
FEWEST_APART = 0.05  # of the variance must be averaged out within sessions to tell what they have in common
ENOUGH_SESSIONS = 15_000  # of the later part are judged; more only costs time
ENOUGH_STRANGERS = 10_000  # sessions of others that an encoder is asked of, of few later sessions many times each


@dataclass(frozen=True)
class Model:
    """What the first half of training gives: enough to turn sessions into channels."""

    facets: Facets
    population: Population
    model: encoder.Encoder
    shape: Shape
    members: contrastive.Members  # of the encoder, to go on from
    whitened: bool  # how they are merged

    @property
    def names(self) -> tuple[str, ...]:
        """The C channels."""
        return channel_names(self.facets.text, (*self.facets.number, "volume"))

    @property
    def ground(self) -> attacks.Ground:
        """What simulated thieves go by."""
        return attacks.Ground(self.facets, np.sqrt(self.population.scale / self.population.shape))

    def embedding(self, table: Sessions) -> np.ndarray:
        """(S, D) of sessions."""
        return encoder.encode(self.model, table, encoder.measures(table, self.population.centre, self.population.spread))

    def peers(self, table: Sessions) -> np.ndarray:
        """(S, F, J) log-likelihoods of sessions under each peer."""
        return peer_log_likelihood(table, self.population, self.shape.facets)

    def channels(self, table: Sessions, profiles: Profiles) -> np.ndarray:
        """(S, C) nats of sessions against profiles, row by row."""
        return channels(table, profiles, self.embedding(table), self.peers(table), self.population, self.facets)


def fit_models(
    found: Facets, table: Sessions, account: np.ndarray, accounts: int, seed: int, before: Model | None = None
) -> list[Model]:
    """Population and encoder from the sessions of a table; account (S,) codes below `accounts`.

    One for each way in which the encoder's members are merged; or the one that goes on from `before`, in its way.
    """
    from detector import contrastive  # torch is slow to load, and a daemon that judges needs none

    centre, pull, shape, scale = fit_numbers(with_volume(table), account, accounts)
    none = np.empty(0)
    numbers = {"centre": centre, "pull": pull, "shape": shape, "scale": scale}
    population = Population(**dict.fromkeys((f.name for f in fields(Population)), none) | numbers)
    numbers |= fit_together(table, account, accounts, population)
    measured = encoder.measures(table, centre, population.spread)
    steps, known = (STEPS, None) if before is None else (STEPS_ON, before.members)
    deaf = np.flatnonzero(found.given).astype(np.int16)
    told = encoder.heard(table, deaf)
    members = contrastive.fit(told, account, measured, seed, steps, known)
    out = []
    for whitened in WAYS if before is None else (before.whitened,):
        model = replace(contrastive.merged(members, told, account, measured, seed, whitened), deaf=deaf)
        out.append(_model_of(found, table, account, accounts, seed, numbers, measured, model, members, whitened))
    return out


def _model_of(
    found: Facets,
    table: Sessions,
    account: np.ndarray,
    accounts: int,
    seed: int,
    numbers: dict[str, np.ndarray],
    measured: np.ndarray,
    model: encoder.Encoder,
    members: contrastive.Members,
    whitened: bool,
) -> Model:
    """The population of sessions (S) as an encoder has them; measured (S, 3N), and `numbers` as `fit_numbers` has them."""
    embedding = encoder.encode(model, table, measured)
    long = np.zeros((accounts, encoder.WIDTH))
    np.add.at(long, account, embedding)
    peer_of, peers = cluster(long, seed)
    centres = _unit(_sums(embedding, peer_of[account], peers)).astype(np.float32)
    rng = np.random.default_rng(seed)
    cohort = embedding[np.sort(rng.choice(len(table), min(COHORT, len(table)), replace=False))]
    habits = fit_habits(table, peer_of[account], peers, len(found.text))
    value = _unit(encoder.vectors_of(model, habits[0]))
    drawn = rng.choice(np.unique(account), min(MEAN_OF, len(np.unique(account))), replace=False)
    suits = EMBEDDING_SCALE * (value.astype(np.float32) @ _unit(long[drawn]).astype(np.float32).T)  # (V, accounts)
    population = Population(
        *habits,
        discount=np.full(len(found.text), 0.5),
        strength=np.full(len(found.text), 10.0),
        blend=np.zeros(len(found.text)),
        alike=np.zeros(len(found.text)),
        **numbers,
        cohort=cohort,
        peer_centre=centres,
        value_vector=value.astype(np.float16),
        value_level=np.log(np.exp(suits).mean(axis=1)).astype(np.float32),
    )
    size = Shape(len(found.text), len(found.number) + 1, peers, encoder.WIDTH)
    return Model(found, population, model, size, members, whitened)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _sums(vectors: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    out = np.zeros((groups, vectors.shape[1]))
    np.add.at(out, group, vectors)
    return out


def cluster(long: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """(A,) peer of each account and how many there are: the accounts themselves if few, else spherical k-means of (A, D)."""
    if len(long) <= PEERS:
        return np.arange(len(long)), len(long)
    unit = _unit(long)
    centre = unit[np.random.default_rng(seed).choice(len(unit), PEERS, replace=False)]
    for _ in range(15):
        peer = (unit @ centre.T).argmax(axis=1)
        sums = _sums(unit, peer, PEERS)
        centre = np.where(np.any(sums, axis=1, keepdims=True), _unit(sums), centre)
    return peer, PEERS


def fit_habits(table: Sessions, peer: np.ndarray, peers: int, facets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vocabulary (V,), its facets and texts, and the log shares (V+F, J) of each value by peer; peer (S,) of each session.

    The share of values never seen follows Good and Turing, spread over as many values as were seen.
    """
    damped = table.damped
    keys, first, inverse = np.unique(table.key, return_index=True, return_inverse=True)
    mass = np.bincount(inverse, damped, len(keys))
    kept = np.sort(np.argsort(-mass, kind="stable")[:VOCABULARY])
    number = np.full(len(keys), -1)
    number[kept] = np.arange(len(kept))
    facet = table.facet[first][kept]
    inside = number[inverse] >= 0
    count = np.zeros((len(kept) + facets, peers))
    np.add.at(count, (number[inverse][inside], peer[table.row[inside]]), damped[inside])
    row_facet = np.concatenate([facet, np.arange(facets)]).astype(np.int64)
    of_facet = np.bincount(row_facet, count.sum(axis=1), facets)
    once = np.bincount(table.facet[first][mass <= 1.0], minlength=facets)
    unseen = np.clip((once + 1.0) / (of_facet + 2.0), 1e-6, 0.5)
    kinds = np.bincount(facet, minlength=facets)
    share = count.sum(axis=1) / np.maximum(of_facet[row_facet], 1e-9) * (1 - unseen[row_facet])
    share[len(kept) :] = unseen / np.maximum(kinds, 1)
    by_peer = np.zeros((facets, peers))
    np.add.at(by_peer, row_facet, count)
    smooth = (count + PEER_SMOOTHING * share[:, None]) / (by_peer[row_facet] + PEER_SMOOTHING)
    texts = np.array([str(t).encode("utf-8", "replace")[:TEXT_BYTES] for t in table.text[first][kept]], f"S{TEXT_BYTES}")
    return keys[kept], facet.astype(np.int16), texts, np.log(smooth).astype(np.float32)


def fit_numbers(values: np.ndarray, account: np.ndarray, accounts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(N,) centre, pull, shape and scale of the normal-inverse-gamma prior, from (S, N, W) statistics: moments over accounts."""
    sums = np.zeros((accounts, values.shape[1], 3))
    np.add.at(sums, account, values[:, :, :3])
    count = sums[:, :, 0]
    mean = sums[:, :, 1] / np.maximum(count, 1)
    variance = np.maximum(sums[:, :, 2] / np.maximum(count, 1) - mean**2, 0) * count / np.maximum(count - 1, 1)
    out = np.zeros((4, values.shape[1]))
    for n in range(values.shape[1]):
        enough = count[:, n] >= 5
        m, v = (mean[enough, n], variance[enough, n]) if enough.sum() >= 3 else (np.zeros(1), np.ones(1))
        least = 1e-6 * min(float(np.mean(m**2 + v)), 1.0) or 1e-6  # small numbers spread little, in whatever unit they come
        within, between = max(float(np.median(v)), least), max(float(np.var(m)), least)
        out[:, n] = np.median(m), np.clip(within / between, 0.01, 10), 2.0, 2.0 * within
    return out[0], out[1], out[2], out[3]


def fit_together(table: Sessions, account: np.ndarray, accounts: int, population: Population) -> dict[str, np.ndarray]:
    """How the numbers of owners and of everybody go together: `common` and the precisions of a population, from sessions (S).

    account (S,): codes below `accounts`; population: what `fit_numbers` found. An owner is what the account's other sessions show.
    Covariances are shrunk (Ledoit & Wolf 2004), and a little more, since of some numbers one is the sum of others.
    """
    from sklearn.covariance import ledoit_wolf

    values, whole, size = table.numbers, with_volume(table)[:, :, :3], table.numbers.shape[1]
    if size < FEWEST_NUMBERS:
        return {"common": np.zeros(size), "own_precision": np.eye(size), "all_precision": np.eye(size)}
    sums = np.zeros((accounts, size + 1, 3))
    np.add.at(sums, account, whole)
    others = sums[account] - whole
    mean, spread = (x[:, :-1] for x in expected(others, population))
    there = (values[:, :, 0] > 0) & (others[:, :-1, 0] > 0)
    apart = np.where(there, 1 - 1 / np.maximum(values[:, :, 0], 1), 0.0)  # of the variance that is not common, what is averaged out
    far = np.where(there, off(values, mean, spread, np.ones(size))[0] ** 2 - 1 + apart, 0.0)
    several = apart.sum(axis=0) > FEWEST_APART * np.maximum(there.sum(axis=0), 1)
    common = np.clip((apart * far).sum(axis=0) / np.maximum((apart**2).sum(axis=0), 1e-9), 0.0, 1.0) * several
    own = off(values, mean, spread, common)[0][there.any(axis=1)]
    everybody = off(values, population.centre[:-1], population.spread[:-1], common)[0]
    precisions = [np.linalg.inv(ledoit_wolf(x)[0] + RIDGE * np.eye(size)) if len(x) > 1 else np.eye(size) for x in (own, everybody)]
    return {"common": common, "own_precision": precisions[0], "all_precision": precisions[1]}


def in_turn(account: np.ndarray) -> Iterator[np.ndarray]:
    """Sessions (S,) in their order, as many at once as may be: those that are the first of their accounts, the second …"""
    order = np.argsort(account, kind="stable")
    heads = np.flatnonzero(np.diff(account[order], prepend=-1))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(heads, np.diff(np.append(heads, len(order))))
    by_rank = np.argsort(rank, kind="stable")
    for low, high in pairwise(np.searchsorted(rank[by_rank], np.arange(rank.max(initial=-1) + 2))):
        yield by_rank[low:high]


def known_of(model: Model, table: Sessions, account: np.ndarray, accounts: int) -> Profiles:
    """Profiles (A) that have learnt the sessions (S) of their accounts (S,)."""
    profiles = blank(accounts, model.shape)
    for now in in_turn(account):
        some, mine = take(table, now), take_profiles(profiles, account[now])
        embedding, affinity, whole = lesson(model, some)
        put(profiles, account[now], learn(mine, some, whole, embedding, affinity))
    return profiles


def lesson(model: Model, table: Sessions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What profiles learn of sessions: (S, D) embeddings, (S, J) affinities, (S,) weights."""
    return model.embedding(table), model.peers(table).sum(axis=1), np.ones(len(table))


def first(found: Facets, table: Sessions, account: np.ndarray, cut: int, accounts: int, seed: int) -> tuple[Model, Profiles]:
    """The model from the sessions before `cut`, as those after it speak for it, and profiles that have learnt the former."""
    early, late = take(table, np.arange(cut)), take(table, np.arange(cut, len(table)))
    models = fit_models(found, early, account[:cut], accounts, seed)
    warmed = [known_of(model, early, account[:cut], accounts) for model in models]
    apart = [told_apart(model, late, account[cut:], warm, seed) for model, warm in zip(models, warmed, strict=True)]
    best = int(np.argmax(apart))
    population = _with_predictive(models[best], late, account[cut:], warmed[best], seed)
    return replace(models[best], population=population), warmed[best]


def _strangers(account: np.ndarray, warm: Profiles, rng: np.random.Generator, draws: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Which sessions of the later part (S) are judged, and for each, so often, one of another account; account (S,)."""
    own, stranger = np.tile(np.arange(len(account)), draws), np.concatenate([rng.permutation(len(account)) for _ in range(draws)])
    judged = np.flatnonzero((warm.history[account[own]] > 0) & (account[stranger] != account[own]))[:ENOUGH_SESSIONS]
    return own[judged], stranger[judged]


def told_apart(model: Model, table: Sessions, account: np.ndarray, warm: Profiles, seed: int) -> float:
    """What share of other accounts' sessions the channels of the embedding catch at few false alarms of owners' later ones (S).

    0 where none of the later accounts was there before. Of few sessions many strangers are drawn: on browsing (180) one draw says
    .18 with a deviation of .05, and two ways differ by .02 to .04.
    """
    draws = max(1, -(-ENOUGH_STRANGERS // max(len(account), 1)))
    judged, strangers = _strangers(account, warm, np.random.default_rng(seed), draws)
    if not len(judged):
        return 0.0
    embedding, own = model.embedding(table), take_profiles(warm, account[judged])
    owners, others = (embedding_channels(own, embedding[rows], model.population) for rows in (judged, strangers))
    return float(fusion.caught(owners, others, np.ones(len(others))).mean())


def _with_predictive(model: Model, table: Sessions, account: np.ndarray, warm: Profiles, seed: int) -> Population:
    """The population with the parameters of each text facet that the later part of history speaks for, its sessions (S).

    For every blend: the Pitman-Yor parameters under which the owners' later sessions are most likely. Of the blends: the one whose
    evidence best tells owners' later sessions from other accounts'. What suits the embedding is mixed in where looks tell better.
    As it is where none of the later accounts was there before.
    """
    judged, strangers = _strangers(account, warm, np.random.default_rng(seed))
    if not len(judged):
        return model.population
    own, population, facets = take_profiles(warm, account[judged]), model.population, len(model.facets.text)
    open_to_all = replace(population, alike=np.full(facets, ALIKE))  # else what suits is not looked up
    looked_at = []
    for rows in (judged, strangers):
        some = take(table, rows)
        shares = shares_of(some, own, open_to_all, model.facets, lookup(own, some.row, some.key)[0])
        looked_at.append((some, model.peers(some), shares))
    likely = _Likely.of(looked_at[0][0], own, looked_at[0][2])

    def tells(trial: Population) -> np.ndarray:
        """(3, F) AUC of the three looks at each facet."""
        looks = [text_channels(some, own, peers, trial, model.facets, shares) for some, peers, shares in looked_at]
        return np.array([[fusion.auc(a[:, f], b[:, f]) for f in range(facets)] for a, b in zip(*looks, strict=True)])

    def instead(better: np.ndarray, trial: Population, chosen: Population) -> Population:
        return replace(chosen, **{n: np.where(better, getattr(trial, n), getattr(chosen, n)) for n in PREDICTIVE})

    best = np.full((3, facets), -np.inf)
    chosen = population
    for blend in BLENDS:
        trial = likely.fitted(replace(population, blend=np.full(facets, blend)))
        told = tells(trial)
        better = told[0] > best[0] + LEAST_GAIN
        best, chosen = np.where(better, told, best), instead(better, trial, chosen)
    trial = likely.fitted(replace(chosen, alike=open_to_all.alike))
    return instead(tells(trial).mean(axis=0) > best.mean(axis=0) + LEAST_ALIKE, trial, chosen)


@dataclass(frozen=True)
class _Likely:
    """What says how likely owners' values (T,) are under Pitman-Yor parameters."""

    facet: np.ndarray  # (T,)
    damped: np.ndarray  # (T,) how much each value counts
    counted: np.ndarray  # (T,) in the profile
    kinds: np.ndarray  # (T,) of the facet in the profile
    total: np.ndarray  # (T,) of the facet in the profile
    shares: Shares

    @staticmethod
    def of(table: Sessions, profiles: Profiles, shares: Shares) -> _Likely:
        facet = table.facet.astype(np.int64)
        kinds, total = profiles.kinds[table.row, facet], profiles.total[table.row, facet]
        return _Likely(facet, table.damped, lookup(profiles, table.row, table.key)[0], kinds, total, shares)

    def fitted(self, population: Population) -> Population:
        """The population with the Pitman-Yor parameters of each facet under which these values are most likely."""
        base = with_habits(base_of(self.shares, population, self.facet), self.shares)
        discount, strength = population.discount.copy(), population.strength.copy()
        best = np.full(len(discount), -np.inf)
        for d in DISCOUNTS:
            for s in STRENGTHS:
                theta = predictive(self.counted, self.total, self.kinds, base, d, s)
                likelihood = np.bincount(self.facet, self.damped * np.log(theta), len(best))
                better = likelihood > best
                best = np.where(better, likelihood, best)
                discount, strength = np.where(better, d, discount), np.where(better, s, strength)
        return replace(population, discount=discount, strength=strength)
