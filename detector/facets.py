"""The facets of a session: what is counted (text) and what is measured (numbers), from the events' attributes.

Which attributes are text, number or ignored is found out from history (`discover`), unless the settings say so. Derived facets:
`hour` (of the day, spread over the neighbouring ones; a split by weekday starved on short histories), `pair` (what follows what),
`x:parent` (what values of `x` lie in: the folder of a path, the domain of a host, the network of an address, the program of a
command line; or their form, the browser whatever its version; where this tells accounts apart better than the values do: see
`telling.ancestors`), `x+y` (which value of `x` comes with which of `y`, of two text facets that tell more together: see `joints`),
`pace` (seconds between events, log scale) and `volume` (events of a session, log scale; added when a session is scored).

Axes: E events, S sessions, T tokens, F text facets, N number facets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from detector.records import Batch
from detector.sessions import Assignment, Sessions, pair_keys

HOUR_SPREAD = ((-1, 0.25), (0, 0.5), (1, 0.25))  # habits of time are an hour wide at best
PARENT = ":parent"
LEVELS = 6  # tried, itself included
FORM = -1  # no level: a value without its numbers
CHANGED = 0.005  # share of events that are not as usual in what never changes
FEWEST_GROWN, GROWN = 20, 0.99  # events of an account that tell; share of steps that do not go down
FEWEST_SHOWN = 10  # values of an attribute from which it shows whether an account keeps to one
FIXED_DAYS, FIXED_ACCOUNTS = 5, 5  # days that an account must have been there to tell, and so many such accounts
RARE = 0.001  # share of events below which an attribute is too rare to be a habit
UNITS = tuple(4.0**-k for k in range(6))  # of the log scale, shares of a number's median
SMALLEST = 0.05  # quantile of what is not 0
# nats per value: on a linear scale a large amount stands out more, so the log scale must earn its place. It gains .2 to .4 of times
# between keys, .5 to 2.7 of most amounts and sizes, and nothing of amounts on cards, where it would cost .04 of AUC
LOG_MARGIN, LEAST_VARIANCE = 0.1, 1e-18
LEAST_UNIT = 1e-200  # of which the largest number is no infinity
LARGEST = 1e15  # what is larger counts as that: sums of squares must stay finite, or one event would blind an account for good
PACE_FLOOR_S = 1.0  # most logs have whole seconds


@dataclass(frozen=True)
class Facets:
    """What a pack looks at. `volume` is not listed: it follows from a session's number of events."""

    text: tuple[str, ...]  # F: attributes, then derived facets
    number: tuple[str, ...]  # N: attributes, then derived facets
    unit: tuple[float, ...]  # N: of the log scale, log(1 + |x| / unit); 0: a number counts as it is
    pair_of: str | None = None  # the attribute whose successive values form the facet `pair`
    parents: Mapping[str, int] = field(default_factory=dict)  # attribute -> levels above its values that `x:parent` looks, or FORM
    fixed: tuple[str, ...] = ()  # text attributes that say who an account is, not what it does: see `unchanging`
    together: tuple[str, ...] = ()  # two text facets that are looked at together, too; or none
    # the other text attributes -> how much of what an account shows is the value that it shows most, in [0, 1], descending;
    # of those with parents the parent that it shows most
    steady: Mapping[str, float] = field(default_factory=dict)

    @property
    def joint(self) -> str:
        """The facet of what is looked at together; empty where nothing is."""
        return "+".join(self.together)

    @property
    def paired(self) -> str:
        """The facet whose successive values form `pair`: what its attribute's values lie in, where they are too often new."""
        return f"{self.pair_of}{PARENT if self.pair_of in self.parents else ''}"

    @property
    def sources(self) -> np.ndarray:
        """(F,) index of the text facet that each comes from: itself, unless it is derived from another that is looked at.

        What is looked at together comes from the first of the two.
        """
        of = {"pair": self.paired.removesuffix(PARENT)} | {name + PARENT: name for name in self.parents}
        if self.together:
            of[self.joint] = of.get(self.together[0], self.together[0])
        index = {name: f for f, name in enumerate(self.text)}
        return np.array([index.get(of.get(name, name), f) for f, name in enumerate(self.text)], np.int64)

    @property
    def nested(self) -> tuple[tuple[int, int], ...]:
        """Pairs of text facets: an attribute, and the one that its values lie in, where both are looked at."""
        return tuple((self.text.index(name), self.text.index(name + PARENT)) for name in self.parents if name in self.text)

    def keys_above(self, facet: int, texts: Sequence[object]) -> np.ndarray:
        """(K,) uint32 keys of what the K values of an attribute, a text facet, lie in."""
        name = self.text[facet]
        above = [parent(str(text), self.parents[name]) for text in texts]
        return np.array([key_of(name + PARENT, text) for text in above], np.uint32)

    @property
    def measured(self) -> tuple[int, ...]:
        """Which of the N numbers are attributes."""
        return tuple(n for n, name in enumerate(self.number) if name != "pace")

    @property
    def brought(self) -> int:
        """How many attributes may be a thief's: all that do not say who the account is."""
        return len(self.steady) + len(self.measured)

    @property
    def given(self) -> np.ndarray:
        """(F,) bool: the text facets that are `fixed`."""
        return np.isin(self.text, self.fixed)


def factorize(column: Iterable[object], length: int) -> tuple[list[object], np.ndarray]:
    """Distinct values in order of appearance, and (E,) codes into them."""
    values = column.tolist() if isinstance(column, np.ndarray) else list(column)
    index = {value: n for n, value in enumerate(dict.fromkeys(values))}
    return list(index), np.fromiter(map(index.__getitem__, values), np.int64, length)


@lru_cache(1 << 17)
def key_of(facet: str, value: str) -> int:
    """32-bit key of a facet's value, the same on every machine; never 0."""
    return int.from_bytes(blake2b(f"{facet}\0{value}".encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little") or 1


def as_text(value: object) -> str:
    """An attribute's value as the text facets see it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@lru_cache(1 << 16)
def parent(value: str, levels: int = 1) -> str:
    """What a value lies in, `levels` up; itself where nothing is above it. Or its FORM, with `#` for each of its numbers.

    A query is cut off an address, the last part off a path, the arguments off a command line, the mailbox off a mail address, the
    last byte off an IPv4 address, the last group off one with colons and the first label off a host's name (two are left).
    """
    if levels == FORM:
        return DIGITS.sub("#", value)
    for _ in range(levels):
        value = _above(value)
    return value


def _above(value: str) -> str:
    if (cut := QUERY.search(value, 1)) is not None:
        return value[: cut.start()]
    part = value.rstrip("/\\")
    first, slash = BREAK.search(part), max(part.rfind("/"), part.rfind("\\"))
    if first is not None and first.group() == " " and first.start():
        return part[: first.start()]
    if slash > 0:
        return part[:slash]
    if "@" in part[:-1]:
        return part.rpartition("@")[2]
    if NETWORK.fullmatch(part):
        return part.rpartition(".")[0]
    if part.count(":") >= 2:
        return part.rpartition(":")[0]
    return part.partition(".")[2] if part.count(".") >= 2 else value


DIGITS = re.compile(r"\d+")
QUERY, BREAK, NETWORK = re.compile(r"[?#]"), re.compile(r"[/\\ ]"), re.compile(r"\d{1,3}(\.\d{1,3}){1,3}")


def unchanging(users: Sequence[str], days: np.ndarray, columns: Mapping[str, Sequence[object]]) -> tuple[str, ...]:
    """Which attributes of `columns` (E,) hardly ever change within an account, but differ between accounts of `users` (E,).

    They say who an account is (its home town, its plan), not what is done with it. Of accounts seen on FIXED_DAYS of `days` (E,).
    """
    account = factorize(users, len(users))[1]
    often = np.bincount(np.unique(account + (account.max(initial=0) + 1) * days) % (account.max(initial=0) + 1)) >= FIXED_DAYS
    if often.sum() < FIXED_ACCOUNTS:
        return ()
    out = []
    for name, column in columns.items():
        values, code = factorize(column, len(users))
        there = np.flatnonzero(often[account] & np.array([v is not None for v in values])[code])
        if not len(there):
            continue
        most, main = _shown_most(account[there], code[there])
        if most.sum() >= (1 - CHANGED) * len(there) and len(np.unique(main)) > 1:
            out.append(name)
    return tuple(out)


def _shown_most(account: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A,) how often each account (E,) shows the value, of code (E,), that it shows most; and the codes of those values."""
    cell, count = np.unique(account * (code.max(initial=0) + 1) + code, return_counts=True)
    who, what = np.divmod(cell, code.max(initial=0) + 1)
    most = np.zeros(account.max(initial=-1) + 1, np.int64)
    np.maximum.at(most, who, count)
    return most, what[count == most[who]]


def steadiness(users: Sequence[str], columns: Mapping[str, Sequence[object]]) -> dict[str, float]:
    """How much accounts keep to one value of each attribute of `columns` (E,): as `Facets.steady` has it.

    The mean over accounts of `users` (E,) that show FEWEST_SHOWN values of it; 0 where there is none.
    """
    account = factorize(users, len(users))[1]
    out = {}
    for name, column in columns.items():
        values, code = factorize(column, len(users))
        there = np.array([v is not None for v in values], bool)[code]
        shown, most = np.bincount(account[there]), _shown_most(account[there], code[there])[0]
        enough = shown >= FEWEST_SHOWN
        out[name] = float((most[enough] / shown[enough]).mean()) if enough.any() else 0.0
    return dict(sorted(out.items(), key=lambda one: -one[1]))


def counters(users: Sequence[str], time: np.ndarray, columns: Mapping[str, Sequence[object]]) -> tuple[str, ...]:
    """Which numbers of `columns` (E,) only grow with `time` (E,), as clocks and serial numbers do: no owner ever had the next one.

    Within most accounts of `users` (E,) that have FEWEST_GROWN events and more than one value.
    """
    account = np.unique(np.asarray(users, str), return_inverse=True)[1]
    order = np.lexsort((time, account))
    parts = np.split(order, np.flatnonzero(np.diff(account[order])) + 1)
    out = []
    for name, column in columns.items():
        values = np.array([math.nan if v is None else as_number(v) for v in column], float)
        held = [values[p][~np.isnan(values[p])] for p in parts]
        grown = [float((np.diff(x) >= 0).mean()) for x in held if len(x) >= FEWEST_GROWN and np.ptp(x) > 0]
        if len(grown) >= FIXED_ACCOUNTS and np.median(grown) >= GROWN:
            out.append(name)
    return tuple(out)


def as_number(value: object) -> float:
    """An attribute's value as the number facets see it, LARGEST at most either way; nan where it is none."""
    try:
        number = value if isinstance(value, float) else float(str(value))
    except ValueError:
        return math.nan
    return math.copysign(min(abs(number), LARGEST), number) if math.isfinite(number) else math.nan


def scaled(values: np.ndarray, unit: float) -> np.ndarray:
    """Numbers on the scale of their facet: linear (unit 0), or sign(x)·log(1 + |x| / unit)."""
    return np.sign(values) * np.log1p(np.abs(values) / unit) if unit else values


def unscaled(values: np.ndarray, unit: float) -> np.ndarray:
    """The inverse of `scaled`."""
    return np.sign(values) * np.expm1(np.abs(values)) * unit if unit else values


def unit_of(account: np.ndarray, values: np.ndarray) -> float:
    """The unit of the log scale on which (E,) numbers of accounts (E,) are normal rather than on a linear one; 0: they are not.

    By likelihood (Box & Cox 1964), each account with a mean and a variance of its own, and by a margin. Units are shares of the
    median, so that a log in seconds and one in milliseconds have the same scale. What is absent (nan) says nothing, nor does an
    account with too few values; 0, of which there may be heaps, is as dense as the smallest values that are not.
    """
    there = ~np.isnan(values)
    often = np.bincount(account[there], minlength=1) >= FEWEST_SHOWN
    there &= often[np.minimum(account, len(often) - 1)]
    of, x = np.unique(account[there], return_inverse=True)[1], values[there]
    size = np.abs(x)
    if not size.any():
        return 0.0
    count, some = np.bincount(of), size[size > 0]
    dense = np.maximum(size, np.quantile(some, SMALLEST))

    def likelihood(unit: float) -> float:
        on = scaled(x, unit)
        variance = np.bincount(of, (on - (np.bincount(of, on) / count)[of]) ** 2) / count
        steepness = np.log(unit + dense).mean() if unit else 0.0
        return float(-steepness - np.log(np.maximum(variance, LEAST_VARIANCE))[of].mean() / 2)

    best = max((max(share * float(np.median(some)), LEAST_UNIT) for share in UNITS), key=likelihood)
    return best if likelihood(best) > likelihood(0.0) + LOG_MARGIN else 0.0


def observe(batch: Batch, assignment: Assignment, open_parts: Sessions, facets: Facets) -> tuple[Occurrences, np.ndarray]:
    """The facets of each event: loose token occurrences, and (E, N) numbers (nan: absent)."""
    events = len(batch)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, int, np.ndarray]] = []
    primary = np.zeros(events, np.uint32)
    for f, name in enumerate(facets.text):
        if name == "pair":
            parts.append(_pairs(batch, assignment, open_parts, primary, facets, f))
            continue
        for shown in columns_of(batch, name, facets):
            keys = shown.keys[shown.codes]
            here = np.flatnonzero(keys)
            parts.append((here, keys[here], shown.texts[shown.codes[here]], f, np.full(len(here), shown.weight)))
            if name == facets.paired:
                primary = keys
    numbers = np.full((events, len(facets.number)), np.nan)
    for n, name in enumerate(facets.number):
        if name == "pace":
            numbers[:, n] = scaled(np.maximum(assignment.since, PACE_FLOOR_S) - PACE_FLOOR_S, facets.unit[n])
            continue
        column = batch.attributes.get(name)
        if column is not None:
            values, codes = factorize(column, events)
            raw = np.array([math.nan if v is None else as_number(v) for v in values], float)[codes]
            numbers[:, n] = scaled(raw, facets.unit[n])
    return Occurrences.of(parts, primary), numbers


@dataclass(frozen=True)
class Column:
    """A text facet's value of every event."""

    codes: np.ndarray  # (E,) which of the K values
    keys: np.ndarray  # (K,) uint32; 0: there is none
    texts: np.ndarray  # (K,) object
    weight: float = 1.0  # how much each occurrence counts


def columns_of(batch: Batch, name: str, facets: Facets) -> list[Column]:
    """The values of a text facet other than `pair`: several where an event has more than one, none where the log has none."""
    if name == "hour":
        return [_hours(batch.time, shift, weight) for shift, weight in HOUR_SPREAD]
    if facets.together and name == facets.joint:
        first, second = (columns_of(batch, part, facets) for part in facets.together)
        return [_both(a, b) for a in first for b in second]
    source = name.removesuffix(PARENT)
    level = facets.parents.get(source, 0) if name.endswith(PARENT) else 0
    shown = batch.attributes.get(source if level else name)
    if shown is None:
        return []
    values, codes = factorize(shown, len(batch))
    texts = np.array(["" if v is None else parent(as_text(v), level) for v in values], object)
    keys = np.array([0 if v is None else key_of(name, text) for v, text in zip(values, texts, strict=True)], np.uint32)
    return [Column(codes, keys, texts)]


def _both(first: Column, second: Column) -> Column:
    """Which values come together."""
    codes, each = np.unique(first.codes * len(second.keys) + second.codes, return_inverse=True)
    a, b = codes // len(second.keys), codes % len(second.keys)
    keys = np.where((first.keys[a] > 0) & (second.keys[b] > 0), pair_keys(first.keys[a], second.keys[b]), np.uint32(0))
    texts = [f"{x} + {y}" for x, y in zip(first.texts[a], second.texts[b], strict=True)]
    return Column(each, keys, np.array(texts, object), first.weight * second.weight)


@dataclass(frozen=True)
class Occurrences:
    """Loose tokens of a batch: one row per event and value."""

    event: np.ndarray  # (T,) int64
    key: np.ndarray  # (T,) uint32
    text: np.ndarray  # (T,) object
    facet: np.ndarray  # (T,) int16
    weight: np.ndarray  # (T,) float64
    primary: np.ndarray  # (E,) uint32: the value that pairs are made of; 0: none

    @staticmethod
    def of(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, int, np.ndarray]], primary: np.ndarray) -> Occurrences:
        if not parts:
            none = np.empty(0)
            event, key, facet = none.astype(np.int64), none.astype(np.uint32), none.astype(np.int16)
            return Occurrences(event, key, none.astype(object), facet, none, primary)
        return Occurrences(
            np.concatenate([p[0] for p in parts]),
            np.concatenate([p[1] for p in parts]),
            np.concatenate([p[2] for p in parts]),
            np.repeat([p[3] for p in parts], [len(p[0]) for p in parts]).astype(np.int16),
            np.concatenate([p[4] for p in parts]),
            primary,
        )


def _hours(time: np.ndarray, shift: int, weight: float) -> Column:
    texts = np.array([f"{h:02d}h" for h in range(24)], object)
    keys = np.array([key_of("hour", t) for t in texts], np.uint32)
    return Column((np.floor(time / 3600).astype(np.int64) + shift) % 24, keys, texts, weight)


def _pairs(
    batch: Batch, assignment: Assignment, open_parts: Sessions, primary: np.ndarray, facets: Facets, f: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, np.ndarray]:
    """Which value follows which: the key mixes both keys; across batches the open part remembers the earlier one."""
    earlier = np.where(assignment.before >= 0, primary[assignment.before], 0).astype(np.uint32)
    if len(open_parts) and len(batch):
        opened = assignment.continues[assignment.session]
        first_here = (assignment.before < 0) & (opened >= 0) & ~np.isnan(assignment.since)
        earlier[first_here] = open_parts.last[opened[first_here]]
    here = np.flatnonzero((earlier != 0) & (primary != 0))
    keys = pair_keys(earlier[here], primary[here])
    column = batch.attributes.get(str(facets.pair_of), np.full(len(batch), None, object))
    values, codes = factorize(column[here], len(here))
    level = facets.parents.get(str(facets.pair_of), 0)
    return here, keys, np.array([f"… {parent(as_text(v), level)}" for v in values], object)[codes], f, np.ones(len(here))


def as_sessions(batch: Batch, seen: Occurrences, numbers: np.ndarray) -> Sessions:
    """Each event as a session of its own, (S,) = (E,). `combine` adds them up one by one, so no cut of a batch changes a bit."""
    events = len(batch)
    order = np.argsort(seen.event, kind="stable")
    x = np.where(np.isnan(numbers), 0.0, numbers)
    present = ~np.isnan(numbers)
    return Sessions(
        user=batch.user,
        name=batch.session,
        start=batch.time,
        end=batch.time,
        events=np.ones(events, np.int64),
        alerted=np.zeros(events, bool),
        last=seen.primary,
        indptr=np.concatenate([[0], np.cumsum(np.bincount(seen.event, minlength=events))]),
        key=seen.key[order],
        facet=seen.facet[order],
        count=seen.weight[order].astype(np.float32),
        text=seen.text[order],
        numbers=np.stack([present, x, x * x, np.where(present, x, np.inf), np.where(present, x, -np.inf)], axis=2).astype(float),
    )


def discover(columns: Mapping[str, Sequence[object]], kinds: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Text and number attributes of a log, from a sample of each column; `kinds` overrides by name.

    An attribute is a number where 99 % of its values are numbers and more than ten differ; it is ignored where it is constant, or
    text that hardly ever repeats (an identifier of the event), or too rare to be a habit (RARE).
    """
    text: list[str] = []
    number: list[str] = []
    for name, column in columns.items():
        present = [v for v in column if v is not None]
        kind = kinds.get(name)
        if kind == "ignored" or not present:
            continue
        distinct = set(present)
        if kind is None:
            if len(present) < RARE * len(column) or len(distinct) < 2:
                continue
            numeric = sum(isinstance(v, float) for v in present) >= 0.99 * len(present) and len(distinct) > 10
            kind = "number" if numeric else "text"
            if kind == "text" and len(present) > 100 and len(distinct) > 0.9 * len(present):
                continue
        (number if kind == "number" else text).append(name)
    return tuple(text), tuple(number)
