"""How learning curves are drawn: training solid, validation dashed, names beside the ends of the lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from propscope.plots.curve_panels import position_ticks
from propscope.plots.end_labels import draw_end_labels, height_of, width_of
from propscope.plots.learning import BANDS_AT_MOST, Band, Learning, LearningCurve, LearningPanel
from propscope.plots.style import DPI, QUIET, LineStyle, draw_header, line_style

_WIDTH = 3.8
_HEIGHT = 2.7
_TICKS = 0.95
_BELOW = 0.62
_ABOVE = 0.42
_GAP = 0.2
# More markers than this on a line would hide it.
_MARKERS = 5
_DASHES = (0, (4, 2))


def draw_learning(prepared: Learning, figure: Figure | None = None) -> Figure:
    """Draw panels into a figure, whose size it sets, or a new one; those of one activation stand side by side."""
    figure = figure or Figure(dpi=DPI)
    rows = prepared.panels
    if len(rows[0]) == 1:
        rows = (tuple(row[0] for row in rows),)
    panels = [panel for row in rows for panel in row if panel is not None]
    cell = _TICKS + _WIDTH + max(width_of(panel.labels) for panel in panels) + _GAP
    heights = [max([_HEIGHT, *(height_of(panel.labels) for panel in row if panel)]) for row in rows]
    width = cell * max(map(len, rows)) + _GAP
    top = prepared.header.height(width)
    height = top + sum(heights) + len(rows) * (_ABOVE + _BELOW)
    figure.set_size_inches(width, height)
    draw_header(figure, prepared.header)
    # Dashes tell validation from training here, so that colours and markers alone tell the initializers.
    styles = {name: replace(line_style(index), dash="-") for index, name in enumerate(prepared.names)}
    bottom = height - top
    for row, tall in zip(rows, heights, strict=True):
        bottom -= _ABOVE + tall
        for index, panel in enumerate(row):
            if panel is not None:
                left = _GAP + cell * index + _TICKS
                axes = figure.add_axes((left / width, bottom / height, _WIDTH / width, tall / height))
                draw_learning_panel(axes, panel, styles)
        bottom -= _BELOW
    return figure


def draw_learning_panel(axes: Axes, panel: LearningPanel, styles: Mapping[str, LineStyle]) -> Axes:
    """Draw the curves of one panel into an axes, with their names beside it; `styles` by curve name."""
    panel.scale.apply(axes)
    axes.grid(axis="y")
    if panel.measure.name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for value, dash in ((panel.constant, (0, (1, 2))), (panel.target, (0, (5, 3)))):
        if not math.isnan(value):
            axes.axhline(value, color=QUIET, linewidth=1.1, linestyle=dash, zorder=1.5)
    leaders = {label.names[0] for label in panel.labels}
    marks: Counter[int] = Counter()
    for number, curve in enumerate(panel.curves):
        on_top = curve.name in leaders
        _draw_curve(axes, curve, styles[curve.name], number, on_top=on_top, few=len(panel.curves) <= BANDS_AT_MOST)
        _draw_diverged(axes, panel, curve, styles[curve.name], marks)
    last = max(curve.train.center.size for curve in panel.curves) - 1
    room = 0.03 * max(last, 1)
    axes.set_xlim(-room, last + room)
    axes.set_xticks(position_ticks(0, last))
    axes.set_xlabel("epoch")
    axes.set_ylabel(panel.measure.label)
    axes.set_title(", ".join(filter(None, (panel.column, panel.measure.label))), pad=8)
    draw_end_labels(axes, panel.labels, [styles[label.names[0]] for label in panel.labels], side="right")
    return axes


def _draw_curve(axes: Axes, curve: LearningCurve, style: LineStyle, number: int, *, on_top: bool, few: bool) -> None:
    keywords = {**style.keywords, "zorder": 3 if on_top else 2.5}
    for band, dash in ((curve.train, "-"), (curve.validation, _DASHES)):
        if not band.seen:
            continue
        seen = np.flatnonzero(np.isfinite(band.center))
        # Markers on the line that the name belongs to, and on a point that is all there is.
        step = max(1, -(-seen.size // _MARKERS))
        marked = seen[min(number % step, seen.size - 1) :: step] if band is curve.judged and on_top else seen[:0]
        marks = (marked if seen.size > 1 else seen).tolist()
        axes.plot(np.arange(band.center.size), band.center, **{**keywords, "linestyle": dash, "markevery": marks})
    if few:
        _shade(axes, curve.judged, style)


def _shade(axes: Axes, band: Band, style: LineStyle) -> None:
    if np.isfinite(band.low).any():
        low = np.maximum(band.low, 1e-300)
        axes.fill_between(np.arange(low.size), low, band.high, color=style.colour, alpha=0.13, linewidth=0, zorder=2)


def _draw_diverged(
    axes: Axes, panel: LearningPanel, curve: LearningCurve, style: LineStyle, marks: Counter[int]
) -> None:
    """Mark where seeds ceased to be finite: at the top edge, where a dotted line leads; an accuracy where it ends."""
    for epoch, _ in curve.diverged:
        before = curve.judged.center[epoch - 1] if epoch else math.nan
        if panel.measure.name == "accuracy":
            axes.plot([epoch - 1], [before], marker="x", markersize=9, markeredgewidth=2, color=style.colour, zorder=6)
            continue
        if math.isfinite(before):
            axes.plot([epoch - 1, epoch], [before, panel.scale.high], color=style.colour, linestyle=":", linewidth=1.2)
        height = 1 - 0.05 * marks[epoch]
        marks[epoch] += 1
        axes.plot(
            [epoch],
            [height],
            transform=axes.get_xaxis_transform(),
            marker="^",
            markersize=9,
            color=style.colour,
            markeredgecolor="white",
            clip_on=False,
            zorder=6,
        )
