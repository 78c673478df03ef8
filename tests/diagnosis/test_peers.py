"""Peers by the graph: which layers are compared does not hang on what they are called."""

import itertools

import pytest
import torch
from torch import nn

import propscope
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.peers import groups_in_one_place, maker_of, medians_of_others
from propscope.records.finding import Diagnosis

BLOCKS = 5
NAMES = ("norm", "up", "act", "down")
# Names that say nothing: each block's parts are called otherwise.
OTHERS = [tuple(f"{word}{at}" for word in words) for at, words in enumerate(itertools.permutations("abcd", 4))]


class PreNorm(nn.Module):
    """Residual blocks x + down(act(up(norm(x)))), whose parts have the given names."""

    def __init__(self, names):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.parts = nn.ModuleList()
        for called in names:
            block = nn.Module()
            parts = nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)
            for name, part in zip(called, parts, strict=True):
                block.add_module(name, part)
            self.parts.append(block)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(x)
        for block in self.parts:
            norm, up, act, down = block.children()
            x = x + down(act(up(norm(x))))
        return self.last(x)


@pytest.mark.parametrize(
    ("values", "medians"),
    [
        ([1.0, 2.0], [2.0, 1.0]),
        ([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]),
        ([0.0, 1.0, 100.0], [1.0, 1.0, 1.0]),
        ([3.0, 0.0, 2.0, 1.0], [1.0, 2.0, 1.0, 2.0]),
        ([5.0, 5.0, 5.0], [5.0, 5.0, 5.0]),
    ],
)
def test_of_two_medians_of_the_others_the_nearer_one_counts(values, medians):
    assert medians_of_others(values) == medians


def built(names, fault=None):
    torch.manual_seed(0)
    model = PreNorm(names)
    if fault is not None:
        fault([*model.parts[2].children()])
    return model


def profiled(model):
    return propscope.profile(model, torch.randn(64, 16, generator=torch.Generator().manual_seed(1)))


def said(found: Diagnosis, model):
    """Return what was found, with numbers for names."""
    order = {name: f"<{at}>" for at, name in enumerate(dict(model.named_modules())) if name}
    lines = [(one.severity, one.kind, one.direction, one.message, tuple(one.sites)) for one in found.findings]
    text = repr(lines)
    for name in sorted(order, key=len, reverse=True):
        text = text.replace(name, order[name])
    return text


def scaled(at, factor):
    def fault(parts):
        with torch.no_grad():
            parts[at].weight.mul_(factor)

    return fault


FAULTS = {"norm": scaled(0, 0.01), "up": scaled(1, 100.0), "down": scaled(3, 0.01)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_layer_unlike_its_peers_is_found_under_any_name(fault):
    models = [built(names, FAULTS[fault]) for names in ([NAMES] * BLOCKS, OTHERS[:BLOCKS])]
    usual, other = (propscope.diagnose(profiled(model)) for model in models)
    assert usual.worst.first.startswith("parts.2")
    assert said(other, models[1]) == said(usual, models[0])


def groups(model):
    evidence = Evidence.of([profiled(model)])
    sites = evidence.sites
    found = groups_in_one_place(
        evidence.members[0],
        {at: at for at in range(len(sites))},
        more_than=2,
        alike=lambda index: maker_of(sites[index]),
    )
    return {sites[at].name: [sites[other].name for other in group] for at, group in found.items()}


def test_the_place_in_a_block_is_told_by_what_is_around_it():
    found = groups(built([NAMES] * BLOCKS))
    for part in NAMES:
        assert all(
            found[f"parts.{at}.{part}"] == [f"parts.{at}.{part}" for at in range(BLOCKS)] for at in range(BLOCKS)
        )
    assert not {"first", "last"} & found.keys()


class Mixed(nn.Module):
    """Depthwise and dense convolutions one after the other, all between the same activations."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential()
        for at in range(8):
            self.layers.append(nn.Conv2d(8, 8, 3, padding=1, groups=8 if at % 2 else 1))
            self.layers.append(nn.ReLU())

    def forward(self, x):
        return self.layers(x)


# The first one is fed by the input.
DENSE, DEPTHWISE = ({f"layers.{at}" for at in range(first, 16, 4)} for first in (4, 2))


def test_convolutions_of_one_channel_each_are_no_peers_of_dense_ones():
    profile = propscope.profile(Mixed(), torch.randn(2, 8, 6, 6))
    sites = profile.without_inputs.sites
    found = groups_in_one_place(
        profile.without_inputs, {at: at for at in range(len(sites))}, more_than=1, alike=lambda index: sites[index].kind
    )
    depthwise, dense = ([at for at, site in enumerate(sites) if site.name in names] for names in (DEPTHWISE, DENSE))
    for group in (depthwise, dense):
        assert all(found[at] == group for at in group)


def test_an_activation_is_as_large_as_its_input_asks():
    # The gates of small inputs are one half: large beside their inputs, which is not their fault.
    torch.manual_seed(0)
    layers = [part for at in range(4) for part in (nn.Linear(16, 16), nn.Sigmoid(), nn.LayerNorm(16))]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        model[0].weight.mul_(0.01)
        model[0].bias.zero_()
    found = propscope.diagnose(profiled(model))
    assert not any(one.first == "1" for one in found.findings)


def test_a_part_that_the_first_block_never_skips_does_not_make_its_place_another():
    torch.manual_seed(0)
    shares = [0.0, 0.1, 0.1, 0.2, 0.2]
    model = PreNorm([NAMES] * BLOCKS)
    for share, block in zip(shares, model.parts, strict=True):
        block.down = nn.Sequential(block.down, nn.Dropout(share) if share else nn.Identity())
    with torch.no_grad():
        for block in model.parts:
            block.down[0].weight.mul_(0.1)
        # About twice what is usual elsewhere, but 40 times what it is in the other blocks.
        model.parts[0].down[0].weight.mul_(40)
    found = propscope.diagnose(profiled(model))
    assert (found.verdict, found.worst.first) == ("strained", "parts.0.down.0")
