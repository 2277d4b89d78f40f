"""At which level what values lie in tells accounts apart better than the values do."""

import numpy as np
import pytest

from detector.facets import FORM
from detector.telling import FEWEST, FEWEST_ACCOUNTS, ancestors

EVENTS, ACCOUNTS = 2000, 20
USERS = [f"u{i % ACCOUNTS}" for i in range(EVENTS)]
RNG = np.random.default_rng(0)


def shown(accounts: int = ACCOUNTS, events: int = EVENTS) -> dict[str, list[object]]:
    """Everybody has files, a browser that is updated, addresses and invoices of his own, and what tells nobody apart."""
    rng, who = np.random.default_rng(0), [i % accounts for i in range(events)]
    return {
        "file": [f"/home/u{u}/{rng.integers(3)}/{i}/x" for i, u in enumerate(who)],
        "browser": [f"{'ABCD'[u % 4]}-{'PM'[u % 2]}.{i // 200}" for i, u in enumerate(who)],
        "ip": [f"10.{u}.{rng.integers(99)}.{rng.integers(250)}" if i % 9 else None for i, u in enumerate(who)],
        "invoice": [f"{'XYZ'[u % 3]}{i}" for i, u in enumerate(who)],
        "page": [f"/{'ab'[u % 2]}/{(7 * u + rng.integers(3)) % 40}" for u in who],
        "request": [f"r{i}" for i in range(events)],
        "query": [f"/q?{i}" for i in range(events)],
        "seldom": [f"/s/{i % 2}/{i}" if i < 1 else None for i in range(events)],
    }


def test_the_lowest_level_that_tells_accounts_apart_better_than_the_values_do() -> None:
    assert ancestors(USERS, shown()) == {"file": 2, "browser": FORM, "ip": 2, "invoice": FORM}


def test_what_is_shown_by_chance_has_no_level() -> None:
    mixed = {name: [column[i] for i in RNG.permutation(EVENTS)] for name, column in shown().items()}
    assert ancestors(USERS, mixed) == {}


@pytest.mark.parametrize(
    ("accounts", "events"), [(FEWEST_ACCOUNTS - 1, EVENTS), (ACCOUNTS, int(2.8 * FEWEST)), (1, EVENTS), (1, 0)]
)
def test_of_few_events_or_accounts_no_level_is_said(accounts: int, events: int) -> None:
    assert ancestors([f"u{i % accounts}" for i in range(events)], shown(accounts, events)) == {}
