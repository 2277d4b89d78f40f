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
