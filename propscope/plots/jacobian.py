"""The spectrum of the Jacobian by depth, a panel an initializer and activation: what is drawn, before drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from propscope.plots.depth_series import LAYER, POSITION
from propscope.plots.pages import COLUMN, columns, facts, lines
from propscope.plots.quantities import Floats, Ints
from propscope.plots.scales import Scale, log_scale
from propscope.plots.style import Header, percent, short
from propscope.records import LogHistogram, NetworkProfile, ProfileSet, Site, TensorSummary
from propscope.records.interval import geometric_interval

# Below it a direction is lost: in float32 it is rounding beside those at 1.
LOST = 1e-8
CELLS_A_DECADE = 3
OUTPUT = "out"
_READING = (
    "By what each direction of the input is multiplied on its way to a layer. Healthy: dark around 1, every direction "
    "gets through. Fanning out: a few directions drown the rest. All falling: vanishing; all rising: exploding. "
    "Lost: the share of directions that are zero or below the axis; full height is all. Figures: at the last layer."
)


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Singular values along the depth, at `positions`, shape (n,), which are written as `names`.

    `shares`: of all values at a position, over all samples and seeds, those in each cell of `Spectra.edges`, shape
    (len(edges) - 1, n); NaN where no histogram was recorded. `largest`, `rms`, `smallest`: geometric means over seeds,
    shape (n,); 0 where one is exactly zero, Inf where one is not finite, NaN where not known. `note`: the figures at
    the last position, in words.
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
    """A picture of spectra: `panels[row][column]`, rows of initializers, columns of activations; None where not seen.

    All panels share the `scale` and the `edges` of their cells, of which the first holds what is below the scale, zeros
    too, and the last what is above. `axis`: what the positions count.
    """

    header: Header
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    panels: tuple[tuple[Spectrum | None, ...], ...]
    scale: Scale
    edges: Floats
    axis: str


def prepare_jacobian(profiles: ProfileSet) -> Spectra | None:
    """Return the spectrum of every initializer and activation; None when no Jacobian was taken."""
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
    # What is lost is not to make the axis longer than the rest needs.
    return log_scale(np.where(values > 0, np.maximum(values, LOST), values), anchors=[1.0])


def _least(histogram: LogHistogram | None) -> float:
    """Return what all but 1% of the values that are not zero lie above; NaN without any."""
    if histogram is None:
        return math.nan
    positive = histogram.lower > 0
    return LogHistogram(histogram.bins[positive], histogram.counts[positive]).quantile(0.01)


def spectrum_of(profiles: Sequence[NetworkProfile], edges: Floats) -> Spectrum | None:
    """Return the spectrum of one pair from its networks, one a seed; None when none has a Jacobian."""
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
    """Return the axis, and the position and its name for each site: their layers, with the output behind the last.

    Where the sites have no layers, or several one, they stand in their order.
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
    """Return what stands at the end: the largest, the rms, and the share of zeros or else the condition number."""
    broken = sum(bool(summary.nonfinite_count) for summary in summaries)
    if broken:
        return "NaN/Inf" if broken == len(summaries) else f"NaN/Inf ({broken} of {len(summaries)} seeds)"
    parts = [f"largest {short(_average(summaries, 'max'))}", f"rms {short(_average(summaries, 'rms'))}"]
    together = reduce(add, summaries)
    known = [condition for condition in conditions if condition is not None]
    if together.zero_fraction:
        parts.append(f"{percent(together.zero_fraction)} zero")
    elif known:
        parts.append(f"cond. {short(geometric_interval(known).center)}")
    return " · ".join(parts)
