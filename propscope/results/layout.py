"""The tables that people read: one row a pair for a grid, one row a layer for a network."""

from __future__ import annotations

import math
from collections.abc import Iterable

from propscope.results.grid import PairSummary, summarize_pairs
from propscope.results.interval import Interval
from propscope.results.network import NetworkProfile, Site
from propscope.results.profile_set import ProfileSet
from propscope.results.summary import TensorSummary
from propscope.results.table import Table, number, percent

_GRID_NOTES = (
    "forward: rms(z_last) / rms(z_first), z the pre-activations; backward: the same for dL/dz, last to first.",
    "a layer: the factor's root; over depth: geometric mean over seeds with its 95% interval. 1 keeps the signal,",
    "below 1 it vanishes, above 1 it explodes. flat: share of z where the nonlinearity's slope is under 7% of its",
    "largest (saturated, or inactive for a rectifier; half is normal for relu). dead: units flat on every sample.",
    "cosine: mean over pairs of samples at the last layer; near 1, the inputs are no longer told apart.",
)


def grid_table(profiles: ProfileSet, *, intervals: bool = True) -> Table:
    """Return the table with one row for each pair of initializer and activation (and each other label but the seed).

    `intervals`: with the 95% interval over seeds behind each factor over the depth.
    """
    pairs = summarize_pairs(profiles)
    axes = profiles.axes
    # A label that some profiles lack tells them from the others as well as a different value.
    varied = [name for name in axes if len({profile.labels.get(name, "") for profile in profiles}) > 1]
    leading = tuple(name for name in ("activation", "initializer") if name in varied)
    named = leading + tuple(name for name in varied if name not in (*leading, "seed"))
    fixed = [f"{name} {axes[name][0]}" for name in axes if name not in (*named, "seed")]
    seeds = {pair.seeds for pair in pairs}
    count = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(next(iter(seeds), 0))
    title = ", ".join([f"{len(pairs)} pair{'s' * (len(pairs) != 1)}", *fixed, f"{count} seed{'s' * (count != '1')}"])
    figures = (
        "forward\na layer",
        "forward\nover depth",
        "backward\na layer",
        "backward\nover depth",
        "std first\nactivation",
        "std last\nactivation",
        "flat",
        "dead",
        "cosine",
        "non-\nfinite",
    )
    rows = tuple(
        tuple(str(pair.labels.get(name, "")) for name in named) + _pair_cells(pair, intervals) for pair in pairs
    )
    return Table(title, named + figures, rows, left=frozenset(named), notes=_GRID_NOTES)


def _pair_cells(pair: PairSummary, intervals: bool) -> tuple[str, ...]:
    return (
        number(pair.forward_gain.center),
        _interval(pair.forward_factor, intervals),
        number(pair.backward_gain.center),
        _interval(pair.backward_factor, intervals),
        number(pair.first_std),
        number(pair.last_std),
        percent(pair.flat_fraction),
        percent(pair.dead_fraction),
        number(pair.mean_cosine, 2),
        str(pair.nonfinite_count),
    )


def _interval(interval: Interval, limits: bool) -> str:
    if not limits or math.isnan(interval.low) or interval.low == interval.high:
        return number(interval.center)
    return f"{number(interval.center)} [{number(interval.low, 2)}, {number(interval.high, 2)}]"


def profile_table(profile: NetworkProfile) -> Table:
    """Return the table with one row for each site of a network, in execution order."""
    labels = ", ".join(f"{name} {value}" for name, value in profile.labels.items())
    title = f"{len(profile.sites)} sites, {len(profile.parameters)} parameters"
    columns = (
        "layer",
        "site",
        "kind",
        "role",
        "forward\nmean",
        "forward\nstd",
        "forward\nrms",
        "gain",
        "backward\nrms",
        "backward\ngain",
        "flat",
        "dead",
        "equal",
        "cosine",
        "rank",
        "non-\nfinite",
    )
    gains = _gains(profile)
    rows = tuple(_site_cells(site, *gains.get(id(site), (None, None))) for site in profile.sites)
    notes = (
        "gain: forward rms over that of the layer before; backward gain: backward rms over that of the layer after;",
        "both between pre-activations. dead, equal: units flat on every sample, units equal to another.",
    )
    return Table(": ".join(filter(None, [labels, title])), columns, rows, frozenset(columns[1:4]), notes)


def _gains(profile: NetworkProfile) -> dict[int, tuple[float | None, float | None]]:
    sites = profile.signal_sites
    forward: Iterable[float | None] = [None, *profile.forward_gains.tolist()]
    backward: Iterable[float | None] = [*profile.backward_gains.tolist(), None]
    # Without any site there is one None too many.
    return {id(site): pair for site, pair in zip(sites, zip(forward, backward, strict=True), strict=False)}


def _site_cells(site: Site, gain: float | None, backward_gain: float | None) -> tuple[str, ...]:
    forward, backward = site.forward or TensorSummary.empty(), site.backward or TensorSummary.empty()
    return (
        "" if site.layer is None else str(site.layer),
        site.name or "(model)",
        site.kind,
        site.role,
        number(forward.mean),
        number(forward.std),
        number(forward.rms),
        "" if gain is None else number(gain),
        number(backward.rms),
        "" if backward_gain is None else number(backward_gain),
        "" if site.flat_fraction is None else percent(site.flat_fraction),
        "" if site.dead_units is None else f"{site.dead_units}/{site.units}",
        "" if not site.symmetric_units else f"{site.symmetric_units}/{site.units}",
        number(site.mean_cosine, 2),
        number(site.effective_rank),
        str(forward.nonfinite_count + backward.nonfinite_count),
    )
