"""Which two facets are looked at together."""

import numpy as np
import pytest

from detector.joints import ABSENT, FEWEST, FEWEST_ACCOUNTS, together

ACCOUNTS, EVENTS = 40, 16_000


def drawn(accounts: int = ACCOUNTS, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Everybody does everything in every way, each what in ways of his own; what is `free` goes with nothing."""
    rng = np.random.default_rng(seed)
    account = rng.integers(0, accounts, EVENTS)
    what, ways = rng.integers(0, 6, EVENTS), np.stack([rng.permutation(6) for _ in range(accounts)])
    how = np.where(rng.random(EVENTS) < 0.7, ways[account, what], rng.integers(0, 6, EVENTS))
    return account, {"free": rng.integers(0, 6, EVENTS), "what": what, "how": how, "constant": np.zeros(EVENTS, np.int64)}


def test_two_that_tell_accounts_apart_only_together_are_looked_at_together() -> None:
    account, values = drawn()
    assert together(account, values) == together(account, values) == ("what", "how")
    assert together(account, {name: values[name] for name in ("free", "what", "constant")}) == ()


def test_accounts_that_all_do_it_in_the_same_ways_are_not_told_apart_by_them() -> None:
    account, values = drawn()
    assert together(np.random.default_rng(1).permutation(account), values) == ()


def test_what_comes_with_what_tells_accounts_apart_by_itself_is_not_asked() -> None:
    account, values = drawn()
    values["device"] = np.where(np.arange(EVENTS) % 10 > 0, account, values["free"])
    assert together(account, {name: values[name] for name in ("device", "free", "what")}) == ()
    assert together(account, values) == ("what", "how")


def test_what_comes_with_a_value_that_is_often_new_is_not_asked() -> None:
    account, values = drawn()

    def found(new: float) -> tuple[str, ...]:
        fresh = np.random.default_rng(2).random(EVENTS) < new
        detail = np.where(fresh, 6 + np.arange(EVENTS), values["how"])
        return together(account, {"free": values["free"], "what": values["what"], "detail": detail})

    assert found(0.1) == ("what", "detail")
    assert found(0.3) == ()


def test_values_that_are_seldom_there_or_never_meet_do_no_harm() -> None:
    account, values = drawn()
    half = np.arange(EVENTS) % 2 == 0
    values |= {"odd": np.where(half, ABSENT, values["free"]), "even": np.where(half, values["free"], ABSENT)}
    values |= {"late": np.where(np.arange(EVENTS) < 0.9 * EVENTS, ABSENT, values["free"])}
    values |= {"early": np.where(np.arange(EVENTS) < 0.5 * EVENTS, values["free"], ABSENT)}
    assert together(account, values) == ("what", "how")


@pytest.mark.parametrize(("accounts", "events"), [(ACCOUNTS, int(2.8 * FEWEST)), (FEWEST_ACCOUNTS - 1, EVENTS), (1, EVENTS)])
def test_of_few_events_or_accounts_nothing_is_said(accounts: int, events: int) -> None:
    account, values = drawn(accounts)
    assert together(account[:events], {name: codes[:events] for name, codes in values.items()}) == ()
    assert together(account[:0], {name: codes[:0] for name, codes in values.items()}) == ()
