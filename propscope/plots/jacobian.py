"""Singular values of the Jacobian along the depth: one panel per initializer and activation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from propscope.plots.depth_series import LAYER, POSITION
from propscope.plots.fast_text import width_of
from propscope.plots.pages import COLUMN, columns, facts, lines
from propscope.plots.scales import Floats, Ints, Scale, log_scale, position_ticks
from propscope.plots.style import (
    DPI,
    INK,
    LINE_HEIGHT,
    QUIET,
    Header,
    TextFigure,
    framed,
    mark_nonfinite,
    percent,
    short,
    units_of,
    wrap,
)
from propscope.records import LogHistogram, NetworkProfile, ProfileSet, Site, TensorSummary
from propscope.records.interval import geometric_interval

# A direction below it is lost: beside one at 1 it is rounding error in float32.
LOST = 1e-8
CELLS_A_DECADE = 3
OUTPUT = "out"
_READING = (
    "A singular value is the factor by which one direction of the input is multiplied on its way to a layer. Healthy: "
    "all lie near 1. Fanning out: a few directions dominate. All falling: vanishing; all rising: exploding. Lost: the "
    "share of directions that are zero or below the axis, from 0 to 100%. Numbers above a panel: at the last layer."
)


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Singular values along the depth at `positions`, shape (n,), which are labelled with `names`.

    `shares` is the share of all values at a position, over samples and seeds, in each cell of `Spectra.edges`, shape
    (len(edges) - 1, n); NaN where no histogram was recorded. `largest`, `rms` and `smallest` are geometric means over
    seeds, shape (n,): 0 if one seed's value is exactly zero, Inf if one is not finite, NaN if unknown. `note` states
    the values at the last position.
    """

    positions: Ints
    names: tuple[str, ...]
    shares: Floats
    largest: Floats
    rms: Floats
    smallest: Floats
    note: str


@dataclass(frozen=True, slots=True)
class Spectra:
    """A picture of spectra: `panels[row][column]` has one row per initializer and one column per activation.

    A panel is None where no Jacobian was recorded. All panels share the `scale` and the `edges` of their cells. The
    first cell holds what lies below the scale, including zeros, and the last cell what lies above it. `axis` says what
    the positions count.
    """

    header: Header
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    panels: tuple[tuple[Spectrum | None, ...], ...]
    scale: Scale
    edges: Floats
    axis: str


def prepare_jacobian(profiles: ProfileSet) -> Spectra | None:
    """Return the spectrum of every initializer and activation, or None where no Jacobian was recorded."""
    by_line = lines(profiles, columns=(COLUMN,))
    names = tuple(columns(profiles))
    groups = [[list(columns(group).get(name, ())) for name in names] for group in by_line.values()]
    summaries = [site.jacobian for profile in profiles for site in _sites(profile) if site.jacobian is not None]
    if not summaries:
        return None
    scale = _scale(summaries)
    low, high = math.log10(scale.low), math.log10(scale.high)
    inner = 10 ** np.linspace(low, high, round((high - low) * CELLS_A_DECADE) + 1)
    edges = np.concatenate([[0.0], inner, [np.inf]])
    axes = {_positions(sites)[0] for profile in profiles if (sites := _sites(profile))}
    return Spectra(
        Header("Singular values of the Jacobian, from the input to each layer", facts(profiles), _READING),
        tuple(by_line),
        names,
        tuple(tuple(spectrum_of(pair, edges) for pair in group) for group in groups),
        scale,
        edges,
        LAYER if axes == {LAYER} else POSITION,
    )


def _scale(summaries: Sequence[TensorSummary]) -> Scale:
    values = np.array([value for s in summaries for value in (s.max, s.rms, s.min, _least(s.histogram))])
    # Lost directions must not make the axis longer than the others need.
    return log_scale(np.where(values > 0, np.maximum(values, LOST), values), anchors=[1.0])


def _least(histogram: LogHistogram | None) -> float:
    """Return the 1% quantile of the values that are not zero, NaN if there are none."""
    if histogram is None:
        return math.nan
    positive = histogram.lower > 0
    return LogHistogram(histogram.bins[positive], histogram.counts[positive]).quantile(0.01)


def spectrum_of(profiles: Sequence[NetworkProfile], edges: Floats) -> Spectrum | None:
    """Return the spectrum of one initializer and activation from the networks of its seeds, None without a Jacobian."""
    together: dict[int, list[Site]] = {}
    names: dict[int, str] = {}
    for profile in profiles:
        sites = _sites(profile)
        for site, (position, name) in zip(sites, _positions(sites)[1], strict=True):
            together.setdefault(position, []).append(site)
            names[position] = name
    if not together:
        return None
    positions = sorted(together)
    summaries = [[site.jacobian for site in together[at] if site.jacobian is not None] for at in positions]
    return Spectrum(
        positions=np.array(positions, dtype=np.int64),
        names=tuple(names[at] for at in positions),
        shares=np.stack([_shares(members, edges) for members in summaries], axis=1),
        largest=_averages(summaries, "max"),
        rms=_averages(summaries, "rms"),
        smallest=_averages(summaries, "min"),
        note=_note(summaries[-1], [site.jacobian_condition for site in together[positions[-1]]]),
    )


def _sites(profile: NetworkProfile) -> list[Site]:
    return [site for site in profile.sites if site.jacobian is not None]


def _positions(sites: Sequence[Site]) -> tuple[str, list[tuple[int, str]]]:
    """Return the axis, and the position and its name for each site: its layer, or one after the last for the output.

    Sites are numbered in order where they have no layers, or where several share a layer.
    """
    layers = [site.layer for site in sites]
    behind = len(sites) > 1 and sites[-1].role != "pre-activation" and sites[-2].role == "pre-activation"
    numbered = [layer for layer in (layers[:-1] if behind else layers) if layer is not None]
    if not sites or len(numbered) < len(sites) - behind or numbered != sorted(set(numbered)):
        return POSITION, [(at, str(at)) for at in range(1, len(sites) + 1)]
    return LAYER, [(layer, str(layer)) for layer in numbered] + [(numbered[-1] + 1, OUTPUT)] * behind


def _shares(summaries: Sequence[TensorSummary], edges: Floats) -> Floats:
    histograms = [summary.histogram for summary in summaries if summary.histogram is not None]
    total = sum(histogram.total for histogram in histograms)
    if not total:
        return np.full(edges.size - 1, np.nan)
    return reduce(add, histograms).mass(edges) / total


def _averages(summaries: Iterable[Sequence[TensorSummary]], figure: str) -> Floats:
    return np.array([_average(members, figure) for members in summaries], dtype=np.float64)


def _average(summaries: Sequence[TensorSummary], figure: str) -> float:
    if any(summary.nonfinite_count for summary in summaries):
        return math.inf
    return geometric_interval(getattr(summary, figure) for summary in summaries).center


def _note(summaries: Sequence[TensorSummary], conditions: Sequence[float | None]) -> str:
    """Return the values at the last position: the largest, the rms, and the share of zeros or the condition number."""
    broken = sum(bool(summary.nonfinite_count) for summary in summaries)
    if broken:
        return "NaN/Inf" if broken == len(summaries) else f"NaN/Inf ({broken} of {len(summaries)} seeds)"
    parts = [f"largest {short(_average(summaries, 'max'))}", f"rms {short(_average(summaries, 'rms'))}"]
    together = reduce(add, summaries)
    measured = [condition for condition in conditions if condition is not None]
    if together.zero_fraction:
        parts.append(f"{percent(together.zero_fraction)} zero")
    elif measured:
        parts.append(f"cond. {short(geometric_interval(measured).center)}")
    return " · ".join(parts)


_WIDTH = 2.9
_HEIGHT = 1.8
_STRIP = 0.3
_BETWEEN = 0.05
_TICKS = 0.85
_GAP = 0.35
_TITLES = 0.52
_BELOW = 0.36
_AXIS = 0.3
_KEY = 0.55
_COLUMN_NAME = 0.34
_LEAST_WIDTH = 7.8
# How many panels of a single activation stand side by side.
_BESIDE = 4
_NAME_CHARACTERS = 30

# White to blue, which the lines stand out from; a cell with a third of the values has the darkest shade.
_SHADES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#d3e3f0", "#8db7d8", "#2f6fa7", "#17446e"])
_DARKEST = 0.32
_DEPTH = PowerNorm(0.5, 0, _DARKEST, clip=True)
_LOST = "#5c5c5c"
_LINES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("largest", {"color": "#d55e00", "linewidth": 1.7}),
    ("rms", {"color": "#000000", "linewidth": 1.4, "linestyle": (0, (4, 1.6))}),
    ("smallest", {"color": "#009e73", "linewidth": 1.5, "linestyle": (0, (1.2, 1.2))}),
)


@dataclass(frozen=True, slots=True)
class _Cell:
    name: str
    panel: Spectrum | None


def draw_jacobian(prepared: Spectra, figure: Figure | None = None) -> Figure:
    """Draw the panels into a figure and set its size; the panels of a single activation stand four in a row.

    Without `figure`, a new one is made.
    """
    figure = figure or TextFigure(dpi=DPI)
    headed = len(prepared.columns) > 1
    rows = [[_Cell(name, panel) for panel in row] for name, row in zip(prepared.rows, prepared.panels, strict=True)]
    if not headed:
        flat = [cell for row in rows for cell in row]
        rows = [flat[start : start + _BESIDE] for start in range(0, len(flat), _BESIDE)]
    step = _WIDTH + _GAP
    above = _TITLES + LINE_HEIGHT * (max(len(wrap(name, _NAME_CHARACTERS)) for name in prepared.rows) - 1)
    cell = above + _HEIGHT + _BETWEEN + _STRIP + _BELOW
    width = max(_TICKS + step * max(map(len, rows)), _LEAST_WIDTH)
    above = _KEY + _COLUMN_NAME * headed
    start = framed(figure, prepared.header, width, above + len(rows) * cell + _AXIS)
    height = units_of(figure)[1]
    _draw_key(figure, start - 0.2)
    top = start - above
    if headed:
        for column, name in enumerate(prepared.columns):
            figure.text((_TICKS + column * step) / width, (top + 0.1) / height, name, weight="bold", size=13)
    for row, cells in enumerate(rows):
        bottom = top - (row + 1) * cell + _BELOW
        for column, (name, panel) in enumerate((one.name, one.panel) for one in cells):
            if panel is None:
                continue
            left = (_TICKS + column * step) / width
            size = _WIDTH / width
            main = figure.add_axes((left, (bottom + _STRIP + _BETWEEN) / height, size, _HEIGHT / height))
            strip = figure.add_axes((left, bottom / height, size, _STRIP / height))
            draw_spectrum(main, strip, prepared, name, panel)
            if column:
                main.tick_params(labelleft=False)
                strip.tick_params(labelleft=False)
            if row + 1 == len(rows) or column >= len(rows[row + 1]):
                strip.set_xlabel(prepared.axis)
    return figure


def draw_spectrum(main: Axes, strip: Axes, prepared: Spectra, name: str, panel: Spectrum) -> tuple[Axes, Axes]:
    """Draw one spectrum: cells and lines into `main`, the share below the scale into `strip`, which lies under it."""
    scale = prepared.scale
    first, last = int(panel.positions[0]), int(panel.positions[-1])
    # A missing layer leaves its column blank; what lies above the scale is drawn in the topmost row.
    cells = np.full((panel.shares.shape[0] - 2, last - first + 1), np.nan)
    cells[:, panel.positions - first] = panel.shares[1:-1]
    cells[-1, panel.positions - first] += panel.shares[-1]
    sides = np.arange(first, last + 2) - 0.5
    inner = prepared.edges[1:-1]
    main.pcolormesh(sides, inner, np.ma.masked_invalid(cells), cmap=_SHADES, norm=_DEPTH, rasterized=True)
    strip.bar(panel.positions, np.nan_to_num(panel.shares[0]), width=1.0, color=_LOST)
    scale.apply(main)
    main.axhline(1, color="#7d7d7d", linewidth=0.9, zorder=1.5)
    marker = "o" if first == last else ""
    for (_, style), values in zip(_LINES, (panel.largest, panel.rms, panel.smallest), strict=True):
        positive = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        main.plot(panel.positions, positive, marker=marker, markersize=5, zorder=3, **style)
    mark_nonfinite(main, panel.positions[np.isinf(panel.largest)].tolist())
    main.set_xticks([])
    strip.set_xticks(*_ticks(panel, first, last))
    strip.set_ylim(0, 1)
    strip.set_yticks([0.5], ["lost"])
    strip.tick_params(axis="y", length=0)
    for axes in (main, strip):
        axes.set_xlim(first - 0.5, last + 0.5)
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color("#b5b5b5")
    main.set_title("\n".join(wrap(name, _NAME_CHARACTERS)), pad=6 + 1.35 * LINE_HEIGHT * 72)
    inches = main.bbox.height / main.figure.dpi
    main.text(0, 1 + 0.06 / inches, panel.note, transform=main.transAxes, va="bottom", color=QUIET)
    return main, strip


def _ticks(panel: Spectrum, first: int, last: int) -> tuple[list[int], list[str]]:
    named = dict(zip(panel.positions.tolist(), panel.names, strict=True))
    ticks = position_ticks(first, last)
    if named[last] == OUTPUT:
        ticks = [*(tick for tick in ticks if tick <= last - 0.15 * (last - first)), last]
    return ticks, [named.get(tick, str(tick)) for tick in ticks]


def _draw_key(figure: Figure, middle: float) -> None:
    """Draw the legend of the lines and shades in one row, `middle` inches above the bottom."""
    width, height = figure.get_size_inches()
    left = 0.2

    def write(text: str, gap: float) -> float:
        figure.text(left / width, middle / height, text, va="center", color=INK)
        return left + width_of(text) + gap

    for name, style in _LINES:
        ends = [left / width, (left + 0.36) / width], [middle / height] * 2
        figure.add_artist(Line2D(*ends, transform=figure.transFigure, **style))
        left += 0.43
        left = write(name, 0.2)
    left = write("share of a layer's values: 0", 0.05)
    bar = figure.add_axes((left / width, (middle - 0.08) / height, 1.2 / width, 0.16 / height))
    bar.imshow(np.linspace(0, _DARKEST, 128)[None], aspect="auto", cmap=_SHADES, norm=_DEPTH)
    bar.set_xticks([])
    bar.set_yticks([])
    left += 1.26
    write(f"{_DARKEST:.0%} or more", 0.0)
