"""The review page."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute

from alerts.access import Gate
from alerts.desk import Desk


def pages(desk: Desk, gate: Gate) -> Sequence[BaseRoute]:
    """The pages over a desk."""
    return ()
