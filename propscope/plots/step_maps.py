"""Sites against steps: one row of cells for each site or parameter, coloured by what each sample showed there."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from propscope.plots.fast_text import width_of
from propscope.plots.run_view import (
    STRIP,
    Bools,
    RunView,
    Series,
    StepAxis,
    draw_alarms,
    draw_step_axis,
    label_of,
    listed,
    steps_a_cell,
)
from propscope.plots.scales import Floats
from propscope.plots.style import (
    ALARM,
    DPI,
    FAINT,
    LINE_HEIGHT,
    QUIET,
    SCREEN,
    Header,
    Look,
    TextFigure,
    extent_of,
    framed,
    power_of_ten,
    short,
    unit,
    units_of,
)

Kind = Literal["change", "log", "linear"]


@dataclass(frozen=True, slots=True)
class MapQuantity:
    """What a map shows of each site, or parameter: a `quantity` of `over_steps`, under a `title`.

    `over` and `summary` are those of `RunView.series`. `kind`: "change", over the first value of each row, on a
    logarithmic scale; "log" or "linear", as it is. `worst`: the end of the scale at which something is wrong, "both"
    where either may be. `key`: what the colours stand for. `ends`: where a
    scale begins, and where it ends at least; None for those of what was seen.
    """

    title: str
    quantity: str
    kind: Kind
    worst: Literal["low", "high", "both"]
    key: str
    reading: str
    over: str = ""
    summary: str = ""
    ends: tuple[float, float] | None = None


_OWN_START = "Grey: as at the row's first sample. Yellow: larger. Blue: smaller. "
FORWARD = MapQuantity(
    "Forward: size of the values at each site",
    "forward_rms",
    "change",
    "both",
    "rms over that of the first sample",
    _OWN_START + "Slow changes are those of learning; a fault is a row, or all rows below it, that changes at once.",
    summary="forward",
)
BACKWARD = MapQuantity(
    "Backward: size of the gradient at each site",
    "backward_rms",
    "change",
    "both",
    "rms over that of the first sample",
    _OWN_START + "All rows rise and fall with the loss; a fault is a row, or all rows above it, that leaves the "
    "others.",
    summary="backward",
)
UPDATES = MapQuantity(
    "Updates: what one step of the optimizer changed",
    "update_ratio",
    "log",
    "both",
    "norm of the step over that of the parameter",
    "All rows follow the learning rate; a fault is a row, or all of them, that becomes bright at once.",
)
DEAD = MapQuantity(
    "Dead units: flat on every sample",
    "dead_units",
    "linear",
    "high",
    "share of the site's units",
    "Dark: units that learn nothing any more. A row that becomes darker loses units.",
    over="units",
)
ENTROPY = MapQuantity(
    "Attention: entropy of its rows",
    "attention_entropy",
    "linear",
    "low",
    "mean entropy in nats",
    "Entropy, dark: each query looks at one key. Logits, dark: the softmax passes hardly any gradient. Heads sharpen "
    "slowly as they learn; a fault is a row that darkens at once.",
)
LOGITS = MapQuantity(
    "Attention: largest logit",
    "largest_logit",
    "log",
    "high",
    "largest logit",
    ENTROPY.reading,
    # Of logits below 1, each entry of the softmax gets about the same.
    ends=(1.0, 100.0),
)
RANK = MapQuantity(
    "Geometry: effective rank of the samples' vectors",
    "effective_rank",
    "log",
    "low",
    "effective rank",
    "Dark: the samples look alike, with rank 1 and cosine 1. Networks may start so; a fault is a row that darkens and "
    "stays dark.",
    ends=(1.0, 10.0),
)
COSINE = MapQuantity(
    "Geometry: mean cosine between samples",
    "mean_cosine",
    "linear",
    "high",
    "mean cosine",
    RANK.reading,
)

MAPS = {
    "forward": FORWARD,
    "backward": BACKWARD,
    "updates": UPDATES,
    **{each.quantity: each for each in (DEAD, ENTROPY, LOGITS, RANK, COSINE)},
}

# The share of a map's cells whose colours differ; the others have the colour of the nearest end.
_NEARLY_ALL = 0.95
_MERGED = " A column of cells covers {} steps and shows, for each row, the worst sample among them."
_LOST = " Red: NaN or Inf."
_NAUGHT = " Black: exactly zero."
_BLANK = " Hatched: not recorded."
_RINGS = " Circles: the rows that alarms name."
_MODULES = " A name stands for a module, whose rows are between white lines."
_SOME = " One row in {} is named."


@dataclass(frozen=True, slots=True)
class Colours:
    """The colour scale of a map: values from `low` to `high`, logarithmic unless the kind is "linear".

    `beyond`: whether some values lie outside.
    """

    kind: Kind
    low: float
    high: float
    worst: Literal["low", "high", "both"]
    beyond: bool = False

    def fraction(self, values: Floats) -> Floats:
        """Return where values stand on the scale, from 0 to 1, clipped to it; NaN stays NaN."""
        if self.kind == "linear":
            return np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.where(values > 0, values, np.where(np.isnan(values), np.nan, self.low)) / self.low)
        return np.clip(logs / math.log(self.high / self.low), 0.0, 1.0)

    @property
    def map(self) -> Colormap:
        """Lightness rises or falls along all of it, so that it reads in grey."""
        return {"both": _CHANGES, "high": _INK, "low": _INK.reversed()}[self.worst]

    @property
    def ends(self) -> tuple[str, str]:
        """The texts at both ends."""
        if self.kind == "change":
            less, more = (" or less", " or more") if self.beyond else ("", "")
            return f"1/{self.high:.0f}{less}", f"x{self.high:.0f}{more}"
        return _spell(self.low), _spell(self.high)


_CHANGES = mpl.colormaps["cividis"]
_INK = LinearSegmentedColormap.from_list("ink", ["#f7fafd", "#dbe9f4", "#9fc5e2", "#4a90c4", "#1f5a95", "#0a2247"])


def _spell(value: float) -> str:
    exponent = math.log10(value) if value > 0 else 0.0
    if value > 0 and abs(exponent) >= 2 and abs(exponent - round(exponent)) < 1e-9:
        return power_of_ten(round(exponent))
    return short(value)


@dataclass(frozen=True, slots=True, eq=False)
class StepMap:
    """One map: `values[place, cell]`, NaN where a cell shows no sample.

    `nonfinite` and `zero`, of the same shape: cells with NaN or Inf behind them, and cells that are exactly zero where
    the scale cannot show that. `first`, `last`: what each place showed at its ends, as text. `rings`: place and step of
    the alarms that name a place of the map.
    """

    title: str
    key: str
    axis: StepAxis
    names: tuple[str, ...]
    values: Floats
    nonfinite: Bools
    zero: Bools
    colours: Colours
    first: tuple[str, ...]
    last: tuple[str, ...]
    rings: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class StepMaps:
    """A picture of one map or of two, one below the other, with the same step axis."""

    header: Header
    maps: tuple[StepMap, ...]


def prepare_forward(view: RunView) -> StepMaps | None:
    """Return the size of the values at each site; None without samples."""
    return prepare_maps(view, FORWARD)


def prepare_backward(view: RunView) -> StepMaps | None:
    """Return the size of the gradient at each site; None where no gradient was recorded."""
    return prepare_maps(view, BACKWARD)


def prepare_updates(view: RunView) -> StepMaps | None:
    """Return what each sampled step of the optimizer changed of each parameter; None where none was seen."""
    return prepare_maps(view, UPDATES)


def prepare_dead_units(view: RunView) -> StepMaps | None:
    """Return the share of dead units at each site that has units; None where there is none."""
    return prepare_maps(view, DEAD)


def prepare_attention(view: RunView) -> StepMaps | None:
    """Return entropy and largest logit of each attention; None where there is none."""
    return prepare_maps(view, ENTROPY, LOGITS)


def prepare_geometry(view: RunView) -> StepMaps | None:
    """Return effective rank and mean cosine at each site; None where they were not recorded."""
    return prepare_maps(view, RANK, COSINE)


def prepare_maps(view: RunView, *quantities: MapQuantity) -> StepMaps | None:
    """Return the maps of quantities, one below the other; None where none of them was recorded."""
    maps = [found for quantity in quantities if (found := prepare_map(view, quantity)) is not None]
    if not maps:
        return None
    title = quantities[0].title.partition(":")[0] if len(maps) > 1 else maps[0].title
    reading = "".join((quantities[0].reading, *notes(maps)))
    return StepMaps(Header(title, view.facts, reading), tuple(maps))


def notes(maps: Sequence[StepMap]) -> Iterable[str]:
    """Yield what a reader must know of the cells of some maps."""
    steps = steps_a_cell(maps[0].axis.edges)
    if steps > 1:
        yield _MERGED.format(steps)
    if any(each.nonfinite.any() for each in maps):
        yield _LOST
    if any(each.zero.any() for each in maps):
        yield _NAUGHT
    if any((np.isnan(each.values) & ~each.nonfinite).any() for each in maps):
        yield _BLANK
    yield maps[0].axis.reading
    if any(each.rings for each in maps):
        yield _RINGS


def prepare_map(view: RunView, quantity: MapQuantity) -> StepMap | None:
    """Return the map of a quantity; None where it was not recorded."""
    series = view.series(quantity.quantity, over=quantity.over, summary=quantity.summary)
    if series is None:
        return None
    values = series.values / series.first if quantity.kind == "change" else series.values
    shown = view.axis.samples(series.steps, _badness(quantity, values, series.nonfinite))
    seen = shown >= 0
    rows = np.arange(len(series.names))[:, None]
    nonfinite = seen & series.nonfinite[shown, rows]
    colours = _colours(quantity, values[shown, rows][seen & ~nonfinite])
    zero = seen & (series.values[shown, rows] == 0) & ~nonfinite if quantity.kind != "linear" else np.zeros_like(seen)
    cells = np.where(seen & ~nonfinite, values[shown, rows], np.nan)
    # A row of zeros has no first value that the others are held against.
    cells = np.where(zero, colours.low, cells)
    # What a site has of its own, and what only some samples have, stays apart from what no sample has.
    at = {name: row for row, name in enumerate(series.names)}
    return StepMap(
        title=quantity.title,
        key=quantity.key,
        axis=view.axis,
        names=series.names,
        values=cells,
        nonfinite=nonfinite,
        zero=zero,
        colours=colours,
        first=_texts(series, 0),
        last=_texts(series, -1),
        rings=tuple((at[mark.place], mark.step) for mark in view.axis.marks if mark.place in at),
    )


def _texts(series: Series, end: Literal[0, -1]) -> tuple[str, ...]:
    """Return the first or last number of each place."""
    seen = series.nonfinite | ~np.isnan(series.values)
    rows = seen.argmax(axis=0) if end == 0 else len(seen) - 1 - seen[::-1].argmax(axis=0)
    columns = np.arange(len(series.names))
    values, lost = series.values[rows, columns], series.nonfinite[rows, columns]
    return tuple(
        "NaN/Inf" if gone else short(value) for value, gone in zip(values.tolist(), lost.tolist(), strict=True)
    )


def _colours(quantity: MapQuantity, values: Floats) -> Colours:
    """Return the scale that shows nearly all cells: a change up to a factor of 1000, other sizes over 8 decades."""
    values = values[np.isfinite(values)]
    logs = np.log10(values[values > 0])
    if quantity.kind == "change":
        far = float(np.quantile(np.abs(logs), _NEARLY_ALL)) if logs.size else 0.0
        reach = 10.0 ** min(max(math.ceil(far), 1), 3)
        beyond = bool(logs.size and np.abs(logs).max() > math.log10(reach))
        return Colours("change", 1 / reach, reach, quantity.worst, beyond)
    if quantity.kind == "log":
        if quantity.ends is not None:
            low, least = quantity.ends
            return Colours("log", low, max(_round(float(logs.max(initial=0.0)), up=True), least), quantity.worst)
        if not logs.size:
            return Colours("log", 1.0, 10.0, quantity.worst)
        low, high = _round(float(logs.min()), up=False), _round(float(logs.max()), up=True)
        # Of what reaches over more decades, the upper ones; of what is always the same, a decade.
        return Colours("log", max(low, high / 1e8), max(high, 10 * low), quantity.worst)
    high = float(values.max(initial=0.0))
    return Colours("linear", -1.0 if values.min(initial=0.0) < -0.1 else 0.0, max(high, 1.0), quantity.worst)


def _round(log: float, *, up: bool) -> float:
    """Return the power of ten, or twice or five times one, that is next to 10^log from above or from below."""
    powers = (10.0 ** (math.floor(log) + whole) for whole in (0, 1))
    rounds = [lead * power for power in powers for lead in (1, 2, 5)]
    # What is as good as round stays as it is.
    value = 10.0**log * (1 - 1e-9 if up else 1 + 1e-9)
    return float(f"{min(r for r in rounds if r >= value) if up else max(r for r in rounds if r <= value):.0e}")


def _badness(quantity: MapQuantity, values: Floats, nonfinite: Bools) -> Floats:
    """Return how bad each value is among those of its row: far from the row's median, or near the end that is."""
    if quantity.worst == "both":
        with np.errstate(divide="ignore"):
            logs = np.log(np.where(values >= 0, np.maximum(values, 1e-300), np.nan))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            finite = np.where(np.isfinite(logs), logs, np.nan)
            bad = np.where(np.isposinf(logs), np.inf, np.abs(finite - np.nanmedian(finite, axis=0)))
    else:
        bad = values if quantity.worst == "high" else -values
    return np.where(nonfinite, np.inf, bad)


# More modules than this share of the rows are no groups.
_MODULES_AT_MOST = 0.6
_WIDTH = 6.4
_ROW = 0.19
# The height that the rows of one map get at most, alone in its picture and with another one.
_ROWS_HIGH = (9.0, 6.0)
# In a figure of a given width.
_ROWS_HIGH_WITHIN = 3.0
# The least height of a row that is named, and the least mean distance of the lines between modules, in inches.
_READABLE, _BORDERS_APART = 0.16, 0.12
_LEAST_HEIGHT = 0.8
_NAME_CHARACTERS = 40
_FEW_CHARACTERS = 16
_TITLE = 0.3
_BELOW = 0.62
_KEY = 0.36
_NUMBERS = 0.7
_RIGHT = 0.25


def _row_height(rows: int, most: float) -> float:
    return max(min(_ROW, most / rows), _LEAST_HEIGHT / rows)


def draw_step_maps(
    prepared: StepMaps, figure: Figure | None = None, *, look: Look = SCREEN, colours: Colormap | None = None
) -> Figure:
    """Draw the maps into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    maps = prepared.maps
    most = _ROWS_HIGH[len(maps) > 1] if look.units is None else _ROWS_HIGH_WITHIN
    rows = [_row_height(len(each.names), most) for each in maps]
    characters = _NAME_CHARACTERS if look.units is None else _FEW_CHARACTERS
    labels = [row_labels(each, row, characters) for each, row in zip(maps, rows, strict=True)]
    left = 0.35 + max(width_of(text) for each in labels for _, text in each)
    numbered = [row >= _READABLE and look.units is None for row in rows]
    across = _WIDTH if look.units is None else look.units - left - _RIGHT
    width = left + across + 2 * _NUMBERS * any(numbered) + _RIGHT
    thin = [each for each, row in zip(maps, rows, strict=True) if row < _READABLE]
    naming = "" if not thin else _MODULES if borders(thin[0].names) else _SOME.format(_apart(rows[0]))
    reading = prepared.header.reading
    header = replace(prepared.header, reading=reading and reading + naming)
    heights = [len(each.names) * row for each, row in zip(maps, rows, strict=True)]
    key = _KEY if look.beside else _KEY + LINE_HEIGHT
    inner = sum(heights) + len(maps) * (_TITLE * (len(maps) > 1) + key + STRIP) + _BELOW
    bottom = framed(figure, header, width, inner, notes=listed(maps[0].axis) if look.explained else ())
    height = units_of(figure)[1]
    for at, (each, tall) in enumerate(zip(maps, heights, strict=True)):
        if len(maps) > 1:
            bottom -= _TITLE
            name = each.title.partition(": ")[2]
            figure.text(left / width, (bottom + 0.08) / height, name[:1].upper() + name[1:], weight="bold")
        bottom -= key
        wide = min(1.6, across / 4)
        if look.beside:
            draw_key(figure, each, left if look.units is None else 0.1, bottom + key / 2, wide=wide, colours=colours)
        else:
            figure.text(0.1 / width, (bottom + key - 0.1) / height, each.key, va="center")
            draw_key(figure, each, left - 0.3, bottom + _KEY / 2, wide=wide, colours=colours, named=False)
        bottom -= STRIP + tall
        axes = figure.add_axes((left / width, bottom / height, across / width, tall / height))
        draw_map(axes, each, labels[at], colours=colours).set_gid("map")
        draw_alarms(axes, each.axis, numbers=look.explained)
        draw_step_axis(axes, each.axis, labelled=at + 1 == len(maps))
        if numbered[at]:
            _draw_numbers(axes, each)
    return figure


def draw_map(
    axes: Axes, prepared: StepMap, labels: Sequence[tuple[int, str]], *, colours: Colormap | None = None
) -> Axes:
    """Draw the cells of one map into an axes; `labels`: the rows that are named, and their names."""
    count = len(prepared.names)
    first, last = prepared.axis.limits
    at = prepared.colours.fraction(prepared.values)
    pixels = (colours or prepared.colours.map)(np.nan_to_num(at))
    pixels[prepared.zero] = (0.0, 0.0, 0.0, 1.0)
    pixels[prepared.nonfinite] = mpl.colors.to_rgba(ALARM)
    pixels[np.isnan(prepared.values) & ~prepared.nonfinite] = 0.0
    with mpl.rc_context({"hatch.color": FAINT}):
        axes.add_patch(
            Rectangle((first, 0), last - first, count, facecolor="white", linewidth=0, hatch="////", zorder=0.5)
        )
    axes.imshow(pixels, extent=(first, last, count, 0), aspect="auto", interpolation="nearest", zorder=1)
    _hatch(axes, prepared)
    row = extent_of(axes)[1] / count
    edges = borders(prepared.names)
    # Lines that are close to one another would hide the rows.
    for edge in edges if len(edges) * _BORDERS_APART < count * row else ():
        axes.axhline(edge, color="white", linewidth=0.5 if row < _READABLE / 2 else 1.2, zorder=2)
    if prepared.rings:
        places, steps = zip(*prepared.rings, strict=True)
        for colour, wide in (("white", 3.2), (ALARM, 1.4)):
            axes.plot(
                np.array(steps) + 0.5,
                np.array(places) + 0.5,
                "o",
                markersize=6.5,
                markerfacecolor="none",
                markeredgecolor=colour,
                markeredgewidth=wide,
                zorder=5,
                clip_on=False,
            )
    axes.set_ylim(count, 0)
    axes.set_yticks([row + 0.5 for row, _ in labels], [text for _, text in labels])
    axes.tick_params(axis="y", length=2 if count > len(labels) else 0)
    ringed = {row for row, _ in prepared.rings}
    for tick, (row, _) in zip(axes.get_yticklabels(), labels, strict=True):
        if row in ringed:
            tick.set_color(ALARM)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#b5b5b5")
    return axes


def _hatch(axes: Axes, prepared: StepMap) -> None:
    """Cross out what is not finite, for prints without colour."""
    boxes = []
    edges = prepared.axis.edges
    for row in np.flatnonzero(prepared.nonfinite.any(axis=1)).tolist():
        for lost, cells in groupby(range(len(edges) - 1), key=lambda cell: bool(prepared.nonfinite[row, cell])):
            if lost:
                run = list(cells)
                boxes.append(Rectangle((edges[run[0]], row), edges[run[-1] + 1] - edges[run[0]], 1))
    if boxes:
        axes.add_collection(
            PatchCollection(boxes, facecolor="none", edgecolor="white", linewidth=0, hatch="xxx", zorder=1.5)
        )


def _draw_numbers(axes: Axes, prepared: StepMap) -> None:
    """Write what each row showed first and last to the right of it."""
    inches = axes.bbox.width / axes.figure.dpi
    for column, (title, texts) in enumerate((("first", prepared.first), ("last", prepared.last)), start=1):
        x = 1 + column * _NUMBERS / inches
        axes.text(
            x,
            1 + 0.05 / (axes.bbox.height / axes.figure.dpi),
            title,
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            color=QUIET,
        )
        for row, text in enumerate(texts):
            axes.text(x, row + 0.5, text, transform=axes.get_yaxis_transform(), ha="right", va="center")


def draw_key(
    figure: Figure,
    prepared: StepMap,
    left: float,
    middle: float,
    *,
    wide: float = 1.6,
    colours: Colormap | None = None,
    named: bool = True,
) -> Figure:
    """Draw the colour scale, `wide` units, in one row that begins at `left`, `middle` units above the bottom.

    `named`: with what the colours stand for.
    """
    width, height = units_of(figure)
    low, high = prepared.colours.ends
    for text in (*([f"{prepared.key}:"] if named else ()), low):
        figure.text(left / width, middle / height, text, va="center", color=QUIET if text == low else None)
        left += width_of(text) + 0.1
    bar = figure.add_axes((left / width, (middle - 0.08) / height, wide / width, 0.16 / height))
    bar.imshow(np.linspace(0, 1, 128)[None], aspect="auto", cmap=colours or prepared.colours.map, vmin=0, vmax=1)
    bar.set_xticks([])
    bar.set_yticks([])
    bar.spines[:].set_visible(True)
    bar.spines[:].set_color("#b5b5b5")
    figure.text((left + wide + 0.1) / width, middle / height, high, va="center", color=QUIET)
    return figure


def draw_colours(axes: Axes, prepared: StepMap, *, colours: Colormap | None = None) -> None:
    """Draw the colour scale of a map beside its axes, which give room for it."""
    figure = axes.get_figure()
    assert figure is not None
    shades = ScalarMappable(Normalize(0, 1), colours or prepared.colours.map)
    bar = figure.colorbar(shades, ax=axes, ticks=[0, 1])
    bar.set_ticklabels(prepared.colours.ends)
    # Between the texts of both ends there is room for it.
    bar.set_label(prepared.key, labelpad=-72 * unit() * max(map(width_of, prepared.colours.ends)))


def row_labels(prepared: StepMap, row_height: float, characters: int = _NAME_CHARACTERS) -> list[tuple[int, str]]:
    """Return the rows that are named and their names: all where there is room, else those of alarms, then modules."""
    names = prepared.names
    if row_height >= _READABLE:
        return [(row, label_of(name, characters)) for row, name in enumerate(names)]
    apart = _apart(row_height)
    starts = [0, *borders(names)]
    groups = [(low, high) for low, high in zip(starts, [*starts[1:], len(names)], strict=True)]
    wanted = [(row, names[row]) for row in dict.fromkeys(row for row, _ in prepared.rings)]
    if len(groups) > 1:
        wanted += [((low + high) // 2, group_of(names, low)) for low, high in groups]
    wanted += [(row, names[row]) for row in range(0, len(names), apart)] if len(groups) == 1 else []
    taken: dict[int, str] = {}
    for row, name in wanted:
        if all(abs(row - other) >= apart for other in taken):
            taken[row] = label_of(name, characters)
    return sorted(taken.items())


def _apart(row_height: float) -> int:
    """Return how many rows apart the names of thin rows stand."""
    return math.ceil(LINE_HEIGHT / row_height)


def borders(names: Sequence[str]) -> list[int]:
    """Return the rows at which another module begins; [] where the sites form no modules of several."""
    depth = _depth(names)
    keys = [_parts(name)[:depth] for name in names]
    return [row for row in range(1, len(keys)) if keys[row] != keys[row - 1]] if depth else []


def group_of(names: Sequence[str], row: int) -> str:
    """Return the name of the module that a row belongs to."""
    return ".".join(_parts(names[row])[: _depth(names)])


def _depth(names: Sequence[str]) -> int:
    """Return by how many parts of their names sites are grouped: the fewest that leave no module half of the rows."""
    found = 0
    for depth in range(1, 6):
        sizes = [len(list(rows)) for _, rows in groupby(names, key=lambda name: _parts(name)[:depth])]
        if len(sizes) > _MODULES_AT_MOST * len(names):
            break
        if len(sizes) > 1:
            found = depth
            if max(sizes) <= len(names) / 2:
                break
    return found


def _parts(name: str) -> list[str]:
    """Return the parts of a name, a number together with the list that it counts: "blocks.0", "norm1"."""
    return re.findall(r"[^.]+(?:\.\d+)*", name.partition("#")[0])
