"""History → a pack: population habits, encoder, simulated takeovers, fusion, calibration. Deterministic under its seed.

The order of things, so that nothing is judged by what it learnt from: population and encoder from the earlier part of history;
profiles from that part; then the later part session by session, each against its profile as it then was, with simulated takeovers
beside it; once more with profiles that start empty, for young accounts. Fusion and references come from those. At last the
population is fitted again on everything, and the encoder goes on learning from everything.

Axes: S sessions, C channels, A accounts, J peers, F text facets, N numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from detector import attacks, belief, calibration, drift, encoder, fusion, waiting
from detector.errors import TrainingError
from detector.evidence import (
    DERIVED,
    EMBEDDING_CHANNELS,
    EMBEDDING_SCALE,
    Population,
    Shares,
    base_of,
    channel_names,
    channels,
    embedding_channels,
    peer_log_likelihood,
    predictive,
    shares_of,
    side_of,
    text_channels,
    with_habits,
)
from detector.facets import PARENT, Facets, ancestors, as_number, as_sessions, counters, discover, factorize, observe, unchanging
from detector.history import lots, select
from detector.pack import Pack, content_id
from detector.profiles import Profiles, Shape, blank, learn, lookup, put
from detector.profiles import take as take_profiles
from detector.records import Batch, Doubt, Label
from detector.sessions import Sessions, assign, bounded, close_time, combine, empty, take, with_volume
from detector.settings import SessionSettings, TrainingSettings

if TYPE_CHECKING:
    from detector import contrastive

# share of history that population and encoder see before the rest is judged; and where the history goes beyond the trusted time:
# what is new in it has thieves that nobody knows of, so the fusion must see more of the owners (commands, five seeds: cost 28.3 for
# 26.5 with .35, hit@1% .687 for .707; cards: AUC .980 for .982). At first .35 is better on browsing and worse on commands
EARLIER, EARLIER_AGAIN = 0.65, 0.35
PEERS = 64  # J: more blurred nothing and cost memory per account
VOCABULARY = 1 << 16  # V: the most frequent values; the others share one probability per facet
PEER_SMOOTHING = 20.0  # damped counts of the population added to each peer
COHORT = 1000
STEPS = 300  # of the encoder: with 150, email's AUC is .881 for .906; with 900 it is the same
# more of them for the encoder of the whole history, which goes on from the one that the fusion was fitted with: one that starts
# anew (300 steps) lies elsewhere, and owners' scores with it (browsing: AUC .858 for .863, p <= .01 of 1.7 % for 1.0 %)
STEPS_ON = 150
WAYS = (False, True)  # whether the encoder is whitened: what tells later sessions apart better (email: not, the other logs: it is)
ATTACKS_PER_SESSION, ENOUGH_ATTACKS = 3, 10_000  # simulated on the later part, the larger of the two; and again on young accounts
ENOUGH_SESSIONS = 15_000  # of the later part are judged; more only costs time
DISCOUNTS, STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9), (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
BLENDS = (0.0, 0.1, 0.3, 1.0)
LEAST_GAIN = 0.005  # of AUC: a larger blend must earn its place
TELLING = 0.8  # share of other accounts' sessions, beyond chance, that one look at an attribute catches at few false alarms
ALIKE, LEAST_ALIKE = 0.5, 0.001  # share of what suits the embedding, where that gains so much of AUC; .25 to .8 gain alike
MEAN_OF = 256  # accounts, for how well a value suits the mean one
PREDICTIVE = ("discount", "strength", "blend", "alike")  # what of the population the later part of history speaks for
SAMPLE_EVENTS = 50_000  # attributes' kinds are found out from so many
TEXT_BYTES = 48
NO_DOUBT: Mapping[tuple[str, float], Doubt] = MappingProxyType({})
CALM, CAUGHT = Doubt(0.0, 1.0), Doubt(1.0, 0.0)
NO_LABELS: Mapping[tuple[str, float], Label] = MappingProxyType({})
TRUE, HARD = 25.0, 5.0  # simulated takeovers that a confirmed one is worth; owners' sessions that a dismissed one is worth


@dataclass(frozen=True)
class _Model:
    """What the first half of training gives: enough to turn sessions into channels."""

    facets: Facets
    population: Population
    model: encoder.Encoder
    shape: Shape
    members: contrastive.Members  # of the encoder, to go on from
    whitened: bool  # how they are merged
    telling: np.ndarray  # (F + N,) bool, as `attacks.Ground` has it


def sessions_of(batch: Batch, facets: Facets, rules: SessionSettings) -> Sessions:
    """All sessions of a history at once, in the order of their closing."""
    nothing = empty(len(facets.number))
    batch = bounded(batch, nothing, rules.named_gap)
    assignment = assign(batch, nothing, rules.gap, rules.named_gap)
    seen, numbers = observe(batch, assignment, nothing, facets)
    table = combine(as_sessions(batch, seen, numbers), assignment.session, len(assignment.continues))
    return take(table, np.lexsort((table.start, table.user.astype(str), close_time(table, rules.gap, rules.named_gap))))


def _sample(batch: Batch, rules: SessionSettings, most: int, always: Set[str]) -> tuple[int, float, np.ndarray]:
    """How many accounts there are, sessions a day in the last month, and (E,) which events to learn from.

    Where there are more than `most` sessions: the newest of all accounts, as long as an account has HABIT of them; where that is
    too few to know anybody, a sample of the accounts with more of theirs. Accounts `always` are in it.
    """
    assignment = assign(bounded(batch, empty(0), rules.named_gap), empty(0), rules.gap, rules.named_gap)
    first = assignment.arrival  # (S,)
    user, start = batch.user[first], batch.time[first]
    codes: dict[str, int] = {}
    account = np.array([codes.setdefault(u, len(codes)) for u in user.tolist()], np.int64)  # (S,)
    accounts, names = len(codes), np.array(list(codes), object)  # (A,)
    newest = float(batch.time.max())
    days = min(max((newest - float(batch.time.min())) / 86400, 1 / 24), 28)
    sizes = accounts, float((start > newest - 28 * 86400).sum() / days)
    if len(start) <= most:
        return *sizes, np.ones(len(batch), bool)
    order = np.argsort(-start, kind="stable")  # newest first
    reach = most
    while reach < len(start) and reach < HABIT * len(np.unique(account[order[:reach]])):
        reach = min(2 * reach, len(start))
    within = order[:reach]
    held = np.bincount(account[within], minlength=accounts)
    drawn = np.argsort(lots(names), kind="stable")
    taken = np.array([name in always for name in codes])
    taken[drawn[: np.searchsorted(np.cumsum(held[drawn]), most, side="right")]] = True
    chosen = np.zeros(len(start), bool)
    chosen[within] = taken[account[within]]
    return *sizes, chosen[assignment.session]


HABIT = 20  # sessions of an account, from which its habits show


def find_facets(batch: Batch, kinds: Mapping[str, str]) -> Facets:
    """Which facets a history has: attributes by kind, derived ones where they vary, the scale of numbers by likelihood."""
    step = max(1, len(batch) // SAMPLE_EVENTS)
    sample = {name: column[::step].tolist() for name, column in batch.attributes.items()}
    text, number = discover(sample, kinds)
    free = tuple(name for name in number if kinds.get(name) != "number")
    rows = _of_some(batch)
    users, seen = batch.user[rows].tolist(), {name: batch.attributes[name][rows].tolist() for name in (*text, *free)}
    fixed = unchanging(users, np.floor(batch.time[rows] / 86400).astype(np.int64), seen)
    growing = counters(users, batch.time[rows], {name: seen[name] for name in free if name not in fixed})
    number = tuple(name for name in number if name not in (*fixed, *growing))
    text = tuple(name for name in batch.attributes if name in text or name in fixed)
    pair_of = next((name for name in ("action", *text) if name in text and name not in fixed), None)
    parents = {name: level for name, level in _parents(batch, rows, kinds, number).items() if name not in fixed}
    derived = (*(name + PARENT for name in parents), *(("pair",) if pair_of else ()))
    logs = tuple(_log_scale(np.array([as_number(v) for v in sample[name] if v is not None])) for name in number)
    return Facets((*text, *derived, "hour"), (*number, "pace"), (*logs, True), pair_of, parents, fixed)


def _of_some(batch: Batch) -> np.ndarray:
    """Which events are of some accounts, all of theirs: about SAMPLE_EVENTS."""
    names, user = factorize(batch.user, len(batch))
    drawn = np.argsort(lots(np.array(names, object)), kind="stable")
    some = drawn[: np.searchsorted(np.cumsum(np.bincount(user)[drawn]), SAMPLE_EVENTS) + 1]
    return np.flatnonzero(np.isin(user, some))[:SAMPLE_EVENTS]


def _parents(batch: Batch, rows: np.ndarray, kinds: Mapping[str, str], number: Sequence[str]) -> dict[str, int]:
    """Attribute -> levels, as `ancestors` has it of events `rows`. An identifier of events, though no facet, may have a parent."""
    no = {n for n in batch.attributes if n in number or kinds.get(n) in ("number", "ignored") or n + PARENT in batch.attributes}
    return ancestors(batch.user[rows].tolist(), {n: c[rows].tolist() for n, c in batch.attributes.items() if n not in no})


def _log_scale(values: np.ndarray) -> bool:
    """Whether log-normal explains (E,) numbers better than normal does, by a clear margin and with no negative ones."""
    values = values[~np.isnan(values)]
    if not len(values) or values.min() < 0:
        return False
    logs = np.log1p(values)
    normal = -np.log(max(values.std(), 1e-9))
    log_normal = -np.log(max(logs.std(), 1e-9)) - logs.mean()
    return bool(log_normal > normal + LOG_MARGIN)


LOG_MARGIN = 0.5  # nats per value: on a linear scale a large amount stands out more, so the log scale must earn its place


def train(
    batch: Batch,
    kinds: Mapping[str, str],
    rules: SessionSettings,
    limits: TrainingSettings,
    seed: int,
    trusted_until: float | None = None,
    doubtful: Mapping[tuple[str, float], Doubt] = NO_DOUBT,
    labels: Mapping[tuple[str, float], Label] = NO_LABELS,
    share: float = 1.0,
) -> Pack:
    """A pack from a history of events in the order of their arrival. Raises TrainingError where there is too little.

    trusted_until: sessions that ended before it are learnt without doubt; the end of this history where None. doubtful: (user,
    start) -> how sessions were judged before that might be thieves': likely thieves' teach nothing, and of those of one p only so
    many set a reference as are the owners'.
    labels: (user, start) -> what people said of a session, which goes before doubt: a confirmed takeover teaches the fusion.
    share: of all accounts that are in the history given.
    """
    if not len(batch):
        raise TrainingError(f"no events to learn from; {limits.min_sessions} sessions of {limits.min_accounts} accounts are needed")
    found = find_facets(batch, kinds)
    newest, days = float(batch.time.max()), max(float(batch.time.max() - batch.time.min()) / 86400, 1 / 24)
    accounts, a_day, chosen = _sample(batch, rules, limits.max_sessions, {user for user, _ in labels})
    table = sessions_of(select(batch, chosen), found, rules)
    found, table = _without_constants(found, table)
    told = [labels.get(pair) for pair in zip(table.user, table.start.tolist(), strict=True)]
    before = [doubtful.get(pair, CALM) for pair in zip(table.user, table.start.tolist(), strict=True)]
    before = [d if label is None else CALM if label.owner else CAUGHT for d, label in zip(before, told, strict=True)]
    doubt, p = np.array([d.belief for d in before]), np.array([d.p for d in before])
    said = _Said.of(table, told)
    users, account = np.unique(table.user.astype(str), return_inverse=True)
    several = int((np.bincount(account) >= 2).sum())
    if len(table) < limits.min_sessions or several < limits.min_accounts:
        raise TrainingError(
            f"{len(table)} sessions of {several} accounts with two or more; "
            f"{limits.min_sessions} sessions of {limits.min_accounts} such accounts are needed; wait for more events"
        )
    beyond = trusted_until is not None and float(table.end.max()) >= trusted_until
    cut = int((EARLIER_AGAIN if beyond else EARLIER) * len(table))
    at = np.arange(max(cut, len(table) - ENOUGH_SESSIONS), len(table))
    late, owners = (take(table, at), account[at]), calibration.of_owners(p[at])
    taught = np.flatnonzero(doubt < belief.DOUBTED)
    table, account, cut = take(table, taught), account[taught], int((taught < cut).sum())
    first, warm = _first(found, table, account, cut, len(users), seed)
    judged, scores, ps, calm, report = _fit_fusion(first, table, account, cut, late, owners, users, warm, said, seed)
    (final,) = _fit_models(found, table, account, len(users), seed, first)
    fitted = {name: getattr(first.population, name) for name in PREDICTIVE}
    population = replace(final.population, **fitted)
    usually = take(late[0], np.flatnonzero(owners))
    seen = encoder.encode(final.model, usually, encoder.measures(usually, population.centre, population.spread))
    usual = drift.reference(take(table, np.arange(cut)), usually, seen, ps, first.population.vocabulary, len(found.text))
    report |= {
        "accounts": round(accounts / share),
        "learnt_accounts": len(users),
        "sampled": not bool(chosen.all()) or share < 1,
        "sessions": len(table),
        "events": len(batch),
        "days": round(days, 2),
    } | _told_of(first, batch)
    pack = Pack(
        id="",
        facets=found,
        population=population,
        encoder=final.model,
        fusion=judged,
        scores=scores,
        calm=calm,
        trusted_until=newest if trusted_until is None else trusted_until,
        trained_until=newest,
        sessions=len(table),
        sessions_per_day=a_day / share,
        seed=seed,
        report=report,
        drift=usual,
    )
    return replace(pack, id=content_id(pack))


def _told_of(model: _Model, batch: Batch) -> dict[str, list[str]]:
    """What is looked at, and how, for people."""
    facets = model.facets
    return {
        "text": list(facets.text),
        "number": [f"{n} (log)" if log else n for n, log in zip(facets.number, facets.log_scale, strict=True)],
        "fixed": list(facets.fixed),
        "telling": [name for name, told in zip((*facets.text, *facets.number), model.telling, strict=True) if told],
        "left_out": [name for name in batch.attributes if name not in (*facets.text, *facets.number)],
    }


def untrained(batch: Batch, kinds: Mapping[str, str], seed: int) -> Pack:
    """A pack to begin with, from the first events that come: facets, an encoder that has learnt nothing, no habits of others."""
    found = find_facets(batch, kinds)
    numbers, facets = len(found.number) + 1, len(found.text)
    population = Population(
        vocabulary=np.empty(0, np.uint32),
        vocabulary_facet=np.empty(0, np.int16),
        vocabulary_text=np.empty(0, f"S{TEXT_BYTES}"),
        log_peer=np.full((facets, 1), -np.log(100.0), np.float32),
        discount=np.full(facets, 0.5),
        strength=np.full(facets, 3.0),
        blend=np.zeros(facets),
        alike=np.zeros(facets),
        centre=np.zeros(numbers),
        pull=np.full(numbers, 0.1),
        shape=np.full(numbers, 2.0),
        scale=np.full(numbers, 2.0),
        cohort=np.zeros((1, encoder.WIDTH), np.float32),
        peer_centre=np.zeros((1, encoder.WIDTH), np.float32),
        value_vector=np.zeros((0, encoder.WIDTH), np.float16),
        value_level=np.zeros(0, np.float32),
    )
    pack = Pack(
        "",
        found,
        population,
        encoder.drawn(numbers, seed),
        None,
        None,
        calibration.BODY,
        -np.inf,
        -np.inf,
        0,
        0.0,
        seed,
        {"untrained": True},
    )
    return replace(pack, id=f"untrained-{content_id(pack)[:6]}", trusted_until=-1e18, trained_until=-1e18)


def _without_constants(found: Facets, table: Sessions) -> tuple[Facets, Sessions]:
    """Facets and sessions without numbers that never vary: a channel of them is silent until it shouts."""
    totals = table.numbers[:, :, :3].sum(axis=0)  # (N, 3)
    count = np.maximum(totals[:, 0], 1)
    spread = np.sqrt(np.maximum(totals[:, 2] / count - (totals[:, 1] / count) ** 2, 0))
    varies = spread > 1e-3
    pick = np.flatnonzero(varies)
    number, log_scale = tuple(found.number[n] for n in pick), tuple(found.log_scale[n] for n in pick)
    return replace(found, number=number, log_scale=log_scale), replace(table, numbers=table.numbers[:, pick])


def _fit_models(
    found: Facets, table: Sessions, account: np.ndarray, accounts: int, seed: int, before: _Model | None = None
) -> list[_Model]:
    """Population and encoder from the sessions of a table; account (S,) codes below `accounts`.

    One for each way in which the encoder's members are merged; or the one that goes on from `before`, in its way.
    """
    from detector import contrastive  # torch is slow to load, and a daemon that judges needs none

    centre, pull, shape, scale = fit_numbers(with_volume(table), account, accounts)
    none = np.empty(0)
    numbers = {"centre": centre, "pull": pull, "shape": shape, "scale": scale}
    population = Population(**dict.fromkeys((f.name for f in fields(Population)), none) | numbers)
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
) -> _Model:
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
    return _Model(found, population, model, size, members, whitened, np.zeros(len(found.text) + len(found.number), bool))


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
        within, between = max(float(np.median(v)), 1e-6), max(float(np.var(m)), 1e-6)
        out[:, n] = np.median(m), np.clip(within / between, 0.01, 10), 2.0, 2.0 * within
    return out[0], out[1], out[2], out[3]


def _strangers(account: np.ndarray, warm: Profiles, rng: np.random.Generator, draws: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Which sessions of the later part (S) are judged, and for each, so often, one of another account; account (S,)."""
    own, stranger = np.tile(np.arange(len(account)), draws), np.concatenate([rng.permutation(len(account)) for _ in range(draws)])
    judged = np.flatnonzero((warm.history[account[own]] > 0) & (account[stranger] != account[own]))[:ENOUGH_SESSIONS]
    return own[judged], stranger[judged]


def _told_apart(model: _Model, table: Sessions, account: np.ndarray, warm: Profiles, seed: int) -> float:
    """What share of other accounts' sessions the channels of the embedding catch at few false alarms of owners' later ones (S).

    0 where none of the later accounts was there before. Of few sessions many strangers are drawn: on browsing (180) one draw says
    .18 with a deviation of .05, and two ways differ by .02 to .04.
    """
    draws = max(1, -(-ENOUGH_ATTACKS // max(len(account), 1)))
    judged, strangers = _strangers(account, warm, np.random.default_rng(seed), draws)
    if not len(judged):
        return 0.0
    embedding = encoder.encode(model.model, table, encoder.measures(table, model.population.centre, model.population.spread))
    own = take_profiles(warm, account[judged])
    owners, others = (embedding_channels(own, embedding[rows], model.population) for rows in (judged, strangers))
    return float(fusion.caught(owners, others, np.ones(len(others))).mean())


def _first(found: Facets, table: Sessions, account: np.ndarray, cut: int, accounts: int, seed: int) -> tuple[_Model, Profiles]:
    """The model from the sessions before `cut`, as those after it speak for it, and profiles that have learnt the former."""
    early, late = take(table, np.arange(cut)), take(table, np.arange(cut, len(table)))
    models = _fit_models(found, early, account[:cut], accounts, seed)
    warmed = [_known(model, early, account[:cut], accounts) for model in models]
    apart = [_told_apart(model, late, account[cut:], warm, seed) for model, warm in zip(models, warmed, strict=True)]
    best = int(np.argmax(apart))
    population = _with_predictive(models[best], late, account[cut:], warmed[best], seed)
    model = replace(models[best], population=population)
    return replace(model, telling=_telling(model, late, account[cut:], warmed[best], seed)), warmed[best]


def _telling(model: _Model, table: Sessions, account: np.ndarray, warm: Profiles, seed: int) -> np.ndarray:
    """(F + N,) bool: which attributes give nearly all other accounts' sessions (S) away, with what is made of them.

    `Facets.fixed` is left aside; none where no other attribute would be left. A thief who has that of the owner shows in what else
    there is, and the fusion can learn it from no other takeover.
    """
    facets, sides = model.facets, (*model.facets.text, *model.facets.number)
    judged, strangers = _strangers(account, warm, np.random.default_rng(seed))
    if not len(judged):
        return model.telling
    own, seen = take_profiles(warm, account[judged]), []
    for rows in (judged, strangers):
        some = take(table, rows)
        peers = peer_log_likelihood(some, model.population, len(facets.text))
        embedding = encoder.encode(model.model, some, encoder.measures(some, model.population.centre, model.population.spread))
        seen.append(channels(some, own, embedding, peers, model.population, facets))
    beyond = fusion.caught(seen[0], seen[1], np.ones(len(judged))) - np.mean(fusion.FEW)
    of = [side_of(name).removesuffix(PARENT) for name in channel_names(facets.text, (*facets.number, "volume"))]
    attributes = {name.removesuffix(PARENT) for name in sides} - {*DERIVED, *facets.fixed}
    striking = {name for name, x in zip(of, beyond, strict=True) if x > TELLING and name in attributes}
    told = np.array([name.removesuffix(PARENT) in striking for name in sides])
    told[: len(facets.text)] = told[facets.sources]
    return told if attributes - striking else model.telling


def _with_predictive(model: _Model, table: Sessions, account: np.ndarray, warm: Profiles, seed: int) -> Population:
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
        looked_at.append((some, peer_log_likelihood(some, population, facets), shares))
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


@dataclass(frozen=True)
class _Sample:
    """Channels with their context."""

    channels: np.ndarray  # (S, C)
    history: np.ndarray  # (S,)
    events: np.ndarray  # (S,)
    kind: np.ndarray  # (S,) of attack; none for owners
    number: np.ndarray  # (S,) that is inflated, if it is; none for owners
    score: np.ndarray  # (S,) nats, as in live running; none for attacks
    doubt: np.ndarray  # (S,) after the session, as in live running; none for attacks


def _in_turn(account: np.ndarray) -> Iterator[np.ndarray]:
    """Sessions (S,) in their order, as many at once as may be: those that are the first of their accounts, the second …"""
    order = np.argsort(account, kind="stable")
    heads = np.flatnonzero(np.diff(account[order], prepend=-1))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(heads, np.diff(np.append(heads, len(order))))
    by_rank = np.argsort(rank, kind="stable")
    for low, high in pairwise(np.searchsorted(rank[by_rank], np.arange(rank.max(initial=-1) + 2))):
        yield by_rank[low:high]


def _known(model: _Model, table: Sessions, account: np.ndarray, accounts: int) -> Profiles:
    """Profiles (A) that have learnt the sessions (S) of their accounts (S,)."""
    profiles = blank(accounts, model.shape, 0.0)
    for now in _in_turn(account):
        some, mine = take(table, now), take_profiles(profiles, account[now])
        embedding, affinity, whole = _lesson(model, some)
        put(profiles, account[now], learn(mine, some, whole, embedding, affinity))
    return profiles


def _walk(
    model: _Model,
    table: Sessions,
    account: np.ndarray,
    profiles: Profiles,
    attacks_rng: np.random.Generator | None = None,
    fitted: fusion.Fusion | None = None,
) -> tuple[_Sample, _Sample | None]:
    """Turn sessions into channels and learn them, in their order; beside simulated takeovers where `attacks_rng` is given.

    With a fusion, it goes as in live running: doubt is carried over, and only calm sessions are learnt.
    """
    measured = encoder.measures(table, model.population.centre, model.population.spread)
    embedding = encoder.encode(model.model, table, measured)
    nats = np.zeros((len(table), len(channel_names(model.facets.text, (*model.facets.number, "volume")))))
    e, (boosting, heard, llr, carried, after) = np.zeros_like(nats), np.zeros((5, len(table)))
    history = np.zeros(len(table), np.int64)
    taken: list[tuple[np.ndarray, ...]] = []
    profiles = take_profiles(profiles, np.arange(len(profiles)))
    for now in _in_turn(account):
        some, mine = take(table, now), take_profiles(profiles, account[now])
        peers = peer_log_likelihood(some, model.population, model.shape.facets)
        nats[now] = channels(some, mine, embedding[now], peers, model.population, model.facets)
        history[now] = mine.history
        if attacks_rng is not None:
            again = np.tile(np.arange(len(now)), max(ATTACKS_PER_SESSION, -(-ENOUGH_ATTACKS // len(table))))
            owners = take_profiles(mine, again), take(some, again)
            taken.append(_attack(model, table, account, now[again], *owners, attacks_rng))
        weight, doubt = np.ones(len(now)), mine.doubt
        if fitted is not None:
            opinion = fusion.judge(fitted, nats[now], mine.history, some.events)
            e[now], boosting[now], heard[now], llr[now] = opinion.e, opinion.boosting, opinion.heard, opinion.llr
            carried[now] = belief.carried(mine.doubt)
            doubt = belief.update(mine.doubt, belief.confident(opinion.llr, mine.history))
            weight = belief.lesson(doubt, mine.history, mine.unlearnt)
        new = learn(mine, some, weight, embedding[now], peers.sum(axis=1))
        after[now] = doubt
        new = replace(new, doubt=doubt, unlearnt=belief.patience(doubt, mine.unlearnt))
        new = waiting.held(new, some, belief.waits(doubt, weight))
        put(profiles, account[now], waiting.taught(new, some.user, len(model.facets.number), partial(_lesson, model)))
    takeovers = None
    if taken:
        stolen, known, events, kind, number = (np.concatenate([t[i] for t in taken]) for i in range(5))
        takeovers = _Sample(stolen, known, events, kind, number, np.empty(0), np.empty(0))
    said = fusion.Opinion(e, boosting, heard, history, llr)
    score = fusion.strangeness(fitted, said) + carried if fitted is not None else carried
    return _Sample(nats, history, table.events, np.empty(0), np.empty(0), score, after), takeovers


def _lesson(model: _Model, table: Sessions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    measured = encoder.measures(table, model.population.centre, model.population.spread)
    affinity = peer_log_likelihood(table, model.population, model.shape.facets).sum(axis=1)
    return encoder.encode(model.model, table, measured), affinity, np.ones(len(table))


def _attack(
    model: _Model, table: Sessions, account: np.ndarray, now: np.ndarray, mine: Profiles, some: Sessions, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Channels, history, events, kind and number of one simulated takeover per session; strangers are drawn from all sessions."""
    strangers = rng.integers(0, len(table), len(now))
    ground = attacks.Ground(model.facets, np.sqrt(model.population.scale / model.population.shape), model.telling)
    kind, number = attacks.drawn(len(now), ground, rng)
    stolen = attacks.simulate(some, take(table, strangers), kind, number, ground, rng)
    valid = np.flatnonzero((account[strangers] != account[now]) & attacks.possible(model.facets)[kind])
    stolen, mine = take(stolen, valid), take_profiles(mine, valid)
    measured = encoder.measures(stolen, model.population.centre, model.population.spread)
    peers = peer_log_likelihood(stolen, model.population, model.shape.facets)
    embedding = encoder.encode(model.model, stolen, measured)
    nats = channels(stolen, mine, embedding, peers, model.population, model.facets)
    return nats, mine.history, stolen.events, kind[valid], number[valid]


def _fit_fusion(
    model: _Model,
    table: Sessions,
    account: np.ndarray,
    cut: int,
    late: tuple[Sessions, np.ndarray],
    owners: np.ndarray,
    users: np.ndarray,
    warm: Profiles,
    said: _Said,
    seed: int,
) -> tuple[fusion.Fusion, tuple[fusion.Reference, ...], np.ndarray, np.ndarray, dict[str, Any]]:
    """Fusion, reference of scores, p-values of the later part of history (of its last sessions), what of those shows in sessions
    that are not in doubt (K,), and what separates how well.

    Sessions from `cut` on are judged. References of scores come from `late` (S), lived through with what is in doubt; (S,) bool
    says which of them are the owners'.
    """
    rng = np.random.default_rng(seed)
    nothing = blank(len(users), model.shape, 0.0)
    judged = np.arange(max(cut, len(table) - ENOUGH_SESSIONS), len(table))
    some, mine = take(table, judged), account[judged]
    starts = (warm, nothing)  # young accounts are seen by forgetting all
    walks = [_walk(model, some, mine, start, rng) for start in starts]
    own = _joined([known for known, _ in walks])
    bad = _joined([taken for _, taken in walks if taken is not None])
    thieves, worth = _labelled(model, said, False, users, warm)
    dismissed, times = _labelled(model, said, True, users, warm)
    again = np.repeat(np.arange(len(times)), (HARD * times).astype(int))  # an owner's session that alarmed is worth more than most
    names = channel_names(model.facets.text, (*model.facets.number, "volume"))
    fitted, strangeness = fusion.fit(
        np.concatenate([own.channels, dismissed.channels[again]]),
        np.concatenate([own.history, dismissed.history[again]]),
        np.concatenate([own.events, dismissed.events[again]]),
        _taken(bad, thieves, worth),
        ~np.isin(names, EMBEDDING_CHANNELS),
        seed,
    )
    lived = [_of(_walk(model, *late, start, fitted=fitted)[0], owners) for start in starts]
    scores = fusion.references_by_history(_joined(lived).score, _joined(lived).history)
    taken, n = walks[0][1], len(some)
    if taken is None:
        raise TrainingError("no later part of history to judge")
    caught = fusion.strangeness(fitted, fusion.judge(fitted, taken.channels, taken.history, taken.events))
    limit = float(np.quantile(strangeness[:n], 0.99))
    by_kind = {attacks.NAMES[k]: round(float((caught[taken.kind == k] > limit).mean()), 3) for k in np.unique(taken.kind)}
    report = {
        "relevance": {name: round(float(r), 2) for name, r in zip(names, fitted.relevance, strict=True)},
        "simulated_auc": round(fusion.auc(strangeness[:n], caught), 4),
        "caught_at_1_percent": by_kind,
    }
    ps = fusion.p_values(scores, lived[0].score, lived[0].history)
    calm = calibration.calm_shares(ps, lived[0].doubt < belief.DOUBTED)
    return fitted, scores, ps, calm, report


@dataclass(frozen=True)
class _Said:
    """Sessions that people spoke of."""

    table: Sessions
    owner: np.ndarray  # (S,) bool
    weight: np.ndarray  # (S,)

    @staticmethod
    def of(table: Sessions, told: Sequence[Label | None]) -> _Said:
        rows = np.array([s for s, label in enumerate(told) if label is not None], np.int64)
        known = [label for label in told if label is not None]
        return _Said(take(table, rows), np.array([x.owner for x in known], bool), np.array([x.weight for x in known]))


def _taken(simulated: _Sample, told: _Sample, worth: np.ndarray) -> fusion.Taken:
    """Simulated takeovers, and those that people told of, which count as swaps and are worth more.

    Who shows who he is does not say what else gives thieves away. Each number that is inflated is a kind of its own.
    """
    asked = np.where(simulated.kind == attacks.INFLATE, len(attacks.NAMES) + simulated.number, simulated.kind)
    asked = np.where(simulated.kind == attacks.STRANGER, -1, asked)
    prior = np.array([attacks.PRIOR[name] for name in attacks.NAMES])
    return fusion.Taken(
        channels=np.concatenate([simulated.channels, told.channels]),
        history=np.concatenate([simulated.history, told.history]),
        events=np.concatenate([simulated.events, told.events]),
        weight=np.concatenate([prior[simulated.kind], TRUE * worth]),
        kind=np.concatenate([asked, np.full(len(worth), attacks.SWAP)]),
    )


def _labelled(model: _Model, said: _Said, owner: bool, users: np.ndarray, warm: Profiles) -> tuple[_Sample, np.ndarray]:
    """Channels of the owners' or the thieves' sessions against the profiles of the earlier part, and their weights."""
    at = np.minimum(np.searchsorted(users, said.table.user.astype(str)), len(users) - 1)
    known = (users[at] == said.table.user.astype(str)) & (warm.history[at] > 0) & (said.owner == owner)
    if owner:
        known &= said.table.end > warm.last[at]  # what a profile has learnt already says nothing
    rows = np.flatnonzero(known)
    some, mine = take(said.table, rows), take_profiles(warm, at[rows])
    measured = encoder.measures(some, model.population.centre, model.population.spread)
    peers = peer_log_likelihood(some, model.population, model.shape.facets)
    nats = channels(some, mine, encoder.encode(model.model, some, measured), peers, model.population, model.facets)
    return _Sample(nats, mine.history, some.events, *(np.empty(0) for _ in range(4))), said.weight[rows]


def _of(sample: _Sample, which: np.ndarray) -> _Sample:
    """The sample of the sessions `which` (S,) bool."""
    columns = {f.name: getattr(sample, f.name) for f in fields(_Sample)}
    return _Sample(**{name: x[which] if len(x) else x for name, x in columns.items()})


def _joined(samples: list[_Sample]) -> _Sample:
    """The sample of all; of walks after the first only young accounts, since of mature ones the first knows better."""
    young = [s.history < fusion.MATURITY[-1] if k else s.history >= 0 for k, s in enumerate(samples)]
    columns = [f.name for f in fields(_Sample)]
    kept = {
        c: [getattr(s, c)[y] if len(getattr(s, c)) else getattr(s, c) for s, y in zip(samples, young, strict=True)] for c in columns
    }
    return _Sample(**{c: np.concatenate(kept[c]) for c in columns})


def worse(new: Pack, old: Pack | None, tolerance: float = 0.02) -> str | None:
    """Why a new pack should not replace the present one; None if it may."""
    if old is None or old.fusion is None:
        return None
    before, after = float(old.report["simulated_auc"]), float(new.report["simulated_auc"])
    if after < before - tolerance:
        return f"it separates simulated takeovers worse: AUC {after:.3f}, the present pack had {before:.3f}"
    return None


def report_lines(report: Mapping[str, Any]) -> Sequence[str]:
    """The report of a training as lines for people."""
    named = {
        "left_out": "left out",
        "fixed": "never change and so say who an account is",
        "telling": "give nearly every stranger away",
    }
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in report["caught_at_1_percent"].items())
    size = f"{report['events']:,} events of {report['accounts']:,} accounts over {report['days']:g} days"
    return (
        f"learnt from {size}: {report['sessions']:,} sessions of {report['learnt_accounts']:,} accounts",
        f"facets: {', '.join(report['text'])}; numbers: {', '.join(report['number']) or 'none'}",
        *(f"{words}: {', '.join(report[name])}" for name, words in named.items() if report[name]),
        f"simulated takeovers on held-back time: AUC {report['simulated_auc']:.3f}; caught at 1 % false alarms: {kinds}",
    )
