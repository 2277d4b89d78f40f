"""What every sink keeps to, and what only one of them promises."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.sinks import FileSink, LogSink, MemorySink, Sink
from detector.errors import DeliveryError


@dataclass(frozen=True)
class Case:
    """A sink, the ids of the alerts that arrived, and a switch that makes it fail or work."""

    sink: Sink
    ids: Callable[[], list[str]]
    works: Callable[[bool], None]


def file_case(folder: Path) -> Case:
    path, away = folder / "alerts.jsonl", folder / "away"

    def works(yes: bool) -> None:
        if yes:
            path.rmdir()
            away.replace(path)
        else:
            path.replace(away)
            path.mkdir()

    path.touch()
    return Case(FileSink(path), lambda: [msgspec.json.decode(line)["id"] for line in path.read_bytes().splitlines()], works)


def log_case(folder: Path) -> Case:
    entries: list[str] = []
    broken: list[OSError] = []

    def keep(logger: object, method: str, entry: structlog.typing.EventDict) -> str:
        if broken:
            raise broken[0]
        entries.append(entry["id"])
        raise structlog.DropEvent

    def works(yes: bool) -> None:
        broken[:] = [] if yes else [BrokenPipeError(32, "Broken pipe")]

    return Case(LogSink(structlog.wrap_logger(structlog.PrintLogger(), processors=[keep])), lambda: list(entries), works)


def memory_case(folder: Path) -> Case:
    sink = MemorySink()

    def works(yes: bool) -> None:
        sink.failures = 0.0 if yes else 1.0

    return Case(sink, lambda: [msgspec.json.decode(body)["id"] for body in sink.bodies], works)


@pytest.fixture(params=[file_case, log_case, memory_case], ids=["file", "log", "memory"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return request.param(tmp_path)


def body(name: str, user: str = "ada") -> bytes:
    verdict = {"user": user, "session": None, "p": 0.001, "belief": 0.9, "score": 4.2}
    return msgspec.json.encode({"id": name, "severity": "high", "summary": f"{user} unusual", "open": False, "verdict": verdict})


def test_it_has_a_name(case: Case) -> None:
    assert case.sink.name


def test_alerts_arrive_whole_and_in_order(case: Case) -> None:
    for i in range(5):
        case.sink.send(body(f"a{i}"))
    assert case.ids() == [f"a{i}" for i in range(5)]


def test_an_alert_that_is_sent_twice_arrives_twice(case: Case) -> None:
    case.sink.send(body("a"))
    case.sink.send(body("a"))
    assert case.ids() == ["a", "a"]


def test_an_alert_that_is_written_over_several_lines_stays_one(case: Case) -> None:
    case.sink.send(msgspec.json.format(body("a"), indent=2))
    case.sink.send(body("b", "eve\n\x1b[2J\u202e" + "x" * 100_000))
    assert case.ids() == ["a", "b"]


def test_a_refusal_names_the_sink_and_says_whether_a_retry_helps(case: Case) -> None:
    case.works(False)
    with pytest.raises(DeliveryError, match=rf"^{case.sink.name}: .*will be tried again$"):
        case.sink.send(body("a"))


def test_it_works_again_when_the_fault_is_gone(case: Case) -> None:
    case.sink.send(body("a"))
    case.works(False)
    with pytest.raises(DeliveryError):
        case.sink.send(body("b"))
    case.works(True)
    case.sink.send(body("b"))
    assert list(dict.fromkeys(case.ids())) == ["a", "b"]  # what was refused may have arrived nevertheless


@settings(deadline=None)  # waits for the disk
@given(cut=st.integers(0, len(body("cut")) + 1))
def test_a_line_that_a_crash_cut_short_is_ended_before_the_next(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("sink") / "alerts.jsonl"
    whole, torn = body("a") + b"\n", (body("cut") + b"\n")[:cut]
    path.write_bytes(whole + torn)
    FileSink(path).send(body("b"))
    assert path.read_bytes() == whole + torn + (b"\n" if torn and not torn.endswith(b"\n") else b"") + body("b") + b"\n"


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "alerts.jsonl")
    sink.send(body("a"))
    sink.path.rename(tmp_path / "alerts.1")
    sink.send(body("b"))
    assert [(tmp_path / name).read_bytes() for name in ("alerts.1", "alerts.jsonl")] == [body("a") + b"\n", body("b") + b"\n"]


def test_alerts_in_a_file_are_for_its_owner_only(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "alerts.jsonl")
    sink.send(body("a"))
    assert sink.path.stat().st_mode & 0o077 == 0


def test_a_full_disk_is_a_refusal_and_costs_no_later_alert(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "alerts.jsonl")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        for said in ("took 50 of", "cannot be appended to"):
            with pytest.raises(DeliveryError, match=said):
                sink.send(body("a"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    sink.send(body("a"))
    assert sink.path.read_bytes().splitlines() == [body("a")[:50], body("a")]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DeliveryError, match="regular file"):
        FileSink(tmp_path / "pipe").send(body("a"))


def test_what_is_logged_cannot_steer_a_terminal() -> None:
    with structlog.testing.capture_logs() as entries:
        LogSink().send(body("a", "eve\n\x1b[2J"))
    assert entries[0]["user"] == "eve\\x0a\\x1b[2J"
    assert entries[0]["log_level"] == "warning"


@pytest.mark.parametrize("wrong", [b"", b"[]", b"{", b"\xff"])
def test_the_log_refuses_what_is_no_json_object(wrong: bytes) -> None:
    with pytest.raises(DeliveryError, match="expected the JSON object"):
        LogSink().send(wrong)


def test_the_fake_fails_before_and_after_it_takes_an_alert_by_its_seed() -> None:
    def run() -> tuple[list[bytes], int]:
        sink, refused = MemorySink(rng=Random(7), failures=0.5), 0
        for i in range(100):
            try:
                sink.send(body(str(i)))
            except DeliveryError:
                refused += 1
        return sink.bodies, refused

    bodies, refused = run()
    assert (bodies, refused) == run()
    assert 0 < 100 - refused < len(bodies) < 100
