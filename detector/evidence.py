"""The channels: how much more likely a session is under somebody else than under the owner, in nats.

* text facet: the owner's values follow a Pitman-Yor predictive (Teh 2006) whose base is a mixture of peers (the ratio: Freeman
  2016) and of what suits the account's long-term embedding (two towers, one of accounts and one of values: Yi 2019); somebody
  else is one of the other peers. Values count by the square root of how often they occur. In `pair` two habits in a new order are
  less new than what is no habit. A new value that lies in what the owner shows (another address of his network, the next version
  of his browser) is as likely as that is, times its share in it; what values lie in says nothing else (back-off: Teh 2006).
* rate of a text facet: the same per value, against the crowd of the other peers: a long session of habits no longer outweighs
  what is foreign in it, and a short one is as strange as its values are. That of `pair` is what the order adds to its values: it
  is high where what is usual comes in an order that is not, as when a thief copies what the owner does.
* extreme of a text facet: the same of its strangest value. A single one may give a session away whose others are usual.
* number: marginal likelihood of the session's numbers under the owner's normal-inverse-gamma posterior against the population's
  prior (Murphy 2007), and for the extremes the tail of the owner's predictive Student-t.
* numbers: all numbers at once, as they go together in owners against how they do in everybody (Ioffe 2006), where there are
  FEWEST_NUMBERS.
* embedding: distance to the nearest remembered sessions against what strangers' sessions have; distance to the long-term embedding.

A channel of which nothing is known of the account (or nothing is in the session) says 0. What says who an account is comes with it,
so it clears nobody: its channels say 0 where it is as ever.

Axes: S sessions, T tokens, V vocabulary, F text facets, N numbers (volume included), J peers, C cohort, B bank, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import special

from detector.profiles import Profiles, lookup
from detector.sessions import Sessions, pair_half, paired, weighted_sums, with_volume

EMBEDDING_CHANNELS = ("embedding", "long_term", "peers")
EMBEDDING_SCALE = 10.0  # nats per unit of likeness; calibration takes out what it is, but for the softness of `peers`
NUMBERS = "numbers"
FEWEST_NUMBERS = 4  # pace included: where there are fewer, what goes together said nothing more (payments, audit trails, records)
# of the multivariate t: a number far off says little of how numbers go together (typing: hit@1% .60 to .70, .43 to .54 if normal);
# and standard deviations beyond which it is as far as any
DEGREES, FARTHEST = 10.0, 8.0
RATE, EXTREME = ":rate", ":extreme"
DERIVED = ("hour", "pair", "pace", "volume")  # extremes of theirs only repeated what the whole says
NEAREST = 3  # the owner's few nearest remembered sessions beat the centroid
COHORT_NEAREST = 10  # strangers' sessions that are most like this one give the scale (adaptive s-norm, Matejka 2017)
PEER_TEMPERATURE = 3.0  # values repeat within a session, so likelihoods of peers are overconfident
LIFT_CEILING = 4.0  # nats; embeddings are no surer of a value than that
NESTED = 0.9  # share of what lies in what the owner shows in what he may newly do
REORDERED = 0.3  # share of the owner's own values in any order in what pairs the owner may newly do
HASHED, SIEVE_BITS = 500_000, np.uint32(12)  # pairs of values at once; bits of a key that a first look leaves out
EXTREME_CEILING = 30.0  # nats; beyond it a tail of a fitted curve says nothing
LEAST_TAIL = 1e-300  # a probability that is no more than none


class Looks(Protocol):
    """What is looked at (see `facets.Facets`)."""

    @property
    def text(self) -> tuple[str, ...]:
        """The F text facets."""

    @property
    def number(self) -> tuple[str, ...]:
        """The N numbers, but for the volume."""

    @property
    def paired(self) -> str:
        """The text facet whose successive values form `pair`."""

    @property
    def given(self) -> np.ndarray:
        """(F,) bool: text facets that say who an account is."""

    @property
    def nested(self) -> tuple[tuple[int, int], ...]:
        """Pairs of text facets: one, and the one that its values lie in."""

    def keys_above(self, facet: int, texts: Sequence[object]) -> np.ndarray:
        """(K,) keys of what the K values of a text facet lie in."""


@dataclass(frozen=True)
class Population:
    """Habits of everybody, from history."""

    vocabulary: np.ndarray  # (V,) uint32, ascending
    vocabulary_facet: np.ndarray  # (V,) int16
    vocabulary_text: np.ndarray  # (V,) bytes, utf-8, cut: for people
    log_peer: np.ndarray  # (V+F, J) float32: log share of a value within its facet, per peer; the last F rows: a value never seen
    discount: np.ndarray  # (F,) Pitman-Yor d in [0, 1): how readily new values come
    strength: np.ndarray  # (F,) Pitman-Yor s: weight of the peers
    blend: np.ndarray  # (F,) share of everybody, rather than the account's own peers, in what the owner may newly do
    alike: np.ndarray  # (F,) share of what suits the account's embedding in what the owner may newly do
    centre: np.ndarray  # (N,) mean of the accounts' means
    pull: np.ndarray  # (N,) kappa: how many values the population's mean is worth
    shape: np.ndarray  # (N,) alpha of the variance
    scale: np.ndarray  # (N,) beta of the variance
    common: np.ndarray  # (N-1,) share of an owner's variance that a session's values have in common; the volume left out
    own_precision: np.ndarray  # (N-1, N-1) inverse covariance of how far off owners' numbers are, in their standard deviations
    all_precision: np.ndarray  # (N-1, N-1) the same of everybody's
    cohort: np.ndarray  # (C, D) float32: sessions of many accounts
    peer_centre: np.ndarray  # (J, D) float32: long-term embeddings of the peers
    value_vector: np.ndarray  # (V, D) float16: unit vectors of the values, as the encoder has them
    value_level: np.ndarray  # (V,) float32: log of how well a value suits the mean account

    @cached_property
    def wide_log_peer(self) -> np.ndarray:
        """(V+F, J) float64: `log_peer` in the width that sums are made in."""
        return self.log_peer.astype(np.float64)

    @cached_property
    def share(self) -> np.ndarray:
        """(V+F, J) float64: share of a value within its facet, per peer."""
        return np.exp(self.log_peer).astype(np.float64)

    @cached_property
    def mean_share(self) -> np.ndarray:
        """(V+F,) the mean over the peers."""
        return np.asarray(np.exp(self.log_peer).mean(axis=1))

    @property
    def spread(self) -> np.ndarray:
        """(N,) a typical standard deviation over everybody."""
        variance = self.scale / self.shape
        return np.sqrt(variance * (1 + 1 / self.pull))


def channel_names(text: tuple[str, ...], number: tuple[str, ...]) -> tuple[str, ...]:
    """The C channels in their order, for text facets (F) and numbers (N, volume included)."""
    return (
        *text,
        *(f"{t}{RATE}" for t in text),
        *(f"{t}{EXTREME}" for t in text if t not in DERIVED),
        *number,
        *(f"{n}{EXTREME}" for n in number if n not in DERIVED),
        *((NUMBERS,) if len(number) > FEWEST_NUMBERS else ()),
        *EMBEDDING_CHANNELS,
    )


def whole_of(text: tuple[str, ...], number: tuple[str, ...]) -> np.ndarray:
    """(C,) the channel of all numbers for those of single ones (N), the volume left out; -1 for others."""
    names = channel_names(text, (*number, "volume"))
    of = names.index(NUMBERS) if NUMBERS in names else -1
    return np.array([of if name in number else -1 for name in names])


def peer_log_likelihood(table: Sessions, population: Population, facets: int) -> np.ndarray:
    """(S, F, J): damped log-likelihood of each facet's values under each peer."""
    cell = table.row * facets + table.facet
    order = np.argsort(cell, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=len(table) * facets))])
    sums = weighted_sums(ends, table.damped[order], vocabulary_row(table, population)[order], population.wide_log_peer)
    return sums.reshape(len(table), facets, population.log_peer.shape[1])


def vocabulary_row(table: Sessions, population: Population) -> np.ndarray:
    """(T,) row of each token in `log_peer`; a value outside the vocabulary has its facet's last row."""
    size = len(population.vocabulary)
    if not size:
        return size + table.facet.astype(np.int64)
    at = np.minimum(np.searchsorted(population.vocabulary, table.key), size - 1)
    return np.where(population.vocabulary[at] == table.key, at, size + table.facet.astype(np.int64))


def channels(
    table: Sessions, profiles: Profiles, embedding: np.ndarray, peers: np.ndarray, population: Population, looks: Looks
) -> np.ndarray:
    """(S, C) nats of each session against its profile (row by row), in the order of `channel_names`.

    embedding (S, D) of the sessions; peers (S, F, J) from `peer_log_likelihood`.
    """
    given = looks.given
    looked = text_channels(table, profiles, peers, population, looks)
    whole, rate, extreme = (np.where(given, np.maximum(x, 0.0), x) for x in looked)
    if "pair" in looks.text:
        pair, values = looks.text.index("pair"), looks.text.index(looks.paired)
        rate[:, pair] -= np.where(rate[:, pair] != 0, rate[:, values], 0.0)
    for _, above in looks.nested:
        whole[:, above] = rate[:, above] = extreme[:, above] = 0.0
    text, number = ([n for n, name in enumerate(names) if name not in DERIVED] for names in (looks.text, looks.number))
    return np.concatenate(
        [
            whole,
            rate,
            extreme[:, text],
            *number_channels(table, profiles, population, number),
            *([together(table, profiles, population)] if len(looks.number) >= FEWEST_NUMBERS else []),
            embedding_channels(profiles, embedding, population),
        ],
        axis=1,
    )


def peer_weights(affinity: np.ndarray) -> np.ndarray:
    """(S, J) how much the account is like each peer, from its (S, J) log-likelihoods."""
    return special.softmax(affinity.astype(np.float64) / PEER_TEMPERATURE, axis=1)


def log_sum_exp(x: np.ndarray) -> np.ndarray:
    """(...) log of the sum of the exponentials of finite (..., J) values."""
    top = x.max(axis=-1)
    return np.asarray(np.log(np.exp(x - top[..., None]).sum(axis=-1)) + top)


@dataclass(frozen=True)
class Shares:
    """How probable the values (T,) of sessions are elsewhere; the parameters of the predictive have no part in it."""

    peers: np.ndarray  # among the peers of the account
    everybody: np.ndarray  # among all
    suits: np.ndarray  # among all, as far as they suit the account's embedding
    nested: np.ndarray  # among all, as far as they lie in what the owner shows; nan: of that nothing is known
    pair: np.ndarray  # bool: values of `pair`
    habits: np.ndarray  # of those, the chance that two habits of the owner's come together


def text_channels(
    table: Sessions, profiles: Profiles, peers: np.ndarray, population: Population, looks: Looks, shares: Shares | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(S, F) nats of all values of a facet, (S, F) nats per value, and (S, F) nats of the strangest value.

    shares: as `shares_of` has them, if they are known already.
    """
    sessions, facets, members = peers.shape
    weight = peer_weights(profiles.affinity)  # (S, J)
    row, facet = table.row, table.facet
    cell = row * facets + facet  # (T,)
    counted, _ = lookup(profiles, row, table.key)  # (T,)
    shares = shares_of(table, profiles, population, looks, counted) if shares is None else shares
    base = base_of(shares, population, facet)
    known = counted, profiles.total[row, facet], profiles.kinds[row, facet]
    curve = population.discount[facet], population.strength[facet]
    log_plain = np.log(predictive(*known, base, *curve))
    damped, log_theta = table.damped, np.log(predictive(*known, with_habits(base, shares), *curve))

    def by_facet(x: np.ndarray) -> np.ndarray:
        return np.bincount(cell, x, sessions * facets).reshape(sessions, facets)

    others = np.log(np.maximum(1 - weight, 1e-6) / max(members - 1, 1))  # (S, J)
    other = log_sum_exp(peers + others[:, None, :])  # (S, F)
    crowd = (members * shares.everybody - shares.peers) / (members - 1) if members > 1 else shares.everybody  # (T,)
    each = np.log(np.maximum(crowd, 1e-12)) - log_plain
    ratio = by_facet(damped * each) / np.maximum(by_facet(damped), 1e-9)
    strangest = np.full(sessions * facets, -np.inf)
    np.maximum.at(strangest, cell, each)
    held = (profiles.total > 0) & np.isfinite(strangest).reshape(sessions, facets)
    nats = other - by_facet(damped * log_theta), ratio, strangest.reshape(sessions, facets)
    whole, rate, extreme = (np.where(held, x, 0.0) for x in nats)
    return whole, rate, extreme


def shares_of(table: Sessions, profiles: Profiles, population: Population, looks: Looks, counted: np.ndarray) -> Shares:
    """The shares of each session's values for its profile, row by row; counted (T,): damped counts in the profiles."""
    at = vocabulary_row(table, population)
    own, everybody = _among(table, at, peer_weights(profiles.affinity), population)
    nested = _nested(table, profiles, population, looks, everybody)
    suits = everybody * lift(table, at, profiles, population)
    return Shares(own, everybody, suits, nested, *_of_habits(table, profiles, looks, counted))


def _nested(table: Sessions, profiles: Profiles, population: Population, looks: Looks, everybody: np.ndarray) -> np.ndarray:
    """(T,) how probable the owner's predictive has what a value lies in, times the value's share in it among everybody (T,)."""
    out, size = np.full(len(table.key), np.nan), len(population.vocabulary)
    for values, above in looks.nested if size else ():
        there = np.flatnonzero((table.facet == values) & (profiles.total[table.row, above] > 0))
        _, first, of = np.unique(table.key[there], return_index=True, return_inverse=True)
        row, keys = table.row[there], looks.keys_above(values, table.text[there[first]].tolist())[of]
        at = np.minimum(np.searchsorted(population.vocabulary, keys), size - 1)
        base = population.mean_share[np.where(population.vocabulary[at] == keys, at, size + above)]
        known = lookup(profiles, row, keys)[0], profiles.total[row, above], profiles.kinds[row, above]
        own = predictive(*known, base, population.discount[above], population.strength[above])
        out[there] = own * np.minimum(everybody[there] / base, 1.0)
    return out


def _of_habits(table: Sessions, profiles: Profiles, looks: Looks, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) bool: values of `pair`; and (T,) the chance of each if the owner's values came in no order, 0 where one is no habit.

    What a pair is made of is not kept: all pairs of a session's values that are habits are looked up among its pairs.
    """
    chance = np.zeros(len(table.key))
    if "pair" not in looks.text:
        return chance > 0, chance
    pair, values = looks.text.index("pair"), looks.text.index(looks.paired)
    row, is_pair = table.row, table.facet == pair
    some = np.flatnonzero((table.facet == values) & (counted > 0))
    there = np.flatnonzero(is_pair)
    if not len(some) or not len(there):
        return is_pair, chance
    share = counted[some] / (profiles.total[row[some], values] + 1)
    code = row[there].astype(np.uint64) << np.uint64(32) | table.key[there].astype(np.uint64)  # ascending
    sieve = np.zeros(1 << (32 - SIEVE_BITS), bool)  # most pairs of habits are no pair of the session: a cheap look tells
    sieve[table.key[there] >> SIEVE_BITS] = True
    halves = [pair_half(table.key[some], which) for which in (0, 1)]
    many = np.bincount(row[some], minlength=len(table))  # habits by session
    heads, each = np.cumsum(many) - many, many[row[some]]
    for lot in np.split(np.arange(len(some)), np.flatnonzero(np.diff(np.cumsum(each) // HASHED)) + 1):
        first = np.repeat(lot, each[lot])
        place = np.arange(len(first)) - np.repeat(np.cumsum(each[lot]) - each[lot], each[lot])
        second = heads[row[some[first]]] + place
        key = paired(halves[0][first], halves[1][second])
        may = np.flatnonzero(sieve[key >> SIEVE_BITS])
        first, second = first[may], second[may]
        wanted = row[some[first]].astype(np.uint64) << np.uint64(32) | key[may].astype(np.uint64)
        at = np.minimum(np.searchsorted(code, wanted), len(code) - 1)
        found = code[at] == wanted
        chance[there[at[found]]] = (share[first] * share[second])[found]
    return is_pair, chance


def with_habits(base: np.ndarray, shares: Shares) -> np.ndarray:
    """(T,) `base_of` that knows of pairs that two habits in a new order are still habits."""
    return np.where(shares.pair, (1 - REORDERED) * base + REORDERED * shares.habits, base)


def base_of(shares: Shares, population: Population, facet: np.ndarray) -> np.ndarray:
    """(T,) probability of each value as far as the owner does what is new."""
    blend, alike = population.blend[facet], population.alike[facet]
    base = (1 - alike) * ((1 - blend) * shares.peers + blend * shares.everybody) + alike * shares.suits
    return np.where(np.isnan(shares.nested), base, (1 - NESTED) * base + NESTED * shares.nested)


def base_share(table: Sessions, weight: np.ndarray, population: Population, blend: np.ndarray) -> np.ndarray:
    """(T,) probability of each value among the peers of its account, of weight (S, J), blended with everybody by `blend` (T,)."""
    own, everybody = _among(table, vocabulary_row(table, population), weight, population)
    return (1 - blend) * own + blend * everybody


def _among(table: Sessions, at: np.ndarray, weight: np.ndarray, population: Population) -> tuple[np.ndarray, np.ndarray]:
    """(T,) probability of each value (T,) among the peers of its account, of weight (S, J); and among everybody."""
    return np.einsum("tj,tj->t", population.share[at], weight[table.row]), population.mean_share[at]


def lift(table: Sessions, at: np.ndarray, profiles: Profiles, population: Population) -> np.ndarray:
    """(T,) how much likelier each value is for the account than for the mean one, by their embeddings; 1 where nothing is known.

    at: (T,) as `vocabulary_row` has it.
    """
    out = np.ones(len(table.key))
    within = at < len(population.vocabulary)
    some = np.flatnonzero(within & (population.alike[table.facet] > 0) & (profiles.history > 0)[table.row])
    if not len(some):
        return out
    long = profiles.long.astype(np.float64)
    long /= np.maximum(np.sqrt(np.einsum("sd,sd->s", long, long)), 1e-9)[:, None]
    suits = EMBEDDING_SCALE * np.einsum("td,td->t", population.value_vector[at[some]].astype(np.float64), long[table.row[some]])
    out[some] = np.exp(np.minimum(suits - population.value_level[at[some]], LIFT_CEILING))
    return out


def predictive(
    counted: np.ndarray, total: np.ndarray, kinds: np.ndarray, base: np.ndarray, d: np.ndarray | float, s: np.ndarray | float
) -> np.ndarray:
    """(T,) Pitman-Yor probability of a value: damped count, the facet's total and kinds, its probability if it is new, `base`.

    d: discount, s: strength; (T,), or one for all.
    """
    new = (s + d * kinds) * base
    return np.maximum((np.maximum(counted - d * np.minimum(counted, 1), 0) + new) / (total + s), 1e-12)


def posterior(number: np.ndarray, population: Population) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Normal-inverse-gamma (mu, kappa, alpha, beta), each (S, N), after the (S, N, 3) weight, sum and sum of squares."""
    n, total, squares = number[:, :, 0], number[:, :, 1], number[:, :, 2]
    kappa = population.pull + n
    mean = np.where(n > 0, total / np.maximum(n, 1e-9), 0)
    mu = (population.pull * population.centre + total) / kappa
    within = np.maximum(squares - n * mean**2, 0)
    beta = population.scale + 0.5 * within + 0.5 * population.pull * n * (mean - population.centre) ** 2 / kappa
    return mu, kappa, population.shape + 0.5 * n, beta


def marginal(values: np.ndarray, mu: np.ndarray, kappa: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """(S, N) log marginal likelihood of the (S, N, W) values under normal-inverse-gamma parameters (S, N)."""
    n, total, squares = values[:, :, 0], values[:, :, 1], values[:, :, 2]
    mean = total / np.maximum(n, 1)
    after = beta + 0.5 * np.maximum(squares - n * mean**2, 0) + 0.5 * kappa * n * (mean - mu) ** 2 / (kappa + n)
    return (
        special.gammaln(alpha + n / 2)
        - special.gammaln(alpha)
        + alpha * np.log(beta)
        - (alpha + n / 2) * np.log(after)
        + 0.5 * (np.log(kappa) - np.log(kappa + n))
        - 0.5 * n * np.log(2 * np.pi)
    )


def number_channels(
    table: Sessions, profiles: Profiles, population: Population, extremes: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(S, N) nats of the bulk (damped by the square root of the count), and nats of the extremes of the numbers `extremes`."""
    values = with_volume(table)
    n = values[:, :, 0]
    own = posterior(profiles.number, population)
    nobody = tuple(np.broadcast_to(x, n.shape) for x in (population.centre, population.pull, population.shape, population.scale))
    ratio = marginal(values, *nobody) - marginal(values, *own)
    known = (n > 0) & (profiles.number[:, :, 0] > 0)
    bulk = np.where(known, ratio / np.sqrt(np.maximum(n, 1)), 0.0)
    tails = np.minimum(tail(values, *own), EXTREME_CEILING)
    return bulk, np.where(known, tails, 0.0)[:, extremes]


def tail(values: np.ndarray, mu: np.ndarray, kappa: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """(S, N) -log probability that n values of the owner reach as far as the farthest one did."""
    spread = np.sqrt(beta * (1 + 1 / kappa) / alpha)
    n = values[:, :, 0]
    far = np.where(n > 0, np.maximum(values[:, :, 4] - mu, mu - values[:, :, 3]), 0) / spread
    single = np.log(2 * np.maximum(special.stdtr(2 * alpha, -far), LEAST_TAIL))
    return -np.log(-np.expm1(np.maximum(n, 1) * np.log1p(-np.exp(np.minimum(single, -1e-9)))) + 1e-300)


def off(values: np.ndarray, mean: np.ndarray, spread: np.ndarray, common: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, N) how far the means of sessions' values (S, N, W) lie from where they should, and the log of what counts as one.

    mean and spread (S, N), or one for all, of single values; common (N,): share of the variance that a session's values have in
    common. Absent numbers are not off.
    """
    n = np.maximum(values[:, :, 0], 1)
    one = spread * np.sqrt(common + (1 - common) / n)
    there = values[:, :, 0] > 0
    far = np.clip((values[:, :, 1] / n - mean) / one, -FARTHEST, FARTHEST)
    return np.where(there, far, 0.0), np.where(there, np.log(one), 0.0)


def expected(number: np.ndarray, population: Population) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread, each (S, N), of an owner's next value, after the (S, N, 3) weight, sum and sum of squares."""
    mu, kappa, alpha, beta = posterior(number, population)
    return mu, np.sqrt(beta / alpha * (1 + 1 / kappa))


def together(table: Sessions, profiles: Profiles, population: Population) -> np.ndarray:
    """(S, 1) nats of all numbers at once, under a multivariate t about everybody's means over one about the owner's."""
    mean, spread = expected(profiles.number, population)
    own, own_unit = off(table.numbers, mean[:, :-1], spread[:, :-1], population.common)
    anybody, unit = off(table.numbers, population.centre[:-1], population.spread[:-1], population.common)
    farther = np.log1p(squared(own, population.own_precision) / DEGREES)
    farther -= np.log1p(squared(anybody, population.all_precision) / DEGREES)
    nats = (own_unit - unit).sum(axis=1) + (DEGREES + own.shape[1]) / 2 * farther
    return np.where(profiles.history > 0, nats, 0.0)[:, None]


def squared(far: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """(S,) Mahalanobis distances, squared, of what is (S, N) standard deviations off."""
    return np.einsum("sn,sn->s", np.einsum("sn,nm->sm", far, precision), far)


def embedding_channels(profiles: Profiles, embedding: np.ndarray, population: Population) -> np.ndarray:
    """(S, 3) nats: strangers' likeness over the nearest remembered sessions'; distance to the long-term one; peers over owner."""
    bank = profiles.bank.astype(np.float64)
    size = np.sqrt(np.einsum("sbd,sbd->sb", bank, bank))
    free = size == 0
    likeness = np.matmul(bank, embedding.astype(np.float64)[:, :, None])[:, :, 0] / np.where(free, 1.0, size)
    likeness = np.sort(np.where(free, -1.0, likeness), axis=1)[:, ::-1]
    held = np.minimum(np.maximum((~free).sum(axis=1), 1), NEAREST)
    nearest = np.where(np.arange(NEAREST) < held[:, None], likeness[:, :NEAREST], 0).sum(axis=1) / held
    nearest_cohort = np.partition(products(embedding, population.cohort), -min(COHORT_NEAREST, len(population.cohort)), axis=1)
    strangers = np.sort(nearest_cohort[:, -COHORT_NEAREST:], axis=1)[:, ::-1].mean(axis=1)
    length = np.linalg.norm(profiles.long.astype(np.float64), axis=1)
    long = np.einsum("sd,sd->s", profiles.long, embedding, dtype=np.float64) / np.maximum(length, 1e-6)
    elsewhere = np.maximum(1 - peer_weights(profiles.affinity), 1e-6) / len(population.peer_centre)
    to_peers = products(embedding, population.peer_centre) * EMBEDDING_SCALE
    peers = log_sum_exp(to_peers + np.log(elsewhere))
    known = ~free.all(axis=1)
    scores = [EMBEDDING_SCALE * (strangers - nearest), EMBEDDING_SCALE * (1 - long), peers - EMBEDDING_SCALE * long]
    return np.where(known[:, None], np.stack(scores, axis=1), 0.0)


def products(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(S, C) float64: scalar products of (S, D) with (C, D), by BLAS in blocks of one size, so that no row depends on the rest."""
    others = others.astype(np.float64).T
    padded = np.zeros((-(-len(vectors) // BLOCK) * BLOCK, vectors.shape[1]))
    padded[: len(vectors)] = vectors
    out = np.empty((len(padded), others.shape[1]))
    for low in range(0, len(padded), BLOCK):
        np.matmul(padded[low : low + BLOCK], others, out=out[low : low + BLOCK])
    return out[: len(vectors)]


BLOCK = 64  # rows: a product of another shape may be summed in another order
