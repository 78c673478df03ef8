"""How histograms over the training are drawn: a mesh of cells a layer and initializer, darker for more values."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from propscope.plots.curve_panels import position_ticks
from propscope.plots.fast_text import width_of
from propscope.plots.quantities import Floats
from propscope.plots.style import ALARM, DPI, LINE_HEIGHT, QUIET, draw_header, power_of_ten, wrap
from propscope.plots.training_map import TrainingMap

_WIDTH = 2.15
_HEIGHT = 1.15
_GAP = 0.22
_ROWS = 0.2
_LEFT = 1.45
_BELOW = 0.62
_KEY = 0.42
_LEAST_WIDTH = 8.5
_NAME_CHARACTERS = 21
_SHADES = LinearSegmentedColormap.from_list(
    "density", ["#ffffff", "#dbe9f4", "#9fc5e2", "#4a90c4", "#1f5a95", "#0a2247"]
)
# A cell of fewer than one value in ten thousand is white.
_FEWEST = 4
_DENSITY = LogNorm(10.0**-_FEWEST, 1.0)
_UNSEEN = "#e9e9e9"


def draw_training_map(prepared: TrainingMap, figure: Figure | None = None) -> Figure:
    """Draw a grid of meshes into a figure, whose size it sets, or a new one."""
    figure = figure or Figure(dpi=DPI)
    names = ["\n".join(wrap(name, _NAME_CHARACTERS)) for name in prepared.columns]
    headings = LINE_HEIGHT * 1.1 * max(name.count("\n") + 1 for name in names) + 0.12
    width = max(_LEAST_WIDTH, _LEFT + len(names) * (_WIDTH + _GAP) + 0.1)
    header = prepared.header.height(width)
    top = header + _KEY + headings
    height = top + len(prepared.rows) * (_HEIGHT + _ROWS) + _BELOW
    figure.set_size_inches(width, height)
    draw_header(figure, prepared.header)
    _draw_key(figure, height - header - 0.12)
    counted = re.split(r"\W", prepared.counts)[0]
    for row, position in enumerate(prepared.rows):
        bottom = height - top - (row + 1) * _HEIGHT - row * _ROWS
        for column, name in enumerate(names):
            left = _LEFT + column * (_WIDTH + _GAP)
            axes = figure.add_axes((left / width, bottom / height, _WIDTH / width, _HEIGHT / height))
            draw_mesh(axes, prepared, row, column)
            axes.tick_params(labelleft=column == 0, labelbottom=row + 1 == len(prepared.rows))
            if row == 0:
                axes.set_title(name, pad=6, linespacing=1.1)
            if row + 1 == len(prepared.rows):
                axes.set_xlabel("epoch")
        middle = (bottom + _HEIGHT / 2) / height
        figure.text(0.2 / width, middle, f"{counted} {position}", weight="bold", va="center")
    return figure


def draw_mesh(axes: Axes, prepared: TrainingMap, row: int, column: int) -> Axes:
    """Draw the histograms of one layer and initializer into an axes, from the first epoch to the last."""
    shares = prepared.shares[row][column]
    sides = _sides(prepared.epochs)
    axes.set_facecolor(_UNSEEN)
    shown = np.ma.masked_invalid(np.where(np.isnan(shares), np.nan, np.maximum(shares, 10.0**-_FEWEST)))
    axes.pcolormesh(sides, prepared.edges, shown.T, cmap=_SHADES, norm=_DENSITY, rasterized=True)
    prepared.scale.apply(axes)
    axes.set_xlim(sides[0], sides[-1])
    axes.set_xticks(position_ticks(prepared.epochs[0], prepared.epochs[-1]))
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#b5b5b5")
    broken = list(prepared.broken[row][column])
    if broken:
        edge = axes.get_xaxis_transform()
        axes.plot(broken, [1.0] * len(broken), "^", color=ALARM, markersize=7, transform=edge, clip_on=False, zorder=4)
    return axes


def _sides(epochs: tuple[int, ...]) -> Floats:
    """Return where the columns of cells meet: midway between the epochs."""
    at = np.array(epochs, dtype=np.float64)
    middles = (at[1:] + at[:-1]) / 2
    return np.concatenate([[2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]])


def _draw_key(figure: Figure, middle: float) -> None:
    """Draw the scale of the shades at a height in inches."""
    width, height = figure.get_size_inches()
    text = f"share of a layer's values in a cell: {power_of_ten(-_FEWEST)} or less"
    left = 0.2
    figure.text(left / width, middle / height, text, va="center")
    left += width_of(text) + 0.1
    bar = figure.add_axes((left / width, (middle - 0.08) / height, 1.6 / width, 0.16 / height))
    bar.imshow(np.geomspace(10.0**-_FEWEST, 1, 128)[None], aspect="auto", cmap=_SHADES, norm=_DENSITY)
    bar.set_xticks([])
    bar.set_yticks([])
    figure.text((left + 1.7) / width, middle / height, "all;   grey: not recorded", va="center", color=QUIET)
