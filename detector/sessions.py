"""Events → sessions, and the table in which sessions travel.

A session is a run of events of one account: by its name in the log, else by silence. Every rule here depends only on the order in
which one account's events arrive, never on where a batch was cut, so replay, the live run and any split of accounts agree:

* an event joins the open session of its (user, session name) unless it comes more than `gap` after that session's newest event;
* an event out of order, but within `lateness` of the newest time seen, joins the session that is open when it arrives;
* a session closes when the event clock (newest time seen minus lateness) has passed its newest event by more than the gap;
* the sessions of one account close in the order of their close times;
* an account has MOST_OPEN sessions with names open at most: what begins beyond them is one session more, named MORE, so that an
  account that begins thousands a second holds up nobody.

Axes: E events, S sessions, T tokens (distinct facet values) of all sessions, N number facets, W statistics of a number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from heapq import heapify, heappop, heappush

import numpy as np
from scipy import sparse

from detector.records import Batch

MOST_VALUES = 512  # of one facet that a session remembers: the first ones; so an open session costs the same however long it is
MOST_OPEN, MORE = 100, "(more)"
PAIR_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))  # odd, so that order matters and nothing collapses
STATISTICS = 5  # W: count, sum, sum of squares, least, largest


@dataclass(frozen=True)
class Sessions:
    """Sessions, or parts of them, as columns. Parts of one session merge by `combine`, in any grouping."""

    user: np.ndarray  # (S,) object, str
    name: np.ndarray  # (S,) object, str or None
    start: np.ndarray  # (S,) float64, time of the event that arrived first; never changes
    end: np.ndarray  # (S,) float64, newest time
    events: np.ndarray  # (S,) int64
    alerted: np.ndarray  # (S,) bool, an alert was raised while it was open
    last: np.ndarray  # (S,) uint32, key of the value that the next pair starts with; 0: none
    indptr: np.ndarray  # (S+1,) int64, tokens of session s are indptr[s]:indptr[s+1], ordered by key
    key: np.ndarray  # (T,) uint32, hash of facet and value
    facet: np.ndarray  # (T,) int16, index of the text facet
    count: np.ndarray  # (T,) float32, how often
    text: np.ndarray  # (T,) object, the value for people
    numbers: np.ndarray  # (S, N, W) float64

    def __len__(self) -> int:
        return len(self.user)

    @property
    def row(self) -> np.ndarray:
        """(T,) int64: the session of each token."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    @property
    def damped(self) -> np.ndarray:
        """(T,) float64: what the count of each token is worth; repeats within a session say little more."""
        return np.sqrt(self.count, dtype=np.float64)


def empty(numbers: int) -> Sessions:
    """A table of no sessions with N = numbers."""
    none = np.empty(0, object)
    return Sessions(
        none,
        none,
        np.empty(0),
        np.empty(0),
        np.empty(0, np.int64),
        np.empty(0, bool),
        np.empty(0, np.uint32),
        np.zeros(1, np.int64),
        np.empty(0, np.uint32),
        np.empty(0, np.int16),
        np.empty(0, np.float32),
        none,
        np.empty((0, numbers, STATISTICS)),
    )


def no_numbers(rows: int, numbers: int) -> np.ndarray:
    """(S, N, W): the statistics of no value at all, neutral under `combine`."""
    blank = np.zeros((rows, numbers, STATISTICS))
    blank[:, :, 3], blank[:, :, 4] = np.inf, -np.inf
    return blank


def take(table: Sessions, rows: np.ndarray) -> Sessions:
    """The sessions at `rows` (int indices), in that order."""
    lengths = np.diff(table.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    at = np.repeat(table.indptr[rows] - indptr[:-1], lengths) + np.arange(indptr[-1])
    chosen = {f.name: getattr(table, f.name)[rows] for f in fields(table) if f.name not in TOKEN_COLUMNS}
    return Sessions(indptr=indptr, **chosen, **{c: getattr(table, c)[at] for c in TOKEN_COLUMNS if c != "indptr"})


TOKEN_COLUMNS = ("indptr", "key", "facet", "count", "text")


def concat(tables: list[Sessions]) -> Sessions:
    """All sessions of the tables, one after the other."""
    if len(tables) == 1:
        return tables[0]
    columns = {f.name: np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(Sessions) if f.name != "indptr"}
    lengths = np.concatenate([np.diff(t.indptr) for t in tables])
    return Sessions(indptr=np.concatenate([[0], np.cumsum(lengths)]), **columns)


def tokens(
    row: np.ndarray, key: np.ndarray, facet: np.ndarray, count: np.ndarray, text: np.ndarray, rows: int
) -> dict[str, np.ndarray]:
    """Token columns of a table from loose (T,) occurrences, in the order of their arrival within a row.

    Equal keys of a row are added up, ordered by key. Of a facet that has more than MOST_VALUES in a row the first to come stay.
    """
    code = (row.astype(np.uint64) << np.uint64(32)) | key.astype(np.uint64)
    code, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    owner = (code >> np.uint64(32)).astype(np.int64)
    columns = {
        "indptr": np.searchsorted(owner, np.arange(rows + 1)),
        "key": (code & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        "facet": facet[first].astype(np.int16),
        "count": np.bincount(inverse, count, len(code)).astype(np.float32),
        "text": text[first],
    }
    if np.diff(columns["indptr"]).max(initial=0) <= MOST_VALUES:
        return columns
    order = np.lexsort((first, columns["facet"], owner))
    cell = owner[order] << 16 | columns["facet"][order]
    heads = np.flatnonzero(np.diff(cell, prepend=-1))
    place = np.arange(len(order)) - np.repeat(heads, np.diff(np.append(heads, len(order))))
    kept = np.sort(order[place < MOST_VALUES])
    return {"indptr": np.searchsorted(owner[kept], np.arange(rows + 1))} | {
        name: column[kept] for name, column in columns.items() if name != "indptr"
    }


def combine(table: Sessions, group: np.ndarray, groups: int) -> Sessions:
    """Merge parts: rows with the same `group` (S,) in [0, groups) become one session; earlier rows came first.

    Every group must have a row. Start and name are the first part's, the pair's end is the last part's.
    """
    first = np.full(groups, len(table))
    np.minimum.at(first, group, np.arange(len(table)))
    final = np.zeros(groups, np.int64)
    np.maximum.at(final, group, np.arange(len(table)))
    numbers = no_numbers(groups, table.numbers.shape[1])
    np.add.at(numbers[:, :, :3], group, table.numbers[:, :, :3])
    np.minimum.at(numbers[:, :, 3], group, table.numbers[:, :, 3])
    np.maximum.at(numbers[:, :, 4], group, table.numbers[:, :, 4])
    end = np.full(groups, -np.inf)
    np.maximum.at(end, group, table.end)
    return Sessions(
        user=table.user[first],
        name=table.name[first],
        start=table.start[first],
        end=end,
        events=np.bincount(group, table.events, groups).astype(np.int64),
        alerted=np.bincount(group, table.alerted, groups) > 0,
        last=table.last[final],
        numbers=numbers,
        **tokens(group[table.row], table.key, table.facet, table.count, table.text, groups),
    )


def pair_keys(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(T,) uint32 keys of `second` following `first`, from the keys of both."""
    return paired(pair_half(first, 0), pair_half(second, 1))


def pair_half(keys: np.ndarray, which: int) -> np.ndarray:
    """(T,) uint32: what values with these keys bring to the key of a pair as its first (0) or second (1)."""
    return np.asarray((keys.astype(np.uint64) * PAIR_MIX[which] >> np.uint64(32)).astype(np.uint32))


def paired(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(T,) uint32 keys of pairs from their halves."""
    return np.asarray(first ^ second | np.uint32(1))


def weighted_sums(bounds: np.ndarray, weight: np.ndarray, row: np.ndarray, of: np.ndarray) -> np.ndarray:
    """(G, X): for each group of tokens bounds[g]:bounds[g+1] the sum of their weight (T,) times their rows (T,) of (V, X)."""
    return np.asarray(sparse.csr_array((weight, row, bounds), shape=(len(bounds) - 1, len(of))) @ of)


def with_volume(table: Sessions) -> np.ndarray:
    """(S, N+1, W): the numbers of the sessions with `volume`, the log of the events, as one more number."""
    x = np.log(np.maximum(table.events, 1)).astype(float)
    volume = np.stack([np.ones(len(table)), x, x * x, x, x], axis=1)
    return np.concatenate([table.numbers, volume[:, None, :]], axis=1)


def bounded(batch: Batch, open_parts: Sessions, named_gap: float) -> Batch:
    """The batch with the names that its events' sessions have: where an account has MOST_OPEN open, a further one is named MORE.

    Open at an event is what has not been silent for `named_gap` at the newest time of the account's events up to it.
    """
    named = batch.session != np.full(len(batch), None, object)
    if not named.any():
        return batch
    pairs = {*zip(batch.user[named].tolist(), batch.session[named].tolist(), strict=True)}
    many = Counter(user for user, _ in (*pairs, *zip(open_parts.user.tolist(), open_parts.name.tolist(), strict=True)))
    crowded = {user for user, n in many.items() if n > MOST_OPEN}
    if not crowded:
        return batch
    names = batch.session.copy()
    for user in sorted(crowded):
        mine = open_parts.user == user
        ends = dict(zip(open_parts.name[mine].tolist(), open_parts.end[mine].tolist(), strict=True))
        newest = float(open_parts.end[mine].max(initial=-np.inf))
        line = [(end + named_gap, name) for name, end in ends.items() if name not in (None, MORE)]
        heapify(line)  # of open sessions by when they close; an entry that is too early is put back
        for e in np.flatnonzero(batch.user == user).tolist():
            time, name = float(batch.time[e]), batch.session[e]
            newest = max(newest, time)
            while line and line[0][0] < newest:
                _, gone = heappop(line)
                if ends[gone] + named_gap >= newest:
                    heappush(line, (ends[gone] + named_gap, gone))
            if name in (None, MORE):
                continue
            if time <= ends.get(name, -np.inf) + named_gap:
                if ends[name] + named_gap < newest <= time + named_gap:
                    heappush(line, (time + named_gap, name))
                ends[name] = max(ends[name], time)
            elif len(line) < MOST_OPEN:
                heappush(line, (time + named_gap, name))
                ends[name] = time
            else:
                names[e] = MORE
    return replace(batch, session=names)


@dataclass(frozen=True)
class Assignment:
    """Which session each event of a batch belongs to. Sessions are numbered by (account, name, arrival)."""

    session: np.ndarray  # (E,) int64
    ordinal: np.ndarray  # (E,) int64: 1 for the first event of its session, going on where an open part ended
    since: np.ndarray  # (E,) float64: seconds since the session's newest event before this one; nan for a first event
    before: np.ndarray  # (E,) int64: index of the event of the same session that arrived just before, -1 for none
    continues: np.ndarray  # (S,) int64: row of the open part that it continues, -1 for none
    arrival: np.ndarray  # (S,) int64: index of the first event of it in the batch


def assign(batch: Batch, open_parts: Sessions, gap: float, named_gap: float) -> Assignment:
    """Assign the events of a batch (in the order of arrival) to open or new sessions.

    `open_parts` are all open sessions of the batch's accounts; of one (user, name) only the newest can go on.
    """
    events, count = len(batch), len(batch) + len(open_parts)
    users = [*open_parts.user.tolist(), *batch.user.tolist()]
    names = [*open_parts.name.tolist(), *batch.session.tolist()]
    keys = list(zip(users, names, strict=True))
    pairs = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    group = np.fromiter(map(pairs.__getitem__, keys), np.int64, count)
    time = np.concatenate([open_parts.end, batch.time])
    order = np.argsort(group, kind="stable")  # open parts come before events; within a group the arrival order stays
    g, t, real = group[order], time[order], order >= len(open_parts)
    newest = running_maximum(t, g)
    allowed = np.where([name is None for name in np.asarray(names, object)[order]], gap, named_gap) if count else np.empty(0)
    starts = np.ones(count, bool)
    starts[1:] = (g[1:] != g[:-1]) | (t[1:] > newest[:-1] + allowed[1:]) | ~real[1:]
    run = np.cumsum(starts) - 1
    head = np.flatnonzero(starts)
    prior = np.where(real[head], 0, open_parts.events[order[head].clip(max=max(len(open_parts) - 1, 0))] if len(open_parts) else 0)
    place = np.arange(count) - head[run] + np.where(real[head], 1, 0)[run] + prior[run]
    used = np.unique(run[real])  # runs that got an event; an open part alone is not of this batch
    number = np.full(len(head), -1)
    number[used] = np.arange(len(used))
    session, ordinal = np.empty(events, np.int64), np.empty(events, np.int64)
    since, before = np.full(events, np.nan), np.full(events, -1)
    at = order[real] - len(open_parts)
    session[at], ordinal[at] = number[run[real]], place[real]
    follows = np.flatnonzero(real & ~starts)
    since[order[follows] - len(open_parts)] = np.maximum(t[follows] - newest[follows - 1], 0)
    inside = follows[real[follows - 1]]
    before[order[inside] - len(open_parts)] = order[inside - 1] - len(open_parts)
    continues = np.where(real[head[used]], -1, order[head[used]])
    arrival = np.full(len(used), events)
    np.minimum.at(arrival, session, np.arange(events))
    return Assignment(session, ordinal, since, before, continues, arrival)


def running_maximum(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Running maximum of (E,) values within runs of equal `group`, exact."""
    if not len(values):
        return values.copy()
    distinct, rank = np.unique(values, return_inverse=True)
    block = np.cumsum(np.concatenate([[0], group[1:] != group[:-1]]))
    return distinct[np.maximum.accumulate(block * len(distinct) + rank) - block * len(distinct)]


def close_time(table: Sessions, gap: float, named_gap: float) -> np.ndarray:
    """(S,) the time after which an event no longer belongs to the session."""
    named = np.array([name is not None for name in table.name], bool)
    return table.end + np.where(named, named_gap, gap)


def mark_alerted(table: Sessions, rows: np.ndarray) -> Sessions:
    """The same table with an alert noted on the sessions at `rows`."""
    alerted = table.alerted.copy()
    alerted[rows] = True
    return replace(table, alerted=alerted)
