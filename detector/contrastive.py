"""The torch model, on this page: trained so that sessions of one account are alike; what is left of it is an `Encoder`.

Trained contrastively, as speakers are verified: two sessions of one account attract, those of others repel (supervised contrastive
loss, Khosla 2020; CoLES, Babaev 2022).

Several members are trained side by side, on the same sessions with the same attention, and merged into one: what one of them takes
for likeness by the chance of its start, the others do not (of three seeds on commands, hit@1% was .60 to .70 and is .68 to .71).
Bags add up, so the members are one wide table, of which the directions that carry most are kept: a session costs what one member
costs. Directions in which sessions of one account differ among themselves may count for less before (within-class covariance
normalisation, Hatch 2006).

Axes: S sessions, T values, N numbers, M members, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from detector.encoder import TABLE, WIDTH, Encoder
from detector.sessions import Sessions, take

MEMBERS = 4  # M: 8 gained no more, nor did sessions or attention of each member's own
TEMPERATURE = 0.2
DROPOUT = 0.3  # of values: a session must be recognised from a part of it
ACCOUNTS_PER_STEP = 128
MERGED_BY = 10_000  # sessions by which members are measured when they are merged
WITHIN = 0.9  # share of the covariance within accounts in what is whitened, the rest alike in all directions; .5 gains half of it


class Members(nn.Module):
    """What is trained: places in `known` (T,), sessions' bounds (S + 1,), weights (T,), numbers (S, 3N) → (M, S, D)."""

    def __init__(self, known: np.ndarray, numbers: int) -> None:
        super().__init__()
        self.known = known  # (V,) ascending: the values of the table that have a vector here
        self.value = nn.Parameter(WIDTH**-0.5 * torch.randn(len(known), MEMBERS * WIDTH))
        self.attention = nn.Parameter(torch.zeros(len(known)))
        self.measure = nn.Linear(3 * numbers, MEMBERS * WIDTH)
        self.out = nn.Parameter(torch.empty(MEMBERS, WIDTH, WIDTH).uniform_(-(WIDTH**-0.5), WIDTH**-0.5))
        self.shift = nn.Parameter(torch.zeros(MEMBERS, 1, WIDTH))

    def forward(self, values: torch.Tensor, indptr: torch.Tensor, weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        # as an embedding, since the gradient of a plain selection is summed in no fixed order on a GPU
        share = weights * nn.functional.embedding(values, self.attention[:, None])[:, 0].exp()
        bag = nn.functional.embedding_bag(
            values, self.value, indptr, mode="sum", per_sample_weights=share, include_last_offset=True
        )  # (S, M·D)
        mass = torch.segment_reduce(share, "sum", offsets=indptr)
        hidden = bag / mass.clamp(min=1e-6)[:, None] + self.measure(numbers)
        hidden = hidden.view(-1, MEMBERS, WIDTH).transpose(0, 1)
        return hidden + torch.baddbmm(self.shift, hidden, self.out)

    @torch.no_grad()
    def go_on_from(self, others: Members) -> None:
        """Be as others are, but for the values that they do not know."""
        _, here, there = np.intersect1d(self.known, others.known, assume_unique=True, return_indices=True)
        for name, own in self.named_parameters():
            given = others.get_parameter(name).to(own.dtype)
            if name in ("value", "attention"):
                own[here] = given[there]
            else:
                own.copy_(given)


def fit(table: Sessions, account: np.ndarray, numbers: np.ndarray, seed: int, steps: int, before: Members | None = None) -> Members:
    """Members trained on the sessions of a table (S); account (S,) int codes; numbers (S, 3N) as `measures` has them.

    They go on from members trained before, if there are such. Deterministic under the seed. Trained on a GPU if torch sees one; the
    rest is small.
    """
    known = np.unique(table.key % TABLE)  # values never seen stay as they are drawn
    torch.manual_seed(seed)
    members = Members(known, numbers.shape[1] // 3)
    if before is not None:
        members.go_on_from(before)
    threads = torch.get_num_threads()
    # steps are small: a second thread gained a sixth, and trainings side by side on two cores got in each other's way
    torch.set_num_threads(1)
    try:
        _train(members.to("cuda" if torch.cuda.is_available() else "cpu"), _placed(table, known), account, numbers, seed, steps)
    finally:
        torch.set_num_threads(threads)
    return members.cpu()


def _placed(table: Sessions, known: np.ndarray) -> Sessions:
    """The sessions with the places of their values in `known` (V,) for keys; all of them are there."""
    return replace(table, key=np.searchsorted(known, table.key % TABLE).astype(np.uint32))


def _train(members: Members, table: Sessions, account: np.ndarray, numbers: np.ndarray, seed: int, steps: int) -> None:
    """Each step draws accounts, and of each a pair of sessions; the members see the same ones."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(members.parameters(), lr=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = np.argsort(account, kind="stable")
    bounds = np.searchsorted(account[order], np.arange(account.max() + 2))
    able = np.flatnonzero(np.diff(bounds) >= 2)
    pairs_each = max(1, ACCOUNTS_PER_STEP // len(able))
    for _ in range(steps):
        chosen = np.repeat(rng.choice(able, min(ACCOUNTS_PER_STEP, len(able)), replace=False), pairs_each)
        low, high = bounds[chosen], bounds[chosen + 1]
        first = low + rng.integers(0, high - low)
        second = low + (first - low + rng.integers(1, high - low)) % (high - low)
        rows = order[np.concatenate([first, second])]
        some = take(table, rows)
        kept = np.flatnonzero(rng.random(len(some.key)) >= DROPOUT)
        optimizer.zero_grad()
        loss_of(members, some, kept, np.tile(chosen, 2), numbers[rows]).backward()
        optimizer.step()
        schedule.step()


def loss_of(members: Members, table: Sessions, kept: np.ndarray, account: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
    """What members lose by sessions (S), of whose T values they see those `kept` (K,); account (S,), numbers (S, 3N)."""
    device = members.value.device
    said = members(*(x.to(device) for x in _tensors(table, kept, numbers)))
    return contrast(nn.functional.normalize(said, dim=2), torch.from_numpy(account).to(device))


def _tensors(table: Sessions, kept: np.ndarray, numbers: np.ndarray) -> Sequence[torch.Tensor]:
    """What members take: the values `kept` (K,) of T, and numbers (S, 3N)."""
    indptr = np.searchsorted(kept, table.indptr)
    given = (table.key[kept].astype(np.int64), indptr, table.damped[kept].astype(np.float32), numbers)
    return [torch.from_numpy(array) for array in given]


@torch.no_grad()
def merged(members: Members, table: Sessions, account: np.ndarray, numbers: np.ndarray, seed: int, whitened: bool) -> Encoder:
    """One encoder from members, in float64; measured by some of the sessions (S) that they were trained on, account (S,) codes.

    They weigh alike by their median length. Of the M·D directions those D are kept that carry most of the sessions' unit vectors
    (principal axes, not centred, since likeness is a scalar product); whitened: as they are without what differs within accounts.
    """
    members = copy.deepcopy(members).double().eval()
    some = np.random.default_rng(seed).permutation(len(table))[:MERGED_BY]
    table = _placed(take(table, some), members.known)
    given = _tensors(table, np.arange(len(table.key)), numbers[some])
    said = members(*(x.double() if x.is_floating_point() else x for x in given))  # (M, S, D)
    length = said.norm(dim=2).median(1).values.clamp(min=1e-9)[:, None, None]
    wide = nn.functional.normalize((said / length).transpose(0, 1).flatten(1), dim=1)  # (S, M·D)
    white = _whitening(wide, account[some]) if whitened else torch.eye(wide.shape[1]).double()
    wide = wide @ white
    axes = (white @ torch.linalg.eigh(wide.T @ wide)[1].flip(1)[:, :WIDTH]).view(MEMBERS, WIDTH, WIDTH)
    to = ((members.out + torch.eye(WIDTH)) @ axes / length).flatten(0, 1)  # (M·D, D): hidden → what is kept
    drawn = torch.Generator().manual_seed(seed)
    value = WIDTH**-0.5 * torch.randn(TABLE, MEMBERS * WIDTH, generator=drawn).double()
    value[members.known] = members.value
    attention = np.zeros(TABLE)
    attention[members.known] = members.attention.numpy()
    shift = members.measure.bias @ to + (members.shift @ axes / length).sum((0, 1))
    return Encoder((value @ to).numpy(), attention, (members.measure.weight.T @ to).numpy(), shift.numpy(), np.empty(0, np.int16))


def _whitening(wide: torch.Tensor, account: np.ndarray) -> torch.Tensor:
    """(W, W) what makes the (S, W) vectors of each account (S,) differ alike in all directions, as far as WITHIN says."""
    code = torch.from_numpy(np.unique(account, return_inverse=True)[1])
    size = torch.bincount(code)
    mean = torch.zeros(len(size), wide.shape[1]).double().index_add_(0, code, wide) / size[:, None]
    apart = wide - mean[code]
    within = apart.T @ apart / max(len(wide) - len(size), 1)
    even = wide.square().sum() / wide.numel() * torch.eye(wide.shape[1]).double()
    variance, axes = torch.linalg.eigh(WITHIN * within + (1 - WITHIN) * even)
    return axes @ torch.diag(variance**-0.5) @ axes.T


def contrast(z: torch.Tensor, account: torch.Tensor) -> torch.Tensor:
    """Supervised contrastive loss of unit vectors (M, S, D) with account codes (S,): the sum of the members'."""
    itself = torch.eye(len(account), device=account.device)
    same = (account[:, None] == account[None, :]).float() - itself
    wanted = same / same.sum(1, keepdim=True).clamp(min=1)
    likeness = z @ z.mT / TEMPERATURE - 1e9 * itself  # (M, S, S)
    return len(z) * nn.functional.cross_entropy(likeness.flatten(0, 1), wanted.repeat(len(z), 1))
