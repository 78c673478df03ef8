"""How deep tanh networks train on digits: to about six correlation depths xi_c of the phase diagram.

As Schoenholz et al. 2017, figure 5, small: SGD, one bias variance, accuracy on the training rows over depth and weight
variance. Near the critical line, where xi_c diverges, the deepest networks train.
"""

import math

import numpy as np
from matplotlib.colors import Normalize
from setting import QUICK, WORKERS, picture

import propscope
from propscope.plots import Header
from propscope.records.numerals import number
from propscope.report.table import Table
from propscope.theory import MeanField, critical_line

BIAS = 0.05
weights = [0.6, 1.0, 1.76] if QUICK else [0.6, 0.8, 1.0, 1.3, 1.76, 2.5, 4.0]
depths = [5, 30] if QUICK else [5, 10, 14, 20, 28, 40, 60]
runs = propscope.train_mlp(
    depths,
    48,
    activation="tanh",
    initializer="normal",
    weight_variance=weights,
    bias_variance=BIAS,
    data="digits",
    rows=600 if QUICK else 800,
    scale="zscore",
    optimizer="sgd",
    learning_rate=0.05,
    epochs=15,
    seeds=1 if QUICK else 2,
    profile_every=0,
    workers=WORKERS,
)
reached = {
    (weight, depth): float(
        np.mean([run.train_accuracy[-1] for run in runs.subset(weight_variance=weight, depth=depth)])
    )
    for weight in weights
    for depth in depths
}
scales = {w: MeanField("tanh", weight_variance=w, bias_variance=BIAS).depth_scales().correlation for w in weights}
rows = [
    (f"{weight:g}", number(6 * scales[weight]), *(f"{reached[weight, depth]:.0%}" for depth in depths))
    for weight in weights
]
print(Table("accuracy on the training rows", ("weight variance", "6 xi_c", *map(str, depths)), tuple(rows)).to_text())

reading = (
    "Colour: accuracy on the training rows after 15 epochs. White line: 6 ξ_c, as theory predicts. Below it networks "
    "train, above it the depth loses all that tells the inputs apart."
)
header = Header("Trainable depth", f"tanh, digits, 48 units, SGD, bias variance {BIAS:g}", reading)
with picture("trainable-depth", header, width=6.0, height=3.6) as (axes,):
    table = np.array([[reached[weight, depth] for weight in weights] for depth in depths])
    axes.pcolormesh(weights, depths, table, shading="nearest", cmap="viridis", norm=Normalize(0, 1))
    fine = np.linspace(weights[0], weights[-1], 300)
    line = [6 * MeanField("tanh", weight_variance=w, bias_variance=BIAS).depth_scales().correlation for w in fine]
    axes.plot(fine, line, color="white", linewidth=2)
    axes.set_yscale("log")
    axes.set_ylim(depths[0] / 1.2, depths[-1] * 1.2)
    axes.set_yticks(depths, map(str, depths))
    axes.minorticks_off()
    axes.set_xlabel("weight variance")
    axes.set_ylabel("depth (layers)")
    axes.figure.colorbar(axes.collections[0], ax=axes, label="accuracy")

# 10% is chance. Up to 4 xi_c every network learns, and from 12 xi_c on none does. Beyond 30 layers, 15 epochs and 48
# units are not enough either.
for (weight, depth), accuracy in reached.items():
    if depth <= min(4 * scales[weight], 30):
        assert accuracy > (0.8 if depth <= 20 else 0.5), f"{depth} layers at {weight:g} reached only {accuracy:.0%}"
    if depth >= 12 * scales[weight]:
        assert accuracy < 0.35, f"{depth} layers at {weight:g} reached {accuracy:.0%}"
# The critical weight variance for this bias variance is 1.76, and there the deepest networks learn.
q = np.linspace(0.01, 2, 4000)
critical = critical_line("tanh", q)
at = int(np.argmin(np.abs(critical.bias_variance - BIAS)))
assert math.isclose(critical.weight_variance[at], 1.76, rel_tol=0.01)
deepest = {weight: max([depth for depth in depths if reached[weight, depth] > 0.5], default=0) for weight in weights}
assert deepest[1.76] == max(deepest.values()) >= 30
