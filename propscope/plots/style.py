"""How every picture looks: matplotlib settings, size presets, line styles that survive grey print, header and caption.

Lengths are in units: an inch where text has 10 points, in proportion where it has others.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from matplotlib import rcParams, style
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from propscope.checks import one_of

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

TEXT_AS_TEXT: Mapping[str, Any] = MappingProxyType({"svg.fonttype": "none", "pdf.fonttype": 42})
# What grows with the text.
_SIZES = ("font.size", "axes.labelsize", "axes.titlesize", "axes.linewidth", "xtick.labelsize", "ytick.labelsize")
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
        **TEXT_AS_TEXT,
    }
)


Legend = Literal["beside", "inside", "below", "none"]
LEGENDS: tuple[Legend, ...] = ("beside", "inside", "below", "none")


@dataclass(frozen=True, slots=True)
class Look:
    """A size preset: the points of its `text`, and the `width` of a figure in inches, None for what its content takes.

    `titled`: with a title above the figure, and what was run below it; `explained`: with a caption, how to read it.
    `legend`: where the names of lines stand, beside or inside each panel, below all panels, or nowhere.
    """

    text: float = TEXT
    width: float | None = None
    titled: bool = True
    explained: bool = True
    legend: Legend = "beside"

    @property
    def beside(self) -> bool:
        """Whether names and keys stand beside a panel."""
        return self.legend == "beside"

    @property
    def panel_legend(self) -> Legend:
        """Where the names stand in a figure of one's own, whose panels share a single legend below all of them."""
        return "none" if self.legend == "below" else self.legend

    @property
    def units(self) -> float | None:
        """The width of a figure in units, None for what its content takes."""
        return None if self.width is None else self.width * TEXT / self.text


SCREEN = Look()
LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "screen": SCREEN,
        "paper": Look(text=8.0, width=3.4, titled=False, explained=False, legend="below"),
        "slide": Look(text=16.0, width=11.5, explained=False),
    }
)


def look_of(name: str) -> Look:
    """Return a size preset; raises `InputError` for a name that is none."""
    return LOOKS[one_of("style", name, LOOKS)]


def styled(look: Look = SCREEN) -> AbstractContextManager[None]:
    """Return a context with matplotlib's defaults and `RC`, in which pictures are drawn and saved.

    The user's settings have no effect inside the context and are unchanged after it.
    """
    sizes = {name: value * look.text / TEXT for name, value in RC.items() if name in _SIZES}
    return style.context(cast(Any, ["default", {**RC, **sizes}]))


def text_as_text() -> AbstractContextManager[None]:
    """Return a context in which figures are saved as large as they are, with text that stays text."""
    return style.context(cast(Any, {**TEXT_AS_TEXT, "savefig.bbox": None}))


def unit() -> float:
    """Return the inches of a unit for the size of text that matplotlib is set to."""
    return float(rcParams["font.size"]) / TEXT


class TextFigure(Figure):
    """A figure that is drawn and saved with the settings of its `look`, whatever matplotlib is set to."""

    look: Look = SCREEN

    def draw(self, renderer: RendererBase) -> None:
        """Do what a figure does, with the settings of the look."""
        with styled(self.look):
            super().draw(renderer)

    def savefig(self, *args: Any, **keywords: Any) -> None:
        """Do what a figure does, with the settings of the look; text stays text in SVG and PDF."""
        with styled(self.look):
            super().savefig(*args, **keywords)


def extent_of(axes: Axes) -> tuple[float, float]:
    """Return the width and height of an axes in units."""
    scale = axes.figure.dpi * unit()
    return axes.bbox.width / scale, axes.bbox.height / scale


# Okabe and Ito's colours without yellow, and a brown: they differ for any colour vision, and neighbours differ in
# luminance. With 8 colours, 5 dashes and 7 markers, a combination repeats after 280 lines.
_COLOURS = ("#0072b2", "#e69f00", "#000000", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#7a4f1d")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.6, 1.2, 1.6)), (0, (2.6, 1.2)))
_MARKERS = ("o", "s", "^", "D", "v", "X", "P")


@dataclass(frozen=True, slots=True)
class LineStyle:
    """How a line differs from the others: its `colour`, `dash`, `marker`, whether that is `filled`, and its `width`."""

    colour: str
    dash: Any
    marker: str
    filled: bool
    width: float = 1.6

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments of a matplotlib line."""
        scale = unit()
        return {
            "color": self.colour,
            "linestyle": self.dash,
            "linewidth": self.width * scale,
            "marker": self.marker,
            "markersize": 5 * scale,
            "markerfacecolor": self.colour if self.filled else "white",
            "markeredgewidth": 1.2 * scale,
        }


# Grey dashes, so wide that they show beside a curve that they lie under and do not hide it.
PREDICTION = LineStyle(f"{INK}59", (0, (1.5, 1.0)), "", filled=True, width=3.6)


def line_style(index: int, palette: Sequence[str] = _COLOURS) -> LineStyle:
    """Return the style of the line with that index, from 0, with a colour of the palette."""
    return LineStyle(
        colour=palette[index % len(palette)],
        dash=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[index % len(_MARKERS)],
        filled=index // len(palette) % 2 == 0,
    )


def line_styles(names: Sequence[str], palette: Sequence[str] | None = None) -> dict[str, LineStyle]:
    """Return the style of each line by its name."""
    return {name: line_style(index, palette or _COLOURS) for index, name in enumerate(names)}


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
    """The texts of a picture: `title` and `facts` (what was run) above it, `reading` (how to read it) below it.

    Lines of `reading` are paragraphs. Facts that have no room in the one line above begin the caption. A text that is
    "" takes no room.
    """

    title: str
    facts: str
    reading: str

    def lines(self, width: float) -> tuple[str, list[str]]:
        """Return the line of facts above a picture, and the rows of its caption, for a width in units."""
        characters = max(20, int((width - 0.4) / _PROSE))
        rest, fitting = self.facts.split(" · "), list[str]()
        while rest and len(" · ".join((*fitting, rest[0]))) <= characters:
            fitting.append(rest.pop(0))
        paragraphs = [" · ".join(rest), *self.reading.splitlines()]
        return " · ".join(fitting), [row for text in paragraphs for row in textwrap.wrap(text, characters)]

    def height(self, width: float) -> float:
        """Return the units that header and caption take together in a picture of a width in units."""
        return self.above + self.below(width)

    @property
    def above(self) -> float:
        """The units that title and facts take above a picture."""
        return 0.36 * bool(self.title) + LINE_HEIGHT * bool(self.facts) + 0.12

    def below(self, width: float) -> float:
        """Return the units that the caption takes below a picture of a width in units."""
        rows = len(self.lines(width)[1])
        return LINE_HEIGHT * rows + 0.2 if rows else 0.0

    def shown(self, look: Look, *, title: str | None = None, caption: str | None = None) -> Header:
        """Return the texts that a look shows, with another title or caption where they are given ("" for none)."""
        return Header(
            (self.title if look.titled else "") if title is None else title,
            self.facts if look.titled and title != "" else "",
            (self.reading if look.explained else "") if caption is None else caption,
        )


def wrapped_title(axes: Axes, text: str) -> str:
    """Return a title in rows that are no wider than the axes."""
    # The title is bold and larger than other text.
    characters = max(10, int(extent_of(axes)[0] / (1.25 * CHARACTER)))
    return "\n".join(row for line in text.split("\n") for row in wrap(line, characters))


def mark_nonfinite(axes: Axes, at: Sequence[float]) -> Axes:
    """Mark positions along the x axis at which something is NaN or Inf, by triangles at the top edge."""
    if at:
        edge = axes.get_xaxis_transform()
        axes.plot(at, [1.0] * len(at), "^", color=ALARM, markersize=7, transform=edge, clip_on=False, zorder=4)
    return axes


def draw_prediction(axes: Axes, x: ArrayLike, y: ArrayLike) -> Axes:
    """Draw what is expected of a curve as grey dashes under it."""
    axes.plot(x, y, zorder=2.3, gid="expected", **PREDICTION.keywords)
    return axes


def framed(figure: Figure, header: Header, width: float, high: float, *, notes: Sequence[str] = ()) -> float:
    """Set a figure's size for content of this width and height, and write the header above and the caption below it.

    All lengths are in units. Return how far the top of the content is above the bottom of the figure. `notes` are rows
    of text, in the colour of alarms, between the content and the caption.
    """
    foot = header.below(width) + (LINE_HEIGHT * len(notes) + 0.1 if notes else 0.0)
    height = header.above + high + foot
    scale = unit()
    figure.set_size_inches(width * scale, height * scale)
    draw_header(figure, header)
    top = foot - 0.05
    for row in notes:
        figure.text(0.2 / width, top / height, row, va="top", color=ALARM)
        top -= LINE_HEIGHT
    return foot + high


def draw_header(figure: Figure, header: Header) -> Figure:
    """Write title and facts at the top left of a figure and the caption at its bottom left.

    They take `header.above` and `header.below(width)` units.
    """
    width, height = units_of(figure)
    facts, caption = header.lines(width)
    left = 0.2 / width
    if header.title:
        figure.text(left, 1 - 0.13 / height, header.title, va="top", size=14 * unit(), weight="bold")
    if facts:
        figure.text(left, 1 - (0.36 * bool(header.title) + 0.09) / height, facts, va="top")
    if caption:
        top = (header.below(width) - 0.08) / height
        figure.text(left, top, "\n".join(caption), va="top", linespacing=1.25, color=QUIET, style="italic")
    return figure


def units_of(figure: Figure) -> tuple[float, float]:
    """Return the width and height of a figure in units."""
    width, height = figure.get_size_inches() / unit()
    return float(width), float(height)
