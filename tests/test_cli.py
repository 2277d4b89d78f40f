"""The command as a user types it: exit codes, where output goes, what is refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import pytest

from detector.cli import main, parser
from detector.lines import rfc3339
from detector.pack import Pack, save
from tests.logs import DAY, START, rows_of_people


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    rows = [r | {"time": rfc3339(float(str(r["time"])))} for r in rows_of_people(9, 40)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def replay(log: Path, out: Path, *more: str) -> int:
    return main(["replay", str(log), "--train-until", rfc3339(START + 30 * DAY), "--verdicts", str(out), *more])


RETRAINING = ("--set", "training.growth=0.2", "--set", "training.every=1d")


@dataclass(frozen=True)
class Replayed:
    """What one replay that trains again on its way wrote."""

    verdicts: bytes
    alerts: bytes
    told: str


@pytest.fixture(scope="module")
def replayed(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    folder, told = tmp_path_factory.mktemp("replayed"), io.StringIO()
    with redirect_stderr(told):
        assert replay(log, folder / "verdicts", "--alerts", str(folder / "alerts"), *RETRAINING) == 0
    return Replayed((folder / "verdicts").read_bytes(), (folder / "alerts").read_bytes(), told.getvalue())


def test_every_command_has_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("demo", "run", "train", "packs", "replay", "rehearse", "alerts", "check"):
        with pytest.raises(SystemExit) as left:
            parser().parse_args([name, "--help"])
        assert left.value.code == 0
        assert "examples:" in capsys.readouterr().out


def test_replay_writes_the_same_bytes_for_the_same_input_and_seed_also_from_standard_input_to_standard_output(
    log: Path, replayed: Replayed, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "detector.cli", "replay", "-", "--train-until", rfc3339(START + 30 * DAY), "--verdicts", "-"]
    command += ["--alerts", str(tmp_path / "alerts"), *RETRAINING]
    done = subprocess.run(command, input=log.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == replayed.verdicts
    assert (tmp_path / "alerts").read_bytes() == replayed.alerts


def test_replay_tells_the_verdicts_after_the_time_with_all_that_there_is_to_know(replayed: Replayed) -> None:
    verdicts = [json.loads(line) for line in replayed.verdicts.splitlines()]
    assert {"user", "session", "start", "end", "score", "p", "belief", "history", "evidence", "pack"} <= set(verdicts[0])
    assert all(v["end"] >= rfc3339(START + 30 * DAY) for v in verdicts)
    assert sum(v["history"] >= 5 for v in verdicts) > 0.9 * len(verdicts)


def test_replay_retrains_on_the_schedule_of_the_settings(replayed: Replayed) -> None:
    assert "trained again" in replayed.told
    assert len({json.loads(line)["pack"] for line in replayed.verdicts.splitlines()}) == 2


def test_another_seed_gives_another_pack(log: Path, replayed: Replayed, tmp_path: Path) -> None:
    assert replay(log, tmp_path / "v.jsonl", "--seed", "1", "--set", "training.every=0s") == 0
    first = [json.loads(text.splitlines()[0])["pack"] for text in (replayed.verdicts, (tmp_path / "v.jsonl").read_bytes())]
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["replay", "nowhere.jsonl", "--train-until", "2026-01-01T00:00:00Z", "--verdicts", "-"], 1, "nowhere.jsonl"),
        (["replay", "LOG", "--train-until", "yesterday", "--verdicts", "-"], 2, "--train-until yesterday"),
        (["replay", "LOG", "--train-until", "2026-01-01T00:00:00", "--verdicts", "-"], 2, "zone"),
        (["replay", "LOG", "--train-until", "2026-01-02T00:00:00Z", "--verdicts", "-"], 1, "sessions"),
        (["replay", "LOG", "--train-until", "2025-01-02T00:00:00Z", "--verdicts", "-"], 1, "no event lies before"),
        (["replay", "LOG", "--train-until", "2026-01-02T00:00:00Z", "--verdicts", "-", "--set", "session.gap=2"], 2, "session.gap"),
        (["replay", "LOG", "--train-until", "2026-01-02T00:00:00Z", "--verdicts", "-", "--set", "sessions.gap=2h"], 2, "sessions"),
        (["run"], 2, "no source"),
        (["run", "--config", "absent.toml"], 2, "absent.toml"),
        (["alerts", "--set", "state.folder=absent"], 1, "absent"),
        (["packs", "use"], 2, "id of a pack"),
        (["packs", "use", "none", "--set", "state.folder=absent"], 1, "none"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(
    arguments: list[str], code: int, message: str, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(log) if a == "LOG" else a for a in arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_check_tells_what_is_understood_and_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [
        {"time": rfc3339(START + i), "user": f"u{i % 3}", "action": "view", "page": f"p{i % 4}", "amount": i * 1.5}
        for i in range(60)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join([*map(json.dumps, good), "{oops", '{"time": 1}']) + "\n")
    assert main(["check", str(tmp_path / "log.jsonl")]) == 0
    told = capsys.readouterr().out
    for part in ("60 of 3 accounts", "attribute page: text", "attribute amount: number", "not_json", "log.jsonl"):
        assert part in told


def test_check_fails_where_nothing_is_usable(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("nothing\nof use\n")
    assert main(["check", str(tmp_path / "log.jsonl")]) == 1


def test_foreign_names_are_mapped(log: Path, trained: Pack, tmp_path: Path) -> None:
    save(trained, tmp_path)
    given = ("--pack", str(tmp_path / trained.id))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    foreign = [
        {"@timestamp": r["time"], "client": {"name": r["user"]}, "verb": r["action"]}
        | {name: r[name] for name in ("page", "device", "amount")}
        for r in rows
    ]
    (tmp_path / "foreign.jsonl").write_text("".join(json.dumps(r) + "\n" for r in foreign))
    (tmp_path / "u.toml").write_text('[[source]]\nfields = {time = "@timestamp", user = "client.name", action = "verb"}\n')
    assert replay(log, tmp_path / "ours", *given) == 0
    assert replay(tmp_path / "foreign.jsonl", tmp_path / "theirs", *given, "--config", str(tmp_path / "u.toml")) == 0
    assert (tmp_path / "theirs").read_bytes() == (tmp_path / "ours").read_bytes() != b""
