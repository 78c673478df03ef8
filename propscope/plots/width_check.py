"""A width check as a picture: the sizes of layers and of their changes against width, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from propscope.plots.scales import Floats, Scale, log_scale
from propscope.plots.style import (
    DPI,
    LINE_HEIGHT,
    Header,
    TextFigure,
    draw_prediction,
    framed,
    line_style,
    units_of,
    wrap,
)
from propscope.printable import printable
from propscope.records.width_check import QUANTITIES, Quantity, WidthCheck, WidthRow

T = TypeVar("T")
LINES_AT_MOST = 10
STEPS_AT_MOST = 5
_ROWS: tuple[Quantity, ...] = ("size", "change", "weights_part", "input_part")
_READING = (
    "Both axes are logarithmic, so a size that grows as n^k with the width n is a line of slope k: flat lines do not "
    "depend on the width. x_t is the output of a layer after t steps, and its change is the sum of the two rows below: "
    "what the new weights make of the first input, and what the new input adds. A learning rate that is right at one "
    "width is right at all where the changes are flat."
)
_GUIDES = " Grey dashes: the slopes of {name}, from where its layers are at the smallest width."


@dataclass(frozen=True, slots=True, eq=False)
class WidthPanel:
    """One set of axes: a quantity (`row` of the picture) at a `step` (`column`), a line for each layer.

    `lines`: rms at each width, one row for each layer, NaN where there is none; `guides`: for each expected exponent
    the dashed line, rms at each width.
    """

    row: int
    column: int
    quantity: Quantity
    step: int
    lines: Floats
    guides: tuple[tuple[float, Floats], ...]
    scale: Scale


@dataclass(frozen=True, slots=True)
class WidthPicture:
    """The picture of a width check: its panels, `names` of layers with their roles, and `widths` along the axes."""

    header: Header
    names: tuple[str, ...]
    widths: tuple[int, ...]
    panels: tuple[WidthPanel, ...]


def prepare_width_check(check: WidthCheck) -> WidthPicture:
    """Return the picture of a check: at most 10 layers and 5 steps, evenly spread; the seeds' geometric mean."""
    layers = list(dict.fromkeys(row.name for row in check.rows if row.role and not row.parameter))
    names = _spread(layers, LINES_AT_MOST)
    steps = [0, *_spread(range(1, check.steps + 1), STEPS_AT_MOST - 1)]
    of = {(row.name, row.quantity): row for row in check.rows if not row.parameter}
    panels = []
    for number, quantity in enumerate(_ROWS):
        rows = [of.get((name, quantity)) for name in names]
        shown = {step: _means(rows, step, len(check.widths)) for step in steps}
        scale = log_scale(np.concatenate([values.ravel() for values in shown.values()]), anchors=[])
        for column, step in enumerate(steps):
            if np.isfinite(shown[step]).any():
                # The size is expected of the network at its start alone.
                guides = _guides(rows, shown[step], check.widths) if quantity != "size" or not step else ()
                panels.append(WidthPanel(number, column, quantity, step, shown[step], guides, scale))
    facts = [check.headline]
    if len(names) < len(layers):
        facts.append(f"{len(names)} of {len(layers)} layers")
    reading = _READING + (_GUIDES.format(name=check.expected_in) if check.expect else "")
    roles = {row.name: row.role for row in check.rows}
    escaped = tuple(printable(f"{name} ({roles[name]})").replace("$", r"\$") for name in names)
    title = "Sizes and changes against width"
    header = Header(title, printable(" · ".join(facts)).replace("$", r"\$"), reading)
    return WidthPicture(header, escaped, check.widths, tuple(panels))


def _spread(values: Sequence[T], most: int) -> list[T]:
    """Return at most so many of the values, evenly spread, the first and the last among them."""
    if not values:
        return []
    return [values[round(at)] for at in np.linspace(0, len(values) - 1, min(most, len(values))).tolist()]


def _means(rows: Sequence[WidthRow | None], step: int, widths: int) -> Floats:
    """Return the geometric mean over seeds, shape (layers, widths); NaN for zeros and what was not measured."""
    values = np.full((len(rows), widths), np.nan)
    for line, row in zip(values, rows, strict=True):
        if row is not None:
            with np.errstate(divide="ignore"):
                means = np.exp(np.log(row.sizes[:, :, step]).mean(axis=0))
            line[:] = np.where(means > 0, means, np.nan)
    return values


def _guides(rows: Sequence[WidthRow | None], lines: Floats, widths: Sequence[int]) -> tuple[tuple[float, Floats], ...]:
    """Return a line for each exponent that is expected of the drawn layers; the upper one where there is a range."""
    starts: dict[float, list[float]] = {}
    for row, line in zip(rows, lines, strict=True):
        if row is not None and row.expected is not None and np.isfinite(line[0]):
            starts.setdefault(row.expected[1], []).append(float(np.log(line[0])))
    growth = np.asarray(widths, dtype=np.float64) / widths[0]
    return tuple((k, np.exp(np.mean(logs)) * growth**k) for k, logs in sorted(starts.items()))


_WIDE, _HIGH = 1.75, 1.75
_LEFT, _RIGHT, _BELOW, _ABOVE, _BETWEEN = 1.0, 0.3, 0.6, 0.35, 0.15
_LEGEND = 23


def draw_width_check(prepared: WidthPicture, figure: Figure | None = None) -> Figure:
    """Draw the panels into a figure and set its size; without `figure`, a new one is made.

    The names of the lines stand in the first column, below the sizes at the start.
    """
    figure = figure or TextFigure(dpi=DPI)
    columns = max(panel.column for panel in prepared.panels) + 1
    first = _LEFT + _WIDE + _LEFT
    width = first + (columns - 1) * (_WIDE + _BETWEEN) + _RIGHT
    labels = [wrap(name, _LEGEND) for name in prepared.names]
    rows = max(panel.row for panel in prepared.panels) + 1
    legend = LINE_HEIGHT * 1.25 * (sum(map(len, labels)) + 1)
    cell = max(_HIGH, (legend - _BELOW) / max(rows - 1, 1))
    inner = _ABOVE + rows * cell + (rows - 1) * _BETWEEN + _BELOW
    bottom = framed(figure, prepared.header, width, inner) - _ABOVE
    height = units_of(figure)[1]
    for panel in prepared.panels:
        left = _LEFT if panel.column == 0 else first + (panel.column - 1) * (_WIDE + _BETWEEN)
        low = bottom - (panel.row + 1) * cell - panel.row * _BETWEEN
        axes = figure.add_axes((left / width, low / height, _WIDE / width, cell / height))
        begins = not any(other.row == panel.row and other.column == panel.column - 1 for other in prepared.panels)
        below = any(other.column == panel.column and other.row > panel.row for other in prepared.panels)
        draw_width_panel(axes, panel, prepared.widths, labelled=begins or panel.column == 1, below=not below)
        if panel.row == 0:
            axes.set_title(f"t = {panel.step}", pad=6)
    _draw_names(figure, labels, bottom - cell - _BELOW, width, height)
    return figure


def draw_width_panel(
    axes: Axes, panel: WidthPanel, widths: Sequence[int], *, labelled: bool = True, below: bool = True
) -> Axes:
    """Draw one panel; `labelled`: with the values of its y axis; `below`: with the widths of its x axis."""
    panel.scale.apply(axes)
    axes.set_xscale("log")
    axes.grid(axis="y")
    for number, line in enumerate(panel.lines):
        axes.plot(widths, line, **line_style(number).keywords, zorder=3)
    for _, guide in panel.guides:
        draw_prediction(axes, widths, guide)
    few = widths[:: -(-len(widths) // 4)]
    axes.xaxis.set_major_locator(FixedLocator(few))
    axes.xaxis.set_major_formatter(FixedFormatter([str(each) for each in few] if below else [""] * len(few)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(widths[0] / 1.15, widths[-1] * 1.15)
    if below:
        axes.set_xlabel("width")
    if labelled:
        text = QUANTITIES[panel.quantity]
        axes.set_ylabel(f"{text.label}\nrms of {text.symbol}")
    else:
        axes.tick_params(labelleft=False)
    return axes


def _draw_names(figure: Figure, labels: Sequence[Sequence[str]], top: float, width: float, height: float) -> None:
    at = top
    for number, rows in enumerate(labels):
        style = line_style(number).keywords
        middle = (at - LINE_HEIGHT / 2) / height
        figure.add_artist(Line2D([0.2 / width, 0.4 / width, 0.6 / width], [middle] * 3, markevery=[1], **style))
        figure.text(0.7 / width, at / height, "\n".join(rows), va="top", linespacing=1.15)
        at -= LINE_HEIGHT * (1.25 * len(rows))
