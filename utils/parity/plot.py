"""Draws a parity report: one lane per output, input and batch, on a log axis.

The source's own errors stand beside the export's, and what is allowed as lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from utils.parity.judge import EXACT, Row, worst_first
from utils.text import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.parity.report import Report

_PASS, _FAIL, _GATE, _TEXT, _SOURCE = "#2f6fb2", "#d6392f", "#8a8f98", "#30343b", "#e39a2d"
_BELOW = 0.2  # of a lane: the export stands below its middle, the source above, where there are both
_FLOOR, _CEILING = 1e-9, 1e2  # float32 resolves 6e-8; what lies outside, zero and NaN too, is drawn here


def plot(report: Report) -> Figure:
    """A figure with a dot for each row: blue if it passes, red if not, a red cross where it is no number.

    Above it, in orange, the source framework's own float32, where that was measured.
    """
    # pyplot, not a bare Figure: importing it is what teaches a notebook to show figures.
    import matplotlib.pyplot as plt

    # An exact comparison that passed has no error to show on a logarithmic axis.
    rows = [row for row in report.rows if row.tolerance > EXACT or not row.passed] or report.rows
    lanes = [(case, list(group)) for case, group in groupby(rows, key=lambda row: row.case)]
    figure, axes = plt.subplots(figsize=(8, 1.3 + 0.34 * max(1, len(lanes))), layout="constrained")
    figure.set_facecolor("white")
    for y, (_, lane) in enumerate(lanes):
        _draw_lane(axes, y, lane)
    _label_lanes(axes, [case for case, _ in lanes])
    _style(axes, rows, report.passed)
    _draw_tolerances(axes, [max(row.tolerance for row in lane) for _, lane in lanes])
    if any(row.source is not None for row in rows):
        _draw_legend(axes)
    if rows:
        _mark_worst(axes, lanes, worst_first(rows)[0])
    plt.close(figure)  # shown once, where the caller puts it
    return figure


def _shown(value: float) -> float:
    return _CEILING if math.isnan(value) else min(max(value, _FLOOR), _CEILING)


def _draw_lane(axes: Axes, y: int, rows: Sequence[Row]) -> None:
    many = len(rows) > 1
    look = {"markeredgewidth": 0, "clip_on": False, "zorder": 3}
    for index, row in enumerate(sorted(rows, key=lambda row: row.passed)):
        offset = ((index * 0.618) % 1 - 0.5) * 0.3 if many else 0  # spread, so that many dots stay visible
        if row.source is not None:
            offset += _BELOW
            size, alpha = (3, 0.45) if many else (5, 1)
            axes.plot(
                _shown(row.source), y + offset - 2 * _BELOW, "D", markersize=size, alpha=alpha, color=_SOURCE, **look
            )
        size, alpha = (4, 0.45 if row.passed else 1) if many else (7, 1)
        marker, color = "o" if math.isfinite(row.figure) else "X", _PASS if row.passed else _FAIL
        axes.plot(_shown(row.figure), y + offset, marker, markersize=size, alpha=alpha, color=color, **look)


def _draw_tolerances(axes: Axes, tolerances: Sequence[float]) -> None:
    limits = axes.get_xlim()
    for y, tolerance in enumerate(tolerances):
        lane = [y - 0.5, y + 0.5]
        axes.plot([tolerance] * 2, lane, color=_GATE, linewidth=1.6, solid_capstyle="butt", zorder=2)
        axes.fill_betweenx(lane, tolerance, limits[1], color=_FAIL, alpha=0.06, linewidth=0, zorder=0)


def _draw_legend(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker="D", markersize=5, linestyle="", color=_SOURCE, label="source, float32"),
        Line2D([], [], marker="o", markersize=7, linestyle="", color=_PASS, label="export"),
        Line2D([], [], color=_GATE, linewidth=1.6, label="allowed"),
    ]
    # Below, where no title and no label of an axis is.
    axes.figure.legend(handles=marks, loc="outside lower right", ncols=3, frameon=False, fontsize=8)


def _label_lanes(axes: Axes, cases: Sequence[tuple[str, str, int]]) -> None:
    labels = [f"{name} × {batch}" if batch else name for _, name, batch in cases]
    axes.set_yticks(range(len(cases)), map(drawn, labels))
    axes.set_ylim(max(1, len(cases)) - 0.5, -0.5)
    start = 0
    for output, group in groupby(cases, key=lambda case: case[0]):
        size = len(list(group))
        if start:
            axes.axhline(start - 0.5, color="#d9dce1", linewidth=0.8)
        right = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "left"}
        axes.text(1.015, start + size / 2 - 0.5, drawn(output), color=_TEXT, fontweight="bold", fontsize=9, **right)
        start += size


def _style(axes: Axes, rows: Sequence[Row], passed: bool) -> None:
    positions = [
        _shown(value) for row in rows for value in (row.figure, row.tolerance, row.source) if value is not None
    ]
    low, high = min(positions, default=_FLOOR), max(positions, default=1)
    axes.set_xscale("log")
    axes.set_xlim(10 ** math.floor(math.log10(low) - 0.3), 10 ** math.ceil(math.log10(high) + 0.3))
    axes.set_xlabel("relative error, measured against float64 where the source is shown", color=_TEXT, fontsize=9)
    axes.grid(axis="x", color="#eceef1", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=_TEXT, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    verdict = "passed" if passed else "FAILED"
    colour = _TEXT if passed else _FAIL
    axes.set_title(f"Parity {verdict}", loc="left", color=colour, fontsize=11, fontweight="bold", pad=20)


def _mark_worst(axes: Axes, lanes: Sequence[tuple[tuple[str, str, int], list[Row]]], worst: Row) -> None:
    y = next(index for index, (case, _) in enumerate(lanes) if case == worst.case)
    what = f"{worst.figure:.1e}" if math.isfinite(worst.figure) else worst.reason
    label = f"worst: {what}" + (f", {worst.variable}" if worst.variable else "")
    # Below the title, because in its lane it would cover what it is about.
    place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 6), "textcoords": "offset points"}
    axes.annotate(drawn(label), **place, fontsize=9, color=_PASS if worst.passed else _FAIL)
    y += 0 if worst.source is None else _BELOW
    axes.scatter(_shown(worst.figure), y, s=200, edgecolors=_TEXT, facecolors="none", clip_on=False)
