"""The memory of accounts, as arrays: look up, learn, write to bytes and back. Fixed size per account at most.

Axes: A accounts, S sessions, T tokens, K remembered values, F text facets, N number facets (volume included), J peers,
B remembered sessions, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from detector.errors import StoreDamagedError
from detector.sessions import Sessions, with_volume

VALUES = 384  # K: the heaviest so many values of an account; a person's habits fit (Schonlau's users know 50 to 300 commands)
BANK = 24  # B: remembered sessions; nearest-of-24 is where the gain over fewer flattens
PAD = np.uint32(0xFFFFFFFF)
NEVER = -1.0
NOT_DUE = np.int64(1 << 62)
LEVELS = 127  # the largest component of a remembered session: blurs a likeness by less than 0.001, for a quarter of the bytes


@dataclass(frozen=True)
class Profiles:
    """What is remembered of A accounts, row by row."""

    key: np.ndarray  # (A, K) uint32, ascending, padded with PAD
    weight: np.ndarray  # (A, K) float32, damped counts
    facet: np.ndarray  # (A, K) int16
    seen: np.ndarray  # (A, K) float32, days since 1970 when the value was last seen
    total: np.ndarray  # (A, F) float32, damped counts ever
    kinds: np.ndarray  # (A, F) float32, distinct values ever
    number: np.ndarray  # (A, N, 3) float64: weight, sum, sum of squares
    affinity: np.ndarray  # (A, J) float32: log-likelihood of the account's values under each peer
    bank: np.ndarray  # (A, B, D) int8: directions of remembered sessions, zeros where free
    long: np.ndarray  # (A, D) float32, decayed sum of session embeddings: the long-term embedding, unnormalised
    history: np.ndarray  # (A,) int64, sessions known
    last: np.ndarray  # (A,) float64, end of the newest session; NEVER
    doubt: np.ndarray  # (A, 3) float64, belief: probabilities of what is strange (see `belief`)
    unlearnt: np.ndarray  # (A,) int64, sessions in a row that were too doubtful to be learnt
    due: np.ndarray  # (A,) int64, the history at which the first waiting session is learnt; NOT_DUE where none waits
    waiting: np.ndarray  # (A,) object, bytes: sessions in doubt that wait to be learnt (see `waiting`); empty where none

    def __len__(self) -> int:
        return len(self.history)


@dataclass(frozen=True)
class Shape:
    """The sizes that a pack gives to profiles."""

    facets: int  # F
    numbers: int  # N, volume included
    peers: int  # J
    width: int  # D


def blank(accounts: int, shape: Shape) -> Profiles:
    """Profiles of accounts that were never seen."""
    return Profiles(
        key=np.full((accounts, VALUES), PAD),
        weight=np.zeros((accounts, VALUES), np.float32),
        facet=np.zeros((accounts, VALUES), np.int16),
        seen=np.zeros((accounts, VALUES), np.float32),
        total=np.zeros((accounts, shape.facets), np.float32),
        kinds=np.zeros((accounts, shape.facets), np.float32),
        number=np.zeros((accounts, shape.numbers, 3)),
        affinity=np.zeros((accounts, shape.peers), np.float32),
        bank=np.zeros((accounts, BANK, shape.width), np.int8),
        long=np.zeros((accounts, shape.width), np.float32),
        history=np.zeros(accounts, np.int64),
        last=np.full(accounts, NEVER),
        doubt=np.zeros((accounts, 3)),
        unlearnt=np.zeros(accounts, np.int64),
        due=np.full(accounts, NOT_DUE),
        waiting=np.full(accounts, b"", object),
    )


def take(profiles: Profiles, rows: np.ndarray) -> Profiles:
    """The profiles at `rows`, in that order."""
    return Profiles(**{f.name: getattr(profiles, f.name)[rows] for f in fields(profiles)})


def concat(parts: Sequence[Profiles]) -> Profiles:
    """All profiles of the parts (at least one), one after the other."""
    return Profiles(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Profiles)})


def put(profiles: Profiles, rows: np.ndarray, new: Profiles) -> None:
    """Write `new` over the distinct `rows`, in place: the one mutation, for the arrays that a step owns."""
    for f in fields(profiles):
        getattr(profiles, f.name)[rows] = getattr(new, f.name)


def lookup(profiles: Profiles, row: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) damped counts of (row, key) in the profiles and the day each was last seen; 0 where unknown."""
    if not len(row) or not len(profiles):
        return np.zeros(len(row)), np.zeros(len(row))
    at, known = _find(profiles, row, key)
    return np.where(known, profiles.weight.ravel()[at], 0.0), np.where(known, profiles.seen.ravel()[at], 0.0)


def _find(profiles: Profiles, row: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) the place of (row, key) in the flat (A * K) values, and whether it is there."""
    accounts, values = profiles.key.shape
    used = max(int((profiles.key != PAD).sum(axis=1).max()), 1)  # the memory is seldom full
    code = (np.arange(accounts, dtype=np.uint64)[:, None] << np.uint64(32) | profiles.key[:, :used]).ravel()
    wanted = row.astype(np.uint64) << np.uint64(32) | key.astype(np.uint64)
    at = np.minimum(np.searchsorted(code, wanted), len(code) - 1)
    return at // used * values + at % used, code[at] == wanted


def learn(profiles: Profiles, table: Sessions, weight: np.ndarray, embedding: np.ndarray, affinity: np.ndarray) -> Profiles:
    """Profiles (A = S, row by row) after each learnt one session with weight in [0, 1].

    embedding (S, D); affinity (S, J) log-likelihood of the session's values under each peer. The session counts towards
    `history` whatever its weight. What is forgotten when the memory is full: the lightest values, oldest first; the oldest session.
    """
    key, held, facet, seen, fresh = _merge_values(profiles, table, weight)
    total, kinds = profiles.total.copy(), profiles.kinds.copy()
    added = table.damped * weight[table.row]
    np.add.at(total, (table.row, table.facet), added)
    np.add.at(kinds, (table.row[fresh], table.facet[fresh]), weight[table.row[fresh]])
    numbers = with_volume(table)
    number = profiles.number + numbers[:, :, :3] * weight[:, None, None]
    slot = profiles.history % BANK
    bank = profiles.bank.copy()
    rows = np.flatnonzero(weight > 0.5)  # a doubtful session is not remembered as the owner's
    largest = np.abs(embedding[rows]).max(axis=1, keepdims=True, initial=1e-9)
    bank[rows, slot[rows]] = np.rint(embedding[rows] * (LEVELS / largest))
    return replace(
        profiles,
        key=key,
        weight=held,
        facet=facet,
        seen=seen,
        total=total,
        kinds=kinds,
        number=number,
        affinity=(profiles.affinity + affinity * weight[:, None]).astype(np.float32),
        bank=bank,
        long=profiles.long * np.float32(LONG_DECAY) + (embedding * weight[:, None]).astype(np.float32),
        history=profiles.history + 1,
        last=np.maximum(profiles.last, table.end),
    )


LONG_DECAY = 0.98  # per session: the long-term embedding looks back over about fifty sessions


def _merge_values(profiles: Profiles, table: Sessions, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """Values of the profiles with those of one session each added; also which (T,) tokens were new to their profile."""
    accounts, values = profiles.key.shape
    used = int((profiles.key != PAD).sum(axis=1).max(initial=0))
    width = used + int(np.diff(table.indptr).max(initial=0))
    key = np.full((accounts, width), PAD)
    held, facet, seen = (np.zeros((accounts, width), kind) for kind in (np.float32, np.int16, np.float32))
    for column, before in zip(
        (key, held, facet, seen), (profiles.key, profiles.weight, profiles.facet, profiles.seen), strict=True
    ):
        column[:, :used] = before[:, :used]
    day = (table.end / 86400).astype(np.float32)
    added = (table.damped * weight[table.row]).astype(np.float32)
    flat, known = _find(profiles, table.row, table.key) if accounts else (np.zeros(0, np.int64), np.zeros(0, bool))
    known &= profiles.weight.ravel()[flat] > 0
    fresh = ~known & (added > 0)
    old = known & (added > 0)
    at = (flat[old] // values, flat[old] % values)
    held[at] += added[old]
    seen[at] = np.maximum(seen[at], day[table.row[old]])
    place = used + np.arange(len(table.key)) - table.indptr[:-1][table.row]
    at = (table.row[fresh], place[fresh])
    key[at], held[at], facet[at], seen[at] = table.key[fresh], added[fresh], table.facet[fresh], day[table.row[fresh]]
    excess = (key != PAD).sum(axis=1) - values
    for a in np.flatnonzero(excess > 0):  # rare: only accounts with a full memory
        worst = np.lexsort((key[a], seen[a], held[a], key[a] != PAD))[width - values - excess[a] :][: excess[a]]
        key[a, worst], held[a, worst] = PAD, 0
    order = np.argsort(key, axis=1, kind="stable")[:, :values]
    out = []
    for column, blanks in ((key, PAD), (held, 0), (facet, 0), (seen, 0)):
        whole = np.full((accounts, values), blanks, column.dtype)
        whole[:, : order.shape[1]] = np.take_along_axis(column, order, axis=1)
        out.append(whole)
    return (*out, fresh)


def to_bytes(profiles: Profiles) -> list[bytes]:
    """One record per account: how many values and remembered sessions, every column of the row, padding left out, what waits."""
    used = (profiles.key != PAD).sum(axis=1).tolist()
    held = np.minimum(profiles.history, BANK).tolist()
    values = [getattr(profiles, column) for column in VALUE_COLUMNS]
    rest = np.zeros(len(profiles), _rest_of(profiles))
    for name in rest.dtype.names or ():
        rest[name] = getattr(profiles, name)
    ends, size = rest.tobytes(), rest.dtype.itemsize
    return [
        b"".join(
            [
                n.to_bytes(2, "little"),
                b.to_bytes(1, "little"),
                *(column[a, :n].tobytes() for column in values),
                profiles.bank[a, :b].tobytes(),
                ends[a * size : (a + 1) * size],
                profiles.waiting[a],
            ]
        )
        for a, (n, b) in enumerate(zip(used, held, strict=True))
    ]


def _rest_of(profiles: Profiles) -> np.dtype:
    """One row of all columns of a fixed length, packed."""
    columns = [(f.name, getattr(profiles, f.name)) for f in fields(profiles) if f.name not in (*VALUE_COLUMNS, "bank", "waiting")]
    return np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns])


VALUE_COLUMNS = ("key", "weight", "facet", "seen")
HEADER = 3  # bytes


def from_bytes(records: list[bytes | None], shape: Shape) -> Profiles:
    """Profiles from their records; None is an account never seen. Raises StoreDamagedError where a record does not fit the pack."""
    profiles = blank(len(records), shape)
    kind = _rest_of(profiles)
    widths = [getattr(profiles, column).itemsize for column in VALUE_COLUMNS]
    known = [(a, record) for a, record in enumerate(records) if record is not None]
    counts = [int.from_bytes(record[:2], "little") for _, record in known]
    held = [record[2] for _, record in known]
    sizes = [HEADER + n * sum(widths) + b * shape.width + kind.itemsize for n, b in zip(counts, held, strict=True)]
    for size, (_, record) in zip(sizes, known, strict=True):
        if len(record) < size:
            raise StoreDamagedError(f"profile: a record of {len(record)} bytes where the pack expects {size}; train a new pack")
    rows = np.array([a for a, _ in known], np.int64)
    begin = 0
    for column, width in zip(VALUE_COLUMNS, widths, strict=True):
        pieces = (r[HEADER + n * begin : HEADER + n * (begin + width)] for n, (_, r) in zip(counts, known, strict=True))
        target = getattr(profiles, column)
        target[_places(rows, counts)] = np.frombuffer(b"".join(pieces), target.dtype)
        begin += width
    starts = [HEADER + n * sum(widths) for n in counts]
    banks = b"".join(r[at : at + b * shape.width] for at, b, (_, r) in zip(starts, held, known, strict=True))
    profiles.bank[_places(rows, held)] = np.frombuffer(banks, np.int8).reshape(-1, shape.width)
    rest = np.frombuffer(b"".join(r[size - kind.itemsize : size] for size, (_, r) in zip(sizes, known, strict=True)), kind)
    for name in kind.names or ():
        getattr(profiles, name)[rows] = rest[name]
    more = np.array([len(r) for _, r in known], np.int64) - np.array(sizes, np.int64)
    for k in np.flatnonzero((more > 0) | (profiles.due[rows] != NOT_DUE)).tolist():
        a, record = known[k]
        if profiles.due[a] == NOT_DUE or not more[k]:
            raise StoreDamagedError(f"profile: a record of {len(record)} bytes where the pack expects {sizes[k]}; train a new pack")
        profiles.waiting[a] = record[sizes[k] :]
    return profiles


def _places(rows: np.ndarray, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(row, place) of the first so many places of each row."""
    row = np.repeat(rows, counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum([0, *counts])[:-1], counts)
