"""The depth scales of a network as measured: how many layers its signal and its gradient reach, without any theory."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from propscope.records.network import Floats, NetworkProfile

# Fewer layers than this tell no rate.
_LAYERS_AT_LEAST = 6
# Nearer to 1 than this, a cosine that was measured in float32 is rounding.
_RESOLVED = 1e-5
# Over the layers, u must change by so many times its scatter about the fit.
_CHANGE = 5.0


def log_chi(profile: NetworkProfile) -> float:
    """Return ln chi_1 as measured: ln of the factor per layer of the gradient's mean square, towards the input.

    Minus the slope, by least squares, of ln E[(dL/dz_l)^2] over the layers after the first quarter, where the variance
    of the pre-activations has settled: E[delta_l^2] = chi_1 E[delta_{l+1}^2] (Schoenholz et al. 2017, eq. 15). 0 at
    criticality; 1 / |ln chi_1| is the gradient's depth scale (eq. 16). NaN with fewer than three such layers, or where
    a gradient is 0 or not finite.
    """
    squares = profile.signal_rms("backward") ** 2
    settled = squares[squares.size // 4 :]
    if settled.size < 3 or not (np.isfinite(settled) & (settled > 0)).all():
        return math.nan
    return -float(np.polyfit(np.arange(settled.size), np.log(settled), 1)[0])


def correlation_depth(profiles: Iterable[NetworkProfile]) -> float:
    """Return xi_c as measured: the number of layers over which the correlation c of two inputs settles by a factor e.

    From the mean cosine of the inputs at each pre-activation, averaged over the profiles (seeds of one network), from
    the third layer on. A layer maps u = 1 - c to u' = g(u) u (Poole et al. 2016, eq. 5); g, a line, is fitted by
    least squares, and the map's slope chi_c at its stable fixed point gives xi_c = -1 / ln chi_c (Schoenholz et al.
    2017, eqs. 8 and 9). In the ordered phase, g(0) < 1, the point is u = 0 and chi_c = g(0); else g(u) = 1 there.

    In tanh networks of 50 layers and 256 units, with 3 seeds, it is within 7% of theory's in the ordered phase, for
    xi_c up to 6, and between 0.88 and 1.5 times theory's in the chaotic phase, for xi_c up to 12. Near criticality it
    may be twice as large. NaN where fewer than six layers tell, where the cosine hardly changes (from 0 to 0 without
    biases), where it was not recorded, and where no fixed point is stable.
    """
    rows = [[math.nan if site.mean_cosine is None else site.mean_cosine for site in p.signal_sites] for p in profiles]
    if not rows or len({len(row) for row in rows}) > 1:
        return math.nan
    gap = 1 - np.mean(np.array(rows, dtype=np.float64), axis=0)
    return _settling(gap[min(2, gap.size) :])


def _settling(gap: Floats) -> float:
    """Return the depth scale of a sequence u_l = 1 - c_l."""
    before, after = gap[:-1], gap[1:]
    usable = (before > _RESOLVED) & (after > _RESOLVED)
    before, after = before[usable], after[usable]
    if before.size < _LAYERS_AT_LEAST:
        return math.nan
    # A parabola follows g better, and follows the noise of finite width as well.
    (slope, start), _, rank, *_ = np.polyfit(before, after / before, 1, full=True)
    scatter = float(np.std(after - (slope * before + start) * before))
    if rank < 2 or abs(after[-1] - before[0]) < _CHANGE * scatter:
        return math.nan
    # Of u' = (start + slope u) u, at 0 or where the factor is 1.
    chi = start if start < 1 else 2 - start
    return math.nan if chi <= 0 else math.inf if chi >= 1 else -1 / math.log(chi)
