"""Weights that take part and are no parameters of the model, and others that are not registered on purpose."""

import pytest
import torch
import torch.nn.functional as F
from building.networks import Made
from torch import nn
from torch.nn.utils import parametrizations

import propscope
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.unregistered import unregistered

WIDTH = 8


def linear(outputs=WIDTH):
    return nn.Linear(WIDTH, outputs)


def batch():
    return torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(1))


def around(run, **attributes):
    """Return a network that runs a function of itself between two layers; `attributes` are plain ones."""
    model = Made(lambda m, x: m.end(run(m, torch.tanh(m.start(x)))), start=linear(), end=linear(2))
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def through(layers):
    def run(model, x):
        for layer in layers(model):
            x = torch.tanh(layer(x))
        return x

    return run


def buffered():
    model = around(lambda m, x: F.linear(x, m.filters) + m.positions, positions=torch.randn(WIDTH))
    model.register_buffer("filters", torch.randn(WIDTH, WIDTH))
    return model


def taught(model, x):
    with torch.no_grad():
        aim = model.layers[0](x)
    return x + aim


def generated():
    return Made(
        lambda m, x: m.end(F.linear(x, m.layer(m.code).view(WIDTH, WIDTH))),
        layer=nn.Linear(3, WIDTH * WIDTH),
        code=nn.Parameter(torch.randn(3)),
        end=linear(2),
    )


def replaced(changed):
    body = nn.Sequential(linear(), nn.Tanh(), linear())

    def run(model, x):
        return torch.func.functional_call(model.body, {n: changed(p) for n, p in model.body.named_parameters()}, (x,))

    return Made(run, body=body)


AT_FAULT = {
    "list": (lambda: around(through(lambda m: m.layers), layers=[linear() for _ in range(3)]), "3 linear operations"),
    "dict": (
        lambda: around(
            through(lambda m: m.layers.values()), layers={"a": linear(), "b": nn.LayerNorm(WIDTH), "c": linear()}
        ),
        "2 linear and 1 layer_norm operations",
    ),
    "parameters in a list": (
        lambda: around(lambda m, x: x @ m.weights[0], weights=[nn.Parameter(torch.randn(WIDTH, WIDTH))]),
        "1 matmul operation ",
    ),
    "tensor": (
        lambda: around(lambda m, x: x * m.scale, scale=torch.ones(WIDTH, requires_grad=True)), "1 mul operation "
    ),
    "made in each pass": (lambda: around(lambda m, x: linear()(x)), "1 linear operation "),
    "convolutions": (
        lambda: around(lambda m, x: m.layers[0](x[:, None])[:, 0], layers=[nn.Conv1d(1, 1, 3, padding=1)]),
        "1 conv1d operation ",
    ),
}  # fmt: skip
SOUND = {
    "module list": lambda: around(through(lambda m: m.layers), layers=nn.ModuleList(linear() for _ in range(3))),
    "buffers": buffered,
    "frozen layers in a list": lambda: around(
        through(lambda m: m.layers), layers=[linear().requires_grad_(False) for _ in range(2)]
    ),
    "teacher in a list": lambda: around(taught, layers=[linear()]),
    "hypernetwork": generated,
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(linear()), nn.Tanh(), linear(2)),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(linear()), nn.Tanh(), linear(2)),
    "functional call": lambda: replaced(lambda parameter: parameter),
    "fast weights": lambda: replaced(lambda parameter: parameter - 0.1 * parameter),
}


@pytest.mark.parametrize("name", AT_FAULT)
def test_weights_that_no_optimizer_gets_are_found(name):
    torch.manual_seed(0)
    make, said = AT_FAULT[name]
    diagnosis = propscope.diagnose(propscope.profile(make(), batch()))
    (found,) = [finding for finding in diagnosis.findings if finding.severity != "note"]
    assert (diagnosis.verdict, found.kind) == ("strained", "unregistered")
    assert f"weights of {said}" in found.message
    assert "nn.ModuleList" in found.remedy.text
    assert found.sites


@pytest.mark.parametrize("name", SOUND)
def test_weights_that_are_meant_to_be_no_parameters_are_not(name):
    torch.manual_seed(0)
    profile = propscope.profile(SOUND[name](), batch())
    assert list(unregistered(Evidence.of([profile]))) == []
    assert propscope.diagnose(profile).verdict == "healthy"


@pytest.mark.parametrize("kind", [nn.Parameter, lambda value: value.requires_grad_()], ids=["parameter", "tensor"])
def test_tensors_in_the_place_of_parameters_are_a_note(kind):
    model = nn.Sequential(linear(), nn.Tanh(), linear(2))
    tensors = {name: kind(parameter.detach().clone()) for name, parameter in model.named_parameters()}
    with propscope.track(model) as recorder:
        torch.func.functional_call(model, tensors, (batch(),)).sum().backward()
    diagnosis = propscope.diagnose(recorder.profile())
    assert diagnosis.verdict == "healthy"
    assert any("functional_call" in finding.cause for finding in diagnosis.findings)


def test_another_network_in_the_loss_is_none_of_the_model():
    critic = linear(1)
    profile = propscope.profile(nn.Sequential(linear(), nn.Tanh(), linear()), batch(), lambda out: critic(out).sum())
    assert list(unregistered(Evidence.of([profile]))) == []


def test_of_a_layer_that_works_on_its_weight_the_place_is_where_the_weight_is_used():
    def standardized(model, x):
        (layer,) = model.layers
        weight = layer.weight.reshape(WIDTH, WIDTH)
        # Others multiply and reshape too.
        x = torch.sigmoid(2 * x.reshape(-1, WIDTH))
        return torch.tanh(F.linear(x, weight * layer.gain))

    layer = linear()
    layer.gain = nn.Parameter(torch.ones(WIDTH, 1))
    model = around(standardized, layers=[layer])
    (finding,) = unregistered(Evidence.of([propscope.profile(model, batch())]))
    assert ["sigmoid" in name for name in finding.sites] == [False]


def test_scores_of_parts_of_one_layer_are_no_place_of_weights_that_a_function_takes():
    """The scores of attention are products of one layer's values, as in GPT-2, whose layers call addmm."""

    def attending(model, x):
        query, key = model.both(x).chunk(2, dim=-1)
        x = torch.softmax(query @ key.T, dim=-1) @ x
        return torch.tanh(torch.addmm(torch.zeros(WIDTH), x, model.layers[0].weight))

    model = around(attending, layers=[linear()])
    model.both = linear(2 * WIDTH)
    (finding,) = unregistered(Evidence.of([propscope.profile(model, batch())]))
    assert [name for name in finding.sites if "softmax" in name] == []
