from __future__ import annotations

import math
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import history
from detector.errors import StoreDamagedError, StoreError
from detector.history import compact, concat, decode, encode, lots, prune, read, thinned
from detector.records import Batch, Changes
from detector.stores import MemoryStore, SqliteStore, Store
from tests.faults import FaultyStore, Killed, killed_after, killed_before
from tests.logs import batch_of, part, rows_of_people

DAY = 86400.0
EPOCH_DAYS = ["1970-01-01", "1970-01-02", "1970-01-03"]


def batch(*events: tuple[float, str], **attributes: list[Any]) -> Batch:
    """Events of (time, user), with the columns given beside "action"."""

    def column(values: list[Any]) -> np.ndarray:
        out = np.empty(len(events), object)
        out[:] = values
        return out

    users = [user for _, user in events]
    return Batch(
        np.array([time for time, _ in events], float),
        column(users),
        column([None] * len(users)),
        {"action": column(["open"] * len(users))} | {name: column(values) for name, values in attributes.items()},
        column([f"id-{n}" for n, _ in enumerate(events)]),
        column([f"log:{n}" for n, _ in enumerate(events)]),
    )


def exact(value: Any) -> Any:
    """What two values must share to be the same, to the bit."""
    return (type(value).__name__, struct.pack("d", value) if isinstance(value, float) else value)


def rows(events: Batch) -> list[tuple[Any, ...]]:
    """A tuple per event, comparable to the bit."""
    columns = [events.time, events.user, events.session, events.event_id, events.position, *events.attributes.values()]
    return [("|".join(events.attributes), *map(exact, row)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def users(store: Store, folder: str | Path | None, since: float | None = None, until: float | None = None) -> list[str]:
    return [user for events in read(store, folder, since, until) for user in events.user]


def staged(store: Store, *batches: Batch) -> None:
    for events in batches:
        store.commit(Changes(history=tuple(encode(events))))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder / "history")) for path in folder.glob("history/*/*"))


VALUES = (
    st.none()
    | st.floats(width=64)
    | st.text(st.characters(exclude_categories=[]), max_size=4)
    | st.sampled_from(["1", "1.0", "nan"])
)


@given(st.lists(st.tuples(st.floats(0, 3 * DAY - 1), st.text(min_size=1, max_size=3), VALUES, VALUES), max_size=8))
def test_events_come_back_to_the_bit_divided_by_day(events: list[tuple[float, str, Any, Any]]) -> None:
    before = batch(*((t, u) for t, u, _, _ in events), amount=[a for *_, a, _ in events], **{"": [b for *_, b in events]})
    after = {day: decode(data) for day, data in encode(before)}
    assert list(after) == sorted(after)
    for day, events_of_day in after.items():
        wanted = np.floor(before.time / DAY) == EPOCH_DAYS.index(day)
        assert rows(events_of_day) == [row for row, yes in zip(rows(before), wanted, strict=True) if yes]
    assert sum(map(len, after.values())) == len(before)


def test_numbers_that_look_alike_are_told_apart() -> None:
    values = [0.0, -0.0, math.nan, -math.nan, math.inf, 5e-324, 1.0, "1.0", "", None]
    ((_, data),) = encode(batch(*[(0.0, "a")] * len(values), x=values))
    assert [exact(v) for v in decode(data).attributes["x"]] == [exact(v) for v in values]


@pytest.mark.parametrize("odd", [1, True, b"x", ["a"], np.float32(1)])
def test_a_value_of_another_kind_is_refused_and_not_bent(odd: object) -> None:
    with pytest.raises(ValueError, match=type(odd).__name__):
        encode(batch((0.0, "a"), x=[odd]))


def test_no_events_are_no_parts() -> None:
    assert encode(batch()) == []
    assert len(concat([])) == 0
    assert rows(concat([batch(), batch((1.0, "a"))])) == rows(batch((1.0, "a")))


def test_an_attribute_that_a_batch_lacks_is_none_there() -> None:
    joined = concat([batch((0.0, "a"), x=[1.0]), batch((1.0, "b"), y=["z"])])
    assert {name: values.tolist() for name, values in joined.attributes.items()} == {
        "action": ["open", "open"],
        "x": [1.0, None],
        "y": [None, "z"],
    }
    assert joined.time.dtype == np.float64


@given(st.integers(0, 1 << 30), st.integers(1, 255))
def test_a_part_in_which_any_byte_differs_is_refused(at: int, change: int) -> None:
    ((_, data),) = encode(batch((0.0, "a"), (1.0, "b"), x=["y", 2.0]))
    damaged = bytearray(data)
    damaged[at % len(data)] ^= change
    for wrong in (bytes(damaged), data[: at % len(data)]):
        with pytest.raises(StoreDamagedError, match="here: damaged"):
            decode(wrong, "here")


def test_the_same_events_are_the_same_bytes() -> None:
    events = batch((0.0, "a"), (1.0, "b"), x=["y", 2.0])
    assert encode(events) == encode(events)


def test_too_many_events_are_thinned_to_those_of_a_sample_of_the_accounts() -> None:
    people = batch_of(rows_of_people(14, 30))
    pieces = [part(people, slice(low, low + 100)) for low in range(0, len(people), 100)]
    whole, share = thinned(pieces, len(people))
    assert (share, whole.user.tolist()) == (1.0, people.user.tolist())
    assert all(whole.attributes[name].tolist() == column.tolist() for name, column in people.attributes.items())
    assert len({id(user) for user in whole.user}) == 14
    few, share = thinned(pieces, len(people) // 2)
    assert 0 < len(few) <= len(people) // 2
    assert np.log2(share) == -round(-np.log2(share)) < 0
    kept = {user for user in people.user if lots(np.array([user], object))[0] < share}
    assert few.user.tolist() == [user for user in people.user if user in kept]
    assert few.attributes["device"].tolist() == [
        d for d, u in zip(people.attributes["device"], people.user, strict=True) if u in kept
    ]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path)
    yield made
    made.close()


def test_events_are_read_by_day_whether_staged_or_in_files(store: Store, tmp_path: Path) -> None:
    staged(store, batch((DAY, "d2"), (5.0, "d1")), batch((2 * DAY, "d3"), (1.0, "d1 later"), (DAY + 1, "d2 later")))
    in_order = ["d1", "d1 later", "d2", "d2 later", "d3"]
    assert users(store, tmp_path) == users(store, None) == in_order
    assert compact(store, tmp_path) == 5
    assert (store.staged_days(), users(store, None), users(store, tmp_path)) == ([], [], in_order)
    staged(store, batch((DAY + 0.5, "d2 last")))
    assert users(store, tmp_path) == [*in_order[:4], "d2 last", "d3"]


def test_only_events_of_the_time_asked_are_read(store: Store, tmp_path: Path) -> None:
    staged(store, batch(*((n * DAY / 4, str(n)) for n in range(12))))
    for _ in range(2):
        assert users(store, tmp_path, DAY / 2, 2.25 * DAY) == [str(n) for n in range(2, 9)]
        assert users(store, tmp_path, DAY, 2 * DAY) == ["4", "5", "6", "7"]
        assert users(store, tmp_path, 3 * DAY) == users(store, tmp_path, DAY, DAY) == []
        compact(store, tmp_path)


def test_small_files_of_a_day_become_one(store: Store, tmp_path: Path) -> None:
    for n in range(5):
        staged(store, batch((n, f"a{n}")), batch((DAY + n, f"b{n}")))
        compact(store, tmp_path)
    assert files(tmp_path) == ["day=1970-01-01/000000000001-000000000009.npz", "day=1970-01-02/000000000002-000000000010.npz"]
    assert users(store, tmp_path) == [f"{day}{n}" for day in "ab" for n in range(5)]


def test_a_file_that_is_large_enough_is_left_alone_and_a_backlog_is_taken_in_pieces(tmp_path: Path) -> None:
    store = MemoryStore()
    noise = Random(0).randbytes(history.FILE_BYTES // 2).decode("latin-1")  # 1.5 bytes each in UTF-8
    for n in range(5):
        staged(store, batch((n, str(n)), x=[str(n) + noise]))
    compact(store, tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.glob("history/*/*")]
    assert 1 < len(sizes) < 5
    assert users(store, tmp_path) == list("01234")


class CrashingStore(FaultyStore):
    """The process ends at the n-th forgetting of staged rows: between a file and its mark, or right after it."""

    def __init__(self, store: Store, nth: int, fault: Any) -> None:
        super().__init__(store, Random(0), 0.0, (fault,))
        self.nth = nth

    def unstage(self, day: str, last: int) -> None:
        self.nth -= 1
        self.rate = float(self.nth == 0)
        self.__getattr__("unstage")(day, last)


@pytest.mark.parametrize("fault", [killed_before, killed_after])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_crash_around_the_move_into_files_neither_loses_nor_doubles_events(
    store: Store, tmp_path: Path, nth: int, fault: Any
) -> None:
    staged(store, batch((0.0, "a0"), (DAY, "b0")))
    compact(store, tmp_path)
    staged(store, batch((1.0, "a1"), (DAY + 1, "b1")))
    everyone = ["a0", "a1", "b0", "b1"]
    with pytest.raises(Killed):
        compact(CrashingStore(store, nth, fault), tmp_path)
    assert users(store, tmp_path) == everyone
    staged(store, batch((2.0, "a2")))
    compact(store, tmp_path)
    assert users(store, tmp_path) == ["a0", "a1", "a2", "b0", "b1"]
    assert store.staged_days() == []


def test_what_a_crash_left_of_a_merge_is_not_read_and_is_cleared_away(store: Store, tmp_path: Path) -> None:
    staged(store, batch((0.0, "a0")))
    compact(store, tmp_path)
    (old,) = tmp_path.glob("history/*/*")
    before = old.read_bytes()
    staged(store, batch((1.0, "a1")))
    compact(store, tmp_path)
    old.write_bytes(before)  # killed after the merge, before the old file was deleted
    old.with_name("000000000001-000000000003.tmp").write_bytes(b"half")
    assert users(store, tmp_path) == ["a0", "a1"]
    staged(store, batch((2.0, "a2")))
    assert users(store, tmp_path) == ["a0", "a1", "a2"]
    compact(store, tmp_path)
    assert users(store, tmp_path) == ["a0", "a1", "a2"]
    assert files(tmp_path) == ["day=1970-01-01/000000000001-000000000003.npz"]


@pytest.mark.parametrize("damage", ["flipped", "cut off", "empty"])
def test_a_damaged_file_is_refused_by_its_name_and_its_staged_events_stay(store: Store, tmp_path: Path, damage: str) -> None:
    staged(store, batch((0.0, "a"), (DAY, "b")))
    compact(store, tmp_path)
    path = tmp_path / "history" / "day=1970-01-02" / "000000000002-000000000002.npz"
    data = path.read_bytes()
    path.write_bytes({"flipped": data[:50] + b"\\x07" + data[51:], "cut off": data[:-9], "empty": b""}[damage])
    with pytest.raises(StoreDamagedError, match=path.name):
        users(store, tmp_path)
    staged(store, batch((DAY + 1, "c")))
    with pytest.raises(StoreDamagedError, match=path.name):
        compact(store, tmp_path)
    assert users(store, None) == ["c"]
    path.unlink()
    compact(store, tmp_path)
    assert users(store, tmp_path) == ["a", "c"]


def test_a_day_is_forgotten_whole_once_it_has_ended(store: Store, tmp_path: Path) -> None:
    staged(store, batch((0.0, "a"), (DAY, "b"), (2 * DAY, "c")))
    compact(store, str(tmp_path))
    assert prune(tmp_path, DAY - 1) == 0
    assert prune(str(tmp_path), 1.5 * DAY) == 1
    assert users(store, str(tmp_path)) == ["b", "c"]
    assert prune(tmp_path, math.inf) == 2
    assert list(tmp_path.glob("history/*")) == []


def test_a_late_event_of_a_day_that_was_forgotten_goes_with_the_next_pruning(store: Store, tmp_path: Path) -> None:
    for user in ("a", "late"):
        staged(store, batch((0.0, user)))
        assert users(store, tmp_path) == [user]
        compact(store, tmp_path)
        assert users(store, tmp_path) == [user]
        prune(tmp_path, DAY)
        assert users(store, tmp_path) == []


def test_a_folder_that_cannot_be_written_leaves_the_events_in_the_store(store: Store, tmp_path: Path) -> None:
    staged(store, batch((0.0, "a")))
    (tmp_path / "history").touch()
    with pytest.raises(StoreError, match=r"history.*cannot be written.*retry"):
        compact(store, tmp_path)
    (tmp_path / "history").unlink()
    assert users(store, tmp_path) == ["a"]


class MovingStore(FaultyStore):
    """Staged events move into files just before, or just after, they are read."""

    def __init__(self, store: Store, folder: Path, first: bool) -> None:
        super().__init__(store, Random(0), 0.0)
        self._inner, self._folder, self._first = store, folder, first

    def staged(self, day: str) -> Iterator[tuple[int, bytes]]:
        if self._first:
            compact(self._inner, self._folder)
        yield from list(self._inner.staged(day))
        compact(self._inner, self._folder)


@pytest.mark.parametrize("first", [True, False])
def test_events_that_move_in_the_middle_of_a_read_are_read_once(store: Store, tmp_path: Path, first: bool) -> None:
    staged(store, batch((0.0, "a0"), (DAY, "b0")))
    compact(store, tmp_path)
    staged(store, batch((1.0, "a1"), (DAY + 1, "b1")))
    assert users(MovingStore(store, tmp_path, first), tmp_path) == ["a0", "a1", "b0", "b1"]


def test_events_can_be_read_while_they_move_into_files(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    stop, counts, errors = threading.Event(), [], []

    def reader() -> None:
        beside = SqliteStore.reader(tmp_path)
        while not stop.is_set():
            found = users(beside, tmp_path)
            counts.append(len(found))
            if found != [str(n) for n in range(len(found))]:
                errors.append(found)
        beside.close()

    thread = threading.Thread(target=reader)
    thread.start()
    for n in range(40):
        staged(store, batch((float(n), str(n))))
        if n % 2:
            compact(store, tmp_path)
    stop.set()
    thread.join()
    store.close()
    assert errors == []
    assert counts == sorted(counts)
    assert len(set(counts)) > 5
