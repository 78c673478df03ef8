"""An initializer of your own: a function for `module.apply`, and a function or an object for propscope's grids.

All give N(0, 2 / fan_in) with one unit in ten switched off. `module.apply` calls its function
with every module of a model, and `propscope.profile` profiles what it leaves. A grid calls its function, or an object
with settings, with one weight at a time; the settings stand in the labels.
"""

import math
from dataclasses import dataclass

import torch
from setting import SEEDS
from torch import nn

import propscope

DEPTH, WIDTH = 10, 200


@dataclass
class Thinned:
    """Fill with N(0, gain / fan_in), then set a share of the rows to zero."""

    share: float
    gain: float = 2.0

    @torch.no_grad()
    def __call__(self, weight):
        nn.init.normal_(weight, std=math.sqrt(self.gain / weight.shape[1]))
        weight[: round(self.share * len(weight))] = 0


def thinned(weight):
    """Fill as `Thinned(0.1)` does."""
    Thinned(0.1)(weight)


def for_modules(module):
    """Initialize a module, as `module.apply` calls it."""
    if isinstance(module, nn.Linear):
        thinned(module.weight)
        nn.init.zeros_(module.bias)


# For a model of your own.
torch.manual_seed(0)
model = nn.Sequential(*(layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))
applied = propscope.profile(model.apply(for_modules), torch.randn(100, WIDTH))

# For a grid, beside those that propscope has: a function, and objects that differ in their settings.
initializers = ["he_normal", thinned, Thinned(0.1), Thinned(0.5), Thinned(0.5, gain=4.0)]
profiles = propscope.profile_mlp(DEPTH, WIDTH, initializer=initializers, batch=100, seeds=SEEDS)
print(profiles)

half = math.sqrt(0.5)
pair = {each.labels["initializer"].partition(":")[2] or "he": each.forward_gain.center for each in profiles.pairs()}
print(f"\nfactor of the signal per layer: {', '.join(f'{name} {gain:.3f}' for name, gain in pair.items())}")
assert list(pair) == [
    "he",
    "thinned",
    "Thinned:share=0.1:gain=2",
    "Thinned:share=0.5:gain=2",
    "Thinned:share=0.5:gain=4",
]
# He's weights keep the rms; each unit that is off takes its share of the mean square.
assert abs(pair["he"] - 1) < 0.05
assert abs(pair["thinned"] - math.sqrt(0.9)) < 0.05
assert abs(pair["Thinned:share=0.1:gain=2"] - math.sqrt(0.9)) < 0.05
assert abs(pair["Thinned:share=0.5:gain=2"] - half) < 0.05
assert abs(pair["Thinned:share=0.5:gain=4"] - 1) < 0.08
# The model that module.apply initialized has the same weights: one row in ten is zero, and the signal fades alike.
weights = [parameter.value.zero_fraction for parameter in applied.parameters if "weight" in parameter.name]
assert all(math.isclose(share, 0.1) for share in weights)
states = applied.with_role("pre-activation")
fading = (states[-1].forward.rms / states[0].forward.rms) ** (1 / (DEPTH - 1))
assert abs(fading - math.sqrt(0.9)) < 0.05
