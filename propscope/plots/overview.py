"""The whole grid at a glance: how much of the signal is left at the far end, initializer by activation, in decades."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from propscope.plots.pages import COLUMN, columns, facts, lines, reasons
from propscope.plots.style import Header
from propscope.plots.verdicts import key_of, mark_of
from propscope.records import NetworkProfile, ProfileSet
from propscope.records.expectations import BAND, end_to_end, expected_factor, mean_deviation
from propscope.records.interval import geometric_interval
from propscope.records.network import Direction

Floats = NDArray[np.float64]

# Beyond it a network is as dead, or as broken, as it gets: more decades would only bleach the rest.
DECADES_AT_MOST = 8.0
State = Literal["seen", "vanished", "overflowed", "not seen"]

_TITLES: tuple[tuple[Direction, str], ...] = (
    ("forward", "Forward: rms(z), last layer over first"),
    ("backward", "Backward: rms(dL/dz), first layer over last"),
)
_READING = (
    "Decades (log10) gained or lost over the whole depth. 0, white: healthy. Minus, blue: vanishing; plus, red: "
    "exploding. Hatched once: exactly zero; crosswise: NaN or Inf."
)


_THEORY = " Second row: what infinite-width theory expects, where the networks lie outside its 95% band."


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A cell: `decades` (log10 of the geometric mean over seeds), half its 95% interval, and what is to be written.

    `decades` is -Inf when `vanished`, Inf when `overflowed`, NaN when `not seen`; `half` is NaN below two seeds.
    """

    state: State
    decades: float
    half: float
    text: str


@dataclass(frozen=True, slots=True)
class FactorMap:
    """The factors of one direction, `cells[row][column]`."""

    direction: Direction
    title: str
    cells: tuple[tuple[Factor, ...], ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """A picture of factors: a map for each direction that was seen, rows of initializers, columns of activations.

    `limit`: the decades at which the colours are clipped.
    """

    header: Header
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    maps: tuple[FactorMap, ...]
    limit: float


def prepare_overview(profiles: ProfileSet) -> Overview | None:
    """Return the end-to-end factors of every initializer and activation; None when no direction was seen."""
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
    finite = [abs(cell.decades) for found in maps for row in found.cells for cell in row if math.isfinite(cell.decades)]
    limit = min(DECADES_AT_MOST, max(1.0, math.ceil(max(finite, default=1.0))))
    reading = f"{_READING} Colours are clipped at ±{limit:.0f} decades."
    if any(len(group) > 1 for group in profiles.groups().values()):
        reading += " ±: 95% interval over seeds."
    if any(site.expected is not None for profile in profiles for site in profile.sites):
        reading += _THEORY
    reading += key_of(mark for row in marks for mark in row)
    header = Header("Signal from end to end", facts(profiles), "\n".join((reading, *reasons(profiles))))
    return Overview(header, tuple(by_line), names, tuple(maps), limit)


def cell_of(members: Iterable[NetworkProfile], direction: Direction) -> Factor:
    """Return the cell of one pair, one network a seed, with what theory expects where they lie outside its band."""
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
    """Return the cell of one pair from its factors, one a seed; a single vanished or overflowed seed decides it."""
    seen = [factor for factor in factors if not math.isnan(factor)]
    if not seen:
        return Factor("not seen", math.nan, math.nan, "–")
    overflowed, vanished = sum(map(math.isinf, seen)), seen.count(0.0)
    if overflowed:
        return Factor("overflowed", math.inf, math.nan, _count("NaN/Inf", overflowed, len(seen)))
    if vanished:
        return Factor("vanished", -math.inf, math.nan, _count("zero", vanished, len(seen)))
    interval = geometric_interval(seen)
    decades = math.log10(interval.center)
    half = math.log10(interval.high / interval.low) / 2 if interval.count > 1 else math.nan
    text = _decades(decades)
    return Factor("seen", decades, half, text if math.isnan(half) else f"{text} ± {half:.1f}")


def _decades(decades: float) -> str:
    # Rounded first: −0.0 would read as a loss.
    rounded = round(decades, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")


def _count(word: str, count: int, of: int) -> str:
    return word if count == of else f"{word} ({count} of {of})"
