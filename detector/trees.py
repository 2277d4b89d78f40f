"""Many binary trees as arrays: what a boosting or a forest says, without the library that grew it.

The libraries spend milliseconds on each call, whatever they are asked; here a session judged alone costs a fraction of one. Arrays
are also all that a pack has to hold.

Axes: T trees, N nodes of all of them, S sessions, X columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROWS = 512  # sessions at once: what is known of them stays in the cache


@dataclass(frozen=True)
class Trees:
    """Trees whose leaves add up."""

    base: np.ndarray  # () what is added to
    root: np.ndarray  # (T,) int32 nodes
    column: np.ndarray  # (N,) int32: what a node asks about
    threshold: np.ndarray  # (N,) float64
    child: np.ndarray  # (N, 2) int32: where what is not above the threshold goes, and what is; of a leaf: itself
    value: np.ndarray  # (N,) float64: what a leaf says

    def __post_init__(self) -> None:
        """Raises ValueError where a node leads back, since a way down would not end."""
        at = np.arange(len(self.child))[:, None]
        if not ((self.child >= at) & (self.child < len(at))).all():
            raise ValueError("a node of a tree leads back, or nowhere")


def joined(trees: Sequence[tuple[np.ndarray, ...]], base: float) -> Trees:
    """Trees from (column, threshold, left, right, value) of the nodes of each, a root first; of a leaf `left` is at most 0.

    left, right: places in the same tree.
    """
    sizes = np.array([len(tree[0]) for tree in trees])
    root = np.cumsum(sizes) - sizes
    column, threshold, left, right, value = (np.concatenate(parts) for parts in zip(*trees, strict=True))
    at, leaf = np.arange(len(column)), left <= 0
    first = np.repeat(root, sizes)
    child = np.stack([np.where(leaf, at, first + left), np.where(leaf, at, first + right)], axis=1)
    asked = np.where(leaf, 0, column).astype(np.int32)
    limit = np.where(leaf, 0.0, threshold)
    return Trees(np.array(base), root.astype(np.int32), asked, limit, child.astype(np.int32), np.where(leaf, value, 0.0))


def total(trees: Trees, x: np.ndarray) -> np.ndarray:
    """(S,) what the trees say of (S, X) together, added up in their order, so that no row depends on the rest."""
    out = np.full(len(x), float(trees.base))
    child = trees.child.ravel()
    for low in range(0, len(x), ROWS):
        part = x[low : low + ROWS]
        begin = np.arange(len(part)) * x.shape[1]
        flat = part.ravel()
        at = np.repeat(trees.root[:, None], len(part), axis=1)  # (T, S)
        while True:
            above = flat[begin + trees.column[at]] > trees.threshold[at]
            further = child[2 * at + above]
            if np.array_equal(further, at):
                break
            at = further
        for said in trees.value[at]:
            out[low : low + ROWS] += said
    return out
