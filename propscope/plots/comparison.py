"""The signals of two networks along the depth, one over the other, and their ratio with what no difference makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from propscope.plots.scales import Floats, Scale, log_scale
from propscope.plots.style import (
    ALARM,
    DPI,
    INK,
    Header,
    TextFigure,
    framed,
    line_style,
    mark_nonfinite,
    units_of,
)
from propscope.printable import printable, shortened
from propscope.records.comparison import Comparison, SiteSizes
from propscope.records.network import DIRECTIONS, Direction

NAMES_AT_MOST = 24
_FAR = 2.0
_NAME = 22
_CALLED = 48
_TITLES: dict[Direction, str] = {"forward": "forward: rms of the values", "backward": "backward: rms of the gradient"}
_READING = (
    "Above, the rms at each site that both have, on a logarithmic axis; the second lies over the first, so that one "
    "line is seen where they agree. Below, the second against the first: within the grey band they are the same. "
    "Ringed: a site that differs, here or in the step from the site before. A triangle at the edge: a value is not "
    "finite on one side."
)


@dataclass(frozen=True, slots=True, eq=False)
class ComparedPanel:
    """One direction: the rms of both at each position, their ratio, and the positions that differ.

    `ratios`: the axis of the ratio, None for one of percent, where all of them lie between 1/2 and 2.
    """

    direction: Direction
    first: Floats
    second: Floats
    ratio: Floats
    differing: tuple[int, ...]
    nonfinite: tuple[int, ...]
    scale: Scale
    ratios: Scale | None


@dataclass(frozen=True, slots=True)
class ComparedSignals:
    """The picture of a comparison: its panels, the names of the sites along the axis, what the two are called."""

    header: Header
    names: tuple[str, ...]
    called: tuple[str, str]
    tolerance: float
    panels: tuple[ComparedPanel, ...]


def prepare_comparison(comparison: Comparison) -> ComparedSignals | None:
    """Return the picture of the first network that differs, else of the first one; None where no site is in both."""
    sizes = comparison.drawn
    panels = [_panel(comparison, sizes, direction) for direction in DIRECTIONS]
    shown = tuple(panel for panel in panels if panel is not None)
    if not shown:
        return None
    among = ", ".join(f"{name} {value}" for name, value in comparison.distinct(sizes[0].labels).items())
    what = "the same" if comparison.same else "different"
    share = f"tolerance {100 * comparison.tolerance:.3g}% ({comparison.tolerance_of})"
    facts = " · ".join(filter(None, (what, among, share)))
    header = Header("Where two signals part", printable(facts).replace("$", r"\$"), _READING)
    names = tuple(printable(shortened(each.site or "(model)", _NAME)).replace("$", r"\$") for each in sizes)
    return ComparedSignals(header, names, _called(comparison), comparison.tolerance, shown)


def _called(comparison: Comparison) -> tuple[str, str]:
    """Return what the two are called: which is which, and the parts of its name that the other one's lacks."""
    first, second = (printable(name).split(", ") for name in comparison.names)

    def called(which: str, own: list[str], other: list[str]) -> str:
        told = ", ".join(part for part in own if part and part not in other)
        return f"{which}: {shortened(told, _CALLED)}" if told else which

    return called("first", first, second), called("second", second, first)


def _panel(comparison: Comparison, sizes: Sequence[SiteSizes], direction: Direction) -> ComparedPanel | None:
    first, second = np.array([getattr(each, direction) for each in sizes], dtype=np.float64).reshape(-1, 2).T
    if not (np.isfinite(first) | np.isfinite(second)).any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((first > 0) & (second > 0) & np.isfinite(first) & np.isfinite(second), second / first, np.nan)
    places = {
        one.place for one in comparison.differences if one.direction == direction and one.labels == sizes[0].labels
    }
    scale = log_scale(np.concatenate([first, second]), anchors=[])
    known = ratio[np.isfinite(ratio)]
    far = bool(known.size) and (known.min() < 1 / _FAR or known.max() > _FAR)
    return ComparedPanel(
        direction,
        first,
        second,
        ratio,
        tuple(at for at, each in enumerate(sizes) if each.place in places),
        tuple(np.flatnonzero(np.isinf(first) | np.isinf(second)).tolist()),
        scale,
        log_scale(known, anchors=[1.0]) if far else None,
    )


_WIDE, _HIGH, _LOW = 4.6, 2.2, 1.5
_LEFT, _RIGHT, _BETWEEN, _ABOVE, _GAP = 0.75, 0.2, 0.75, 0.35, 0.15


def draw_comparison(prepared: ComparedSignals, figure: Figure | None = None) -> Figure:
    """Draw both directions side by side into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    columns = len(prepared.panels)
    width = _LEFT + columns * _WIDE + (columns - 1) * _BETWEEN + _RIGHT
    longest = max(map(len, prepared.names), default=0)
    below = 0.45 + 0.075 * longest * (len(prepared.names) <= NAMES_AT_MOST)
    inner = _ABOVE + _HIGH + _GAP + _LOW + below
    top = framed(figure, prepared.header, width, inner) - _ABOVE
    height = units_of(figure)[1]
    for column, panel in enumerate(prepared.panels):
        left = _LEFT + column * (_WIDE + _BETWEEN)
        upper = figure.add_axes((left / width, (top - _HIGH) / height, _WIDE / width, _HIGH / height))
        low = top - _HIGH - _GAP - _LOW
        lower = figure.add_axes((left / width, low / height, _WIDE / width, _LOW / height))
        draw_sizes(upper, panel, prepared.called)
        draw_ratio(lower, panel, prepared.names, prepared.tolerance)
        upper.set_title(_TITLES[panel.direction], loc="left", pad=6)
        if not column:
            upper.legend(loc="best", fontsize="small")
    return figure


def draw_sizes(axes: Axes, panel: ComparedPanel, called: tuple[str, str]) -> Axes:
    """Draw the rms of both at each site."""
    panel.scale.apply(axes)
    positions = np.arange(len(panel.first))
    axes.grid(axis="y")
    for at, (values, name) in enumerate(((panel.first, called[0]), (panel.second, called[1]))):
        marks = {} if len(positions) <= NAMES_AT_MOST else {"marker": ""}
        axes.plot(positions, values, label=name, zorder=3 + at, **line_style(at).keywords | marks)
    axes.set_ylabel("rms")
    _along(axes, len(positions), ())
    return mark_nonfinite(axes, panel.nonfinite)


def draw_ratio(axes: Axes, panel: ComparedPanel, names: tuple[str, ...], tolerance: float) -> Axes:
    """Draw the second over the first at each site, with the band in which they are the same."""
    positions = np.arange(len(panel.ratio))
    near = (1 / (1 + tolerance), 1.0, 1 + tolerance)
    if panel.ratios is not None:
        panel.ratios.apply(axes)
        shown, (low, same, high) = panel.ratio, near
        axes.set_ylabel("second / first")
    else:
        shown, (low, same, high) = 100 * (panel.ratio - 1), tuple(100 * (each - 1) for each in near)
        reach = 1.2 * max(2 * high, float(np.nanmax(np.abs(shown), initial=0.0)))
        axes.set_ylim(-reach, reach)
        axes.set_ylabel("change, %")
    axes.axhspan(low, high, color=INK, alpha=0.15, linewidth=0, zorder=1)
    axes.axhline(same, color=INK, linewidth=0.8, zorder=2)
    axes.grid(axis="y")
    axes.plot(positions, shown, "o-", color=INK, markersize=3, linewidth=1, zorder=3)
    ringed = [at for at in panel.differing if math.isfinite(panel.ratio[at])]
    axes.plot(ringed, shown[ringed], "o", color=ALARM, fillstyle="none", markersize=8, zorder=4)
    _along(axes, len(positions), names)
    return axes


def _along(axes: Axes, count: int, names: tuple[str, ...]) -> None:
    """Set the axis of sites: their names where there is room, else their numbers in execution order."""
    axes.set_xlim(-0.6, count - 0.4)
    axes.xaxis.set_minor_locator(NullLocator())
    if not names:
        axes.tick_params(labelbottom=False)
    elif count <= NAMES_AT_MOST:
        axes.xaxis.set_major_locator(FixedLocator(list(range(count))))
        axes.xaxis.set_major_formatter(FixedFormatter(names))
        axes.tick_params(axis="x", labelrotation=90)
    else:
        axes.set_xlabel("site, in execution order")
