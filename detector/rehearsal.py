"""`unlike rehearse`: how good the detector would be on somebody's own log, found out without labels.

A pack is trained on the earlier part of the history. Into a copy of the later part, the one held back, takeovers of every simulated
kind are spliced (`splicing`), and the whole is replayed by the daemon's own cycle. What was caught, how soon, and at how many false
alarms is counted from the alerts that the cycle raised.

An owner's own sessions count up to the first takeover of the account: those after it are judged under the doubt that the takeover
left, as they should be, so they are neither false alarms nor catches. The pack stays the same throughout; the daemon would train
again. One log holds only so many takeovers before they disturb what they measure, hence several rounds with takeovers of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from detector import splicing, training
from detector.attacks import KINDS, levels
from detector.calibration import SPELL
from detector.cycle import Engine, rebuild, settle
from detector.errors import SettingsError, TrainingError
from detector.fusion import auc
from detector.history import select
from detector.lines import rfc3339
from detector.pack import Pack
from detector.profiles import Profiles
from detector.records import Alert, Batch, Chunk, Doubt, Verdict
from detector.replay import Recorder, empty_batch
from detector.sessions import Sessions
from detector.settings import Settings, duration
from detector.training import NO_DOUBT

DAY = 86400.0
SHARE, LONGEST = 0.25, 28 * DAY  # of the time, held back where nobody says how much
MOST = 0.5  # of the sessions, held back where that is too little
SILENCE = 7 * DAY  # longer than this without any event at all is no time that was watched
SPOILT = 0.04  # of the sessions held back are takeovers, at most: habits and calibration must stay those of the owners
SESSIONS_EACH = 2  # of a takeover, on average
EACH, FEWEST, ROUNDS = 25, 10, 3  # takeovers of each kind: wanted; enough to do with one round; rounds at most
ALARM_SHARES = (0.01, 0.001)  # p-values at which the realised share is told
MATURITIES = ("new", "young", "mature")
CURVE, CALIBRATION = 40, tuple(float(x) for x in np.geomspace(0.001, 1, 25))

Key = tuple[str, str | None, float]  # user, name and start of a session
Rebuilt = tuple[Profiles, list[str], Sessions, float]  # what `cycle.rebuild` returns
Progress = Callable[[str, float, float], None]  # what is being done, how far, of how much; of 0: nobody knows


@dataclass(frozen=True)
class Round:
    """One replay: what was spliced in, and what the cycle said."""

    takeovers: tuple[splicing.Takeover, ...]
    verdicts: dict[Key, Verdict]
    alerts: tuple[Alert, ...]
    threshold: float  # largest p that raises an alert
    until: float  # event time that it came to


@dataclass(frozen=True)
class Outcome:
    """What became of one takeover, judged in all of its sessions."""

    kind: str
    maturity: str  # of the account, as known at its first session
    caught: bool  # an alert was raised on one of its sessions, not before its first foreign event
    seconds: float  # from the first foreign event to the alert; nan where there was none
    events: float  # likewise
    p: float  # least of its sessions
    scores: tuple[float, ...]  # of its sessions


def held_back(text: str | None) -> float | None:
    """A share of the time span (`0.3`, `30%`), or a duration (`14d`) as seconds, which are 1 or more; raises SettingsError."""
    if text is None:
        return None
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = math.nan
    try:
        value = duration(text) if math.isnan(share) else share
    except ValueError as error:
        raise SettingsError(f"--held-back {text}: expected a share such as 0.25 or 25%, or a duration such as 14d") from error
    if not (0 < value < 1 if not math.isnan(share) else value >= 1):
        raise SettingsError(f"--held-back {text}: expected a share between 0 and 1, or a duration of a second or more")
    return float(value)


def rehearse(
    batch: Batch,
    settings: Settings,
    now: float,
    *,
    hold: float | None = None,
    each: int | None = None,
    doubtful: Mapping[tuple[str, float], Doubt] = NO_DOUBT,
    tell: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """The report of a rehearsal over a history, JSON-able; see `report`. Deterministic under `settings.seed`.

    hold: as `held_back` gives it; each: takeovers of each kind. Raises TrainingError where there is too little history. A
    KeyboardInterrupt after the first verdicts ends it early, with a report that says so.
    """
    if not len(batch):
        raise TrainingError("no events; a rehearsal needs a history: some weeks of some accounts")
    log = splicing.log_of(batch, settings.session.gap, settings.session.named_gap)
    since, until = _held(log, hold, each), float(log.batch.time[-1])
    recent = log.start >= since
    held = f"{recent.sum():,} sessions of {len(np.unique(log.account[recent])):,} accounts"
    size = f"{_watched(log, since, until):.1f} days held back from {rfc3339(since)}: {held}"
    tell(f"{size}; {_watched(log, log.batch.time[0], since):.1f} days before to learn from: {(~recent).sum():,} sessions")
    room = _room(log, since)
    if room < len(KINDS) / ROUNDS:
        raise TrainingError(
            f"too little history to rehearse on: {size}; that is room for {room} takeovers in each of {ROUNDS} rounds, and "
            f"{len(KINDS)} are needed, one of each kind; hold more back, or wait for more events"
        )
    past = select(log.batch, log.batch.time < since)
    progress("training", 0, 0)
    limits, seed = settings.training, settings.seed
    pack = training.train(past, settings.attributes, settings.session, limits, seed, since, doubtful)
    for line in training.report_lines(pack.report):
        tell(line)
    rules = _rules(log, pack, settings, since)
    remembered = _followed(_chunks(past, settings.cycle.batch_events), partial(progress, "remembering what was before"), since)
    rebuilt = rebuild(pack, settings, remembered)
    rounds: list[Round] = []
    taken: Counter[str] = Counter()
    planned = min(ROUNDS, math.ceil(len(KINDS) * (each or FEWEST) / room))
    stopped = None
    for turn in range(1, planned + 1):
        rng = np.random.default_rng([settings.seed, turn])
        kinds = splicing.next_kinds(taken, each or EACH)
        spliced, takeovers = splicing.splice(log, rules, kinds, room * SESSIONS_EACH, f"rehearsal-{turn}", rng)
        spliced = select(spliced, spliced.time >= since)
        taken.update(t.kind for t in takeovers)
        what = f"replay {turn} of {planned}, {len(takeovers)} takeovers"
        done, stopped = _replayed(spliced, takeovers, rebuilt, pack, settings, now, partial(progress, what))
        rounds.append(done)
        if stopped is not None:
            break
    if not any(r.verdicts for r in rounds) and stopped is not None:
        raise stopped
    judged = sum(_watched(log, since, r.until) for r in rounds)
    days = f"{judged:.1f} of {planned * _watched(log, since, until):.1f} days"
    unfinished = f"interrupted after {days}" if stopped is not None else None
    return report(rounds, log, rules, pack, settings, planned, unfinished)


def _rules(log: splicing.Log, pack: Pack, settings: Settings, since: float) -> splicing.Rules:
    """Thieves differ in what the pack looks at; successions go with the values that they are made of."""
    known = {*log.batch.attributes, "hour", "pace"}
    names = dict.fromkeys((*pack.facets.text, *pack.facets.parents))
    text, number = (tuple(n for n in some if n in known) for some in (names, pack.facets.number))
    gap, named_gap = settings.session.gap, settings.session.named_gap
    steady = levels(pack.facets)
    return splicing.Rules(text, number, pack.facets.fixed, gap, named_gap, since, float(log.batch.time[-1]), tuple(steady.items()))


def _watched(log: splicing.Log, since: float, until: float) -> float:
    """Days from `since` to `until`, without long silences of the whole log."""
    time = log.batch.time[(log.batch.time >= since) & (log.batch.time <= until)]
    silences = np.maximum(np.diff(time) - SILENCE, 0).sum()
    return float(max(until - since - silences, 0.0) / DAY)


def _held(log: splicing.Log, hold: float | None, each: int | None) -> float:
    """When the part held back begins."""
    first, last = float(log.batch.time[0]), float(log.batch.time[-1])
    span = last - first
    if hold is not None:
        return last - (hold if hold >= 1 else hold * span)
    since = last - min(SHARE * span, LONGEST)
    wanted = math.ceil(len(KINDS) * (each or FEWEST) / ROUNDS)
    sessions = min(math.ceil(wanted * SESSIONS_EACH / SPOILT), int(MOST * len(log.start)))
    return since if _room(log, since) >= wanted or not sessions else min(since, float(np.sort(log.start)[-sessions]))


def _room(log: splicing.Log, since: float) -> int:
    """Takeovers that one replay holds: one an account, and few among the sessions held back."""
    recent = log.start >= since
    accounts = len(np.unique(log.account[recent & (log.nth > 0)]))
    return min(accounts if len(np.unique(log.account)) > 1 else 0, int(SPOILT * recent.sum() / SESSIONS_EACH))


def _replayed(
    batch: Batch,
    takeovers: tuple[splicing.Takeover, ...],
    rebuilt: Rebuilt,
    pack: Pack,
    settings: Settings,
    now: float,
    progress: Callable[[float, float], None],
) -> tuple[Round, KeyboardInterrupt | None]:
    """One replay of the part held back, from where the past ended; also what interrupted it."""
    verdicts: dict[Key, Verdict] = {}
    alerts: list[Alert] = []
    first, last = float(batch.time[0]), float(batch.time[-1])

    def take(verdict: Verdict) -> None:
        if verdict.end >= first:
            verdicts[verdict.user, verdict.session, verdict.start] = verdict

    engine = Engine(Recorder(take, alerts.append), pack, settings, (), keep_history=False)
    settle(engine, pack, *rebuilt)
    stopped, until = None, first
    try:
        for part in _chunks(batch, settings.cycle.batch_events):
            engine.run("rehearsal", Chunk(part, (), {}, False), now)
            until = min(engine.state.newest, last)
            progress((until - first) / DAY, (last - first) / DAY)
        engine.run("rehearsal", Chunk(empty_batch(), (), {}, True), now, drain=True)
    except KeyboardInterrupt as interruption:
        stopped = interruption
    return Round(takeovers, verdicts, tuple(alerts), engine.limit(engine.state.watch), until), stopped


def _chunks(batch: Batch, size: int) -> Iterator[Batch]:
    for low in range(0, len(batch), size):
        yield select(batch, np.arange(low, min(low + size, len(batch))))


def _followed(batches: Iterator[Batch], progress: Callable[[float, float], None], until: float) -> Iterator[Batch]:
    """The batches, with progress told as each is done."""
    first = None
    for batch in batches:
        first = float(batch.time[0]) if first is None else first
        yield batch
        progress((float(batch.time[-1]) - first) / DAY, (until - first) / DAY)


def report(
    rounds: Sequence[Round],
    log: splicing.Log,
    rules: splicing.Rules,
    pack: Pack,
    settings: Settings,
    planned: int,
    unfinished: str | None,
) -> dict[str, Any]:
    """Everything counted, JSON-able: `kinds`, `all` and `maturity` of takeovers, `owners`, and what the plots show.

    False alarms are spells of trouble of an account, as in the budget. Shares are in [0, 1], with Wilson's 95 % interval; what
    nothing is known of is null. `unfinished` says how far it came.
    """
    outcomes, own, false, after = [], [], 0, 0
    for one in rounds:
        outcomes += outcomes_of(one)
        thieves = {(t.user, *s) for t in one.takeovers for s in t.sessions}
        taken = {t.user: t.sessions[0][1] for t in one.takeovers}
        before = {key for key in one.verdicts.keys() - thieves if key[2] < taken.get(key[0], math.inf)}
        own += [one.verdicts[key] for key in one.verdicts if key in before]
        last: dict[str, float] = {}
        for a in sorted(one.alerts, key=lambda a: a.time):
            key = a.verdict.user, a.verdict.session, a.verdict.start
            begins = a.time - last.get(key[0], -math.inf) > SPELL  # as the budget counts
            last[key[0]] = a.time
            false += begins and key not in thieves and key[2] < taken.get(key[0], math.inf)
            after += key not in thieves and key[2] >= taken.get(key[0], math.inf)
    days = max(sum(_watched(log, rules.since, r.until) for r in rounds), 1 / 24)
    recent = log.start >= rules.since
    accounts = len(np.unique(log.account[recent]))
    p, scores = np.array([v.p for v in own]), np.array([v.score for v in own])
    return {
        "partial": unfinished,
        "seed": settings.seed,
        "pack": pack.id,
        "held_back": {
            "from": rfc3339(rules.since),
            "until": rfc3339(rules.until),
            "days": round(_watched(log, rules.since, rules.until), 2),
            "events": int((log.batch.time >= rules.since).sum()),
            "sessions": int(recent.sum()),
            "accounts": accounts,
        },
        "learnt_from": {name: pack.report[name] for name in ("events", "sessions", "accounts", "days")},
        "rounds": len(rounds),
        "rounds_planned": planned,
        "days_judged": round(days, 2),
        "budget_per_day": settings.alerts.per_day,
        "alarm_at_p": rounds[-1].threshold,
        "kinds": {kind: counted([o for o in outcomes if o.kind == kind], scores) for kind in KINDS},
        "all": counted(outcomes, scores),
        "maturity": {m: counted([o for o in outcomes if o.maturity == m], scores) for m in MATURITIES},
        "owners": {
            "sessions": len(own),
            "false_alarms": false,
            "false_alarms_per_day": round(false / days, 3),
            "false_alarms_per_1000_accounts_a_day": round(1000 * false / days / max(accounts, 1), 3),
            "share_at_p": {f"{share:g}": _rounded(float((p <= share).mean())) if len(p) else None for share in ALARM_SHARES},
            "alerts_after_a_takeover": after,
        },
        "seconds_to_detection": sorted(round(o.seconds, 3) for o in outcomes if o.caught),
        "curve": curve(p, np.array([o.p for o in outcomes]), days),
        "calibration": [[round(x, 6), _rounded(float((p <= x).mean()))] for x in CALIBRATION] if len(p) else [],
    }


def outcomes_of(one: Round) -> list[Outcome]:
    """What became of each takeover that was judged whole."""
    raised: dict[Key, float] = {}
    for alert in one.alerts:
        raised.setdefault((alert.verdict.user, alert.verdict.session, alert.verdict.start), alert.time)
    out = []
    for takeover in one.takeovers:
        keys = [(takeover.user, *session) for session in takeover.sessions]
        verdicts = [one.verdicts[key] for key in keys if key in one.verdicts]
        if len(verdicts) < len(keys):
            continue
        alarm = min((raised[k] for k in keys if raised.get(k, -math.inf) >= takeover.times[0]), default=math.nan)
        out.append(
            Outcome(
                takeover.kind,
                verdicts[0].maturity,
                not math.isnan(alarm),
                alarm - float(takeover.times[0]),
                float((takeover.times <= alarm).sum()),
                min(v.p for v in verdicts),
                tuple(v.score for v in verdicts),
            )
        )
    return out


def counted(outcomes: Sequence[Outcome], owners: np.ndarray) -> dict[str, Any]:
    """Figures of some takeovers, beside the (S,) scores of the owners' sessions."""
    caught = [o for o in outcomes if o.caught]
    scores = np.array([s for o in outcomes for s in o.scores])
    low, high = wilson(len(caught), len(outcomes))
    both = len(scores) > 0 and len(owners) > 0
    return {
        "takeovers": len(outcomes),
        "caught": len(caught),
        "share": _rounded(len(caught) / len(outcomes)) if outcomes else None,
        "interval": [_rounded(low), _rounded(high)] if outcomes else None,
        "median_seconds": round(float(np.median([o.seconds for o in caught])), 3) if caught else None,
        "median_events": float(np.median([o.events for o in caught])) if caught else None,
        "auc": _rounded(auc(owners, scores)) if both else None,
        "caught_at_1_percent": _rounded(float((scores > np.quantile(owners, 0.99)).mean())) if both else None,
    }


def _rounded(share: float) -> float:
    return round(share, 4)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, Probable inference, 1927); nothing known: (0, 1)."""
    if not of:
        return 0.0, 1.0
    z, share = 1.959964, hits / of
    middle, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max((middle - half) / (1 + z * z / of), 0.0), min((middle + half) / (1 + z * z / of), 1.0)


def curve(owners: np.ndarray, thieves: np.ndarray, days: float) -> list[list[float]]:
    """(false alarms a day, share of takeovers caught) as the threshold rises; p of owners' sessions, least p of each takeover."""
    if not len(owners) or not len(thieves):
        return []
    ranks = np.unique(np.geomspace(1, len(owners), CURVE).astype(int)) - 1
    at = [0.99 * owners.min(), *np.sort(owners)[ranks]]
    return [[round(float((owners <= p).sum() / days), 4), _rounded(float((thieves <= p).mean()))] for p in at]
