"""Nearest sessions: which embeddings are most like some others, by cosine.

Exact by one matrix product and a choice of the largest, in slices, so that memory is bounded; a graph of neighbours (HNSW; Malkov
and Yashunin 2016, as faiss builds it) only where so many are asked for that building it is repaid.

Axes: Q embeddings asked for, S embeddings to choose from, D width, K nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

EXACT_UP_TO = 200_000  # S
REPAID = 10_000  # Q from which building a graph costs less than it saves
SLICE = 1 << 17  # rows of S at a time: 25 MB as float32
DIGITS = 6  # of a likeness; what differs less is equally like, whatever the order of sums was
LINKS, BUILD_EFFORT, SEARCH_EFFORT = 16, 100, 128  # of the graph: recall 0.99 of the ten nearest


@dataclass(frozen=True)
class Index:
    """Embeddings to choose from; see `index`."""

    vectors: np.ndarray  # (S, D) float16 or float32, unit
    account: np.ndarray  # (S,) int64 codes
    graph: Any = None  # faiss's, or None: exact


def index(vectors: np.ndarray, account: np.ndarray, questions: int = 1, exact_up_to: int = EXACT_UP_TO) -> Index:
    """An index over unit vectors (S, D) of accounts (S,), for so many questions.

    Exact up to a size, for few questions, and wherever the extra `neighbours` is not installed.
    """
    if len(vectors) <= exact_up_to or questions < REPAID or find_spec("faiss") is None:
        return Index(vectors, account)
    import faiss

    graph = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = BUILD_EFFORT
    for low in range(0, len(vectors), SLICE):
        graph.add(vectors[low : low + SLICE].astype(np.float32))
    return Index(vectors, account, graph)


def nearest(
    within: Index, queries: np.ndarray, limit: int, not_of: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each unit vector (Q, D): positions (K,) of the nearest in the index, nearest first, and their cosines (K,).

    K is `limit`, or fewer where there are not so many; among equally near ones the earlier position comes first. not_of: (Q,) the
    account of each question, whose own sessions are left out; None: none are.
    """
    wanted = np.ascontiguousarray(queries, np.float32)
    without = [np.zeros(0, np.int64) if not_of is None else np.flatnonzero(within.account == not_of[q]) for q in range(len(wanted))]
    if within.graph is not None:
        return [_by_graph(within.graph, query, limit, own) for query, own in zip(wanted, without, strict=True)]
    best = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(wanted)
    for low in range(0, len(within.vectors), SLICE):
        part = within.vectors[low : low + SLICE].astype(np.float32)
        likeness = np.round(wanted @ part.T, DIGITS)  # (Q, slice)
        for q, own in enumerate(without):
            likeness[q, own[(own >= low) & (own < low + len(part))] - low] = -np.inf
        most = min(limit, len(part))
        least = np.partition(likeness, -most, axis=1)[:, -most, None]  # (Q, 1)
        found = (likeness >= least) & (likeness > -np.inf)  # all that are as near as the last of them: a choice is made below
        for q, (positions, likenesses) in enumerate(best):
            here = np.flatnonzero(found[q])
            more = np.concatenate([positions, here + low]), np.concatenate([likenesses, likeness[q, here]])
            best[q] = _first(*more, limit)
    return best


def _by_graph(graph: Any, query: np.ndarray, limit: int, without: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    choice = faiss.IDSelectorNot(faiss.IDSelectorBatch(without))
    how = faiss.SearchParametersHNSW(efSearch=max(SEARCH_EFFORT, limit), sel=choice)
    likeness, positions = graph.search(query[None], limit, params=how)
    return _first(positions[0][positions[0] >= 0], np.round(likeness[0][positions[0] >= 0], DIGITS), limit)


def _first(positions: np.ndarray, likeness: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((positions, -likeness))[:limit]
    return positions[order], likeness[order]
