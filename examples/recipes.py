"""PyTorch's default, ResNet's and VGG's initialization on a convolutional network, with and without BatchNorm.

The default's weights have a sixth of He's variance: after six convolutions a 20th of the signal and a 200th of the
gradient are left. He's weights, as in ResNet and VGG, keep the signal and a third of the gradient. The N(0, 0.01)
weights of VGG's linear layers pass a 50th of the gradient to the convolutions. With BatchNorm the convolutions behave
alike under all three, but VGG's linear layers do not change.
"""

import math

import torch
from setting import SEEDS, picture
from torch import nn

import propscope
from propscope.plots import Header, line_style
from propscope.records.numerals import number
from propscope.report.table import Table

CHANNELS = (16, 32, 32, 64, 64, 64)
RECIPES = ("default", "ResNet", "VGG")


def network(recipe, *, norm):
    """Return six convolutions with two poolings, then two linear layers, initialized as in torchvision."""
    layers, channels = [], 3
    for place, wide in enumerate(CHANNELS):
        layers += [nn.Conv2d(channels, wide, 3, padding=1), *([nn.BatchNorm2d(wide)] if norm else []), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if place in (1, 3) else []
        channels = wide
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    for module in model:
        if isinstance(module, nn.Conv2d) and recipe != "default":
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, (nn.Conv2d, nn.Linear)) and recipe == "VGG":
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear) and recipe == "VGG":
            nn.init.normal_(module.weight, 0, 0.01)
    return model


def measured(recipe, *, norm):
    """Return the rms of each layer's output and of its gradient, as geometric means over seeds."""
    logs = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        images, labels = torch.randn(16, 3, 16, 16), torch.randint(10, (16,))
        profile = propscope.profile(
            network(recipe, norm=norm), images, loss=lambda out, labels=labels: nn.functional.cross_entropy(out, labels)
        )
        sites = [site for site in profile.sites if site.kind in ("Conv2d", "Linear")]
        logs.append([(math.log(site.forward.rms), math.log(site.backward.rms)) for site in sites])
    return (torch.tensor(logs).mean(0).exp().T).tolist()


found = {(recipe, norm): measured(recipe, norm=norm) for norm in (False, True) for recipe in RECIPES}
names = [f"conv {place}" for place in range(1, 7)] + ["linear 1", "linear 2"]
for index, way in enumerate(("forward rms", "backward rms")):
    rows = [(f"{recipe}{', BatchNorm' * norm}", *map(number, found[recipe, norm][index])) for recipe, norm in found]
    print(Table(way, ("recipe", *names), tuple(rows), left={"recipe"}).to_text(), end="\n\n")

header = Header(
    "PyTorch's recipes", f"{len(CHANNELS)} convolutions, 2 linear layers", "Flat along the convolutions is healthy."
)
with picture("recipes", header, rows=2, columns=2) as panels:
    for panel, axes in enumerate(panels):
        way, norm = panel % 2, panel > 1
        for style, recipe in enumerate(RECIPES):
            axes.semilogy(names, found[recipe, norm][way], label=recipe, **line_style(style).keywords)
        axes.set_title(f"{('forward', 'backward')[way]} rms{', BatchNorm' * norm}")
        axes.tick_params(axis="x", rotation=30)
        axes.grid(axis="y")
    panels[0].legend()


def over(recipe, way, *, norm=False, last=5):
    """Return the factor of the rms over the convolutions, in the direction in which the signal travels."""
    rms = found[recipe, norm][way]
    return rms[last] / rms[0] if way == 0 else rms[0] / rms[last]


assert over("default", 0) < 0.08
assert over("default", 1) < 0.02
for recipe in ("ResNet", "VGG"):
    assert 0.5 < over(recipe, 0) < 2
    assert 0.15 < over(recipe, 1) < 0.6
# VGG's linear layers pass less than ResNet's, which have PyTorch's default.
for norm in (False, True):
    assert found["VGG", norm][1][5] < 0.05 * found["ResNet", norm][1][5]
    assert found["VGG", norm][0][-1] < 0.1 * found["ResNet", norm][0][-1]
# With BatchNorm the gradient passes the default's convolutions as it does ResNet's.
assert 0.5 < over("default", 1, norm=True) < 2
assert 0.5 < over("ResNet", 1, norm=True) < 4
# The weight of a norm starts at 1; it is not drawn.
assert bool((nn.BatchNorm2d(8).weight == 1).all())
