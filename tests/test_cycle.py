"""Cycles on a store: nothing lost or doubled under any fault, duplicates and late events told apart, packs exchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from alerts.delivery import deliver
from alerts.sinks import MemorySink
from detector import history
from detector.cycle import NOTHING_SEEN, Engine, move, open_from_bytes, open_to_bytes
from detector.errors import StoreError
from detector.pack import Pack
from detector.records import Batch, Chunk
from detector.replay import empty_batch
from detector.settings import Settings, load
from detector.stores import MemoryStore, SqliteStore, Store
from detector.training import sessions_of
from tests.faults import FaultyStore, Killed
from tests.logs import DAY, START, batch_of, part, rows_of_people, stolen

SETTINGS = load(overrides=["alerts.per_day=3", "alerts.retry_after=0s"], environment={})
NOW = START + 1000 * DAY


def later_life() -> Batch:
    rows = [r | {"time": float(str(r["time"])) + 40 * DAY} for r in rows_of_people(14, 12)]
    rows += stolen(rows, "u03", "u08", START + 46 * DAY + 3 * 3600)
    rows += rows[50:55]  # five events come twice
    return batch_of(sorted(rows, key=lambda r: float(str(r["time"]))))


def chunk(batch: Batch, low: int, size: int) -> Chunk:
    return Chunk(part(batch, slice(low, low + size)), (), {"row": min(low + size, len(batch))}, low + size >= len(batch))


def row_of(store: Store) -> int:
    return int(str(store.positions().get("log", {}).get("row", 0)))


def state_of(store: Store) -> dict[str, object]:
    """What must be the same however a run was disturbed."""
    engine = msgspec.json.decode(store.engine() or b"{}")
    return {
        "verdicts": sorted(store.verdicts(-np.inf, np.inf)),
        "alerts": sorted(store.alerts(10_000)),
        "incidents": [(i, store.members(i.id)) for i in store.incidents()],
        "audit": sorted((e.incident, e.what, e.why, str(e.detail)) for e in store.entries(0, 10_000)),
        "profiles": list(store.all_accounts()),
        "open": store.open_sessions(store.due(np.inf)),
        "counters": engine["counters"],
        "newest": engine["newest"],
        "positions": store.positions(),
        "history": sum(len(b) for b in history.read(store, None)),
    }


def run(store: Store, pack: Pack, batch: Batch, size: int = 100, settings: Settings = SETTINGS) -> Engine:
    engine = Engine(store, pack, settings, ["memory"])
    while row_of(store) < len(batch):
        engine.run("log", chunk(batch, row_of(store), size), NOW)
    return engine


@pytest.mark.parametrize("seed", range(4))
def test_no_fault_at_any_call_loses_or_doubles_anything(seed: int, trained: Pack) -> None:
    batch, rng = later_life(), Random(seed)
    calm = MemoryStore()
    run(calm, trained, batch)
    inner = MemoryStore()
    store = FaultyStore(inner, rng, 0.0)
    sink, sent = MemorySink("memory", rng, 0.3), 0
    engine = None
    while row_of(inner) < len(batch) or inner.counts().outbox:
        store.rate = 0.06
        try:
            engine = engine or Engine(store, trained, SETTINGS, ["memory"])
            row = int(str(store.positions().get("log", {}).get("row", 0)))
            if row < len(batch):
                engine.run("log", chunk(batch, row, 150), NOW)
            sent += deliver(store, {"memory": sink}, NOW + 1e6, SETTINGS.alerts).sent
        except (StoreError, Killed):
            engine = None  # a new process, or memory thrown away
    assert store.failures >= 2
    assert state_of(inner) == state_of(calm)
    assert not inner.outbox_dead_letters()
    taken = {msgspec.json.decode(body)["message"] for body in sink.bodies}
    assert taken == {item.alert_id for item in calm.outbox_due(np.inf, 10_000)} != set()


def test_what_a_store_on_disk_ends_with_is_what_memory_ends_with(trained: Pack, tmp_path: Path) -> None:
    batch = later_life()
    memory, disk = MemoryStore(), SqliteStore(tmp_path)
    run(memory, trained, batch)
    run(disk, trained, batch, 333)
    assert state_of(disk) == state_of(memory)
    disk.close()


def test_an_event_that_comes_twice_counts_once_also_across_cycles_and_restarts(trained: Pack) -> None:
    batch, store = part(later_life(), slice(0, 30)), MemoryStore()
    run(store, trained, batch, 30)
    again = replace(chunk(batch, 0, 30), position={"row": 60})
    report = Engine(store, trained, SETTINGS, []).run("log", again, NOW)
    assert report.events == 0
    assert report.duplicates + report.late == 30
    assert report.duplicates > 0


def test_events_with_an_id_are_told_by_it_and_others_by_their_content(trained: Pack) -> None:
    rows: list[dict[str, object]] = [
        {"time": START, "user": "u", "action": "a", "id": "1"},
        {"time": START + 1, "user": "u", "action": "b", "id": "1"},  # the same id: the same event
        {"time": START, "user": "u", "action": "a", "id": "2"},
        {"time": START, "user": "u", "action": "a"},
        {"time": START, "user": "u", "action": "a"},  # the same content
        {"time": START, "user": "v", "action": "a", "id": "1"},  # another account's
    ]
    report = Engine(MemoryStore(), trained, SETTINGS, []).run("log", Chunk(batch_of(rows), (), {}, True), NOW)
    assert (report.events, report.duplicates) == (4, 2)


def test_a_late_event_goes_to_quarantine_with_its_place_and_content(trained: Pack) -> None:
    rows: list[dict[str, object]] = [{"time": START + t, "user": "u", "action": f"a{t}"} for t in (0, 3600, 3601, 2900, 3100)]
    store = MemoryStore()
    report = Engine(store, trained, SETTINGS, []).run("log", Chunk(batch_of(rows), (), {}, True), NOW)
    assert (report.events, report.late) == (4, 1)
    kept = store.quarantine(9)
    assert [(r.reason, r.position) for r in kept] == [("late", "log:3")]
    assert "a2900" in kept[0].line


def test_the_event_clock_runs_on_when_nothing_comes_so_that_sessions_end(trained: Pack) -> None:
    store = MemoryStore()
    engine = Engine(store, trained, SETTINGS, [])
    engine.run("log", chunk(later_life(), 0, 20), NOW)
    nothing = Chunk(empty_batch(), (), {}, True)
    assert len(engine.run("log", nothing, NOW + 60, idle=True).ps) == 0
    assert store.counts().open_sessions > 0
    engine.run("log", nothing, NOW + 3 * 3600, idle=True)
    assert store.counts().open_sessions == 0


def test_a_new_pack_rebuilds_the_profiles_from_history_as_if_it_had_always_been_there(trained: Pack) -> None:
    batch, store, fresh = later_life(), MemoryStore(), MemoryStore()
    engine = run(store, trained, batch)
    other = replace(trained, id="other", trusted_until=START + 45 * DAY)
    assert move(engine, other, history.read(store, None))
    run(fresh, other, batch)
    for user, record in fresh.all_accounts():
        assert store.accounts([user])[user] == record
    assert store.open_sessions(store.due(np.inf)) == fresh.open_sessions(fresh.due(np.inf))
    assert engine.state.pack == "other"


def test_a_move_that_is_stopped_changes_nothing(trained: Pack) -> None:
    store = MemoryStore()
    engine = run(store, trained, later_life())
    before = state_of(store)
    assert not move(engine, replace(trained, id="other"), history.read(store, None), lambda: True)
    assert state_of(store) == before


def test_open_sessions_go_to_bytes_and_back(trained: Pack) -> None:
    table = sessions_of(part(later_life(), slice(0, 80)), trained.facets, SETTINGS.session)
    records = open_to_bytes(table)
    assert open_to_bytes(open_from_bytes(records, len(trained.facets.number))) == records


def test_before_any_training_sessions_are_learnt_and_judged_but_never_alarm() -> None:
    store = MemoryStore()
    engine = Engine(store, None, SETTINGS, [])
    batch = later_life()
    for low in range(0, len(batch), 200):
        engine.run("log", chunk(batch, low, 200), NOW)
    verdicts = [msgspec.json.decode(v) for v in store.verdicts(-np.inf, np.inf)]
    assert {v["maturity"] for v in verdicts} == {"untrained"}
    assert not store.alerts(9)
    assert max(v["history"] for v in verdicts) > 5


def test_one_account_with_very_many_events_is_one_session_of_bounded_size(trained: Pack) -> None:
    many = 30_000
    rows: list[dict[str, object]] = [{"time": START + i / 100, "user": "u", "action": "view", "page": f"p{i}"} for i in range(many)]
    store = MemoryStore()
    engine = Engine(store, trained, SETTINGS, [])
    engine.run("log", Chunk(batch_of(rows), (), {}, True), NOW, drain=True)
    verdicts = [msgspec.json.decode(v) for v in store.verdicts(-np.inf, np.inf)]
    assert [(v["user"], v["events"]) for v in verdicts] == [("u", many)]
    assert engine.state.newest > NOTHING_SEEN
    assert len(store.accounts(["u"])["u"]) < 16_000
