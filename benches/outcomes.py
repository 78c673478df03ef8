"""What an optimizer makes of untrained MLPs: several are trained side by side, each at the best of four fixed rates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from propscope.experiments.training import TrainingData
from propscope.networks import MLPSpec
from propscope.records.finding import Optimizer

# The usual rate first, since a network that has learned is not trained again. SGD has a momentum of 0.9.
RATES: Mapping[Optimizer, tuple[float, ...]] = {"adam": (1e-3, 3e-3, 3e-4, 1e-4), "sgd": (1e-2, 1e-1, 1e-3, 1.0)}
BATCH = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best validation accuracy that a network reached, and the first rate that came there."""

    accuracy: float
    learning_rate: float


def outcomes(
    specs: Sequence[MLPSpec], data: TrainingData, optimizer: Optimizer, *, steps: int, target: float
) -> list[Outcome]:
    """Return the outcome of each network, which differ in their initializer alone; past the target, none goes on.

    Each network is that of seed 0 of `train_mlp`, and the rows come in one order for all. The accuracy is looked at
    after each epoch.
    """
    best = [Outcome(0.0, math.nan)] * len(specs)
    for rate in RATES[optimizer]:
        left = [index for index, outcome in enumerate(best) if outcome.accuracy < target]
        if not left:
            break
        found = _trained([specs[index].build(seed=0) for index in left], data, optimizer, rate, steps, target)
        for index, accuracy in zip(left, found, strict=True):
            best[index] = max(best[index], Outcome(accuracy, rate), key=lambda outcome: outcome.accuracy)
    return best


def kept(path: Path, make: Callable[[], list[Outcome]]) -> list[Outcome]:
    """Return the outcomes that a file holds; made and written where there is none."""
    if not path.exists():
        path.write_text(json.dumps([[outcome.accuracy, outcome.learning_rate] for outcome in make()]))
    return [Outcome(accuracy, rate) for accuracy, rate in json.loads(path.read_text())]


def _trained(
    nets: list[nn.Module], data: TrainingData, optimizer: Optimizer, rate: float, steps: int, target: float
) -> list[float]:
    """Return the best validation accuracy of each network after any epoch, by one batched product a layer."""
    layers = [[module for module in net.modules() if isinstance(module, nn.Linear)] for net in nets]
    activation = next(m for m in nets[0].modules() if not isinstance(m, nn.Linear) and not list(m.children()))
    together = list(zip(*layers, strict=True))
    weights = [torch.stack([layer.weight.detach().T for layer in same]).requires_grad_() for same in together]
    biases = [torch.stack([layer.bias.detach()[None] for layer in same]).requires_grad_() for same in together]
    parameters = [*weights, *biases]
    made: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=rate, fused=True)
    if optimizer == "sgd":
        made = torch.optim.SGD(parameters, lr=rate, momentum=0.9, fused=True)

    def forward(x: Tensor) -> Tensor:
        signal = x.expand(len(nets), *x.shape)
        for depth, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            signal = torch.baddbmm(bias, activation(signal) if depth else signal, weight)
        return signal

    (x, y), (held_out, wanted) = data.train, data.validation
    order, best, done = torch.Generator().manual_seed(0), torch.zeros(len(nets)), 0
    while done < steps and (best < target).any():
        for rows in torch.randperm(len(x), generator=order).split(BATCH)[: steps - done]:
            out = forward(x[rows])
            # The sum over the networks: none sees another's gradient.
            loss = cross_entropy(out.flatten(0, 1), y[rows].repeat(len(nets)), reduction="sum") / len(rows)
            made.zero_grad()
            loss.backward()
            made.step()
            done += 1
        with torch.no_grad():
            right = forward(held_out).argmax(-1) == wanted
        best = torch.maximum(best, right.float().mean(-1))
    return best.tolist()
