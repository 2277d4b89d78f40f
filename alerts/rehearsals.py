"""What a rehearsal found, for people: on a terminal, or as one HTML file that needs nothing else. Takes what `rehearse` returns.

Both show the same table; the file adds plots (matplotlib's SVG, drawn without a display, in the colours of the page).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report = Mapping[str, Any]
COLUMNS = ("takeovers", "caught", "share", "95 % interval", "median time", "median events", "AUC", "at 1 %")
UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
INK, DATA, IDEAL = "#808182", "#3b82c4", "#d9822b"  # INK becomes the colour of the page's text
FIGURE = (6.4, 3.4)  # inches
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1c1e21; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
tbody + tbody { border-top: 2px solid #8888; }
figure { margin: 2rem 0; } svg { max-width: 100%; height: auto; }
.partial { border: 2px solid #d9822b; padding: .5rem 1rem; font-weight: bold; }
@media (prefers-color-scheme: dark) { body { color: #e3e5e8; background: #17191c; } }
"""


@dataclass(frozen=True)
class Plot:
    """One drawing: its title, what it shows, and how it is drawn."""

    title: str
    caption: str
    draw: Callable[[Axes, Report], None]


def sheet(report: Report) -> list[list[tuple[str, ...]]]:
    """Groups of rows: by kind, all together, by maturity of the account; a name, then a cell for each of COLUMNS."""
    maturity = [_row(f"{name} account", figures) for name, figures in report["maturity"].items()]
    return [[_row(name, figures) for name, figures in report["kinds"].items()], [_row("all", report["all"])], maturity]


def facts(report: Report) -> list[str]:
    """The rest of what was found, a sentence each."""
    held, learnt, owners = report["held_back"], report["learnt_from"], report["owners"]
    shares = [f"{_share(of)} of owners' sessions have p at most {float(p):.1%}" for p, of in owners["share_at_p"].items()]
    return [
        f"learnt from {learnt['sessions']:,} sessions of {learnt['accounts']:,} accounts over {learnt['days']:g} days; "
        f"held back {held['days']:g} days from {held['from']}: {held['sessions']:,} sessions of {held['accounts']:,} accounts",
        f"false alarms: {owners['false_alarms_per_day']:.1f} a day, {owners['false_alarms_per_1000_accounts_a_day']:.1f} per 1,000 "
        f"accounts a day; budget: {report['budget_per_day']:g} alerts a day, spent at p up to {report['alarm_at_p']:.2g}",
        f"calibration: {'; '.join(shares)}",
        f"{owners['alerts_after_a_takeover']:,} alerts on owners' own sessions after a takeover: neither caught nor false",
        f"{report['rounds']} of {report['rounds_planned']} replays, {report['days_judged']:g} days in all; "
        f"seed {report['seed']}, pack {report['pack']}",
    ]


def heading(report: Report) -> str:
    """What this is; says so where it is not whole."""
    partial = f"PARTIAL, {report['partial']}: " if report["partial"] else ""
    return f"{partial}simulated takeovers on held-back time, caught at the alert budget"


def terminal(report: Report) -> RenderableType:
    """The table and the facts for a console."""
    table = Table(box=None, pad_edge=False, header_style="bold", title=heading(report), title_justify="left")
    for name in ("kind", *COLUMNS):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for group in sheet(report):
        for row in group:
            table.add_row(*row)
        table.add_row()
    return Group(table, *map(Text, facts(report)), Text(NOTE, style="dim"))


NOTE = (
    "at 1 %: share of the takeovers' sessions stranger than 99 % of owners' sessions. Times and events are counted from the first "
    "foreign event to the event at which the alert was raised; a session that is judged at its end is judged a silence later."
)


def page(report: Report) -> bytes:
    """One HTML file with the table, the facts and the plots; nothing is loaded from elsewhere."""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("kind", *COLUMNS))
    bodies = "".join(f"<tbody>{''.join(map(_html_row, group))}</tbody>" for group in sheet(report))
    title = escape(heading(report))
    partial = f'<p class="partial">{escape(report["partial"])}; what follows is of that part alone</p>' if report["partial"] else ""
    figures = "".join(
        f'<figure role="img" aria-label="{escape(plot.title)}"><h2>{escape(plot.title)}</h2>{svg(plot, number, report)}'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>\n"
        for number, plot in enumerate(PLOTS)
    )
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts(report))
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        f"<h1>unlike rehearse</h1>{partial}<p>{title}</p>\n<table><thead><tr>{head}</tr></thead>{bodies}</table>\n"
        f"<p>{escape(NOTE)}</p><ul>{items}</ul>\n{figures}</body>\n</html>\n"
    ).encode()


def svg(plot: Plot, number: int, report: Report) -> str:
    """One drawing as SVG to stand inside a page; its ids are its own."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with matplotlib.rc_context(settings | {"svg.fonttype": "none", "svg.hashsalt": plot.title}):
        figure = Figure(figsize=FIGURE, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.2)
        plot.draw(axes, report)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    drawn = out.getvalue()
    drawn = re.sub(r"<metadata>.*?</metadata>|\s+xmlns(:\w+)?=\"[^\"]*\"", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1plot{number}-", drawn).replace(INK, "currentColor")


def _row(name: str, figures: Report) -> tuple[str, ...]:
    interval = figures["interval"]
    return (
        name,
        f"{figures['takeovers']:,}",
        f"{figures['caught']:,}",
        _share(figures["share"], 0),
        "-" if interval is None else f"{100 * interval[0]:.0f} to {interval[1]:.0%}",
        "-" if figures["median_seconds"] is None else span(figures["median_seconds"]),
        "-" if figures["median_events"] is None else f"{figures['median_events']:g}",
        "-" if figures["auc"] is None else f"{figures['auc']:.3f}",
        _share(figures["caught_at_1_percent"], 0),
    )


def _html_row(row: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"


def _share(share: float | None, decimals: int = 2) -> str:
    return "-" if share is None else f"{share:.{decimals}%}"


def span(seconds: float) -> str:
    """A length of time in its largest unit: `45 s`, `12 min`, `3.4 h`, `2 d`."""
    size, unit = next(((s, u) for s, u in UNITS if seconds >= s), UNITS[-1])
    return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"


def _draw_kinds(axes: Axes, report: Report) -> None:
    known = {name: figures for name, figures in report["kinds"].items() if figures["takeovers"]}
    for at, figures in enumerate(known.values()):
        low, high = figures["interval"]
        axes.barh(at, figures["share"], color=DATA, height=0.6)
        axes.plot([low, high], [at, at], color=IDEAL, linewidth=2)
    axes.set_yticks(range(len(known)), list(known))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), xlabel="share caught")


def _draw_curve(axes: Axes, report: Report) -> None:
    if report["curve"]:
        alarms, caught = zip(*report["curve"], strict=True)
        axes.step(alarms, caught, where="post", color=DATA)
    axes.axvline(report["budget_per_day"], color=IDEAL, linestyle="--")
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set(ylim=(0, 1.02), xlabel="false alarms a day", ylabel="share of takeovers caught")
    axes.set_xlim(left=0)


def _draw_delays(axes: Axes, report: Report) -> None:
    seconds = [max(s, 1.0) for s in report["seconds_to_detection"]]
    if seconds:
        longest = max(*seconds, 60.0)
        edges = [longest ** (i / 24) for i in range(25)]
        axes.hist(seconds, [*edges[:-1], longest * 1.001], color=DATA)
    axes.set_xscale("log")
    ticks = [1.0, 60.0, 3600.0, 86400.0, 7 * 86400.0]
    axes.set_xticks(ticks, ["1 s", "1 min", "1 h", "1 d", "7 d"])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="from the first foreign event to the alert", ylabel="takeovers", xlim=(1, max([3600.0, *seconds]) * 1.2))


def _draw_calibration(axes: Axes, report: Report) -> None:
    if report["calibration"]:
        p, share = zip(*((p, share) for p, share in report["calibration"] if share > 0), strict=True)
        axes.plot(p, share, color=DATA, marker=".")
    axes.plot([0.001, 1], [0.001, 1], color=IDEAL, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="p", ylabel="share of owners' sessions at or below")


PLOTS = (
    Plot("Caught by kind", "Bars: share caught at the alert budget. Lines: 95 % intervals (Wilson).", _draw_kinds),
    Plot(
        "Caught against false alarms",
        "As the threshold on p rises: takeovers with a session at or below it, and owners' sessions at or below it each day, by "
        "their verdicts at the end. Looks at open sessions are not counted here. Dashed: the budget.",
        _draw_curve,
    ),
    Plot("Time to detection", "Of the takeovers that were caught.", _draw_delays),
    Plot(
        "Calibration",
        "Owners' sessions only. On the dashed line p means what it says; above it there are more false alarms than planned for.",
        _draw_calibration,
    ),
)
