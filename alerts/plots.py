"""Pictures for the review page, as SVG: drawn by matplotlib, the same bytes for the same data."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

INK = {
    False: ("#1f2933", "#9aa5b1", "#0b69a3", "#c22d2d"),
    True: ("#e4e7eb", "#616e7c", "#5bb1e8", "#ff8080"),
}  # text, faint, own, alarm
DRAWING = threading.Lock()  # matplotlib's settings are everybody's


def timeline(rows: Sequence[Mapping[str, Any]], dark: bool = False) -> bytes:
    """Belief after each session over time, and which sessions alarmed."""
    text, faint, own, alarm = INK[dark]
    figure, axes = _figure(text, faint, 7.2, 2.2)
    times = [date2num(datetime.fromisoformat(str(row["end"]).replace("Z", "+00:00"))) for row in rows]
    belief = [float(row["belief"]) for row in rows]
    axes.plot(times, belief, color=own, linewidth=1.2, marker="o", markersize=2.5)
    loud = [(t, b) for t, b, row in zip(times, belief, rows, strict=True) if row["alarm"]]
    axes.scatter([t for t, _ in loud], [b for _, b in loud], color=alarm, s=42, marker="D", zorder=3, label="alarming session")
    axes.set_ylim(-0.04, 1.04)
    axes.set_ylabel("belief", color=text)
    locator = AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    if loud:
        _legend(axes, text)
    return _svg(figure)


def scatter(points: Sequence[Mapping[str, Any]], dark: bool = False) -> bytes:
    """The session among the account's remembered sessions and others', on the two main axes of their embeddings."""
    text, faint, own, alarm = INK[dark]
    figure, axes = _figure(text, faint, 4.6, 3.4)
    looks = {
        "others": (faint, 10, ".", "others' sessions"),
        "own": (own, 22, "o", "the account's"),
        "this": (alarm, 80, "D", "this one"),
    }
    for what, (colour, size, marker, label) in looks.items():
        mine = [p for p in points if p["what"] == what]
        if mine:
            axes.scatter(
                [p["x"] for p in mine], [p["y"] for p in mine], color=colour, s=size, marker=marker, label=label, alpha=0.85
            )
    axes.set_xticks([])
    axes.set_yticks([])
    if points:
        _legend(axes, text)
    return _svg(figure)


def _figure(text: str, faint: str, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=text, labelsize=8)
    for side, line in axes.spines.items():
        line.set_color(faint)
        line.set_visible(side in ("left", "bottom"))
    return figure, axes


def _legend(axes: Axes, text: str) -> None:
    axes.legend(frameon=False, labelcolor=text, fontsize=8, loc="best")


def _svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    with DRAWING, mpl.rc_context({"svg.hashsalt": "unlike", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
