"""Late learning: a session in doubt waits in its account's profile, and is learnt when WAIT more sessions have closed.

A takeover is mostly over by then, or so plain that its sessions do not wait at all (see `belief.waits`); an owner whose habits
changed is known again. Whoever speaks of a session while it waits is heard: another's is let go.

Axes: A accounts, S sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np

from detector.opened import open_from_bytes, open_to_bytes
from detector.profiles import NOT_DUE, VALUES, Profiles, learn, put
from detector.profiles import take as take_profiles
from detector.sessions import Sessions, concat, take

WAIT = 10  # sessions of the account, fewer than are remembered; after 3 takeovers were learnt that were not over, later gained less

Look = Callable[[Sessions], tuple[np.ndarray, np.ndarray, np.ndarray]]  # (S) -> (S, D) embeddings, (S, J) affinities, (S,) weights


def held(profiles: Profiles, table: Sessions, waits: np.ndarray) -> Profiles:
    """The profiles (A = S, row by row, the session already counted) with the sessions `waits` (S,) put aside.

    A session of more values than a memory holds would drive out everything else, so it is let go.
    """
    rows = np.flatnonzero(waits & (np.diff(table.indptr) <= VALUES))
    if not len(rows):
        return profiles
    waiting, due = profiles.waiting.copy(), profiles.due.copy()
    for a in rows.tolist():
        one = take(table, np.array([a]))
        one = replace(one, text=np.full(len(one.text), "", object), alerted=np.zeros(1, bool))  # of no use to a lesson
        ((_, body),) = open_to_bytes(one).items()
        line = msgspec.msgpack.decode(waiting[a], type=list[tuple[int, bytes]]) if waiting[a] else []
        line.append((int(profiles.history[a]) + WAIT, body))
        waiting[a], due[a] = msgspec.msgpack.encode(line), line[0][0]
    return replace(profiles, waiting=waiting, due=due)


def taught(profiles: Profiles, users: np.ndarray, numbers: int, look: Look) -> Profiles:
    """The profiles of (A,) users, each with the session learnt whose time has come; numbers: N facets of a session."""
    rows = np.flatnonzero(profiles.due <= profiles.history)
    if not len(rows):
        return profiles
    lines = [msgspec.msgpack.decode(profiles.waiting[a], type=list[tuple[int, bytes]]) for a in rows.tolist()]
    table = concat([open_from_bytes({str(users[a]): line[0][1]}, numbers) for a, line in zip(rows.tolist(), lines, strict=True)])
    embedding, affinity, weight = look(table)
    before = take_profiles(profiles, rows)
    waiting = np.array([msgspec.msgpack.encode(line[1:]) if line[1:] else b"" for line in lines], object)
    due = np.array([line[1][0] if line[1:] else NOT_DUE for line in lines], np.int64)
    closed = replace(before, history=before.due - WAIT - 1)  # as many as were known before it: its place among the remembered
    after = replace(learn(closed, table, weight, embedding, affinity), waiting=waiting, due=due)
    out = take_profiles(profiles, np.arange(len(profiles)))
    put(out, rows, replace(after, history=before.history, last=before.last))  # it was counted when it closed
    return out
