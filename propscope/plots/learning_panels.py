"""Loss and accuracy against the epoch: one line per initializer, one panel per measure and activation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from propscope.plots.end_labels import EndLabel, coinciding, draw_names, labelled_panels, markers_in_turn
from propscope.plots.pages import COLUMN, columns, facts, lines
from propscope.plots.scales import Floats, Scale, log_scale, position_ticks
from propscope.plots.style import DPI, QUIET, SCREEN, Header, Legend, LineStyle, Look, TextFigure, line_styles, unit
from propscope.records import TrainingRun, TrainingSet
from propscope.records.interval import Interval, arithmetic_interval, geometric_interval

BANDS_AT_MOST = 6
_READING = ("A network learns if its loss falls.", "A network learns if its loss falls and its accuracy rises.")
_HELD_OUT = " Solid: training data. Dashed: validation data, to which the names belong."
_BANDS = " Band: lowest to highest seed."
_CONSTANT = " Grey dots: the best constant prediction; a curve along it has learned nothing."
_TARGET = " Grey dashes: the target."
_DIVERGED = " ▲ (loss) and × (accuracy): a seed is NaN or Inf from there on; the curve shows the other seeds."
_ALL = "diverged"


@dataclass(frozen=True, slots=True)
class Measure:
    """What a panel shows: the fields `train_<name>` and `validation_<name>` of a run, under this `label`."""

    name: str
    label: str
    average: Callable[[Iterable[float]], Interval]


MEASURES = (
    Measure("loss", "loss", geometric_interval),
    Measure("accuracy", "accuracy", arithmetic_interval),
)


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """The average over seeds after each epoch, and the `low`est and `high`est seed; all have shape (epochs + 1,).

    Values are NaN where no seed is finite. The limits are also NaN where only one seed is.
    """

    center: Floats
    low: Floats
    high: Floats

    @property
    def seen(self) -> bool:
        """Whether there is anything to draw."""
        return bool(np.isfinite(self.center).any())


@dataclass(frozen=True, slots=True, eq=False)
class LearningCurve:
    """The curves of one initializer over `runs` seeds; `diverged` lists epochs and how many seeds diverged there."""

    name: str
    train: Band
    validation: Band
    diverged: tuple[tuple[int, int], ...]
    runs: int

    @property
    def judged(self) -> Band:
        """The curve by which the network is judged: that of the validation data if there is one."""
        return self.validation if self.validation.seen else self.train


@dataclass(frozen=True, slots=True)
class LearningPanel:
    """One set of axes: the curves of one measure and one activation (`column`), their scale and labels.

    `constant` is the loss of the best constant prediction and `target` the value to reach; NaN where there is none.
    """

    measure: Measure
    column: str
    curves: tuple[LearningCurve, ...]
    scale: Scale
    labels: tuple[EndLabel, ...]
    constant: float
    target: float


@dataclass(frozen=True, slots=True)
class Learning:
    """A picture of trainings: `panels[row][column]` has one row per measure and one column per activation.

    A panel is None where the measure is not defined. `names` holds all lines; a line's index sets its style.
    """

    header: Header
    names: tuple[str, ...]
    panels: tuple[tuple[LearningPanel | None, ...], ...]


def prepare_learning(runs: TrainingSet, *, quantities: Sequence[str] = ("loss", "accuracy")) -> Learning | None:
    """Return the curves of the loss, and of the accuracy where there is one; None if there is no run."""
    by_column = columns(runs)
    rows = []
    for measure in (measure for measure in MEASURES if measure.name in quantities):
        drawn = {column: _curves(measure, members, runs) for column, members in by_column.items()}
        if any(drawn.values()):
            rows.append(_row(measure, drawn, by_column))
    if not rows:
        return None
    panels = [panel for row in rows for panel in row if panel is not None]
    curves = [curve for panel in panels for curve in panel.curves]
    reading = (
        _READING[any(panel.measure.name == "accuracy" for panel in panels)]
        + _HELD_OUT * any(curve.validation.seen for curve in curves)
        + _BANDS * any(curve.runs > 1 for curve in curves)
        + _CONSTANT * any(not math.isnan(panel.constant) for panel in panels)
        + _TARGET * any(not math.isnan(panel.target) for panel in panels)
        + _DIVERGED * any(curve.diverged for curve in curves)
    )
    names = tuple(lines(runs, columns=(COLUMN,)))
    return Learning(Header("Learning", facts(runs), reading), names, tuple(rows))


def _curves(measure: Measure, members: TrainingSet, everything: TrainingSet) -> tuple[LearningCurve, ...]:
    curves = []
    for name, group in lines(everything, columns=(COLUMN,), members=members).items():
        train, validation = (_band(measure, group, side) for side in ("train", "validation"))
        if train.seen or validation.seen:
            lost = Counter(epoch for run in group if (epoch := _lost(run)) is not None)
            curves.append(LearningCurve(name, train, validation, tuple(sorted(lost.items())), len(group)))
    return tuple(curves)


def _band(measure: Measure, group: TrainingSet, side: str) -> Band:
    values = [getattr(run, f"{side}_{measure.name}") for run in group]
    table = np.full((len(values), max(map(len, values))), np.nan)
    for row, curve in zip(table, values, strict=True):
        row[: len(curve)] = np.where(np.isfinite(curve), curve, np.nan)
    center = np.array([measure.average(column).center for column in table.T.tolist()])
    several = (~np.isnan(table)).sum(axis=0) > 1
    # With few seeds, a confidence interval of the mean reaches far beyond all of them.
    low, high = (np.where(several, edge(table, axis=0), np.nan) for edge in (np.fmin.reduce, np.fmax.reduce))
    return Band(center, low, high)


def _lost(run: TrainingRun) -> int | None:
    """Return the first epoch whose training loss is not finite, None if all are finite."""
    at = np.flatnonzero(~np.isfinite(run.train_loss))
    return int(at[0]) if at.size else None


def _row(
    measure: Measure, drawn: dict[str, tuple[LearningCurve, ...]], by_column: dict[str, TrainingSet]
) -> tuple[LearningPanel | None, ...]:
    curves = [curve for found in drawn.values() for curve in found]
    constants = {column: _shared(run.constant_loss for run in runs) for column, runs in by_column.items()}
    task = "classification" if measure.name == "accuracy" else "regression"
    targets = {c: _shared(run.target for run in runs if run.task == task) for c, runs in by_column.items()}
    scale = _scale(measure, curves, [*constants.values(), *targets.values()])
    panels: list[LearningPanel | None] = []
    for column, found in drawn.items():
        if not found:
            panels.append(None)
            continue
        panels.append(
            LearningPanel(
                measure,
                column if len(drawn) > 1 else "",
                found,
                scale,
                _labels(scale, found),
                constants[column] if measure.name == "loss" else math.nan,
                targets[column],
            )
        )
    return tuple(panels)


def _shared(values: Iterable[float | None]) -> float:
    """Return the mean of values that agree within 10%, as those of several seeds' data do; NaN if they do not."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite or max(finite) > 1.1 * min(finite):
        return math.nan
    return math.fsum(finite) / len(finite)


def _scale(measure: Measure, curves: Sequence[LearningCurve], levels: Sequence[float]) -> Scale:
    if measure.name == "accuracy":
        return Scale("linear", -0.02, 1.02)
    centers = np.concatenate([band.center for curve in curves for band in (curve.train, curve.validation)])
    limits = np.concatenate([end for curve in curves for end in (curve.judged.low, curve.judged.high)])
    finite = [level for level in levels if not math.isnan(level)]
    anchors = finite or [curve.train.center[0] for curve in curves]
    return log_scale(np.concatenate([centers, finite]), anchors=anchors, limits=limits)


def _labels(scale: Scale, curves: Sequence[LearningCurve]) -> tuple[EndLabel, ...]:
    ends = [(curve.name, _note(curve), scale.fraction(curve.judged.center)) for curve in curves]
    # A loss that diverged leaves the panel at its top.
    upwards = scale.kind == "log"
    return tuple(
        EndLabel(names, note, 1.0 if upwards and note == _ALL else float(at[~np.isnan(at)][-1]))
        for names, note, at in coinciding(ends)
    )


def _note(curve: LearningCurve) -> str:
    lost = sum(count for _, count in curve.diverged)
    if not lost:
        return ""
    return _ALL if lost == curve.runs else f"{lost} of {curve.runs} diverged"


_HEIGHT = 2.7
_TITLE = 0.42
# More markers than this would hide the line.
_MARKERS = 5
_DASHES = (0, (4, 2))


def draw_learning(
    prepared: Learning,
    figure: Figure | None = None,
    *,
    look: Look = SCREEN,
    palette: Sequence[str] | None = None,
    titled: bool = True,
) -> Figure:
    """Draw the panels into a figure and set its size; the panels of a single activation stand side by side.

    Without `figure`, a new one is made. `titled`: with room for the titles of panels.
    """
    figure = figure or TextFigure(dpi=DPI)
    rows = prepared.panels
    if len(rows[0]) == 1:
        rows = (tuple(row[0] for row in rows),)
    styles = learning_styles(prepared, palette)
    placed = labelled_panels(
        figure, prepared.header, rows, least=_HEIGHT, above=_TITLE * titled, look=look, styles=styles
    )
    for axes, panel in placed:
        draw_learning_panel(axes, panel, styles, legend=look.panel_legend)
    return figure


def learning_styles(prepared: Learning, palette: Sequence[str] | None = None) -> dict[str, LineStyle]:
    """Return the style of each line: dashes mark the validation data, so colour and marker tell them apart."""
    return {name: replace(style, dash="-") for name, style in line_styles(prepared.names, palette).items()}


def draw_learning_panel(
    axes: Axes, panel: LearningPanel, styles: Mapping[str, LineStyle], *, legend: Legend = "beside"
) -> Axes:
    """Draw the curves of one panel into an axes, with their names beside it; `styles` maps names to styles."""
    panel.scale.apply(axes)
    axes.grid(axis="y")
    if panel.measure.name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for value, dash in ((panel.constant, (0, (1, 2))), (panel.target, (0, (5, 3)))):
        if not math.isnan(value):
            axes.axhline(value, color=QUIET, linewidth=1.1, linestyle=dash, zorder=1.5)
    marks: Counter[int] = Counter()
    names = [curve.name for curve in panel.curves]
    for curve in panel.curves:
        finite = np.flatnonzero(np.isfinite(curve.judged.center))
        marked = finite[markers_in_turn(panel.labels, names, finite.size, _MARKERS)[curve.name]]
        _draw_curve(axes, curve, styles[curve.name], marked, few=len(panel.curves) <= BANDS_AT_MOST)
        _draw_diverged(axes, panel, curve, styles[curve.name], marks)
    last = max(curve.train.center.size for curve in panel.curves) - 1
    room = 0.03 * max(last, 1)
    axes.set_xlim(-room, last + room)
    axes.set_xticks(position_ticks(0, last))
    axes.set_xlabel("epoch")
    axes.set_ylabel(panel.measure.label)
    axes.set_title(", ".join(filter(None, (panel.column, panel.measure.label))), pad=8 * unit())
    return draw_names(axes, panel.labels, styles, legend)


def _draw_curve(axes: Axes, curve: LearningCurve, style: LineStyle, marked: NDArray[np.intp], *, few: bool) -> None:
    keywords = style.keywords
    for band, dash in ((curve.train, "-"), (curve.validation, _DASHES)):
        if not band.seen:
            continue
        finite = np.flatnonzero(np.isfinite(band.center))
        # The line that the name belongs to has markers, and so does a line with one point, which shows nothing else.
        marks = marked if band is curve.judged else finite if finite.size == 1 else finite[:0]
        axes.plot(np.arange(band.center.size), band.center, zorder=3, **{**keywords, "linestyle": dash, "marker": ""})
        # Above the lines of all curves.
        axes.plot(marks, band.center[marks], zorder=3.2, **{**keywords, "linestyle": "none"})
    if few:
        _shade(axes, curve.judged, style)


def _shade(axes: Axes, band: Band, style: LineStyle) -> None:
    if np.isfinite(band.low).any():
        low = np.maximum(band.low, 1e-300)
        axes.fill_between(np.arange(low.size), low, band.high, color=style.colour, alpha=0.13, linewidth=0, zorder=2)


def _draw_diverged(
    axes: Axes, panel: LearningPanel, curve: LearningCurve, style: LineStyle, marks: Counter[int]
) -> None:
    """Mark where seeds diverge: a loss at the top edge, where a dotted line leads, an accuracy at its last value."""
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
