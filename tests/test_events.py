from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detector.bulk import flat_objects, moments
from detector.events import LINE_KEPT, LONGEST_NAME, LONGEST_TEXT, OURS, REASONS, Parser, seconds, short
from detector.history import concat
from detector.records import Batch, Reject
from detector.settings import Duration, EventSettings, SourceSettings

NOW = 1_600_000_000.0
TIME = "2020-01-01T00:00:00Z"
SECONDS = 1_577_836_800.0
EVENTS = EventSettings(max_line_bytes=2000, max_attributes=8)


def parse(
    *lines: bytes | dict, source: SourceSettings | None = None, events: EventSettings = EVENTS
) -> tuple[Batch, tuple[Reject, ...]]:
    """Batch and rejects of lines; a dict stands for the JSON of an event, which lacks nothing that it does not name."""
    texts = [line if isinstance(line, bytes) else json.dumps({"time": TIME, "user": "ann"} | line).encode() for line in lines]
    return Parser(source or SourceSettings(name="log"), events).parse([(f"log:{n}", text) for n, text in enumerate(texts)], NOW)


def event(line: bytes | dict, source: SourceSettings | None = None) -> dict[str, object]:
    """The one event of a line, as a dict of everything it has."""
    batch, rejects = parse(line, source=source)
    assert rejects == ()
    ours = {"time": batch.time[0], "user": batch.user[0], "session": batch.session[0], "id": batch.event_id[0]}
    return {n: v for n, v in (ours | {n: c[0] for n, c in batch.attributes.items()}).items() if v is not None}


BASE = {"time": SECONDS, "user": "ann", "action": "event"}
BAD: list[tuple[str, bytes | dict]] = [
    ("not_json", b'{"user":'),
    ("not_json", b"plain words"),
    ("not_json", b'{"time":NaN,"user":"ann"}'),
    ("not_json", b'{"amount":Infinity,"user":"ann"}'),
    ("not_json", b'{"user":"\\udc00 alone"}'),
    ("not_an_object", b"[1]"),
    ("not_an_object", b'"ann"'),
    ("invalid_utf8", b'{"user":"\xff"}'),
    ("invalid_utf8", b"\xff\xfe"),
    ("nul_byte", b'{"user":"a\x00b"}'),
    ("nul_byte", b'{"user":"a\\u0000b"}'),
    ("nul_byte", b'{"us\\\\\\u0000er":"a"}'),
    ("nul_byte", b"\0" * 100),
    ("line_too_long", {"note": "x" * 2000}),
    ("user_missing", {"user": ""}),
    ("user_missing", {"user": " \t"}),
    ("user_missing", {"user": None}),
    ("user_missing", b'{"time":"2020-01-01T00:00:00Z"}'),
    ("user_not_text", {"user": 1.5}),
    ("user_not_text", {"user": True}),
    ("user_not_text", {"user": ["ann"]}),
    ("user_too_long", {"user": "a" * (LONGEST_NAME + 1)}),
    ("time_missing", b'{"user":"ann"}'),
    ("time_missing", {"time": None}),
    ("time_missing", {"time": ""}),
    ("time_unparsable", {"time": "yesterday"}),
    ("time_unparsable", {"time": True}),
    ("time_unparsable", {"time": [TIME]}),
    ("time_unparsable", {"time": "2020-13-01T00:00:00Z"}),
    ("time_unparsable", {"time": 1e300}),
    ("time_unparsable", {"time": 10**30}),
    ("time_without_zone", {"time": "2020-01-01T00:00:00"}),
    ("time_without_zone", {"time": "2020-01-01 00:00:00.5"}),
    ("time_without_zone", {"time": "2020-01-01"}),
    ("time_without_zone", {"time": "20200101"}),
    ("time_before_1970", {"time": "1969-12-31T23:59:59Z"}),
    ("time_before_1970", {"time": "0001-01-01T00:00:00+14:00"}),
    ("time_before_1970", {"time": -1}),
    ("time_in_future", {"time": NOW + 301}),
    ("time_in_future", {"time": "9999-12-31T23:59:59Z"}),
    ("number_out_of_range", b'{"amount":1e400,"user":"ann"}'),
    ("number_out_of_range", {"amount": 10**400}),
    ("number_out_of_range", {"amount": -(10**400)}),
    ("too_many_attributes", {f"a{n}": 1 for n in range(9)}),
    ("too_many_attributes", {"all": {f"a{n}": {"b": 1} for n in range(40)}}),
    ("nested_too_deep", b'{"a":' * 17 + b"1" + b"}" * 17),
    ("nested_too_deep", b'{"a":' + b"[" * 17 + b"]" * 17 + b"}"),
]


@pytest.mark.parametrize(("reason", "line"), BAD)
def test_what_is_no_event_is_refused_with_its_reason(reason: str, line: bytes | dict) -> None:
    batch, rejects = parse(line)
    assert [r.reason for r in rejects] == [reason]
    assert (len(batch), rejects[0].source, rejects[0].position) == (0, "log", "log:0")


def test_every_reason_is_shown_by_a_test() -> None:
    shown_elsewhere = {"late", "file_damaged", "wrong_columns"}  # the engine; a folder; below
    assert {reason for reason, _ in BAD} | shown_elsewhere == REASONS


def test_deep_nesting_is_refused_and_not_an_error() -> None:
    wide = EventSettings(max_line_bytes=1 << 20)
    _, rejects = parse(b'{"a":' * 100_000, b"[" * 100_000, b"\xef\xbb\xbf" * 100_000, events=wide)
    assert [r.reason for r in rejects] == ["nested_too_deep", "nested_too_deep", "not_json"]


def test_a_bad_line_leaves_its_neighbours_alone() -> None:
    batch, rejects = parse({"user": "ann"}, *(line for _, line in BAD), {"user": "bob"}, {"amount": 10**400}, {"user": "cid"})
    assert list(batch.user) == ["ann", "bob", "cid"]
    assert [r.reason for r in rejects] == [*(reason for reason, _ in BAD), "number_out_of_range"]
    assert [r.position for r in rejects] == [f"log:{n}" for n in [*range(1, len(BAD) + 1), len(BAD) + 2]]


def test_a_reject_keeps_the_beginning_of_its_line_with_undecodable_bytes_escaped() -> None:
    _, (first, second) = parse(b"ab\xff\0\n", b"x" * 3000 * 2)
    assert first.line == "ab\\xff\\x00"
    assert second.line == "x" * LINE_KEPT


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)
some_events = st.builds(
    lambda base, more: json.dumps(base | more).encode(),
    st.sampled_from([{}, {"time": TIME, "user": "ann"}]),
    st.dictionaries(st.text(max_size=3) | st.sampled_from(OURS), json_values),
)


@given(st.lists(st.binary(max_size=40) | some_events))
@example([b'{"time":1,"user":"a","action":{"action":1}}', b"\r\n", b"\x0b"])
def test_every_line_that_is_not_blank_is_an_event_or_a_reject_and_none_raises(lines: list[bytes]) -> None:
    batch, rejects = parse(*lines)
    assert len(batch) + len(rejects) == sum(bool(line.strip()) for line in lines)
    assert {r.reason for r in rejects} <= REASONS
    assert all(len(column) == len(batch) for column in [batch.user, batch.session, batch.event_id, *batch.attributes.values()])
    assert all(isinstance(a, str) and a for a in batch.attributes["action"])
    for values in batch.attributes.values():
        assert all(v is None or (isinstance(v, str) and len(v) <= LONGEST_TEXT) or np.isfinite(v) for v in values)


@pytest.mark.parametrize(
    "text",
    [
        "2020-01-01T00:00:00Z",
        "2020-01-01 00:00:00Z",
        "2020-01-01t00:00:00z",
        "2020-01-01T00:00:00.000000000Z",
        "2020-01-01T02:30:00+02:30",
        "2019-12-31T19:00:00-05:00",
        "2019-12-31T23:59:60Z",
        1577836800,
        1577836800.0,
        1577836800000,
        1577836800000000,
        "1577836800",
        "1577836800000",
    ],
)
def test_one_moment_has_many_spellings(text: object) -> None:
    assert event({"time": text})["time"] == SECONDS


@given(st.datetimes(datetime(1970, 1, 2), datetime(2020, 9, 1), timezones=st.timezones()))
def test_time_is_read_to_the_microsecond(moment: datetime) -> None:
    found = event({"time": moment.isoformat()})["time"]
    assert found == (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def test_the_clock_may_be_ahead_by_what_the_settings_allow() -> None:
    batch, rejects = parse({"time": NOW + 10}, {"time": NOW + 11}, events=EventSettings(future=Duration(10)))
    assert (len(batch), [r.reason for r in rejects]) == (1, ["time_in_future"])


def test_values_become_text_or_numbers_and_null_is_absent() -> None:
    line = {"t": "x", "i": 3, "f": 0.5, "b": True, "n": None, "l": [1, "a", False, None, 1.5], "e": [], "m": [{"k": 1}, [2]]}
    assert event(line) == BASE | {"t": "x", "i": 3.0, "f": 0.5, "b": "true", "l": "1,a,false,null,1.5", "m": '[{"k":1},[2]]'}


def test_a_column_may_mix_kinds_and_gaps() -> None:
    batch, _ = parse({"a": 1}, {"a": "x"}, {}, {"a": None, "b": False}, {"a": 2.5})
    assert list(batch.attributes["a"]) == [1.0, "x", None, None, 2.5]
    assert list(batch.attributes["b"]) == [None, None, None, "false", None]
    assert list(batch.attributes) == ["a", "action", "b"]


def test_nested_names_are_joined_and_a_literal_dotted_name_wins() -> None:
    assert event({"a": {"b": {"c": 1}, "d": 2}, "a.d": 3, "x": {}}) == BASE | {"a.b.c": 1.0, "a.d": 3.0}


def test_braces_in_a_text_are_text() -> None:
    text = "{" * 30 + "[" * 30 + "\\u0000"
    assert event({"note": text}) == BASE | {"note": text}


def test_fields_are_renamed_and_do_not_stay_under_their_old_name() -> None:
    fields = {
        "time": "ts",
        "user": "client.user.id",
        "action": "verb",
        "session": "client.sid",
        "id": "uuid",
        "amount": "pay.value",
    }
    line = {
        "ts": 1e9,
        "verb": "buy",
        "client": {"user": {"id": "bob"}, "sid": 7, "ip": "1.2.3.4"},
        "uuid": "u1",
        "pay": {"value": 5},
    }
    found = event(json.dumps(line).encode(), SourceSettings(name="log", fields=fields))
    assert found == {
        "time": 1e9,
        "user": "bob",
        "action": "buy",
        "session": "7",
        "id": "u1",
        "amount": 5.0,
        "client.ip": "1.2.3.4",
    }


def test_one_field_may_serve_two_purposes_and_two_may_change_places() -> None:
    twice = SourceSettings(fields={"user": "uid", "session": "uid"})
    assert event(b'{"uid":"bob","time":1577836800}', twice) == BASE | {"user": "bob", "session": "bob"}
    swapped = SourceSettings(fields={"a": "b", "b": "a"})
    assert event({"a": 1, "b": 2}, swapped) == BASE | {"a": 2.0, "b": 1.0}


def test_constants_fill_only_what_an_event_lacks() -> None:
    source = SourceSettings(constants={"action": "visit", "site": "main", "user": "nobody"})
    assert event({}, source) == BASE | {"action": "visit", "site": "main"}
    assert event({"action": "", "site": "other"}, source) == BASE | {"action": "visit", "site": "other"}
    assert event({"user": ""}, source)["user"] == "nobody"


def test_a_whole_number_is_a_user() -> None:
    assert event({"user": 12345678901234567890})["user"] == "12345678901234567890"


def test_an_empty_session_is_none_and_a_missing_action_is_called_event() -> None:
    assert event({"session": "", "id": "", "action": None}) == BASE
    assert event({"session": [], "id": [], "action": []}) == BASE


def test_long_texts_are_cut_but_stay_different() -> None:
    first, second = event({"a": "x" * 300}), event({"a": "x" * 299 + "y"})
    assert (len(str(first["a"])), first["a"] != second["a"]) == (LONGEST_TEXT, True)
    assert len(str(event({"session": "s" * 600})["session"])) == LONGEST_NAME
    assert len(max(event({"n" * 300: 1}), key=len)) == LONGEST_TEXT


@given(st.text(max_size=40), st.text(max_size=40))
def test_cutting_keeps_texts_apart_and_short_ones_whole(a: str, b: str) -> None:
    assert (short(a, 20) == short(b, 20)) == (a == b)
    assert len(short(a, 20)) <= 20


def test_the_parse_of_a_line_does_not_depend_on_its_neighbours() -> None:
    lines = [{"a": n, "b": {"c": str(n)}, "d": [n]} if n % 3 else {"a": str(n), "time": n * 1e6 or 1} for n in range(50)]
    together, _ = parse(*lines)
    for n, line in enumerate(lines):
        alone, _ = parse(line)
        assert alone.time[0] == together.time[n]
        assert {k: c[0] for k, c in alone.attributes.items()} == {
            k: c[n] for k, c in together.attributes.items() if c[n] is not None
        }


def test_events_that_share_no_names_do_not_fill_the_memory() -> None:
    parser = Parser(SourceSettings(name="log"), EventSettings())
    lines = [(str(n), json.dumps({"time": TIME, "user": "ann"} | {f"{n}.{k}": 1 for k in range(100)}).encode()) for n in range(60)]
    events, count, largest = 0, 0, 0
    while count < len(lines):
        taken = parser.take([(parser.json_object, lines[count:])], NOW, cells=10_000)
        events, count = events + len(taken.batch), count + taken.count
        largest = max(largest, len(taken.batch.attributes) * len(taken.batch))
    assert events == len(lines)
    assert largest < 2 * 10_000


CSV_NAMES = ["time", "user", "amount"]


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("wrong_columns", b"2020-01-01T00:00:00Z,ann"),
        ("wrong_columns", b"2020-01-01T00:00:00Z,ann,1,2"),
        ("wrong_columns", b'2020-01-01T00:00:00Z,ann,"1'),
        ("nul_byte", b"2020-01-01T00:00:00Z,a\0n,1"),
        ("invalid_utf8", b"2020-01-01T00:00:00Z,\xff,1"),
        ("user_missing", b"2020-01-01T00:00:00Z,,1"),
    ],
)
def test_a_bad_csv_row_is_refused(reason: str, line: bytes) -> None:
    parser = Parser(SourceSettings(name="log"), EVENTS)
    taken = parser.take([(parser.csv_row(CSV_NAMES), [("1", line), ("2", b'1577836800,"b, o","1.5"\r\n')])], NOW)
    assert [r.reason for r in taken.rejects] == [reason]
    assert (taken.batch.user[0], taken.batch.attributes["amount"][0], taken.batch.time[0]) == ("b, o", "1.5", SECONDS)


def test_an_empty_csv_cell_is_absent() -> None:
    parser = Parser(SourceSettings(name="log"), EVENTS)
    taken = parser.take([(parser.csv_row(CSV_NAMES), [("1", b"2020-01-01T00:00:00Z,ann,")])], NOW)
    assert list(taken.batch.attributes) == ["action"]


FORMS = ("{}Z", "{}.5Z", "{}.250Z", "{}.000001Z", "{}+05:30", "{}.125-11:00")
MOMENTS = ("1970-01-01T23:59:59", "1999-12-31T00:00:00", "2000-02-29T12:30:15", "2024-02-29T23:00:01", "2026-03-01T00:00:00")


@pytest.mark.parametrize("form", FORMS)
def test_times_of_one_form_are_the_same_read_together_as_alone(form: str) -> None:
    texts = [form.format(moment) for moment in MOMENTS]
    together = moments(texts)
    assert together is not None
    assert together.tolist() == [seconds(text, 1e12) for text in texts]


@pytest.mark.parametrize(
    "text", ["2025-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:6OZ"]
)
def test_one_odd_time_among_others_has_all_of_them_read_alone(text: str) -> None:
    assert moments([f"{MOMENTS[0]}Z", text]) is None


@pytest.mark.parametrize(
    "odd", [b'{"a":1}{"b":2}', b'{"a":"x', b"", b"[1]", b'{"a":{"b":1}}', b'{"a":"\\u0000"}', b'{"a":1,', b'"b":2}', b'{"a":[{}]}']
)
def test_one_odd_line_among_others_has_all_of_them_read_alone(odd: bytes) -> None:
    assert flat_objects([b'{"a":1}\n', b'{"b":"x"}\r\n'], 100) == [{"a": 1}, {"b": "x"}]
    assert flat_objects([b'{"a":1}\n', odd + b"\n", b'{"b":"x"}\n'], 100) is None


def test_lines_taken_together_are_what_they_are_alone() -> None:
    usual = [
        b'{"time":"2020-01-01T00:00:%02dZ","user":"u%d","page":"p%d","n":%d.5,"id":"%d"}' % (n, n % 3, n % 7, n, n)
        for n in range(60)
    ]
    odd = [
        b"{}",
        b'{"time":1,"user":7}',
        b'{"time":"2020-01-01T00:00:00Z","user":" "}',
        b'{"time":"2020-01-01T00:00:00Z","user":"u","x":1e999}',
    ]
    parser = Parser(SourceSettings(), EventSettings())
    for lines in (usual, usual + odd):
        labelled = [(str(n), line) for n, line in enumerate(lines)]
        together, refused = parser.parse(labelled, NOW)
        alone = concat([parser.parse([one], NOW)[0] for one in labelled])
        assert {r.position for r in refused} == ({"60", "62", "63"} if len(lines) > 60 else set())
        for name in ("time", "user", "session", "event_id", "position"):
            assert getattr(together, name).tolist() == getattr(alone, name).tolist()
        assert {n: c.tolist() for n, c in together.attributes.items()} == {n: c.tolist() for n, c in alone.attributes.items()}
