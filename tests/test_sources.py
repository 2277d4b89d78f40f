from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from detector.errors import SettingsError, SourceError
from detector.records import Chunk
from detector.settings import EventSettings, SourceSettings
from detector.sources import FileSource, FolderSource, Source, StdinSource, open_source, read_all

NOW = 1_600_000_000.0
START = 1_577_836_800
EVENTS = EventSettings(max_line_bytes=2000)


def line(n: int, **more: object) -> bytes:
    """Event number n as a JSON line; its attribute n is a text, so that it is found again."""
    return json.dumps({"time": START + n, "user": f"user{n % 3}", "n": str(n)} | more).encode() + b"\n"


def lines(*numbers: int) -> bytes:
    return b"".join(map(line, numbers))


def numbers(chunks: Sequence[Chunk]) -> list[int]:
    """The events of chunks by their numbers."""
    return [int(n) for chunk in chunks if len(chunk.batch) for n in chunk.batch.attributes["n"]]


def reasons(chunks: Sequence[Chunk]) -> list[str]:
    return [r.reason for chunk in chunks for r in chunk.rejects]


def drain(source: Source, position: Mapping[str, object] | None = None, limit: int = 100) -> list[Chunk]:
    """Chunks until nothing more is there; each position goes through JSON, as it does in a store."""
    chunks = [source.read(position, limit, NOW)]
    while not chunks[-1].exhausted:
        assert len(chunks) < 1000
        chunks.append(source.read(json.loads(json.dumps(chunks[-1].position)), limit, NOW))
    return chunks


def settings_of(**values: str) -> SourceSettings:
    return msgspec.convert(values, SourceSettings)


def file_source(path: Path, **more: str) -> FileSource:
    return FileSource(settings_of(kind="file", path=str(path), **more), EVENTS)


def folder_source(path: Path) -> FolderSource:
    return FolderSource(settings_of(kind="folder", path=str(path)), EVENTS)


class Reader:
    """Reads a source to its present end, again and again; each time as a new process would, where `restarts`."""

    def __init__(self, path: Path, restarts: bool = False, limit: int = 100) -> None:
        self.path, self.restarts, self.limit = path, restarts, limit
        self.position: Mapping[str, object] = {}
        self.rejects: list[str] = []
        self.source = self.open()

    def open(self) -> Source:
        return folder_source(self.path) if self.path.is_dir() else file_source(self.path)

    def __call__(self) -> list[int]:
        if self.restarts:
            self.source.close()
            self.source = self.open()
        chunks = drain(self.source, self.position, self.limit)
        self.position = chunks[-1].position
        self.rejects += reasons(chunks)
        return numbers(chunks)


@pytest.fixture(params=["one process", "restarts"])
def restarts(request: pytest.FixtureRequest) -> bool:
    return request.param == "restarts"


# ── a file that grows ──


def test_a_growing_file_is_read_once(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.jsonl"
    read = Reader(path, restarts)
    assert read() == []
    path.write_bytes(lines(0, 1))
    assert (read(), read()) == ([0, 1], [])
    with path.open("ab") as log:
        log.write(lines(2))
    assert (read(), read()) == ([2], [])


def test_a_half_written_line_is_waited_for(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.jsonl"
    read = Reader(path, restarts)
    for end in range(len(lines(0, 1)) + 1):
        path.write_bytes(lines(0, 1)[:end])
        found = read()
        assert found == ([0] if end == len(lines(0)) else [1] if end == len(lines(0, 1)) else [])
    assert read.rejects == []


def test_a_position_says_where_each_event_was(tmp_path: Path) -> None:
    path = tmp_path / "app.jsonl"
    path.write_bytes(lines(0) + b"\nbad\n" + lines(1))
    (chunk,) = drain(file_source(path, name="app"))
    first = len(lines(0))
    assert list(chunk.batch.position) == ["app:0", f"app:{first + 5}"]
    assert [(r.source, r.position, r.reason) for r in chunk.rejects] == [("app", f"app:{first + 1}", "not_json")]


def test_a_read_from_an_earlier_position_gives_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "app.jsonl"
    path.write_bytes(lines(*range(10)))
    source = file_source(path)
    first = source.read(None, 4, NOW)
    assert numbers([source.read(first.position, 4, NOW)]) == numbers([source.read(first.position, 4, NOW)]) == [4, 5, 6, 7]
    assert numbers([source.read(None, 4, NOW)]) == [0, 1, 2, 3]


def test_a_renamed_file_is_finished_before_the_new_one(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.log"
    read = Reader(path, restarts, limit=2)
    path.write_bytes(lines(0, 1, 2))
    assert read() == [0, 1, 2]
    with path.open("ab") as log:
        path.rename(tmp_path / "elsewhere.log")
        log.write(lines(3, 4))
        log.flush()
        assert read() == [3, 4]
        log.write(lines(5) + lines(6).strip())
    assert read() == [5]
    path.write_bytes(b"")
    assert read() == []
    path.write_bytes(lines(7, 8))
    assert (read(), read(), read.rejects) == ([6, 7, 8], [], [])


@pytest.mark.parametrize("compressed", [False, True])
def test_several_rotations_while_nobody_read_lose_nothing(tmp_path: Path, restarts: bool, compressed: bool) -> None:
    path = tmp_path / "app.log"
    read = Reader(path, restarts, limit=2)
    path.write_bytes(lines(-2))
    rotate(path, compressed)
    path.write_bytes(lines(0, 1))
    assert read() == [0, 1]
    with path.open("ab") as log:
        log.write(lines(2, 3, 4))
    for n in (5, 8, 11):
        rotate(path, compressed)
        path.write_bytes(lines(n, n + 1, n + 2))
    assert (read(), read()) == ([*range(2, 14)], [])


def rotate(path: Path, compressed: bool) -> None:
    """Moves app.log to app.log.1, that to app.log.2 and so on; written times a second apart, as when it happens over days."""
    ending = ".gz" if compressed else ""
    for n in range(8, 0, -1):
        old = Path(f"{path}.{n}{ending}")
        if old.exists():
            os.utime(old, ns=(0, old.stat().st_mtime_ns - 10**9))
            old.rename(f"{path}.{n + 1}{ending}")
    new = Path(f"{path}.1{ending}")
    if compressed:
        new.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    else:
        path.rename(new)
    os.utime(new, ns=(0, path.parent.stat().st_mtime_ns - 10**9))


def test_a_rotated_file_that_is_being_compressed_is_read_once(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.log"
    read = Reader(path, restarts)
    path.write_bytes(lines(0, 1))
    assert read() == [0, 1]
    path.write_bytes(lines(0, 1, 2))
    path.rename(tmp_path / "app.log.2")
    (tmp_path / "app.log.1").write_bytes(lines(3, 4))
    path.write_bytes(lines(5))
    for n in (1, 2):
        (tmp_path / f"app.log.{n}.gz").write_bytes(gzip.compress((tmp_path / f"app.log.{n}").read_bytes())[:30])
        os.utime(tmp_path / f"app.log.{n}", ns=(0, path.stat().st_mtime_ns - n * 10**9))
    assert (read(), read()) == ([2, 3, 4, 5], [])


def test_a_file_truncated_within_a_line_too_long_is_read_from_its_beginning(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.log"
    read = Reader(path, restarts)
    path.write_bytes(b"x" * 5000 + b"\n")
    assert (read(), read.rejects) == ([], ["line_too_long"])
    path.write_bytes(b"x" * 1100 + b"\n" + lines(1))
    assert (read(), read.rejects) == ([1], ["line_too_long", "not_json"])


def test_a_truncated_file_is_read_from_its_beginning(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.log"
    read = Reader(path, restarts)
    path.write_bytes(lines(0, 1, 2))
    assert read() == [0, 1, 2]
    path.write_bytes(lines(3))
    assert read() == [3]
    path.write_bytes(lines(*range(10, 20)))  # longer than what was read: only the content tells
    assert read() == [*range(10, 20)]


def test_what_a_truncated_file_held_is_read_from_its_copy(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.log"
    read = Reader(path, restarts)
    path.write_bytes(lines(0, 1))
    assert read() == [0, 1]
    (tmp_path / "app.log.1").write_bytes(lines(0, 1, 2, 3))
    path.write_bytes(lines(4))
    assert (read(), read()) == ([2, 3, 4], [])


def test_a_vanished_file_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    read = Reader(path)
    path.write_bytes(lines(0))
    assert read() == [0]
    path.unlink()
    for _ in range(2):
        with pytest.raises(SourceError, match=r"app\.log: vanished after .* tries again"):
            read()
    path.write_bytes(lines(0, 1))
    assert read() == [1]


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path}: cannot be read: Is a directory"):
        file_source(tmp_path).read(None, 10, NOW)


def test_a_position_of_another_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_bytes(lines(0))
    with pytest.raises(SourceError, match="position"):
        file_source(tmp_path / "app.log").read({"offset": "ten"}, 10, NOW)


def test_a_line_longer_than_allowed_is_refused_without_being_loaded(tmp_path: Path) -> None:
    path = tmp_path / "app.jsonl"
    with path.open("wb") as log:
        log.write(lines(0) + b"x" * 2001 + b"\n" + lines(1))
        log.write(b"y" * 1999 + b"\r\n" + lines(2))
        for _ in range(100):
            log.write(b"z" * 1_000_000)
        log.write(b"\n" + lines(3))
    code = (
        "import resource, sys\nfrom detector.sources import *\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"source = FileSource(SourceSettings(path={str(path)!r}), EventSettings(max_line_bytes=2000)); before = peak()\n"
        f"chunk = source.read(None, 100, {NOW})\n"
        "print(list(chunk.batch.attributes['n']), [(r.reason, len(r.line)) for r in chunk.rejects], peak() - before < 20_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['0', '1', '2', '3'] [('line_too_long', 2001), ('not_json', 1999), ('line_too_long', 2002)] True"
    assert numbers(drain(file_source(path), limit=1)) == [0, 1, 2, 3]


def test_a_long_line_without_an_end_is_waited_for(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.jsonl"
    read = Reader(path, restarts)
    path.write_bytes(lines(0) + b"x" * 5000)
    assert (read(), read.rejects) == ([0], [])
    with path.open("ab") as log:
        log.write(b"x" * 5000 + b"\n" + lines(1))
    assert (read(), read.rejects) == ([1], ["line_too_long"])


def test_lag_is_what_was_not_read(tmp_path: Path) -> None:
    path = tmp_path / "app.jsonl"
    path.write_bytes(lines(0, 1, 2))
    source = file_source(path)
    source.read(None, 1, NOW)
    assert source.lag_bytes() == len(lines(1, 2))


# ── formats ──


def write_csv(path: Path, *some: int) -> None:
    text = "time,user,n,note\r\n" + "".join(f'{START + n},user{n % 3},{n},"a, b"\r\n' for n in some)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_parquet(path: Path, *some: int) -> None:
    time = pa.array([(START + n) * 10**9 + 1 for n in some], pa.timestamp("ns", tz="UTC"))
    table = pa.table(
        {"time": time, "user": [f"user{n % 3}" for n in some], "n": [str(n) for n in some], "amount": [n / 2 for n in some]}
    )
    pq.write_table(table, path, row_group_size=7)


def write_any(path: Path, *some: int) -> None:
    """Events in the format that the name of the file says."""
    if path.suffix == ".parquet":
        write_parquet(path, *some)
    elif ".csv" in path.name:
        write_csv(path, *some)
    else:
        path.write_bytes(gzip.compress(lines(*some)) if path.suffix == ".gz" else lines(*some))


NAMES = ["a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.parquet"]


@pytest.mark.parametrize("name", NAMES)
@given(limits=st.lists(st.integers(1, 12), min_size=1), restart=st.booleans())
@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sizes_of_chunks_give_the_same_events(tmp_path: Path, name: str, limits: list[int], restart: bool) -> None:
    path = tmp_path / name
    if not path.exists():
        write_any(path, *range(30))
    source = file_source(path)
    (whole,) = drain(source)
    chunks, position = [], None
    for n in range(100):
        source = file_source(path) if restart else source
        chunks.append(source.read(position, limits[n % len(limits)], NOW))
        position = json.loads(json.dumps(chunks[-1].position))
        assert len(chunks[-1].batch) <= limits[n % len(limits)]
    assert numbers(chunks) == numbers([whole]) == [*range(30)]
    assert np.array_equal(np.concatenate([c.batch.time for c in chunks]), START + np.arange(30.0))
    assert [p for c in chunks for p in c.batch.position] == list(whole.batch.position)
    assert chunks[-1].position == whole.position


def test_a_csv_file_grows_like_any_other(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.csv"
    read = Reader(path, restarts)
    path.write_bytes(b"\xef\xbb\xbftime,us")
    assert read() == []
    path.write_bytes(b"\xef\xbb\xbftime,user,n,\n")
    assert read() == []
    with path.open("ab") as log:
        log.write(f"{START},ann,0,x\n{START},ann,1\n{START},ann,".encode())
    assert (read(), read.rejects) == ([0], ["wrong_columns"])
    with path.open("ab") as log:
        log.write(b"2,x\n")
    chunk = read.source.read(read.position, 10, NOW)
    assert (numbers([chunk]), chunk.batch.attributes["column4"][0]) == ([2], "x")


def test_a_file_of_which_only_the_header_was_read_is_known_by_it(tmp_path: Path, restarts: bool) -> None:
    path = tmp_path / "app.csv"
    read = Reader(path, restarts)
    path.write_bytes(b"time,user,n,note\n")
    assert read() == []
    path.write_bytes(f"n,time,user\n7,{START},ann\n".encode())
    assert (read(), read.rejects) == ([7], [])


def test_a_csv_header_that_is_none_is_an_error(tmp_path: Path) -> None:
    for n, header in enumerate([b"\xff\xfe\n", b'"time\n', b"\n", b"," * 3000 + b"\n"]):
        path = tmp_path / f"{n}.csv"
        path.write_bytes(header + b"1,2,3\n")
        with pytest.raises(SourceError, match=r"\.csv: damaged .*header"):
            drain(file_source(path))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
def test_damaged_gzip_gives_its_complete_lines_and_then_an_error(tmp_path: Path, name: str, restarts: bool) -> None:
    path = tmp_path / name
    write_any(path, *range(3000))
    for damaged in (path.read_bytes()[:-9], path.read_bytes()[:2000], path.read_bytes()[:-8] + b"12345678"):
        path.write_bytes(damaged)
        found: list[Chunk] = []
        with pytest.raises(SourceError, match=r"gz: damaged behind offset"):
            collect(path, restarts, found)
        assert numbers(found) == [*range(len(numbers(found)))]
        assert not reasons(found)
        assert not any(chunk.exhausted for chunk in found)


def collect(path: Path, restarts: bool, found: list[Chunk]) -> None:
    """Reads a file in chunks of 70 until nothing more is there, or until it raises."""
    source = file_source(path)
    while not found or not found[-1].exhausted:
        source = file_source(path) if restarts else source
        found.append(source.read(found[-1].position if found else None, 70, NOW))


@pytest.mark.parametrize("content", [b"", b"not gzip at all", gzip.compress(b"", mtime=0)])
def test_a_gzip_file_without_lines_gives_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    if content.startswith(b"not"):
        with pytest.raises(SourceError, match="damaged"):
            drain(file_source(path))
    else:
        assert numbers(drain(file_source(path))) == []


def test_damaged_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, *range(100))
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"PAR1" + b"x" * 50, b""):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"a\.parquet: damaged"):
            drain(file_source(path))


def test_parquet_rows_are_judged_like_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [
        {"time": START, "user": "ann", "amount": 1.0, "at": {"country": "DE"}, "tags": ["a", "b"]},
        {"time": START, "user": None, "amount": 1.0, "at": None, "tags": None},
        {"time": START, "user": "ann", "amount": float("nan"), "at": None, "tags": None},
        {"time": START, "user": "a\0n", "amount": None, "at": None, "tags": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    (chunk,) = drain(file_source(path))
    assert {n: c[0] for n, c in chunk.batch.attributes.items()} == {
        "action": "event",
        "amount": 1.0,
        "at.country": "DE",
        "tags": "a,b",
    }
    assert reasons([chunk]) == ["user_missing", "number_out_of_range", "nul_byte"]
    assert [r.position for r in chunk.rejects] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert json.loads(chunk.rejects[0].line)["amount"] == 1.0


def test_parquet_without_its_package_is_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')\n")
    code = (
        "from detector.sources import *\nfrom detector.errors import SourceError\n"
        "try: open_source(SourceSettings(path='a.parquet'), EventSettings())\n"
        "except SourceError as error: print(error)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "unlike[parquet]" in done.stdout


# ── a folder ──


def test_dropped_files_are_read_once_in_the_order_of_their_names(tmp_path: Path, restarts: bool) -> None:
    read = Reader(tmp_path, restarts, limit=7)
    assert read() == []
    for n, name in enumerate(["a.jsonl", "b.json", "c.jsonl.gz", "d.csv", "e.csv.gz", "f.parquet"]):
        write_any(tmp_path / name, *range(10 * n, 10 * n + 10))
    for name in [".hidden.jsonl", "g.jsonl.tmp", "h.jsonl.part", "notes.txt"]:
        (tmp_path / name).write_bytes(lines(99))
    (tmp_path / "below.jsonl").mkdir()
    assert (read(), read()) == ([*range(60)], [])
    write_any(tmp_path / "aa.jsonl", 60, 61)
    (tmp_path / "g.jsonl.tmp").rename(tmp_path / "g.jsonl")
    assert (read(), read(), read.rejects) == ([60, 61, 99], [], [])


def test_many_small_files_fill_one_chunk(tmp_path: Path) -> None:
    for n in range(20):
        write_any(tmp_path / f"{n:02}.{'csv' if n % 2 else 'jsonl'}", n)
    (chunk,) = drain(folder_source(tmp_path))
    assert numbers([chunk]) == [*range(20)]


def test_a_file_of_a_folder_may_grow(tmp_path: Path, restarts: bool) -> None:
    read = Reader(tmp_path, restarts)
    (tmp_path / "a.jsonl").write_bytes(lines(0) + lines(1)[:9])
    (tmp_path / "b.jsonl").write_bytes(lines(5))
    assert read() == [0, 5]
    (tmp_path / "a.jsonl").write_bytes(lines(0, 1, 2))
    assert (read(), read(), read.rejects) == ([1, 2], [], [])


def test_a_replaced_file_of_a_folder_is_read_from_its_beginning(tmp_path: Path, restarts: bool) -> None:
    read = Reader(tmp_path, restarts)
    (tmp_path / "a.jsonl").write_bytes(lines(0, 1))
    assert read() == [0, 1]
    (tmp_path / "a.jsonl").write_bytes(lines(20, 21, 22))
    assert (read(), read()) == ([20, 21, 22], [])


def test_a_last_line_without_its_end_counts_once_the_file_rests_and_another_is_newer(tmp_path: Path) -> None:
    read = Reader(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(lines(0) + lines(1).strip())
    assert [read() for _ in range(3)] == [[0], [], []]
    (tmp_path / "b.jsonl").write_bytes(lines(2))
    assert (read(), read(), read.rejects) == ([1, 2], [], [])


def test_a_resting_file_that_grew_since_the_last_look_is_waited_for(tmp_path: Path) -> None:
    read = Reader(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(lines(5))
    for end in range(len(lines(0))):
        (tmp_path / "a.jsonl").write_bytes(lines(0)[:end])
        assert read() == ([5] if end == 0 else [])
    (tmp_path / "a.jsonl").write_bytes(lines(0))
    assert (read(), read.rejects) == ([0], [])


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet", "a.csv"])
def test_a_damaged_file_of_a_folder_is_quarantined_once_and_holds_nobody_up(tmp_path: Path, name: str) -> None:
    read = Reader(tmp_path)
    write_any(tmp_path / name, *range(30))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-12] if name != "a.csv" else b"\xff\n")
    (tmp_path / "b.jsonl").write_bytes(lines(40))
    before = read()
    assert before[-1] == 40
    assert read.rejects == []
    assert [*read(), *read(), *read()] == []
    assert read.rejects == ["file_damaged"]
    (tmp_path / name).write_bytes(whole)
    assert before[:-1] + read() == [*range(30)]


def test_the_position_forgets_files_that_are_gone(tmp_path: Path) -> None:
    read = Reader(tmp_path)
    for n in range(50):
        (tmp_path / f"{n}.jsonl").write_bytes(lines(n))
        assert read() == [n]
        (tmp_path / f"{n}.jsonl").unlink()
    assert read() == []
    assert read.position == {"files": {}}


def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="drop: cannot be read: No such file"):
        folder_source(tmp_path / "drop").read(None, 10, NOW)


# ── standard input ──


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(end)


def stdin_source(descriptor: int, form: str = "jsonl") -> StdinSource:
    return StdinSource(settings_of(kind="stdin", format=form), EVENTS, descriptor)


def test_standard_input_gives_what_is_there_and_never_blocks(pipe: tuple[int, int]) -> None:
    source = stdin_source(pipe[0])
    assert drain(source)[0].position == {"line": 0}
    os.write(pipe[1], lines(0, 1) + lines(2)[:9])
    first = source.read(None, 10, NOW)
    assert (numbers([first]), first.exhausted, list(first.batch.position)) == ([0, 1], True, ["stdin:1", "stdin:2"])
    os.write(pipe[1], lines(2)[9:] + lines(3).strip())
    second = source.read(first.position, 10, NOW)
    assert (numbers([second]), source.ended) == ([2], False)
    os.close(pipe[1])
    assert numbers([source.read(second.position, 10, NOW)]) == [3]
    assert source.ended


def test_standard_input_gives_again_what_was_not_committed(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], lines(*range(10)))
    source = stdin_source(pipe[0])
    first = source.read(None, 4, NOW)
    assert [numbers([source.read(first.position, 4, NOW)]) for _ in range(2)] == [[4, 5, 6, 7]] * 2
    assert source.lag_bytes() == len(lines(*range(4, 10))) - 6  # without line breaks


def test_a_new_process_reads_all_of_its_standard_input_and_goes_on_counting(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], lines(0))
    chunk = stdin_source(pipe[0]).read({"line": 70}, 10, NOW)
    assert (numbers([chunk]), chunk.position, list(chunk.batch.position)) == ([0], {"line": 71}, ["stdin:71"])


def test_standard_input_refuses_long_lines_and_reads_csv(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"time,user,n\n1577836800,ann,0\n" + b"x" * 5000)
    source = stdin_source(pipe[0], "csv")
    first = source.read(None, 10, NOW)
    os.write(pipe[1], b"x" * 5000 + b"\n1577836800,ann,1\n")
    second = source.read(first.position, 10, NOW)
    assert (numbers([first, second]), reasons([first, second])) == ([0, 1], ["line_too_long"])


def test_a_bad_header_on_standard_input_stays_an_error(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b'"time,user\n1577836800,ann\n')
    source = stdin_source(pipe[0], "csv")
    for _ in range(2):
        with pytest.raises(SourceError, match="stdin: header"):
            source.read(None, 10, NOW)


# ── opening, and reading whole histories ──


@pytest.mark.parametrize("settings", [{"kind": "file"}, {"kind": "folder"}, {"kind": "stdin", "format": "parquet"}])
def test_a_source_that_cannot_be_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="source: "):
        open_source(settings_of(**settings), EVENTS)


def test_each_kind_has_its_source(tmp_path: Path) -> None:
    opened = [open_source(settings_of(kind=kind, path=str(tmp_path), name="x"), EVENTS) for kind in ("file", "folder")]
    assert [type(s) for s in opened] == [FileSource, FolderSource]
    assert {s.name for s in opened} == {"x"}


@pytest.mark.parametrize("limit", [3, 10, 1000])
def test_a_history_is_read_in_the_order_of_each_files_first_event(tmp_path: Path, limit: int) -> None:
    (tmp_path / "in").mkdir()
    write_any(tmp_path / "in" / "z.csv.gz", *range(10))
    write_any(tmp_path / "in" / "a.parquet", *range(10, 20))
    (tmp_path / "last.jsonl").write_bytes(b"bad\n" + lines(*range(20, 30)).strip())
    (tmp_path / "empty.jsonl").write_bytes(b"")
    paths = [str(tmp_path / name) for name in ("last.jsonl", "empty.jsonl", "in")]
    chunks = [*read_all(paths, SourceSettings(), EVENTS, limit, NOW)]
    assert (numbers(chunks), reasons(chunks)) == ([*range(30)], ["not_json"])
    assert [c.exhausted for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert max(len(c.batch) for c in chunks) <= limit


def test_a_history_may_come_on_standard_input() -> None:
    code = (
        "from detector.sources import *\n"
        f"chunks = list(read_all(['-'], SourceSettings(), EventSettings(), 3, {NOW}))\n"
        "print([n for c in chunks if len(c.batch) for n in c.batch.attributes['n']], len(chunks))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, input=lines(*range(7)).strip())
    assert done.stdout.startswith(b"['0', '1', '2', '3', '4', '5', '6']")


def test_a_history_that_is_not_there_or_damaged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="gone"):
        list(read_all([str(tmp_path / "gone.jsonl")], SourceSettings(), EVENTS, 10, NOW))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(*range(100)))[:-9])
    with pytest.raises(SourceError, match="damaged"):
        list(read_all([str(tmp_path / "a.jsonl.gz")], SourceSettings(), EVENTS, 10, NOW))
