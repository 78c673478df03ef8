"""Small pictures of curves as SVG, for places where no script runs; a picture holds all that it needs.

Its colours are of medium lightness, so that they are readable on white and on black paper: a notebook does not tell an
image which of the two it lies on.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from propscope.printable import printable
from propscope.records.network import Floats

QUIET = "#808080"
SEVERITY = {"broken": "#e0443e", "strained": "#a9790a", "healthy": "#2f9150", "not measured": QUIET}
SYMBOL = {"broken": "✕", "strained": "▲", "healthy": "✓", "not measured": "?"}
# Beside each other in this order they differ most.
COLORS = ("#3182ce", "#c4622d", "#2f9150", "#9a6bc9", "#a9790a", "#d1477a", "#1f94a0", "#6f7f8f")
_LEFT, _RIGHT, _TOP, _BOTTOM, _KEY = 56, 10, 26, 32, 16
# On a logarithmic axis smaller values than the largest over this are below the paper.
_DECADES = 60


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through the points (x, y), NaN where there is none, and what is expected of it.

    `expected`: y of a dashed line; `low` and `high`, `expected_low` and `expected_high`: the edges of a band; all as
    long as y, or empty. `marks`: the severity at points, by their position. `key`: a short text at the line's end.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    expected: Sequence[float] = ()
    expected_low: Sequence[float] = ()
    expected_high: Sequence[float] = ()
    color: str = COLORS[0]
    dashed: bool = False
    key: str = ""
    marks: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over one pair of axes, below a `title`; `ticks`: places and texts on the x axis in place of numbers."""

    title: str
    x_label: str
    curves: tuple[Curve, ...]
    log: bool = True
    ticks: tuple[tuple[float, str], ...] = ()


def image(panel: Panel, *, width: int = 430, height: int = 210) -> str:
    """Return a panel as an HTML image with the picture inside, which the cleaning of an untrusted notebook keeps."""
    drawn = base64.b64encode(svg(panel, width, height).encode()).decode()
    alternative = html.escape(printable(f"{panel.title}: {_in_words(panel)}"))
    return (
        f'<img width="{width}" height="{height}" alt="{alternative}" style="max-width:100%" '
        f'src="data:image/svg+xml;base64,{drawn}">'
    )


def svg(panel: Panel, width: int, height: int) -> str:
    """Return a panel as an SVG document of so many pixels."""
    keys = any(curve.key for curve in panel.curves)
    left, right, top, bottom = _LEFT, width - _RIGHT, _TOP, height - _BOTTOM
    y = _value_scale(panel, bottom - 6, top + 6)
    ends = [_keyed(panel, y, bottom, last=last) for last in (True, False)]
    # The keys stand where the lines lie further apart: gradients that are traced back part at the first layer.
    at_end = _spread(ends[0]) >= _spread(ends[1])
    xs = _finite(value for curve in panel.curves for value in curve.x)
    room = (6 + _KEY * (keys and not at_end), 6 + _KEY * (keys and at_end))
    x = _Scale(min(xs, default=0.0), max(xs, default=1.0), left + room[0], right - room[1])
    parts = [_text(left, 14, panel.title, anchor="start", size=12)]
    for tick, text in y.ticks():
        parts.append(f'<path d="M{left},{y.place(tick):.1f}H{right}" stroke="{QUIET}" stroke-opacity=".3"/>')
        parts.append(_text(left - 5, y.place(tick) + 4, text, anchor="end"))
    for tick, text in panel.ticks or x.ticks(whole=True):
        parts.append(_text(x.place(tick), bottom + 14, text))
    parts.append(_text((left + right) / 2, height - 5, panel.x_label))
    for curve in panel.curves:
        parts += _bands(curve, x, y)
    for curve in panel.curves:
        parts += _lines(curve, x, y, panel.log, top, bottom)
    for at, curve in _apart(ends[0 if at_end else 1], 11, top + 6, bottom):
        place = right - room[1] + 5 if at_end else left + 3
        parts.append(_text(place, at + 4, curve.key, anchor="start", color=curve.color))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="none">{"".join(parts)}</svg>'
    )


class _Scale:
    """Where a value stands between two pixels: `low` at the one, `high` at the other; in decades where `log` is set."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        self._low, self._high, self._start, self._end, self._log = low, high, start, end, log

    def shows(self, value: float) -> bool:
        return math.isfinite(value) and (not self._log or value > 0)

    def place(self, value: float) -> float:
        at = math.log10(value) if self._log else value
        share = (at - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        # A picture has an edge, whatever a file holds.
        return self._start + min(max(share, -0.02), 1.02) * (self._end - self._start)

    def ticks(self, *, whole: bool = False) -> list[tuple[float, str]]:
        low, high = self._low, self._high
        if self._log:
            first, last = math.ceil(low), math.floor(high)
            step = max(1, math.ceil((last - first + 1) / 5))
            found = [at for at in range(first, last + 1) if at % step == 0]
            if len(found) > 1:
                return [(10.0**at, f"1e{at}" if abs(at) > 2 else f"{10.0**at:g}") for at in found]
            # Beside the largest float an axis ends above it.
            values = [float(f"{10 ** min(low + part * (high - low), 308):.2g}") for part in (0.1, 0.5, 0.9)]
            return [(value, _short(value)) for value in dict.fromkeys(values) if value > 0]
        if high <= low:
            return [(low, _short(low))]
        raw = (high - low) / (6 if whole else 4)
        size = 10.0 ** math.floor(math.log10(raw))
        apart = next(each * size for each in (1, 2, 5, 10) if each * size >= raw * (1 - 1e-9))
        if whole:
            apart = max(apart, 1.0)
        start = math.ceil(low / apart - 1e-9)
        values = [(start + at) * apart for at in range(math.floor((high - low) / apart) + 2)]
        return [(value, _short(value)) for value in values if value <= high + 1e-9 * (high - low)]


def _keyed(panel: Panel, y: _Scale, bottom: float, *, last: bool) -> list[tuple[float, Curve]]:
    """Return the curves that have a key, with the height at which each ends, or begins."""
    found = []
    for curve in panel.curves:
        seen = [value for value in curve.y if y.shows(value) or (value == 0 and panel.log)]
        if curve.key and seen:
            value = seen[-1 if last else 0]
            found.append((y.place(value) if y.shows(value) else bottom, curve))
    return found


def _spread(ends: Sequence[tuple[float, Curve]]) -> float:
    heights = [at for at, _ in ends]
    return max(heights, default=0.0) - min(heights, default=0.0)


def _value_scale(panel: Panel, start: float, end: float) -> _Scale:
    series = (
        each
        for curve in panel.curves
        for each in (curve.y, curve.low, curve.high, curve.expected, curve.expected_low, curve.expected_high)
    )
    values = [value for each in series for value in _finite(each) if not panel.log or value > 0]
    if panel.log:
        values = [math.log10(value) for value in values]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if panel.log:
        low = max(low, high - _DECADES)
    least = 0.5 if panel.log else max(abs(high), abs(low)) * 0.1 or 1.0
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    return _Scale(low, high, start, end, log=panel.log)


def _bands(curve: Curve, x: _Scale, y: _Scale) -> list[str]:
    edges = ((curve.expected_low, curve.expected_high, QUIET), (curve.low, curve.high, curve.color))
    return [
        f'<path d="{_band(curve.x, low, high, x, y)}" fill="{color}" fill-opacity=".2"/>'
        for low, high, color in edges
        if len(low) and _band(curve.x, low, high, x, y)
    ]


def _band(xs: Sequence[float], low: Sequence[float], high: Sequence[float], x: _Scale, y: _Scale) -> str:
    shown = [at for at in range(len(xs)) if y.shows(low[at]) and y.shows(high[at])]
    around = [(at, low) for at in shown] + [(at, high) for at in reversed(shown)]
    return "M" + "L".join(_point(x.place(xs[at]), y.place(edge[at])) for at, edge in around) + "Z" if shown else ""


def _lines(curve: Curve, x: _Scale, y: _Scale, log: bool, top: float, bottom: float) -> list[str]:
    parts = []
    if path := _path(curve.x, curve.expected, x, y):
        parts.append(f'<path d="{path}" stroke="{QUIET}" stroke-width="1.5" stroke-dasharray="5 4"/>')
    if path := _path(curve.x, curve.y, x, y):
        dashes = ' stroke-dasharray="5 4"' * curve.dashed
        parts.append(f'<path d="{path}" stroke="{curve.color}" stroke-width="1.8" stroke-linejoin="round"{dashes}/>')
    alone = [
        at
        for at in range(len(curve.y))
        if not any(map(y.shows, (*curve.y[max(at - 1, 0) : at], *curve.y[at + 1 : at + 2])))
    ]
    parts += [
        f'<circle cx="{x.place(curve.x[at]):.1f}" cy="{y.place(curve.y[at]):.1f}" r="2.5" fill="{curve.color}"/>'
        for at in alone
        if y.shows(curve.y[at])
    ]
    lost = [(at, "▲", top + 8.0) for at, value in enumerate(curve.y) if math.isinf(value)]
    gone = [(at, "▼", bottom - 1.0) for at, value in enumerate(curve.y) if log and value == 0]
    parts += [_text(x.place(curve.x[at]), height, sign, color=curve.color) for at, sign, height in lost + gone]
    for at, mark in curve.marks:
        height = y.place(curve.y[at]) - 6 if y.shows(curve.y[at]) else top + 8
        parts.append(_text(x.place(curve.x[at]), max(height, top + 8), SYMBOL[mark], color=SEVERITY[mark]))
    return parts


def _path(xs: Sequence[float], ys: Sequence[float], x: _Scale, y: _Scale) -> str:
    """Return a line through what is shown; it breaks where a value is not."""
    text, drawing = "", False
    for at, value in enumerate(ys):
        shows = y.shows(value)
        if shows:
            text += f"{'L' if drawing else 'M'}{_point(x.place(xs[at]), y.place(value))}"
        drawing = shows
    return text


def _apart(ends: list[tuple[float, Curve]], least: float, top: float, bottom: float) -> list[tuple[float, Curve]]:
    """Return keys at heights that are so far from each other, in the order in which they stand."""
    ranked = sorted(ends, key=lambda end: end[0])
    least = min(least, (bottom - top) / max(len(ranked) - 1, 1))
    heights: list[float] = []
    for at, _ in ranked:
        heights.append(max(at, heights[-1] + least) if heights else max(at, top))
    limit = bottom
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], limit)
        limit = heights[place] - least
    return [(at, curve) for at, (_, curve) in zip(heights, ranked, strict=True)]


def _in_words(panel: Panel) -> str:
    first = panel.curves[0] if panel.curves else None
    seen = [] if first is None else [value for value in first.y if not math.isnan(value)]
    if not seen:
        return "nothing was recorded"
    if len(panel.curves) > 1:
        return f"{len(panel.curves)} curves"
    return f"from {_short(seen[0])} to {_short(seen[-1])}"


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _point(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"


def _text(x: float, y: float, text: str, *, anchor: str = "middle", color: str = QUIET, size: int | None = None) -> str:
    sized = "" if size is None else f' font-size="{size}"'
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} fill="{color}"{sized}>{html.escape(printable(text))}</text>'


def _finite(values: Iterable[float] | Floats) -> list[float]:
    found = np.fromiter(values, np.float64)
    kept: list[float] = found[np.isfinite(found)].tolist()
    return kept
