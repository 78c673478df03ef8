"""Curves along the depth: one line per initializer, one panel per quantity and activation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from propscope.plots.depth_series import DepthSeries
from propscope.plots.end_labels import EndLabel, coinciding, draw_names, labelled_panels, markers_in_turn
from propscope.plots.pages import COLUMN, columns, facts, key_of, lines, mark_of, reasons
from propscope.plots.quantities import QUANTITIES, Curve, Quantity, curve_of
from propscope.plots.scales import Floats, Ints, Scale, log_scale, position_ticks, signed_scale
from propscope.plots.style import (
    DPI,
    PREDICTION,
    QUIET,
    SCREEN,
    Header,
    Legend,
    LineStyle,
    Look,
    TextFigure,
    draw_prediction,
    line_styles,
    short,
    unit,
    wrapped_title,
)
from propscope.records import ProfileSet

# Theory's bands of more lines than this would cover each other.
BANDS_AT_MOST = 6
_READING = (
    "A flat curve is healthy. Along the arrow under each panel, a falling curve means vanishing and a rising curve "
    "means exploding."
)
_VANISHED = " ▼: exactly zero."
_NONFINITE = " ▲: NaN or Inf."
_BANDS = " Coloured band: 95% confidence interval over seeds."
_THEORY = " Grey dashes under the curves: infinite-width theory."
_STRAYING = " Grey band with dotted edges: theory expects 95% of networks of this width there."
_BEYOND = " ↑\N{NO-BREAK SPACE}↓:\N{NO-BREAK SPACE}end value of a curve that leaves the axis."


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: the curves of one quantity and one activation (`column`), their scale and their labels.

    `axis` says what the positions count, and `subject` is the role of the sites or "weight".
    """

    quantity: Quantity
    column: str
    axis: str
    subject: str
    curves: tuple[Curve, ...]
    scale: Scale
    labels: tuple[EndLabel, ...]

    @property
    def straying(self) -> bool:
        """Whether theory's band for single networks is drawn: theory gives one, and there are few lines."""
        return len(self.curves) <= BANDS_AT_MOST and any(np.isfinite(curve.expected_low).any() for curve in self.curves)


@dataclass(frozen=True, slots=True)
class Curves:
    """A picture of curves: `panels[row][column]` has one row per quantity and one column per activation.

    A panel is None where nothing was recorded. `names` holds all lines; a line's index sets its style.
    """

    header: Header
    names: tuple[str, ...]
    panels: tuple[tuple[Panel | None, ...], ...]


# Verdict marks by activation and line.
_Marks = Mapping[tuple[str, str], str]
_Drawable = tuple[tuple[Curve, ...], DepthSeries | None]
_Drawn = dict[str, _Drawable]


def prepare_curves(profiles: ProfileSet, *, quantities: Sequence[Quantity] = QUANTITIES) -> Curves | None:
    """Return the curves of all `quantities` that were recorded, or None where none of them was."""
    by_column = columns(profiles)
    marks = {
        (column, name): mark_of(group)
        for column, members in by_column.items()
        for name, group in lines(profiles, columns=(COLUMN,), members=members).items()
    }
    rows = []
    for quantity in quantities:
        by_name = {column: _curves(quantity, members, profiles) for column, members in by_column.items()}
        if any(curves for curves, _ in by_name.values()):
            rows.append(_row(quantity, by_name, profiles, marks))
    if not rows:
        return None
    groups = lines(profiles, columns=(COLUMN,))
    panels = [panel for row in rows for panel in row if panel is not None]
    shown = [curve for panel in panels for curve in panel.curves]
    reading = (
        _READING
        + _VANISHED * any(curve.vanished.any() for curve in shown)
        + _NONFINITE * any(curve.nonfinite.any() for curve in shown)
        + _BANDS * any(curve.profiles > 1 for curve in shown)
        + _THEORY * any(np.isfinite(curve.expected).any() for curve in shown)
        + _STRAYING * any(panel.straying for panel in panels)
        + _BEYOND * any(panel.scale.clipped for panel in panels)
        + key_of(marks.values())
    )
    header = Header("Signal along the depth", facts(profiles), "\n".join((reading, *reasons(profiles))))
    return Curves(header, tuple(groups), tuple(rows))


def _curves(quantity: Quantity, members: ProfileSet, everything: ProfileSet) -> _Drawable:
    curves, first = [], None
    for name, group in lines(everything, columns=(COLUMN,), members=members).items():
        series = [quantity.series(profile) for profile in group]
        curve = curve_of(name, quantity, series)
        if not np.isnan(curve.center).all():
            curves.append(curve)
            first = first or series[0]
    return tuple(curves), first


def _row(quantity: Quantity, drawn: _Drawn, profiles: ProfileSet, marks: _Marks) -> tuple[Panel | None, ...]:
    every = [curve for curves, _ in drawn.values() for curve in curves]
    centers = [curve.center for curve in every]
    expected = [_beside(quantity, curve, curve.expected) for curve in every]
    start = 0 if quantity.travels == "up" else -1
    if quantity.signed:
        scale = signed_scale([*centers, *expected], limits=_limits(quantity, every), spread=_spread(quantity, profiles))
    else:
        anchors = [center[start] for center in centers]
        scale = log_scale(np.concatenate([*centers, *expected]), limits=_limits(quantity, every), anchors=anchors)
    right = _judged_right(quantity, scale, every)
    panels: list[Panel | None] = []
    for column, (curves, series) in drawn.items():
        if series is None:
            panels.append(None)
            continue
        own = {curve.name: marks.get((column, curve.name), "") for curve in curves}
        labels = _labels(quantity, scale, curves, own, right=right)
        panels.append(
            Panel(quantity, column if len(drawn) > 1 else "", series.axis, series.subject, curves, scale, labels)
        )
    return tuple(panels)


def _limits(quantity: Quantity, curves: list[Curve]) -> Floats:
    limits = [limit for curve in curves for limit in (curve.low, curve.high)]
    if len(curves) <= BANDS_AT_MOST:
        limits += [
            _beside(quantity, curve, edge) for curve in curves for edge in (curve.expected_low, curve.expected_high)
        ]
    return np.concatenate(limits)


def _beside(quantity: Quantity, curve: Curve, prediction: Floats) -> Floats:
    """Return the prediction where the curve has a value, NaN elsewhere: the axis need not show the rest."""
    return np.where(quantity.drawable(curve.center), prediction, np.nan)


def _spread(quantity: Quantity, profiles: ProfileSet) -> float:
    first = [summary.std for p in profiles for summary in quantity.series(p).summaries[:1] if summary is not None]
    finite = [std for std in first if np.isfinite(std)]
    return float(np.median(finite)) if finite else 0.0


def _judged_right(quantity: Quantity, scale: Scale, curves: list[Curve]) -> bool:
    """Return whether the names follow the right ends: where the signal ends, unless the curves part far more before."""
    ends = np.array([scale.fraction(curve.center[[0, -1]]) for curve in curves])
    left, right = (0.0, 0.0) if np.isnan(ends).any() else ends.std(axis=0)
    return bool(left <= 1.5 * right if quantity.travels == "up" else right > 1.5 * left)


def _labels(
    quantity: Quantity, scale: Scale, curves: tuple[Curve, ...], marks: Mapping[str, str], *, right: bool
) -> tuple[EndLabel, ...]:
    ends = [
        (curve.name, (note_on(quantity, scale, curve), *curve.positions.tolist()), scale.fraction(curve.center))
        for curve in curves
    ]
    labels = []
    for names, (note, *_), heights in coinciding(ends):
        finite = heights[~np.isnan(heights)]
        end = float(finite[-1 if right else 0])
        labels.append(EndLabel(names, note, end, tuple(marks[name] for name in names), joined=right))
    return tuple(labels)


def note_on(quantity: Quantity, scale: Scale, curve: Curve) -> str:
    """Return in words what the axis cannot show: where a curve is zero or not finite, or its end value off the axis."""
    notes = [
        _where("zero", curve.vanished, curve),
        _where("NaN/Inf", curve.nonfinite, curve),
    ]
    shown = curve.center[np.isfinite(curve.center) & ((curve.center != 0) | quantity.signed)]
    if shown.size and not notes[0] and not notes[1]:
        end = float(shown[-1 if quantity.travels == "up" else 0])
        if end > scale.high:
            notes.append(f"↑\N{NO-BREAK SPACE}{short(end)}")
        elif end < scale.low:
            notes.append(f"↓\N{NO-BREAK SPACE}{short(end)}")
    return ", ".join(filter(None, notes))


def _where(what: str, counts: Ints, curve: Curve) -> str:
    at = curve.positions[counts > 0]
    if not at.size:
        return ""
    few = int(counts.max())
    some = f" ({few} of {curve.profiles} seeds)" if few < curve.profiles else ""
    if at.size == curve.positions.size:
        return f"{what} throughout{some}"
    if np.array_equal(at, curve.positions[-at.size :]) or np.array_equal(at, curve.positions[: at.size]):
        span = f"{at[0]}–{at[-1]}" if at.size > 1 else f"{at[0]}"
        return f"{what} at {span}{some}"
    return f"{what} at {at.size} of {curve.positions.size}{some}"


_HEIGHT = 2.5
_TITLE = 0.42
_COLUMN_NAME = 0.2
# What the dashes under a line are called in a legend.
THEORY = "infinite-width theory"
# More markers than this on a line would hide its dashes.
_MARKERS = 6


def draw_curves(
    prepared: Curves,
    figure: Figure | None = None,
    *,
    look: Look = SCREEN,
    palette: Sequence[str] | None = None,
    titled: bool = True,
) -> Figure:
    """Draw the panels into a figure and set its size; the panels of a single activation stand two by two.

    Without `figure`, a new one is made. `titled`: with room for the titles of panels.
    """
    figure = figure or TextFigure(dpi=DPI)
    rows = prepared.panels
    if len(rows[0]) == 1:
        flat = [row[0] for row in rows]
        rows = tuple(tuple(flat[i : i + 2]) for i in range(0, len(flat), 2))
    styles = line_styles(prepared.names, palette)
    if any(panel is not None and _has_theory(panel) for row in rows for panel in row):
        styles[THEORY] = PREDICTION
    above = _TITLE + _COLUMN_NAME * any(panel.column for row in rows for panel in row if panel)
    above = (above + _COLUMN_NAME * (not look.beside)) * titled
    placed = labelled_panels(figure, prepared.header, rows, styles=styles, least=_HEIGHT, above=above, look=look)
    for axes, panel in placed:
        draw_panel(axes, panel, styles, legend=look.panel_legend)
    return figure


def draw_panel(axes: Axes, panel: Panel, styles: Mapping[str, LineStyle], *, legend: Legend = "beside") -> Axes:
    """Draw the curves of one panel into an axes, with their names beside it; `styles` maps names to styles."""
    quantity = panel.quantity
    panel.scale.apply(axes)
    axes.grid(axis="y")
    if panel.scale.kind != "log":
        axes.axhline(0, color="#9a9a9a", linewidth=0.8, zorder=1)
    marks: Counter[tuple[int, str]] = Counter()
    names = [curve.name for curve in panel.curves]
    for curve in panel.curves:
        marked = markers_in_turn(panel.labels, names, curve.positions.size, _MARKERS)[curve.name]
        _draw_curve(axes, panel, curve, styles[curve.name], marked)
        _draw_expected(axes, panel, curve, styles[curve.name])
        _draw_marks(axes, panel, curve, styles[curve.name], marks)
    positions = np.concatenate([curve.positions for curve in panel.curves])
    first, last = int(positions.min()), int(positions.max())
    room = 0.5 if first == last else 0.03 * (last - first)
    axes.set_xlim(first - room, last + room)
    axes.set_xticks(position_ticks(first, last))
    way = "signal travels →" if quantity.travels == "up" else "← gradient travels"
    axes.set_xlabel(f"{panel.axis}    {way}")
    role = "" if panel.subject != "site" else " (every site)"
    title = f"{quantity.subject}{role}, {quantity.field.label}"
    title = "\n".join(filter(None, (panel.column, title)))
    # Above names that stand beside the panel there is room.
    axes.set_title(title if legend == "beside" else wrapped_title(axes, title), pad=8 * unit())
    axes.set_ylabel(f"${quantity.symbol}$", fontsize="large")
    return draw_names(axes, panel.labels, {**styles, THEORY: PREDICTION}, legend, (THEORY,) * _has_theory(panel))


def _has_theory(panel: Panel) -> bool:
    return any(panel.quantity.drawable(curve.expected).any() for curve in panel.curves)


def _draw_curve(axes: Axes, panel: Panel, curve: Curve, style: LineStyle, marked: slice) -> None:
    drawable = panel.quantity.drawable(curve.center)
    center = np.where(drawable, curve.center, np.nan)
    axes.plot(curve.positions, center, zorder=3, **{**style.keywords, "marker": ""})
    # Above the lines of all curves.
    axes.plot(curve.positions[marked], center[marked], zorder=3.2, **{**style.keywords, "linestyle": "none"})
    low, high = _between(panel, drawable, curve.low, curve.high)
    if not np.isnan(low).all():
        shade = 0.2 if len(panel.curves) <= BANDS_AT_MOST else 0.11
        axes.fill_between(curve.positions, low, high, color=style.colour, alpha=shade, linewidth=0, zorder=2)


def _draw_expected(axes: Axes, panel: Panel, curve: Curve, style: LineStyle) -> None:
    """Draw what theory expects under the curve, and its band for single networks if there are few lines."""
    drawable = panel.quantity.drawable(curve.expected)
    if not drawable.any():
        return
    expected = np.where(drawable, curve.expected, np.nan)
    draw_prediction(axes, curve.positions, expected)
    # The colour tells whose prediction it is where the two part.
    axes.plot(curve.positions, expected, color=style.colour, linewidth=0.9 * unit(), alpha=0.6, zorder=2.4)
    low, high = _between(panel, drawable, curve.expected_low, curve.expected_high)
    if panel.straying and not np.isnan(low).all():
        axes.fill_between(curve.positions, low, high, color=QUIET, alpha=0.12, linewidth=0, zorder=1.5)
        for edge in (low, high):
            axes.plot(curve.positions, edge, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1.6)


def _between(panel: Panel, drawable: NDArray[np.bool_], low: Floats, high: Floats) -> tuple[Floats, Floats]:
    banded = drawable & np.isfinite(low) & np.isfinite(high)
    # A vanished seed makes the lower limit 0, which a logarithmic axis cannot show.
    floor = low if panel.quantity.signed else np.maximum(low, 1e-300)
    return np.where(banded, floor, np.nan), np.where(banded, high, np.nan)


def _draw_marks(axes: Axes, panel: Panel, curve: Curve, style: LineStyle, marks: Counter[tuple[int, str]]) -> None:
    """Mark the first position where a curve is zero or not finite; a dotted line leads there from its last value."""
    backwards = panel.quantity.travels == "down"
    for counts, marker, edge in ((curve.vanished, "v", 0.0), (curve.nonfinite, "^", 1.0)):
        at = np.flatnonzero(counts)
        if not at.size:
            continue
        met = int(at[-1] if backwards else at[0])
        before = met + 1 if backwards else met - 1
        position = int(curve.positions[met])
        stacked = marks[position, marker]
        marks[position, marker] += 1
        axes.plot(
            [position],
            [abs(edge - 0.05 * stacked)],
            transform=axes.get_xaxis_transform(),
            marker=marker,
            markersize=9 * unit(),
            color=style.colour,
            markeredgecolor="white",
            clip_on=False,
            zorder=6,
        )
        if 0 <= before < curve.center.size and np.isfinite(curve.center[before]):
            goal = panel.scale.low if edge == 0 else panel.scale.high
            points = ([curve.positions[before], position], [curve.center[before], goal])
            axes.plot(*points, color=style.colour, linestyle=":", linewidth=1.2, zorder=2)
