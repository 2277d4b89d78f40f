"""What is at stake in a session: weights of accounts and values, sensitive actions, and chains of them in order. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST, MOST = 0.01, 1000.0  # a weight beyond these would hide, or be, the whole queue


@dataclass(frozen=True)
class Stakes:
    """What the settings say."""

    accounts: Mapping[str, float]  # account -> weight
    values: Mapping[tuple[str, str], float]  # attribute and value -> weight
    sensitive: Mapping[str, float]  # action -> weight
    chain: Sequence[frozenset[str]] = ()  # kinds of actions, in the order in which an account is taken over
    chain_weight: float = 2.0  # for each link between two steps


@dataclass(frozen=True)
class Stake:
    """What a session puts at stake."""

    weight: float = 1.0  # the priority is multiplied by it
    rules: tuple[str, ...] = ()  # stable names of what raised or lowered it


def stake(user: str, events: Sequence[Mapping[str, object]], stakes: Stakes) -> Stake:
    """Of a session's events (attributes by name, in the order of their time): the largest weight of each kind, multiplied.

    A chain counts the steps that follow one another in the order of the settings: the longest strictly rising
    run of them, from two steps on.
    """
    weight, rules = stakes.accounts.get(user, 1.0), ["account"] * (user in stakes.accounts)
    seen = {(name, str(value)) for event in events for name, value in event.items() if value is not None}
    held = {pair: stakes.values[pair] for pair in sorted(seen & stakes.values.keys())}
    if held:
        pair = max(held, key=lambda pair: held[pair])
        weight *= held[pair]
        rules.append(f"value:{pair[0]}={pair[1]}")
    actions = [str(event.get("action")) for event in events]
    done = {action: stakes.sensitive[action] for action in sorted({*actions} & stakes.sensitive.keys())}
    if done:
        action = max(done, key=lambda action: done[action])
        weight *= done[action]
        rules += [f"sensitive:{action}"]
    steps = longest([k for action in actions for k, kind in enumerate(stakes.chain) if action in kind])
    if steps > 1:
        weight *= stakes.chain_weight ** (steps - 1)
        rules.append(f"chain:{steps}")
    return Stake(min(max(weight, LEAST), MOST), tuple(rules))


def longest(numbers: Sequence[int]) -> int:
    """The length of the longest strictly rising subsequence (patience sorting, Fredman 1975)."""
    ends: list[int] = []
    for number in numbers:
        at = bisect_left(ends, number)
        ends[at : at + 1] = [number]
    return len(ends)
