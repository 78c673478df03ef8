"""How the overview is drawn: heat maps that can be read without their colours."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from propscope.plots.overview import FactorMap, Overview
from propscope.plots.style import CHARACTER, DPI, INK, LINE_HEIGHT, draw_header, wrap

_HIGH = 0.36
_GAP = 0.45
_TITLE = 0.78
_BAR = 0.95
_NAME_CHARACTERS = 28
_LEAST_WIDTH = 9.5
_LEAST_MAP = 3.4
# Side by side up to this many columns, one above the other beyond.
_BESIDE = 4
_COLOURS = colormaps["RdBu_r"]
_BLANK = (1.0, 1.0, 1.0, 1.0)


def draw_overview(prepared: Overview, figure: Figure | None = None) -> Figure:
    """Draw heat maps into a figure, whose size it sets, or a new one; wide maps stand one above the other."""
    figure = figure or Figure(dpi=DPI)
    names = [wrap(name, _NAME_CHARACTERS) for name in prepared.rows]
    margin = 0.4 + CHARACTER * max(len(row) for wrapped in names for row in wrapped)
    texts = [cell.text for found in prepared.maps for row in found.cells for cell in row]
    written = [row for text in texts for row in text.split("\n")]
    wide = max(1.0, 0.2 + CHARACTER * max(map(len, (*written, *prepared.columns))))
    rows = max(*map(len, names), *(text.count("\n") + 1 for text in texts))
    high = max(_HIGH, 0.08 + LINE_HEIGHT * rows)
    map_width, map_height = max(_LEAST_MAP, wide * len(prepared.columns)), high * len(prepared.rows)
    beside = len(prepared.columns) <= _BESIDE
    across, down = (len(prepared.maps), 1) if beside else (1, len(prepared.maps))
    width = max(_LEAST_WIDTH, margin + across * (map_width + _GAP))
    top = prepared.header.height(width)
    height = top + down * (_TITLE + map_height) + _BAR
    figure.set_size_inches(width, height)
    draw_header(figure, prepared.header)
    for index, found in enumerate(prepared.maps):
        left = margin + (map_width + _GAP) * (index % across)
        bottom = height - top - (index // across + 1) * (_TITLE + map_height)
        axes = figure.add_axes((left / width, bottom / height, map_width / width, map_height / height))
        draw_map(axes, prepared, found)
        if index % across == 0:
            axes.set_yticks(range(len(names)), ["\n".join(wrapped) for wrapped in names])
    bar = figure.add_axes((margin / width, 0.5 / height, min(4.0, width - margin - 0.4) / width, 0.16 / height))
    _draw_bar(bar, prepared.limit)
    return figure


def draw_map(axes: Axes, prepared: Overview, found: FactorMap) -> Axes:
    """Draw one heat map into an axes: a colour and a number in every cell, hatches where there is no number."""
    scale = Normalize(-prepared.limit, prepared.limit)
    boxes, colours = [], []
    hatched: dict[str, list[list[tuple[float, float]]]] = {"vanished": [], "overflowed": []}
    for row, cells in enumerate(found.cells):
        for column, cell in enumerate(cells):
            box = [(column + x, row + y) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
            boxes.append(box)
            known = cell.state == "seen"
            colour = _COLOURS(scale(np.clip(cell.decades, -prepared.limit, prepared.limit))) if known else _BLANK
            colours.append(colour)
            if cell.state in hatched:
                hatched[cell.state].append(box)
            axes.text(
                column,
                row,
                cell.text,
                ha="center",
                va="center",
                color="white" if _luminance(colour) < 0.52 else INK,
                weight="normal" if known else "bold",
                bbox=None if known else {"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
    axes.add_collection(PolyCollection(boxes, facecolors=colours, edgecolors="white", linewidths=1.5))
    for state, hatch in (("vanished", "////"), ("overflowed", "xxxx")):
        axes.add_collection(
            PolyCollection(hatched[state], facecolors="none", edgecolors="white", hatch=hatch, linewidths=1.5)
        )
    axes.set_xlim(-0.5, len(prepared.columns) - 0.5)
    axes.set_ylim(len(prepared.rows) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(prepared.columns)), prepared.columns, weight="bold")
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(found.title, pad=10)
    return axes


def _luminance(colour: tuple[float, float, float, float]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _draw_bar(axes: Axes, limit: float) -> None:
    colours = ScalarMappable(Normalize(-limit, limit), _COLOURS)
    figure = axes.get_figure()
    assert figure is not None
    step = max(1, math.ceil(limit / 4))
    ticks = [tick for tick in range(-int(limit), int(limit) + 1) if tick % step == 0]
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal", extend="both", ticks=ticks)
    bar.set_ticklabels([f"{tick:+d}".replace("-", "−") if tick else "0" for tick in ticks])
    bar.set_label("decades (log10 of the factor)")
