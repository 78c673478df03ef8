"""Probability densities of the synthetic inputs and targets, estimated with Gaussian kernels (scipy).

The three inputs are N(2, 1), U(-2, 4) and 1 + sin(2 U(-1, 1)). The targets are a linear function and networks of one
hidden layer with ReLU, sigmoid and tanh, each with noise of standard deviation 1.
"""

import numpy as np
from scipy.integrate import trapezoid
from scipy.stats import gaussian_kde
from setting import QUICK, picture

from propscope.experiments.training import make_data
from propscope.plots import Header, line_style

ROWS = 2_000 if QUICK else 10_000
data = {"linear": make_data("linear", seed=0, rows=ROWS, validation=0)}
for activation in ("relu", "sigmoid", "tanh"):
    data[activation] = make_data(f"one_hidden:activation={activation}", seed=0, rows=ROWS, validation=0)

header = Header("Densities of inputs and targets", f"{ROWS:,} rows", "Kernel density estimates, Scott's bandwidth.")
with picture("densities", header, rows=2, columns=2) as panels:
    for axes, (name, found) in zip(panels, data.items(), strict=True):
        x, y = (values.double().numpy() for values in found.train)
        for index, (label, values) in enumerate({"x1": x[:, 0], "x2": x[:, 1], "x3": x[:, 2], "y": y[:, 0]}.items()):
            at = np.linspace(values.min() - 1, values.max() + 1, 200)
            density = gaussian_kde(values)(at)
            style = line_style(index)
            axes.plot(at, density, label=label, color=style.colour, linestyle=style.dash)
            axes.fill_between(at, density, color=style.colour, alpha=0.2)
            print(f"{name:8} {label}: mean {values.mean():6.3f}, variance {values.var():6.3f}")
            # A density integrates to 1; a little of each kernel lies beyond the ends.
            assert abs(trapezoid(density, at) - 1) < 0.01
        axes.set_title(f"target: {name}")
        axes.set_ylabel("density")
        axes.legend()
    panels[2].set_xlabel("value")
    panels[3].set_xlabel("value")

x, y = (values.double().numpy() for values in data["linear"].train)
# In closed form: means 2, 1, 1 and variances 1, 3, (1 - sin(4) / 4) / 2; the target's follow from the weights.
variances = np.array([1.0, 3.0, (1 - np.sin(4) / 4) / 2])
weights = np.array([1.2, -0.5, 2.2])
assert np.allclose(x.mean(0), [2, 1, 1], atol=6 * np.sqrt(3 / ROWS))
assert np.allclose(x.var(0), variances, rtol=0.15)
assert abs(y.mean() - (weights @ [2, 1, 1] - 2)) < 6 * np.sqrt(6.1 / ROWS)
assert abs(y.var() / (weights**2 @ variances + 1) - 1) < 0.15
