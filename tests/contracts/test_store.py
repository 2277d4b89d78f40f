"""What every store keeps to, and what only the one on disk promises."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from detector.errors import StoreBusyError, StoreDamagedError, StoreError
from detector.records import Alert, Changes, Incident, Reject, Remembered, Verdict
from detector.stores import FILE, MemoryStore, SqliteStore, Store, body_of
from tests.faults import FAULTS, FaultyStore, Killed

MAKERS: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _: MemoryStore(),
    "sqlite": SqliteStore,
    "faultless": lambda folder: FaultyStore(SqliteStore(folder), Random(0), rate=0.0),
}


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = MAKERS[request.param](tmp_path)
    yield made
    made.close()


def verdict(user: str = "ada", start: float = 0.0, session: str | None = None, end: float = 1.0) -> Verdict:
    return Verdict(user, session, start, end, 3, 1.5, 0.25, 0.125, 7, "young", {"hour": 1.0, "device": 0.5}, "pack-1")


def alert(id_: str, time: float = 0.0) -> Alert:
    return Alert(id_, time, "high", verdict(), True, "a summary", ({"identifier": "hour", "text": "late", "share": 1.0},))


def message(id_: str) -> tuple[str, bytes]:
    return id_, f'{{"message":"{id_}"}}'.encode()


def incident(id_: str, user: str = "ada", priority: float = 1.0) -> Incident:
    return Incident(
        id=id_,
        user=user,
        severity="low",
        priority=priority,
        sessions=1,
        opened=0.0,
        updated=0.0,
        alert="a1",
        p=0.1,
        summary="",
        verdict={},
    )


def reject(position: str, reason: str = "not_json") -> Reject:
    return Reject("log", f"log:{position}", reason, "expected an object", "{\x00\ufffd")


def ids(bodies: list[bytes]) -> list[str]:
    return [msgspec.json.decode(body)["id"] for body in bodies]


def outbox(store: Store, now: float = math.inf, limit: int = 100) -> list[tuple[str, str]]:
    return [(item.alert_id, item.sink) for item in store.outbox_due(now, limit)]


def everything(store: Store) -> dict[str, Any]:
    """All that can be asked of a store, except how large it is on the disk."""
    return {
        "accounts": list(store.all_accounts()),
        "due": store.due(math.inf),
        "open": store.open_sessions(store.due(math.inf)),
        "positions": store.positions(),
        "engine": store.engine(),
        "recent": store.recent(),
        "staged": [(day, list(store.staged(day))) for day in store.staged_days()],
        "verdicts": list(store.verdicts(-math.inf, math.inf)),
        "remembered": list(store.remembered()),
        "alerts": store.alerts(100),
        "incidents": [(i, store.incident(i.id), store.members(i.id), store.exhibits(i.id, 9)) for i in store.incidents()],
        "cases": [(user, body, store.kept(user)) for user, body in store.cases().items()],
        "held": {day: held for day in ("a", "b", "c", "2026-01-01") if (held := store.held(day))},
        "entries": store.entries(0, 100),
        "quarantine": store.quarantine(100),
        "outbox": store.outbox_due(math.inf, 100),
        "dead": store.outbox_dead_letters(),
        "counts": replace(store.counts(), store_bytes=0),
    }


FULL = Changes(
    accounts=(("ada", 3, b"profile"),),
    open_sessions=(("ada", 50.0, 2, b"open"),),
    positions={"log": {"offset": 7, "head": "abc", "parts": [1, {"x": None}]}},
    engine=b"engine",
    recent=((40.0, b"hashes"),),
    history=(("2026-01-01", b"events"),),
    verdicts=(verdict(),),
    embeddings=(b"vector",),
    alerts=(alert("a1"),),
    messages=(message("a1"),),
    sinks=("file", "log"),
    rejects=(reject("1"),),
    now=100.0,
)


# ── every store ──


def test_a_new_store_is_empty(store: Store) -> None:
    assert not any(v for k, v in everything(store).items() if k != "counts")
    assert store.counts() == replace(store.counts(), accounts=0, histories=(0,) * 5, open_sessions=0, outbox=0, quarantine={})


def test_all_of_a_commit_can_be_read_back(store: Store) -> None:
    store.commit(FULL)
    assert store.accounts(["eve", "ada"]) == {"ada": b"profile"}
    assert store.open_sessions(["ada", "eve"]) == {"ada": b"open"}
    assert store.positions() == FULL.positions
    assert store.engine() == b"engine"
    assert store.recent() == [(40.0, b"hashes")]
    assert [list(store.staged(day)) for day in store.staged_days()] == [[(1, b"events")]]
    assert list(store.verdicts(-math.inf, math.inf)) == [body_of(verdict())]
    assert list(store.remembered()) == [Remembered(1, "ada", None, 0.0, 1.0, 0.25, 0.125, "pack-1", b"vector")]
    assert store.alerts(9) == [body_of(alert("a1"))]
    assert store.quarantine(9) == [reject("1")]
    assert outbox(store) == [("a1", "file"), ("a1", "log")]
    assert [(i.body, i.attempts, i.due) for i in store.outbox_due(100.0, 1)] == [(message("a1")[1], 0, 100.0)]


def test_an_empty_commit_changes_nothing(store: Store) -> None:
    store.commit(FULL)
    before = everything(store)
    store.commit(Changes(now=1e9))
    assert everything(store) == before


def test_a_later_commit_replaces_what_has_one_value(store: Store) -> None:
    store.commit(FULL)
    store.commit(
        Changes(
            accounts=(("ada", 9, b"p2"),), open_sessions=(("ada", 60.0, 1, b"o2"),), positions={"log": {"offset": 9}}, engine=b"e2"
        )
    )
    assert store.accounts(["ada"]) == {"ada": b"p2"}
    assert store.open_sessions(["ada"]) == {"ada": b"o2"}
    assert (store.positions(), store.engine()) == ({"log": {"offset": 9}}, b"e2")


def test_a_position_of_one_source_leaves_the_others(store: Store) -> None:
    store.commit(Changes(positions={"b": {"offset": 1}, "a": {"offset": 2}}))
    store.commit(Changes(positions={"b": {"offset": 3}}))
    assert store.positions() == {"a": {"offset": 2}, "b": {"offset": 3}}


def test_a_doubled_verdict_is_refused_with_all_that_came_with_it(store: Store) -> None:
    store.commit(FULL)
    before = everything(store)
    for verdicts in ((verdict(),), (verdict("eve"), verdict()), (verdict("eve", session="s"), verdict("eve", session="s"))):
        with pytest.raises(StoreError, match="verdict"):
            store.commit(replace(FULL, accounts=(("zoe", 1, b""),), alerts=(alert("a2"),), verdicts=verdicts, embeddings=()))
    assert everything(store) == before


def test_verdicts_differ_by_user_session_name_or_start(store: Store) -> None:
    kinds = (verdict(), verdict("eve"), verdict(start=0.5), verdict(session=""), verdict(session="s"))
    store.commit(Changes(verdicts=kinds))
    assert list(store.verdicts(0, 2)) == [body_of(v) for v in kinds]


def test_verdicts_come_by_end_and_then_by_commit_within_the_time_asked(store: Store) -> None:
    ends = [5.0, 3.0, 4.0, 3.0]
    for n, end in enumerate(ends):
        store.commit(Changes(verdicts=(verdict(f"u{n}", end=end),)))
    users = [msgspec.json.decode(body)["user"] for body in store.verdicts(3.0, 5.0)]
    assert users == ["u1", "u3", "u2"]


def test_embeddings_are_told_of_all_accounts_or_of_one_in_the_order_of_their_commits(store: Store) -> None:
    store.commit(Changes(verdicts=(verdict("zoe", end=9.0), verdict("ada")), embeddings=(b"1", b"2"), now=5.0))
    store.commit(Changes(verdicts=(verdict("eve"),), now=5.0))
    store.commit(Changes(verdicts=(verdict("zoe", start=1.0),), embeddings=(b"3",), now=8.0))
    assert [(r.number, r.user, r.embedding) for r in store.remembered()] == [(1, "zoe", b"1"), (2, "ada", b"2"), (4, "zoe", b"3")]
    assert [r.start for r in store.remembered("zoe")] == [0.0, 1.0]
    assert list(store.remembered("nobody")) == list(store.remembered("eve")) == []
    store.prune(6.0, 6.0, 6.0)
    assert [r.number for r in store.remembered()] == [4]


def test_verdicts_with_some_embeddings_but_not_all_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="zip"):
        store.commit(Changes(engine=b"new", verdicts=(verdict(), verdict("eve")), embeddings=(b"1",)))
    assert (store.engine(), list(store.remembered())) == (None, [])


def test_an_alert_is_kept_once_however_often_it_is_committed(store: Store) -> None:
    store.commit(replace(FULL, alerts=(alert("a1"), alert("a1", time=9.0))))
    store.commit(Changes(alerts=(alert("a1", time=5.0), alert("a2"))))
    assert store.alerts(9) == [body_of(alert("a2")), body_of(alert("a1"))]


def test_alerts_come_newest_first(store: Store) -> None:
    store.commit(Changes(alerts=tuple(alert(id_, time) for id_, time in [("b", 2.0), ("c", 3.0), ("a", 1.0), ("d", 2.0)])))
    assert ids(store.alerts(9)) == ["c", "d", "b", "a"]
    assert ids(store.alerts(2)) == ["c", "d"]
    assert ids(store.alerts(9, since=2.0)) == ["c", "d", "b"]


def test_an_alert_is_found_by_the_beginning_of_its_id_if_it_is_the_only_one(store: Store) -> None:
    store.commit(Changes(alerts=(alert("ab1"), alert("ab2"), alert("ab"), alert("c%_"), alert("cat"))))
    assert store.alert("ab1") == body_of(alert("ab1"))
    assert store.alert("ab") == body_of(alert("ab"))
    assert store.alert("c%") == body_of(alert("c%_"))
    assert store.alert("x") is None
    with pytest.raises(StoreError, match="several"):
        store.alert("a")


def test_accounts_are_due_when_their_earliest_session_closes(store: Store) -> None:
    store.commit(Changes(open_sessions=(("b", 2.0, 1, b""), ("a", 2.0, 1, b""), ("c", 1.0, 1, b""), ("d", 9.0, 1, b""))))
    assert [store.due(2.0), store.due(2.5), store.due(2.5)] == [["c"], ["c", "a", "b"], ["c", "a", "b"]]
    store.commit(Changes(open_sessions=(("c", 3.0, 2, b""),), closed_users=("a", "nobody")))
    assert store.due(9.0) == ["b", "c"]
    store.commit(Changes(open_sessions=(("a", 2.0, 1, b""), ("c", 1.0, 1, b""))))
    assert store.due(math.inf) == ["c", "a", "b", "d"]


def test_an_account_is_due_once_even_if_its_close_time_went_away_and_came_back(store: Store) -> None:
    for closes in (1.0, 3.0, 1.0):
        store.commit(Changes(open_sessions=(("a", closes, 1, b""),)))
    assert store.due(9.0) == ["a"]
    store.commit(Changes(closed_users=("a",)))
    store.commit(Changes(open_sessions=(("a", 1.0, 1, b""),)))
    assert store.due(9.0) == ["a"]


def test_old_hashes_are_forgotten_and_the_rest_keep_the_order_of_their_commits(store: Store) -> None:
    store.commit(Changes(recent=((5.0, b"a"), (3.0, b"b"))))
    store.commit(Changes(recent=((4.0, b"c"), (2.0, b"d")), forget_recent_before=4.0))
    assert store.recent() == [(5.0, b"a"), (4.0, b"c")]


def test_counts_follow_every_change(store: Store) -> None:
    histories = (0, 1, 4, 5, 19, 20, 99, 100, 10_000)
    store.commit(Changes(accounts=tuple((f"u{n}", n, b"") for n in histories)))
    assert (store.counts().accounts, store.counts().histories) == (9, (1, 2, 2, 2, 2))
    store.commit(Changes(accounts=(("u0", 1, b""), ("u4", 5, b""), ("u5", 6, b""), ("new", 100, b""))))
    assert (store.counts().accounts, store.counts().histories) == (10, (0, 2, 3, 2, 3))
    store.commit(Changes(open_sessions=(("a", 1.0, 2, b""), ("b", 1.0, 3, b""))))
    store.commit(Changes(open_sessions=(("a", 1.0, 1, b""),), closed_users=("b",)))
    assert store.counts().open_sessions == 1
    store.commit(Changes(rejects=(reject("1"), reject("2", "late"), reject("3", "late"))))
    assert store.counts().quarantine == {"late": 2, "not_json": 1}


def test_the_outbox_gives_the_longest_due_first_and_forgets_what_was_sent(store: Store) -> None:
    store.commit(Changes(messages=(message("new"),), sinks=("file",), now=20.0))
    store.commit(Changes(messages=(message("old"),), sinks=("file", "log"), now=10.0))
    assert outbox(store, now=9.9) == []
    assert outbox(store, now=20.0) == [("old", "file"), ("old", "log"), ("new", "file")]
    assert outbox(store, now=20.0, limit=1) == [("old", "file")]
    for item in store.outbox_due(20.0, 2):
        store.outbox_sent(item.id)
    assert (outbox(store), store.counts().outbox) == ([("new", "file")], 1)


def test_a_refused_item_waits_and_counts_its_attempts(store: Store) -> None:
    store.commit(Changes(messages=(message("a"),), sinks=("file",)))
    (item,) = store.outbox_due(0.0, 9)
    store.outbox_retry(item.id, 5.0, "no answer")
    store.outbox_retry(item.id, 7.5, "no answer")
    assert store.outbox_due(7.4, 9) == []
    assert store.outbox_due(7.5, 9) == [replace(item, attempts=2, due=7.5)]


def test_a_dead_letter_is_kept_with_its_error_until_it_is_revived(store: Store) -> None:
    store.commit(Changes(messages=(message("a"), message("b")), sinks=("file",)))
    first, second = store.outbox_due(0.0, 9)
    store.outbox_retry(first.id, 5.0, "no answer")
    store.outbox_dead(first.id, "gone")
    assert store.outbox_dead_letters() == [(replace(first, attempts=1, due=5.0), "gone")]
    assert store.outbox_due(math.inf, 9) == [second]
    assert (store.counts().outbox, store.counts().dead_letters) == (1, 1)
    assert (store.outbox_revive(), store.outbox_revive()) == (1, 0)
    assert store.outbox_due(math.inf, 9) == [second, replace(first, due=5.0)]
    assert store.outbox_dead_letters() == []


def test_an_item_that_is_not_on_its_way_is_an_error(store: Store) -> None:
    store.commit(Changes(messages=(message("a"),), sinks=("file",)))
    (item,) = store.outbox_due(0.0, 9)
    store.outbox_dead(item.id, "")
    for call in (lambda: store.outbox_sent(item.id), lambda: store.outbox_dead(9, ""), lambda: store.outbox_retry(9, 0.0, "")):
        with pytest.raises(StoreError, match="no item"):
            call()
    assert len(store.outbox_dead_letters()) == 1


def test_numbers_of_staged_events_are_never_used_again(store: Store) -> None:
    store.commit(Changes(history=(("2026-01-02", b"a"), ("2026-01-01", b"b"), ("2026-01-02", b"c"))))
    assert store.staged_days() == ["2026-01-01", "2026-01-02"]
    assert list(store.staged("2026-01-02")) == [(1, b"a"), (3, b"c")]
    store.unstage("2026-01-02", 2)
    assert list(store.staged("2026-01-02")) == [(3, b"c")]
    for day in store.staged_days():
        store.unstage(day, 3)
    store.commit(Changes(history=(("2026-01-02", b"d"),)))
    assert [(day, list(store.staged(day))) for day in store.staged_days()] == [("2026-01-02", [(4, b"d")])]


def test_new_accounts_may_be_made_from_the_old_ones(store: Store) -> None:
    store.commit(replace(FULL, accounts=(("ada", 0, b"1"), ("eve", 7, b"2"), ("zoe", 200, b"3"))))
    rows = ((user, 20, profile * 2) for user, profile in store.all_accounts() if user != "eve")
    store.replace_accounts(rows, Changes(engine=b"rebuilt", closed_users=tuple(store.due(np.inf))))
    assert list(store.all_accounts()) == [("ada", b"11"), ("zoe", b"33")]
    assert (store.counts().histories, store.engine()) == ((0, 0, 0, 2, 0), b"rebuilt")
    assert store.due(np.inf) == []
    store.commit(Changes(accounts=(("ada", 1, b"4"), ("eve", 0, b"5"))))
    assert store.counts().histories == (1, 1, 0, 1, 0)


def test_accounts_stay_as_they_are_if_the_new_ones_fail_to_come(store: Store) -> None:
    store.commit(FULL)
    before = everything(store)

    def rows() -> Iterator[tuple[str, int, bytes]]:
        yield "eve", 1, b"x"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.replace_accounts(rows(), Changes(engine=b"never"))
    with pytest.raises(StoreError):
        store.replace_accounts(iter([("eve", 1, b"x"), ("eve", 2, b"y")]), Changes(engine=b"never"))
    assert everything(store) == before


def test_replacing_accounts_without_an_engine_keeps_the_engine(store: Store) -> None:
    store.commit(FULL)
    store.replace_accounts(iter([]), Changes())
    assert (list(store.all_accounts()), store.engine()) == ([], b"engine")


def test_what_was_written_long_ago_is_pruned(store: Store) -> None:
    store.commit(Changes(verdicts=(verdict("old"),), rejects=(reject("1"), reject("2", "late")), now=10.0))
    store.commit(Changes(verdicts=(verdict("new"),), rejects=(reject("3"),), now=20.0))
    assert store.prune(20.0, 15.0, 0.0) == {"verdicts": 1, "quarantine": 2, "dead_letters": 0}
    assert list(store.verdicts(0, 2)) == [body_of(verdict("new"))]
    assert (store.quarantine(9), store.counts().quarantine) == ([reject("3")], {"not_json": 1})
    assert store.prune(20.0, 15.0, 0.0) == {"verdicts": 0, "quarantine": 0, "dead_letters": 0}


def test_text_of_any_kind_is_kept_as_it_is(store: Store) -> None:
    names = ["", "a\x00b", "a", "'; DROP TABLE accounts; --", "Zoë", "😀", "\uffff", "%"]
    store.commit(Changes(accounts=tuple((name, 1, name.encode()) for name in names[1:])))
    assert store.accounts(names) == {name: name.encode() for name in names[1:]}
    assert [user for user, _ in store.all_accounts()] == sorted(names[1:])


def test_threads_may_share_a_store(store: Store) -> None:
    def work(thread: int) -> None:
        for n in range(20):
            store.commit(Changes(accounts=((f"{thread}", n, b""),), verdicts=(verdict(f"{thread}", start=n),)))
            assert store.counts().accounts >= 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(store.verdicts(0, 2))) == 80
    assert store.counts().histories == (0, 0, 4, 0, 0)


USERS = st.sampled_from(["a", "b", "c"])
TIMES = st.sampled_from([0.0, 1.0, 2.0, 3.0])
CHANGES = st.builds(
    Changes,
    accounts=st.lists(st.tuples(USERS, st.sampled_from([0, 1, 5, 20, 100]), st.binary(max_size=3))).map(tuple),
    open_sessions=st.lists(st.tuples(USERS, TIMES, st.integers(1, 3), st.binary(max_size=3))).map(tuple),
    closed_users=st.lists(USERS).map(tuple),
    positions=st.dictionaries(USERS, st.dictionaries(USERS, TIMES)),
    engine=st.none() | st.binary(max_size=3),
    recent=st.lists(st.tuples(TIMES, st.binary(max_size=3))).map(tuple),
    forget_recent_before=st.none() | TIMES,
    history=st.lists(st.tuples(st.sampled_from(["2026-01-01", "2026-01-02"]), st.binary(max_size=3))).map(tuple),
    verdicts=st.lists(st.builds(verdict, USERS, TIMES, st.none() | USERS, TIMES), max_size=3).map(tuple),
    alerts=st.lists(st.builds(alert, USERS, TIMES), max_size=3).map(tuple),
    messages=st.lists(st.builds(message, USERS), max_size=3).map(tuple),
    incidents=st.lists(st.builds(incident, USERS, USERS, TIMES), max_size=3).map(tuple),
    members=st.lists(st.tuples(USERS, st.none() | USERS, TIMES), max_size=3).map(tuple),
    cases=st.lists(st.tuples(USERS, st.binary(max_size=3)), max_size=3).map(tuple),
    kept=st.lists(st.tuples(USERS, st.binary(max_size=3)), max_size=3).map(tuple),
    forget_kept=st.lists(USERS, max_size=2).map(tuple),
    held=st.dictionaries(st.tuples(USERS, USERS), st.integers(1, 3), max_size=2),
    forget_incidents=st.lists(USERS, max_size=2).map(tuple),
    forget_held_before=USERS,
    sinks=st.lists(USERS, unique=True).map(tuple),
    rejects=st.lists(st.builds(reject, USERS, USERS), max_size=3).map(tuple),
    now=TIMES,
)


PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # making a failure smaller takes minutes on a disk


@settings(max_examples=30, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CHANGES, max_size=6), TIMES)
def test_the_store_in_memory_and_the_store_on_disk_agree(tmp_path_factory: pytest.TempPathFactory, many: Any, time: float) -> None:
    memory, disk = MemoryStore(), SqliteStore(tmp_path_factory.mktemp("state"))
    for changes in many:
        outcomes = []
        for store in (memory, disk):
            try:
                outcomes.append(store.commit(changes))
            except StoreError:
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1]
        assert everything(memory) == everything(disk)
    assert memory.prune(time, time, time) == disk.prune(time, time, time)
    assert everything(memory) == everything(disk)
    disk.close()


# ── the store on disk ──


def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a" / "b?c%41#")
    store.commit(FULL)
    before = everything(store)
    store.close()
    again = SqliteStore(tmp_path / "a" / "b?c%41#")
    assert everything(again) == before
    again.close()


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    code = f"import sys; from detector.stores import SqliteStore; s = SqliteStore({str(tmp_path)!r}); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StoreBusyError, match=f"process {holder.pid}"):
            SqliteStore(tmp_path)
        holder.kill()
    SqliteStore(tmp_path).close()


def test_a_store_that_was_closed_can_be_opened_again_in_the_same_process_but_not_before(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(StoreBusyError):
        SqliteStore(tmp_path)
    store.close()
    SqliteStore(tmp_path).close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.commit(FULL)


def test_a_reader_sees_each_commit_of_a_running_writer_and_cannot_write(tmp_path: Path) -> None:
    writer = SqliteStore(tmp_path)
    reader = SqliteStore.reader(tmp_path)
    writer.commit(FULL)
    assert everything(reader) == everything(writer)
    with pytest.raises(StoreError, match="readonly"):
        reader.commit(FULL)
    half_read = reader.verdicts(-math.inf, math.inf)
    writer.commit(Changes(verdicts=(verdict("eve"),)))
    assert len(list(half_read)) == 2
    reader.close()
    writer.close()


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_reader_needs_no_writer(tmp_path: Path, end: str) -> None:
    code = f"""
import os, signal
from detector.records import Changes
from detector.stores import SqliteStore
store = SqliteStore({str(tmp_path)!r})
store.commit(Changes(engine=b"here"))
store.close() if {end!r} == "closed" else os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    reader = SqliteStore.reader(tmp_path)
    assert reader.engine() == b"here"
    reader.close()


def test_a_reader_without_a_store_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not there"):
        SqliteStore.reader(tmp_path)
    assert list(tmp_path.iterdir()) == []


def filled(folder: Path) -> Path:
    store = SqliteStore(folder)
    store.commit(replace(FULL, accounts=tuple((f"user{n}", n, bytes([n]) * 3000) for n in range(200))))
    store.close()
    return folder / FILE


def edited(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "overwritten": lambda path: path.write_bytes(b"not a database, but long enough to be one" * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "cut off in the middle": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut off by one page": lambda path: os.truncate(path, path.stat().st_size - 4096),
    "first page": lambda path: edited(path, 100, b"\xff" * 200),
    "a later page": lambda path: edited(path, 4096 * 30, b"\xff" * 4096),
    "of another program": lambda path: edited(path, 68, b"else"),
    "gone, with its log left": lambda path: path.rename(f"{path}-wal"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_refused_with_a_word_on_what_to_do_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    path = filled(tmp_path)
    DAMAGE[damage](path)
    before = path.read_bytes() if path.exists() else None
    for _ in range(2):  # the refusal lets go of the folder: the second is the same
        with pytest.raises(StoreDamagedError, match=r"(?s)unlike\.db.*put a backup back"):
            SqliteStore(tmp_path)
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_value_that_is_not_what_was_written_is_never_handed_out(tmp_path: Path) -> None:
    path = filled(tmp_path)
    edited(path, path.read_bytes().index(bytes([77]) * 3000) + 1500, b"\x00")
    store = SqliteStore(tmp_path)
    assert store.accounts(["user76"]) == {"user76": bytes([76]) * 3000}
    with pytest.raises(StoreDamagedError, match="not what was written"):
        store.accounts(["user77"])
    with pytest.raises(StoreDamagedError, match="not what was written"):
        list(store.all_accounts())
    store.close()


def test_a_store_of_another_release_is_refused_by_its_version(tmp_path: Path) -> None:
    edited(filled(tmp_path), 60, (99).to_bytes(4, "big"))
    with pytest.raises(StoreError, match="schema version 99, expected 4"):
        SqliteStore(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/state"):
        SqliteStore(tmp_path / "file" / "state")


def test_a_full_disk_loses_nothing_and_the_store_goes_on_once_there_is_room(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, max_bytes=1 << 20)
    big = replace(FULL, verdicts=(), embeddings=(), rejects=(), history=())

    def fill() -> None:
        for n in range(1000):
            store.commit(replace(big, engine=b"%d" % n, accounts=((f"u{n}", n, bytes(20_000)), ("last", n, b"%d" % n))))

    with pytest.raises(StoreError, match=r"full.*free some space"):
        fill()
    n = int(store.engine() or b"")
    assert n > 10
    assert store.accounts(["last", f"u{n}", f"u{n + 1}"]) == {"last": b"%d" % n, f"u{n}": bytes(20_000)}
    with pytest.raises(StoreError, match="full"):
        store.replace_accounts(((user, 0, profile) for user, profile in store.all_accounts()), Changes(engine=b"never"))
    store.outbox_sent(store.outbox_due(math.inf, 1)[0].id)
    before = everything(store)
    store.close()
    roomy = SqliteStore(tmp_path)
    assert everything(roomy) == before
    roomy.commit(replace(big, accounts=(("more", 1, bytes(20_000)),)))
    roomy.close()


def test_the_space_of_what_was_pruned_is_given_back(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    many = tuple(replace(verdict(start=n), pack="p" * 1000) for n in range(12_000))
    store.commit(Changes(verdicts=many, now=1.0))
    store.close()
    full = (tmp_path / FILE).stat().st_size
    store = SqliteStore(tmp_path)
    assert store.prune(2.0, 2.0, 2.0)["verdicts"] == len(many)
    store.close()
    assert (tmp_path / FILE).stat().st_size < full / 20


WRITER = """
import sys
from detector.records import Alert, Changes, Incident, Verdict
from detector.stores import SqliteStore
store = SqliteStore(sys.argv[1])
n = int(store.engine() or b"0")
print(n, flush=True)
while True:
    n += 1
    body = str(n).encode()
    verdict = Verdict("u", None, float(n), float(n), 1, 0.0, 1.0, 0.0, n, "new", {}, "p")
    store.commit(Changes(
        accounts=tuple((f"u{k}", n, body * 300) for k in range(100)), open_sessions=(("u", n, n, body),),
        positions={"log": {"offset": n}}, engine=body, history=(("2026-01-01", body),), verdicts=(verdict,),
        alerts=(Alert(str(n), n, "low", verdict, False, "", ()),), messages=((str(n), body),), sinks=("file",),
    ))
    print(n, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_whole_commits_and_all_that_were_acknowledged(tmp_path: Path) -> None:
    rng, seen = Random(5), 0
    for _ in range(12):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert int(writer.stdout.readline()) >= seen
            time.sleep(rng.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
            acknowledged = max((int(line) for line in writer.stdout if line.endswith(b"\n")), default=seen)
        store = SqliteStore(tmp_path)
        seen = int(store.engine() or b"0")
        assert seen >= acknowledged
        if seen:
            assert {body for _, body in store.all_accounts()} == {str(seen).encode() * 300}
            assert store.positions() == {"log": {"offset": seen}}
            assert store.counts().open_sessions == seen
        for rows in (
            store.verdicts(0, math.inf),
            store.alerts(1_000_000),
            store.outbox_due(1, 1_000_000),
            store.staged("2026-01-01"),
        ):
            assert len(list(rows)) == seen
        store.close()
    assert seen > 12


# ── the store that fails ──


def test_a_failing_store_has_done_all_of_a_call_or_nothing() -> None:
    inner = MemoryStore()
    faulty = FaultyStore(inner, Random(1), rate=0.5)
    outcomes = set()
    for n in range(200):
        try:
            faulty.commit(Changes(engine=b"%d" % n, positions={"log": {"n": n}}))
            outcomes.add("done")
        except (StoreError, Killed) as error:
            outcomes.add(type(error).__name__ + str(inner.engine() == b"%d" % n))
        assert inner.engine() is None or inner.positions() == {"log": {"n": int(inner.engine() or b"")}}
    assert outcomes == {"done", "StoreErrorFalse", "KilledFalse", "KilledTrue"}
    assert 60 < faulty.failures < 140


def test_the_failures_of_a_failing_store_depend_on_its_seed_alone() -> None:
    def failures(seed: int) -> list[int]:
        faulty, found = FaultyStore(MemoryStore(), Random(seed), rate=0.3, faults=FAULTS[:2]), []
        for n in range(50):
            try:
                faulty.counts()
            except StoreError:
                found.append(n)
        return found

    assert failures(1) == failures(1) != failures(2)
