"""Test what He and Xavier assume: E[y^2]/Var[z] and E[wx] = E[w]E[x], for 3 to 3,000 inputs.

He assumes that ReLU passes half of Var[z] on, Xavier that tanh passes all of it on. First this is measured for single
products z = wx with new weights in each draw: ReLU passes half on if x is centred or there are many weights. Then it is
measured for a layer of 256 units: half for three raw inputs too, since the number of weights counts (768 here), not
the number of inputs. tanh passes on as much as z is small, with raw inputs, centred ones, 3 or 3,000 of them.
"""

from statistics import mean, stdev

import torch
from setting import QUICK, SEEDS, picture

import propscope
from propscope.networks import make_input, seeded_generator
from propscope.plots import Header
from propscope.records.numerals import number
from propscope.report.table import Table

FEW, MANY, MOST = 3, 450, 3000
DRAWS = 10 if QUICK else 100
# Of so many weights, few draws tell.
DRAWS_OF_MOST = 2 if QUICK else 10


def products(function, inputs, *, scale="none", centred=False, factor=1.0, weight_std=1.0):
    """Return E[y^2]/Var[z], Var[y]/Var[z] and E[wx] - E[w]E[x] for each draw of weights, over 1000 rows of input."""
    ratios, variances, apart = [], [], []
    for seed in range(DRAWS_OF_MOST if inputs == MOST else DRAWS):
        x = make_input("mixed", batch=1000, seed=seed, features=inputs, scale=scale, dtype=torch.float64).values
        x = factor * (x - x.mean(0) if centred else x)
        w = weight_std * torch.randn(inputs, generator=seeded_generator(seed, "weights"), dtype=torch.float64)
        z = w * x
        y = function(z)
        ratios.append(float(y.square().mean() / z.var()))
        variances.append(float(y.var() / z.var()))
        apart.append(float(z.mean() - w.mean() * x.mean()))
    return ratios, variances, apart


def layer(activation, initializer, inputs, scale="none"):
    """Return E[y^2]/Var[z] of a layer of 256 units, for each seed."""
    options = {"activation": activation, "initializer": initializer, "input_size": inputs, "scale": scale}
    found = propscope.profile_mlp(1, 256, input="mixed", batch=1000, seeds=SEEDS, **options)
    layers = [profile.without_inputs.sites for profile in found]
    ratios = [y.forward.rms**2 / z.forward.std**2 for z, y in layers]
    return ratios, [(y.forward.std / z.forward.std) ** 2 for z, y in layers], [0.0]


relu, tanh = torch.relu, torch.tanh
found = {
    "relu, 3 raw": products(relu, FEW),
    "relu, 450 raw": products(relu, MANY),
    "relu, 3 min-max": products(relu, FEW, scale="minmax"),
    "relu, 3 centred": products(relu, FEW, centred=True),
    "tanh, 3 raw": products(tanh, FEW),
    "tanh, 3 centred": products(tanh, FEW, centred=True),
    "tanh, 3 standardized": products(tanh, FEW, scale="zscore"),
    "tanh, 3 standardized x 0.2": products(tanh, FEW, scale="zscore", factor=0.2),
    "tanh, 450 standardized": products(tanh, MANY, scale="zscore"),
    "tanh, 450 standardized, w x 0.05": products(tanh, MANY, scale="zscore", weight_std=0.05),
    "tanh, 3000 raw": products(tanh, MOST),
    "tanh, 3000 raw, w x 0.05": products(tanh, MOST, weight_std=0.05),
    "relu, layer, 3 raw": layer("relu", "he_normal", FEW),
    "relu, layer, 450 raw": layer("relu", "he_normal", MANY),
    "tanh, layer, 3 standardized": layer("tanh", "lecun_normal", FEW, "zscore"),
    "tanh, layer, 450 standardized": layer("tanh", "lecun_normal", MANY, "zscore"),
    "tanh, layer, 3000 standardized": layer("tanh", "lecun_normal", MOST, "zscore"),
    "tanh, layer, 3000 raw": layer("tanh", "lecun_normal", MOST),
}
ratio = {name: (mean(ratios), stdev(ratios)) for name, (ratios, _, _) in found.items()}
variance = {name: mean(variances) for name, (_, variances, _) in found.items()}
wx = {name: max(map(abs, apart)) for name, (*_, apart) in found.items()}
rows = [
    (name, *map(number, (*ratio[name], variance[name])), "-" if "layer" in name else number(wx[name])) for name in found
]
headings = ("z", "E[y^2]/Var[z]", "std", "Var[y]/Var[z]", "E[wx] apart")
title = f"mean and std over {DRAWS} draws of weights ({DRAWS_OF_MOST} of {MOST}, {SEEDS} layers)"
print(Table(title, headings, tuple(rows), left={"z"}).to_text())
print("\nE[wx] apart: the largest |E[wx] - E[w]E[x]| of a draw")

reading = 'Dashed: the assumption. Numbers: the inputs. Single products z = wx; "layer": a layer of 256 units.'
header = Header("What the derivations assume", "E[y^2] / Var[z], mean and deviation over draws of the weights", reading)
with picture("assumptions", header, columns=2, left=2.6, width=3.2, height=2.4) as panels:
    for axes, name, assumed in zip(panels, ("relu", "tanh"), (0.5, 1.0), strict=True):
        shown = [case for case in ratio if case.startswith(name)]
        centers, spreads = zip(*(ratio[case] for case in shown), strict=True)
        axes.errorbar(centers, range(len(shown)), xerr=spreads, fmt="o", color="#0072b2", capsize=3)
        axes.set_yticks(range(len(shown)), [case.removeprefix(f"{name}, ") for case in shown])
        axes.invert_yaxis()
        axes.axvline(assumed, color="black", linestyle="--", linewidth=1)
        axes.set_title(name)

assert ratio["relu, 3 raw"][1] > 0.2
assert abs(ratio["relu, 450 raw"][0] - 0.5) < 0.05
assert ratio["relu, 450 raw"][1] < 0.1
assert abs(ratio["relu, 3 centred"][0] - 0.5) < 0.01
assert ratio["relu, 3 min-max"][1] > 0.2
assert wx["relu, 3 raw"] > 0.1
assert wx["relu, 3 centred"] < 1e-12
# Few inputs do no harm to a layer.
assert abs(ratio["relu, layer, 3 raw"][0] - 0.5) < 0.1
# At unit variance tanh is far from linear for any number of inputs; Xavier's 1/n keeps the variance of z the same.
assert ratio["tanh, 3 standardized"][0] < 0.6
assert ratio["tanh, 3 standardized x 0.2"][0] > 0.85
assert ratio["tanh, 450 standardized, w x 0.05"][0] > 0.95
assert abs(ratio["tanh, layer, 3 standardized"][0] - ratio["tanh, layer, 450 standardized"][0]) < 0.06
assert abs(ratio["tanh, layer, 3 standardized"][0] - ratio["tanh, layer, 3000 standardized"][0]) < 0.06
# Single products: 3,000 weights of std 1 saturate tanh as 3 do; 0.05 makes z small, and tanh linear, as for 450.
assert variance["tanh, 3000 raw"] < 0.3
assert variance["tanh, 3000 raw, w x 0.05"] > 0.93
assert abs(ratio["tanh, 3000 raw"][0] - ratio["tanh, 3 raw"][0]) < 0.3
# Raw inputs have a larger E[x^2], so that z is larger and tanh passes less of it on.
assert ratio["tanh, layer, 3000 raw"][0] < ratio["tanh, layer, 3000 standardized"][0] - 0.1
