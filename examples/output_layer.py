"""The output layer of a classifier: Glorot's weights against He's, LeCun's, PyTorch's default, zeros and larger ones.

The usual advice is Glorot for a softmax. The output layer decides the loss before the first step: ln(10) for equal
probabilities, more the larger its weights are. But large weights cost no steps: zeros and weights of std 0.01 do, which
take a third more of them to 90% on digits, as the layers below learn only once the output layer has grown. Zeros do
train: the units of an output layer get different gradients from their labels. The accuracy at the end is the same.
"""

import math
from statistics import mean

import torch
from matplotlib.ticker import MaxNLocator
from setting import QUICK, SEEDS, picture
from torch import nn

from propscope.experiments.training import make_data
from propscope.networks import MLPSpec, initialize_
from propscope.plots import Header, line_style
from propscope.records.interval import arithmetic_interval
from propscope.records.numerals import number
from propscope.report.table import Table

EPOCHS = 4 if QUICK else 10
SEEDS_HERE = 2 if QUICK else SEEDS
readouts = [
    "xavier_uniform",
    "xavier_normal",
    "he_normal",
    "lecun_normal",
    "default",
    "normal",
    "zeros",
    "normal:std=1",
]


def train(readout, seed):
    """Return the loss and the accuracy on held-out rows before training and after each epoch, and the steps to 90%."""
    data = make_data("digits", seed=seed, scale="minmax")
    net = MLPSpec(3, width=64, initializer="he_normal", input_size=data.features, output_size=10).build(seed=seed)
    # The last of its linear layers, from 64 units to 10 classes.
    *_, last = (module for module in net.modules() if isinstance(module, nn.Linear))
    initialize_(last, readout, generator=torch.Generator().manual_seed(1000 + seed))
    optimizer, order = torch.optim.Adam(net.parameters()), torch.Generator().manual_seed(seed)
    (x, y), (held_x, held_y) = data.train, data.validation
    steps, reached, losses, accuracy = 0, None, [], []
    for epoch in range(EPOCHS + 1):
        with torch.no_grad():
            output = net(held_x)
            losses.append(nn.functional.cross_entropy(output, held_y).item())
            accuracy.append((output.argmax(1) == held_y).float().mean().item())
        if epoch == EPOCHS:
            break
        for rows in torch.randperm(len(x), generator=order).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            steps += 1
            if reached is None and steps % 10 == 0:
                with torch.no_grad():
                    right = (net(held_x).argmax(1) == held_y).float().mean().item()
                reached = steps if right >= 0.9 else None
    return losses, accuracy, reached


runs = {readout: [train(readout, seed) for seed in range(SEEDS_HERE)] for readout in readouts}
start = {readout: mean(losses[0] for losses, _, _ in found) for readout, found in runs.items()}
end = {readout: arithmetic_interval([accuracy[-1] for _, accuracy, _ in found]) for readout, found in runs.items()}
steps = {readout: mean(reached or math.inf for *_, reached in found) for readout, found in runs.items()}
rows = []
for name in readouts:
    low, high = max(end[name].low, 0.0), min(end[name].high, 1.0)
    rows.append((name, number(start[name]), number(steps[name]), f"{end[name].center:.1%} [{low:.1%}, {high:.1%}]"))
title = f"3 layers of 64 ReLU units with He's weights, digits, {EPOCHS} epochs, {SEEDS_HERE} seeds"
headings = ("output layer", "loss at first", "steps to 90%", "accuracy")
print(Table(title, headings, tuple(rows), left={"output layer"}).to_text())
print(f"\nequal probabilities have a loss of ln(10) = {math.log(10):.3f}")

header = Header("The output layer", "digits, 3 layers of 64 ReLU units, He", "Loss on held-out rows, mean over seeds.")
with picture("output-layer", header, left=1.0, width=5.2, height=3.4) as (axes,):
    for index, (name, found) in enumerate(runs.items()):
        curve = [mean(column) for column in zip(*(losses for losses, _, _ in found), strict=True)]
        axes.semilogy(range(EPOCHS + 1), curve, label=name, **line_style(index).keywords)
    ticks = [0.1, 0.2, 0.5, 1, 2, 5]
    axes.set_yticks(ticks, map(str, ticks))
    axes.set_ylim(0.08, 6)
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend()

assert math.isclose(start["zeros"], math.log(10), rel_tol=1e-6)
assert abs(start["normal"] - math.log(10)) < 0.01
assert start["zeros"] < start["default"] < start["xavier_normal"] < start["normal:std=1"]
assert start["normal:std=1"] > 1.3 * start["he_normal"]
# Weights that are too small cost steps, large ones do not.
usual = ("xavier_uniform", "xavier_normal", "he_normal", "lecun_normal", "default", "normal:std=1")
assert max(steps[name] for name in usual) < 1.3 * min(steps[name] for name in usual)
assert min(steps["zeros"], steps["normal"]) > 1.1 * steps["xavier_normal"]
if not QUICK:
    assert max(each.center for each in end.values()) - min(each.center for each in end.values()) < 0.02
