"""The figures that a site records of its Jacobian's singular values, from the values or from their density."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.records.histogram import BIN_COUNT, NAN, LogHistogram, bin_codes
from propscope.records.summary import TensorSummary
from propscope.spectra.iterative import Density

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The figures of one site: `summary`, `condition`, `square_variance` as `Site` has them, and `notes` on them.

    `mean_square_error`: relative standard error of the mean square, 0 if exact, NaN if only one vector was used.
    """

    summary: TensorSummary
    condition: float | None
    square_variance: float | None
    notes: tuple[str, ...]
    mean_square_error: float = 0.0


def of_values(values: Floats, *, eps: float) -> Spectrum:
    """Return the figures of singular values, descending, shape (samples, values); a row of NaN was not finite."""
    finite = np.asarray(np.isfinite(values).all(axis=1))
    largest = values[:, :1]
    with np.errstate(invalid="ignore", divide="ignore"):
        resolved = np.where(values <= eps * largest, 0.0, values)
        shares = resolved[finite] / largest[finite]
        conditions = np.where(resolved[finite, -1] > 0, 1 / shares[:, -1], np.inf)
    return Spectrum(
        summary=TensorSummary.of(resolved),
        condition=float(np.exp(np.log(conditions).mean())) if conditions.size else None,
        square_variance=_relative_variance((shares**2).mean(axis=1), (shares**4).mean(axis=1)),
        notes=_notes(finite),
    )


def of_density(density: Density, *, eps: float) -> Spectrum:
    """Return the figures of a density: the largest value, estimates of the rest, no smallest value and no condition."""
    finite, probes = density.finite, density.nodes.shape[1]
    nodes, weights = density.nodes[finite], density.weights[finite]
    largest = nodes.max(axis=(1, 2), initial=0.0, keepdims=True)
    nodes = np.where(nodes <= eps * largest, 0.0, nodes)
    # Relative to the largest of each sample, so that no power of it overflows.
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = nodes / largest
        squares, fourths = ((weights * shares**power).sum(axis=2) for power in (2, 4))
        spread = squares.std(axis=1, ddof=1) / math.sqrt(probes) if probes > 1 else np.full(len(squares), np.nan)
        scale = largest.max(initial=0.0) or 1.0
        each = (weights * nodes / scale).sum(axis=2)
        second = (weights * (nodes / scale) ** 2).sum(axis=2)
        errors = spread * (largest[:, 0, 0] / scale) ** 2
        mean, square = (float(part.mean()) if part.size else math.nan for part in (each, second))
        error = float(np.sqrt((errors**2).sum()) / second.mean(axis=1).sum()) if finite.any() and square else math.nan
    values = density.values
    missing = int((~finite).sum()) * values
    weight = weights / probes * values
    zero = float(weight[nodes == 0].sum())
    unsure = finite.any() and not density.converged
    notes = ("the largest singular value did not converge: it is a lower bound",) if unsure else ()
    return Spectrum(
        summary=TensorSummary(
            count=finite.size * values,
            mean=mean * float(scale),
            std=math.sqrt(max(square - mean**2, 0.0)) * float(scale) if finite.any() else math.nan,
            min=math.nan,
            max=density.largest,
            zero_fraction=zero / (finite.size * values),
            nan_count=missing,
            histogram=_histogram(nodes, weight, missing),
        ),
        condition=None,
        square_variance=_relative_variance(squares.mean(axis=1), fourths.mean(axis=1)),
        notes=(*notes, *_notes(finite)),
        mean_square_error=error,
    )


def _relative_variance(squares: Floats, fourths: Floats) -> float | None:
    """Return E[s^4] / E[s^2]^2 - 1, averaged over the samples whose Jacobian is not 0; None without one."""
    nonzero = squares > 0
    return float((fourths[nonzero] / squares[nonzero] ** 2).mean() - 1) if nonzero.any() else None


def _notes(finite: NDArray[np.bool_]) -> tuple[str, ...]:
    broken = int((~finite).sum())
    return (f"the Jacobian of {broken} of {finite.size} samples is not finite",) if broken else ()


def _histogram(nodes: Floats, weight: Floats, missing: int) -> LogHistogram:
    """Return a histogram of the weights, rounded to whole numbers with the same sum by the largest remainders."""
    dense = np.bincount(bin_codes(nodes).ravel(), weights=weight.ravel(), minlength=BIN_COUNT)
    counts = np.floor(dense)
    lacking = round(dense.sum() - counts.sum())
    counts[np.argsort(counts - dense, kind="stable")[:lacking]] += 1
    counts[NAN] += missing
    return LogHistogram.from_dense(counts)
