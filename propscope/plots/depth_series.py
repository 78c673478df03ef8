"""The summaries of a profile in order of depth, and the positions at which they stand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal, TypeVar

import numpy as np

from propscope.records import Expected, NetworkProfile, Parameter, TensorSummary
from propscope.records.network import Direction, Role

Position = TypeVar("Position")

LAYER = "layer"
POSITION = "position in execution order"
WEIGHT = "weight, in the order of the modules"


@dataclass(frozen=True, slots=True)
class DepthSeries:
    """Summaries along the depth at ascending `positions` from 1; `axis` says what the positions count.

    `subject` is the role that all sites share, "site" for mixed roles, "weight" for parameters. An entry of `summaries`
    is None where nothing was recorded. `norms` holds the L2 norm of each weight, or of its gradient; NaN for sites.
    `expected` holds the records with theory's predictions, None where theory has none.
    """

    axis: str
    subject: str
    positions: tuple[int, ...]
    summaries: tuple[TensorSummary | None, ...]
    norms: tuple[float, ...]
    expected: tuple[Expected | Parameter | None, ...]


def site_series(profile: NetworkProfile, role: Role, direction: Direction) -> DepthSeries:
    """Return what was recorded at the sites of a role, by layer.

    Sites without layers are numbered by their position in execution order. A network that has no layers and fewer than
    two sites of the role shows all its sites.
    """
    numbered = list(enumerate(profile.without_inputs.sites, start=1))
    chosen = [(number, site) for number, site in numbered if site.role == role]
    subject: str = role
    if len(chosen) < 2 and all(site.layer is None for _, site in chosen):
        chosen, subject = numbered, "site"
    summaries = tuple(getattr(site, direction) for _, site in chosen)
    norms = (math.nan,) * len(chosen)
    expected = tuple(site.expected for _, site in chosen)
    layers = [site.layer for _, site in chosen if site.layer is not None]
    if len(layers) == len(chosen) == len(set(layers)) and layers == sorted(layers):
        return DepthSeries(LAYER, subject, tuple(layers), summaries, norms, expected)
    return DepthSeries(POSITION, subject, tuple(number for number, _ in chosen), summaries, norms, expected)


def weight_series(profile: NetworkProfile, of: Literal["value", "gradient"]) -> DepthSeries:
    """Return the weights with at least two dimensions, in order; this leaves out biases and normalization scales."""
    chosen = [p for p in profile.parameters if p.name.endswith("weight") and len(p.shape) >= 2]
    positions = tuple(range(1, len(chosen) + 1))
    layers = {site.layer for site in profile.sites if site.layer is not None}
    norms = [p.value_norm if of == "value" else p.gradient_norm for p in chosen]
    return DepthSeries(
        axis=LAYER if layers == set(positions) else WEIGHT,
        subject="weight",
        positions=positions,
        summaries=tuple(getattr(p, of) for p in chosen),
        norms=tuple(math.nan if norm is None else norm for norm in norms),
        expected=tuple(chosen) if of == "gradient" else (None,) * len(chosen),
    )


def positions_of(series: Iterable[DepthSeries]) -> tuple[int, ...]:
    """Return every position that any of the series has, ascending."""
    return tuple(sorted({position for one in series for position in one.positions}))


def evenly(positions: Sequence[Position], at_most: int) -> tuple[Position, ...]:
    """Return at most `at_most` of the positions, evenly spread, with the first and the last."""
    if len(positions) <= at_most:
        return tuple(positions)
    return tuple(positions[round(at)] for at in np.linspace(0, len(positions) - 1, at_most))


def merged_at(series: Iterable[DepthSeries], position: int, *, histogram: bool = False) -> TensorSummary | None:
    """Return the merged summary of all series at a position, or None where nothing was recorded.

    With `histogram`, summaries without a histogram are left out: a sum with one of them has no histogram.
    """
    at = [one.summaries[one.positions.index(position)] for one in series if position in one.positions]
    summaries = [summary for summary in at if summary is not None and (summary.histogram is not None or not histogram)]
    return reduce(add, summaries) if summaries else None
