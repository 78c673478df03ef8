"""The loss around the weights of one or more networks, as maps of planes through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from propscope.errors import InputError
from propscope.plots.scales import Scale
from propscope.plots.style import ALARM, DPI, INK, LINE_HEIGHT, Header, TextFigure, framed, short, units_of, wrap
from propscope.records.loss_surface import LossSurface

_READING = (
    "A plane through the weights in two random directions; 1 moves each unit's weights by their own norm. Cross: the "
    "network. Dot: the lowest loss. Lines: {lines}; the denser, the steeper."
)
_LOST = " Hatched: NaN or Inf."
# Lines of equal loss a factor of 10, and at most in all.
_A_DECADE, _LINES = 4, 24


@dataclass(frozen=True, slots=True, eq=False)
class LossMaps:
    """A picture of loss surfaces, row by row: the colours go from the loss `low` to `high`, by its logarithm or not.

    `levels`: the losses at which lines are drawn, ascending.
    """

    header: Header
    surfaces: tuple[LossSurface, ...]
    columns: int
    low: float
    high: float
    logarithmic: bool
    levels: tuple[float, ...]


def prepare_loss_maps(
    surfaces: Sequence[LossSurface], *, title: str = "Loss around the weights", facts: str = "", columns: int = 2
) -> LossMaps:
    """Return the picture of loss surfaces, `columns` side by side; raises `InputError` without any finite loss."""
    given = tuple(surfaces)
    ends = [end for surface in given for end in (surface.lowest, surface.highest) if math.isfinite(end)]
    if not ends:
        raise InputError("the loss is not finite anywhere", hint="give surfaces of a network that has a loss")
    low, high = min(ends), max(ends)
    logarithmic = low > 0 and high > 3 * low
    if logarithmic:
        decades = math.log10(high / low)
        levels = np.geomspace(low, high, min(_LINES, 1 + math.ceil(_A_DECADE * decades)) + 1)[1:-1]
        lines = f"equal loss, each {short(float((high / low) ** (1 / (len(levels) + 1))))} times the one before"
    else:
        levels = np.linspace(low, high, 13)[1:-1]
        lines = f"equal loss, {short((high - low) / 12)} apart"
    lost = any(not np.isfinite(surface.losses).all() for surface in given)
    header = Header(title, facts, _READING.format(lines=lines) + _LOST * lost)
    return LossMaps(header, given, columns, low, high, logarithmic, tuple(levels.tolist()))


_SIDE = 2.9
_LEFT, _ABOVE, _BELOW, _KEY = 0.75, 0.32, 0.55, 1.15
_TITLE_CHARACTERS = 34


def draw_loss_maps(prepared: LossMaps, figure: Figure | None = None) -> Figure:
    """Draw the maps into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    columns = min(prepared.columns, len(prepared.surfaces))
    rows = math.ceil(len(prepared.surfaces) / columns)
    width = columns * (_LEFT + _SIDE) + _KEY
    above = _ABOVE + LINE_HEIGHT
    top = framed(figure, prepared.header, width, rows * (above + _SIDE + _BELOW))
    height = units_of(figure)[1]
    for index, surface in enumerate(prepared.surfaces):
        row, column = divmod(index, columns)
        left = column * (_LEFT + _SIDE) + _LEFT
        bottom = top - row * (above + _SIDE + _BELOW) - above - _SIDE
        axes = figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))
        draw_loss_map(axes, prepared, surface)
        axes.set_xlabel("first direction")
        axes.set_ylabel("second direction")
    middle = (top - above - _SIDE) / height
    bar = figure.add_axes((1 - (_KEY - 0.2) / width, middle, 0.16 / width, _SIDE / height))
    figure.colorbar(figure.axes[0].collections[0], cax=bar, label="loss")
    if prepared.logarithmic:
        Scale("log", prepared.low, prepared.high).apply(bar)
    return figure


def draw_loss_map(axes: Axes, prepared: LossMaps, surface: LossSurface) -> Axes:
    """Draw one surface into an axes: colours, lines, where the network stands and where the loss is lowest."""
    norm = (LogNorm if prepared.logarithmic else Normalize)(prepared.low, prepared.high)
    steps, losses = surface.steps, np.ma.masked_invalid(surface.losses)
    axes.patch.set(facecolor="white", hatch="////", edgecolor=INK)
    axes.pcolormesh(steps, steps, losses, shading="nearest", norm=norm, cmap=colormaps["viridis"], rasterized=True)
    shown = [level for level in prepared.levels if surface.lowest < level < surface.highest]
    if shown:
        axes.contour(steps, steps, losses, levels=shown, colors="white", linewidths=0.8)
    if losses.count():
        row, column = np.unravel_index(int(losses.argmin()), losses.shape)
        axes.plot(steps[column], steps[row], "o", color="white", markeredgecolor=INK, markersize=7)
    axes.plot(0, 0, "x", color=ALARM, markersize=9, markeredgewidth=2.4)
    name = "\n".join(wrap(surface.name, _TITLE_CHARACTERS))
    axes.set_title(f"{name}\nloss {short(surface.here)}; map {short(surface.lowest)} to {short(surface.highest)}")
    ticks = steps[0], steps[0] / 2, 0.0, steps[-1] / 2, steps[-1]
    axes.set_xticks(ticks, map(short, ticks))
    axes.set_yticks(ticks, map(short, ticks))
    axes.set_aspect("equal")
    return axes
