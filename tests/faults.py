"""A store that fails at random, by a seed: for simulations of a whole daemon."""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOSPC
from random import Random
from typing import Any

from detector.errors import StoreError
from detector.stores import Store


class Killed(BaseException):
    """The process ended here: nothing in it may catch this; a test goes on with a new daemon on the same store."""


def before(call: Callable[[], Any]) -> Any:
    """The call is refused."""
    raise StoreError("faulty: told to fail; nothing was changed; a retry helps")


def full(call: Callable[[], Any]) -> Any:
    """The call finds a full disk."""
    raise StoreError("faulty: the disk is full; free some space; a retry helps then") from OSError(
        ENOSPC, "No space left on device"
    )


def killed_before(call: Callable[[], Any]) -> Any:
    """The process ends before anything was done."""
    raise Killed


def killed_after(call: Callable[[], Any]) -> Any:
    """The process ends when all was done, before the caller hears of it."""
    call()
    raise Killed


FAULTS = (before, full, killed_before, killed_after)


class FaultyStore:
    """Each call to `store` fails with probability `rate`, in one of the ways of `faults`, chosen by `rng`."""

    def __init__(self, store: Store, rng: Random, rate: float, faults: tuple[Callable[..., Any], ...] = FAULTS) -> None:
        self._store, self._rng, self._faults = store, rng, faults
        self.rate = rate
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*values: Any, **named: Any) -> Any:
            if name != "close" and self._rng.random() < self.rate:
                self.failures += 1
                return self._rng.choice(self._faults)(lambda: method(*values, **named))
            return method(*values, **named)

        return call
