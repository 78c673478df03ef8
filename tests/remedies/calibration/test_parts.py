import pytest
import torch
from torch import nn

from propscope.measure.filters import Filter
from propscope.remedies.calibration.parts import Call, survey


def parts(model):
    return [part for own in survey(model, Filter()).parts.values() for part in own]


def called(module, *args, **kwargs):
    return Call(module, args, kwargs, module(*args, **kwargs))


def test_a_call_runs_again_after_a_change_alone():
    linear, x = nn.Linear(3, 4), torch.randn(5, 3)
    call = called(linear, x)
    first = call.output
    assert call.output is first
    with torch.no_grad():
        linear.weight.mul_(2)
    call.changed()
    assert torch.equal(call.output, linear(x))
    assert call.reruns == 1


@pytest.mark.parametrize("separate", [False, True])
def test_projections_of_attention_are_what_torch_projects(separate):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 1, kdim=3 if separate else None, vdim=5 if separate else None)
    nn.init.normal_(attention.in_proj_bias)
    sizes = (4, 3, 5) if separate else (4, 4, 4)
    query, key, value = (torch.randn(6, 2, size) for size in sizes)
    call = called(attention, query, key, value=value)
    q, k, v = (part.observe(call)[0] for part in parts(attention)[:3])
    # With one head, torch's attention weights are softmax(q k^T / sqrt(4)), and its output projects their mix of v.
    weights = torch.softmax(q.transpose(0, 1) @ k.permute(1, 2, 0) / 2, -1)
    assert torch.allclose(weights, call.output[1], atol=1e-6)
    mixed = (weights @ v.transpose(0, 1)).transpose(0, 1)
    assert torch.allclose(attention.out_proj(mixed), parts(attention)[3].observe(call)[0], atol=1e-6)


def test_gates_of_a_cell_and_of_a_layer():
    torch.manual_seed(0)
    cell, lstm = nn.GRUCell(3, 4), nn.LSTM(3, 4, 2, bidirectional=True)
    x = torch.randn(6, 3)
    assert torch.equal(parts(cell)[0].observe(called(cell, x))[0], x @ cell.weight_ih.t())
    sequence = torch.randn(7, 2, 3)
    found = {part.name: part.observe(called(lstm, sequence))[0] for part in parts(lstm)}
    assert list(found) == ["weight_ih_l0", "weight_ih_l0_reverse", "weight_ih_l1", "weight_ih_l1_reverse"]
    assert torch.equal(found["weight_ih_l0_reverse"], nn.functional.linear(sequence, lstm.weight_ih_l0_reverse))
    assert found["weight_ih_l1"].shape == (7, 2, 16)


def test_channels_are_the_units_of_an_image():
    convolution = nn.Conv2d(3, 5, 1)
    assert parts(convolution)[0].observe(called(convolution, torch.randn(2, 3, 4, 4)))[1] == 1


def test_a_view_of_a_weight_has_the_key_of_the_weight():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = nn.Parameter(model[0].weight.t())
    first, second, third = parts(model)
    assert first.key == second.key != third.key


def test_orthogonal_start_is_orthogonal_in_each_matrix():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.MultiheadAttention(6, 2), "b": nn.LSTM(4, 4), "c": nn.Linear(3, 8)})
    for part in parts(model):
        part.orthogonalize(0)
    eye = torch.eye(6)
    for block in model["a"].in_proj_weight.detach().chunk(3):
        assert torch.allclose(block @ block.t(), eye, atol=1e-5)
    for gate in model["b"].weight_ih_l0.detach().chunk(4):
        assert torch.allclose(gate @ gate.t(), torch.eye(4), atol=1e-5)
    weight = model["c"].weight.detach().clone()
    assert torch.allclose(weight.t() @ weight, torch.eye(3), atol=1e-5)
    parts(model)[-1].orthogonalize(0)
    assert torch.equal(model["c"].weight, weight)
    parts(model)[-1].orthogonalize(1)
    assert not torch.equal(model["c"].weight, weight)


def test_weight_norm_keeps_its_directions():
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    (part,) = parts(linear)
    before = linear.weight.detach().clone()
    part.orthogonalize(0)
    assert torch.equal(linear.weight, before)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_outputs_that_are_no_dense_floats_are_not_observed():
    class Own(nn.Linear):
        def forward(self, x):
            return self.made(super().forward(x))

    own = Own(3, 4)
    nested = torch.nested.nested_tensor
    for made in (
        lambda y: nested([y, y[1:]]),
        lambda y: (y, y),
        lambda y: y > 0,
        lambda y: y.to_sparse(),
        lambda y: y.sum(),
    ):
        own.made = made
        assert parts(own)[0].observe(called(own, torch.randn(5, 3))) is None
