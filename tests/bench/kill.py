"""The kill tests, of the log and of answers, with 50 kills each: python tests/bench/kill.py"""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["KILLS_OF_THE_DAEMON"] = "50"
    tests = (
        "test_nothing_is_lost_or_doubled_by_kills_at_random_moments",
        "test_no_answer_is_lost_or_doubled_by_kills_while_people_answer",
    )
    daemon = Path(__file__).parents[1] / "test_daemon.py"
    sys.exit(pytest.main(["-v", "--timeout=1200", *(f"{daemon}::{test}" for test in tests)]))
