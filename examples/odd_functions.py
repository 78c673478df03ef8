"""Xavier's two assumptions, an activation that is linear near 0, and odd: which one matters over 20 layers.

Glorot and Bengio's derivation takes phi(z) = z, and a mean of 0 for what a layer receives, which an odd function keeps.
Here Xavier's weights meet functions that are odd or not, with slope 1 at 0 or not. An odd function keeps the mean at
0, but this decides little: tanhshrink is odd and loses everything, ELU and SELU are not odd and keep the signal.
"""

import math

import torch
from setting import QUICK, SEEDS, picture

import propscope
from propscope.networks import parse_activation
from propscope.plots import Header, line_style
from propscope.records.numerals import number
from propscope.report.table import Table

odd = ["tanh", "softsign", "hardtanh", "erf", "sin", "identity", "tanhshrink"]
others = ["selu", "elu", "relu", "silu", "gelu", "softplus", "sigmoid"]
size = {"width": 128, "batch": 32, "seeds": 2} if QUICK else {"width": 256, "batch": 128, "seeds": SEEDS}
profiles = propscope.profile_mlp(20, activation=odd + others, initializer="xavier_normal", **size)


def is_odd(activation):
    z = torch.linspace(0, 3, 301, dtype=torch.float64)
    phi = parse_activation(activation).module()
    return bool(torch.allclose(phi(-z), -phi(z)))


def slope(activation):
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(parse_activation(activation).module()(z + 1e-6).sum(), z)
    return found.item()


rows, lost, centre = [], {}, {}
for pair, seeds in zip(profiles.pairs(), profiles.groups().values(), strict=True):
    name = pair.labels["activation"]
    # The identity has no activations of its own.
    last = [(profile.with_role("activation") or profile.with_role("pre-activation"))[-1].forward for profile in seeds]
    centre[name] = max(abs(each.mean) / each.rms if each.rms else 0.0 for each in last)
    lost[name] = [
        math.log10(factor.center) if factor.center > 0 else -math.inf
        for factor in (pair.forward_factor, pair.backward_factor)
    ]
    cells = (number(slope(name)), number(centre[name]), *(f"{each:+.2f}" for each in lost[name]))
    rows.append((name, "odd" if is_odd(name) else "-", *cells))
headings = ("activation", "odd", "slope at 0", "|mean| / rms", "forward", "backward")
title = "Xavier, 20 layers: mean of the last layer over its rms; decades gained or lost"
print(Table(title, headings, tuple(rows), left=frozenset(headings[:2])).to_text())

header = Header(
    "Odd and other functions under Xavier",
    "20 layers, decades over the depth",
    "0: kept; tanhshrink loses more than the axis shows. Filled: odd functions.",
)
with picture("odd-functions", header, left=1.3, width=4.6, height=3.6) as (axes,):
    shown = {name: max(min(both), -12.0) for name, both in lost.items()}
    for place, (name, value) in enumerate(shown.items()):
        style = line_style(0).keywords | {"markerfacecolor": "#0072b2" if name in odd else "white"}
        axes.plot(value, place, **style)
    axes.axvline(0, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set_xlabel("decades lost, forward or backward, whichever is more")
    axes.invert_yaxis()

assert [name for name in lost if is_odd(name)] == odd
# An odd function keeps the mean at 0, as far as a batch tells.
assert all(centre[name] < 0.02 for name in odd)
assert all(centre[name] > 0.5 for name in ("relu", "softplus", "sigmoid"))
# Odd with slope 1: at most the decades that ReLU loses; softsign bends sooner than tanh and loses more.
worst = {name: max(map(abs, both)) for name, both in lost.items()}
assert all(worst[name] < 2 for name in odd if name != "tanhshrink")
assert worst["softsign"] > worst["tanh"] + 0.3
# Being odd is not enough, and not needed: SELU and ELU are not, and lose no more than tanh and softsign.
assert worst["tanhshrink"] == math.inf
assert worst["selu"] < worst["tanh"]
assert worst["elu"] < worst["softsign"]
assert all(worst[name] > 2 for name in ("relu", "silu", "gelu", "softplus", "sigmoid"))
