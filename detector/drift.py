"""Drift: has the population moved away from what the pack was trained on, and what of it?

Per UTC day, the sessions that ended on it are counted: each text facet by its most frequent values, new ones and the rest; each
number by the tenths of history; embeddings are summed; p-values are binned. A day is compared with a reference, the later part of
the history before training: Jensen-Shannon divergence for facets, distance of the means for embeddings (a cosine says nothing where
the mean is near zero, as contrastive embeddings have it), Kolmogorov-Smirnov for p-values. How far is too
far is derived from how far the reference's own days were from their mean.

Counts are whole numbers, so that no cut of a batch and no restart changes them.

Axes: S sessions, T tokens, F text facets, N numbers (volume included), K frequent values, D width, P bins, L counts of a day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtri

from detector.sessions import Sessions, with_volume

FREQUENT = 20  # K
TENTHS = 10
BINS = 100  # P
FIXED = 1 << 15  # embeddings are summed as whole multiples of 1 / FIXED
ENOUGH, FEWEST = 200, 50  # sessions: a day with fewer is taken together with those before it; fewer still say nothing
LONGEST = 7  # days taken together: a week has every weekday
LEAST_DAYS = 5  # of a reference: the worst of fewer is no bound
BAD, MARGIN = 0.9, 2.0  # the limit: twice what one day in ten of history exceeded; the worst day may be an odd one, and blind us
CHANCE = 1e-4  # that noise alone moves a facet of a stationary population beyond its limit
P_LIMIT = 0.25  # p-values that have moved less than this do no harm: sessions of one account come alike, and few accounts sway all
DAY = 86400.0


@dataclass(frozen=True)
class Reference:
    """What is usual; part of a pack."""

    frequent: np.ndarray  # (F, K) uint32 keys, most frequent first; 0: none
    text: np.ndarray  # (F, K) bytes, for people
    edges: np.ndarray  # (N, 9) between the tenths of the sessions' means
    usual: np.ndarray  # (L,) counts of all its days together
    limits: np.ndarray  # (F + N + 2,) of the distance of each facet and number, the mean embedding, the p-values; inf: unknown


@dataclass(frozen=True)
class Drift:
    """How far a day, or a few together, lie from the reference."""

    day: int  # since 1970, the last of them
    sessions: int
    relative: Mapping[str, float]  # "p_value", "embedding", "facet" (the farthest of them) -> distance / limit
    moved: tuple[str, ...]  # what lies beyond its limit, for people, farthest first


@dataclass(frozen=True)
class _Counts:
    """The counts of a day by their meaning."""

    sessions: int
    text: np.ndarray  # (F, K + 2) distinct values of sessions: new, the frequent ones, the rest
    with_new: np.ndarray  # (F,) sessions with a value that the vocabulary lacks
    number: np.ndarray  # (N, 11) sessions without the number, then by tenth
    embedding: np.ndarray  # (D,) sum
    p: np.ndarray  # (P,)


def count(
    table: Sessions, embedding: np.ndarray, ps: np.ndarray, frequent: np.ndarray, edges: np.ndarray, vocabulary: np.ndarray
) -> dict[int, np.ndarray]:
    """day -> (L,) int64 counts of the sessions that ended on it.

    embedding (S, D), ps of the last of them, frequent (F, K) keys, edges (N, 9), vocabulary (V,) ascending keys, V > 0.
    """
    days, day = np.unique(np.floor(table.end / DAY).astype(np.int64), return_inverse=True)
    row, facets, kept = table.row, *frequent.shape
    text = np.zeros((len(days), facets, kept + 2), np.int64)
    new = vocabulary[np.searchsorted(vocabulary, table.key).clip(max=len(vocabulary) - 1)] != table.key  # (T,)
    same = table.key[:, None] == frequent[table.facet]  # (T, K)
    place = np.where(same.any(axis=1), same.argmax(axis=1) + 1, np.where(new, 0, kept + 1))
    np.add.at(text, (day[row], table.facet, place), 1)
    having = np.zeros((len(table), facets), np.int64)
    having[row[place == 0], table.facet[place == 0]] = 1
    numbers = with_volume(table)  # (S, N, W)
    present = numbers[:, :, 0] > 0
    mean = numbers[:, :, 1] / np.maximum(numbers[:, :, 0], 1)
    tenth = np.where(present, 1 + (mean[:, :, None] > edges).sum(axis=2), 0)  # (S, N)
    number = np.zeros((len(days), len(edges), TENTHS + 1), np.int64)
    np.add.at(number, (day[:, None], np.arange(len(edges)), tenth), 1)
    bins = np.zeros((len(days), BINS), np.int64)
    np.add.at(bins, (day[len(day) - len(ps) :], np.clip(np.ceil(ps * BINS).astype(np.int64) - 1, 0, BINS - 1)), 1)
    sums = np.zeros((len(days), embedding.shape[1]), np.int64)
    np.add.at(sums, day, np.rint(embedding * FIXED).astype(np.int64))
    news = np.zeros((len(days), facets), np.int64)
    np.add.at(news, day, having)
    parts = (np.bincount(day, minlength=len(days))[:, None], text, news, number, sums, bins)
    flat = np.concatenate([part.reshape(len(days), -1) for part in parts], axis=1)
    return dict(zip(days.tolist(), flat, strict=True))


def added(days: Mapping[int, Sequence[int]], more: Mapping[int, np.ndarray]) -> dict[int, list[int]]:
    """Counts by day with those of `more`; days that no window can reach any more are left out."""
    last = max([*days, *more], default=0)
    kept = {day: list(days[day]) for day in sorted(days) if day > last - LONGEST - 2}
    for day, counts in more.items():
        if day > last - LONGEST - 2:
            kept[day] = (counts + np.array(kept[day])).tolist() if day in kept else counts.tolist()
    return kept


def reference(
    early: Sessions, late: Sessions, embedding: np.ndarray, ps: np.ndarray, vocabulary: np.ndarray, facets: int
) -> Reference:
    """What is usual, from the later part of history: `embedding` (S, D) of `late`, and what was known before it.

    Frequent values and the vocabulary are those of the earlier part, so that the share of new values is that of a time not seen.
    The first and the last day may be parts of days, so they set no limit.
    """
    frequent, text = _frequent(early, facets)
    numbers = with_volume(late)
    present = numbers[:, :, 0] > 0
    mean = numbers[:, :, 1] / np.maximum(numbers[:, :, 0], 1)
    shares = np.arange(1, TENTHS) / TENTHS
    edges = np.stack([np.quantile(mean[p, n], shares) if (p := present[:, n]).any() else shares for n in range(mean.shape[1])])
    days = count(late, embedding, ps, frequent, edges, vocabulary)
    unlimited = np.full(facets + len(edges) + 2, np.inf)
    known = Reference(frequent, text, edges, np.sum(list(days.values()), axis=0), unlimited)
    whole = {day: days[day] for day in sorted(days)[1:-1]}
    windows = [window for window, first in (_window(whole, day) for day in whole) if first >= min(whole) and window[0] >= FEWEST]
    if len(windows) < LEAST_DAYS:
        return known
    return replace(known, limits=MARGIN * np.quantile([_distances(known, window) for window in windows], BAD, axis=0))


def judge(known: Reference, days: Mapping[int, Sequence[int]], before: float, names: Sequence[str]) -> Drift | None:
    """Compare the last day that ended by `before` (seconds) with the reference; None where there are too few sessions.

    names: (F + N) of the facets, text first.
    """
    whole = {day: np.array(counts, np.int64) for day, counts in days.items() if (day + 1) * DAY <= before}
    if not whole:
        return None
    day = max(whole)
    window, _ = _window(whole, day)
    sessions = int(window[0])
    if sessions < FEWEST:
        return None
    distance, limit = _distances(known, window), np.maximum(known.limits, _noise(known, sessions))
    relative = distance / limit
    now, usual = _split(known, window), _split(known, known.usual)
    told = [(relative[i], _of_facet(known, i, name, now, usual)) for i, name in enumerate(names)]
    told.append((relative[-2], f"sessions as a whole: their mean embedding moved by {distance[-2]:.3f} (limit {limit[-2]:.3f})"))
    shares = _shares_up_to(now.p), _shares_up_to(usual.p)
    at = int(np.abs(shares[0] - shares[1]).argmax())
    share_now, share_usual = (_percent(float(share[at])) for share in shares)
    told.append((relative[-1], f"p-values: {share_now} at or below {(at + 1) / BINS:g} (usually {share_usual})"))
    moved = tuple(text for how_far, text in sorted(told, key=lambda one: -one[0]) if how_far > 1)
    facet, embedding, p = float(relative[:-2].max(initial=0)), float(relative[-2]), float(relative[-1])
    return Drift(day, sessions, {"p_value": p, "embedding": embedding, "facet": facet}, moved)


def _frequent(table: Sessions, facets: int) -> tuple[np.ndarray, np.ndarray]:
    """(F, K) keys and texts of the values that are in most sessions."""
    keys, first, counts = np.unique(table.key, return_index=True, return_counts=True)
    frequent, text = np.zeros((facets, FREQUENT), np.uint32), np.zeros((facets, FREQUENT), "S48")
    for f in range(facets):
        mine = np.flatnonzero(table.facet[first] == f)
        best = mine[np.argsort(-counts[mine], kind="stable")][:FREQUENT]
        frequent[f, : len(best)] = keys[best]
        text[f, : len(best)] = [str(table.text[t]).encode("utf-8", "replace")[:48] for t in first[best]]
    return frequent, text


def _window(days: Mapping[int, np.ndarray], day: int) -> tuple[np.ndarray, int]:
    """(L,) counts of a day, with as many days before it as make enough sessions; and the first of them."""
    total, first = days[day], day
    while total[0] < ENOUGH and first > day - LONGEST + 1:
        first -= 1
        total = total + days[first] if first in days else total
    return total, first


def _split(known: Reference, counts: np.ndarray) -> _Counts:
    facets, numbers, kept = len(known.frequent), len(known.edges), known.frequent.shape[1] + 2
    ends = np.cumsum((1, facets * kept, facets, numbers * (TENTHS + 1)))
    sessions, text, news, number, embedding, p = np.split(counts, (*ends, len(counts) - BINS))
    shaped = text.reshape(facets, kept), news, number.reshape(numbers, TENTHS + 1)
    return _Counts(int(sessions[0]), *shaped, embedding / FIXED, p)


def _distances(known: Reference, counts: np.ndarray) -> np.ndarray:
    """(F + N + 2,): divergence of each facet in nats, distance of the mean embedding, of the p-values."""
    now, usual = _split(known, counts), _split(known, known.usual)
    facets = [_divergence(a, b) for a, b in ((now.text, usual.text), (now.number, usual.number))]
    mean = [one.embedding / max(one.sessions, 1) for one in (now, usual)]
    return np.concatenate(
        [*facets, [np.linalg.norm(mean[0] - mean[1]), np.abs(_shares_up_to(now.p) - _shares_up_to(usual.p)).max()]]
    )


def _shares_up_to(p: np.ndarray) -> np.ndarray:
    """(P,) share of p-values up to each bin; uniform where there are none."""
    return np.cumsum(p) / p.sum() if p.any() else np.arange(1, BINS + 1) / BINS


def _divergence(counts: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """(R,) Jensen-Shannon divergence of the rows of two tables of counts (R, B), in nats; 0 where a row is empty (Lin 1991)."""
    p, q = (x / np.maximum(x.sum(axis=1, keepdims=True), 1) for x in (counts, usual))
    middle = np.maximum((p + q) / 2, 1e-300)
    parts = [np.where(x > 0, x * np.log(np.maximum(x, 1e-300) / middle), 0).sum(axis=1) for x in (p, q)]
    return np.where((counts.sum(axis=1) > 0) & (usual.sum(axis=1) > 0), (parts[0] + parts[1]) / 2, 0.0)


def _noise(known: Reference, sessions: int) -> np.ndarray:
    """(F + N + 2,): what so many sessions of the same population are away by chance, taken as independent."""
    usual = _split(known, known.usual)
    fewer = 1 / sessions + 1 / max(usual.sessions, 1)
    kinds = np.concatenate([(usual.text > 0).sum(axis=1), (usual.number > 0).sum(axis=1)])
    width = float(np.linalg.norm(usual.embedding / max(usual.sessions, 1)))
    spread = np.sqrt(max(1 - width**2, 0.0) * fewer)
    uneven = np.sqrt(np.log(2 / CHANCE) / 2 / sessions)  # Dvoretzky, Kiefer, Wolfowitz 1956
    return np.concatenate([chdtri(np.maximum(kinds, 1), CHANCE) * fewer / 8, [2 * spread, max(P_LIMIT, uneven)]])


def _of_facet(known: Reference, i: int, name: str, now: _Counts, usual: _Counts) -> str:
    """What moved most in a facet, or a number, for people."""
    facets = len(known.frequent)
    tables = (now.text[i], usual.text[i]) if i < facets else (now.number[i - facets], usual.number[i - facets])
    share = [x / max(x.sum(), 1) for x in tables]
    b = int(np.argmax(np.abs(share[0] - share[1])))
    if i >= facets:
        which = f"are in the usual {b}. tenth" if b else "lack it"
        return f"facet {name}: {_percent(share[0][b])} of sessions {which} (usually {_percent(share[1][b])})"
    if b == 0:
        new, before = (x.with_new[i] / max(x.sessions, 1) for x in (now, usual))
        return f"facet {name}: {_percent(new)} of sessions have values never seen before (usually {_percent(before)})"
    value = "rare values" if b > FREQUENT else f'"{known.text[i, b - 1].decode("utf-8", "replace")}"'
    return f"facet {name}: {value} are {_percent(share[0][b])} of the values (usually {_percent(share[1][b])})"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
