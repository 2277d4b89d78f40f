"""The torch model, on this page: a session's values and numbers → a unit vector.

A session is a bag: each value has a vector and an attention, both from a hashed table; the bag is their weighted mean, so that it
is free of order, merges, and costs the same however long the session is. Trained contrastively, as speakers are verified: two
sessions of one account attract, those of others repel (supervised contrastive loss, Khosla 2020; CoLES, Babaev 2022).

Axes: S sessions, T values, N numbers, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from detector.sessions import Sessions, weighted_sums, with_volume

TABLE = 1 << 15  # hashed values; a collision only blurs two rare values
WIDTH = 48  # D: wider gained nothing on the four logs and costs memory per remembered session
TEMPERATURE = 0.2
DROPOUT = 0.3  # of values: a session must be recognised from a part of it
ACCOUNTS_PER_STEP = 128


class Encoder(nn.Module):
    """values (T,), offsets (S,), weights (T,), numbers (S, 3N) → (S, D) unit vectors."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.value = nn.Embedding(TABLE, WIDTH)
        self.attention = nn.Embedding(TABLE, 1)
        self.measure = nn.Linear(3 * numbers, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(self.value.weight, std=WIDTH**-0.5)
        nn.init.zeros_(self.attention.weight)

    def forward(self, values: torch.Tensor, row: torch.Tensor, weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        share = weights * self.attention(values).squeeze(1).exp()  # (T,)
        bag = torch.zeros(len(numbers), self.value.embedding_dim, dtype=share.dtype).index_add(
            0, row, self.value(values) * share[:, None]
        )  # (S, D)
        mass = torch.zeros(len(numbers), dtype=share.dtype).index_add(0, row, share).clamp(min=1e-6)  # (S,)
        return self.project(bag / mass[:, None], numbers)

    def project(self, mean: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """(S, D) unit vectors from the weighted means of values (S, D) and the numbers (S, 3N)."""
        hidden = mean + self.measure(numbers)  # (S, D)
        return nn.functional.normalize(self.out(hidden) + hidden, dim=1)


def measures(table: Sessions, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(S, 3N) float32: mean, least and largest of each number, standardised by (N,) centre and spread; 0 where absent."""
    stats = with_volume(table)  # (S, N, W)
    count = stats[:, :, 0]
    mean = stats[:, :, 1] / np.maximum(count, 1)
    parts = [(x - centre) / spread for x in (mean, stats[:, :, 3], stats[:, :, 4])]
    flat = np.stack([np.where(count > 0, np.clip(np.where(count > 0, x, 0), -5, 5), 0) for x in parts], axis=2)
    return flat.reshape(len(table), 3 * flat.shape[1]).astype(np.float32)


def tensors(table: Sessions, numbers: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The encoder's four inputs for the sessions of a table."""
    values = torch.from_numpy((table.key % TABLE).astype(np.int64))
    return values, torch.from_numpy(table.row), torch.from_numpy(table.damped.astype(np.float32)), torch.from_numpy(numbers)


@torch.no_grad()
def encode(model: Encoder, table: Sessions, numbers: np.ndarray) -> np.ndarray:
    """(S, D) float32 unit vectors of the sessions; `model` in float64.

    Double precision, so that how many sessions are encoded together does not show in the rounded result.
    """
    if not len(table):
        return np.zeros((0, WIDTH), np.float32)
    values, weights = (table.key % TABLE).astype(np.int64), table.damped.astype(np.float32).astype(np.float64)
    share = weights * np.exp(model.attention.weight.numpy()[:, 0])[values]  # (T,)
    bag = weighted_sums(table.indptr, share, values, model.value.weight.numpy())  # (S, D)
    mass = np.bincount(table.row, share, len(table)).clip(min=1e-6)
    return model.project(torch.from_numpy(bag / mass[:, None]), torch.from_numpy(numbers).double()).numpy().astype(np.float32)


def fit(
    table: Sessions,
    account: np.ndarray,
    numbers: np.ndarray,
    seed: int,
    steps: int,
    take: Callable[[Sessions, np.ndarray], Sessions],
) -> tuple[Encoder, float]:
    """An encoder trained on the sessions of a table; account (S,) int codes. Returns it with its last mean loss.

    Each step draws accounts, and of each a pair of sessions. Deterministic under the seed.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Encoder(numbers.shape[1] // 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = np.argsort(account, kind="stable")
    bounds = np.searchsorted(account[order], np.arange(account.max() + 2))
    able = np.flatnonzero(np.diff(bounds) >= 2)
    mean = 0.0
    for _ in range(steps):
        pairs_each = max(1, ACCOUNTS_PER_STEP // len(able))
        chosen = np.repeat(rng.choice(able, min(ACCOUNTS_PER_STEP, len(able)), replace=False), pairs_each)
        low, high = bounds[chosen], bounds[chosen + 1]
        first = low + rng.integers(0, high - low)
        second = low + (first - low + rng.integers(1, high - low)) % (high - low)
        rows = order[np.concatenate([first, second])]
        values, row, weights, measured = tensors(take(table, rows), numbers[rows])
        kept = torch.from_numpy(rng.random(len(values)) >= DROPOUT)
        z = model(values, row, weights * kept, measured)
        loss = contrast(z, torch.from_numpy(np.tile(chosen, 2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean = 0.95 * mean + 0.05 * float(loss.detach())
    return model.double().eval(), mean


def contrast(z: torch.Tensor, account: torch.Tensor) -> torch.Tensor:
    """Supervised contrastive loss of unit vectors (S, D) with account codes (S,)."""
    likeness = z @ z.T / TEMPERATURE  # (S, S)
    itself = torch.eye(len(z), dtype=torch.bool)
    likeness = likeness.masked_fill(itself, float("-inf"))
    same = (account[:, None] == account[None, :]) & ~itself
    log_share = likeness - likeness.logsumexp(1, keepdim=True)
    return -(log_share.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).mean()
