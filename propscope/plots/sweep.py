"""The picture of a sweep: the factor from end to end, or the final loss, against depth, width, gain or another axis.

For trainings also the final loss against the distance from criticality that the networks had before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from propscope.plots.end_labels import EndLabel, coinciding, draw_end_labels, labelled_panels
from propscope.plots.pages import axis_value, facts, lines, swept
from propscope.plots.scales import Floats, Scale, log_scale
from propscope.plots.style import DPI, QUIET, Header, LineStyle, TextFigure, draw_prediction, line_styles, short
from propscope.records import NetworkProfile, ProfileSet, TrainingRun, TrainingSet
from propscope.records.depth_scale import log_chi
from propscope.records.expectations import expected_factor
from propscope.records.interval import geometric_interval
from propscope.records.network import Direction

Record = TypeVar("Record", NetworkProfile, TrainingRun)

BANDS_AT_MOST = 6
_DIRECTIONS: tuple[tuple[Direction, str], ...] = (
    ("forward", "Forward: rms(z), last / first layer"),
    ("backward", "Backward: rms(dL/dz), first / last layer"),
)
_AXES = {
    "depth": "depth (layers)",
    "width": "width (units a layer)",
    "gain": "gain (factor on the weights)",
    "weight_variance": "weight variance  $\\sigma_w^2$ = fan_in · Var[W]",
    "bias_variance": "bias variance  $\\sigma_b^2$ = Var[b]",
    "residual": "factor of the residual branch",
    "batch": "batch (rows)",
}
_DISTANCE = "ln χ₁ before training (change of the gradient's mean square a layer)"
_FACTORS = (
    "Each point is the factor by which the signal changes over the whole depth. 1 (grey line): kept. Below: vanishing. "
    "Above: exploding."
)
_LOSSES = "Each point is the loss after the last epoch, on validation data where there are any."
_CRITICAL = (
    " Right: against the gradient's change before the first step. 0 (grey line): critical; left of it gradients vanish "
    "towards the input, right of it they explode."
)
_BANDS = {True: " Band: 95% confidence interval over seeds.", False: " Band: lowest to highest seed."}
_THEORY = " Grey dashes under the lines: infinite-width theory."
_ZERO = " ▼: exactly zero."
_NONFINITE = {True: " ▲: NaN or Inf.", False: " ▲: a seed diverged; the point is the mean of the others."}
_CONSTANT = " Grey dots: the best constant prediction."


@dataclass(frozen=True, slots=True, eq=False)
class SweepLine:
    """A line of a sweep: mean over seeds `center`, `low`, `high` and `expected` at the axis values `at`; shape (n,).

    `at` is ascending. `center` is 0 or not finite where the signal vanished or overflowed. `low` and `high` are NaN
    with fewer than two seeds, `expected` where theory says nothing. `lost`, a mask: where a seed is not finite.
    """

    name: str
    at: Floats
    center: Floats
    low: Floats
    high: Floats
    expected: Floats
    lost: np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class SweepPanel:
    """One set of axes: the lines over one axis (`across`), logarithmic if `geometric`, and the `level` to compare with.

    `level` is a value of the y axis, `origin` one of the x axis; NaN for none.
    """

    title: str
    across: str
    geometric: bool
    quantity: str
    lines: tuple[SweepLine, ...]
    scale: Scale
    labels: tuple[EndLabel, ...]
    level: float
    origin: float = math.nan


@dataclass(frozen=True, slots=True)
class Sweep:
    """A picture of a sweep; `names` holds all lines, and a line's index sets its style."""

    header: Header
    names: tuple[str, ...]
    panels: tuple[SweepPanel, ...]


def prepare_sweep(profiles: ProfileSet) -> Sweep | None:
    """Return the factors of a grid over its longest numeric axis; None with fewer than three values on every axis."""
    axes = swept(profiles)
    if not axes:
        return None
    axis = axes[0]
    groups = lines(profiles, columns=(axis,))
    panels = []
    for direction, title in _DIRECTIONS:

        def factor(profile: NetworkProfile, direction: Direction = direction) -> float:
            return profile.factor(direction)

        def expected(profile: NetworkProfile, direction: Direction = direction) -> float:
            return expected_factor(profile, direction)

        found = [_line(name, list(group), axis, factor, expected) for name, group in groups.items()]
        drawn = tuple(line for line in found if not np.isnan(line.center).all())
        if drawn:
            panels.append(_panel(title, _AXES.get(axis, axis), "factor", drawn, level=1.0))
    if not panels:
        return None
    shown = [line for panel in panels for line in panel.lines]
    reading = _FACTORS + _legend(shown, measured=True)
    header = Header(f"Signal from end to end against {_word(axis)}", facts(profiles), reading)
    return Sweep(header, tuple(groups), tuple(panels))


def prepare_final_losses(runs: TrainingSet) -> Sweep | None:
    """Return the final losses over the longest numeric axis, and over the distance from criticality where it is known.

    None with fewer than three values on every axis.
    """
    axes = swept(runs)
    if not axes:
        return None
    axis = axes[0]
    groups = lines(runs, columns=(axis,))

    def loss(run: TrainingRun) -> float:
        return run.final_loss

    found = tuple(_line(name, list(group), axis, loss) for name, group in groups.items())
    drawn = tuple(line for line in found if not np.isnan(line.center).all())
    if not drawn:
        return None
    constants = [run.constant_loss for run in runs if math.isfinite(run.constant_loss)]
    alike = constants and max(constants) <= 1.1 * min(constants)
    level = math.fsum(constants) / len(constants) if alike else math.nan
    panels = [_panel(f"Final loss against {_word(axis)}", _AXES.get(axis, axis), "final loss", drawn, level=level)]
    near = tuple(
        line for name, group in groups.items() if (line := _by_distance(name, list(group), axis, loss)) is not None
    )
    if near:
        title = "Final loss against distance from criticality"
        panels.append(_panel(title, _DISTANCE, "final loss", near, level=level, origin=0.0))
    shown = [line for panel in panels for line in panel.lines]
    reading = _LOSSES + _CRITICAL * bool(near) + _CONSTANT * (not math.isnan(level)) + _legend(shown, measured=False)
    header = Header(f"Training against {_word(axis)}", facts(runs), reading)
    return Sweep(header, tuple(groups), tuple(panels))


def _word(axis: str) -> str:
    return axis.replace("_", " ")


def _legend(shown: list[SweepLine], *, measured: bool) -> str:
    return (
        _BANDS[measured] * (len(shown) <= 2 * BANDS_AT_MOST and any(np.isfinite(line.low).any() for line in shown))
        + _THEORY * any(np.isfinite(line.expected).any() for line in shown)
        + _ZERO * any((line.center == 0).any() for line in shown)
        + _NONFINITE[measured] * any(line.lost.any() for line in shown)
    )


def _grouped(members: Iterable[Record], axis: str) -> dict[float, list[Record]]:
    together: dict[float, list[Record]] = {}
    for member in members:
        together.setdefault(axis_value(member.labels[axis]), []).append(member)
    return dict(sorted(together.items()))


def _line(
    name: str,
    members: list[Record],
    axis: str,
    measure: Callable[[Record], float],
    expect: Callable[[Record], float] | None = None,
) -> SweepLine:
    """Return a line of factors, with `expect` and 95% intervals, or of losses, with the lowest and the highest seed."""
    rows = []
    grouped = _grouped(members, axis)
    for seeds in grouped.values():
        values = [measure(member) for member in seeds]
        finite = [value for value in values if math.isfinite(value)]
        if expect is None:
            interval = geometric_interval(finite)
            low, high = (min(finite), max(finite)) if len(finite) > 1 else (math.nan, math.nan)
            rows.append((interval.center, low, high, math.nan, len(finite) < len(values)))
        else:
            interval = geometric_interval(values)
            wanted = geometric_interval(map(expect, seeds)).center
            rows.append((interval.center, interval.low, interval.high, wanted, math.isinf(interval.center)))
    columns = np.array(rows, dtype=np.float64).T
    center, low, high, expected, lost = columns
    return SweepLine(name, np.array(list(grouped)), center, low, high, expected, lost > 0)


def _by_distance(
    name: str, members: list[TrainingRun], axis: str, loss: Callable[[TrainingRun], float]
) -> SweepLine | None:
    """Return the losses at the networks' mean ln chi_1 before training; None where fewer than three are known."""
    points = []
    for seeds in _grouped(members, axis).values():
        before = [log_chi(profile) for run in seeds if (profile := run.profile(0)) is not None]
        known = [value for value in before if math.isfinite(value)]
        if known:
            points.append((math.fsum(known) / len(known), _line(name, seeds, axis, loss)))
    if len(points) < 3:
        return None
    points.sort(key=lambda point: point[0])
    columns = (
        np.concatenate([getattr(line, field) for _, line in points])
        for field in ("center", "low", "high", "expected", "lost")
    )
    return SweepLine(name, np.array([x for x, _ in points]), *columns)


def _panel(
    title: str, across: str, quantity: str, drawn: tuple[SweepLine, ...], *, level: float, origin: float = math.nan
) -> SweepPanel:
    centers = np.concatenate([line.center for line in drawn])
    expected = np.concatenate([np.where(line.center > 0, line.expected, np.nan) for line in drawn])
    levels = [] if math.isnan(level) else [level]
    limits = np.concatenate([edge for line in drawn for edge in (line.low, line.high)])
    scale = log_scale(np.concatenate([centers, expected, levels]), anchors=levels or centers, limits=limits)
    # Lines of one panel may end at different places; the last value of each leads to its name.
    ends = [(line.name, "", scale.fraction(_shown(line))) for line in drawn]
    labels = tuple(EndLabel(names, "", _last(heights)) for names, _, heights in coinciding(ends))
    at = np.unique(np.concatenate([line.at for line in drawn]))
    return SweepPanel(
        title, across, math.isnan(origin) and _geometric(at), quantity, drawn, scale, labels, level, origin
    )


def _shown(line: SweepLine) -> Floats:
    return np.where(np.isfinite(line.center) & (line.center > 0), line.center, np.nan)


def _last(heights: Floats) -> float:
    finite = heights[~np.isnan(heights)]
    return float(finite[-1]) if finite.size else 0.0


def _geometric(at: Floats) -> bool:
    """Return whether values are spaced more evenly on a logarithmic axis than on a linear one."""
    if at.size < 3 or at[0] <= 0:
        return False
    steps, ratios = np.diff(at), np.diff(np.log(at))
    return bool(ratios.std() / ratios.mean() < steps.std() / steps.mean())


_HEIGHT = 3.0
_TITLE = 0.42
_TICKS = 8


def draw_sweep(prepared: Sweep, figure: Figure | None = None) -> Figure:
    """Draw the panels side by side into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    styles = line_styles(prepared.names)
    for axes, panel in labelled_panels(figure, prepared.header, (prepared.panels,), least=_HEIGHT, above=_TITLE):
        draw_sweep_panel(axes, panel, styles)
    return figure


def draw_sweep_panel(axes: Axes, panel: SweepPanel, styles: Mapping[str, LineStyle]) -> Axes:
    """Draw the lines of one panel into an axes, with their names beside it; `styles` maps names to styles."""
    panel.scale.apply(axes)
    axes.grid(axis="y")
    dots = panel.quantity == "final loss"
    if not math.isnan(panel.level):
        axes.axhline(panel.level, color=QUIET, linewidth=1.1, linestyle=(0, (1, 2)) if dots else "-", zorder=1.5)
    if not math.isnan(panel.origin):
        axes.axvline(panel.origin, color=QUIET, linewidth=1.1, zorder=1.5)
    banded = len(panel.lines) <= BANDS_AT_MOST
    for line in panel.lines:
        _draw_line(axes, line, styles[line.name], banded=banded)
    at = np.unique(np.concatenate([line.at for line in panel.lines]))
    _scale_across(axes, at, geometric=panel.geometric)
    axes.set_xlabel(panel.across)
    axes.set_ylabel(panel.quantity)
    axes.set_title(panel.title, pad=8)
    draw_end_labels(axes, panel.labels, styles)
    return axes


def _draw_line(axes: Axes, line: SweepLine, style: LineStyle, *, banded: bool) -> None:
    axes.plot(line.at, _shown(line), zorder=3, **style.keywords)
    if np.isfinite(line.expected).any():
        draw_prediction(axes, line.at, line.expected)
    if banded and np.isfinite(line.low).any():
        low = np.maximum(line.low, 1e-300)
        axes.fill_between(line.at, low, line.high, color=style.colour, alpha=0.15, linewidth=0, zorder=2)
    for where, marker, edge in ((line.center == 0, "v", 0.0), (line.lost, "^", 1.0)):
        axes.plot(
            line.at[where],
            np.full(int(where.sum()), edge),
            marker,
            transform=axes.get_xaxis_transform(),
            markersize=8,
            color=style.colour,
            markeredgecolor="white",
            clip_on=False,
            zorder=6,
        )


def _scale_across(axes: Axes, at: Floats, *, geometric: bool) -> None:
    if geometric:
        axes.set_xscale("log")
        room = (at[-1] / at[0]) ** 0.03
        axes.set_xlim(at[0] / room, at[-1] * room)
        ticks = at[:: -(-at.size // _TICKS)]
        axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
        axes.xaxis.set_major_formatter(FixedFormatter([_tick(value) for value in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        return
    room = 0.03 * (at[-1] - at[0]) or 0.5
    axes.set_xlim(at[0] - room, at[-1] + room)
    if (at == at.round()).all():
        # There is no network of 3.25 layers.
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _tick(value: float) -> str:
    return f"{value:.0f}" if value == round(value) and value < 1e5 else short(value)
