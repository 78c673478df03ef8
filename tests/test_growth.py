"""Twice the sites take twice the work: thousands of modules are profiled, judged, printed and written in seconds."""

from dataclasses import replace

import pytest
import torch
from building.growth import growth
from building.records import model, site, weight
from torch import nn
from torch.nn import functional as F

import propscope
from propscope.diagnosis import diagnose
from propscope.report.display import html_of, text_of
from propscope.report.documents import inspection_document
from propscope.report.inspection import inspection

# 2 is linear. A quadratic part that takes a tenth of the smaller work gives 2.2.
LINEAR = 2.15
SIZES = 150, 300


def blocks(count, **figures):
    """Return a profile of `count` blocks of a norm, a layer with its weight, an activation and a sum."""
    sites, parameters = [], []
    for number in range(count):
        name = f"h.{number}"
        sites += [
            site(f"{name}.norm", "LayerNorm", role="norm"),
            site(f"{name}.up", role="pre-activation", activation="ReLU", **figures),
            site(f"{name}.act", "ReLU", role="activation"),
            site(f"{name}.add", "add", role="residual", branch_share=0.1),
        ]
        parameters += [weight(f"{name}.norm.weight", 1.0, (64,)), weight(f"{name}.up.weight", 1.0)]
    return model(sites, parameters)


def with_parameters(profile, change):
    return replace(profile, parameters=tuple(map(change, profile.parameters)))


def stack(count):
    return model([site(str(number)) for number in range(count)], [weight(f"{n}.weight", 1.0) for n in range(count)])


def zero_weights(count):
    return with_parameters(blocks(count), lambda each: replace(each, value=replace(each.value, mean=0.0, std=0.0)))


def still(count):
    return with_parameters(blocks(count), lambda each: replace(each, gradient=None))


def odd_weights(count):
    """Return blocks whose weights are all far from 1, each second one far above the others."""
    names = [f"h.{number}.up" for number in range(count)]
    return model([site(name) for name in names], [weight(f"{n}.weight", 1e3 ** (i % 2)) for i, n in enumerate(names)])


def odd_layers(count):
    """Return a stack where each tenth site is far above its neighbours."""
    return model([site(str(number), rms=1e4 if number % 10 == 5 else 1.0) for number in range(count)])


def rising(count):
    sizes = [10.0 ** (number % 9) for number in range(count)]
    return model([site(f"{n}.up", rms=rms, role="pre-activation", activation="Tanh") for n, rms in enumerate(sizes)])


def unlike_names(count):
    """Return residual sums of modules whose names have no number, so that each is a place of its own."""
    letters = str.maketrans("0123456789", "abcdefghij")
    names = [f"part_{number}".translate(letters) for number in range(count)]
    return model([
        each for name in names for each in (site(f"{name}.up"), site(f"{name}.add", "add", role="residual"))
    ])  # fmt: skip


def recurrent(count):
    """Return a cell of a gate and a sum that runs so many times."""
    steps = [f"#{number}" for number in range(count)]
    return model(
        [
            each
            for step in steps
            for each in (
                site(f"cell.gate{step}", role="pre-activation", activation="Tanh"),
                site(f"cell.add{step}", "add", role="residual", branch_share=0.5),
            )
        ],
        [weight("cell.gate.weight", 1.0)],
    )


def missing_norms(count):
    """Return blocks of which each third has no norm."""
    whole = blocks(count)
    kept = [each for number, each in enumerate(whole.sites) if number % 12 or each.kind != "LayerNorm"]
    return replace(whole, sites=tuple(kept))


def alike(count):
    """Return blocks whose samples are alike from the second one on."""
    whole = blocks(count)
    sites = [replace(each, mean_cosine=0.2 if i < 4 else 0.99999) for i, each in enumerate(whole.sites)]
    return replace(whole, sites=tuple(sites))


PROFILES = (
    stack, blocks, zero_weights, still, odd_weights, odd_layers, rising, unlike_names, recurrent, missing_norms, alike,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shape", PROFILES)
def test_diagnose(shape):
    assert growth(diagnose, *map(shape, SIZES)) < LINEAR


class Sums(nn.Module):
    """A stream to which each layer adds a tanh of what it makes of it."""

    def __init__(self, count):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(count))

    def forward(self, value):
        for layer in self.layers:
            value = value + torch.tanh(layer(value))
        return value


def flat(count):
    """Return sums of which each second layer passes no gradient, by its bias."""
    net = Sums(count)
    for layer in net.layers[::2]:
        nn.init.constant_(layer.bias, 50.0)
    return net


def equal_units(count):
    net = Sums(count)
    for layer in net.layers[::2]:
        nn.init.constant_(layer.weight, 0.1)
    return net


class Detached(nn.Module):
    """Branches that are cut off, each in a place of its own."""

    def __init__(self, count):
        super().__init__()
        for number in range(count):
            name = "part_" + str(number).translate(str.maketrans("0123456789", "abcdefghij"))
            self.add_module(name, nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)]))

    def forward(self, value):
        for first, second in self.children():
            value = value + second(torch.tanh(first(value)).detach())
        return value


@pytest.mark.slow
@pytest.mark.parametrize("build", [Sums, flat, equal_units, Detached])
def test_diagnose_networks(build):
    torch.manual_seed(0)
    batch = torch.randn(16, 16)
    assert growth(diagnose, *(propscope.profile(build(size), batch) for size in (60, 120))) < LINEAR


@pytest.mark.slow
@pytest.mark.parametrize("shape", [blocks, zero_weights, odd_layers])
@pytest.mark.parametrize("show", [text_of, html_of, inspection, inspection_document])
def test_reports(shape, show):
    pairs = [(profile, diagnose(profile)) for profile in map(shape, SIZES)]
    work = (lambda pair: show(pair[0])) if show in (text_of, html_of) else (lambda pair: show(*pair))
    assert growth(work, *pairs) < LINEAR


@pytest.mark.slow
def test_save_and_load(tmp_path):
    def write(profile):
        propscope.save(tmp_path / f"{len(profile.sites)}.h5", profile, overwrite=True)

    profiles = [blocks(size) for size in SIZES]
    assert growth(write, *profiles) < LINEAR
    assert growth(lambda profile: propscope.load(tmp_path / f"{len(profile.sites)}.h5"), *profiles) < LINEAR


class Block(nn.Module):
    """A residual block with an activation of its own, and functions between its modules."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.act, self.down = nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)

    def forward(self, value):
        return value + F.relu(self.down(self.act(self.up(self.norm(value)))))


class Nest(nn.Module):
    """Layers in a binary tree of modules."""

    def __init__(self, count):
        super().__init__()
        halves = [count // 2, count - count // 2]
        self.parts = nn.ModuleList(Nest(half) if half > 1 else nn.Linear(4, 4) for half in halves)

    def forward(self, value):
        for part in self.parts:
            value = part(value)
        return value


class Scales(nn.Module):
    """A parameter for each step."""

    def __init__(self, count):
        super().__init__()
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(4)) for _ in range(count))

    def forward(self, value):
        for scale in self.scales:
            value = value * scale
        return value


def sequence(count):
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)))


def unlit(count):
    """Return a stack that gets no gradient, since its last layer is zero."""
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)))
    nn.init.zeros_(net[-1].weight)
    return net


def residual(count):
    return nn.Sequential(*(Block() for _ in range(count)))


def shared(count):
    act = nn.ReLU()
    return nn.Sequential(*(each for _ in range(count) for each in (nn.Linear(4, 4), act)))


@pytest.mark.slow
@pytest.mark.parametrize("build", [sequence, unlit, residual, shared, Nest, Scales])
def test_profile(build):
    batch = torch.ones(3, 4)
    assert growth(lambda net: propscope.profile(net, batch), *map(build, (60, 120))) < LINEAR
