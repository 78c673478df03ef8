"""Recurrent modules over their steps: the size of states and gradients with the fitted gain, and the gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from propscope.plots.end_labels import EndLabel, coinciding, draw_end_labels, labelled_panels, markers_in_turn
from propscope.plots.pages import facts
from propscope.plots.scales import Floats, Scale, log_scale, position_ticks
from propscope.plots.style import DPI, Header, LineStyle, TextFigure, draw_prediction, line_style, mark_nonfinite
from propscope.records import ProfileSet, TimeCourse
from propscope.records.numerals import number
from propscope.records.time_course import GainFit, pooled_courses

COURSES_AT_MOST = 8
_READING = (
    "Left: rms of the states after each step, and of the gradient of the loss with respect to them. Grey dashes: "
    "the fitted line, with its factor per step (backward for the gradient). Below 1 it vanishes, above 1 it explodes. "
)
_GATES = "Right: mean value of each gate; dotted: the share that is flat, where there is one. "
_TOP = " ▲ marks steps with NaN or Inf."
_FLAT = " flat"


@dataclass(frozen=True, slots=True, eq=False)
class TimeLine:
    """One line: its `values` at the steps of its panel, NaN where there is nothing to draw, and its fitted line.

    `fit` has the shape of `values`; NaN without a fit. `nonfinite`: the steps where a value is Inf. `style`: the index
    of its style; a line of a flat share has the style of its gate.
    """

    name: str
    values: Floats
    fit: Floats
    style: int
    nonfinite: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TimePanel:
    """One set of axes over the `steps` of a course: `label` names what its lines show."""

    title: str
    label: str
    steps: NDArray[np.int64]
    lines: tuple[TimeLine, ...]
    scale: Scale
    labels: tuple[EndLabel, ...]


@dataclass(frozen=True, slots=True)
class OverTime:
    """A picture with one row for each recurrent layer and direction: its states, and its gates where they were seen."""

    header: Header
    rows: tuple[tuple[TimePanel | None, ...], ...]


def prepare_over_time(profiles: ProfileSet) -> OverTime | None:
    """Return the courses of the network, seeds pooled; None where no recurrent module was seen over time."""
    pooled = pooled_courses([profile.time_courses for profile in profiles]) if len(profiles) else ()
    courses = [course for course in pooled if course.state is not None and course.steps]
    if not courses:
        return None
    shown_courses = courses[:COURSES_AT_MOST]
    gates = any(course.gates for course in shown_courses)
    rows = tuple((_states(course), *((_gates(course),) * gates)) for course in shown_courses)
    lines = [line for row in rows for panel in row if panel is not None for line in panel.lines]
    reading = _READING + _GATES * gates + _TOP * any(line.nonfinite for line in lines)
    shown = (
        ""
        if len(shown_courses) == len(courses)
        else f"the first {len(shown_courses)} of {len(courses)} recurrent layers"
    )
    title = "Recurrent layers over their steps"
    return OverTime(Header(title, " · ".join(filter(None, (facts(profiles), shown))), reading.strip()), rows)


def _states(course: TimeCourse) -> TimePanel:
    lines: list[TimeLine] = []
    notes: dict[str, str] = {}
    for name, state in (("c", course.cell), ("h", course.hidden)):
        if state is None:
            continue
        carries = state is course.state
        for of, series, fit, back in (
            (name, state.forward, course.forward_gain, 1),
            (f"dL/d{name}", state.backward, course.backward_gain, -1),
        ):
            if series is not None:
                fitted = _fitted(course.steps, series, fit, back) if carries else np.full(len(series), np.nan)
                lines.append(_line(of, series, fitted, len(lines), course.steps))
                gain = f"x{number(fit.gain)} a step{' back' * (back < 0)}" * (carries and not math.isnan(fit.gain))
                zeros = f"zero at {series.count(0.0)} steps" * (0.0 in series)
                notes[of] = ", ".join(filter(None, (gain, zeros)))
    values = np.concatenate([line.values for line in lines])
    return _panel(course, f"{course.label} · {course.kind}", "rms", lines, log_scale(values, anchors=[]), notes)


def _fitted(steps: Sequence[int], series: Sequence[float], fit: GainFit, back: int) -> Floats:
    """Return the least-squares line at the steps that it was fitted to, NaN elsewhere."""
    values = np.array(series, dtype=np.float64)
    used = np.isfinite(values) & (values > 0)
    if math.isnan(fit.gain) or not fit.gain:
        return np.full(values.size, np.nan)
    at = back * np.array(steps, dtype=np.float64)
    middle = np.log(values[used]).mean() - math.log(fit.gain) * at[used].mean()
    return np.where(used, np.exp(middle + math.log(fit.gain) * at), np.nan)


def _gates(course: TimeCourse) -> TimePanel | None:
    lines = []
    for index, gate in enumerate(course.gates):
        none = np.full(len(gate.mean), np.nan)
        lines.append(_line(gate.name, gate.mean, none, index, course.steps, positive=False))
        if any(gate.flat):
            lines.append(_line(gate.name + _FLAT, gate.flat, none, index, course.steps, positive=False))
    if not lines:
        return None
    lowest = min(0.0, *(float(np.nanmin(line.values, initial=0.0)) for line in lines))
    highest = max(1.0, *(float(np.nanmax(line.values, initial=1.0)) for line in lines))
    room = 0.04 * (highest - lowest)
    title = "nonlinearity" if len(course.gates) == 1 else "gates"
    return _panel(course, title, "mean, share", lines, Scale("linear", lowest - room, highest + room), {})


def _line(
    name: str, series: Sequence[float], fit: Floats, style: int, steps: Sequence[int], *, positive: bool = True
) -> TimeLine:
    values = np.array(series, dtype=np.float64)
    drawable = np.isfinite(values) & ((values > 0) | (not positive))
    lost = tuple(step for step, value in zip(steps, values.tolist(), strict=True) if math.isinf(value))
    return TimeLine(name, np.where(drawable, values, np.nan), fit, style, lost)


def _panel(
    course: TimeCourse, title: str, label: str, lines: Sequence[TimeLine], scale: Scale, notes: dict[str, str]
) -> TimePanel:
    ends = [(line.name, notes.get(line.name, ""), scale.fraction(line.values)) for line in lines]
    labels = tuple(EndLabel(names, note, float(at[~np.isnan(at)][-1:].sum())) for names, note, at in coinciding(ends))
    return TimePanel(title, label, np.array(course.steps, dtype=np.int64), tuple(lines), scale, labels)


_HEIGHT = 2.2
_TITLE = 0.42


def draw_over_time(prepared: OverTime, figure: Figure | None = None) -> Figure:
    """Draw one row of panels for each course into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    for axes, panel in labelled_panels(figure, prepared.header, prepared.rows, least=_HEIGHT, above=_TITLE):
        draw_time_panel(axes, panel)
    return figure


def draw_time_panel(axes: Axes, panel: TimePanel) -> Axes:
    """Draw the lines of one panel into an axes, with their names beside it."""
    panel.scale.apply(axes)
    axes.grid(axis="y")
    styles = {line.name: _style(line) for line in panel.lines}
    marked = markers_in_turn(panel.labels, list(styles), panel.steps.size, panel.steps.size)
    for line in panel.lines:
        keywords = styles[line.name].keywords
        axes.plot(panel.steps, line.values, zorder=3, **{**keywords, "marker": ""})
        shown = marked[line.name]
        axes.plot(panel.steps[shown], line.values[shown], zorder=3.2, **{**keywords, "linestyle": "none"})
        if np.isfinite(line.fit).any():
            draw_prediction(axes, panel.steps, line.fit)
    mark_nonfinite(axes, sorted({step for line in panel.lines for step in line.nonfinite}))
    first, last = int(panel.steps[0]), int(panel.steps[-1])
    room = 0.03 * max(last - first, 1)
    axes.set_xlim(first - room, last + room)
    axes.set_xticks(position_ticks(first, last))
    axes.set_xlabel("step")
    axes.set_ylabel(panel.label)
    axes.set_title(panel.title, pad=8)
    draw_end_labels(axes, panel.labels, styles)
    return axes


def _style(line: TimeLine) -> LineStyle:
    style = line_style(line.style)
    return replace(style, dash=(0, (1.2, 1.2)) if line.name.endswith(_FLAT) else "-")
