"""Convolutions: fan_in and fan_out by hand, torch's bounds, and what each layer makes of its input.

fan_in is the number of inputs of one output, channels in / groups x kernel height x kernel width; fan_out is the number
of outputs that one input goes to. torch counts both from the shape of the weight, (out, in / groups, height, width). So
the fan_out of a layer with groups or a stride comes out too large, and a transposed convolution, whose weight begins
with the channels in, has its two fans exchanged: He's weights then miss the factor that they are chosen for.
"""

import math

import torch
from setting import QUICK, picture
from torch import nn

from propscope.networks import initialize_
from propscope.networks.initializers import fans
from propscope.plots import Header
from propscope.records.numerals import number
from propscope.report.table import Table

SIDE, ROWS = (24, 8) if QUICK else (32, 32)
# Each with the inputs of one output, and the outputs that one input goes to, counted by hand.
layers = {
    "Linear(256, 512)": (nn.Linear(256, 512), 256, 512),
    "Conv2d(3, 64, 3)": (nn.Conv2d(3, 64, 3), 27, 576),
    "Conv2d(64, 128, 3)": (nn.Conv2d(64, 128, 3), 576, 1152),
    "Conv2d(64, 128, 1)": (nn.Conv2d(64, 128, 1), 64, 128),
    "Conv2d(64, 128, 3), stride 2": (nn.Conv2d(64, 128, 3, stride=2), 576, 288),
    "Conv2d(64, 128, 3), 4 groups": (nn.Conv2d(64, 128, 3, groups=4), 144, 288),
    "Conv2d(64, 64, 3), 64 groups": (nn.Conv2d(64, 64, 3, groups=64), 9, 9),
    "Conv1d(16, 32, 5)": (nn.Conv1d(16, 32, 5), 80, 160),
    "ConvTranspose2d(32, 16, 4), stride 2": (nn.ConvTranspose2d(32, 16, 4, stride=2), 128, 256),
}


def inputs(layer):
    channels = getattr(layer, "in_channels", None)
    if channels is None:
        return torch.randn(ROWS * SIDE, layer.in_features, dtype=torch.float64)
    return torch.randn(ROWS, channels, *[SIDE] * len(layer.kernel_size), dtype=torch.float64)


def gains(layer, x):
    """Return the factor of the rms from input to output, and of the gradient back to the input, off the border."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
    inner = (slice(None), slice(None), *[slice(4, -4)] * (x.dim() - 2))
    forward, backward = (float(values.detach()[inner].square().mean().sqrt()) for values in (y, gradient))
    return forward / float(x.detach().square().mean().sqrt()), backward


rows, found = [], {}
for name, (layer, fan_in, fan_out) in layers.items():
    layer.double()
    torch.manual_seed(0)
    x = inputs(layer)
    counted = fans(layer.weight)
    bound = float(layer.weight.detach().abs().max())
    default, _ = gains(layer, x)
    initialize_(layer, "he_normal", generator=torch.Generator().manual_seed(1))
    forward, _ = gains(layer, x)
    initialize_(layer, "he_normal:mode=fan_out", generator=torch.Generator().manual_seed(1))
    _, backward = gains(layer, x)
    found[name] = (fan_in, fan_out), counted, bound, default, forward, backward
    cells = (str(fan_in), str(fan_out), *map(str, counted), number(forward), number(backward))
    rows.append((name, *cells))
headings = ("layer", "in", "out", "torch", "torch", "forward", "backward")
title = "fans in and out by hand and by torch; factors of He's weights by fan_in, fan_out"
print(Table(title, headings, tuple(rows), left={"layer"}).to_text())
print("\nPyTorch's default is U(-b, b) with b = 1 / sqrt(torch's fan_in) for each of them.")
print("sqrt(2) = 1.414 is what He's weights are chosen for: ReLU then halves the mean square.")

header = Header(
    "Convolutions under He's initialization", "N(0, 1) inputs and gradients", "Dashed: √2, which ReLU makes up for."
)
with picture("conv-layers", header, left=2.7, width=4.4, height=3.2) as (axes,):
    places = range(len(found))
    axes.plot([cells[4] for cells in found.values()], places, "o", color="#0072b2", label="signal, fan_in")
    axes.plot(
        [cells[5] for cells in found.values()], places, "s", color="#d55e00", label="gradient, fan_out", mfc="none"
    )
    axes.axvline(math.sqrt(2), color="black", linestyle="--", linewidth=1)
    axes.set_yticks(places, list(found))
    axes.set_xlim(0, 3)
    axes.set_xlabel("factor of the rms")
    axes.invert_yaxis()
    axes.legend()

for name, ((fan_in, fan_out), (counted_in, counted_out), bound, default, forward, backward) in found.items():
    # Linear and Conv alike: U(-b, b), b = 1 / sqrt(fan_in) as torch counts it.
    assert 0.98 < bound * math.sqrt(counted_in) <= 1, name
    assert math.isclose(default, math.sqrt(fan_in / counted_in / 3), rel_tol=0.1), name
    assert math.isclose(forward, math.sqrt(2 * fan_in / counted_in), rel_tol=0.1), name
    assert math.isclose(backward, math.sqrt(2 * fan_out / counted_out), rel_tol=0.1), name
    right = "groups" not in name and "stride" not in name
    assert ((fan_in, fan_out) == (counted_in, counted_out)) == right, name
