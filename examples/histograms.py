"""Histograms of a 10-layer tanh network whose weights are too small, too large or Xavier's, and of ReLU with He's.

Too small: every layer keeps 16% of the activations and of the gradient. Too large: 90% of the units are saturated at
every layer, and yet the gradient explodes instead of vanishing, for the weights win over the slopes. Xavier's weights,
and He's with ReLU, keep both.
"""

from setting import OUTPUTS, SEEDS

import propscope
from propscope.plots import draw_all

small, large = "normal", "normal:std=1"
network = {"depth": 10, "width": 256, "batch": 200, "seeds": SEEDS}
profiles = propscope.profile_mlp(activation="tanh", initializer=[small, large, "xavier_normal"], **network)
profiles += propscope.profile_mlp(activation="relu", initializer="he_normal", **network)
print(profiles)
print()
for path in draw_all(profiles, OUTPUTS, stem="example-histograms", only=["activations", "gradients"], overwrite=True):
    print(f"picture {path}")

pair = {(each.labels["activation"], each.labels["initializer"]): each for each in profiles.pairs()}
vanishing, saturated, xavier, he = (
    pair["tanh", small],
    pair["tanh", large],
    pair["tanh", "xavier_normal"],
    pair["relu", "he_normal"],
)

# sqrt(256) * 0.01 = 0.16 a layer, both ways.
assert 0.15 < vanishing.forward_gain.center < 0.17
assert 0.15 < vanishing.backward_gain.center < 0.17
assert vanishing.last_std < 1e-7

assert saturated.flat_fraction > 0.85
assert 0.96 < saturated.last_std < 0.99
assert saturated.backward_factor.center > 1e4, "large weights make up for small slopes"

# Xavier's signal decays slowly with tanh: as 1 / sqrt(layer), not by a factor a layer.
assert 0.6 < xavier.first_std < 0.65
assert 0.2 < xavier.last_std < 0.26
assert xavier.flat_fraction < 0.01

# One He network of this width strays by a quarter over ten layers, sqrt(5 * 10 / 256) / 2 = 0.22 in ln(rms).
assert 0.5 < he.forward_factor.center < 2
assert 0.5 < he.backward_factor.center < 2
