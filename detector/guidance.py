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

from detector.facets import Facets, scaled
from detector.sessions import Sessions, no_numbers

EVERYONE = ""  # no account is called so
NOBODY: Mapping[str, Guidance] = {}
UNSAID = -1


class Lesson(msgspec.Struct, frozen=True, array_like=True):
    """How often a session is learnt: 0 as if it had never been, n as the owner's, whatever it looks like."""

    session: str | None
    start: float
    times: int


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


def lessons(table: Sessions, guidance: Mapping[str, Guidance]) -> np.ndarray:
    """(S,) int: how often each session is learnt, UNSAID where nobody said so."""
    out = np.full(len(table), UNSAID)
    if not guidance:
        return out
    for user in set(table.user) & guidance.keys():
        said = {(one.session, one.start): one.times for one in guidance[user].lessons}
        for s in np.flatnonzero(table.user == user):
            start = float(table.start[s])
            held = any(low <= start < high for low, high in guidance[user].frozen)
            out[s] = said.get((table.name[s], start), 0 if held else UNSAID)
    return out


def exempt(table: Sessions, looks: Facets, guidance: Mapping[str, Guidance]) -> Sessions:
    """The sessions without the values that are allowed; the same table where none is."""
    for user in sorted((set(table.user) | {EVERYONE}) & guidance.keys()):
        mine = np.ones(len(table), bool) if user == EVERYONE else table.user == user
        for allowance in guidance[user].allowed:
            table = without(table, looks, mine & (table.end <= allowance.until), allowance)
    return table


def without(table: Sessions, looks: Facets, rows: np.ndarray, what: Allowance) -> Sessions:
    """The sessions `rows` (S,) without a value, or without numbers that all lie between two; without value and ends, a facet."""
    if what.facet in looks.number:
        n = looks.number.index(what.facet)
        least, most = scaled(np.array([what.least, what.most]), looks.log_scale[n])
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
    if not drop.any():
        return table
    kept = np.bincount(row[~drop], minlength=len(table))
    columns = {name: getattr(table, name)[~drop] for name in ("key", "facet", "count", "text")}
    return replace(table, indptr=np.concatenate([[0], np.cumsum(kept)]), **columns)
