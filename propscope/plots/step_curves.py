"""Curves over the steps of a monitored run: what is seen of every step, and the sites that change most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from propscope.plots.end_labels import EndLabel, coinciding, draw_end_labels, labelled_panels
from propscope.plots.run_view import (
    STRIP,
    RunView,
    Series,
    StepAxis,
    draw_alarms,
    draw_sampled,
    draw_step_axis,
    held,
    label_of,
    listed,
    steps_a_cell,
)
from propscope.plots.scales import Floats, Ints, Scale, log_scale, signed_scale
from propscope.plots.style import (
    ALARM,
    DPI,
    SCREEN,
    Header,
    LineStyle,
    Look,
    TextFigure,
    framed,
    line_style,
    mark_nonfinite,
    unit,
    units_of,
)

SITES_AT_MOST = 6
# More samples than this need no marker each, and more than that are drawn as a line with a band.
_MARKED, _THICK = 40, 300


@dataclass(frozen=True, slots=True)
class StepQuantity:
    """A number of every step: the field `name` of `Steps`, under a `label`.

    It is left out where it is the same number at every step, unless it is `always` shown.
    """

    name: str
    label: str
    always: bool = False


STEP_QUANTITIES = (
    StepQuantity("loss", "loss", always=True),
    StepQuantity("gradient_norm", "norm of all gradients, as the optimizer got them", always=True),
    StepQuantity("learning_rate", "learning rate", always=True),
    StepQuantity("clip_factor", "clipping: norm after / before"),
    StepQuantity("loss_scale", "loss scale"),
)


@dataclass(frozen=True, slots=True, eq=False)
class StepPanel:
    """A number of every step: middle, lowest and highest value at `at`; `nonfinite`: the steps where it is not finite.

    Where each step has room of its own, the three are the same. `isolated`: it was seen on sampled steps only.
    """

    label: str
    at: Floats
    middle: Floats
    low: Floats
    high: Floats
    nonfinite: Ints
    scale: Scale
    isolated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StepCurves:
    """A picture of the numbers of every step, one panel for each; `sampled`: the steps of the samples."""

    header: Header
    axis: StepAxis
    panels: tuple[StepPanel, ...]
    sampled: Ints


_SAMPLES = " Marks below the loss: steps that were sampled."
_THINNED = " Line: median of each {} steps; band: from the lowest to the highest of them."
_LOST = " Red: NaN or Inf."
_LOST_SITES = " ▲: NaN or Inf from there on."


def prepare_steps(view: RunView, *, quantities: Sequence[StepQuantity] = STEP_QUANTITIES) -> StepCurves | None:
    """Return loss, gradient norm, learning rate, clip factor and loss scale over the steps; None without a step."""
    panels = [panel for quantity in quantities if (panel := prepare_step_panel(view, quantity)) is not None]
    if not panels:
        return None
    steps = steps_a_cell(view.axis.line_edges)
    reading = view.axis.reading + _SAMPLES * bool(len(view.sampled)) + _THINNED.format(steps) * (steps > 1)
    reading += lost_note(panels, reading)
    facts = " · ".join((view.facts, *_incidents(view)))
    return StepCurves(Header("The run, step by step", facts, reading.strip()), view.axis, tuple(panels), view.sampled)


def lost_note(panels: Sequence[StepPanel], reading: str) -> str:
    """Return what must be added to a text on how to read panels, where a number is not finite."""
    return _LOST * (_LOST not in reading and any(len(panel.nonfinite) for panel in panels))


def _incidents(view: RunView) -> list[str]:
    steps = view.steps
    skipped, failed = int((steps.skipped > 0).sum()), sum(map(bool, steps.error.tolist()))
    return [
        *([f"the optimizer took no step at {skipped} of {len(steps)}"] if skipped else ()),
        *([f"{failed} raised an error"] if failed else ()),
    ]


def prepare_step_panel(view: RunView, quantity: StepQuantity) -> StepPanel | None:
    """Return the panel of a number of every step; None where it was not recorded, or tells nothing."""
    values = np.asarray(getattr(view.steps, quantity.name), dtype=np.float64)
    numbers, lost = view.steps.number, np.isinf(values)
    if quantity.name == "loss":
        # A loss that is NaN was not given, unless it was at other steps.
        given = ~np.isnan(values)
        lost |= ~given & (np.cumsum(given) > 0) & (view.steps.nonfinite_gradients > 0)
    finite = values[np.isfinite(values)]
    if not (finite.size or lost.any()):
        return None
    if not quantity.always and (not finite.size or np.ptp(finite) <= 1e-3 * np.abs(finite).max()):
        return None
    order = np.argsort(numbers, kind="stable")
    at, middle, low, high = view.axis.thinned(numbers[order], values[order], view.axis.line_edges)
    isolated = finite.size < 0.5 * len(values)
    return StepPanel(quantity.label, at, middle, low, high, numbers[lost], _scale_of(low, high), isolated)


def _scale_of(low: Floats, high: Floats) -> Scale:
    """Return a logarithmic scale for positive numbers that differ by more than a factor of 10, else a linear one."""
    if not low.size:
        return Scale("linear", 0.0, 1.0)
    least, most = float(low.min()), float(high.max())
    if least > 0 and most > 10 * least:
        return log_scale(np.concatenate([low, high]), anchors=low)
    if 0 < least == most <= 1e100:
        return Scale("linear", 0.0, 1.25 * most)
    if least >= 0 and most <= 1e100:
        room = 0.06 * (most - least) or 0.1 * most or 1.0
        return Scale("linear", max(least - room, 0.0) if least else -0.02 * most, most + room)
    return signed_scale([low, high])


_WIDTH, _LEFT, _RIGHT = 8.2, 1.05, 0.3
_HEIGHT, _FIRST = 1.15, 1.9
_TITLE = 0.4
_BELOW = 0.58


def draw_steps(
    prepared: StepCurves, figure: Figure | None = None, *, look: Look = SCREEN, colour: str | None = None
) -> Figure:
    """Draw one panel below the other into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    heights = [_FIRST, *(_HEIGHT for _ in prepared.panels[1:])]
    width = look.units or _LEFT + _WIDTH + _RIGHT
    across = width - _LEFT - _RIGHT
    inner = sum(heights) + len(heights) * _TITLE + _BELOW
    bottom = framed(figure, prepared.header, width, inner, notes=listed(prepared.axis))
    height = units_of(figure)[1]
    for index, (panel, tall) in enumerate(zip(prepared.panels, heights, strict=True)):
        bottom -= _TITLE + tall
        axes = figure.add_axes((_LEFT / width, bottom / height, across / width, tall / height))
        draw_step_panel(axes, panel, prepared.axis, colour=colour)
        draw_alarms(axes, prepared.axis, numbers=index == 0)
        draw_step_axis(axes, prepared.axis, labelled=index + 1 == len(heights))
        draw_sampled(axes, None if index else prepared.sampled)
    return figure


def draw_step_panel(axes: Axes, panel: StepPanel, axis: StepAxis, *, colour: str | None = None) -> Axes:
    """Draw a number of every step into an axes."""
    panel.scale.apply(axes)
    axes.grid(axis="y")
    colour = colour or line_style(0).colour
    few = panel.isolated or len(panel.at) < 3
    axes.plot(panel.at, panel.middle, "." if few else "-", color=colour, linewidth=1.3, markersize=5, zorder=3)
    if (panel.high > panel.low).any() and not few:
        axes.fill_between(panel.at, panel.low, panel.high, color=colour, alpha=0.25, linewidth=0, zorder=2)
    for first, last in _runs(panel.nonfinite):
        axes.axvspan(first, last + 1, facecolor=ALARM, alpha=0.25, linewidth=0, zorder=1)
        # A single step is narrower than a pixel in a long run.
        axes.axvline(first + 0.5, color=ALARM, linewidth=1.2, alpha=0.6, zorder=1)
    axes.set_title(panel.label, pad=10 * unit(), size=10 * unit())
    return axes


def _runs(steps: Ints) -> list[tuple[int, int]]:
    """Return the first and the last of each run of consecutive steps, of at most 100 runs."""
    groups = np.split(steps, np.flatnonzero(np.diff(steps) > 1) + 1)
    return [(int(group[0]), int(group[-1])) for group in groups[:100] if len(group)]


@dataclass(frozen=True, slots=True, eq=False)
class SiteLine:
    """The numbers of one site or parameter at the samples, NaN where there is none and where a stretch has no sample.

    Of many samples the `values` are the medians of cells, with the lowest and the highest value of each.
    """

    name: str
    at: Floats
    values: Floats
    low: Floats
    high: Floats
    nonfinite: Floats
    style: int


@dataclass(frozen=True, slots=True, eq=False)
class SitePanel:
    """One set of axes: a quantity at some sites, with their names beside it."""

    title: str
    label: str
    lines: tuple[SiteLine, ...]
    scale: Scale
    labels: tuple[EndLabel, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SiteCurves:
    """A picture of chosen sites over the steps, one panel below the other."""

    header: Header
    axis: StepAxis
    panels: tuple[SitePanel, ...]


SITE_QUANTITIES = (
    ("Forward: values", "rms", "forward_rms", "forward", "site"),
    ("Backward: gradient", "rms", "backward_rms", "backward", "site"),
    ("Updates: step over parameter", "ratio of norms", "update_ratio", "", "parameter"),
)
_MOST = "Shown: the {} {}s that change most from their first sample, in each panel. --include chooses others."
_ASKED = "Shown: what --include asks for; where that is more than {}, what changes most of it."
_ENDS = " A line that ends or starts anew: no sample for long, or zero."


def prepare_site_curves(view: RunView) -> SiteCurves | None:
    """Return signal, gradient and updates of sites asked for, or of those that change most; None without samples."""
    panels: list[SitePanel] = []
    styles: dict[str, int] = {}
    for title, label, quantity, summary, _ in SITE_QUANTITIES:
        series = view.series(quantity, summary=summary)
        if series is not None:
            chosen = series.of(sorted(_most_changed(series)[:SITES_AT_MOST]))
            for name in chosen.names:
                styles.setdefault(name, len(styles))
            panels.append(_panel(view.axis, title, label, chosen, styles))
    if not panels:
        return None
    reading = (
        (_MOST.format(SITES_AT_MOST, "site") if view.pattern is None else _ASKED.format(SITES_AT_MOST))
        + _ENDS
        + _THINNED.format(steps_a_cell(view.axis.edges)) * (len(view.sampled) > _THICK)
        + view.axis.reading
        + _LOST_SITES * any(line.nonfinite.size for panel in panels for line in panel.lines)
    )
    return SiteCurves(Header("Sites over the steps", view.facts, reading), view.axis, tuple(panels))


def _most_changed(series: Series) -> list[int]:
    """Return the places, that which changes most first: what is not finite, what became zero, the largest factor."""
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.abs(np.log(series.values / series.first))
    # log 0 is the largest of all, but what is not finite comes first.
    far = np.where(series.nonfinite, np.inf, np.minimum(np.nan_to_num(far, nan=-1.0, posinf=1e6), 1e6))
    return [int(at) for at in np.argsort(-far.max(axis=0), kind="stable")]


def _panel(axis: StepAxis, title: str, label: str, series: Series, styles: dict[str, int]) -> SitePanel:
    lines = []
    for place, name in enumerate(series.names):
        values, lost = series.values[:, place], series.nonfinite[:, place]
        drawable = np.where(np.isfinite(values) & (values > 0) & ~lost, values, np.nan)
        middle = low = high = drawable
        at = np.asarray(series.steps + 0.5, dtype=np.float64)
        if len(series.steps) > _THICK:
            at, middle, low, high = axis.thinned(series.steps, drawable, axis.edges)
        # A break in the line where a stretch has no sample.
        broken = np.flatnonzero(held(at)[:-1] < at[1:]) + 1
        at, middle, low, high = (np.insert(each, broken, np.nan) for each in (at, middle, low, high))
        lines.append(
            SiteLine(name, at, middle, low, high, np.asarray(series.steps[lost] + 0.5, dtype=np.float64), styles[name])
        )
    scale = log_scale(np.concatenate([line.values for line in lines]), anchors=series.first)
    heights = [
        (label_of(line.name, 54), _fate(series, place), scale.fraction(line.values)) for place, line in enumerate(lines)
    ]
    labels = tuple(
        EndLabel(names, note, float(each[~np.isnan(each)][-1:].sum())) for names, note, each in coinciding(heights)
    )
    return SitePanel(title, label, tuple(lines), scale, labels)


def _fate(series: Series, place: int) -> str:
    if series.nonfinite[:, place].any():
        return f"not finite from {series.steps[series.nonfinite[:, place].argmax()]}"
    values = series.values[:, place]
    seen = values[~np.isnan(values)]
    return "zero at the end" if seen.size and seen[-1] == 0 else ""


_PANEL, _ACROSS = 2.3, 6.2


def draw_site_curves(prepared: SiteCurves, figure: Figure | None = None) -> Figure:
    """Draw one panel below the other into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    rows = [[panel] for panel in prepared.panels]
    notes = listed(prepared.axis)
    spaced = labelled_panels(
        figure, prepared.header, rows, least=_PANEL, above=STRIP + 0.3, across=_ACROSS, notes=notes
    )
    for axes, panel in spaced:
        draw_site_panel(axes, panel, prepared.axis)
        draw_alarms(axes, prepared.axis)
        draw_step_axis(axes, prepared.axis)
    return figure


def draw_site_panel(axes: Axes, panel: SitePanel, axis: StepAxis) -> Axes:
    """Draw the lines of some sites into an axes, with their names beside it."""
    panel.scale.apply(axes)
    axes.grid(axis="y")
    styles: dict[str, LineStyle] = {}
    for line in panel.lines:
        style = replace(line_style(line.style), dash="-")
        styles[label_of(line.name, 54)] = style
        few = int(np.isfinite(line.values).sum()) <= _MARKED
        axes.plot(line.at, line.values, **{**style.keywords, "markersize": 4, "markevery": 1 if few else 0.1}, zorder=3)
        if (line.high > line.low).any():
            axes.fill_between(line.at, line.low, line.high, color=style.colour, alpha=0.15, linewidth=0, zorder=2)
        mark_nonfinite(axes, line.nonfinite[:1].tolist())
    axes.set_ylabel(panel.label)
    axes.set_title(panel.title, pad=18)
    draw_end_labels(axes, panel.labels, styles)
    return axes
