"""The comparison sees each kind of disturbance: what it calls identical is identical."""

import random
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from zoo.comparison import differences
from zoo.models import ZOO
from zoo.running import observe


def _each(model, change):
    for module in model.modules():
        change(module)


def consume_numbers(model):
    torch.rand(1)


def consume_numpy(model):
    np.random.rand()  # noqa: NPY002  the global state is the subject


def consume_python(model):
    random.random()


def leave_a_module_hook(model):
    model[3].register_forward_hook(lambda module, inputs, output: None)


def leave_a_parameter_hook(model):
    model[0].weight.register_hook(lambda gradient: None)


def change_an_output(model):
    model[3].register_forward_hook(lambda module, inputs, output: output * (1 + 1e-7))


def change_a_gradient(model):
    handle = model[3].weight.register_hook(lambda gradient: gradient * (1 + 2e-7))
    return handle.remove


def change_a_parameter(model):
    model[0].weight.data[0, 0] += 1e-7


def detach_an_output(model):
    model[3].register_forward_hook(lambda module, inputs, output: output.detach())


def switch_training(model):
    return lambda: model[5].eval()


def switch_requires_grad(model):
    return lambda: model[0].weight.requires_grad_(False)


def leave_an_attribute(model):
    model[1].seen = True


def leave_a_switch(model):
    return lambda: torch.autograd.set_detect_anomaly(True)


class PassOn(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def leave_a_function_mode(model):
    return PassOn().__enter__


DISTURBANCES = (
    consume_numbers,
    consume_numpy,
    consume_python,
    leave_a_module_hook,
    leave_a_parameter_hook,
    change_an_output,
    change_a_gradient,
    change_a_parameter,
    detach_an_output,
    switch_training,
    switch_requires_grad,
    leave_an_attribute,
    leave_a_switch,
    leave_a_function_mode,
)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("disturb", DISTURBANCES, ids=lambda function: function.__name__)
def test_a_disturbance_is_seen(disturb):
    @contextmanager
    def tracker(model: nn.Module):
        after = disturb(model) or (lambda: None)
        yield
        after()

    bare = observe(ZOO["mlp"])
    try:
        disturbed = observe(ZOO["mlp"], tracker=tracker)
    finally:
        torch.autograd.set_detect_anomaly(False)
        if disturb is leave_a_function_mode:
            torch.overrides._pop_mode()
    assert differences((bare.results, bare.state), (disturbed.results, disturbed.state))


def test_a_changed_buffer_is_seen():
    @contextmanager
    def tracker(model: nn.Module):
        yield
        model.stem[1].num_batches_tracked += 1

    bare, disturbed = observe(ZOO["resnet"]), observe(ZOO["resnet"], tracker=tracker)
    assert differences(bare.state, disturbed.state) == ["[model][buffers][stem.1.num_batches_tracked]: values, by 1"]


def test_no_disturbance_is_seen_where_there_is_none():
    bare, again = observe(ZOO["mlp"]), observe(ZOO["mlp"], tracker=lambda model: nullcontext())
    assert not differences((bare.results, bare.state), (again.results, again.state))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.zeros(2, 2), torch.zeros(2, 2).t()[:, :1].expand(2, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(2, requires_grad=True)),
        (torch.zeros(2), nn.Parameter(torch.zeros(2), requires_grad=False)),
        (torch.eye(2).to_sparse(), torch.ones(2, 2).to_sparse()),
        ({"x": 1}, {"x": 1.0}),
        ((1, 2), [1, 2]),
    ],
    ids=["sign", "strides", "dtype", "requires_grad", "class", "sparse", "number", "container"],
)
def test_values_that_differ_are_seen(a, b):
    assert differences(a, b)
    assert not differences(a, a)
    assert not differences(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
