"""Its being here lets every test import what lies beside it, such as `faults`."""

import pytest

from detector import training
from detector.pack import Pack
from detector.settings import SessionSettings, TrainingSettings
from tests.logs import batch_of, rows_of_people


@pytest.fixture(scope="session")
def trained() -> Pack:
    """A pack trained on the small log: 14 people, 40 days."""
    return training.train(batch_of(rows_of_people()), {}, SessionSettings(), TrainingSettings(), 0)


SLOWEST = (
    "test_real_logs",
    "test_daemon",
    "test_real_run",
    "test_browser",
    "test_api",
    "test_app",
    "test_demo",
)  # begun first, so that two workers end together


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first, else in their order."""
    items.sort(key=lambda item: SLOWEST.index(item.path.stem) if item.path.stem in SLOWEST else len(SLOWEST))
