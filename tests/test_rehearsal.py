"""Rehearsals: what is spliced into a log, what is counted, and what people are shown."""

from __future__ import annotations

import io
import json
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.rehearsals import COLUMNS, page, span
from detector import rehearsal, splicing
from detector.attacks import KINDS
from detector.cli import main
from detector.cycle import Engine, rebuild
from detector.errors import SettingsError, TrainingError
from detector.history import select
from detector.lines import rfc3339
from detector.pack import Pack
from detector.records import Alert, Batch, Chunk, Verdict
from detector.rehearsal import Round, held_back, outcomes_of, rehearse, wilson
from detector.replay import replay
from detector.settings import Settings, load
from detector.splicing import Log, Rules, Takeover, Way, drafted, log_of, next_kinds, splice
from detector.stores import SqliteStore
from tests.logs import DAY, START, batch_of, rows_of_people

GAP, NAMED_GAP = 1800.0, 7200.0
WAY = Way(frozenset({"device", "hour"}), "page", 0.5, "amount", 3.0, False, 6.0, frozenset({"device"}))


@pytest.fixture(scope="module")
def log() -> Log:
    return log_of(batch_of(rows_of_people()), GAP, NAMED_GAP)


@pytest.fixture(scope="module")
def rules(log: Log) -> Rules:
    number = ("amount", "pace")
    end, steady = float(log.batch.time[-1]), (("device", 0.9), ("action", 0.6), ("page", 0.2))
    return Rules(("action", "device", "page", "hour"), number, (), GAP, NAMED_GAP, START + 28 * DAY, end, steady)


def spliced(log: Log, rules: Rules, seed: int = 0) -> tuple[Batch, tuple[Takeover, ...]]:
    return splice(log, rules, next_kinds(Counter(), 2), 30, "rehearsal", np.random.default_rng(seed))


def contents(batch: Batch) -> list[tuple[object, ...]]:
    columns = [batch.attributes[n] for n in sorted(batch.attributes)]
    return list(zip(batch.time.tolist(), batch.user, batch.session, *columns, strict=True))


def sessions(log: Log) -> set[tuple[object, float]]:
    users = [log.batch.user[log.rows(s)[0]] for s in range(len(log.start))]
    return set(zip(users, log.start.tolist(), strict=True))


def pair_of_sessions(log: Log, own: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """The events of a session of the first account, and those of a longer one of another."""
    other = next(s for s in range(len(log.start)) if log.account[s] == 3 and np.diff(log.indptr)[s] > np.diff(log.indptr)[own])
    return log.rows(own), log.rows(other)


def drawn(log: Log, rules: Rules, kind: str, way: Way = WAY) -> tuple[Batch, splicing.Draft, np.ndarray, np.ndarray]:
    """The events of a thief's session of a kind, its draft, and the owner's and the stranger's events."""
    own, other = pair_of_sessions(log)
    draft = drafted(log.batch, own, other, kind, way, rules, np.random.default_rng(0))
    assert draft is not None
    return splicing._events(log.batch, own, draft, START + 35 * DAY, "x"), draft, own, other


def values(log: Log, rows: np.ndarray, name: str) -> list[object]:
    return list(log.batch.attributes[name][rows])


def test_all_events_of_the_owners_stay_and_only_victims_get_more(log: Log, rules: Rules) -> None:
    batch, takeovers = spliced(log, rules)
    more = Counter(contents(batch)) - Counter(contents(log.batch))
    assert not Counter(contents(log.batch)) - Counter(contents(batch))
    assert {c[1] for c in more} == {t.user for t in takeovers}
    assert len(takeovers) == len({t.user for t in takeovers}) > 8
    assert (np.diff(batch.time) >= 0).all()


def test_a_takeover_never_merges_with_a_session_of_the_owners(log: Log, rules: Rules) -> None:
    batch, takeovers = spliced(log, rules)
    thieves = {(t.user, start) for t in takeovers for _, start in t.sessions}
    assert sessions(log_of(batch, GAP, NAMED_GAP)) == sessions(log) | thieves
    assert not sessions(log) & thieves
    assert all(rules.since <= t.times[0] and t.times[-1] <= rules.until for t in takeovers)


@pytest.mark.parametrize("kind", KINDS)
def test_what_says_who_an_account_is_stays_the_owners_in_a_takeover(log: Log, rules: Rules, kind: str) -> None:
    made, _, own, other = drawn(log, replace(rules, fixed=("device",)), kind, replace(WAY, single="device"))
    strange = {values(log, (other if kind == "alone" else own)[:1], "device")[0]}
    assert {*made.attributes["device"]} <= ({*values(log, other, "device")} if kind == "alone" else strange)
    assert values(log, own[:1], "device") != values(log, other[:1], "device")


def test_splicing_is_deterministic_under_its_seed(log: Log, rules: Rules) -> None:
    first, again, other = (contents(spliced(log, rules, seed)[0]) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_log_that_names_its_sessions_gets_new_names_and_ids(rules: Rules) -> None:
    rows = [
        r | {"session": f"{r['user']}-{int(float(str(r['time'])) // 7200)}", "id": str(i)} for i, r in enumerate(rows_of_people())
    ]
    log = log_of(batch_of(rows), GAP, NAMED_GAP)
    batch, takeovers = spliced(log, rules)
    names = [name for t in takeovers for name, _ in t.sessions]
    assert names
    assert len(set(names)) == len(names)
    assert not set(names) & set(log.batch.session)
    assert len(set(batch.event_id)) == len(batch)


def test_a_swap_is_wholly_the_strangers(log: Log, rules: Rules) -> None:
    made, draft, _, other = drawn(log, rules, "swap")
    for name in log.batch.attributes:
        assert list(made.attributes[name]) == values(log, other, name)
    assert np.allclose(np.diff(made.time), np.diff(log.batch.time[other]), atol=0.002)
    assert draft.clock == log.batch.time[other[0]] % DAY


def test_borrowing_copies_half_of_the_sides_from_the_owner(log: Log, rules: Rules) -> None:
    made, draft, own, other = drawn(log, rules, "borrow")
    assert set(made.attributes["device"]) <= set(values(log, own, "device"))
    for name in ("action", "page", "amount"):
        assert list(made.attributes[name]) == values(log, other, name)
    assert draft.clock == log.batch.time[own[0]] % DAY
    way = splicing.draw(rules, log.batch, own, np.random.default_rng(0))
    assert len(way.borrowed) == len((*rules.text, *rules.number)) // 2


def test_who_is_inside_has_what_owners_keep_to(log: Log, rules: Rules) -> None:
    made, draft, own, other = drawn(log, rules, "inside")
    assert set(made.attributes["device"]) <= set(values(log, own, "device"))
    for name in ("action", "page", "amount"):
        assert list(made.attributes[name]) == values(log, other, name)
    assert draft.clock == log.batch.time[other[0]] % DAY
    ways = [splicing.draw(rules, log.batch, own, np.random.default_rng(seed)) for seed in range(600)]
    shares = [np.mean([name in way.kept for way in ways]) for name in ("device", "action", "page")]
    assert shares == pytest.approx([1.0, 0.67, 0.22], abs=0.06)  # the more owners keep to a value, the likelier he has it
    assert {way.kept for way in ways} == {frozenset(("device", "action", "page")[:n]) for n in (1, 2, 3)}
    assert drafted(log.batch, own, other, "inside", replace(WAY, kept=frozenset()), rules, np.random.default_rng(0)) is None
    nothing = splicing.draw(replace(rules, steady=()), log.batch, own, np.random.default_rng(0))
    assert nothing.kept == frozenset()


@pytest.mark.parametrize("share", [0.1, 0.9], ids=["events", "sides"])
def test_copying_has_the_owners_values_in_no_order_at_the_strangers_time(log: Log, rules: Rules, share: float) -> None:
    way = replace(WAY, borrowed=frozenset({"page", "device"}), share=share)
    made, draft, own, other = drawn(log, rules, "copy", way)
    assert draft.clock == log.batch.time[other[0]] % DAY
    assert np.allclose(np.diff(made.time), np.diff(log.batch.time[other]), atol=0.002)
    if share > 0.5:
        assert set(made.attributes["page"]) <= set(values(log, own, "page"))
        assert list(made.attributes["amount"]) == values(log, other, "amount")
        return
    columns = list(log.batch.attributes)
    rows, ours, theirs = (
        list(zip(*(list(column) for column in some), strict=True))
        for some in (made.attributes.values(), *([values(log, rows, n) for n in columns] for rows in (own, other)))
    )
    copied = [row in ours and row != here for row, here in zip(rows, theirs, strict=True)]
    assert 0 < sum(copied) < len(rows)
    assert all(row == here for row, here, is_copied in zip(rows, theirs, copied, strict=True) if not is_copied)


def test_alone_has_one_side_of_the_strangers(log: Log, rules: Rules) -> None:
    made, draft, own, other = drawn(log, rules, "alone")
    assert set(made.attributes["page"]) <= set(values(log, other, "page"))
    for name in ("action", "device", "amount"):
        assert list(made.attributes[name]) == values(log, own, name)
    assert draft.clock == log.batch.time[own[0]] % DAY


def test_hours_keeps_everything_but_the_hour(log: Log, rules: Rules) -> None:
    made, draft, own, other = drawn(log, rules, "hours")
    for name in log.batch.attributes:
        assert list(made.attributes[name]) == values(log, own, name)
    assert np.allclose(np.diff(made.time), np.diff(log.batch.time[own]), atol=0.002)
    assert draft.clock == log.batch.time[other[0]] % DAY


def test_a_hijack_begins_as_the_owners_and_ends_as_the_strangers(log: Log, rules: Rules) -> None:
    _, draft, own, other = drawn(log, rules, "hijack")
    assert draft.base[: draft.foreign].tolist() == own[: draft.foreign].tolist()
    assert draft.base[draft.foreign :].tolist() == other[-len(draft.base) + draft.foreign :].tolist()
    assert 0 < draft.foreign < len(draft.base)


def test_a_mix_is_as_long_as_the_owners_with_a_few_of_the_strangers(log: Log, rules: Rules) -> None:
    _, draft, own, _ = drawn(log, rules, "mix")
    foreign = draft.base != own
    assert 1 <= foreign.sum() <= max(1, 0.3 * len(own))
    assert draft.foreign == np.flatnonzero(foreign)[0]


def test_inflation_makes_one_number_larger_and_needs_one(log: Log, rules: Rules) -> None:
    made, _, own, _ = drawn(log, rules, "inflate")
    before = np.array(values(log, own, "amount"), float)
    assert np.allclose(np.array(list(made.attributes["amount"]), float), 3 * before)
    largest, draft, _, _ = drawn(log, rules, "inflate", replace(WAY, only_largest=True))
    changed = np.array(list(largest.attributes["amount"]), float) != before
    assert changed.sum() == 1
    assert draft.foreign == np.flatnonzero(changed)[0] == before.argmax()
    slow, _, _, _ = drawn(log, rules, "inflate", replace(WAY, number="pace"))
    assert np.allclose(np.diff(slow.time), np.minimum(3 * np.diff(log.batch.time[own]), GAP), atol=2)
    assert drafted(log.batch, own, own, "inflate", replace(WAY, number=""), rules, np.random.default_rng(0)) is None


def test_a_burst_repeats_the_owners_values_in_quick_succession(log: Log, rules: Rules) -> None:
    made, _, own, _ = drawn(log, rules, "burst")
    assert len(made) == 6 * len(own)
    assert np.allclose(np.diff(made.time), splicing.QUICK_S)
    assert set(made.attributes["page"]) == set(values(log, own, "page"))


def test_where_the_owner_is_active_the_nearest_free_time_is_taken(log: Log, rules: Rules) -> None:
    other = pair_of_sessions(log)[1]
    session = int(np.flatnonzero((log.account == 0) & (log.start > rules.since))[3])
    draft = drafted(log.batch, log.rows(session), other, "mix", WAY, rules, np.random.default_rng(0))
    assert draft is not None
    begin = splicing.place(log, rules, session, draft, rules.since)
    assert begin is not None
    mine = log.account == log.account[session]
    assert ((begin - log.end[mine] > GAP) | (log.start[mine] - begin - draft.offset[-1] > GAP)).all()
    far = abs(begin % DAY - draft.clock)
    assert min(far, DAY - far) < 6 * 3600


def test_kinds_that_were_seldom_taken_come_first() -> None:
    assert next_kinds(Counter(), 2) == (*KINDS, *KINDS)
    assert next_kinds(Counter({kind: 2 for kind in KINDS if kind != "burst"}), 2) == ("burst", "burst")


@given(st.integers(0, 200), st.integers(1, 200))
def test_an_interval_holds_its_share_and_stays_in_bounds(hits: int, of: int) -> None:
    low, high = wilson(min(hits, of), of)
    assert 0 <= low <= min(hits, of) / of + 1e-9
    assert min(hits, of) / of - 1e-9 <= high <= 1


def test_intervals_are_those_of_wilson() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


@pytest.mark.parametrize(("text", "value"), [(None, None), ("0.3", 0.3), ("30%", 0.3), ("14d", 14 * DAY), ("2h", 7200.0)])
def test_what_is_held_back_is_a_share_or_a_duration(text: str | None, value: float | None) -> None:
    assert held_back(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["2", "0", "100%", "-1", "much", "nan", "0s", ""])
def test_neither_a_share_nor_a_duration_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--held-back"):
        held_back(text)


def verdict(start: float, end: float, p: float) -> Verdict:
    return Verdict("u", None, start, end, 3, -np.log(p), p, 0.5, 7, "young", {}, "pack")


def test_an_alert_before_the_first_foreign_event_is_no_catch() -> None:
    takeover = Takeover("hijack", "u", ((None, 100.0),), np.array([130.0, 140.0, 150.0]))
    judged = {("u", None, 100.0): verdict(100, 150, 0.001)}

    def outcome(time: float) -> rehearsal.Outcome:
        alert = Alert("a", time, "low", verdict(100, time, 0.001), True, "", ())
        return outcomes_of(Round((takeover,), judged, (alert,), 0.01, 1000.0))[0]

    assert not outcome(120.0).caught
    assert (outcome(140.0).caught, outcome(140.0).seconds, outcome(140.0).events) == (True, 10.0, 2.0)
    assert outcome(140.0).maturity == "young"


def test_a_takeover_that_was_not_judged_whole_does_not_count() -> None:
    takeover = Takeover("swap", "u", ((None, 100.0), (None, 9000.0)), np.array([100.0, 9000.0]))
    assert outcomes_of(Round((takeover,), {("u", None, 100.0): verdict(100, 150, 0.5)}, (), 0.01, 1000.0)) == []


def test_more_false_alarms_never_catch_less() -> None:
    rng = np.random.default_rng(0)
    points = rehearsal.curve(rng.random(500), rng.random(40) ** 3, 10.0)
    assert (np.diff(np.array(points), axis=0) >= 0).all()
    assert rehearsal.curve(np.empty(0), np.empty(0), 1.0) == []


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    rows = [r | {"time": rfc3339(float(str(r["time"])))} for r in rows_of_people()]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the command printed and the page that it wrote."""
    page = tmp_path_factory.mktemp("out") / "r.html"
    with redirect_stdout(io.StringIO()) as out:
        assert main(["rehearse", str(file), "--json", "--report", str(page), "--seed", "3", "--takeovers", "2"]) == 0
    return json.loads(out.getvalue()), page.read_text()


FIGURES = {"takeovers", "caught", "share", "interval", "median_seconds", "median_events", "auc", "caught_at_1_percent"}


def test_the_report_tells_of_every_kind_and_maturity_and_of_false_alarms(whole: tuple[dict[str, Any], str]) -> None:
    found, _ = whole
    assert found["partial"] is None
    assert found["seed"] == 3
    assert set(found["kinds"]) == set(KINDS)
    assert set(found["maturity"]) == {"new", "young", "mature"}
    groups = [*found["kinds"].values(), *found["maturity"].values(), found["all"]]
    assert all(set(g) == FIGURES for g in groups)
    assert found["all"]["takeovers"] == sum(g["takeovers"] for g in found["kinds"].values()) >= 8
    assert found["all"]["takeovers"] == sum(g["takeovers"] for g in found["maturity"].values())
    assert len(found["seconds_to_detection"]) == found["all"]["caught"] > 0
    assert found["all"]["auc"] > 0.6
    assert {"false_alarms_per_day", "false_alarms_per_1000_accounts_a_day", "share_at_p"} <= set(found["owners"])
    assert found["days_judged"] == pytest.approx(found["rounds"] * found["held_back"]["days"], abs=0.05)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone(whole: tuple[dict[str, Any], str]) -> None:
    tags = Tags(whole[1])
    names = Counter(tag for tag, _ in tags.seen)
    ids = [a["id"] for _, a in tags.seen if "id" in a]
    links = [a[k] for _, a in tags.seen for k in ("href", "src", "xlink:href") if a.get(k)]
    assert names["svg"] == 4
    assert not {"script", "link", "img", "iframe", "metadata"} & set(names)
    assert "http" not in whole[1]
    assert links
    assert all(str(link)[0] == "#" and str(link)[1:] in ids for link in links)
    assert len(ids) == len(set(ids))
    for name in (*COLUMNS, *KINDS, "young account", "false alarms"):
        assert name in tags.text


def test_a_page_of_part_of_a_rehearsal_says_so_and_escapes_what_it_shows(whole: tuple[dict[str, Any], str]) -> None:
    made = page(whole[0] | {"partial": "interrupted <b>early</b>"}).decode()
    assert "PARTIAL, interrupted <b>early</b>" in Tags(made).text
    assert "<b>" not in made
    assert page(whole[0]) == page(whole[0])


def batches_of(size: int) -> Settings:
    return load(overrides=[f"cycle.batch_events={size}"], environment={})


@pytest.fixture(scope="module")
def unbroken() -> dict[str, Any]:
    return rehearse(batch_of(rows_of_people()), batches_of(150), 0.0, each=1)


def test_a_rehearsal_is_deterministic_and_free_of_the_size_of_batches(unbroken: dict[str, Any]) -> None:
    assert rehearse(batch_of(rows_of_people()), batches_of(20_000), 0.0, each=1) == unbroken


def test_an_interrupted_rehearsal_reports_what_it_has_and_says_how_far_it_came(unbroken: dict[str, Any]) -> None:
    def interrupt(what: str, done: float, total: float) -> None:
        if what.startswith("replay 1") and done > 5:
            raise KeyboardInterrupt

    found = rehearse(batch_of(rows_of_people()), batches_of(150), 0.0, each=1, progress=interrupt)
    assert str(found["partial"]).startswith("interrupted after ")
    assert 5 < found["days_judged"] < 8
    assert 0 < found["owners"]["sessions"] < unbroken["owners"]["sessions"]
    assert found["all"]["takeovers"] < unbroken["all"]["takeovers"]
    assert f"PARTIAL, {found['partial']}" in page(found).decode()


def test_a_rehearsal_interrupted_before_any_verdict_has_nothing_to_report() -> None:
    def interrupt(what: str, done: float, total: float) -> None:
        if what.startswith("remembering"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rehearse(batch_of(rows_of_people()), batches_of(150), 0.0, progress=interrupt)


def test_a_rehearsal_judges_the_owners_as_replay_does(log: Log, trained: Pack) -> None:
    since = trained.trusted_until - 8 * DAY
    pack = replace(trained, trusted_until=since)
    before, after = select(log.batch, log.batch.time < since), select(log.batch, log.batch.time >= since)
    settings = load(overrides=["training.every=0s"], environment={})
    rebuilt = rebuild(pack, settings, [before])
    rehearsed, _ = rehearsal._replayed(after, (), rebuilt, pack, settings, 0.0, lambda done, total: None)
    verdicts: list[Verdict] = []
    alerts: list[Alert] = []
    replay([Chunk(log.batch, (), {}, True)], since, settings, verdicts.append, alerts.append, 0.0, pack)
    first = float(after.time[0])
    assert {(v.user, v.start, v.score, v.p) for v in rehearsed.verdicts.values()} == {
        (v.user, v.start, v.score, v.p) for v in verdicts if v.end >= first
    }
    assert {a.id for a in rehearsed.alerts} == {a.id for a in alerts}


@pytest.mark.parametrize(
    ("rows", "found"), [([], "no events"), (rows_of_people(14, 3), "room for"), (rows_of_people(1, 400), "room for 0")]
)
def test_too_little_history_is_told_with_what_there_is_and_what_is_needed(rows: list[dict[str, object]], found: str) -> None:
    with pytest.raises(TrainingError, match=found):
        rehearse(batch_of(rows), Settings(), 0.0)


def test_too_little_before_what_is_held_back_is_told(log: Log) -> None:
    with pytest.raises(TrainingError, match=r"sessions of \d+ accounts .*300 sessions of 5 such accounts are needed"):
        rehearse(log.batch, Settings(), 0.0, hold=0.9)


def test_more_is_held_back_where_a_quarter_of_the_time_holds_too_little(log: Log) -> None:
    enough = log_of(batch_of(rows_of_people(18)), GAP, NAMED_GAP)
    span = enough.batch.time[-1] - enough.batch.time[0]
    assert enough.batch.time[-1] - rehearsal._held(enough, None, 1) == pytest.approx(0.25 * span)
    assert (log.start >= rehearsal._held(log, None, 10)).mean() == pytest.approx(0.5, abs=0.01)
    assert log.batch.time[-1] - rehearsal._held(log, 5 * DAY, None) == pytest.approx(5 * DAY)


def test_a_long_silence_of_the_whole_log_is_no_time_that_was_watched() -> None:
    times = [START, START + DAY, START + 101 * DAY, START + 102 * DAY]
    log = log_of(batch_of([{"time": t, "user": "u"} for t in times]), GAP, NAMED_GAP)
    assert rehearsal._watched(log, times[0], times[-1]) == pytest.approx(2 + 7)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.jsonl"], 1, "nowhere.jsonl"),
        (["LOG", "--held-back", "much"], 2, "--held-back much"),
        (["LOG", "--takeovers", "0"], 2, "--takeovers 0"),
        (["--set", "state.folder=absent"], 1, "absent"),
    ],
)
def test_what_cannot_be_rehearsed_is_said(
    arguments: list[str], code: int, message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rehearse", *(str(file) if a == "LOG" else a for a in arguments)]) == code
    assert message in capsys.readouterr().err


def test_the_stored_history_is_rehearsed_on_and_shown_as_a_table(
    tmp_path: Path, trained: Pack, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SqliteStore(tmp_path)
    Engine(store, trained, Settings(), ()).run("log", Chunk(batch_of(rows_of_people()), (), {}, True), 0.0)
    store.close()
    assert main(["rehearse", "--set", f"state.folder={tmp_path}", "--takeovers", "1", "--held-back", "30%"]) == 0
    told = capsys.readouterr()
    assert "simulated takeovers on held-back time" in told.out
    assert "replay 1 of" in told.err
    for kind in KINDS:
        assert f"\n{kind} " in told.out


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0.2 s"), (45, "45 s"), (90, "1.5 min"), (7200, "2 h"), (200_000, "2.3 d")])
def test_a_length_of_time_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text
