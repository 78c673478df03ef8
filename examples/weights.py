"""Weights of a 784 x 256 layer by He, Glorot, LeCun, uniform, normal and VarianceScaling.

Each initializer has the standard deviation that its formula states. The tails differ: in 200,704 weights a normal
distribution reaches 4.5 standard deviations, Keras's truncated normal stops at 2.27 and a uniform at 1.73.
"""

import math

import numpy as np
from setting import picture

import propscope
from propscope.networks import parse_initializer
from propscope.plots import Header
from propscope.plots.style import wrap
from propscope.records.numerals import number
from propscope.report.table import Table

INPUTS, UNITS = 784, 256
plain = ["he_uniform", "he_normal", "xavier_uniform", "xavier_normal", "lecun_normal", "uniform", "normal:std=0.05"]
# Keras's he_normal, glorot_uniform (its default) and lecun_normal, then another, by scale (default 1), mode (fan_in)
# and distribution (truncated_normal).
scaled = [
    "variance_scaling:scale=2",
    "variance_scaling:mode=fan_avg:distribution=uniform",
    "variance_scaling",
    "variance_scaling:scale=2:mode=fan_out:distribution=normal",
]
profiles = propscope.profile_mlp(
    1, UNITS, input_size=INPUTS, initializer=plain + scaled, seeds=1, batch=2, histogram_limit=0
)
weights = {profile.labels["initializer"]: profile.parameters[0].value for profile in profiles}

rows = []
for name, weight in weights.items():
    promised = math.sqrt(parse_initializer(name).weight_variance(INPUTS, UNITS))
    rows.append((name, *(number(value) for value in (weight.mean, weight.std, promised, weight.min, weight.max))))
    # The std of n normal numbers has a relative error of 1 / sqrt(2 n), here 0.16%; their mean one of 1 / sqrt(n).
    assert abs(weight.std / promised - 1) < 0.01, name
    assert abs(weight.mean) < 5 * promised / math.sqrt(weight.count), name
    bounded = 1.732 if "uniform" in name else 2.274 if name in scaled[::2] else None
    reach = max(-weight.min, weight.max) / promised
    assert 4 < reach < 6 if bounded is None else abs(reach - bounded) < 0.01, (name, reach)
headings = ("initializer", "mean", "std", "std of the formula", "min", "max")
print(Table(f"weights, {INPUTS} x {UNITS}", headings, tuple(rows), left=frozenset(headings[:1])).to_text())
print()
reading = "All have the same horizontal axis, in 60 bins. The distribution gives the shape, the formula the width."
header = Header("Weights as drawn", f"{INPUTS} inputs, {UNITS} units, {INPUTS * UNITS} weights each", reading)
edges = np.linspace(-0.3, 0.3, 61)
with picture("weights", header, rows=3, columns=4, width=2.7, height=1.6) as panels:
    for axes, (name, weight) in zip(panels, weights.items(), strict=False):
        axes.stairs(weight.histogram.mass(edges) / weight.count / np.diff(edges), edges, fill=True, color="#3d8f6b")
        axes.set_title("\n".join(wrap(name, 28)), fontsize=10)
        axes.text(0.02, 0.97, f"std {number(weight.std)}", va="top", transform=axes.transAxes)
    for axes in panels[len(weights) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("density")
    panels[8].set_xlabel("weight")

# Glorot's standard deviation is He's times sqrt(784 / (784 + 256)).
assert math.isclose(
    weights["xavier_normal"].std / weights["he_normal"].std, math.sqrt(INPUTS / (INPUTS + UNITS)), rel_tol=0.01
)
