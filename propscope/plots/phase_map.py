"""The order-to-chaos diagram: correlation depth, critical line and initializers in the plane of the two variances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from propscope.plots.map_labels import Box, MapLabel, place_labels, size_of
from propscope.plots.style import (
    ALARM,
    CHARACTER,
    DPI,
    INK,
    QUIET,
    SCREEN,
    Header,
    Look,
    TextFigure,
    framed,
    short,
    unit,
    units_of,
    wrap,
)
from propscope.records import NetworkProfile, ProfileSet
from propscope.records.depth_scale import correlation_depth
from propscope.records.phase import Floats, MeasuredDepth, PhaseChart, PhasePoint

# A stretch of the critical line: sigma_w^2, sigma_b^2, and whether it is drawn solid.
Piece = tuple[Floats, Floats, bool]

# The size of the map in units.
WIDTH, HEIGHT = 6.6, 4.6
# The ends of the colour scale in layers; correlation depths above the upper end have the same colour.
DEPTHS = (0.3, 1000.0)

# The colormap of the depths.
COLOURS = "viridis"
Mark = Literal["critical", "initializer", "left", "right", "bottom", "top", "none"]

_CHARACTERS = 26
# No diagram reaches further, and a file from elsewhere may hold any number.
_LARGEST = 1e4
# Points nearer to each other than this, in inches, share a marker and a label.
_TOGETHER = 0.07
# Half of the square that is kept clear around a measured dot, in inches.
_DOT = 0.09
_READING = (
    "Colour: the correlation depth ξ_c in layers, over which the correlation of two inputs settles; plain networks "
    "train up to a depth of about 6 ξ_c. It diverges at the critical line; the last colour: {most} layers or more. "
    "Ordered: inputs become alike and gradients vanish. Chaotic: similar inputs separate and gradients explode."
)
_DIVERGES = " Hatched: the variance, starting at 1, grows without bound."
_DASHED = " Dashed line: critical, but the variance moves away from such a point."
_STAR = " Star: the variances of --init critical."
_MEASURED = " Dots: ξ_c as measured; theory holds where a dot has the colour around it."
_UNKNOWN = " ×: not resolved."


@dataclass(frozen=True, slots=True)
class Region:
    """The name of a region of the map, and the centre of its text in units."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True, eq=False)
class PhasePicture:
    """A picture of a phase `chart`: the critical line in pieces (sigma_w^2, sigma_b^2, whether solid), and all labels.

    `marks[i]` is drawn at the point of `labels[i]`. A mark named after a side is an arrow to a point beyond that side.
    `measured` are depths that networks showed, drawn over the colours.
    """

    header: Header
    chart: PhaseChart
    pieces: tuple[Piece, ...]
    regions: tuple[Region, ...]
    marks: tuple[Mark, ...]
    labels: tuple[MapLabel, ...]
    measured: tuple[MeasuredDepth, ...] = ()
    size: tuple[float, float] = (WIDTH, HEIGHT)


@dataclass(frozen=True, slots=True)
class _Plane:
    """The map of a chart, `width` by `height` units."""

    chart: PhaseChart
    width: float
    height: float

    def x(self, weight: Floats | float) -> Floats:
        low, high = self.chart.weight_limits
        return np.asarray((np.asarray(weight) - low) / (high - low) * self.width)

    def y(self, bias: Floats | float) -> Floats:
        low, high = self.chart.bias_limits
        return np.asarray((np.asarray(bias) - low) / (high - low) * self.height)


def prepare_phase(
    chart: PhaseChart,
    *,
    note: str = "",
    measured: Sequence[MeasuredDepth] = (),
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> PhasePicture:
    """Return the picture of a phase chart, a map of a `size` in units; `note` says what the points depend on."""
    plane = _Plane(chart, *size)
    dots = [_dot(plane, point) for point in measured]
    regions = _regions(plane, dots)
    pieces = _pieces(plane)
    points = _points(plane, pieces)
    taken = [_box(region) for region in regions]
    labels = place_labels(
        [(rows, x, y) for _, rows, x, y in points],
        *size,
        taken=taken,
        kept_clear=[*_beads(plane, pieces), *dots],
    )
    marks = tuple(mark for mark, *_ in points)
    header = _header(chart, pieces, marks, note, measured)
    return PhasePicture(header, chart, pieces, regions, marks, labels, tuple(measured), size)


def measured_depths(profiles: ProfileSet, chart: PhaseChart) -> list[MeasuredDepth]:
    """Return the correlation depths of networks at the variances of their weights and biases, seeds together."""
    return resolved(depths_of(profiles), chart)


def depths_of(profiles: ProfileSet) -> list[MeasuredDepth]:
    """Return the correlation depths as measured, whatever the activation is."""
    found = []
    for members in profiles.groups("seed").values():
        pairs = [_variances(profile) for profile in members]
        weight, bias = (math.fsum(each) / len(pairs) for each in zip(*pairs, strict=True))
        if 0 < weight < _LARGEST and 0 <= bias < _LARGEST:
            found.append(MeasuredDepth(weight, bias, correlation_depth(members)))
    return found


def resolved(measured: Sequence[MeasuredDepth], chart: PhaseChart) -> list[MeasuredDepth]:
    """Return measured depths without those that have no scale, where phi(a x) = a phi(x) for a > 0, as of ReLU.

    Without biases, weights of any size then give the same cosines. These settle as a power of the depth, with no scale,
    while the colours are the limit of small biases. The critical line of such an activation is one point.
    """
    if chart.line_weight.size != 1:
        return list(measured)
    return [point if point.bias_variance else replace(point, correlation_depth=math.nan) for point in measured]


def _variances(profile: NetworkProfile) -> tuple[float, float]:
    """Return sigma_w^2 and sigma_b^2 as the weights and biases of the hidden layers behind the first have them."""
    hidden = [p for p in profile.parameters if p.name.startswith("layers.") and not p.name.startswith("layers.0.")]
    weights = [p.shape[1] * p.value.rms**2 for p in hidden if p.name.endswith("linear.weight")]
    biases = [p.value.rms**2 for p in hidden if p.name.endswith("linear.bias")]
    if not weights or not biases:
        return math.nan, math.nan
    return math.fsum(weights) / len(weights), math.fsum(biases) / len(biases)


def _header(
    chart: PhaseChart, pieces: tuple[Piece, ...], marks: tuple[Mark, ...], note: str, measured: Sequence[MeasuredDepth]
) -> Header:
    reading = _READING.format(most=short(DEPTHS[1]))
    reading += _DIVERGES * bool(np.isinf(chart.q).any()) + _DASHED * any(not solid for *_, solid in pieces)
    reading += _STAR * ("critical" in marks) + _MEASURED * bool(measured)
    reading += _UNKNOWN * any(math.isnan(point.correlation_depth) for point in measured)
    rows = [reading]
    if chart.no_line:
        rows.append(f"No critical line: {chart.no_line}.")
    elif chart.line_weight.size == 1:
        w, b = float(chart.line_weight[0]), float(chart.line_bias[0])
        rows.append(
            f"The critical line is one point, ({short(w)}, {short(b)}): any bias makes the variance grow without bound."
        )
    reasons: dict[str, list[str]] = {}
    for name, reason in chart.without_point:
        reasons.setdefault(reason, []).append(name)
    rows += [f"Not in the map: {', '.join(names)} ({reason})." for reason, names in reasons.items()]
    facts = " · ".join(filter(None, ("infinite-width mean-field theory", note)))
    return Header(f"Phase diagram of {chart.activation}: order and chaos", facts, "\n".join(rows))


def _pieces(plane: _Plane) -> tuple[Piece, ...]:
    """Return the stretches of the critical line within the map, each all solid or all dashed."""
    chart = plane.chart
    if chart.line_weight.size < 2:
        return ()
    x, y = plane.x(chart.line_weight), plane.y(chart.line_bias)
    inside = (x >= 0) & (x <= plane.width) & (y >= 0) & (y <= plane.height)
    # One more point at each end makes the line reach the edge of the map.
    shown = inside | np.append(inside[1:], False) | np.insert(inside[:-1], 0, False)
    pieces = []
    state = np.where(shown, np.where(chart.line_stable, 2, 1), 0)
    starts = np.flatnonzero(np.diff(state, prepend=-1) != 0)
    for start, end in zip(starts, [*starts[1:], state.size], strict=True):
        stretch = slice(start, min(end + 1, state.size) if end < state.size and state[end] else end)
        if state[start] and inside[start:end].any():
            pieces.append((chart.line_weight[stretch], chart.line_bias[stretch], bool(state[start] == 2)))
    return tuple(pieces)


def _points(plane: _Plane, pieces: tuple[Piece, ...]) -> list[tuple[Mark, tuple[str, ...], float, float]]:
    """Return the mark, the rows of text and the point (x, y) of every label."""
    groups: list[tuple[Mark, list[str], float, float]] = []
    chart = plane.chart
    for point in dict.fromkeys((*filter(None, (chart.critical,)), *chart.initializers)):
        mark, name, x, y = _point_of(plane, point)
        for other, names, left, bottom in groups:
            alike = mark == other or {mark, other} == {"critical", "initializer"}
            if alike and np.hypot(left - x, bottom - y) < _TOGETHER:
                names.append(name)
                break
        else:
            groups.append((mark, [name], x, y))
    characters = _characters(plane)
    points = [(mark, tuple(wrap(", ".join(_families(names)), characters)), x, y) for mark, names, x, y in groups]
    solid = [piece for piece in pieces if piece[2]]
    if solid:
        weight, bias, _ = max(solid, key=lambda piece: float(np.ptp(plane.y(piece[1]).clip(0, plane.height))))
        across, upwards = plane.x(weight), plane.y(bias)
        inner = np.flatnonzero((across > 0.3) & (across < plane.width - 0.3) & (upwards < 0.85 * plane.height))
        if inner.size:
            at = inner[-1]
            points.append(("none", ("critical line",), float(across[at]), float(upwards[at])))
    return points


def _characters(plane: _Plane) -> int:
    return min(_CHARACTERS, max(8, int(plane.width / (2 * CHARACTER))))


def _families(names: list[str]) -> list[str]:
    """Return each name once; xavier_* stands for xavier_uniform and xavier_normal together."""
    unique = list(dict.fromkeys(names))
    both = {name.removesuffix("_normal") for name in unique if name.removesuffix("_normal") + "_uniform" in unique}
    short_names = {f"{family}{ending}": f"{family}_*" for family in both for ending in ("_normal", "_uniform")}
    return list(dict.fromkeys(short_names.get(name, name) for name in unique))


def _beads(plane: _Plane, pieces: tuple[Piece, ...]) -> list[Box]:
    """Return small boxes along the critical line, which labels should not cover."""
    beads: dict[tuple[int, int], None] = {}
    for weight, bias, _ in pieces:
        x, y = plane.x(weight), plane.y(bias)
        along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
        at = np.arange(0.0, along[-1], 0.05)
        for left, bottom in zip(np.interp(at, along, x), np.interp(at, along, y), strict=True):
            beads[round(left / 0.1), round(bottom / 0.1)] = None
    return [(0.1 * i - 0.05, 0.1 * j - 0.05, 0.1 * i + 0.05, 0.1 * j + 0.05) for i, j in beads]


def _point_of(plane: _Plane, point: PhasePoint) -> tuple[Mark, str, float, float]:
    x, y = float(plane.x(point.weight_variance)), float(plane.y(point.bias_variance))
    mark: Mark = "critical" if point == plane.chart.critical else "initializer"
    if -1e-9 <= x <= plane.width + 1e-9 and -1e-9 <= y <= plane.height + 1e-9:
        return mark, point.name, x, y
    where = f"{point.name} ({short(point.weight_variance)}, {short(point.bias_variance)})"
    side: Mark = "right" if x > plane.width else "left" if x < 0 else "top" if y > plane.height else "bottom"
    return side, where, min(max(x, 0.0), plane.width), min(max(y, 0.0), plane.height)


def _regions(plane: _Plane, dots: Sequence[Box]) -> tuple[Region, ...]:
    chart = plane.chart
    diverges = np.isinf(chart.q)
    masks: dict[str, NDArray[np.bool_]] = {
        "ordered": ~diverges & (chart.chi < 1),
        "chaotic": ~diverges & (chart.chi > 1),
        "variance diverges": diverges,
    }
    found = [_region(plane, name, mask, dots) for name, mask in masks.items()]
    return tuple(region for region in found if region is not None)


def _region(plane: _Plane, name: str, mask: NDArray[np.bool_], dots: Sequence[Box]) -> Region | None:
    """Return where a name stands: in the upper half, nearest to the middle of its region; None if there is no room.

    It covers as few of the dots as possible.
    """
    if not mask.any():
        return None
    rows, columns = mask.shape
    row, column = (float(where.mean()) for where in np.nonzero(mask))
    wide, high = size_of((name,))
    best: tuple[tuple[int, float], Region] | None = None
    for x in np.linspace(wide / 2 + 0.1, plane.width - wide / 2 - 0.1, 40):
        for y in np.linspace(plane.height / 2, plane.height - high, 16):
            region = Region(name, float(x), float(y))
            left, bottom, right, top = _box(region)
            part = mask[
                int(bottom / plane.height * rows) : int(top / plane.height * rows) + 1,
                int(left / plane.width * columns) : int(right / plane.width * columns) + 1,
            ]
            covered = sum(left < x1 and x0 < right and bottom < y1 and y0 < top for x0, y0, x1, y1 in dots)
            far = abs(x - column / columns * plane.width) + abs(y - row / rows * plane.height)
            if part.all() and (best is None or (covered, far) < best[0]):
                best = ((covered, far), region)
    return None if best is None else best[1]


def _dot(plane: _Plane, point: MeasuredDepth) -> Box:
    x, y = float(plane.x(point.weight_variance)), float(plane.y(point.bias_variance))
    return x - _DOT, y - _DOT, x + _DOT, y + _DOT


def _box(region: Region) -> Box:
    wide, high = size_of((region.name,))
    wide *= 1.15
    return region.x - wide / 2, region.y - high / 2, region.x + wide / 2, region.y + high / 2


_LEFT, _RIGHT, _BELOW, _ABOVE = 0.85, 1.25, 0.6, 0.3
_MARKS: dict[Mark, dict[str, Any]] = {
    "critical": {"marker": "*", "markersize": 16, "markerfacecolor": ALARM, "markeredgecolor": "white"},
    "initializer": {"marker": "o", "markersize": 8, "markerfacecolor": "white", "markeredgecolor": INK},
    "left": {"marker": "<", "markersize": 9, "markerfacecolor": "white", "markeredgecolor": INK},
    "right": {"marker": ">", "markersize": 9, "markerfacecolor": "white", "markeredgecolor": INK},
    "bottom": {"marker": "v", "markersize": 9, "markerfacecolor": "white", "markeredgecolor": INK},
    "top": {"marker": "^", "markersize": 9, "markerfacecolor": "white", "markeredgecolor": INK},
}
_TICKS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


def room_for_map(look: Look) -> tuple[float, float]:
    """Return the size of the map in units that a figure of a look has room for."""
    if look.units is None:
        return WIDTH, HEIGHT
    width = look.units - _LEFT - (_RIGHT if look.beside else 0.15)
    return width, (0.55 if look.beside else 0.85) * width


def draw_phase(
    prepared: PhasePicture, figure: Figure | None = None, *, look: Look = SCREEN, colours: str = COLOURS
) -> Figure:
    """Draw the phase diagram into a figure and set its size; without `figure`, a new one is made.

    The colour scale stands beside the map, or above it in a narrow figure.
    """
    figure = figure or TextFigure(dpi=DPI)
    across, upwards = prepared.size
    above = _ABOVE if look.beside else 0.75
    width = look.units or _LEFT + across + _RIGHT
    bottom = framed(figure, prepared.header, width, above + upwards + _BELOW) - above - upwards
    height = units_of(figure)[1]
    axes = figure.add_axes((_LEFT / width, bottom / height, across / width, upwards / height))
    box = (
        (_LEFT + across + 0.3, bottom, 0.16, upwards) if look.beside else (_LEFT, bottom + upwards + 0.12, across, 0.13)
    )
    bar = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    draw_plane(axes, prepared, colours=colours)
    draw_depths(axes, bar, upright=look.beside)
    return figure


def draw_depths(axes: Axes, bar: Axes | None, *, upright: bool = True) -> None:
    """Draw the colour scale of a map into `bar`, or beside the map, which gives room for it."""
    figure = axes.get_figure()
    assert figure is not None
    where: dict[str, Any] = {"ax": axes} if bar is None else {"cax": bar}
    ticks = [tick for tick in _TICKS if upright or tick in (1.0, 10.0, 100.0, 1000.0)]
    orientation = "vertical" if upright else "horizontal"
    scale = figure.colorbar(axes.images[0], extend="both", ticks=ticks, orientation=orientation, **where)
    scale.ax.minorticks_off()
    scale.set_ticklabels([f"≥ {short(tick)}" if tick == DEPTHS[1] else short(tick) for tick in ticks])
    scale.set_label("correlation depth scale  $\\xi_c$  (layers)")
    if not upright:
        scale.ax.xaxis.set_ticks_position("top")
        scale.ax.xaxis.set_label_position("top")


def draw_plane(axes: Axes, prepared: PhasePicture, *, colours: str = COLOURS) -> Axes:
    """Draw the map into an axes."""
    chart = prepared.chart
    extent = (*chart.weight_limits, *chart.bias_limits)
    diverges = np.isinf(chart.q)
    depth = np.ma.masked_array(np.clip(chart.correlation_depth, DEPTHS[0] / 10, 10 * DEPTHS[1]), diverges)
    shades = colormaps[colours].with_extremes(bad="#e6e6e6")
    axes.imshow(
        depth,
        origin="lower",
        extent=extent,
        aspect="auto",
        cmap=shades,
        norm=LogNorm(*DEPTHS),
        interpolation="nearest",
    )
    if diverges.any():
        x, y = chart.weight_variance, chart.bias_variance
        axes.contourf(x, y, np.where(diverges, 1.0, 0.0), levels=[0.5, 1.5], colors="none", hatches=["//"])
    for weight, bias, solid in prepared.pieces:
        for colour, thick in (("white", 4.0), (INK, 2.0)):
            axes.plot(weight, bias, color=colour, linewidth=thick, linestyle="-" if solid else (0, (3, 2)), zorder=3)
    axes.set_xlim(*chart.weight_limits)
    axes.set_ylim(*chart.bias_limits)
    outline = [patheffects.withStroke(linewidth=3, foreground="white")]
    for region in prepared.regions:
        axes.text(
            region.x / prepared.size[0],
            region.y / prepared.size[1],
            region.name,
            transform=axes.transAxes,
            ha="center",
            va="center",
            size=13 * unit(),
            weight="bold",
            path_effects=outline,
            zorder=4,
        )
    _draw_measured(axes, prepared.measured, colours)
    _draw_labels(axes, prepared)
    axes.set_xlabel("weight variance  $\\sigma_w^2$ = fan_in · Var[W]")
    axes.set_ylabel("bias variance  $\\sigma_b^2$ = Var[b]")
    return axes


def _draw_measured(axes: Axes, measured: Sequence[MeasuredDepth], colours: str) -> None:
    known = [point for point in measured if not math.isnan(point.correlation_depth)]
    axes.scatter(
        [point.weight_variance for point in known],
        [point.bias_variance for point in known],
        c=np.clip([point.correlation_depth for point in known], DEPTHS[0] / 10, 10 * DEPTHS[1]),
        s=70,
        cmap=colours,
        norm=LogNorm(*DEPTHS),
        edgecolors="white",
        linewidths=1.4,
        clip_on=False,
        zorder=3.5,
    )
    rest = [point for point in measured if math.isnan(point.correlation_depth)]
    where = [point.weight_variance for point in rest], [point.bias_variance for point in rest]
    axes.plot(*where, "x", color="white", markersize=7, markeredgewidth=1.6, clip_on=False, zorder=3.5)


def _draw_labels(axes: Axes, prepared: PhasePicture) -> None:
    width, height = prepared.size
    for mark, label in zip(prepared.marks, prepared.labels, strict=True):
        x0, y0, x1, y1 = label.leader
        across, upwards = [x0 / width, x1 / width], [y0 / height, y1 / height]
        axes.plot(across, upwards, color="white", linewidth=2.5, transform=axes.transAxes, zorder=4)
        axes.plot(across, upwards, color=QUIET, linewidth=1.0, transform=axes.transAxes, zorder=4.1)
        if mark != "none":
            axes.plot(
                [x0 / width], [y0 / height], linestyle="", transform=axes.transAxes, clip_on=False,
                zorder=6 if mark == "critical" else 5, **_MARKS[mark],
            )  # fmt: skip
        left, bottom, right, top = label.box
        card = Rectangle(
            (left / width, bottom / height), (right - left) / width, (top - bottom) / height, transform=axes.transAxes,
            facecolor="white", alpha=0.85, linewidth=0, zorder=4.4,
        )  # fmt: skip
        axes.add_patch(card)
        axes.text(
            (left + right) / 2 / width,
            (bottom + top) / 2 / height,
            "\n".join(label.rows),
            transform=axes.transAxes,
            ha="center",
            va="center",
            linespacing=1.15,
            zorder=4.5,
        )
