"""Lint, format and types, by the tools themselves; and the documents against the program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from detector.settings import settings_table

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("tool", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_the_tool_finds_no_fault(tool: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_tells_every_setting() -> None:
    assert settings_table() in (ROOT / "README.md").read_text()


def test_every_file_that_the_readme_names_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:detector|alerts|config|tests)/[\w./]*\w)`", readme))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_help_answers_without_loading_what_is_heavy() -> None:
    code = "import sys; from detector.cli import parser; parser().format_help(); print({'torch', 'pyod', 'numpy'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "set()"


def test_a_daemon_begins_without_what_only_training_and_pictures_need() -> None:
    code = "import sys, detector.app; print({'torch', 'sklearn', 'pyod', 'matplotlib'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "set()"
