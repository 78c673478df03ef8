"""Histograms of 10 tanh layers with weights too small, too large and by Xavier, and of ReLU with He.

If the weights are too small, every layer keeps 16% of the activations and of the gradient. If they are too large, 90%
of the units are saturated at every layer, but the gradient explodes: the large weights outweigh the small slopes.
Xavier's weights with tanh, and He's with ReLU, keep both.
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

# sqrt(256) * 0.01 = 0.16 per layer, forward and backward.
assert 0.15 < vanishing.forward_gain.center < 0.17
assert 0.15 < vanishing.backward_gain.center < 0.17
assert vanishing.last_std < 1e-7

assert saturated.flat_fraction > 0.85
assert 0.96 < saturated.last_std < 0.99
assert saturated.backward_factor.center > 1e4, "large weights make up for small slopes"

# With tanh and Xavier the signal decays slowly, as 1 / sqrt(layer).
assert 0.6 < xavier.first_std < 0.65
assert 0.2 < xavier.last_std < 0.26
assert xavier.flat_fraction < 0.01

# Over ten layers of this width, ln(rms) varies between networks by sqrt(5 * 10 / 256) / 2 = 0.22.
assert 0.5 < he.forward_factor.center < 2
assert 0.5 < he.backward_factor.center < 2
