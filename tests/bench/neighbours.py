"""Time and memory of the nearest of many embeddings: python tests/bench/neighbours.py [S ...]

Exact; and, where the extra `neighbours` is installed, by the graph: how long it takes to build, and the share of the ten nearest
that it finds. Clustered unit vectors of the encoder's width, float16 as they are stored.
"""

from __future__ import annotations

import resource
import sys
import time
from importlib.util import find_spec

import numpy as np

from detector.encoder import WIDTH
from detector.neighbours import REPAID, Index, index, nearest

QUERIES, CLUSTERS, NEAREST = 200, 500, 10


def vectors_of(rows: int) -> np.ndarray:
    """(S, D) float16 around so many centres, by a seed."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(CLUSTERS, WIDTH)).astype(np.float32)
    out = np.empty((rows, WIDTH), np.float16)
    for low in range(0, rows, 100_000):
        some = centre[rng.integers(CLUSTERS, size=min(100_000, rows - low))]
        some = some + rng.normal(size=some.shape).astype(np.float32) * 0.6
        out[low : low + len(some)] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return out


def timed(within: Index, queries: np.ndarray, at_once: int) -> tuple[float, list[set[int]]]:
    """Milliseconds per question, and what was found."""
    began, found = time.perf_counter(), []
    for low in range(0, len(queries), at_once):
        some = queries[low : low + at_once]
        found += [set(positions.tolist()) for positions, _ in nearest(within, some, NEAREST, np.arange(low, low + len(some)))]
    return (time.perf_counter() - began) / len(queries) * 1000, found


def main() -> None:
    """Print the table."""
    print("| S | index | build, s | ms a question, one by one | ms a question, 200 at once | recall of the 10 nearest | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for rows in map(int, sys.argv[1:] or ("200000", "1000000")):
        vectors = vectors_of(rows)
        account, queries = np.arange(rows) // 20, vectors[:: rows // QUERIES][:QUERIES]
        truth: list[set[int]] = []
        for questions in (1, REPAID) if find_spec("faiss") else (1,):
            began = time.perf_counter()
            within = index(vectors, account, questions, exact_up_to=0)
            built = time.perf_counter() - began
            single, _ = timed(within, queries[:20], 1)
            many, found = timed(within, queries, QUERIES)
            truth = truth or found
            recall = sum(len(a & b) for a, b in zip(truth, found, strict=True)) / sum(map(len, truth))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            name = "exact" if within.graph is None else "graph"
            print(f"| {rows:,} | {name} | {built:.1f} | {single:.1f} | {many:.2f} | {recall:.3f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
