"""How every picture looks: matplotlib settings, line styles that survive grey print, short numbers, the header.

Sizes are inches at the picture's real size. No text is smaller than 10 points.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 130
TEXT = 10.0
LINE_HEIGHT = TEXT * 1.25 / 72
# DejaVu Sans: the mean advance of names is 0.59 em, of digits 0.64 em, of prose with its blanks 0.54 em.
CHARACTER = TEXT * 0.61 / 72
_PROSE = TEXT * 0.555 / 72

INK = "#222222"
QUIET = "#6b6b6b"
FAINT = "#dcdcdc"
ALARM = "#b2182b"

RC: Mapping[str, Any] = MappingProxyType(
    {
        "font.family": "DejaVu Sans",
        "font.size": TEXT,
        "text.usetex": False,
        "text.color": INK,
        "axes.labelsize": TEXT,
        "axes.labelcolor": INK,
        "axes.titlesize": 11.0,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": QUIET,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "axes.axisbelow": True,
        "xtick.labelsize": TEXT,
        "ytick.labelsize": TEXT,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "grid.color": FAINT,
        "grid.linewidth": 0.7,
        "hatch.linewidth": 0.8,
        "hatch.color": QUIET,
        "figure.facecolor": "white",
        "figure.autolayout": False,
        "figure.constrained_layout.use": False,
        "savefig.bbox": None,
        "savefig.facecolor": "white",
        "pdf.fonttype": 42,
    }
)


def styled() -> AbstractContextManager[None]:
    """Return a context with matplotlib's defaults and `RC`, in which pictures are drawn and saved.

    The user's settings have no effect inside the context and are unchanged after it.
    """
    return style.context(cast(Any, ["default", dict(RC)]))


# Okabe and Ito's colours without yellow, and a brown: they differ for any colour vision, and neighbours differ in
# luminance. With 8 colours, 5 dashes and 7 markers, a combination repeats after 280 lines.
_COLOURS = ("#0072b2", "#e69f00", "#000000", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#7a4f1d")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.6, 1.2, 1.6)), (0, (2.6, 1.2)))
_MARKERS = ("o", "s", "^", "D", "v", "X", "P")


@dataclass(frozen=True, slots=True)
class LineStyle:
    """How a line differs from the others: its `colour`, `dash` and `marker`, and whether the marker is `filled`."""

    colour: str
    dash: Any
    marker: str
    filled: bool

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments of a matplotlib line."""
        return {
            "color": self.colour,
            "linestyle": self.dash,
            "linewidth": 1.6,
            "marker": self.marker,
            "markersize": 5,
            "markerfacecolor": self.colour if self.filled else "white",
            "markeredgewidth": 1.2,
        }


def line_style(index: int) -> LineStyle:
    """Return the style of the line with that index, from 0."""
    return LineStyle(
        colour=_COLOURS[index % len(_COLOURS)],
        dash=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[index % len(_MARKERS)],
        filled=index // len(_COLOURS) % 2 == 0,
    )


def short(value: float) -> str:
    """Return a number with two significant digits in few characters: 0.56, 390, 1.2e−5, ∞, NaN."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    scientific = f"{value:.1e}"
    exponent = int(scientific.split("e")[1])
    if -2 <= exponent < 2:
        text = f"{value:.2g}"
    elif 2 <= exponent < 4:
        text = f"{value:.0f}"
    else:
        text = f"{scientific.split('e')[0].removesuffix('.0')}e{exponent}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """Return a share (0 to 1) as a percentage, which is 0% or 100% only if the share is exactly 0 or 1."""
    if 0 < share < 0.01:
        return "<1%"
    if 0.99 < share < 1:
        return ">99%"
    return f"{100 * share:.0f}%"


def wrap(text: str, characters: int) -> list[str]:
    """Return text in rows of at most `characters`, broken at blanks, else after colons and dots, else anywhere.

    A number is not broken at its point.
    """
    rows = [""]
    for word in re.split(r"(?<= )", text):
        pieces = [word] if len(word.rstrip()) <= characters else re.split(r"(?<=:)|(?<=\w\.)(?=[^\W\d])", word)
        for piece in pieces:
            if rows[-1] and len((rows[-1] + piece).rstrip()) > characters:
                rows.append("")
            rows[-1] += piece
            while len(rows[-1].rstrip()) > characters:
                rows[-1:] = [rows[-1][:characters], rows[-1][characters:]]
    return [row.rstrip() for row in rows]


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """Return a power of ten as plain text, which matplotlib draws faster than mathtext."""
    return {0: "1", 1: "10"}.get(exponent, "10" + str(exponent).translate(_SUPERSCRIPT))


@dataclass(frozen=True, slots=True)
class Header:
    """The text above a picture: its `title`, `facts` (what was run) and `reading` (how to read it, in paragraphs)."""

    title: str
    facts: str
    reading: str

    def lines(self, width: float) -> tuple[list[str], list[str]]:
        """Return the rows of the facts and of the reading, wrapped to a width in inches."""
        characters = max(20, int((width - 0.4) / _PROSE))
        reading = [row for text in self.reading.splitlines() for row in textwrap.wrap(text, characters)]
        return textwrap.wrap(self.facts, characters), reading

    def height(self, width: float) -> float:
        """Return the header's height in inches in a picture of a width in inches."""
        return 0.62 + LINE_HEIGHT * sum(map(len, self.lines(width)))


def mark_nonfinite(axes: Axes, at: Sequence[float]) -> Axes:
    """Mark positions along the x axis at which something is NaN or Inf, by triangles at the top edge."""
    if at:
        edge = axes.get_xaxis_transform()
        axes.plot(at, [1.0] * len(at), "^", color=ALARM, markersize=7, transform=edge, clip_on=False, zorder=4)
    return axes


def draw_header(figure: Figure, header: Header) -> Figure:
    """Write a header at the top left of a figure; it takes `header.height(width)` inches."""
    width, height = figure.get_size_inches()
    facts, reading = header.lines(width)
    left = 0.2 / width
    figure.text(left, 1 - 0.13 / height, header.title, va="top", size=14, weight="bold")
    top = 0.45
    figure.text(left, 1 - top / height, "\n".join(facts), va="top", linespacing=1.25)
    top += LINE_HEIGHT * len(facts)
    figure.text(left, 1 - top / height, "\n".join(reading), va="top", linespacing=1.25, color=QUIET, style="italic")
    return figure
