from __future__ import annotations

import io
import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from alerts.listing import BAR_WIDTH, PLAIN_WIDTH, bar, console_for, show, sure, table
from alerts.policy import Policy, raise_alerts
from detector.records import Verdict

HOSTILE = "[red]eve[/red]\x1b[2J\x1b]0;owned\x07\u202e\n" + "x" * 1_000_000


def alert(user: str = "ada", device: str = "Nokia") -> Any:
    evidence = {"device": 4.2, "hour": 1.3, "embedding": -0.8}
    verdict = Verdict(user, None, 1.7e9, 1.7e9 + 60, 5, 4.7, 0.0008, 0.997, 1, "mature", evidence, "pack-1")
    details = {"device": {"seen": [(device, 1)], "usual": [(device + "2", 40, 0)], "last_seen": None}}
    (raised,) = raise_alerts([verdict], Policy(5, 5000).threshold, 1.7e9 + 60, still_open=True, describe=lambda _: details)
    return msgspec.json.decode(msgspec.json.encode(raised))


def printed(renderable: Any, stream: Any = None) -> str:
    stream = stream or io.StringIO()
    console_for(stream).print(renderable)
    return stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_row_says_who_when_how_sure_how_grave_and_why() -> None:
    row = printed(table([alert()])).splitlines()[1]
    for part in ("2023-11-14 22:14", "ada", "high", ">99%", 'device never seen before: "Nokia"', alert()["id"][:8]):
        assert part in row


def test_rows_keep_their_order() -> None:
    lines = printed(table([alert("zoe"), alert("ada")])).splitlines()
    assert [name for line in lines for name in ("zoe", "ada") if name in line] == ["zoe", "ada"]


def test_each_alert_is_one_line_even_in_a_narrow_window() -> None:
    narrow = Console(file=io.StringIO(), width=80)
    narrow.print(table([alert("u" * 500, "d" * 500)] * 3))
    lines = narrow.file.getvalue().splitlines()
    assert len(lines) == 4
    assert all("device" in line and alert("u" * 500)["id"][:8] in line for line in lines[1:])


def test_no_alerts_is_a_table_with_a_head_only() -> None:
    assert len(printed(table([])).splitlines()) == 1


def test_an_alert_is_shown_with_bars_and_the_sum_of_its_reasons() -> None:
    lines = [re.sub(r" +", " ", line).strip() for line in printed(show(alert())).splitlines()]
    assert f'+4.20 {"#" * BAR_WIDTH} device never seen before: "Nokia"; usually "Nokia2" (40)' in lines
    assert "+1.30 ####### hour of the day unusual" in lines
    assert "-0.80 ----- like the remembered sessions" in lines
    assert lines[-1] == "+4.70 score, in nats: the sum"
    assert "known 1 earlier session, mature account" in lines
    assert any("5 events, still open when raised" in line for line in lines)


def test_alert_lines_with_the_verdict_beside_the_alerts_own_fields_are_read_as_well() -> None:
    nested = alert()
    flat = nested.pop("verdict") | nested
    assert printed(show(flat)) == printed(show(alert()))
    assert printed(table([flat])) == printed(table([alert()]))


def test_without_a_terminal_lines_are_plain_and_of_a_fixed_width() -> None:
    out = printed(table([alert("u" * 500)])) + printed(show(alert("u" * 500)))
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= PLAIN_WIDTH


def test_on_a_terminal_severity_has_a_colour() -> None:
    assert console_for(Terminal()).is_terminal
    narrow = Console(file=Terminal(), force_terminal=True, color_system="standard", width=100)
    narrow.print(table([alert()]))
    assert "\x1b[31mhigh" in narrow.file.getvalue()


def test_hostile_names_reach_no_terminal_unescaped() -> None:
    hostile = alert(HOSTILE, HOSTILE)
    for out in (printed(table([hostile])), printed(show(hostile))):
        assert "[red]" in out
        assert not set(out) & set("\x1b\x07\u202e\r")
        assert len(out) < 10_000


def test_a_stream_that_lacks_a_character_gets_its_escape() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    console_for(stream).print(table([alert("Zoë")]))
    stream.flush()
    assert b"Zo\\xeb" in raw.getvalue()


@given(st.floats(-1e6, 1e6), st.floats(0.01, 1e6))
def test_a_bar_is_never_longer_than_its_room_and_never_empty_for_something(nats: float, longest: float) -> None:
    length = len(bar(nats, max(abs(nats), longest)))
    assert (1 if nats else 0) <= length <= BAR_WIDTH


def test_certainty_is_never_claimed() -> None:
    assert [sure(b) for b in (0.0, 0.5, 0.99, 0.9901, 1.0)] == ["0%", "50%", "99%", ">99%", ">99%"]
