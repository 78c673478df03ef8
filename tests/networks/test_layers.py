import torch
from torch import nn

from propscope.networks.layers import MLP, Add, Layer, ResidualLayer, unfilled_linear

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


def test_unfilled_linear_is_torchs_own_and_draws_nothing():
    before = torch.get_rng_state()
    linear = unfilled_linear(3, 4, **CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(linear) is nn.Linear
    assert linear.weight.shape == (4, 3)
    linear.reset_parameters()
    assert linear.weight.abs().max() <= 1 / 3**0.5


def test_add():
    assert torch.equal(Add()(torch.ones(2, 2), torch.full((2, 2), 3.0)), torch.full((2, 2), 4.0))


def test_layer_order_is_linear_norm_activation_dropout():
    seen = []

    def watch(name, module):
        module.register_forward_hook(lambda *_: seen.append(name))
        return module

    layer = Layer(
        watch("linear", nn.Linear(3, 4)),
        watch("activation", nn.Tanh()),
        norm=watch("norm", nn.LayerNorm(4)),
        dropout=watch("dropout", nn.Dropout(0.5)),
    ).eval()
    x = torch.randn(2, 3)
    expected = torch.tanh(nn.functional.layer_norm(layer.linear(x), (4,)))
    seen.clear()
    assert torch.equal(layer(x), expected)
    assert seen == ["linear", "norm", "activation", "dropout"]


def test_residual_layer_adds_to_the_stream_before_norm_and_activation():
    layer = ResidualLayer(nn.Linear(4, 4), nn.Tanh(), norm=nn.LayerNorm(4), first=False)
    h, z = torch.randn(2, 4), torch.randn(2, 4)
    out, stream = layer(h, z)
    assert torch.equal(stream, z + layer.linear(h))
    assert torch.equal(out, torch.tanh(nn.functional.layer_norm(stream, (4,))))


def test_first_residual_layer_has_nothing_to_add():
    layer = ResidualLayer(nn.Linear(3, 4), nn.Tanh(), first=True)
    assert "add" not in dict(layer.named_modules())
    x = torch.randn(2, 3)
    assert torch.equal(layer(x, None)[1], layer.linear(x))


def test_readout():
    mlp = MLP([Layer(nn.Linear(3, 4), nn.ReLU())], nn.Linear(4, 2))
    assert mlp(torch.zeros(5, 3)).shape == (5, 2)
    assert [name for name, _ in mlp.named_parameters()][-2:] == ["output.weight", "output.bias"]
