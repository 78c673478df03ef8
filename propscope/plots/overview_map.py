"""The whole grid at a glance: the gain over the whole depth in decades, initializer by activation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from propscope.diagnosis import diagnose
from propscope.diagnosis.limits import EXPLODED, SLOWED, VANISHED
from propscope.plots.fast_text import BOLD, width_of
from propscope.plots.pages import COLUMN, MARKS, columns, facts, lines, reasons
from propscope.plots.style import (
    ALARM,
    DPI,
    FAINT,
    INK,
    LINE_HEIGHT,
    QUIET,
    SCREEN,
    Header,
    Look,
    TextFigure,
    extent_of,
    framed,
    short,
    unit,
    units_of,
    wrap,
)
from propscope.records import NetworkProfile, ProfileSet
from propscope.records.expectations import BAND, end_to_end, expected_factor, mean_deviation
from propscope.records.interval import geometric_interval
from propscope.records.network import Direction

# More decades would say nothing new of a dead or exploded network, and would bleach the others.
DECADES_AT_MOST = 8.0
State = Literal["seen", "vanished", "overflowed", "not seen"]

_TITLES: tuple[tuple[Direction, str], ...] = (
    ("forward", "Forward: rms(z), last / first"),
    ("backward", "Backward: rms(dL/dz), first / last"),
)
_READING = (
    "log10 of the factor by which the signal changes over the whole depth. 0 (white): healthy. Negative (blue): "
    "vanishing. Positive (red): exploding."
)
_HATCHED: tuple[tuple[State, str], ...] = (
    ("vanished", " Hatched: exactly zero."),
    ("overflowed", " Cross-hatched: NaN or Inf."),
)
_MARKED = (
    f" Mark of a cell, by its own factor: ! above {short(math.exp(SLOWED * EXPLODED))} or below "
    f"{short(math.exp(-SLOWED * VANISHED))}, ✗ above {short(math.exp(EXPLODED))} or below {short(math.exp(-VANISHED))}."
)
_VERDICTS = " Verdict: of the network, by all that was measured of it."
_THEORY = " Second row: the value that infinite-width theory expects, where the networks lie outside its 95% band."


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A cell: `decades` (log10 of the geometric mean over seeds), half of its 95% interval, and its `text`.

    `decades` is -Inf for "vanished", Inf for "overflowed" and NaN for "not seen". `half` is NaN below two seeds.
    """

    state: State
    decades: float
    half: float
    text: str

    @property
    def mark(self) -> str:
        """The mark of the factor, by itself: "" where a network with such a factor learns."""
        change = self.decades * math.log(10)
        share = max(change / EXPLODED, -change / VANISHED)
        return MARKS["broken" if share > 1 else "strained" if share > SLOWED else "healthy"]

    @property
    def texts(self) -> tuple[str, ...]:
        """What is written into the cell where it has room, and what where it has less and less."""
        bare = self.text if self.state != "seen" else self.text.split()[0]
        least = f"{round(self.decades):+d}".replace("-", "−").replace("+0", "0") if self.state == "seen" else ""
        return (f"{self.mark} {self.text}".strip(), f"{self.mark} {bare}".strip(), least, "")


@dataclass(frozen=True, slots=True)
class FactorMap:
    """The factors of one direction: `cells[row][column]`."""

    direction: Direction
    title: str
    cells: tuple[tuple[Factor, ...], ...]


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """The verdicts of the networks: `cells[row][column]`, "" where a pair was not run."""

    title: str
    cells: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """A picture of factors: one map per recorded direction, with one row per initializer, one column per activation.

    Colours are clipped at `limit` decades.
    """

    header: Header
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    maps: tuple[FactorMap, ...]
    verdicts: VerdictMap
    limit: float


def prepare_overview(profiles: ProfileSet) -> Overview | None:
    """Return the end-to-end factors of every initializer and activation, or None where no direction was recorded."""
    by_line = lines(profiles, columns=(COLUMN,))
    names = tuple(columns(profiles))
    pairs = [[columns(group).get(name, ProfileSet(())) for name in names] for group in by_line.values()]
    maps = []
    for direction, title in _TITLES:
        cells = tuple(tuple(cell_of(pair, direction) for pair in row) for row in pairs)
        if any(cell.state != "not seen" for row in cells for cell in row):
            maps.append(FactorMap(direction, title, cells))
    if not maps:
        return None
    verdicts = tuple(tuple(diagnose(pair, notes=False).verdict if len(pair) else "" for pair in row) for row in pairs)
    shown = [cell for found in maps for row in found.cells for cell in row]
    finite = [abs(cell.decades) for cell in shown if math.isfinite(cell.decades)]
    limit = min(DECADES_AT_MOST, max(1.0, math.ceil(max(finite, default=1.0))))
    reading = _READING + "".join(text for state, text in _HATCHED if any(cell.state == state for cell in shown))
    reading += f" Colours are clipped at ±{limit:.0f} decades."
    if any(len(group) > 1 for group in profiles.groups().values()):
        reading += " ±: 95% confidence interval over seeds."
    reading += _THEORY * any("\n" in cell.text for cell in shown)
    reading += _MARKED * any(cell.mark for cell in shown) + _VERDICTS
    header = Header("Signal from end to end", facts(profiles), "\n".join((reading, *reasons(profiles))))
    return Overview(header, tuple(by_line), names, tuple(maps), VerdictMap("Verdict", verdicts), limit)


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
_BAR = 0.9
_NAME_CHARACTERS = 28
_LEAST_WIDTH = 7.5
_LEAST_MAP = 2.6
# With more columns than this, maps stand one above the other.
_BESIDE = 4
COLOURS = colormaps["RdBu_r"]
_BLANK = (1.0, 1.0, 1.0, 1.0)


def draw_overview(
    prepared: Overview,
    figure: Figure | None = None,
    *,
    look: Look = SCREEN,
    colours: Colormap = COLOURS,
    panels: Sequence[FactorMap | VerdictMap] = (),
) -> Figure:
    """Draw the heat maps and the verdicts, or only some `panels`, into a figure and set its size.

    Wide maps stand one above the other. Without `figure`, a new one is made.
    """
    figure = figure or TextFigure(dpi=DPI)
    names = [wrap(name, _NAME_CHARACTERS if look.units is None else 16) for name in prepared.rows]
    margin = 0.3 + max(width_of(row) for wrapped in names for row in wrapped)
    cells = [cell for found in prepared.maps for row in found.cells for cell in row]
    count = len(prepared.columns)
    heading = max(map(width_of, prepared.columns)) * BOLD
    wide = 0.2 + max(*(width_of(row) for cell in cells for row in cell.texts[0].split("\n")), heading, 0.8)
    judged = 0.2 + max(heading, width_of("! strained"))
    titles = [0.1 + 1.1 * BOLD * width_of(found.title) for found in prepared.maps]
    shown = panels or (*prepared.maps, prepared.verdicts)
    mapped = max(_LEAST_MAP, *titles, wide * count)
    widths = [mapped if isinstance(found, FactorMap) else max(1.0, judged * count) for found in shown]
    beside = count <= _BESIDE and look.units is None
    if look.units is not None:
        widths = [look.units - margin - 0.1] * len(widths)
    elif not beside:
        widths = [max(widths)] * len(widths)
    rows = max(*map(len, names), *(cell.text.count("\n") + 1 for cell in cells))
    high = max(_HIGH, 0.08 + LINE_HEIGHT * rows)
    map_height = high * len(prepared.rows)
    width = look.units or max(_LEAST_WIDTH, margin + (sum(widths) + _GAP * len(widths) if beside else widths[0] + _GAP))
    down = 1 if beside else len(widths)
    # Names that are wider than their columns stand upright.
    above = _TITLE + (heading if heading > min(widths) / count else 0.0)
    top = framed(figure, prepared.header, width, down * (above + map_height) + _BAR)
    height = units_of(figure)[1]
    for index, found in enumerate(shown):
        left = margin + (sum(widths[:index]) + _GAP * index if beside else 0.0)
        bottom = top - (1 if beside else index + 1) * (above + map_height)
        axes = figure.add_axes((left / width, bottom / height, widths[index] / width, map_height / height))
        draw_map(axes, prepared, found, colours=colours)
        named = not beside or not index
        axes.set_yticks(range(len(names)), ["\n".join(wrapped) for wrapped in names] if named else [""] * len(names))
    at = top - down * (above + map_height) - 0.4
    bar = figure.add_axes((margin / width, at / height, min(4.0, width - margin - 0.4) / width, 0.16 / height))
    _draw_bar(bar, prepared.limit, colours)
    return figure


def draw_map(axes: Axes, prepared: Overview, found: FactorMap | VerdictMap, *, colours: Colormap = COLOURS) -> Axes:
    """Draw one map into an axes: a colour and a number in every cell as far as it has room, or the verdicts."""
    axes.set_xlim(-0.5, len(prepared.columns) - 0.5)
    axes.set_ylim(len(prepared.rows) - 0.5, -0.5)
    if isinstance(found, FactorMap):
        _draw_factors(axes, prepared, found, colours)
    else:
        _draw_verdicts(axes, found)
    axes.xaxis.tick_top()
    room = extent_of(axes)[0] / len(prepared.columns)
    upright = BOLD * max(map(width_of, prepared.columns)) > room
    axes.set_xticks(range(len(prepared.columns)), prepared.columns, weight="bold", rotation=90 if upright else 0)
    axes.set_yticks(range(len(prepared.rows)), prepared.rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(found.title, pad=10 * unit())
    return axes


def _draw_factors(axes: Axes, prepared: Overview, found: FactorMap, colours: Colormap) -> None:
    scale = Normalize(-prepared.limit, prepared.limit)
    boxes, faces = [], []
    hatched: dict[str, list[list[tuple[float, float]]]] = {"vanished": [], "overflowed": []}
    fitting = _fitting(axes, [[cell.texts for cell in row] for row in found.cells])
    for row, cells in enumerate(found.cells):
        for column, cell in enumerate(cells):
            box = [(column + x, row + y) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
            boxes.append(box)
            measured = cell.state == "seen"
            colour = colours(scale(np.clip(cell.decades, -prepared.limit, prepared.limit))) if measured else _BLANK
            faces.append(colour)
            if cell.state in hatched:
                hatched[cell.state].append(box)
            axes.text(
                column,
                row,
                cell.texts[fitting],
                ha="center",
                va="center",
                color="white" if _luminance(colour) < 0.52 else INK,
                weight="normal" if measured else "bold",
                bbox=None if measured else {"facecolor": "white", "edgecolor": "none", "pad": 1.5},
            )
    axes.add_collection(PolyCollection(boxes, facecolors=faces, edgecolors="white", linewidths=1.5), autolim=False)
    for state, hatch in (("vanished", "////"), ("overflowed", "xxxx")):
        axes.add_collection(
            PolyCollection(hatched[state], facecolors="none", edgecolors="white", hatch=hatch, linewidths=1.5),
            autolim=False,
        )


def _draw_verdicts(axes: Axes, found: VerdictMap) -> None:
    fitting = _fitting(axes, [[_verdict_texts(verdict) for verdict in row] for row in found.cells])
    for row, verdicts in enumerate(found.cells):
        for column, verdict in enumerate(verdicts):
            colour = {"broken": ALARM, "healthy": QUIET, "": QUIET}.get(verdict, INK)
            text = _verdict_texts(verdict)[fitting]
            axes.text(column, row, text, ha="center", va="center", color=colour)
    for line in range(1, len(found.cells)):
        axes.axhline(line - 0.5, color=FAINT, linewidth=0.7)


def _verdict_texts(verdict: str) -> tuple[str, str]:
    mark = MARKS.get(verdict, "–")
    return f"{mark} {verdict}".strip(), mark or "✓"


def _fitting(axes: Axes, texts: Sequence[Sequence[Sequence[str]]]) -> int:
    """Return the index of the first of the texts of each cell that fit into all cells of an axes."""
    width, height = extent_of(axes)
    cells = [cell for row in texts for cell in row]
    across, upwards = width / max(map(len, texts)), height / len(texts)
    for index in range(len(cells[0]) - 1):
        rows = [cell[index].split("\n") for cell in cells]
        wide = max(width_of(row) for text in rows for row in text)
        if wide <= 0.97 * across and LINE_HEIGHT * max(map(len, rows)) <= 1.1 * upwards:
            return index
    return len(cells[0]) - 1


def _luminance(colour: tuple[float, float, float, float]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _draw_bar(axes: Axes, limit: float, colours: Colormap) -> None:
    shades = ScalarMappable(Normalize(-limit, limit), colours)
    figure = axes.get_figure()
    assert figure is not None
    step = max(1, math.ceil(limit / 4))
    ticks = [tick for tick in range(-int(limit), int(limit) + 1) if tick % step == 0]
    bar = figure.colorbar(shades, cax=axes, orientation="horizontal", extend="both", ticks=ticks)
    bar.set_ticklabels([f"{tick:+d}".replace("-", "−") if tick else "0" for tick in ticks])
    bar.set_label("decades (log10 of the factor)")
