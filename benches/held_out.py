"""Held-out faults: models, sizes and places that the rules were not made on.

No place is chosen by hand. For each model and fault, one place is drawn from all places where the fault can be planted,
including those where it may be meant and those without similar layers to compare with.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path

import faults
import torch
from faults import Answer, Build, Loss, Planted, module_of
from torch import Tensor, nn
from torch.nn import functional as F

import propscope

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from zoo.sequences import encoder  # type: ignore[import-not-found]
from zoo.vision import UNet  # type: ignore[import-not-found]

# 2026 was drawn first, and what it showed about torch's attention changed a rule; 2027 is held out from that too.
DRAW = 2027
WIDTHS = (16, 16, 32, 32, 64, 64, 64)


def vgg(source: torch.Generator) -> tuple[nn.Module, Tensor, Loss]:
    """Return seven convolutions with batch norm and no shortcut (Simonyan, Zisserman 2015), on 8 images of noise."""
    layers: list[nn.Module] = []
    channels = 3
    for number, width in enumerate(WIDTHS):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * (number % 2)
        channels = width
    net = nn.Sequential()
    net.features = nn.Sequential(*layers)
    net.flat = nn.Flatten()
    net.classifier = nn.Linear(channels * 16, faults.CLASSES)
    labels = torch.randint(faults.CLASSES, (8,), generator=source)
    return net, torch.randn(8, 3, 32, 32, generator=source), lambda out: F.cross_entropy(out, labels)


def unet(source: torch.Generator) -> tuple[nn.Module, Tensor, Loss]:
    """Return a UNet of two levels, on 4 images of noise with a mask each."""
    images = torch.randn(4, 3, 32, 32, generator=source)
    labels = torch.randint(2, (4, 32, 32), generator=source)
    return UNet(width=8), images, lambda out: F.cross_entropy(out, labels)


def transformer(source: torch.Generator) -> tuple[nn.Module, Tensor, Loss]:
    """Return two post-norm layers of torch's encoder, on 8 sequences of noise."""
    batch, wanted = (torch.randn(8, 12, 16, generator=source) for _ in range(2))
    return encoder(), batch, lambda out: F.mse_loss(out, wanted)


MODELS: dict[str, Build] = {
    "resnet": partial(faults.resnet, width=24, blocks=3),
    "gpt2": partial(faults.gpt2, layers=6, width=96),
    "encoder": transformer,
    "vgg": vgg,
    "unet": unet,
}

MATRICES = ("Conv2d", "ConvTranspose2d", "Linear", "Conv1D", "NonDynamicallyQuantizableLinear")
ACTIVATIONS = ("ReLU", "LeakyReLU", "SiLU", "NewGELUActivation")
NORMS = ("BatchNorm2d", "LayerNorm", "GroupNorm")
BLOCKS = ("Block", "GPT2Block", "TransformerEncoderLayer")
TWICE = {"Block": "add#1", "GPT2Block": "add#2"}
ANSWERS: dict[str, Answer] = {
    "weights x100": Answer(faults.LOUD_NORMED.kinds | faults.LOUD_GATE.kinds, faults.LOUD_NORMED.why),
    "weights x0.01": faults.FAINT,
    "zero weights": faults.ZERO,
    "NaN weight": faults.NOT_A_NUMBER,
    "frozen": faults.FROZEN,
    "sigmoid": faults.SIGMOID,
    "no norm": faults.UNHELD,
    "stream twice": faults.TWICE,
    "branch twice": faults.TWICE,
}


def drawn(draw: int = DRAW) -> tuple[Planted, ...]:
    """Return one fault of each kind for each model that has a place for it; the same `draw` gives the same faults."""
    source = random.Random(draw)
    found = []
    for model, build in MODELS.items():
        net, batch, loss = build(torch.Generator().manual_seed(0))
        sites = [site.name for site in propscope.profile(net, batch, loss).without_inputs.sites]
        for fault, answer in ANSWERS.items():
            places = [name for name, module in net.named_modules() if _fits(fault, module)]
            if fault == "frozen" and not places:
                places = [name for name, module in net.named_modules() if type(module).__name__ in MATRICES]
            if places:
                place = source.choice(places)
                found.append(Planted(model, fault, place, answer, _right(net, sites, fault, place)))
    return tuple(found)


def _fits(fault: str, module: nn.Module) -> bool:
    kind = type(module).__name__
    if fault == "sigmoid":
        return kind in ACTIVATIONS
    if fault == "no norm":
        return kind in NORMS
    if fault == "frozen":
        return kind in BLOCKS
    if fault.endswith("twice"):
        return kind in TWICE
    return kind in MATRICES + NORMS * (fault == "NaN weight")


def _right(net: nn.Module, sites: list[str], fault: str, place: str) -> tuple[str, ...]:
    """Return the right sites: the place, the module that holds it, or the sites before and after it."""
    modules = [module_of(name) for name in sites]
    if fault == "frozen":
        owners = (name.rpartition(".")[0] for name, _ in net.get_submodule(place).named_parameters())
        return (".".join(filter(None, (place, next(owners)))),)
    if fault.endswith("twice"):
        return (f"{place}.{TWICE[type(net.get_submodule(place)).__name__]}",)
    if place not in modules:
        return (place.rpartition(".")[0],)
    at = modules.index(place)
    if fault == "no norm":
        return tuple(name for name in (*sites[max(at - 1, 0) : at], *sites[at + 1 : at + 2]))
    return (place, modules[at - 1]) if fault == "sigmoid" else (place,)
