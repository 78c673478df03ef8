"""How the order-to-chaos diagram is drawn: a map of the depth scale, the critical line, markers with their names."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from propscope.plots.phase import DEPTHS, HEIGHT, WIDTH, Mark, PhasePicture
from propscope.plots.style import ALARM, DPI, INK, QUIET, draw_header, short

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


def draw_phase(prepared: PhasePicture, figure: Figure | None = None) -> Figure:
    """Draw a phase diagram into a figure, whose size it sets, or a new one."""
    figure = figure or Figure(dpi=DPI)
    width = _LEFT + WIDTH + _RIGHT
    top = prepared.header.height(width)
    height = top + _ABOVE + HEIGHT + _BELOW
    figure.set_size_inches(width, height)
    draw_header(figure, prepared.header)
    axes = figure.add_axes((_LEFT / width, _BELOW / height, WIDTH / width, HEIGHT / height))
    bar = figure.add_axes(((_LEFT + WIDTH + 0.3) / width, _BELOW / height, 0.16 / width, HEIGHT / height))
    draw_plane(axes, bar, prepared)
    return figure


def draw_plane(axes: Axes, bar: Axes, prepared: PhasePicture) -> Axes:
    """Draw the map into one axes and the scale of its colours into another."""
    chart = prepared.chart
    extent = (*chart.weight_limits, *chart.bias_limits)
    diverges = np.isinf(chart.q)
    depth = np.ma.masked_array(np.clip(chart.correlation_depth, DEPTHS[0] / 10, 10 * DEPTHS[1]), diverges)
    colours = colormaps["viridis"].with_extremes(bad="#e6e6e6")
    image = axes.imshow(
        depth,
        origin="lower",
        extent=extent,
        aspect="auto",
        cmap=colours,
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
            region.x / WIDTH, region.y / HEIGHT, region.name, transform=axes.transAxes, ha="center", va="center",
            size=13, weight="bold", path_effects=outline, zorder=4,
        )  # fmt: skip
    _draw_callouts(axes, prepared)
    axes.set_xlabel("weight variance  $\\sigma_w^2$ = fan_in · Var[W]")
    axes.set_ylabel("bias variance  $\\sigma_b^2$ = Var[b]")
    figure = axes.get_figure()
    assert figure is not None
    scale = figure.colorbar(image, cax=bar, extend="both", ticks=list(_TICKS))
    scale.ax.minorticks_off()
    scale.set_ticklabels([f"≥ {short(tick)}" if tick == DEPTHS[1] else short(tick) for tick in _TICKS])
    scale.set_label("correlation depth scale  $\\xi_c$  (layers)")
    return axes


def _draw_callouts(axes: Axes, prepared: PhasePicture) -> None:
    for mark, callout in zip(prepared.marks, prepared.callouts, strict=True):
        x0, y0, x1, y1 = callout.leader
        across, upwards = [x0 / WIDTH, x1 / WIDTH], [y0 / HEIGHT, y1 / HEIGHT]
        axes.plot(across, upwards, color="white", linewidth=2.5, transform=axes.transAxes, zorder=4)
        axes.plot(across, upwards, color=QUIET, linewidth=1.0, transform=axes.transAxes, zorder=4.1)
        if mark != "none":
            axes.plot(
                [x0 / WIDTH], [y0 / HEIGHT], linestyle="", transform=axes.transAxes, clip_on=False,
                zorder=6 if mark == "critical" else 5, **_MARKS[mark],
            )  # fmt: skip
        left, bottom, right, top = callout.box
        card = Rectangle(
            (left / WIDTH, bottom / HEIGHT), (right - left) / WIDTH, (top - bottom) / HEIGHT, transform=axes.transAxes,
            facecolor="white", alpha=0.85, linewidth=0, zorder=4.4,
        )  # fmt: skip
        axes.add_patch(card)
        axes.text(
            (left + right) / 2 / WIDTH,
            (bottom + top) / 2 / HEIGHT,
            "\n".join(callout.rows),
            transform=axes.transAxes,
            ha="center",
            va="center",
            linespacing=1.15,
            zorder=4.5,
        )
