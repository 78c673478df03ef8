"""Symmetric units: zeros and ones on a 3-10-1 tanh network, and on a linear model, which zeros do not harm.

Units of a layer that start equal stay equal: after 100 steps the ten hidden units are still copies of one. A linear
model has no hidden units, so zeros train it as well as other weights do; two linear layers in a row do not train.
"""

import torch
from setting import QUICK, SEEDS, WORKERS, draw_training
from torch import nn, optim

import propscope
from propscope.experiments.training import make_data
from propscope.networks import initialize_

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


def linear_model(initializer, *, layers):
    """Return the loss of a linear model after 100 steps of gradient descent."""
    data = make_data("linear", seed=0, validation=0)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers - 1)), nn.Linear(3, 1))
    initialize_(model, initializer, generator=torch.Generator().manual_seed(0))
    optimizer = optim.SGD(model.parameters(), lr=0.05)
    for _ in range(100):
        loss = nn.functional.mse_loss(model(data.train[0]), data.train[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item(), data.constant_loss


zeros, constant = linear_model("zeros", layers=1)
drawn, _ = linear_model("normal:std=0.5", layers=1)
deep, _ = linear_model("zeros", layers=2)
print(f"\nlinear model, loss after 100 steps; the best constant prediction has a loss of {constant:.3f}")
print(f"zeros {zeros:.3f}, normal {drawn:.3f}; two layers, zeros {deep:.3f}")
assert zeros < 1.1
assert abs(zeros - drawn) < 0.05
assert deep > 0.99 * constant
