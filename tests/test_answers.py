"""Answers: what is confirmed was never there, what is dismissed does not alarm again, what is taken back is as before."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from alerts.audit import broken
from detector import history
from detector.answering import answer, open_similar, preview, undo, unmute
from detector.casework import labels_of, shown, would_alarm
from detector.cycle import Engine, move
from detector.errors import AnswerError, UnknownError
from detector.facets import unscaled
from detector.guidance import EVERYONE, Allowance, Guidance, exempt, lessons
from detector.pack import Pack
from detector.records import Batch, Changes, Chunk, Doubt, Incident, Label
from detector.settings import SessionSettings, TrainingSettings, load
from detector.stores import MemoryStore
from detector.training import find_facets, sessions_of, train
from tests.logs import DAY, START, batch_of, part, rows_of_people, stolen

SETTINGS = load(overrides=["alerts.per_day=3"], environment={})
NOW = START + 400 * DAY
THEFT = START + 46 * DAY + 3 * 3600


@pytest.fixture(scope="module")
def robbed() -> Batch:
    rows = [r | {"time": float(str(r["time"])) + 40 * DAY} for r in rows_of_people(14, 10)]
    rows += stolen(rows, "u03", "u08", THEFT)
    return batch_of(sorted(rows, key=lambda r: float(str(r["time"]))))


def lived(batch: Batch, pack: Pack, size: int = 100, until: float = np.inf, engine: Engine | None = None) -> Engine:
    """An engine after the events before `until`, in batches of `size`."""
    engine = engine or Engine(MemoryStore(), pack, SETTINGS, ["memory"])
    for low in range(0, len(batch), size):
        piece = part(batch, slice(low, low + size))
        engine.run("log", Chunk(part(piece, piece.time < until), (), {"row": low + size}, False), NOW)
    return engine


def the_theft(engine: Engine) -> Incident:
    (found,) = [
        i for i in engine.store.incidents(user="u03") if ("u03", THEFT) in [("u03", s) for _, s in engine.store.members(i.id)]
    ]
    return found


def profile(engine: Engine, user: str = "u03") -> bytes:
    return engine.store.accounts([user])[user]


def spared(engine: Engine, batch: Batch, pack: Pack) -> Batch:
    """The batch without the sessions of the theft's incident: the theft, and what of the owner's was suspicious after it."""
    table = sessions_of(batch, pack.facets, SETTINGS.session)
    members = {start for _, start in engine.store.members(the_theft(engine).id)}
    mine = [s for s in range(len(table)) if table.user[s] == "u03" and table.start[s] in members]
    assert len(mine) == len(members)
    gone = np.logical_or.reduce([(batch.time >= table.start[s]) & (batch.time <= table.end[s]) for s in mine])
    return part(batch, ~(gone & (batch.user == "u03")))


@pytest.mark.parametrize("size", [40, 1000])
def test_a_confirmed_session_was_never_there(robbed: Batch, trained: Pack, size: int) -> None:
    engine = lived(robbed, trained, size)
    without = lived(spared(engine, robbed, trained), trained)
    assert profile(engine) != profile(without)
    after = answer(engine, the_theft(engine).id, {"kind": "confirm", "why": "she called"}, "eve", NOW)
    assert after.state == "confirmed"
    assert profile(engine) == profile(without)
    assert list(engine.store.all_accounts()) == list(without.store.all_accounts())


def test_a_session_that_is_confirmed_while_it_is_open_is_never_learnt(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained, 10, THEFT + 200)
    incident = the_theft(engine)
    assert incident.open
    before = spared(engine, robbed, trained)  # the incident may be older than the theft
    answer(engine, incident.id, {"kind": "confirm"}, "eve", NOW)
    lived(part(robbed, (robbed.time >= THEFT + 200) & (robbed.time < THEFT + 12 * 3600)), trained, 10, engine=engine)
    before = part(before, (before.user != "u03") | (before.time < THEFT))
    assert profile(engine) == profile(lived(before, trained))


def test_after_a_confirmation_the_account_learns_nothing_until_the_freeze_is_over(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained, 50, THEFT + 3600)
    answer(engine, the_theft(engine).id, {"kind": "confirm"}, "eve", NOW)
    frozen = profile(engine)
    lived(part(robbed, (robbed.time >= THEFT + 3600) & (robbed.time < THEFT + DAY)), trained, engine=engine)
    assert profile(engine) == frozen
    lived(part(robbed, robbed.time >= THEFT + DAY), trained, engine=engine)
    assert profile(engine) != frozen


def test_a_dismissed_session_would_not_alarm_again(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained)
    incident = the_theft(engine)
    rows = [shown(exhibit, trained) for _, exhibit in engine.store.exhibits(incident.id, 9)]
    assert rows
    assert all(would_alarm(*row, trained, {}) for row in rows)
    answer(engine, incident.id, {"kind": "dismiss", "as": "expected"}, "eve", NOW)
    assert engine.casework is not None
    assert not any(would_alarm(*row, trained, engine.casework.guidance) for row in rows)


def test_the_same_again_is_the_owners_and_counted_after_a_dismissal_and_more_than_it_alarms(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained)
    answer(engine, the_theft(engine).id, {"kind": "dismiss"}, "eve", NOW)
    before = engine.store.incidents(user="u03")
    rows = stolen(rows_of_people(14, 10), "u03", "u08", THEFT + 7 * DAY)
    later: dict[str, object] = {"time": THEFT + 8 * DAY, "user": "u08", "action": "view"}
    lived(batch_of([*rows, later]), trained, engine=engine)
    assert engine.store.incidents(user="u03") == before
    assert engine.store.held("2026-02-23")["dismissed"] >= 1
    other = [r | {"time": float(str(r["time"])) + 2 * DAY, "device": "tor", "page": "admin"} for r in rows]
    lived(batch_of(other), trained, engine=engine)
    assert len(engine.store.incidents(user="u03")) > len(before)


@pytest.mark.parametrize(
    "said", [{"kind": "confirm"}, {"kind": "dismiss"}, {"kind": "dismiss", "scope": "everyone", "facet": "device", "value": "pc-8"}]
)
def test_an_answer_taken_back_leaves_everything_as_it_was(robbed: Batch, trained: Pack, said: dict[str, str]) -> None:
    engine = lived(robbed, trained)
    incident, before, guidance = the_theft(engine), profile(engine), dict(engine.casework.guidance if engine.casework else {})
    answer(engine, incident.id, said, "eve", NOW)
    assert profile(engine) != before
    restored = undo(engine, incident.id, "eve", "wrong one", NOW)
    assert (restored.state, restored.closed, profile(engine)) == (incident.state, incident.closed, before)
    assert engine.casework is not None
    assert engine.casework.guidance == guidance
    with pytest.raises(AnswerError, match="no answer"):
        undo(engine, incident.id, "eve", "", NOW)


def test_the_later_of_two_answers_holds_and_taking_it_back_brings_the_earlier_one_back(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained)
    id_ = the_theft(engine).id
    answer(engine, id_, {"kind": "confirm"}, "eve", NOW)
    confirmed = profile(engine)
    assert answer(engine, id_, {"kind": "dismiss"}, "bob", NOW).state == "dismissed"
    assert profile(engine) != confirmed
    assert undo(engine, id_, "bob", "", NOW).state == "confirmed"
    assert profile(engine) == confirmed == profile(lived(spared(engine, robbed, trained), trained))


def test_under_another_pack_or_without_the_profile_of_before_an_answer_learns_from_the_stored_history(
    robbed: Batch, trained: Pack
) -> None:
    other = replace(trained, id="another")
    engine = lived(robbed, trained)
    without = lived(spared(engine, robbed, trained), trained)
    id_ = the_theft(engine).id
    for one in (engine, without):
        move(one, other, list(history.read(one.store, None)))
    answer(engine, id_, {"kind": "confirm"}, "eve", NOW)
    assert profile(engine) == profile(without)


def test_what_people_said_is_kept_when_the_pack_changes(robbed: Batch, trained: Pack) -> None:
    other = replace(trained, id="another")
    engine = lived(robbed, trained)
    without = lived(spared(engine, robbed, trained), trained)
    answer(engine, the_theft(engine).id, {"kind": "confirm"}, "eve", NOW)
    for one in (engine, without):
        move(one, other, list(history.read(one.store, None)))
    assert profile(engine) == profile(without)


def test_a_value_in_order_is_left_out_where_sessions_are_judged(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained)
    _, exhibit = engine.store.exhibits(the_theft(engine).id, 1)[0]
    told, session, _ = shown(exhibit, trained)
    devices = {str(t) for t, f in zip(session.text, session.facet, strict=True) if trained.facets.text[f] == "device"}
    allowed = {told.user: Guidance(allowed=tuple(Allowance("device", device) for device in devices))}
    left = exempt(session, trained.facets, allowed)
    assert not (left.facet == trained.facets.text.index("device")).any()
    assert len(left.key) == len(session.key) - len(devices)
    late = {told.user: Guidance(allowed=tuple(Allowance("device", d, until=float(session.end[0]) - 1) for d in devices))}
    assert exempt(session, trained.facets, late) is session
    assert exempt(session, trained.facets, {"u99": allowed[told.user]}) is session
    assert len(exempt(session, trained.facets, {EVERYONE: allowed[told.user]}).key) == len(left.key)
    low, high = float(session.numbers[0, 0, 3]), float(session.numbers[0, 0, 4])
    name, unit = trained.facets.number[0], trained.facets.unit[0]
    top = float(unscaled(np.array(high), unit))
    assert exempt(session, trained.facets, {"u03": Guidance(allowed=(Allowance(name, most=top + 0.01),))}).numbers[0, 0, 0] == 0
    assert exempt(session, trained.facets, {"u03": Guidance(allowed=(Allowance(name, most=top - 0.01),))}).numbers[0, 0, 0] > 0
    assert low <= high
    assert lessons(session, {}).tolist() == [-1]


def test_a_preview_says_what_a_wide_answer_would_have_silenced_confirmed_ones_included(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained)
    incident = the_theft(engine)
    answer(engine, incident.id, {"kind": "confirm"}, "eve", NOW)
    said = {"kind": "mute", "days": 3}
    found = preview(engine, incident.id, said, lambda _: trained)
    mine = engine.store.incidents(user="u03")
    assert (found["incidents"], found["sessions"], found["confirmed"]) == (len(mine), sum(i.sessions for i in mine), 1)
    wide = {"kind": "dismiss", "scope": "everyone", "facet": "hour", "value": "03h"}
    assert preview(engine, incident.id, wide, lambda _: trained)["incidents"] <= len(engine.store.incidents())
    assert preview(engine, incident.id, wide, lambda _: None)["incidents"] == 0
    assert engine.store.incidents(user="u03") == mine


def test_a_muted_account_opens_no_incident_and_what_it_held_back_is_counted(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained, 50, THEFT - DAY)
    muted = replace_user(engine, the_theft(lived(robbed, trained)), "u03")
    answer(engine, muted.id, {"kind": "mute", "days": 30}, "eve", NOW)
    before = [i.id for i in engine.store.incidents(user="u03")]
    lived(part(robbed, (robbed.time >= THEFT - DAY) & (robbed.time < THEFT + DAY)), trained, engine=engine)
    assert [i.id for i in engine.store.incidents(user="u03")] == before
    assert engine.store.held("2026-02-16")["muted"] >= 1
    unmute(engine, "u03", "eve", "", NOW)
    with pytest.raises(UnknownError, match="not muted"):
        unmute(engine, "u03", "eve", "", NOW)


def replace_user(engine: Engine, incident: Incident, user: str) -> Incident:
    """An incident of another account, closed long ago, for a mute to hang on."""
    moved = msgspec.structs.replace(incident, id="f" * 16, user=user, state="expired", closed=0.0, opened=0.0)
    engine.store.commit(Changes(incidents=(moved,)))
    assert engine.casework is not None
    engine.casework.all[moved.id] = engine.casework.latest[user] = moved
    return moved


def test_every_change_is_in_the_audit_and_the_chain_holds_also_after_a_restart(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained)
    id_ = the_theft(engine).id
    answer(engine, id_, {"kind": "acknowledge"}, "bob", NOW)
    engine = Engine(engine.store, trained, SETTINGS, ["memory"])
    answer(engine, id_, {"kind": "confirm", "why": "she called"}, "eve", NOW + 1)
    undo(engine, id_, "eve", "no", NOW + 2)
    entries = engine.store.entries(0, 1000)
    assert [(e.who, e.what) for e in entries if e.incident == id_][-3:] == [
        ("bob", "acknowledge"),
        ("eve", "confirm"),
        ("eve", "undo"),
    ]
    assert broken(entries, engine.state.audit) == ""
    assert "missing" in broken([*entries[:2], *entries[3:]], engine.state.audit)
    assert "ends" in broken(entries[:-1], engine.state.audit)
    assert "not what" in broken([msgspec.structs.replace(entries[0], who="mallory"), *entries[1:]], engine.state.audit)


@pytest.mark.parametrize("size", [7, 5000])
def test_takeovers_of_two_accounts_from_one_device_are_linked_whether_in_one_cycle_or_not(
    robbed: Batch, trained: Pack, size: int
) -> None:
    rows = [r | {"time": float(str(r["time"])) + 40 * DAY} for r in rows_of_people(14, 10)]
    rows += [r | {"device": "tor"} for r in stolen(rows, "u03", "u08", THEFT) + stolen(rows, "u05", "u11", THEFT + 600)]
    engine = lived(batch_of(sorted(rows, key=lambda r: float(str(r["time"])))), trained, size)
    first = the_theft(engine)
    (second,) = [i for i in engine.store.incidents(user="u05") if "device=tor" in i.marks]
    assert "device=tor" in first.marks
    assert (first.id in second.linked) or (second.id in first.linked)


def test_past_sessions_that_are_like_a_confirmed_one_can_be_opened_confirmed_and_unlearnt(robbed: Batch, trained: Pack) -> None:
    engine = lived(robbed, trained)
    free = [r for r in engine.store.remembered() if r.user not in {i.user for i in engine.store.incidents()}]
    (opened,) = open_similar(engine, the_theft(engine).id, [free[0].number], "eve", "looks the same", NOW)
    assert (opened.user, opened.shown_for, opened.linked) == (free[0].user, "similar", (the_theft(engine).id,))
    before = profile(engine, opened.user)
    answer(engine, opened.id, {"kind": "confirm"}, "eve", NOW)
    assert profile(engine, opened.user) != before
    with pytest.raises(AnswerError, match="before"):
        open_similar(engine, the_theft(engine).id, [free[0].number], "eve", "", NOW)
    with pytest.raises(UnknownError, match="no session"):
        open_similar(engine, the_theft(engine).id, [10**9], "eve", "", NOW)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"kind": "explode"}, "expected one of acknowledge"),
        ({"kind": "confirm", "colour": "red"}, "unknown field"),
        ({"kind": "confirm", "scope": "everyone"}, "is for dismiss"),
        ({"kind": "dismiss", "scope": "value"}, "needs a facet"),
        ({"kind": "dismiss", "scope": "value", "facet": "shoe", "value": "9"}, "no facet 'shoe'"),
        ({"kind": "dismiss", "scope": "value", "facet": "amount", "value": "much"}, "expected a number"),
        ({"kind": "mute", "days": -1}, "more than 0"),
    ],
)
def test_a_wrong_answer_is_refused_and_changes_nothing(robbed: Batch, trained: Pack, said: dict[str, object], why: str) -> None:
    engine = lived(robbed, trained, 500, THEFT + 3600)
    incident = the_theft(engine)
    with pytest.raises(AnswerError, match=why):
        answer(engine, incident.id, said, "eve", NOW)
    assert the_theft(engine) == incident
    with pytest.raises(UnknownError):
        answer(engine, "0" * 16, {"kind": "confirm"}, "eve", NOW)


def test_answers_are_lessons_for_the_next_training(trained: Pack) -> None:
    rows = rows_of_people(14, 40)
    rows += [r | {"device": "tor"} for r in stolen(rows, "u03", "u08", START + 36 * DAY + 3 * 3600)]
    rows += [r | {"device": "lent"} for r in stolen(rows, "u05", "u09", START + 37 * DAY + 3 * 3600)]
    log = batch_of(sorted(rows, key=lambda r: float(str(r["time"]))))
    theft, loan = ("u03", START + 36 * DAY + 3 * 3600), ("u05", START + 37 * DAY + 3 * 3600)

    def learnt(doubtful: dict[tuple[str, float], Doubt], labels: dict[tuple[str, float], Label]) -> tuple[set[str], Pack]:
        pack = train(log, {}, SessionSettings(), TrainingSettings(), 0, None, doubtful, labels)
        return {bytes(t).decode() for t in pack.population.vocabulary_text}, pack

    known, plain = learnt({loan: Doubt(0.99, 1e-6)}, {})
    assert ("tor" in known, "lent" in known) == (True, False)
    known, told = learnt({loan: Doubt(0.99, 1e-6)}, {theft: Label(False), loan: Label(True)})
    assert ("tor" in known, "lent" in known) == (False, True)
    assert told.id != plain.id


def test_doubted_owners_set_the_reference_as_many_as_their_p_says_and_thieves_do_not() -> None:
    log = batch_of(rows_of_people(14, 40))
    table = sessions_of(log, find_facets(log, {}), SessionSettings())
    pairs = list(zip(table.user, table.start.tolist(), strict=True))
    p = np.random.default_rng(0).permutation((np.arange(len(pairs)) + 0.5) / len(pairs))
    striking = np.flatnonzero(p < 0.1)

    def references(p: np.ndarray) -> int:
        doubtful = {pairs[i]: Doubt(0.99, float(p[i])) for i in striking}
        pack = train(log, {}, SessionSettings(), TrainingSettings(), 0, None, doubtful)
        assert pack.scores
        return pack.scores[-1].count

    late = int((striking >= int(0.65 * len(pairs))).sum())
    everybody = references(np.where(np.isin(np.arange(len(p)), striking), p, 1.0))
    assert everybody - references(np.full(len(p), 1e-9)) == pytest.approx(late, abs=3)


def test_labels_come_from_the_answers_that_hold_and_weigh_more_where_a_person_found_the_session(
    robbed: Batch, trained: Pack
) -> None:
    engine = lived(robbed, trained)
    incident = the_theft(engine)
    answer(engine, incident.id, {"kind": "confirm"}, "eve", NOW)
    free = [r for r in engine.store.remembered() if r.user not in {i.user for i in engine.store.incidents()}]
    (found,) = open_similar(engine, incident.id, [free[0].number], "eve", "", NOW)
    answer(engine, found.id, {"kind": "dismiss"}, "eve", NOW)
    assert engine.casework is not None
    why = {i.id: i.shown_for for i in engine.store.incidents()}
    labels = labels_of(engine.casework.cases, why)
    assert labels["u03", THEFT] == Label(False, 1.0)
    assert labels[found.user, free[0].start] == Label(True, 2.0)
    undo(engine, incident.id, "eve", "", NOW)
    assert ("u03", THEFT) not in labels_of(engine.casework.cases, why)
