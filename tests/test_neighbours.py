"""Nearest embeddings: exact, in any slices, without one's own, ties always in the same order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector import neighbours
from detector.neighbours import index, nearest


def units(rows: int, seed: int, width: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@given(st.integers(0, 300), st.integers(1, 12), st.integers(0, 1000))
def test_the_nearest_are_those_that_brute_force_finds(rows: int, limit: int, seed: int) -> None:
    vectors, queries = units(rows, seed), units(3, seed + 1)
    account, own = np.arange(rows) % 5, np.array([0, 3, 9])
    found = nearest(index(vectors, account), queries, limit, own)
    for q, (positions, likeness) in enumerate(found):
        exact = vectors.astype(float) @ queries[q].astype(float)
        assert np.allclose(likeness, np.sort(exact[account != own[q]])[::-1][:limit], atol=2e-6)
        assert np.allclose(likeness, exact[positions], atol=2e-6)
        assert len(set(positions.tolist())) == len(positions)


def test_more_than_one_slice_is_searched_like_one() -> None:
    rows = neighbours.SLICE * 2 + 7
    vectors, query = units(rows, 0, width=4), units(1, 1, width=4)
    ((positions, likeness),) = nearest(index(vectors, np.zeros(rows)), query, 20)
    exact = np.round(vectors.astype(np.float32) @ query[0].astype(np.float32), neighbours.DIGITS)
    assert np.allclose(likeness, np.sort(exact)[::-1][:20], atol=2e-6)
    assert len(set(positions.tolist())) == 20
    assert positions.max() > neighbours.SLICE


def test_of_equally_near_ones_the_earliest_are_taken() -> None:
    vectors = np.repeat(units(3, 0), 50, axis=0)
    ((positions, likeness),) = nearest(index(vectors, np.zeros(150)), vectors[60:61], 4)
    assert positions.tolist() == [50, 51, 52, 53]
    assert np.allclose(likeness, 1, atol=2e-3)


def test_without_anybody_else_nobody_is_near() -> None:
    vectors = units(5, 0)
    ((positions, likeness),) = nearest(index(vectors, np.zeros(5)), vectors[:1], 3, np.array([0]))
    assert len(positions) == len(likeness) == 0


def test_one_question_is_never_worth_a_graph() -> None:
    assert index(units(300, 0), np.zeros(300), questions=1, exact_up_to=10).graph is None
