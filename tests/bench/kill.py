"""The kill test with 50 kills: python tests/bench/kill.py"""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["KILLS_OF_THE_DAEMON"] = "50"
    test = "test_nothing_is_lost_or_doubled_by_kills_at_random_moments"
    sys.exit(pytest.main(["-v", "--timeout=1200", f"{Path(__file__).parents[1] / 'test_daemon.py'}::{test}"]))
