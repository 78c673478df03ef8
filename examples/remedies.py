"""What helps besides initialization: BatchNorm, residual sums, and SELU with AlphaDropout, on 20 layers.

With BatchNorm the initializer hardly matters, but the gradient explodes. Residual sums do not need He's weights, whose
branches are too large. AlphaDropout keeps the mean and standard deviation of SELU; dropout does not.
"""

import math

from setting import QUICK, SEEDS, picture

import propscope
from propscope.plots import Header, line_style

initializers = ["normal", "default", "xavier_normal", "he_normal"]
network = {"depth": 20, "width": 256, "batch": 64 if QUICK else 128, "seeds": SEEDS}
plain, batch_norm, residual = (
    propscope.profile_mlp(activation="relu", initializer=initializers, **network, **more)
    for more in ({}, {"norm": "batch"}, {"residual": True})
)
selu, alpha, dropout = (
    propscope.profile_mlp(activation="selu", initializer="lecun_normal", **network, **more)
    for more in ({}, {"alpha_dropout": 0.1}, {"dropout": 0.1})
)
for profiles in (plain, batch_norm, residual, selu + alpha + dropout):
    print(str(profiles).split("\n\nforward:")[0], end="\n\n")


def decades(profiles, direction):
    return [math.log10(getattr(pair, f"{direction}_factor").center) for pair in profiles.pairs()]


reading = "0: the signal is kept; below 0 it vanishes, above 0 it explodes. With a norm all initializers agree."
header = Header("What norms and residual sums change", "20 ReLU layers of 256, decades over the depth", reading)
with picture("remedies", header, columns=2) as panels:
    for axes, direction in zip(panels, ("forward", "backward"), strict=True):
        for index, (name, profiles) in enumerate((("plain", plain), ("BatchNorm", batch_norm), ("residual", residual))):
            axes.plot(initializers, decades(profiles, direction), label=name, **line_style(index).keywords)
        axes.set_title(direction)
        axes.set_ylabel("decades gained or lost")
        axes.grid(axis="y")
    panels[0].legend(loc="lower right")


# normal, default, Xavier and He differ by ten decades without a norm and agree with it.
assert max(decades(plain, "forward")) - min(decades(plain, "forward")) > 10
assert max(decades(batch_norm, "forward")) - min(decades(batch_norm, "forward")) < 0.01
assert max(decades(batch_norm, "backward")) - min(decades(batch_norm, "backward")) < 0.15
# The price: the gradient grows by about 1.2 per layer (Yang et al. 2019), 30 times in all.
assert min(decades(batch_norm, "backward")) > 1.3

# With He's weights each residual sum doubles the mean square: sqrt(2)^19 = 724. Small weights keep it.
small, _, _, he = residual.pairs()
assert 300 < he.forward_factor.center < 1000
assert small.forward_factor.center < 1.2

std = {name: profiles.pairs()[0].last_std for name, profiles in (("selu", selu), ("alpha", alpha), ("drop", dropout))}
assert abs(std["selu"] - 1) < 0.05
assert abs(std["alpha"] - 1) < 0.05
assert std["drop"] > 1.1
# The price of AlphaDropout: dropped units pass no gradient, and 0.15 of it is left.
assert selu.pairs()[0].backward_factor.center > 1.5
assert alpha.pairs()[0].backward_factor.center < 0.3
