"""The demo on a small town, and what can be done afterwards with the state that it keeps."""

import json
import subprocess
import sys
from pathlib import Path

UNLIKE = [sys.executable, "-m", "detector.cli"]


def test_the_demo_catches_takeovers_and_leaves_a_state_to_look_at(tmp_path: Path) -> None:
    folder = tmp_path / "town"
    command = [*UNLIKE, "demo", "--keep", str(folder), "--accounts", "60", "--weeks", "6"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for part in ("simulating a town of 60 accounts", "takeovers of 8 kinds", "takeover: burst", "false alarms in", "unlike alerts"):
        assert part in told
    row = next(line for line in told.splitlines() if " all " in line)
    caught, missed = (int(cell) for cell in row.replace("│", "|").split("|")[2:4])
    assert caught > missed
    listed = subprocess.run(
        [*UNLIKE, "alerts", "--json", "--set", f"state.folder={folder}"], capture_output=True, text=True, check=True
    )
    first = json.loads(listed.stdout.splitlines()[0])
    shown = subprocess.run(
        [*UNLIKE, "alerts", "show", first["id"], "--set", f"state.folder={folder}"], capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert first["verdict"]["user"] in shown.stdout
    assert (folder / "alerts.jsonl").exists()
