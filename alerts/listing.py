"""Incidents on a terminal, or as plain text of a fixed width where there is none. Takes the JSON objects that sinks are sent."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from alerts.explanations import harmless, nats_of, shown_score
from detector.lines import seconds

PLAIN_WIDTH = 120  # columns where no terminal says how many
BAR_WIDTH = 24  # characters of the longest bar
ACCOUNT_LIMIT, TEXT_LIMIT = 64, 400  # characters
ID_SHOWN = 8  # digits of an id in the table: few enough to read, enough to be the only one among ten thousand alerts
COLOURS = {"low": "dim", "medium": "yellow", "high": "red", "critical": "bold red"}


def console_for(stream: TextIO) -> Console:
    """A console that writes to `stream`: colours and the window's width on a terminal, else PLAIN_WIDTH columns and no escapes.

    A character that the stream's encoding lacks is written as an escape.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if terminal else None,
        width=None if terminal else PLAIN_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def table(alerts: Iterable[Mapping[str, Any]]) -> Table:
    """One line per incident or alert, in the order given: when, account, severity, state, how sure, why, and its id."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    out.add_column("when (UTC)", no_wrap=True, min_width=16)
    out.add_column("account", max_width=24)
    out.add_column("severity", no_wrap=True, min_width=8)
    out.add_column("state", no_wrap=True, min_width=4)
    out.add_column("sure", no_wrap=True, justify="right", min_width=4)
    out.add_column("main reason")
    out.add_column("id", no_wrap=True, min_width=ID_SHOWN)
    for alert in alerts:
        verdict = verdict_of(alert)
        out.add_row(
            when(time_of(alert)),
            one_line(safe(verdict["user"], ACCOUNT_LIMIT)),
            coloured(alert["severity"]),
            safe(alert.get("state", "-"), ACCOUNT_LIMIT),
            sure(verdict["belief"]),
            one_line(safe(main_reason(alert), TEXT_LIMIT)),
            safe(alert["id"][:ID_SHOWN], ID_SHOWN),
        )
    return out


def similar_table(sessions: Iterable[Mapping[str, Any]]) -> Table:
    """One line per session as `alerts.similar` finds them, in the order given."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    out.add_column("like", no_wrap=True, justify="right", min_width=5)
    out.add_column("when (UTC)", no_wrap=True, min_width=16)
    out.add_column("account", max_width=24)
    out.add_column("session", max_width=24)
    out.add_column("one in", no_wrap=True, justify="right", min_width=6)
    out.add_column("sure", no_wrap=True, justify="right", min_width=4)
    out.add_column("alert", no_wrap=True, min_width=ID_SHOWN)
    for found in sessions:
        out.add_row(
            f"{found['likeness']:.3f}",
            when(found["start"]),
            one_line(safe(found["user"], ACCOUNT_LIMIT)),
            one_line(safe("-" if found["session"] is None else found["session"], ACCOUNT_LIMIT)),
            one_in(found["p"]),
            sure(found["belief"]),
            "-" if found["alert"] is None else safe(found["alert"][:ID_SHOWN], ID_SHOWN),
        )
    return out


def show(alert: Mapping[str, Any]) -> RenderableType:
    """One alert in full: what it is about, and each reason with its nats as a bar: `#` against the owner, `-` for the owner."""
    verdict = verdict_of(alert)
    session = "without a name" if verdict["session"] is None else verdict["session"]
    facts = [
        ("incident", safe(alert["id"], ACCOUNT_LIMIT)),
        ("account", safe(verdict["user"], TEXT_LIMIT)),
        ("severity", coloured(alert["severity"])),
        ("state", safe(alert.get("state", "-"), ACCOUNT_LIMIT)),
        ("raised", Text(f"{when(time_of(alert))} UTC, {plural(alert.get('sessions', 1), 'alarming session')}")),
        ("session", safe(session, TEXT_LIMIT)),
        (
            "",
            Text(
                f"{when(verdict['start'])} to {when(verdict['end'])} UTC, {plural(verdict['events'], 'event')}" + still_open(alert)
            ),
        ),
        ("sure", Text(f"{sure(verdict['belief'])} that the account is not as usual")),
        ("", Text(f"one in {one_in(verdict['p'])} of owners' sessions looks at least this strange")),
        ("known", Text(f"{plural(verdict['history'], 'earlier session')}, {verdict['maturity']} account")),
        ("pack", safe(verdict["pack"], ACCOUNT_LIMIT)),
    ]
    head = Table.grid(padding=(0, 2))
    for name, value in facts:
        head.add_row(Text(name, style="bold"), value)
    return Group(head, Text(), reasons_table(alert, verdict["score"]))


def reasons_table(alert: Mapping[str, Any], score: float) -> RenderableType:
    """The reasons, strongest against the owner first, with their sum."""
    reasons = alert["reasons"]
    longest = max((abs(nats_of(reason)) for reason in reasons), default=0.0)
    out = Table.grid(padding=(0, 2))
    out.add_column(justify="right", no_wrap=True)
    out.add_column(no_wrap=True, width=BAR_WIDTH)
    out.add_column(overflow="fold")
    for reason in reasons:
        nats = nats_of(reason)
        out.add_row(
            f"{nats:+.2f}", Text(bar(nats, longest), style="red" if nats > 0 else "green"), safe(reason["text"], TEXT_LIMIT)
        )
    out.add_row(Text(f"{shown_score(score):+.2f}", style="bold"), "", Text("score, in nats: the sum", style="bold"))
    return Padding(out, (0, 0, 0, 2))


def bar(nats: float, longest: float) -> str:
    """A bar whose length says how much; every contribution has at least one mark."""
    marks = max(1, round(BAR_WIDTH * abs(nats) / longest)) if nats else 0
    return ("#" if nats > 0 else "-") * marks


def time_of(alert: Mapping[str, Any]) -> str | float:
    """When an alert was raised, or an incident opened."""
    time: str | float = alert["opened"] if "opened" in alert else alert["time"]
    return time


def verdict_of(alert: Mapping[str, Any]) -> Mapping[str, Any]:
    """The verdict's fields, which are nested in stored alerts and lie beside the alert's own in flat lines."""
    return alert.get("verdict", alert)


def main_reason(alert: Mapping[str, Any]) -> str:
    """The strongest reason against the owner in full, or the summary."""
    accusing = [reason for reason in alert["reasons"] if nats_of(reason) > 0]
    return str(accusing[0]["text"] if accusing else alert["summary"])


def when(time: float | str) -> str:
    """UTC to the minute, from seconds since 1970 or from RFC 3339."""
    time = seconds(time) if isinstance(time, str) else time
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}"


def sure(belief: float) -> str:
    """Belief in percent; certainty is never claimed."""
    return ">99%" if belief > 0.99 else f"{belief:.0%}"


def one_in(p: float) -> str:
    """How many owners' sessions it takes to see one like this."""
    return f"{1 / p:,.0f}"


def plural(count: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def still_open(alert: Mapping[str, Any]) -> str:
    """Says that the session went on after the alert."""
    return ", still open when raised" if alert.get("open") else ""


def safe(text: object, limit: int) -> Text:
    """Text that is shown as it is, without markup or control characters."""
    return Text(harmless(str(text), limit))


def one_line(text: Text) -> Text:
    """Text that is cut where its column ends; the column itself may shrink, which one that is told not to wrap would not."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def coloured(severity: str) -> Text:
    """A severity in its colour."""
    return Text(harmless(severity, ACCOUNT_LIMIT), style=COLOURS.get(severity, ""))


def answered(what: str, told: Any) -> str:
    """A line or a few on what the daemon did, or found."""
    if what == "digest":
        held = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in told["held_back"].items())
        lines = [f"{told['day']}: {plural(told['opened'], 'incident')} opened, {told['closed']} closed; held back: {held}"]
        return "\n".join(lines + [f"  {one_text(row)}" for row in told["incidents"]])
    if what == "preview":
        silenced = f"{plural(told['incidents'], 'incident')} with {plural(told['sessions'], 'session')}"
        return f"would have silenced {silenced} in the last 30 days, {told['confirmed']} of them confirmed"
    if what == "muted":
        return (
            "\n".join(f"{harmless(m['user'], ACCOUNT_LIMIT)} until {m['until'] or 'unmuted'}" for m in told)
            or "no account is muted"
        )
    if what == "audit":
        whole = "the chain holds" if told["whole"] else f"the chain is broken: {told['broken']}"
        return "\n".join([*map(entry_text, told["entries"]), whole])
    rows = told if isinstance(told, list) else [told]
    return "\n".join(one_text(row) if "id" in row else "done" for row in rows)


def entry_text(entry: Mapping[str, Any]) -> str:
    """A line of the audit."""
    why = harmless(entry["why"], TEXT_LIMIT)
    return f"{entry['time']} {harmless(entry['who'], 40)} {entry['what']} {entry['incident']} {why}"


def one_text(row: Mapping[str, Any]) -> str:
    """An incident in a line."""
    name = harmless(row["user"], ACCOUNT_LIMIT)
    return f"{row['id']} {row['state']} {row['severity']} {name}: {harmless(row['summary'], TEXT_LIMIT)}"
