"""Walks over a model's modules and parameters, which torch's own are slower at."""

import pytest
import torch
from torch import nn

from propscope.measure.parameter_names import ParameterNames
from propscope.measure.wrappers import modules_in, parameters_in, unwrapped_modules, unwrapped_parameters


def shared():
    model = nn.Module()
    model.first = nn.Linear(3, 3)
    model.register_module("absent_part", None)
    model.group = nn.ModuleDict({"again": model.first, "norm": nn.BatchNorm1d(3), "tied": nn.Linear(3, 3, bias=False)})
    model.group["tied"].weight = model.first.weight
    model.register_parameter("absent", None)
    model.group["norm"].around = model.group
    return model


MODELS = {"shared": shared, "a layer": lambda: nn.Linear(2, 2), "attention": lambda: nn.MultiheadAttention(4, 2)}


@pytest.mark.parametrize("name", MODELS)
def test_a_walk_finds_what_torchs_own_finds_in_its_order(name):
    model = MODELS[name]()
    assert list(map(id, modules_in(model))) == list(map(id, model.modules()))
    assert list(map(id, parameters_in(modules_in(model)))) == list(map(id, model.parameters()))
    assert unwrapped_modules(model) == list(model.named_modules())
    assert [(path, id(one)) for path, one in unwrapped_parameters(model)] == [
        (path, id(one)) for path, one in model.named_parameters()
    ]


def test_the_names_of_a_parameter_are_those_of_the_present_pass():
    model = shared()
    names = ParameterNames(model)
    before = model.first.bias
    assert names.of(model.first.weight) == ("first.weight", "group.again.weight", "group.tied.weight")
    assert names.of(before) == ("first.bias", "group.again.bias")
    assert names.own(model.first) == [names.of(model.first.weight), names.of(before)]
    assert names.of(torch.zeros(3)) is None
    model.first.bias = nn.Parameter(torch.zeros(3))
    assert names.of(model.first.bias) is None
    names.begin()
    assert names.of(model.first.bias)[0] == "first.bias"
    assert names.of(before) is None
