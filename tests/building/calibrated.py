"""Networks and checks for the tests of calibration."""

import importlib.util
from pathlib import Path

import torch
from torch import nn

_SPEC = importlib.util.spec_from_file_location("examples_models", Path(__file__).parents[2] / "examples" / "models.py")
examples = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(examples)

__all__ = ["examples", "mlp", "state", "stds", "unchanged"]


def mlp(depth, width=64, activation=nn.ReLU, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        *(layer for _ in range(depth) for layer in (nn.Linear(width, width, bias=bias), activation())),
        nn.Linear(width, 10),
    )


def stds(model, batch, kinds=(nn.Linear, nn.Conv2d)):
    """Return the standard deviations of the outputs of all layers, in the order in which they run."""
    found = []
    handles = [
        module.register_forward_hook(lambda m, i, o: found.append(float(o.detach().double().std(correction=0))))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    model(batch)
    for handle in handles:
        handle.remove()
    return found


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
