"""Residual ReLU networks grow: each sum doubles the mean square, and branches scaled by 1/sqrt(L) bound it by e.

With He's weights a branch has the mean square of its stream, so a sum multiplies it by 1 + s^2 for the factor s on the
branch: by 2^(L-1) for s = 1, and by (1 + 1/L)^(L-1) < e for s = 1/sqrt(L) (De, Smith 2020; Hayou et al. 2021).
"""

import math

from setting import QUICK, SEEDS, picture

import propscope
from propscope.plots import Header, line_style
from propscope.records.interval import geometric_interval
from propscope.records.numerals import number
from propscope.report.table import Table

depths = [4, 8, 16] if QUICK else [4, 8, 16, 32, 64]
factors = [1.0, "1/sqrt(L)", 0.1]
profiles = propscope.profile_mlp(depths, 256, residual=factors, seeds=SEEDS, batch=32, histogram_limit=1)


def theory(factor, depth):
    """The factor of the mean square over all sums."""
    s = 1 / math.sqrt(depth) if factor == "1/sqrt(L)" else float(factor)
    return (1 + s * s) ** (depth - 1)


def stream(profile, direction):
    """The factor of the stream's mean square from its start to its end, or back."""
    sites = profile.signal_sites
    first, last = (getattr(site, direction).rms ** 2 for site in (sites[0], sites[-1]))
    return last / first if direction == "forward" else first / last


measured = {
    (factor, depth, direction): geometric_interval(
        stream(profile, direction) for profile in profiles.subset(residual=factor, depth=depth)
    ).center
    for factor in factors
    for depth in depths
    for direction in ("forward", "backward")
}
rows = [
    (str(factor), str(depth), *(number(value) for value in (theory(factor, depth), *values)))
    for factor in factors
    for depth in depths
    for values in [[measured[factor, depth, direction] for direction in ("forward", "backward")]]
]
print(Table("growth of the mean square", ("factor", "depth", "theory", "forward", "backward"), tuple(rows)).to_text())

reading = "The mean square of the stream, end over start. Dashes: theory, (1 + s²)^(L−1)."
header = Header("Growth of residual networks", f"ReLU, He, 256 units, {SEEDS} seeds", reading)
with picture("residual-growth", header) as (axes,):
    for index, factor in enumerate(factors):
        style = line_style(index)
        axes.plot(
            depths, [measured[factor, depth, "forward"] for depth in depths], label=f"s = {factor}", **style.keywords
        )
        axes.plot(
            depths, [theory(factor, depth) for depth in depths], color="#222222", linestyle=(0, (4, 4)), linewidth=0.9
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(depths, map(str, depths))
    axes.minorticks_off()
    axes.set_xlabel("depth (layers)")
    axes.set_ylabel("growth of the mean square")
    axes.legend()

for (factor, depth, direction), value in measured.items():
    # ln of the mean square scatters over seeds, and drifts, by the order of depth / width.
    near = abs(math.log(value / theory(factor, depth))) < 0.1 + 2 * depth / 256
    assert near, f"{direction}, s = {factor}, {depth} layers: {value:.3g}"
    if factor == "1/sqrt(L)":
        assert value < 1.25 * math.e
assert measured[1.0, depths[-1], "forward"] > 2 ** (depths[-1] - 2)
