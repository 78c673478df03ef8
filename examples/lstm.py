"""Recurrent networks: orthogonal recurrent weights, Xavier input weights, and the bias of the forget gate.

Orthogonal weights for weight_hh, alone or with Xavier for weight_ih, keep the gradient of a plain tanh network, but
not that of an LSTM: its cell state fades by the forget gate, which starts half open, so that each step loses half of
the gradient. A bias opens the gate (Gers et al. 2000; Jozefowicz et al. 2015), and only then does the LSTM learn to
name what it saw in the first step.
"""

from statistics import mean

import torch
from matplotlib.ticker import MaxNLocator
from setting import QUICK, SEEDS, picture
from torch import nn

import propscope
from propscope.plots import Header, line_style
from propscope.records.interval import geometric_interval
from propscope.records.numerals import number
from propscope.report.table import Table

STEPS, UNITS, CLASSES = (20, 16, 4) if QUICK else (50, 32, 4)
SEEDS_HERE = 2 if QUICK else SEEDS
TRAINING_STEPS = 60 if QUICK else 150
ways = {
    "default": {},
    "orthogonal": {"hh": nn.init.orthogonal_},
    "orthogonal, xavier": {"hh": nn.init.orthogonal_, "ih": nn.init.xavier_uniform_},
    "the same, forget 1": {"hh": nn.init.orthogonal_, "ih": nn.init.xavier_uniform_, "forget": 1.0},
    "the same, forget 3": {"hh": nn.init.orthogonal_, "ih": nn.init.xavier_uniform_, "forget": 3.0},
}


@torch.no_grad()
def initialized(kind, seed, *, hh=None, ih=None, forget=None):
    """Return a recurrent layer whose gates are initialized one by one: a weight stacks the matrices of all gates."""
    torch.manual_seed(seed)
    layer = kind(UNITS, UNITS)
    gates = 4 if kind is nn.LSTM else 1
    for fill, weight in ((ih, layer.weight_ih_l0), (hh, layer.weight_hh_l0)):
        if fill is not None:
            for gate in weight.chunk(gates):
                fill(gate)
            layer.bias_ih_l0.zero_()
            layer.bias_hh_l0.zero_()
    if forget is not None:
        # torch's order: input gate, forget gate, candidate, output gate.
        layer.bias_ih_l0.chunk(4)[1].fill_(forget)
    return layer


def course(kind, way, seed):
    """Return the layer over the steps of random inputs, with the gradient of a loss that reads the last step."""
    layer = initialized(kind, seed, **ways[way])
    x, target = torch.randn(STEPS, 64, UNITS), torch.randn(64, UNITS)
    return propscope.profile(layer, x, lambda out: (out[0][-1] * target).sum()).time_courses[0]


def recall(way, seed):
    """Return the steps until an LSTM names the class that it saw first, of 95% of a batch; None if it does not."""
    layer, head = initialized(nn.LSTM, seed, **ways[way]), nn.Linear(UNITS, CLASSES)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=3e-3)
    for step in range(1, TRAINING_STEPS + 1):
        y = torch.randint(CLASSES, (64,))
        x = 0.3 * torch.randn(STEPS, 64, UNITS)
        x[0] = 3 * nn.functional.one_hot(y, UNITS)
        output = head(layer(x)[0][-1])
        optimizer.zero_grad()
        nn.functional.cross_entropy(output, y).backward()
        optimizer.step()
        if (output.argmax(1) == y).float().mean() >= 0.95:
            return step
    return None


def lost(states):
    """Return the gradient at the first step over that at the last."""
    return states.backward[0] / states.backward[-1]


courses = {way: [course(nn.LSTM, way, seed) for seed in range(SEEDS_HERE)] for way in ways}
cell = {way: geometric_interval(lost(one.cell) for one in found).center for way, found in courses.items()}
gate = {way: mean(one.gates[1].mean[-1] for one in found) for way, found in courses.items()}
gain = {way: mean(mean(one.cell.step_gains) for one in found) for way, found in courses.items()}
learned = {way: [recall(way, seed) for seed in range(SEEDS_HERE)] for way in ways}
rows = []
for way in ways:
    done = [steps for steps in learned[way] if steps is not None]
    when = f", {number(mean(done))} steps" if done else ""
    learnt = f"{len(done)} of {SEEDS_HERE}{when}"
    rows.append((way, number(gate[way]), number(gain[way]), number(cell[way]), learnt))
headings = ("weights of the LSTM", "forget gate", "gain a step", "gradient kept", "learned")
print(
    Table(f"{STEPS} steps, {UNITS} units", headings, tuple(rows), left={headings[0], "learned"}).to_text(), end="\n\n"
)
plain = {
    way: geometric_interval(lost(course(nn.RNN, way, seed).hidden) for seed in range(SEEDS_HERE)).center
    for way in list(ways)[:3]
}
rows = tuple((way, number(kept)) for way, kept in plain.items())
print(Table("the same of a plain tanh network", ("weights", "gradient kept"), rows, left={"weights"}).to_text())

header = Header(
    "Gates and gradients over time",
    f"LSTM, {UNITS} units, {STEPS} steps, seed 0",
    "Left: gradient of a loss at the last step. Right: mean of the forget gate, the share of its state a cell keeps.",
)
with picture("lstm", header, columns=2, width=4.2) as panels:
    for index, (way, found) in enumerate(courses.items()):
        style = line_style(index).keywords
        panels[0].semilogy(found[0].steps, found[0].cell.backward, label=way, **style)
        panels[1].plot(found[0].steps, found[0].gates[1].mean, **style)
    panels[0].set_ylabel("rms of dL/dc")
    panels[1].set_ylabel("forget gate")
    panels[1].set_ylim(0, 1)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.grid(axis="y")
    panels[0].legend()

# Without a bias the forget gate stands at 1/2, and so does the factor of a step, whatever the recurrent weights are.
for way in ("default", "orthogonal", "orthogonal, xavier"):
    assert abs(gate[way] - 0.5) < 0.03
    assert 0.45 < gain[way] < 0.6
    assert cell[way] < 0.7**STEPS
# sigmoid(1) = 0.73 and sigmoid(3) = 0.95, less what the inputs take from it.
assert abs(gate["the same, forget 1"] - 0.73) < 0.06
assert abs(gate["the same, forget 3"] - 0.95) < 0.04
assert cell["default"] < cell["the same, forget 1"] < cell["the same, forget 3"]
assert cell["the same, forget 3"] > 0.1
# Only a bias lets all of them learn; without one none does over 50 steps.
assert None not in learned["the same, forget 3"]
assert learned["default"].count(None) > SEEDS_HERE / 2 or QUICK
# Orthogonal weights help the plain network, whose state has no gate.
assert plain["orthogonal"] > 100 * plain["default"]
