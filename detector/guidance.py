"""What people said of accounts, as the core takes it: whose a session was, and which values are in order.

Kept per account, and under the name EVERYONE for all; in the order of the answers. Times are event times in seconds.

Axes: S sessions, T tokens, N number facets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np

from detector.facets import PARENT, Facets, parent, scaled, unscaled
from detector.sessions import Sessions, no_numbers, pair_keys

EVERYONE = ""  # no account is called so
NOBODY: Mapping[str, Guidance] = {}
UNSAID, STRANGER, OWNER = -1, 0, 1


class Lesson(msgspec.Struct, frozen=True, array_like=True):
    """Whose a session was, whatever it looks like: the owner's is learnt, another's is as if it had never been."""

    session: str | None
    start: float
    owner: bool


class Known(msgspec.Struct, frozen=True, array_like=True):
    """A session that is in order: one of the account that does nothing else is the owner's as well, and does not alarm."""

    key: bytes  # uint32: its values
    numbers: dict[str, tuple[float, float]]  # facet -> least and largest, as they are in the log
    events: int
    until: float = math.inf


class Allowance(msgspec.Struct, frozen=True, array_like=True):
    """A value that is in order, or the numbers between two, as they are in the log."""

    facet: str
    value: str | None = None  # None: of a number facet
    least: float = -math.inf
    most: float = math.inf
    until: float = math.inf  # sessions that end later are judged with it


class Guidance(msgspec.Struct, frozen=True):
    """All of it, for one account."""

    lessons: tuple[Lesson, ...] = ()
    frozen: tuple[tuple[float, float], ...] = ()  # sessions that start from the first time on and before the second teach nothing
    allowed: tuple[Allowance, ...] = ()
    known: tuple[Known, ...] = ()


def lessons(table: Sessions, guidance: Mapping[str, Guidance]) -> np.ndarray:
    """(S,) OWNER, STRANGER, or UNSAID where nobody said whose each session is; what does nothing but a known one is the owner's."""
    out = np.full(len(table), UNSAID)
    if not guidance:
        return out
    for user in set(table.user) & guidance.keys():
        said = {(one.session, one.start): int(one.owner) for one in guidance[user].lessons}
        for s in np.flatnonzero(table.user == user):
            start = float(table.start[s])
            held = any(low <= start < high for low, high in guidance[user].frozen)
            out[s] = said.get((table.name[s], start), STRANGER if held else UNSAID)
    return out


def covered(table: Sessions, looks: Facets, guidance: Mapping[str, Guidance]) -> np.ndarray:
    """(S,) bool: sessions with no value, no number beyond those and no more events than one that is known to be in order."""
    out = np.zeros(len(table), bool)
    for user in set(table.user) & {user for user, said in guidance.items() if said.known}:
        for s in np.flatnonzero(table.user == user):
            end, events = float(table.end[s]), int(table.events[s])
            keys = table.key[table.indptr[s] : table.indptr[s + 1]]
            inside = [k for k in guidance[user].known if end <= k.until and events <= k.events]
            inside = [k for k in inside if np.isin(keys, np.frombuffer(k.key, np.uint32)).all()]
            out[s] = any(_within(table.numbers[s], looks, k.numbers) for k in inside)
    return out


def known(table: Sessions, s: int, looks: Facets, until: float) -> Known:
    """Session `s` as one that is in order."""
    ends = {
        name: (float(unscaled(table.numbers[s, n, 3], unit)), float(unscaled(table.numbers[s, n, 4], unit)))
        for n, (name, unit) in enumerate(zip(looks.number, looks.unit, strict=True))
        if table.numbers[s, n, 0] > 0
    }
    return Known(table.key[table.indptr[s] : table.indptr[s + 1]].tobytes(), ends, int(table.events[s]), until)


def _within(numbers: np.ndarray, looks: Facets, ends: Mapping[str, tuple[float, float]]) -> bool:
    """Whether the (N, W) numbers of a session lie between the ends, but for rounding."""
    for n, (name, unit) in enumerate(zip(looks.number, looks.unit, strict=True)):
        if numbers[n, 0] > 0:
            least, most = scaled(np.array(ends.get(name, (math.inf, -math.inf))), unit)
            slack = 1e-9 * max(abs(least), abs(most), 1.0)
            if not (numbers[n, 3] >= least - slack and numbers[n, 4] <= most + slack):
                return False
    return True


def exempt(table: Sessions, looks: Facets, guidance: Mapping[str, Guidance]) -> Sessions:
    """The sessions without the values that are allowed; the same table where none is."""
    for user in sorted((set(table.user) | {EVERYONE}) & guidance.keys()):
        mine = np.ones(len(table), bool) if user == EVERYONE else table.user == user
        for allowance in guidance[user].allowed:
            table = without(table, looks, mine & (table.end <= allowance.until), allowance)
    return table


def _with_it(table: Sessions, looks: Facets, what: Allowance, drop: np.ndarray) -> np.ndarray:
    """(T,) bool: what goes with the tokens `drop`: a parent that nothing else lies in; what lies in a parent that is allowed."""
    source, out = what.facet.removesuffix(PARENT), np.zeros(len(table.key), bool)
    level, over = looks.parents.get(source), source + PARENT
    if level is None or source not in looks.text or over not in looks.text:
        return out
    inside, above = (np.flatnonzero(table.facet == looks.text.index(name)) for name in (source, over))
    lies_in = [parent(str(text), level) for text in table.text[inside]]
    if what.facet == source:
        left = {(r, p) for r, p, gone in zip(table.row[inside], lies_in, drop[inside], strict=True) if not gone}
        out[above] = [(r, text) not in left for r, text in zip(table.row[above], table.text[above], strict=True)]
    else:
        out[inside] = [what.value is not None and p == what.value for p in lies_in]
    return out


def _made_of(table: Sessions, looks: Facets, drop: np.ndarray) -> np.ndarray:
    """(T,) bool: what comes together with one of the tokens `drop`."""
    out = np.zeros(len(table.key), bool)
    if not looks.together:
        return out
    joint, first, second = (table.facet == looks.text.index(name) for name in (looks.joint, *looks.together))
    for r in np.unique(table.row[drop & (first | second)]):
        here = np.arange(table.indptr[r], table.indptr[r + 1])
        a, b = here[first[here]], here[second[here]]
        gone = drop[a][:, None] | drop[b]
        both = pair_keys(*np.broadcast_arrays(table.key[a][:, None], table.key[b]))
        out[here] = joint[here] & np.isin(table.key[here], both[gone])
    return out


def without(table: Sessions, looks: Facets, rows: np.ndarray, what: Allowance) -> Sessions:
    """The sessions `rows` (S,) without a value, or without numbers that all lie between two; without value and ends, a facet."""
    if what.facet in looks.number:
        n = looks.number.index(what.facet)
        least, most = scaled(np.array([what.least, what.most]), looks.unit[n])
        gone = rows & (table.numbers[:, n, 0] > 0) & (table.numbers[:, n, 3] >= least) & (table.numbers[:, n, 4] <= most)
        if not gone.any():
            return table
        numbers = table.numbers.copy()
        numbers[gone, n] = no_numbers(int(gone.sum()), 1)[:, 0]
        return replace(table, numbers=numbers)
    if what.facet not in looks.text:
        return table
    row = table.row
    drop = rows[row] & (table.facet == looks.text.index(what.facet))
    if what.value is not None:
        drop &= table.text == what.value
    drop |= rows[row] & _with_it(table, looks, what, drop)
    drop |= rows[row] & _made_of(table, looks, drop)
    if not drop.any():
        return table
    kept = np.bincount(row[~drop], minlength=len(table))
    columns = {name: getattr(table, name)[~drop] for name in ("key", "facet", "count", "text")}
    return replace(table, indptr=np.concatenate([[0], np.cumsum(kept)]), **columns)
