"""Simulated takeovers, as tables of sessions: what the fusion learns from, and what rehearsals replay.

Each kind takes the owner's session and a stranger's and says which sides of behaviour come from whom. Real thieves copy: a stolen
cookie keeps the device, a known PIN keeps the shop. So most kinds borrow some facets from the owner.

Axes: S sessions, T tokens, F text facets, N numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from detector.facets import HOUR_SPREAD, Facets
from detector.sessions import MOST_VALUES, Sessions, pair_keys, tokens

KINDS = ("swap", "inside", "borrow", "copy", "alone", "hijack", "mix", "inflate", "burst", "hours")
MIXED = (0.1, 0.5)  # share of the stranger's events in a mixture
HIJACKED, UNCOPIED = (0.3, 0.8), (0.3, 0.7)  # and of those in a hijack; and beside copied ones
PRIOR = {  # how common each kind is taken to be: most thieves are another person, most of these at the owner's place, some copy
    "swap": 2.0,  # drawn twice as often as others, together with inside
    "inside": 8.0,  # of 4 to 16 more catches more where there is something to keep to, at little cost elsewhere
    "borrow": 2.0,
    "copy": 1.0,
    "alone": 1.0,
    "hijack": 1.0,
    "inflate": 1.0,
    "mix": 1.0,
    "burst": 0.25,
    "hours": 0.25,
    "stranger": 2.0,
}
NAMES = (*KINDS, "stranger")  # the last of training alone
SWAP, INFLATE, STRANGER, INSIDE = (NAMES.index(name) for name in ("swap", "inflate", "stranger", "inside"))
AMONG = [NAMES.index(name) for name in ("copy", "mix")]  # whose events come between such as are the owner's
INFLATED, FARTHEST = (2.0, 10.0), 4.0  # times; and where an owner's numbers spread wide, up to so many of their deviations


def possible(looks: Facets) -> np.ndarray:
    """(K,) bool: which of NAMES to draw in a log; who would be inside swaps where owners keep to nothing."""
    needed = {"inflate": bool(looks.measured), "stranger": bool(looks.fixed)}
    return np.array([needed.get(name, True) for name in NAMES])


def weights(kind: np.ndarray) -> np.ndarray:
    """(S,) how common takeovers of these kinds (S,) are taken to be, indices into NAMES."""
    return np.array([PRIOR[name] for name in NAMES])[kind]


@dataclass(frozen=True)
class Ground:
    """What of a history simulated thieves go by."""

    looks: Facets
    within: np.ndarray  # (N,) how far an owner's numbers spread, a standard deviation


def levels(looks: Facets) -> dict[str, float]:
    """The attributes that one who is inside may have of the owner, the steadiest first; one is left to tell them apart."""
    return dict([*looks.steady.items()][: None if looks.measured else -1])


def drawn(sessions: int, ground: Ground, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(S,) kinds, indices into NAMES, and (S,) which of the numbers that are attributes is inflated, or how many are the owner's.

    The more an owner keeps to one value of an attribute, the likelier the thief has it: who has none of them swaps.
    """
    kinds = np.flatnonzero(possible(ground.looks))
    kind, number = rng.choice(kinds, sessions), rng.integers(0, max(len(ground.looks.measured), 1), sessions)
    level = (np.array([*levels(ground.looks).values()]) > rng.random((sessions, 1))).sum(axis=1)
    another = (kind == SWAP) | (kind == INSIDE)
    kind = np.where(another, np.where(level > 0, INSIDE, SWAP), kind)
    return kind, np.where(another, level, number)


def simulate(
    owner: Sessions, stranger: Sessions, kind: np.ndarray, number: np.ndarray, ground: Ground, rng: np.random.Generator
) -> Sessions:
    """One takeover per row: kind and number (S,) as `drawn` has them; owner and stranger (S rows each).

    What says who an account is stays the owner's, but where the stranger shows it, or where it is all that is foreign.

    swap     the whole session is the stranger's; `stranger` too
    inside   the stranger's, but for what owners keep to, its `number` steadiest attributes: on the owner's device, from his place
    borrow   the stranger's, but for a random half of the facets and numbers, copied from the owner
    copy     the stranger's, with half of it copied from the owner, but in no order: half of the events, or sides as in `borrow`
    alone    the owner's, but for one facet of the stranger's
    hijack   the owner's first part and the stranger's second
    mix      the owner's and up to half as many events of the stranger's in turn, so that what follows what is no habit
    inflate  the owner's with one number, or all its values, made 2 to 10 times larger
    burst    the owner's values 5 to 50 times over, in quick succession
    hours    the owner's session at the stranger's time of day
    """
    looks, sessions, text, numbered = ground.looks, len(owner), len(ground.looks.text), owner.numbers.shape[1]
    is_kind = {name: kind == k for k, name in enumerate(NAMES)}
    swapped = is_kind["swap"] | is_kind["stranger"] | is_kind["inside"]
    one_side = len({looks.sources[f] for f, name in enumerate(looks.text) if name != "hour"}) == 1
    interleaved = is_kind["mix"] | (is_kind["copy"] & (one_side | (rng.random(sessions) < 0.5)))  # whole events of either
    foreign = rng.random((sessions, text + numbered)) < 0.5  # borrow, copy: which side comes from the stranger
    foreign[swapped | is_kind["hijack"] | interleaved] = True
    single = np.append(looks.sources, text + np.arange(numbered))[rng.integers(0, text + numbered, sessions)]
    foreign[is_kind["alone"]] = np.arange(text + numbered) == single[is_kind["alone"], None]
    foreign[is_kind["inflate"] | is_kind["burst"] | is_kind["hours"]] = False
    inside = np.array([[*levels(looks), name].index(name) for name in looks.text])  # (F,) place among what may be the owner's
    foreign[is_kind["inside"], :text] = inside >= number[is_kind["inside"], None]
    foreign[:, :text] = foreign[:, looks.sources]  # what is derived goes with the values that it is made of
    given = looks.given & ~(is_kind["alone"] | is_kind["stranger"])[:, None]  # (S, F) what comes with the account
    foreign[:, :text] &= ~given
    if "hour" in looks.text:
        foreign[is_kind["hours"] | is_kind["copy"], looks.text.index("hour")] = True
    part = np.ones(sessions)  # of the stranger's events
    for rows, bounds in ((is_kind["hijack"], HIJACKED), (is_kind["mix"], MIXED), (interleaved & is_kind["copy"], UNCOPIED)):
        part[rows] = rng.uniform(*bounds, sessions)[rows]
    pair = looks.text.index("pair") if "pair" in looks.text else -1
    torn_mine, torn_theirs = (interleaved[t.row] & (t.facet == pair) for t in (owner, stranger))  # only where both events are
    kept = np.where(part[owner.row] < 1, (1 - part[owner.row]) ** (1 + torn_mine), ~foreign[owner.row, owner.facet])
    kept[is_kind["copy"][owner.row] & (owner.facet == pair)] = 0
    kept[given[owner.row, owner.facet]] = 1
    came = np.where(foreign[stranger.row, stranger.facet], part[stranger.row] ** (1 + torn_theirs), 0)
    joint, apart = looks.text.index(looks.joint) if looks.together else -1, _apart(looks, foreign, is_kind["copy"])
    kept[apart[owner.row] & (owner.facet == joint)] = 0
    came[apart[stranger.row] & (stranger.facet == joint)] = 0
    mine, theirs = _thinned(owner, kept, rng), _thinned(stranger, came, rng)
    both = [np.concatenate([getattr(owner, c)[mine[0]], getattr(stranger, c)[theirs[0]]]) for c in ("key", "facet", "text")]
    rows = np.concatenate([owner.row[mine[0]], stranger.row[theirs[0]]])
    count = np.concatenate([mine[1], theirs[1]]) * np.where(is_kind["burst"], rng.uniform(5, 50, sessions), 1)[rows]
    numbers = _numbers(owner, stranger, foreign[:, text:], part, rng)
    numbers = _changed(numbers, is_kind["inflate"], is_kind["burst"], number, ground, rng)
    events = np.where(
        part < 1, (1 - part) * owner.events + part * stranger.events, np.where(swapped, stranger.events, owner.events)
    )
    events = np.where(is_kind["burst"], events * rng.uniform(5, 50, sessions), events)
    made = []  # (facet, rows, keys, counts) of values that neither session has
    if pair >= 0:
        copied = is_kind["copy"] & ~foreign[:, pair]
        made.append((pair, *_torn(owner, stranger, looks, interleaved, copied, is_kind["copy"], part, rng), 1.0))
    if joint >= 0:
        made.append((joint, *_met(owner, stranger, looks, foreign, apart, rng)))
    for facet, at, keys, each in made:
        rows, count = np.concatenate([rows, at]), np.concatenate([count, np.full(len(at), each)])
        new = keys, np.full(len(at), facet), np.full(len(at), "…", object)
        both = [np.concatenate([a, b]) for a, b in zip(both, new, strict=True)]
    return replace(
        owner,
        events=np.maximum(events, 1).astype(np.int64),
        numbers=numbers,
        **tokens(rows, both[0], both[1], count, both[2], sessions),
    )


def _torn(
    owner: Sessions,
    stranger: Sessions,
    looks: Facets,
    interleaved: np.ndarray,
    copied: np.ndarray,
    copies: np.ndarray,
    part: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and keys (P,) of the pairs that come where events meet that did not follow each other.

    interleaved (S,) bool: events of both, `part` (S,) of them the stranger's; copied (S,): all the owner's values; copies (S,):
    where the owner's come in no order.
    """
    pair, values = looks.text.index("pair"), looks.text.index(looks.paired)
    had = np.bincount(owner.row[owner.facet == pair], owner.count[owner.facet == pair], len(owner))
    between, inside = 2 * part * (1 - part) * interleaved, np.where(interleaved, (1 - part) ** 2 * copies, copied)
    rows = np.repeat(np.arange(len(owner)), np.minimum(np.rint((between + inside) * had), MOST_VALUES).astype(np.int64))
    ours, second, theirs = (_drawn(t, values, rows, rng) for t in (owner, owner, stranger))
    within = rng.random(len(rows)) * (between + inside)[rows] < inside[rows]
    first = rng.random(len(rows)) < 0.5
    before, after = np.where(within | first, ours, theirs), np.where(within, second, np.where(first, theirs, ours))
    there = (before > 0) & (after > 0)
    return rows[there], pair_keys(before, after)[there]


def _apart(looks: Facets, foreign: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """(S,) bool: of what is looked at together one comes from either, or both are copied (S,) in no order; foreign (S, F + N)."""
    if not looks.together:
        return np.zeros(len(foreign), bool)
    first, second = (foreign[:, looks.text.index(name)] for name in looks.together)
    return np.asarray((first != second) | (copies & ~first & ~second))


def _met(
    owner: Sessions, stranger: Sessions, looks: Facets, foreign: np.ndarray, apart: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows and keys (P,) of what comes together in the sessions `apart` (S,), where it comes by chance; and what each counts."""
    sides, drawn, often = [looks.text.index(name) for name in looks.together], [], np.full(len(owner), np.inf)
    for f in sides:
        totals = [np.bincount(t.row[t.facet == f], t.count[t.facet == f], len(t)) for t in (owner, stranger)]
        often = np.minimum(often, np.where(foreign[:, f], totals[1], totals[0]))
    fine = len(HOUR_SPREAD) + 1 if "hour" in looks.together else 1  # an event has several hours, that count for less
    rows = np.repeat(np.arange(len(owner)), fine * np.minimum(np.rint(often * apart), MOST_VALUES).astype(np.int64))
    for f in sides:
        drawn.append(np.where(foreign[rows, f], _drawn(stranger, f, rows, rng), _drawn(owner, f, rows, rng)))
    there = (drawn[0] > 0) & (drawn[1] > 0)
    return rows[there], pair_keys(*drawn)[there], 1 / fine


def _drawn(table: Sessions, facet: int, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(P,) key of a value of the facet from each of the sessions `rows` (P,), as often as it occurs there; 0: it has none."""
    some = np.flatnonzero(table.facet == facet)
    ends = np.concatenate([[0.0], np.cumsum(table.count[some], dtype=np.float64)])
    bounds = np.searchsorted(table.row[some], np.arange(len(table) + 1))
    low, high = bounds[rows], bounds[rows + 1]
    at = np.searchsorted(ends, ends[low] + rng.random(len(rows)) * (ends[high] - ends[low]), side="right") - 1
    at = np.minimum(np.maximum(at, low), np.maximum(high - 1, low))
    return np.where(high > low, np.append(table.key[some], np.uint32(0))[at], np.uint32(0))


def _thinned(table: Sessions, share: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Token indices and counts left when each occurrence stays with probability `share` (T,)."""
    count = table.count * (share > 0)
    partial = (share > 0) & (share < 1)
    whole = np.ceil(count[partial]).astype(np.int64)
    count[partial] = rng.binomial(whole, share[partial]) * np.where(whole > 0, count[partial] / np.maximum(whole, 1), 0)
    kept = np.flatnonzero(count > 0)
    return kept, count[kept]


def _numbers(owner: Sessions, stranger: Sessions, foreign: np.ndarray, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S, N, W) statistics: the owner's or the stranger's, or both in part."""
    mixed = np.empty_like(owner.numbers)
    mixed[:, :, :3] = owner.numbers[:, :, :3] * (1 - part)[:, None, None] + stranger.numbers[:, :, :3] * part[:, None, None]
    mixed[:, :, 3] = np.minimum(owner.numbers[:, :, 3], stranger.numbers[:, :, 3])
    mixed[:, :, 4] = np.maximum(owner.numbers[:, :, 4], stranger.numbers[:, :, 4])
    whole = np.where(foreign[:, :, None], stranger.numbers, owner.numbers)
    return np.where((part < 1)[:, None, None], mixed, whole)


def _changed(
    numbers: np.ndarray, inflate: np.ndarray, burst: np.ndarray, which: np.ndarray, ground: Ground, rng: np.random.Generator
) -> np.ndarray:
    """Inflate one number of the rows `inflate`, all its values, or only the largest; bursts have quick paces."""
    out, looks = numbers.copy(), ground.looks
    chance = rng.random(len(numbers))
    only_largest = rng.random(len(numbers)) < 0.5
    low, usual = np.log(INFLATED)
    for place, n in enumerate(looks.measured):
        most = max(usual, FARTHEST * ground.within[n]) if looks.unit[n] else usual
        factor = np.exp(low + (most - low) * chance)
        rows = inflate & (which == place) & (numbers[:, n, 0] > 0)
        k, total, squares, least, high = numbers[rows, n].T
        if looks.unit[n]:
            shift = np.log(factor[rows])
            every = np.stack([k, total + k * shift, squares + 2 * shift * total + k * shift**2, least + shift, high + shift], 1)
            new = high + shift
        else:
            c = factor[rows]
            every = np.stack([k, total * c, squares * c**2, least * c, high * c], 1)
            new = high * c
        one = np.stack([k, total + new - high, squares + new**2 - high**2, np.where(k > 1, least, new), new], 1)
        every[:, 3:] = np.sort(every[:, 3:], axis=1)
        one[:, 3:] = np.sort(one[:, 3:], axis=1)
        out[rows, n] = np.where(np.asarray(only_largest)[rows, None], one, every)
    if "pace" in looks.number:
        pace = looks.number.index("pace")
        rows = burst & (numbers[:, pace, 0] > 0)
        out[rows, pace] = np.stack([numbers[rows, pace, 0]] + [np.zeros(rows.sum())] * 4, 1)
    return out
