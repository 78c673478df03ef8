"""The law of depth over width: the logarithm of a ReLU network's squared norm scatters over seeds by 5 L / n.

Hanin, Nica 2020: with He's weights, ln |h_L|^2 of one input has the variance 5 L / n after L layers of n units, and so
has ln of the squared gradient. It is the ratio that counts: 16 layers of 64 units scatter as 8 layers of 32 do.
"""

import math

import numpy as np
from setting import QUICK, picture

import propscope
from propscope.plots import Header, line_style
from propscope.records.numerals import number
from propscope.report.table import Table

SEEDS = 100 if QUICK else 300
shapes = [(4, 16), (8, 32), (8, 64)] if QUICK else [(d, n) for n in (32, 64) for d in (4, 8, 16)]


def squares(profile, direction):
    """Mean squares at the last activation forward, and of the gradient at the first one backward."""
    site = profile.with_role("activation")[-1 if direction == "forward" else 0]
    return getattr(site, direction).rms ** 2


found = {}
for depth, width in shapes:
    # One input: the mean square of a batch averages what its inputs do not share, and scatters less.
    profiles = propscope.profile_mlp(depth, width, initializer="he_normal", seeds=SEEDS, batch=1, histogram_limit=1)
    for direction in ("forward", "backward"):
        logs = [math.log(squares(profile, direction)) for profile in profiles]
        found[depth, width, direction] = float(np.var(logs, ddof=1))

rows = []
for depth, width in shapes:
    law = 5 * depth / width
    forward, backward = (found[depth, width, direction] for direction in ("forward", "backward"))
    cells = (number(law), number(forward), number(backward), number(forward / law), number(backward / law))
    rows.append((str(depth), str(width), *cells))
headings = ("depth", "width", "5 L / n", "forward", "backward", "forward\n/ law", "backward\n/ law")
print(Table(f"variance of ln of the squared norm over {SEEDS} seeds", headings, tuple(rows)).to_text())

reading = "Each point is the variance over seeds of ln of a squared norm, of one shape. Grey line: 5 L / n."
header = Header("Depth over width", f"ReLU, He, one input, {SEEDS} seeds", reading)
with picture("depth-width", header) as (axes,):
    for index, direction in enumerate(("forward", "backward")):
        style = {**line_style(index).keywords, "linestyle": ""}
        axes.plot([d / n for d, n in shapes], [found[d, n, direction] for d, n in shapes], label=direction, **style)
    most = max(d / n for d, n in shapes)
    axes.plot([0, most], [0, 5 * most], color="#6b6b6b", zorder=1)
    axes.set_xlabel("L / n")
    axes.set_ylabel("variance of ln |·|²")
    axes.legend()

# A variance over N seeds has a relative standard deviation of sqrt(2 / N); the law is of first order in L / n.
tolerance = 4 * math.sqrt(2 / SEEDS) + max(d / n for d, n in shapes) / 2
for (depth, width, direction), variance in found.items():
    ratio = variance / (5 * depth / width)
    assert abs(ratio - 1) < tolerance, f"{direction} of {depth} layers of {width}: {ratio:.2f} of 5 L / n"
# All together the constant is 5.
constants = [variance / (depth / width) for (depth, width, _), variance in found.items()]
assert abs(float(np.mean(constants)) - 5) < 0.9
