"""A ReLU network at several widths: under Adam its layers change by n in the standard parametrization, not in muP.

So a learning rate that is right at one width is too large at the next, while in muP it can be kept (Yang et al. 2022).
"""

import torch
from models import mup_adam, mup_perceptron, perceptron
from setting import OUTPUTS, QUICK

import propscope
from propscope.plots import styled, write_figure
from propscope.plots.width_check import draw_width_check, prepare_width_check

batch = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
widths = (64, 128, 256) if QUICK else (64, 128, 256, 512)
standard = propscope.width_check(perceptron, widths, batch, "adam", 1e-3, expect="standard")
mup = propscope.width_check(mup_perceptron, widths, batch, mup_adam, 1e-3, expect="mup")
for name, check in (("standard", standard), ("mup", mup)):
    path = OUTPUTS / f"example-width-check-{name}.png"
    with styled():
        write_figure(draw_width_check(prepare_width_check(check)), path)
    print(f"{check}\n\npicture {path}\n")

# Each hidden layer's new weights change what it makes of its first input by n in the standard parametrization.
for layer in ("2", "4"):
    assert 0.75 < standard.row(layer, "weights_part").exponent().center < 1.25
    assert -0.25 < mup.row(layer, "weights_part").exponent().center < 0.25
assert standard.passed
assert mup.passed
assert not propscope.width_check(perceptron, widths, batch, "adam", 1e-3, expect="mup").passed
