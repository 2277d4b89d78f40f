"""One thief in several accounts: the sessions of one alert lead to those in the others."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from alerts.listing import console_for, similar_table
from alerts.policy import alert_id
from alerts.similar import similar
from detector.cli import main
from detector.cycle import Engine
from detector.errors import UnlikeError
from detector.pack import Pack
from detector.records import Chunk
from detector.settings import load
from detector.stores import SqliteStore
from tests.logs import DAY, START, batch_of, rows_of_people

VICTIMS = ("u03", "u05", "u09")
WHEN = {user: START + (46 + n) * DAY + 3 * 3600 for n, user in enumerate(VICTIMS)}


def raid() -> list[dict[str, object]]:
    """Twelve later days of the same people; a thief with one device and one aim is in three accounts, night after night."""
    rows = [r | {"time": float(str(r["time"])) + 40 * DAY} for r in rows_of_people(14, 12)]
    for user, start in WHEN.items():
        rows += [
            {
                "time": start + 20.0 * i,
                "user": user,
                "action": "pay",
                "device": "pc-thief",
                "page": f"p{i % 3}",
                "amount": 400.0 + i,
            }
            for i in range(12)
        ]
    return sorted(rows, key=lambda r: float(str(r["time"])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trained: Pack) -> Path:
    folder = tmp_path_factory.mktemp("state")
    store = SqliteStore(folder)
    engine = Engine(store, trained, load(overrides=["alerts.per_day=3"], environment={}), [])
    engine.run("log", Chunk(batch_of(raid()), (), {}, True), START + 100 * DAY, drain=True)
    store.close()
    return folder


def alert_of(store: SqliteStore, user: str) -> Any:
    return msgspec.json.decode(store.alert(alert_id(user, None, WHEN[user])) or b"")


@pytest.mark.parametrize("user", VICTIMS)
def test_the_stolen_sessions_of_the_other_accounts_are_the_nearest(folder: Path, user: str) -> None:
    store = SqliteStore.reader(folder)
    found, elsewhere = similar(store, alert_of(store, user), 10)
    store.close()
    assert {(f["user"]) for f in found[:2]} == {*VICTIMS} - {user}
    assert all(f["alert"] == alert_id(f["user"], None, WHEN[f["user"]]) for f in found[:2])
    assert [f["likeness"] for f in found] == sorted((f["likeness"] for f in found), reverse=True)
    assert user not in {f["user"] for f in found}
    assert (len(found), elsewhere) == (10, 0)


def test_the_embedding_of_a_session_is_the_same_however_the_log_is_cut(folder: Path, trained: Pack, tmp_path: Path) -> None:
    whole, cut = SqliteStore.reader(folder), SqliteStore(tmp_path)
    engine = Engine(cut, trained, load(overrides=["alerts.per_day=3"], environment={}), [])
    rows = raid()
    for low in range(0, len(rows), 100):
        engine.run("log", Chunk(batch_of(rows[low : low + 100]), (), {}, True), START + 100 * DAY, drain=low + 100 >= len(rows))
    kept = [sorted((r.user, r.start, r.embedding) for r in store.remembered()) for store in (whole, cut)]
    assert kept[0] == kept[1]
    assert all(abs(np.linalg.norm(np.frombuffer(vector, "<f2").astype(float)) - 1) < 0.01 for _, _, vector in kept[0])
    whole.close()
    cut.close()


class Elsewhere(SqliteStore):
    """A store in which all but the first sessions of each account are of another pack."""

    def remembered(self, user: str | None = None) -> Any:
        for row in super().remembered(user):
            yield row if row.start in WHEN.values() else replace(row, pack="another")


def test_sessions_of_other_packs_are_counted_and_left_out(folder: Path) -> None:
    store = Elsewhere.reader(folder)
    found, elsewhere = similar(store, alert_of(store, "u03"), 10)
    assert {f["user"] for f in found} == {"u05", "u09"}
    assert elsewhere == sum(r.user != "u03" for r in store.remembered()) - 2
    store.close()


def test_a_session_that_has_not_ended_is_not_compared(folder: Path) -> None:
    store = SqliteStore.reader(folder)
    with pytest.raises(UnlikeError, match="has not ended"):
        similar(store, alert_of(store, "u03") | {"id": "0" * 16}, 3)
    store.close()


def test_the_command_shows_them_on_a_terminal_and_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, state = SqliteStore.reader(folder), f"state.folder={folder}"
    (mark,) = [i.id for i in store.incidents(user="u03") if (None, WHEN["u03"]) in store.members(i.id)]
    store.close()
    assert main(["alerts", "similar", mark[:12], "--limit", "2", "--set", state]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(any(user in line for line in lines) for user in ("u05", "u09"))
    assert main(["alerts", "similar", mark, "--limit", "3", "--json", "--set", state]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(f) for f in found] == [
        {"user", "session", "start", "end", "likeness", "p", "belief", "alert", "number", "incident"}
    ] * 3
    assert main(["alerts", "similar", "--set", state]) == 2
    assert main(["alerts", "similar", mark, "--limit", "0", "--set", state]) == 2
    assert main(["alerts", "similar", "none", "--set", state]) == 1


def test_hostile_names_reach_no_terminal_unescaped() -> None:
    hostile = "[red]eve[/red]\x1b[2J\u202e\n" + "x" * 100_000
    row = {"user": hostile, "session": hostile, "start": START, "likeness": 0.5, "p": 0.1, "belief": 0.2, "alert": "\x1b[2J"}
    out = io.StringIO()
    console_for(out).print(similar_table([row]))
    assert not set(out.getvalue()) & set("\x1b\u202e")
    assert len(out.getvalue().splitlines()) == 2
