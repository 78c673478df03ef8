"""Symmetric units: zeros and ones on a 3-10-1 tanh network, and on a linear model, which zeros do not harm.

Units of a layer that start equal stay equal: after 100 steps the ten hidden units are still copies of one. With zeros
only the last bias learns; with ones, one unit learns, ten times over. How far one unit gets depends on the target: on
that of the tutorial which prints these weights it ends 11% below a constant. On the other target here it starts so far
away that it needs 500 steps. A linear model has no hidden units, so zeros train it as well as other weights do; two
linear layers in a row do not train.
"""

from statistics import mean

import torch
from setting import QUICK, SEEDS, WORKERS, draw_training, picture
from torch import nn, optim

import propscope
from propscope.experiments.training import make_data
from propscope.networks import initialize_
from propscope.plots import Header, line_style
from propscope.records.numerals import number
from propscope.report.table import Table

# One step per epoch on all examples: gradient descent as in a textbook.
rows = 2_000 if QUICK else 10_000
textbook = {"optimizer": "sgd", "epochs": 100, "validation": 0, "seeds": SEEDS, "workers": WORKERS}
initializers = ["zeros", "ones", "normal:std=1", "xavier_normal", "he_normal"]
runs = propscope.train_mlp(
    1,
    10,
    activation="tanh",
    initializer=initializers,
    data="one_hidden",
    rows=rows,
    batch=rows,
    learning_rate=0.01,
    **textbook,
)
print(runs)
draw_training("symmetry", runs)

for run in runs:
    if run.labels["initializer"] in ("zeros", "ones"):
        assert run.rows[0] == 10
        assert run.distinct_rows_before[0] == run.distinct_rows_after[0] == 1
        # No better than predicting one number for all examples.
        assert run.stability == "stalled"
        assert run.final_loss > 0.97 * run.constant_loss
    else:
        assert run.distinct_rows_after[0] == 10
        # The noise accounts for 1.0 of the loss.
        assert run.final_loss < 0.5 * run.constant_loss


def descend(model, x, y, *, steps=100, learning_rate=0.01):
    """Train by gradient descent on all examples, and return the loss before the last step."""
    optimizer = optim.SGD(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def small_network(initializer, seed):
    model = nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 1))
    initialize_(model, initializer, generator=torch.Generator().manual_seed(seed))
    return model


# The same on the tutorial's own target, of weights that torch draws after manual_seed(42), with the losses it prints.
told = {"zeros": 7.75, "ones": 6.91, "normal:std=1": 1.53, "xavier_normal": 1.61, "he_normal": 1.69}
x = make_data("one_hidden", seed=0, rows=rows, validation=0).train[0]
generator = torch.Generator().manual_seed(42)
inner, outer = 2 * torch.randn(30, generator=generator).reshape(10, 3), torch.randn(1, 10, generator=generator)
bias = torch.tensor([-1.0, 0.5, 0.1, 0.4, 2.5] * 2)
y = torch.tanh(x @ inner.T + bias) @ outer.T + 1 + torch.randn(rows, 1, generator=generator)
constant = y.var(unbiased=False).item()

trained, losses = {}, {}
for name in initializers:
    models = [small_network(name, seed) for seed in range(SEEDS)]
    losses[name] = [descend(model, x, y) for model in models]
    trained[name] = models[0]
table = [
    (name, number(mean(losses[name])), f"{min(losses[name]):.2f} to {max(losses[name]):.2f}", number(told[name]))
    for name in initializers
]
title = f"the tutorial's target, loss after 100 steps (a constant has {constant:.2f})"
headings = ("initializer", "mean", "over seeds", "tutorial")
print(f"\n{Table(title, headings, tuple(table), left={'initializer'}).to_text()}\n")
for name in ("zeros", "ones"):
    hidden, readout = trained[name][0], trained[name][2]
    weight = ", ".join(f"{value:.4f}" for value in hidden.weight[0].tolist())
    print(f"{name}, weights after 100 steps:")
    print(f"  each of the 10 hidden units: {weight}; bias {hidden.bias[0].item():.4f}")
    print(f"  the output from each of them: {readout.weight[0, 0].item():.4f}; bias {readout.bias[0].item():.4f}")
    # Equal to the last bit or two, since sums of equal terms may be rounded in another order.
    assert torch.allclose(hidden.weight, hidden.weight[:1].expand(10, 3), rtol=1e-5)
    assert torch.allclose(readout.weight, readout.weight[:, :1].expand(1, 10), rtol=1e-5)
assert not trained["zeros"][0].weight.any()
assert not trained["zeros"][2].weight.any()
# The tutorial prints 0.9429, 1.0374, 0.9788 and -0.1123 for ones, of other examples of the same inputs.
one = trained["ones"]
assert torch.allclose(one[0].weight[0], torch.tensor([0.9429, 1.0374, 0.9788]), atol=0.03)
assert abs(one[2].weight[0, 0].item() + 0.1123) < 0.03
# Its order, but for He and Xavier, whose losses overlap.
order = sorted(losses, key=lambda name: mean(losses[name]))
assert (order[0], order[3:]) == ("normal:std=1", ["ones", "zeros"])
assert min(losses["he_normal"]) < max(losses["xavier_normal"])
assert mean(losses["ones"]) < 0.95 * constant
# On the other target ones also end below a constant, after more steps.
other = make_data("one_hidden", seed=0, rows=2_000, validation=0)
late = {name: descend(small_network(name, 0), *other.train, steps=500) for name in ("zeros", "ones")}
print(f"\nthe first target again, after 500 steps: zeros {late['zeros']:.2f}, ones {late['ones']:.2f}")
assert late["ones"] < 0.8 * other.constant_loss
assert late["zeros"] > 0.99 * other.constant_loss

with torch.no_grad():
    fitted = {name: trained[name](x)[:, 0] for name in ("zeros", "ones", "he_normal")}
reading = (
    "Grey: data. Lines: mean of the data (dots) and of each network's output over rows with nearly the same input."
)
header = Header("What the networks fit", "the tutorial's target, 3-10-1 tanh, 100 steps", reading)
with picture("symmetry-fit", header, columns=3, width=3.2) as panels:
    for column, axes in enumerate(panels):
        order_of_rows = x[:, column].argsort()
        groups = order_of_rows[: len(x) // 25 * 25].reshape(25, -1)
        at = x[groups, column].mean(1)
        axes.plot(x[:400, column], y[:400, 0], ".", color="#c8c8c8", markersize=3)
        axes.plot(at, y[groups, 0].mean(1), "o", color="black", markersize=4, label="data")
        # The black of the third style is that of the data.
        for index, (name, output) in zip((0, 1, 4), fitted.items(), strict=True):
            style = line_style(index).keywords | {"marker": None}
            axes.plot(at, output[groups].mean(1), label=name, **style)
        axes.set_xlabel(f"x{column + 1}")
    panels[0].set_ylabel("y")
    panels[0].legend()


def linear_model(initializer, *, layers):
    """Return the loss of a linear model after 100 steps of gradient descent, and that of a constant."""
    data = make_data("linear", seed=0, validation=0)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers - 1)), nn.Linear(3, 1))
    initialize_(model, initializer, generator=torch.Generator().manual_seed(0))
    return descend(model, *data.train, learning_rate=0.05), data.constant_loss


zeros, constant = linear_model("zeros", layers=1)
drawn, _ = linear_model("normal:std=0.5", layers=1)
deep, _ = linear_model("zeros", layers=2)
print(f"\nlinear model, loss after 100 steps; the best constant prediction has a loss of {constant:.3f}")
print(f"zeros {zeros:.3f}, normal {drawn:.3f}; two layers, zeros {deep:.3f}")
assert zeros < 1.1
assert abs(zeros - drawn) < 0.05
assert deep > 0.99 * constant
