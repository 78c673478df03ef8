"""The loss around the weights that training starts from and ends at, and the condition number of its Hessian.

A ReLU network of two hidden layers on digits. The condition number |largest| / |smallest| eigenvalue is infinite for
every initializer, since some eigenvalues are 0 and others negative. Large weights make the largest one larger, which
bounds the learning rate by 2 / largest; the ratio of the largest to the smallest weight says nothing about it. The maps
show the loss on a plane through the weights, in filter-normalized random directions (Li et al. 2018): normal weights
of std 1 start no steeper than He's for their height, but end in a narrower valley.
"""

from statistics import geometric_mean

import numpy as np
import torch
from setting import OUTPUTS, QUICK
from torch import nn

from propscope.experiments.training import make_data
from propscope.networks import MLPSpec
from propscope.plots import styled, write_figure
from propscope.plots.loss_surface import draw_loss_maps, prepare_loss_maps
from propscope.records.numerals import number, percent
from propscope.report.table import Table
from propscope.spectra import hessian_eigenvalues, loss_surface

WIDTH, ROWS = (8, 100) if QUICK else (16, 300)
STEPS, POINTS = (150, 11) if QUICK else (500, 41)
SEEDS_HERE = 1 if QUICK else 3
initializers = ["normal", "xavier_normal", "he_normal", "uniform:low=-1:high=1", "normal:std=1"]
data = make_data("digits", seed=0, rows=ROWS, validation=0, scale="zscore", dtype=torch.float64)
x, y = data.train


def loss(output):
    return nn.functional.cross_entropy(output, y)


def network(initializer, seed):
    spec = MLPSpec(2, width=WIDTH, initializer=initializer, input_size=data.features, output_size=10)
    return spec.build(seed=seed, dtype=torch.float64)


def train(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(model(x)).backward()
        optimizer.step()
    return model


def figures(model):
    """Return the loss; the largest and smallest eigenvalue; shares at 0 and below; largest over median size."""
    found = hessian_eigenvalues(model, x, loss)
    size = np.abs(found)
    flat = size < 1e-9 * size.max()
    ratio = size.max() / np.median(size)
    with torch.no_grad():
        lossy = loss(model(x)).item()
    return lossy, found[-1], found[0], flat.mean(), (found[~flat] < 0).sum() / size.size, ratio


def ratio_of_weights(model):
    sizes = torch.cat([p.detach().abs().flatten() for p in model.parameters() if p.dim() > 1])
    return float(sizes.max() / sizes.min())


def share_below(surface, level):
    """Return the share of the plane on which the loss is below a level."""
    return float((surface.losses < level).mean())


start, end, surfaces, ratios = {}, {}, {}, {}
for name in initializers:
    models = [network(name, seed) for seed in range(SEEDS_HERE)]
    ratios[name] = geometric_mean(map(ratio_of_weights, models))
    start[name] = np.array([figures(model) for model in models])
    before = loss_surface(models[0], x, loss, points=POINTS, name=f"{name}, at the start")
    end[name] = np.array([figures(train(model)) for model in models])
    after = loss_surface(models[0], x, loss, points=POINTS, name=f"{name}, after {STEPS} steps")
    surfaces[name] = before, after

headings = ("initializer", "loss", "largest", "smallest", "at 0", "below 0", "over median")
for title, table in (("at the start", start), (f"after {STEPS} steps of Adam", end)):
    rows = []
    for name, seeds in table.items():
        lossy, largest, smallest, flat, below, ratio = np.median(seeds, axis=0)
        cells = (number(lossy), number(largest), number(smallest), percent(flat), percent(below), number(ratio))
        rows.append((name, *cells))
    said = f"eigenvalues of the Hessian {title}, median of {SEEDS_HERE}"
    print(Table(said, headings, tuple(rows), left={"initializer"}).to_text(), end="\n\n")

print(f"largest weight over smallest: {', '.join(f'{name} {number(ratio)}' for name, ratio in ratios.items())}\n")
shown = [surface for name in ("he_normal", "normal:std=1") for surface in surfaces[name]]
said = f"digits, 2 hidden layers of {WIDTH} ReLU units, {ROWS} rows"
path = OUTPUTS / "example-loss-surface.png"
with styled():
    write_figure(draw_loss_maps(prepare_loss_maps(shown, facts=said)), path)
print(f"picture {path}")


(_, he), (_, large) = (surfaces[name] for name in ("he_normal", "normal:std=1"))
wide, narrow = (share_below(surface, 1.0) for surface in (he, large))
print(f"after training the loss is below 1 on {percent(wide)} of He's map and on {percent(narrow)} of the other")

largest, ratio = ({name: float(np.median(start[name][:, at])) for name in start} for at in (1, 5))
# At the start there are directions along which the loss does not change, and some along which it falls.
for seeds in start.values():
    assert (seeds[:, 2] < 0).all()
    assert (seeds[:, 3] > 0.05).all()
assert largest["normal"] < largest["xavier_normal"] < largest["he_normal"] < largest["normal:std=1"]
assert largest["normal:std=1"] > 5 * largest["he_normal"]
# Xavier and He have the smallest ratio of the largest eigenvalue to the median one.
good, bad = ("xavier_normal", "he_normal"), ("normal", "uniform:low=-1:high=1", "normal:std=1")
assert max(ratio[name] for name in good) < min(ratio[name] for name in bad)
# Weights 100 times as large have the same ratio of the largest to the smallest, and 500 times the eigenvalue.
assert 0.1 < ratios["normal"] / ratios["normal:std=1"] < 10
assert largest["normal:std=1"] > 100 * largest["normal"]
# Where training ends, the sharpness that it started with is still seen.
assert np.median(end["normal:std=1"][:, 1]) > 5 * np.median(end["he_normal"][:, 1])
assert wide > 2 * narrow
