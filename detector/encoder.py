"""The torch model, on this page: a session's values and numbers → a unit vector.

A session is a bag: each value has a vector and an attention, both from a hashed table; the bag is their weighted mean, so that it
is free of order, merges, and costs the same however long the session is. Trained contrastively, as speakers are verified: two
sessions of one account attract, those of others repel (supervised contrastive loss, Khosla 2020; CoLES, Babaev 2022).

Several members are trained apart and merged into one: what one of them takes for likeness by the chance of its start, the others
do not (of three seeds on commands, hit@1% was .60 to .70 and is .65 to .71, cost 27.5 to 29.8 and is 26.7 to 27.2). Bags add up, so
the members stand side by side as one wide table, of which the directions that carry most are kept: a session costs what one
member costs.

Axes: S sessions, T values, N numbers, M members, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from detector.sessions import Sessions, take, weighted_sums, with_volume

TABLE = 1 << 15  # hashed values; a collision only blurs two rare values
WIDTH = 48  # D: wider gained nothing on the four logs and costs memory per remembered session
MEMBERS = 4  # M: 8 gained no more
TEMPERATURE = 0.2
DROPOUT = 0.3  # of values: a session must be recognised from a part of it
ACCOUNTS_PER_STEP = 128
MERGED_BY = 2000  # sessions by which members are measured when they are merged


class Encoder(nn.Module):
    """Means of values' vectors (S, D) and numbers (S, 3N) → (S, D) unit vectors; what `encode` goes by."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.value = nn.Embedding(TABLE, WIDTH)
        self.attention = nn.Embedding(TABLE, 1)
        self.measure = nn.Linear(3 * numbers, WIDTH)
        nn.init.normal_(self.value.weight, std=WIDTH**-0.5)
        nn.init.zeros_(self.attention.weight)

    def forward(self, mean: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(mean + self.measure(numbers), dim=1)


class Member(nn.Module):
    """One that is trained: values (T,) below `values`, where each session's start (S,), weights (T,), numbers (S, 3N) → (S, D)."""

    def __init__(self, values: int, numbers: int) -> None:
        super().__init__()
        self.value = nn.Embedding(values, WIDTH)
        self.attention = nn.Embedding(values, 1)
        self.measure = nn.Linear(3 * numbers, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(self.value.weight, std=WIDTH**-0.5)
        nn.init.zeros_(self.attention.weight)

    def forward(self, values: torch.Tensor, start: torch.Tensor, weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(values, start, weights * self.attention(values).squeeze(1).exp(), numbers)
        return nn.functional.normalize(self.out(hidden) + hidden, dim=1)

    def hidden(self, values: torch.Tensor, start: torch.Tensor, share: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """(S, D) from values that count by their share (T,)."""
        bag = nn.functional.embedding_bag(values, self.value.weight, start, mode="sum", per_sample_weights=share)  # (S, D)
        mass = nn.functional.embedding_bag(
            torch.zeros_like(values), share.new_ones(1, 1), start, mode="sum", per_sample_weights=share
        )
        return bag / mass.clamp(min=1e-6) + self.measure(numbers)


def measures(table: Sessions, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(S, 3N) float32: mean, least and largest of each number, standardised by (N,) centre and spread; 0 where absent."""
    stats = with_volume(table)  # (S, N, W)
    count = stats[:, :, 0]
    mean = stats[:, :, 1] / np.maximum(count, 1)
    parts = [(x - centre) / spread for x in (mean, stats[:, :, 3], stats[:, :, 4])]
    flat = np.stack([np.where(count > 0, np.clip(np.where(count > 0, x, 0), -5, 5), 0) for x in parts], axis=2)
    return flat.reshape(len(table), 3 * flat.shape[1]).astype(np.float32)


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
    return model(torch.from_numpy(bag / mass[:, None]), torch.from_numpy(numbers).double()).numpy().astype(np.float32)


def fit(
    table: Sessions,
    account: np.ndarray,
    numbers: np.ndarray,
    seed: int,
    steps: int,
) -> Encoder:
    """An encoder trained on the sessions of a table (S); account (S,) int codes; numbers (S, 3N) as `measures` has them.

    Deterministic under the seed.
    """
    known, key = np.unique(table.key % TABLE, return_inverse=True)  # values never seen stay as they are drawn
    table = replace(table, key=key.astype(np.uint32))
    threads = torch.get_num_threads()
    # steps are small: a second thread gained a sixth, and trainings side by side on two cores got in each other's way
    torch.set_num_threads(1)
    try:
        members = [_member(table, account, numbers, MEMBERS * seed + m, steps, len(known)) for m in range(MEMBERS)]
    finally:
        torch.set_num_threads(threads)
    some = np.random.default_rng(seed).permutation(len(table))[:MERGED_BY]
    return _merged(members, take(table, some), known, numbers[some], seed)


def _member(
    table: Sessions,
    account: np.ndarray,
    numbers: np.ndarray,
    seed: int,
    steps: int,
    values: int,
) -> Member:
    """Each step draws accounts, and of each a pair of sessions."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Member(values, numbers.shape[1] // 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = np.argsort(account, kind="stable")
    bounds = np.searchsorted(account[order], np.arange(account.max() + 2))
    able = np.flatnonzero(np.diff(bounds) >= 2)
    for _ in range(steps):
        pairs_each = max(1, ACCOUNTS_PER_STEP // len(able))
        chosen = np.repeat(rng.choice(able, min(ACCOUNTS_PER_STEP, len(able)), replace=False), pairs_each)
        low, high = bounds[chosen], bounds[chosen + 1]
        first = low + rng.integers(0, high - low)
        second = low + (first - low + rng.integers(1, high - low)) % (high - low)
        rows = order[np.concatenate([first, second])]
        some = take(table, rows)
        z = model(*_tensors(some, np.flatnonzero(rng.random(len(some.key)) >= DROPOUT), numbers[rows]))
        loss = contrast(z, torch.from_numpy(np.tile(chosen, 2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.double().eval()


def _tensors(table: Sessions, kept: np.ndarray, numbers: np.ndarray) -> Sequence[torch.Tensor]:
    """A member's inputs: the values `kept` (K,) of T, and numbers (S, 3N)."""
    start = np.searchsorted(kept, table.indptr[:-1])
    given = (table.key[kept].astype(np.int64), start, table.damped[kept].astype(np.float32), numbers)
    return [torch.from_numpy(array) for array in given]


@torch.no_grad()
def _merged(members: Sequence[Member], table: Sessions, known: np.ndarray, numbers: np.ndarray, seed: int) -> Encoder:
    """One encoder from members whose tables hold the values `known` (V,); `table` (S) is what they are measured by.

    Attention is the members' geometric mean, and they weigh alike by their median length. Of the M·D directions those D are kept
    that carry most of the sessions' unit vectors (principal axes, not centred, since likeness is a scalar product).
    """
    given = _tensors(table, np.arange(len(table.key)), numbers)
    values, start, weights, measured = (x.double() if x.is_floating_point() else x for x in given)
    attention = torch.stack([m.attention.weight for m in members]).mean(0)  # (V, 1)
    share = weights * attention[values, 0].exp()
    maps, parts, shifts = [], [], []
    for m in members:
        hidden = m.hidden(values, start, share, measured)  # (S, D)
        length = (m.out(hidden) + hidden).norm(dim=1).median().clamp(min=1e-9)
        maps.append((m.out.weight + torch.eye(WIDTH)).T / length)  # hidden → what the member says, at a length of about 1
        parts.append(hidden @ maps[-1] + m.out.bias / length)
        shifts.append(m.measure.bias @ maps[-1] + m.out.bias / length)
    wide = nn.functional.normalize(torch.cat(parts, dim=1), dim=1)  # (S, M·D)
    axes = torch.linalg.eigh(wide.T @ wide)[1].flip(1)[:, :WIDTH].reshape(len(members), WIDTH, WIDTH)
    torch.manual_seed(seed)
    out = Encoder(numbers.shape[1] // 3).double().eval()
    out.attention.weight[known] = attention
    for parameter in (out.value.weight, out.measure.weight, out.measure.bias):
        parameter.zero_()
    for m, to, axis, shift in zip(members, maps, axes, shifts, strict=True):
        value = WIDTH**-0.5 * torch.randn(TABLE, WIDTH, dtype=torch.float64)  # of values never seen
        value[known] = m.value.weight
        out.value.weight.add_(value @ to @ axis)
        out.measure.weight.add_((m.measure.weight.T @ to @ axis).T)
        out.measure.bias.add_(shift @ axis)
    return out


def contrast(z: torch.Tensor, account: torch.Tensor) -> torch.Tensor:
    """Supervised contrastive loss of unit vectors (S, D) with account codes (S,)."""
    likeness = z @ z.T / TEMPERATURE  # (S, S)
    itself = torch.eye(len(z), dtype=torch.bool)
    likeness = likeness.masked_fill(itself, float("-inf"))
    same = (account[:, None] == account[None, :]) & ~itself
    log_share = likeness - likeness.logsumexp(1, keepdim=True)
    return -(log_share.masked_fill(~same, 0).sum(1) / same.sum(1).clamp(min=1)).mean()
