"""The whole grid at a glance: the gain over the whole depth in decades, initializer by activation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from propscope.plots.pages import COLUMN, columns, facts, key_of, lines, mark_of, reasons
from propscope.plots.style import CHARACTER, DPI, INK, LINE_HEIGHT, Header, draw_header, wrap
from propscope.records import NetworkProfile, ProfileSet
from propscope.records.expectations import BAND, end_to_end, expected_factor, mean_deviation
from propscope.records.interval import geometric_interval
from propscope.records.network import Direction

# More decades would say nothing new of a dead or exploded network, and would bleach the others.
DECADES_AT_MOST = 8.0
State = Literal["seen", "vanished", "overflowed", "not seen"]

_TITLES: tuple[tuple[Direction, str], ...] = (
    ("forward", "Forward: rms(z), last / first layer"),
    ("backward", "Backward: rms(dL/dz), first / last layer"),
)
_READING = (
    "log10 of the factor by which the signal changes over the whole depth. 0 (white): healthy. Negative (blue): "
    "vanishing. Positive (red): exploding."
)
_HATCHED: tuple[tuple[State, str], ...] = (
    ("vanished", " Hatched: exactly zero."),
    ("overflowed", " Cross-hatched: NaN or Inf."),
)
_THEORY = " Second row: the value that infinite-width theory expects, where the networks lie outside its 95% band."


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A cell: `decades` (log10 of the geometric mean over seeds), half of its 95% interval, and the text in the cell.

    `decades` is -Inf for "vanished", Inf for "overflowed" and NaN for "not seen". `half` is NaN below two seeds.
    """

    state: State
    decades: float
    half: float
    text: str


@dataclass(frozen=True, slots=True)
class FactorMap:
    """The factors of one direction: `cells[row][column]`."""

    direction: Direction
    title: str
    cells: tuple[tuple[Factor, ...], ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """A picture of factors: one map per recorded direction, with one row per initializer, one column per activation.

    Colours are clipped at `limit` decades.
    """

    header: Header
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    maps: tuple[FactorMap, ...]
    limit: float


def prepare_overview(profiles: ProfileSet) -> Overview | None:
    """Return the end-to-end factors of every initializer and activation, or None where no direction was recorded."""
    by_line = lines(profiles, columns=(COLUMN,))
    names = tuple(columns(profiles))
    pairs = [[columns(group).get(name, ProfileSet(())) for name in names] for group in by_line.values()]
    marks = [[mark_of(pair) for pair in row] for row in pairs]
    maps = []
    for direction, title in _TITLES:
        cells = tuple(
            tuple(_marked(cell_of(pair, direction), mark) for pair, mark in zip(row, row_marks, strict=True))
            for row, row_marks in zip(pairs, marks, strict=True)
        )
        if any(cell.state != "not seen" for row in cells for cell in row):
            maps.append(FactorMap(direction, title, cells))
    if not maps:
        return None
    shown = [cell for found in maps for row in found.cells for cell in row]
    finite = [abs(cell.decades) for cell in shown if math.isfinite(cell.decades)]
    limit = min(DECADES_AT_MOST, max(1.0, math.ceil(max(finite, default=1.0))))
    reading = _READING + "".join(text for state, text in _HATCHED if any(cell.state == state for cell in shown))
    reading += f" Colours are clipped at ±{limit:.0f} decades."
    if any(len(group) > 1 for group in profiles.groups().values()):
        reading += " ±: 95% confidence interval over seeds."
    reading += _THEORY * any("\n" in cell.text for cell in shown)
    reading += key_of(mark for row in marks for mark in row)
    header = Header("Signal from end to end", facts(profiles), "\n".join((reading, *reasons(profiles))))
    return Overview(header, tuple(by_line), names, tuple(maps), limit)


def cell_of(members: Iterable[NetworkProfile], direction: Direction) -> Factor:
    """Return the cell of one initializer and activation from the networks of its seeds.

    The text gives theory's value too if the networks lie outside its band.
    """
    networks = list(members)
    cell = factor_of([profile.factor(direction) for profile in networks])
    expected = geometric_interval(expected_factor(profile, direction) for profile in networks).center
    away = mean_deviation(end_to_end(profile, direction) for profile in networks).sd
    if cell.state == "not seen" or not abs(away) > BAND or not 0 < expected < math.inf:
        return cell
    theory = _decades(math.log10(expected))
    return cell if cell.text.split()[0] == theory else replace(cell, text=f"{cell.text}\ntheory {theory}")


def _marked(cell: Factor, mark: str) -> Factor:
    return replace(cell, text=f"{mark} {cell.text}") if mark and cell.state != "not seen" else cell


def factor_of(factors: list[float]) -> Factor:
    """Return the cell for factors, one per seed; one vanished or overflowed seed decides the cell's state."""
    finite = [factor for factor in factors if not math.isnan(factor)]
    if not finite:
        return Factor("not seen", math.nan, math.nan, "–")
    overflowed, vanished = sum(map(math.isinf, finite)), finite.count(0.0)
    if overflowed:
        return Factor("overflowed", math.inf, math.nan, _count("NaN/Inf", overflowed, len(finite)))
    if vanished:
        return Factor("vanished", -math.inf, math.nan, _count("zero", vanished, len(finite)))
    interval = geometric_interval(finite)
    decades = math.log10(interval.center)
    half = math.log10(interval.high / interval.low) / 2 if interval.count > 1 else math.nan
    text = _decades(decades)
    return Factor("seen", decades, half, text if math.isnan(half) else f"{text} ± {half:.1f}")


def _decades(decades: float) -> str:
    # Rounding first avoids −0.0, which would read as a loss.
    rounded = round(decades, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")


def _count(word: str, count: int, of: int) -> str:
    return word if count == of else f"{word} ({count} of {of})"


_HIGH = 0.36
_GAP = 0.45
_TITLE = 0.78
_BAR = 0.95
_NAME_CHARACTERS = 28
_LEAST_WIDTH = 9.5
_LEAST_MAP = 3.4
# With more columns than this, maps stand one above the other.
_BESIDE = 4
_COLOURS = colormaps["RdBu_r"]
_BLANK = (1.0, 1.0, 1.0, 1.0)


def draw_overview(prepared: Overview, figure: Figure | None = None) -> Figure:
    """Draw the heat maps into a figure and set its size; wide maps stand one above the other.

    Without `figure`, a new one is made.
    """
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
    """Draw one heat map into an axes: a colour and a number in every cell, hatching where there is no number."""
    scale = Normalize(-prepared.limit, prepared.limit)
    boxes, colours = [], []
    hatched: dict[str, list[list[tuple[float, float]]]] = {"vanished": [], "overflowed": []}
    for row, cells in enumerate(found.cells):
        for column, cell in enumerate(cells):
            box = [(column + x, row + y) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
            boxes.append(box)
            measured = cell.state == "seen"
            colour = _COLOURS(scale(np.clip(cell.decades, -prepared.limit, prepared.limit))) if measured else _BLANK
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
                weight="normal" if measured else "bold",
                bbox=None if measured else {"facecolor": "white", "edgecolor": "none", "pad": 1.5},
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
