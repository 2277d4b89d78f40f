"""A session's values and numbers → a unit vector; `contrastive` trains what it goes by.

A session is a bag: each value has a vector and an attention, both from a hashed table; the bag is their weighted mean, so that it
is free of order, merges, and costs the same however long the session is.

Axes: S sessions, T values, V values of a vocabulary, N numbers, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from detector.sessions import Sessions, weighted_sums, with_volume

TABLE = 1 << 15  # hashed values; a collision only blurs two rare values
WIDTH = 48  # D: wider gained nothing on the four logs and costs memory per remembered session


@dataclass(frozen=True)
class Encoder:
    """What `encode` goes by, in float64."""

    value: np.ndarray  # (TABLE, D) vectors
    attention: np.ndarray  # (TABLE,) logs of weights
    measure: np.ndarray  # (3N, D) what numbers add
    shift: np.ndarray  # (D,)
    deaf: np.ndarray  # (K,) int16: text facets that it does not hear


def drawn(numbers: int, seed: int) -> Encoder:
    """An encoder of N numbers that has learnt nothing: values lie in all directions, numbers say nothing."""
    value = np.random.default_rng(seed).normal(0, WIDTH**-0.5, (TABLE, WIDTH))
    return Encoder(value, np.zeros(TABLE), np.zeros((3 * numbers, WIDTH)), np.zeros(WIDTH), np.empty(0, np.int16))


def measures(table: Sessions, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(S, 3N) float32: mean, least and largest of each number, standardised by (N,) centre and spread; 0 where absent."""
    stats = with_volume(table)  # (S, N, W)
    count = stats[:, :, 0]
    mean = stats[:, :, 1] / np.maximum(count, 1)
    parts = [(x - centre) / spread for x in (mean, stats[:, :, 3], stats[:, :, 4])]
    flat = np.stack([np.where(count > 0, np.clip(np.where(count > 0, x, 0), -5, 5), 0) for x in parts], axis=2)
    return flat.reshape(len(table), 3 * flat.shape[1]).astype(np.float32)


def heard(table: Sessions, deaf: np.ndarray) -> Sessions:
    """The sessions without the values of the facets `deaf` (K,)."""
    if not len(deaf):
        return table
    kept = np.flatnonzero(~np.isin(table.facet, deaf))
    columns = {name: getattr(table, name)[kept] for name in ("key", "facet", "count", "text")}
    return replace(table, indptr=np.searchsorted(kept, table.indptr), **columns)


def encode(model: Encoder, table: Sessions, numbers: np.ndarray) -> np.ndarray:
    """(S, D) float32 unit vectors of the sessions; numbers (S, 3N) as `measures` has them.

    Double precision, so that how many sessions are encoded together does not show in the rounded result.
    """
    if not len(table):
        return np.zeros((0, WIDTH), np.float32)
    table = heard(table, model.deaf)
    values, weights = (table.key % TABLE).astype(np.int64), table.damped.astype(np.float32).astype(np.float64)
    share = weights * np.exp(model.attention)[values]  # (T,)
    bag = weighted_sums(table.indptr, share, values, model.value)  # (S, D)
    mass = np.bincount(table.row, share, len(table)).clip(min=1e-6)
    said = bag / mass[:, None] + np.einsum("sn,nd->sd", numbers.astype(np.float64), model.measure) + model.shift
    return (said / np.linalg.norm(said, axis=1, keepdims=True).clip(min=1e-12)).astype(np.float32)


def vectors_of(model: Encoder, key: np.ndarray) -> np.ndarray:
    """(V, D) vectors of values by their keys (V,)."""
    return np.asarray(model.value[(key % TABLE).astype(np.int64)])
