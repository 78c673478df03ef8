"""Curves along the depth, a line an initializer, a panel a quantity and activation: what is drawn, before drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from propscope.plots.depth_series import Track
from propscope.plots.end_labels import EndLabel, Side
from propscope.plots.pages import COLUMN, columns, facts, lines, reasons
from propscope.plots.quantities import QUANTITIES, Curve, Floats, Ints, Quantity, curve_of
from propscope.plots.scales import Scale, log_scale, signed_scale
from propscope.plots.style import Header, short
from propscope.plots.verdicts import key_of, mark_of
from propscope.records import ProfileSet

# Curves nearer to each other than this share of the panel's height, everywhere, cannot be told apart.
_COINCIDE = 0.02
# The hatched bands of more lines than this would cover each other.
BANDS_AT_MOST = 6
_READING = (
    "Flat is healthy. Falling along the signal's way (arrow under each panel): vanishing; rising: exploding. "
    "▼ at the bottom edge: exactly zero; ▲ at the top edge: NaN or Inf."
)
_BANDS = " Bands in a curve's colour: 95% interval over seeds."
_THEORY = " Thin dark dashes: infinite-width theory."
_STRAYING = " Grey, dotted edges: where theory expects 95% of single networks of this width."
_BEYOND = " ↑\N{NO-BREAK SPACE}↓:\N{NO-BREAK SPACE}where a curve ends beyond its axis."


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: the curves of a quantity and an activation (`column`), their scale, and their labels at a side.

    `axis`: what the positions count. `subject`: the role of the sites, or "weight".
    """

    quantity: Quantity
    column: str
    axis: str
    subject: str
    curves: tuple[Curve, ...]
    scale: Scale
    side: Side
    labels: tuple[EndLabel, ...]

    @property
    def straying(self) -> bool:
        """Whether the band is drawn in which theory expects single networks: there is one, and few lines."""
        return len(self.curves) <= BANDS_AT_MOST and any(np.isfinite(curve.expected_low).any() for curve in self.curves)


@dataclass(frozen=True, slots=True)
class Curves:
    """A picture of curves: `panels[row][column]`, a row a quantity, a column an activation; None where nothing is seen.

    `names`: all lines, in the order that gives them their styles.
    """

    header: Header
    names: tuple[str, ...]
    panels: tuple[tuple[Panel | None, ...], ...]


# By activation and line.
_Marks = Mapping[tuple[str, str], str]
_Drawn = dict[str, tuple[tuple[Curve, ...], Track | None]]


def prepare_curves(profiles: ProfileSet, *, quantities: Sequence[Quantity] = QUANTITIES) -> Curves | None:
    """Return the curves of every one of the quantities that was recorded; None when none was."""
    by_column = columns(profiles)
    marks = {
        (column, name): mark_of(group)
        for column, members in by_column.items()
        for name, group in lines(profiles, columns=(COLUMN,), members=members).items()
    }
    rows = []
    for quantity in quantities:
        drawn = {column: _curves(quantity, members, profiles) for column, members in by_column.items()}
        if any(curves for curves, _ in drawn.values()):
            rows.append(_row(quantity, drawn, profiles, marks))
    if not rows:
        return None
    groups = lines(profiles, columns=(COLUMN,))
    panels = [panel for row in rows for panel in row if panel is not None]
    several = any(curve.profiles > 1 for panel in panels for curve in panel.curves)
    beyond = any(panel.scale.clipped for panel in panels)
    theory = any(np.isfinite(curve.expected).any() for panel in panels for curve in panel.curves)
    straying = any(panel.straying for panel in panels)
    reading = _READING + _BANDS * several + _THEORY * theory + _STRAYING * straying + _BEYOND * beyond
    reading += key_of(marks.values())
    header = Header("Signal along the depth", facts(profiles), "\n".join((reading, *reasons(profiles))))
    return Curves(header, tuple(groups), tuple(rows))


def _curves(quantity: Quantity, members: ProfileSet, everything: ProfileSet) -> tuple[tuple[Curve, ...], Track | None]:
    curves, first = [], None
    for name, group in lines(everything, columns=(COLUMN,), members=members).items():
        tracks = [quantity.track(profile) for profile in group]
        curve = curve_of(name, quantity, tracks)
        if not np.isnan(curve.center).all():
            curves.append(curve)
            first = first or tracks[0]
    return tuple(curves), first


def _row(quantity: Quantity, drawn: _Drawn, profiles: ProfileSet, marks: _Marks) -> tuple[Panel | None, ...]:
    every = [curve for curves, _ in drawn.values() for curve in curves]
    centers = [curve.center for curve in every]
    expected = [_beside(quantity, curve, curve.expected) for curve in every]
    start = 0 if quantity.travels == "up" else -1
    if quantity.signed:
        scale = signed_scale([*centers, *expected], limits=_limits(quantity, every), spread=_spread(quantity, profiles))
    else:
        anchors = [center[start] for center in centers]
        scale = log_scale(np.concatenate([*centers, *expected]), limits=_limits(quantity, every), anchors=anchors)
    side = _side(quantity, scale, every)
    panels: list[Panel | None] = []
    for column, (curves, track) in drawn.items():
        if track is None:
            panels.append(None)
            continue
        own = {curve.name: marks.get((column, curve.name), "") for curve in curves}
        labels = _labels(quantity, scale, side, curves, own)
        panels.append(
            Panel(quantity, column if len(drawn) > 1 else "", track.axis, track.subject, curves, scale, side, labels)
        )
    return tuple(panels)


def _limits(quantity: Quantity, curves: list[Curve]) -> Floats:
    limits = [limit for curve in curves for limit in (curve.low, curve.high)]
    if len(curves) <= BANDS_AT_MOST:
        limits += [
            _beside(quantity, curve, edge) for curve in curves for edge in (curve.expected_low, curve.expected_high)
        ]
    return np.concatenate(limits)


def _beside(quantity: Quantity, curve: Curve, prediction: Floats) -> Floats:
    """Return a prediction where there is a curve to hold it against: only there the axis must show it."""
    return np.where(quantity.drawable(curve.center), prediction, np.nan)


def _spread(quantity: Quantity, profiles: ProfileSet) -> float:
    first = [summary.std for p in profiles for summary in quantity.track(p).summaries[:1] if summary is not None]
    finite = [std for std in first if np.isfinite(std)]
    return float(np.median(finite)) if finite else 0.0


def _side(quantity: Quantity, scale: Scale, curves: list[Curve]) -> Side:
    """Return the side where the signal ends, or the other when the curves are much further apart there."""
    ends = np.array([scale.fraction(curve.center[[0, -1]]) for curve in curves])
    left, right = (0.0, 0.0) if np.isnan(ends).any() else ends.std(axis=0)
    if quantity.travels == "up":
        return "left" if left > 1.5 * right else "right"
    return "right" if right > 1.5 * left else "left"


def _labels(
    quantity: Quantity, scale: Scale, side: Side, curves: tuple[Curve, ...], marks: Mapping[str, str]
) -> tuple[EndLabel, ...]:
    groups: list[tuple[Curve, Floats, str, list[str]]] = []
    for curve in curves:
        heights, note = scale.fraction(curve.center), note_on(quantity, scale, curve)
        for first, at, its_note, names in groups:
            if note == its_note and np.array_equal(curve.positions, first.positions) and _near(heights, at):
                names.append(curve.name)
                break
        else:
            groups.append((curve, heights, note, [curve.name]))
    labels = []
    for _, heights, note, names in groups:
        seen = heights[~np.isnan(heights)]
        end = float(seen[0] if side == "left" else seen[-1])
        labels.append(EndLabel(tuple(names), note, end, tuple(marks[name] for name in names)))
    return tuple(labels)


def _near(heights: Floats, others: Floats) -> bool:
    return bool(np.allclose(heights, others, rtol=0, atol=_COINCIDE, equal_nan=True))


def note_on(quantity: Quantity, scale: Scale, curve: Curve) -> str:
    """Return what the axis cannot show of a curve: from where it is zero or not finite, or its end beyond the axis."""
    notes = [
        _where("zero", curve.vanished, curve),
        _where("NaN/Inf", curve.nonfinite, curve),
    ]
    shown = curve.center[np.isfinite(curve.center) & ((curve.center != 0) | quantity.signed)]
    if shown.size and not notes[0] and not notes[1]:
        end = float(shown[-1 if quantity.travels == "up" else 0])
        if end > scale.high:
            notes.append(f"↑\N{NO-BREAK SPACE}{short(end)}")
        elif end < scale.low:
            notes.append(f"↓\N{NO-BREAK SPACE}{short(end)}")
    return ", ".join(filter(None, notes))


def _where(what: str, counts: Ints, curve: Curve) -> str:
    at = curve.positions[counts > 0]
    if not at.size:
        return ""
    few = int(counts.max())
    some = f" ({few} of {curve.profiles} seeds)" if few < curve.profiles else ""
    if at.size == curve.positions.size:
        return f"{what} throughout{some}"
    if np.array_equal(at, curve.positions[-at.size :]) or np.array_equal(at, curve.positions[: at.size]):
        span = f"{at[0]}–{at[-1]}" if at.size > 1 else f"{at[0]}"
        return f"{what} at {span}{some}"
    return f"{what} at {at.size} of {curve.positions.size}{some}"
