"""History → a pack: population habits, encoder, simulated takeovers, fusion, calibration. Deterministic under its seed.

The order of things, so that nothing is judged by what it learnt from: population and encoder from the earlier part of history;
profiles from that part; then the later part session by session, each against its profile as it then was, with simulated takeovers
beside it; once more with profiles that start empty, for young accounts. Fusion and references come from those. At last the
population is fitted again on everything, and the encoder goes on learning from everything.

Axes: S sessions, C channels, A accounts, J peers, F text facets, N numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from detector import belief, calibration, drift, encoder, joints, models, samples
from detector.errors import TrainingError
from detector.evidence import Population
from detector.facets import (
    PARENT,
    Facets,
    as_number,
    as_sessions,
    as_text,
    columns_of,
    counters,
    discover,
    factorize,
    observe,
    parent,
    steadiness,
    unchanging,
    unit_of,
)
from detector.history import lots, select
from detector.pack import Pack, arrays_of, content_id
from detector.records import Batch, Doubt, Label
from detector.sessions import Sessions, assign, bounded, close_time, combine, empty, take
from detector.settings import SessionSettings, TrainingSettings
from detector.telling import ancestors

# share of history that population and encoder see before the rest is judged; and where the history goes beyond the trusted time:
# what is new in it has thieves that nobody knows of, so the fusion must see more of the owners (commands, five seeds: cost 28.3 for
# 26.5 with .35, hit@1% .687 for .707; cards: AUC .980 for .982). At first .35 is better on browsing and worse on commands
EARLIER, EARLIER_AGAIN = 0.65, 0.35
SAMPLE_EVENTS = 50_000  # attributes' kinds are found out from so many
NO_DOUBT: Mapping[tuple[str, float], Doubt] = MappingProxyType({})
CALM, CAUGHT = Doubt(0.0, 1.0), Doubt(1.0, 0.0)
NO_LABELS: Mapping[tuple[str, float], Label] = MappingProxyType({})


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
    above = tuple(name + PARENT for name in parents)
    who = np.unique(batch.user[::step].astype(str), return_inverse=True)[1]
    units = tuple(unit_of(who, np.array([np.nan if v is None else as_number(v) for v in sample[name]])) for name in number)
    plain = Facets((*text, *above, "hour"), (*number, "pace"), (*units, PACE_UNIT), pair_of, parents, fixed)
    together = _together(select(batch, rows), plain)
    lies_in = {n: [None if v is None else parent(as_text(v), parents.get(n, 0)) for v in seen[n]] for n in text if n not in fixed}
    found = replace(plain, together=together, steady=steadiness(users, lies_in))
    return replace(found, text=(*text, *above, *(("pair",) if pair_of else ()), *((found.joint,) if together else ()), "hour"))


def _together(batch: Batch, looks: Facets) -> tuple[str, ...]:
    """Which two of the text facets to look at together; of an attribute that has parents, these."""
    values = {}
    for name in looks.text:
        if name not in (*looks.fixed, *looks.parents):
            columns = columns_of(batch, name, looks)
            column = columns[len(columns) // 2]  # an hour, not the ones beside it
            keys = column.keys[column.codes]
            values[name] = np.unique(keys, return_inverse=True)[1] - int((keys == 0).any())
    two = joints.together(factorize(batch.user, len(batch))[1], values)
    return two if Facets((), (), (), together=two).joint not in batch.attributes else ()  # what is called so is a facet already


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


STEADY = 0.5  # of what an account shows is one value, from which people are told so
PACE_UNIT = 1.0  # seconds


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
    said = samples.Said.of(table, told)
    users, account = np.unique(table.user.astype(str), return_inverse=True)
    several = int((np.bincount(account) >= 2).sum())
    if len(table) < limits.min_sessions or several < limits.min_accounts:
        raise TrainingError(
            f"{len(table)} sessions of {several} accounts with two or more; "
            f"{limits.min_sessions} sessions of {limits.min_accounts} such accounts are needed; wait for more events"
        )
    beyond = trusted_until is not None and float(table.end.max()) >= trusted_until
    cut = int((EARLIER_AGAIN if beyond else EARLIER) * len(table))
    at = np.arange(max(cut, len(table) - models.ENOUGH_SESSIONS), len(table))
    late, sure = (take(table, at), account[at]), table.end[at] < (np.inf if trusted_until is None else trusted_until)
    taught = np.flatnonzero(doubt < belief.DOUBTED)
    table, account, cut = take(table, taught), account[taught], int((taught < cut).sum())
    first, warm = models.first(found, table, account, cut, len(users), seed)
    judged, scores, owners, ps, calm, report = samples.fit_fusion(
        first, table, account, cut, late, p[at], sure, users, warm, said, seed
    )
    (final,) = models.fit_models(found, table, account, len(users), seed, first)
    fitted = {name: getattr(first.population, name) for name in models.PREDICTIVE}
    population = replace(final.population, **fitted)
    usually = take(late[0], np.flatnonzero(calibration.of_owners(p[at])))
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
        owners=owners,
        trusted_until=newest if trusted_until is None else trusted_until,
        trained_until=newest,
        sessions=len(table),
        sessions_per_day=a_day / share,
        seed=seed,
        report=report,
        drift=usual,
    )
    return replace(pack, id=content_id(pack))


def _told_of(model: models.Model, batch: Batch) -> dict[str, list[str]]:
    """What is looked at, and how, for people."""
    facets = model.facets
    return {
        "text": list(facets.text),
        "number": [f"{n} (log)" if unit else n for n, unit in zip(facets.number, facets.unit, strict=True)],
        "fixed": list(facets.fixed),
        "steady": [f"{name} {share:.0%}" for name, share in facets.steady.items() if share >= STEADY],
        "left_out": [name for name in batch.attributes if name not in (*facets.text, *facets.number)],
    }


def untrained(batch: Batch, kinds: Mapping[str, str], seed: int) -> Pack:
    """A pack to begin with, from the first events that come: facets, an encoder that has learnt nothing, no habits of others."""
    found = find_facets(batch, kinds)
    numbers, facets = len(found.number) + 1, len(found.text)
    population = Population(
        vocabulary=np.empty(0, np.uint32),
        vocabulary_facet=np.empty(0, np.int16),
        vocabulary_text=np.empty(0, f"S{models.TEXT_BYTES}"),
        log_peer=np.full((facets, 1), -np.log(100.0), np.float32),
        discount=np.full(facets, 0.5),
        strength=np.full(facets, 3.0),
        blend=np.zeros(facets),
        alike=np.zeros(facets),
        centre=np.zeros(numbers),
        pull=np.full(numbers, 0.1),
        shape=np.full(numbers, 2.0),
        scale=np.full(numbers, 2.0),
        common=np.zeros(numbers - 1),
        own_precision=np.eye(numbers - 1),
        all_precision=np.eye(numbers - 1),
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
        belief.UNKNOWN,
        -np.inf,
        -np.inf,
        0,
        0.0,
        seed,
        {"untrained": True},
    )
    return replace(pack, id=f"untrained-{content_id(pack)[:6]}", trusted_until=-1e18, trained_until=-1e18)


def _without_constants(found: Facets, table: Sessions) -> tuple[Facets, Sessions]:
    """Facets and sessions without numbers that never vary: a channel of them is silent until it shouts. Small ones vary less."""
    totals = table.numbers[:, :, :3].sum(axis=0)  # (N, 3)
    count = np.maximum(totals[:, 0], 1)
    spread = np.sqrt(np.maximum(totals[:, 2] / count - (totals[:, 1] / count) ** 2, 0))
    varies = spread > 1e-3 * np.minimum(np.sqrt(totals[:, 2] / count), 1.0)
    pick = np.flatnonzero(varies)
    number, unit = tuple(found.number[n] for n in pick), tuple(found.unit[n] for n in pick)
    return replace(found, number=number, unit=unit), replace(table, numbers=table.numbers[:, pick])


def worse(new: Pack, old: Pack | None, tolerance: float = 0.02) -> str | None:
    """Why a new pack should not replace the present one; None if it may."""
    for name, values in arrays_of(new).items():
        if values.dtype.kind == "f" and np.isnan(values).any():
            return f"not all of {name} are numbers, so it would judge nothing"
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
        "steady": "owners keep to one value of",
    }
    short, long, *_ = report["owners_strange"]
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in report["caught_at_1_percent"].items())
    size = f"{report['events']:,} events of {report['accounts']:,} accounts over {report['days']:g} days"
    return (
        f"learnt from {size}: {report['sessions']:,} sessions of {report['learnt_accounts']:,} accounts",
        f"facets: {', '.join(report['text'])}; numbers: {', '.join(report['number']) or 'none'}",
        *(f"{words}: {', '.join(report[name])}" for name, words in named.items() if report[name]),
        f"owners are strange, too: {short:.1%} of sessions begin a short run, {long:.1%} a long one",
        f"simulated takeovers on held-back time: AUC {report['simulated_auc']:.3f}; caught at 1 % false alarms: {kinds}",
    )
