"""Weights of a 784 x 256 layer: He, Glorot, LeCun, uniform, normal, and VarianceScaling with its three parameters.

Each initializer's standard deviation is the one that its formula promises; what differs is the shape of the tails: a
normal reaches 4.5 standard deviations in 200,704 weights, Keras's truncated normal stops at 2.27, a uniform at 1.73.
"""

import math

from setting import OUTPUTS

import propscope
from propscope.networks import parse_initializer
from propscope.plots import draw_all
from propscope.results.table import Table, number

INPUTS, UNITS = 784, 256
plain = ["he_uniform", "he_normal", "xavier_uniform", "xavier_normal", "lecun_normal", "uniform", "normal:std=0.05"]
# Keras's he_normal, glorot_uniform (its default), lecun_normal, and one of one's own, by scale (1 unless given), mode
# (fan_in) and distribution (truncated_normal).
scaled = [
    "variance_scaling:scale=2",
    "variance_scaling:mode=fan_avg:distribution=uniform",
    "variance_scaling",
    "variance_scaling:scale=2:mode=fan_out:distribution=untruncated_normal",
]
profiles = propscope.profile_mlp(1, UNITS, input_size=INPUTS, initializer=plain + scaled, seeds=1, batch=2)
weights = {profile.labels["initializer"]: profile.parameters[0].value for profile in profiles}

rows = []
for name, weight in weights.items():
    promised = math.sqrt(parse_initializer(name).weight_variance(INPUTS, UNITS))
    rows.append((name, *(number(value) for value in (weight.mean, weight.std, promised, weight.min, weight.max))))
    # The deviation of n normal numbers is known to 1 / sqrt(2 n), here 0.16%; their mean to 1 / sqrt(n).
    assert abs(weight.std / promised - 1) < 0.01, name
    assert abs(weight.mean) < 5 * promised / math.sqrt(weight.count), name
    bounded = 1.732 if "uniform" in name else 2.274 if name in scaled[::2] else None
    reach = max(-weight.min, weight.max) / promised
    assert 4 < reach < 6 if bounded is None else abs(reach - bounded) < 0.01, (name, reach)
headings = ("initializer", "mean", "std", "std promised", "min", "max")
print(Table(f"weights, {INPUTS} x {UNITS}", headings, tuple(rows), left=frozenset(headings[:1])).to_text())
print()
for path in draw_all(profiles, OUTPUTS, stem="example", only=["weights"], overwrite=True):
    print(f"picture {path}")

# One formula has four names: Glorot is He's deviation times sqrt(784 / (784 + 256)).
assert math.isclose(
    weights["xavier_normal"].std / weights["he_normal"].std, math.sqrt(INPUTS / (INPUTS + UNITS)), rel_tol=0.01
)
