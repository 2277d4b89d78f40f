"""What people see of incidents: all of it JSON, true to the store, and what they answer takes effect."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from alerts.desk import Desk
from detector import describing, scoring
from detector.casework import shown
from detector.cycle import Engine
from detector.errors import UnknownError
from detector.guidance import Allowance, without
from detector.pack import Pack
from tests.desks import desk_of, later, lived


@pytest.fixture(scope="module")
def engine(trained: Pack) -> Engine:
    return lived(later(), trained)


@pytest.fixture
def desk(trained: Pack) -> Desk:
    return desk_of(lived(later(), trained))


def theft(desk: Desk, user: str = "u03") -> str:
    (row,) = [
        i
        for i in desk.queue(user=user)["incidents"]
        if any(a["verdict"]["start"].endswith("T03:00:00Z") for a in desk.incident(i["id"])["alarms"])
    ]
    return str(row["id"])


def test_everything_that_the_desk_shows_is_json(engine: Engine) -> None:
    desk = desk_of(engine)
    id_ = theft(desk)
    shown_ = [
        desk.queue(),
        desk.incident(id_),
        desk.account("u03"),
        desk.accounts("U0"),
        desk.status(),
        desk.digest(),
        desk.muted(),
        desk.audit(),
    ]
    for told in [*shown_, desk.similar(id_)]:
        assert json.loads(msgspec.json.encode(told)) == json.loads(json.dumps(told))


def test_the_queue_is_sorted_by_priority_filtered_and_paged(engine: Engine) -> None:
    desk = desk_of(engine)
    whole = desk.queue(limit=500)
    assert whole["total"] == len(whole["incidents"]) > 2
    assert [i["priority"] for i in whole["incidents"]] == sorted((i["priority"] for i in whole["incidents"]), reverse=True)
    assert desk.queue(limit=2, offset=1)["incidents"] == whole["incidents"][1:3]
    assert {i["user"] for i in desk.queue(search="U03")["incidents"]} == {"u03"}
    assert desk.queue(states=("confirmed",)) == {"incidents": [], "total": 0}
    assert {i["severity"] for i in desk.queue(severity="high", limit=500)["incidents"]} <= {"high", "critical"}


def test_an_incident_shows_its_evidence_events_usual_life_and_neighbours(engine: Engine) -> None:
    desk = desk_of(engine)
    found = desk.incident(theft(desk))
    alarm = found["alarms"][0]
    assert abs(sum(r["nats"] for r in alarm["reasons"]) - alarm["verdict"]["score"]) < 0.006
    assert {"device", "page"} <= {f["facet"] for f in found["facets"]}
    assert found["events_total"] == len(found["events"]) == 12
    assert any("device" in e["unusual"] for e in found["events"])
    assert sum(t["alarm"] for t in found["timeline"]) == found["sessions"]
    assert {"this", "own", "others"} == {p["what"] for p in found["map"]}
    assert found["audit"][0]["what"] == "open"


def test_what_would_have_been_without_a_facet_is_what_scoring_again_gives(engine: Engine, trained: Pack) -> None:
    desk = desk_of(engine)
    id_ = theft(desk)
    alarm = desk.incident(id_)["alarms"][0]
    (exhibit,) = [e for body, e in engine.store.exhibits(id_, 1)]
    told, session, profile = shown(exhibit, trained)
    opened = np.array([told.open])
    ((score,), (p,)) = scoring.again(session, profile, trained, [told.watch], opened)
    assert (score, p) == (alarm["verdict"]["score"], alarm["verdict"]["p"])
    assert alarm["counterfactuals"]
    for other in alarm["counterfactuals"]:
        pared = session
        for name in other["without"]:
            pared = without(pared, trained.facets, session.events > 0, Allowance(name))
        ((score,), (p,)) = scoring.again(pared, profile, trained, [told.watch], opened)
        assert (score, p) == (other["score"], other["p"])
        assert other["alarms"] == (p <= alarm["limit"])
        assert not {*other["without"]} & {*describing.told(pared, profile, trained)}


def test_an_account_shows_its_habits_and_an_unknown_one_is_an_error(engine: Engine) -> None:
    desk = desk_of(engine)
    found = desk.account("u03")
    devices = next(h for h in found["habits"] if h["facet"] == "device")
    assert devices["values"][0]["value"] == "pc-3"
    assert {n["facet"] for n in found["numbers"]} >= {"amount"}
    assert found["incidents"]
    for call in (lambda: desk.account("nobody"), lambda: desk.incident("0" * 16), lambda: desk.incident("")):
        with pytest.raises(UnknownError):
            call()


def test_an_answer_shows_everywhere(desk: Desk) -> None:
    id_ = theft(desk)
    before = desk.status()["incidents"]
    assert desk.answer(id_, {"kind": "confirm", "why": "she called"}, "eve")["state"] == "confirmed"
    assert id_ not in {i["id"] for i in desk.queue(limit=500)["incidents"]}
    status = desk.status()
    assert status["incidents"]["confirmed"] == before["confirmed"] + 1
    assert sum(n["confirmed"] for n in status["precision"].values()) == 1
    assert desk.account("u03")["frozen_until"] is not None
    assert desk.digest()["answers"] == {"confirm": 1}
    assert [(a["kind"], a["undone"]) for a in desk.incident(id_)["answers"]] == [("confirm", False)]
    desk.undo(id_, "eve")
    assert id_ in {i["id"] for i in desk.queue(limit=500)["incidents"]}
    assert desk.audit(limit=500)["whole"]


def test_a_muted_account_is_listed_until_it_is_let_through_again(desk: Desk) -> None:
    desk.answer(theft(desk), {"kind": "mute", "days": 5}, "eve")
    assert [m["user"] for m in desk.muted()] == ["u03"]
    assert desk.account("u03")["muted"]["who"] == "eve"
    desk.unmute("u03", "eve")
    assert desk.muted() == []


def test_a_pack_that_is_gone_hides_what_needs_it_and_no_more(engine: Engine, tmp_path: Path) -> None:
    kept, engine.pack = engine.pack, None
    try:
        found = desk_of(engine, tmp_path).queue()
        assert found["total"]
        detail = desk_of(engine, tmp_path).incident(found["incidents"][0]["id"])
        assert (detail["facets"], detail["map"]) == ([], [])
    finally:
        engine.pack = kept
