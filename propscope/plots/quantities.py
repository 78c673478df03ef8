"""The quantities that are drawn as curves, one row of panels for each, and their averages over seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from propscope.plots.depth_series import DepthSeries, positions_of, site_series, weight_series
from propscope.plots.scales import Floats, Ints
from propscope.records import NetworkProfile
from propscope.records.expectations import BAND, seed_band
from propscope.records.figures import PARAMETER_FIELDS, SUMMARY_FIELDS, Field
from propscope.records.interval import arithmetic_interval, geometric_interval

_FIELDS = {field.name: field for field in (*PARAMETER_FIELDS, *SUMMARY_FIELDS)}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity along the depth: the field `reads` of the summaries (or the norms) of a `series`.

    `subject` names the tensor in words, `tensor` in mathtext. `travels` says in which direction the signal runs through
    the layers. A `signed` quantity is averaged as it is, every other one as its logarithm. Three fields of
    `Expected`, or of a parameter, hold theory's part ("" for none): `expects` the prediction, `scatter` the standard
    deviation over networks, and `drift` the mean over networks of the logarithm less that of the prediction.
    """

    subject: str
    tensor: str
    reads: Literal["std", "mean", "rms", "gradient_norm"]
    series: Callable[[NetworkProfile], DepthSeries]
    travels: Literal["up", "down"]
    signed: bool = False
    expects: str = ""
    scatter: str = ""
    drift: str = ""

    @property
    def name(self) -> str:
        """The name by which the quantity is chosen: forward_std, forward_mean, backward_rms or gradient_norm."""
        return self.reads if self.tensor == "W" else f"{'forward' if self.travels == 'up' else 'backward'}_{self.reads}"

    @property
    def field(self) -> Field:
        """The row of the quantity in the table of recorded quantities."""
        return _FIELDS[self.reads]

    @property
    def symbol(self) -> str:
        """The symbol of the quantity in mathtext, for its tensor."""
        return re.sub(r"\bx\b", lambda _: self.tensor, self.field.symbol)

    def values(self, series: DepthSeries) -> list[float]:
        """Return the value at each position of a series: NaN if not recorded, Inf if an element is not finite."""
        return [
            _value(None if summary is None or not summary.count else summary.nonfinite_count, read)
            for summary, read in zip(series.summaries, self._reads(series), strict=True)
        ]

    def expected(self, series: DepthSeries) -> list[float]:
        """Return theory's prediction at each position of a series, NaN where there is none."""
        return [_known(found, self.expects) for found in series.expected]

    def scatters(self, series: DepthSeries) -> list[float]:
        """Return the standard deviation over networks (of logarithms unless signed) by position, NaN if unknown."""
        return [_known(found, self.scatter) for found in series.expected]

    def drifts(self, series: DepthSeries) -> list[float]:
        """Return the mean logarithm over networks less that of the prediction at each position, NaN if unknown."""
        return [_known(found, self.drift) for found in series.expected]

    def band(self, expected: Floats, scatter: Floats, drift: Floats) -> tuple[Floats, Floats]:
        """Return the limits between which 95% of networks lie; all arrays have the same shape."""
        if self.signed:
            return expected - BAND * scatter, expected + BAND * scatter
        return seed_band(expected, scatter, drift)

    def drawable(self, values: Floats) -> NDArray[np.bool_]:
        """Return which values the axis can show: finite ones, and only positive ones if it is logarithmic."""
        return np.isfinite(values) & ((values > 0) | self.signed)

    def _reads(self, series: DepthSeries) -> Iterable[float]:
        if self.reads == "gradient_norm":
            return series.norms
        return [math.nan if summary is None else getattr(summary, self.reads) for summary in series.summaries]


def _known(found: object, name: str) -> float:
    value = getattr(found, name, None)
    return math.nan if value is None else float(value)


def _value(nonfinite: int | None, read: float) -> float:
    if nonfinite is None:
        return math.nan
    return math.inf if nonfinite else float(read)


QUANTITIES = (
    Quantity(
        "Forward: activation h",
        "h",
        "std",
        partial(site_series, role="activation", direction="forward"),
        travels="up",
        expects="forward_std",
        scatter="forward_std_log_std",
        drift="forward_log_drift",
    ),
    Quantity(
        "Forward: activation h",
        "h",
        "mean",
        partial(site_series, role="activation", direction="forward"),
        travels="up",
        signed=True,
        expects="forward_mean",
        scatter="forward_mean_std",
    ),
    Quantity(
        "Backward: dL/dz",
        r"\partial L/\partial z",
        "rms",
        partial(site_series, role="pre-activation", direction="backward"),
        travels="down",
        expects="backward_rms",
        scatter="backward_log_std",
        drift="backward_log_drift",
    ),
    Quantity(
        "Weights W",
        "W",
        "gradient_norm",
        partial(weight_series, of="gradient"),
        travels="down",
        expects="expected_gradient_norm",
        scatter="expected_gradient_log_std",
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One line: the average over `profiles` networks at each position, with its 95% confidence interval, shape (n,).

    `center` is 0 where one network's value is exactly zero, Inf where one is not finite and NaN where nothing was
    recorded; `vanished` and `nonfinite` count those networks. `low` and `high` are NaN below two networks.

    `expected` is theory's prediction, averaged in the same way; 95% of single networks lie between `expected_low` and
    `expected_high`. All three are NaN where theory has no prediction.
    """

    name: str
    positions: Ints
    center: Floats
    low: Floats
    high: Floats
    vanished: Ints
    nonfinite: Ints
    profiles: int
    expected: Floats
    expected_low: Floats
    expected_high: Floats


def curve_of(name: str, quantity: Quantity, series: Iterable[DepthSeries]) -> Curve:
    """Return the curve of one line from the series of its networks, one per seed."""
    members = list(series)
    positions = positions_of(members)
    at = {position: index for index, position in enumerate(positions)}

    def table(read: Callable[[DepthSeries], list[float]]) -> Floats:
        rows = np.full((len(members), len(positions)), np.nan)
        for row, one in zip(rows, members, strict=True):
            row[[at[position] for position in one.positions]] = read(one)
        return rows

    values = table(quantity.values)
    average = arithmetic_interval if quantity.signed else geometric_interval
    intervals = [average(column) for column in values.T.tolist()]
    nonfinite = np.isinf(values).sum(axis=0)
    expected = np.array([average(column).center for column in table(quantity.expected).T.tolist()], dtype=np.float64)
    scatter, drift = (
        np.array([arithmetic_interval(column).center for column in table(read).T.tolist()], dtype=np.float64)
        for read in (quantity.scatters, quantity.drifts)
    )
    expected_low, expected_high = quantity.band(expected, scatter, drift)
    center = np.array([interval.center for interval in intervals], dtype=np.float64)
    return Curve(
        name=name,
        positions=np.array(positions, dtype=np.int64),
        center=np.where(nonfinite > 0, np.inf, center),
        low=np.array([interval.low for interval in intervals], dtype=np.float64),
        high=np.array([interval.high for interval in intervals], dtype=np.float64),
        vanished=np.zeros(len(positions), np.int64) if quantity.signed else (values == 0).sum(axis=0),
        nonfinite=nonfinite,
        profiles=len(members),
        expected=expected,
        expected_low=expected_low,
        expected_high=expected_high,
    )
