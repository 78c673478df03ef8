import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from propscope.errors import InputError
from propscope.networks.activations import parse_activation
from propscope.networks.initializers import SQUARE_DEFAULTS
from propscope.networks.mlp import MLPSpec, parse_width


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_names_and_shapes():
    mlp = MLPSpec(3, width=(8, 6, 4), input_size=5, output_size=2, norm="layer", dropout=0.1).build(seed=0)
    assert [tuple(layer.linear.weight.shape) for layer in mlp.layers] == [(8, 5), (6, 8), (4, 6)]
    names = [name for name, module in mlp.named_modules() if not list(module.children())]
    parts = ["linear", "norm", "activation", "dropout"]
    assert names == [f"layers.{layer}.{part}" for layer in range(3) for part in parts] + ["output"]
    assert mlp(torch.zeros(7, 5)).shape == (7, 2)


def test_plain_network_has_nothing_more():
    mlp = MLPSpec(2, width=4).build(seed=0)
    names = [name for name, module in mlp.named_modules() if not list(module.children())]
    assert names == ["layers.0.linear", "layers.0.activation", "layers.1.linear", "layers.1.activation"]
    assert mlp.layers[0].linear.weight.shape == (4, 4)
    assert mlp.output is None


def test_forward_is_the_formula():
    mlp = MLPSpec(3, width=6, activation="tanh", bias=0.5).build(seed=0)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    h = x
    for layer in mlp.layers:
        h = torch.tanh(h @ layer.linear.weight.T + layer.linear.bias)
    torch.testing.assert_close(mlp(x), h)


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_residual_convention(norm):
    mlp = MLPSpec(4, width=6, input_size=3, activation="tanh", residual=True, norm=norm, bias=0.1).build(seed=0)
    assert [name for name, m in mlp.named_modules() if type(m).__name__ == "Add"] == [
        f"layers.{i}.add" for i in (1, 2, 3)
    ]
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    weights = [(layer.linear.weight, layer.linear.bias) for layer in mlp.layers]

    def phi(z):
        if norm == "rms":
            z = z / (z.square().mean(1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
        return torch.tanh(z)

    z = x @ weights[0][0].T + weights[0][1]
    for weight, bias in weights[1:]:
        z = z + phi(z) @ weight.T + bias
    torch.testing.assert_close(mlp(x), phi(z))


@pytest.mark.parametrize(("residual", "factor"), [(0.25, 0.25), ("1/sqrt(L)", 0.5), (1.0, 1.0)])
def test_a_residual_branch_is_multiplied_by_its_factor(residual, factor):
    mlp = MLPSpec(4, width=6, activation="tanh", residual=residual, bias=0.1).build(seed=0)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    first, *rest = mlp.layers
    z = first.linear(x)
    for layer in rest:
        z = z + factor * layer.linear(torch.tanh(z))
    torch.testing.assert_close(mlp(x), torch.tanh(z))


@pytest.mark.parametrize("initializer", ["he_normal", "orthogonal", "uniform:low=0:high=1", "default", "critical"])
def test_gain_multiplies_every_weight_and_no_bias(initializer):
    if initializer == "critical":
        initializer += ":weight_variance=1.7:bias_variance=0.1:first_weight_variance=0.5"
    plain, scaled = (
        MLPSpec(3, width=8, activation="tanh", initializer=initializer, output_size=3, gain=gain).build(seed=0)
        for gain in (1.0, 0.7)
    )
    for name, parameter in plain.named_parameters():
        assert torch.equal(scaled.get_parameter(name), parameter * (0.7 if name.endswith("weight") else 1.0))


def test_half_precision_has_the_same_numbers_with_a_gain_rounded_once():
    wide, half = (MLPSpec(1, width=64, gain=0.7).build(seed=0, dtype=d) for d in (torch.float32, torch.bfloat16))
    assert torch.equal(wide.layers[0].linear.weight.bfloat16(), half.layers[0].linear.weight)


@pytest.mark.parametrize("initializer", ["normal", "he_uniform", "xavier_normal", "orthogonal", "sparse", "default"])
def test_weights_and_biases_have_the_variances_asked_for(initializer):
    variances = {"weight_variance": 1.7, "bias_variance": 0.3}
    net = MLPSpec(2, width=(400, 300), initializer=initializer, output_size=200, **variances).build(seed=0)
    for linear in (net.layers[0].linear, net.layers[1].linear, net.output):
        # 60,000 weights or more: their variance scatters by 0.6%; sparse ones by 2%. 200 biases: by 10%.
        assert linear.in_features * linear.weight.detach().square().mean() == pytest.approx(1.7, rel=0.06)
        assert linear.bias.detach().square().mean() == pytest.approx(0.3, rel=0.4)


def test_residual_variance_grows_as_theory_says():
    # q' = q + sigma_w^2 E[phi^2]: for relu with He, E[phi^2] = q/2 and sigma_w^2 = 2, so q doubles.
    mlp = MLPSpec(6, width=1024, residual=True).build(seed=1)
    q = []
    for layer in mlp.layers:
        (layer.linear if layer.add is None else layer.add).register_forward_hook(
            lambda m, i, o: q.append(o.square().mean().item())
        )
    mlp(torch.randn(64, 1024, generator=torch.Generator().manual_seed(0)))
    assert len(q) == 6
    for before, after in pairwise(q):
        assert after / before == pytest.approx(2, rel=0.08)


def test_same_seed_same_network_and_torch_left_alone():
    before = torch.get_rng_state()
    for name in SQUARE_DEFAULTS:
        spec = MLPSpec(2, width=16, initializer=name, activation="prelu", output_size=3, norm="batch")
        assert equal(spec.build(seed=4), spec.build(seed=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_and_initializers_have_streams_of_their_own():
    def weight(seed, initializer):
        return MLPSpec(1, width=64, initializer=initializer).build(seed=seed).layers[0].linear.weight.flatten()

    first = weight(0, "he_normal")
    for other in (weight(1, "he_normal"), weight(0, "xavier_normal"), weight(0, "normal:std=1")):
        assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.06


def test_weights_do_not_depend_on_what_is_around_them():
    plain = MLPSpec(3, width=8).build(seed=0)
    for more in ({"activation": "tanh"}, {"norm": "batch"}, {"bias": 0.3}, {"dropout": 0.5}, {"residual": True}):
        other = MLPSpec(3, width=8, **more).build(seed=0)
        for a, b in zip(plain.layers, other.layers, strict=True):
            assert torch.equal(a.linear.weight, b.linear.weight)
    deeper = MLPSpec(5, width=8).build(seed=0)
    assert torch.equal(plain.layers[2].linear.weight, deeper.layers[2].linear.weight)


def test_layers_differ():
    mlp = MLPSpec(2, width=8).build(seed=0)
    assert not torch.equal(mlp.layers[0].linear.weight, mlp.layers[1].linear.weight)


def test_biases():
    def biases(**more):
        return MLPSpec(2, width=5000, input_size=4, initializer="zeros", **more).build(seed=0).layers[0].linear.bias

    assert (biases() == 0).all()
    assert (biases(bias=0.0) == 0).all()
    assert biases(bias=0.3).std().item() == pytest.approx(0.3, rel=0.05)
    default = MLPSpec(1, width=5000, input_size=4, initializer="default")
    assert 0.49 < default.build(seed=0).layers[0].linear.bias.abs().max() <= 0.5
    assert (dataclasses.replace(default, bias=0.0).build(seed=0).layers[0].linear.bias == 0).all()


@pytest.mark.slow
def test_depth_1000():
    mlp = MLPSpec(1000, width=8, residual=True, norm="rms").build(seed=0)
    x = torch.ones(2, 8, requires_grad=True)
    mlp(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype(dtype):
    mlp = MLPSpec(2, width=8, activation="prelu", norm="layer", output_size=2).build(seed=0, dtype=dtype)
    assert {parameter.dtype for parameter in mlp.parameters()} == {dtype}
    assert mlp(torch.ones(3, 8, dtype=dtype)).dtype == dtype
    if dtype != torch.float64:
        wide = MLPSpec(2, width=8, activation="prelu").build(seed=0)
        assert torch.equal(mlp.layers[0].linear.weight, wide.layers[0].linear.weight.to(dtype))


@pytest.mark.parametrize("more, kind", [({"dropout": 0.2}, nn.Dropout), ({"alpha_dropout": 0.2}, nn.AlphaDropout)])
def test_dropout(more, kind):
    layer = MLPSpec(1, width=4, **more).build(seed=0).layers[0]
    assert type(layer.dropout) is kind
    assert layer.dropout.p == 0.2


@pytest.mark.parametrize("norm, kind", [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm), ("rms", nn.RMSNorm)])
def test_norms(norm, kind):
    mlp = MLPSpec(3, width=64, norm=norm).build(seed=0)
    assert type(mlp.layers[0].norm) is kind
    seen = []
    mlp.layers[2].norm.register_forward_hook(lambda m, i, o: seen.append(o.detach()))
    mlp(torch.randn(32, 64, generator=torch.Generator().manual_seed(0)))
    assert seen[0].square().mean() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    "depth, width, widths, label",
    [
        (3, 7, (7, 7, 7), "7"),
        (3, (256, 64), (256, 128, 64), "256-64"),
        (5, [64, 1024], (64, 128, 256, 512, 1024), "64-1024"),
        (4, (100, 10), (100, 46, 22, 10), "100-10"),
        (3, (5, 9, 2), (5, 9, 2), "5-9-2"),
        (2, (5, 9), (5, 9), "5-9"),
        (4, (8, 1), (8, 4, 2, 1), "8-1"),
        (3, [12], (12, 12, 12), "12"),
    ],
)
def test_widths(depth, width, widths, label):
    spec = MLPSpec(depth, width=width)
    assert spec.widths == widths
    assert spec.width_label == label
    assert MLPSpec(depth, width=parse_width(label)) == spec
    assert [layer.linear.out_features for layer in spec.build(seed=0).layers] == list(widths)


@pytest.mark.parametrize("text", ["", "0", "a", "4-", "-4", "4-0", "4.5", "3--4"])
def test_parse_width_refuses(text):
    with pytest.raises(InputError, match="width must be a whole number"):
        parse_width(text)


def test_spec_is_canonical_hashable_and_plain():
    spec = MLPSpec(2, activation="swish", initializer="kaiming_normal:a=0", width=[4, 2])
    assert (spec.activation.label, spec.initializer.label, spec.width) == ("silu", "he_normal", (4, 2))
    assert spec == MLPSpec(2, activation=parse_activation("silu"), width=(4, 2))
    assert hash(spec) == hash(dataclasses.replace(spec))
    assert json.loads(json.dumps(spec.document()))["activation"] == "silu"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"width": (9, 3), "input_size": 4, "output_size": 5},
        {"norm": "batch", "activation": "prelu"},
        {"norm": "rms", "residual": True, "input_size": 3},
        {"norm": "layer", "output_size": 1},
    ],
)
def test_parameter_bytes(more):
    spec = MLPSpec(4, **{"width": 6, **more})
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)):
        assert spec.parameter_bytes(dtype) == size * sum(p.numel() for p in spec.build(seed=0).parameters())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"depth": 0}, "depth must .* got 0"),
        ({"depth": -3}, "depth must .* got -3"),
        ({"depth": 2.0}, "depth must .* got 2.0"),
        ({"depth": True}, "depth must .* got True"),
        ({"width": 0}, "width must .* got 0"),
        ({"width": (4, 0, 4)}, "width must .* got 0"),
        ({"width": "256"}, 'width must .* got "256"'),
        ({"width": (4, 4, 4, 4)}, "width must be one number, 3 numbers .* got 4"),
        ({"width": ()}, "width .* got 0 numbers"),
        ({"depth": 1, "width": (4, 2)}, "width .* depth 1.* got 2"),
        ({"input_size": 0}, "input_size must .* got 0"),
        ({"output_size": -1}, "output_size must .* got -1"),
        ({"bias": -0.1}, "bias must .* got -0.1"),
        ({"bias": math.inf}, "bias must .* got inf"),
        ({"bias": "zeros"}, 'bias must .* got "zeros"'),
        ({"norm": "group"}, 'norm must .* got "group"'),
        ({"dropout": 1.0}, "dropout must .* got 1.0"),
        ({"alpha_dropout": -0.1}, "alpha_dropout must .* got -0.1"),
        ({"dropout": math.nan}, "dropout must .* got nan"),
        ({"dropout": 0.1, "alpha_dropout": 0.1}, "dropout and alpha_dropout cannot both"),
        ({"residual": True, "width": (8, 4)}, "width must be the same .* got 8-4"),
        ({"residual": 0}, 'residual must be True, False, "1/sqrt\\(L\\)" or a finite number above 0.* got 0'),
        ({"residual": -1.0}, "residual must .* got -1.0"),
        ({"residual": math.nan}, "residual must .* got nan"),
        ({"residual": "1/L"}, 'residual must .* got "1/L"'),
        ({"residual": 0.5, "width": (8, 4)}, "width must be the same .* got 8-4"),
        ({"gain": 0}, "gain must .* got 0"),
        ({"gain": math.nan}, "gain must .* got nan"),
        ({"gain": 1e300}, "gain must .* got 1e\\+300"),
        ({"weight_variance": 0}, "weight_variance must .* got 0"),
        ({"weight_variance": -1}, "weight_variance must .* got -1"),
        ({"bias_variance": -1}, "bias_variance must .* got -1"),
        ({"bias_variance": math.inf}, "bias_variance must .* got inf"),
        ({"bias_variance": 0.1, "bias": 0.1}, "bias and bias_variance cannot both"),
        ({"weight_variance": 1.0, "gain": 2.0}, "gain and weight_variance cannot both"),
        (
            {"weight_variance": 1.0, "initializer": "zeros"},
            'weight_variance cannot be set .* "zeros": every weight has',
        ),
        ({"weight_variance": 1.0, "initializer": "identity"}, 'weight_variance cannot be set .* "identity"'),
        ({"weight_variance": 1.0, "initializer": "critical"}, 'weight_variance cannot be set .* "critical"'),
        ({"weight_variance": 1.0, "initializer": "normal:std=0"}, "weight_variance cannot be set"),
        ({"weight_variance": 1.0, "initializer": torch.nn.init.ones_}, "weight_variance .* is not known"),
        ({"activation": "reluu"}, 'unknown activation "reluu"'),
        ({"initializer": "he"}, 'unknown initializer "he"'),
        ({"initializer": "dirac"}, "dirac fills convolutions"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        MLPSpec(**{"depth": 3, **arguments})


@pytest.mark.parametrize("more", [{"width": 10**7}, {"width": 10**30}, {"width": 4000, "depth": 10**9}])
def test_absurd_sizes_are_refused_before_memory_is_taken(more):
    spec = MLPSpec(**{"depth": 3, **more})
    with pytest.raises(InputError, match=r"width .* need [\d,.]+ GB for parameters and gradients; this machine has"):
        spec.build(seed=0)


def test_a_taper_of_absurd_depth_is_refused_before_its_widths_are_listed():
    with pytest.raises(InputError, match=r"depth 1000000000 needs 4,096\.0 GB; this machine has"):
        MLPSpec(10**9, width=(8, 4)).build(seed=0)


def test_refuses_integer_types():
    with pytest.raises(InputError, match=r"dtype must .* got torch\.int64"):
        MLPSpec(1).build(seed=0, dtype=torch.int64)


def test_own_activation_is_drawn_from_the_seed(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\n"
        "class Noisy(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = torch.nn.Parameter(torch.randn(()))\n"
        "    def forward(self, x):\n        return self.weight * x\n"
    )
    before = torch.get_rng_state()
    spec = MLPSpec(2, width=4, activation=f"{file}:Noisy")
    first = spec.build(seed=0)
    assert equal(first, spec.build(seed=0))
    assert first.layers[0].activation.weight != spec.build(seed=1).layers[0].activation.weight
    assert first.layers[0].activation.weight != first.layers[1].activation.weight
    assert spec.parameter_bytes() == 4 * (2 * 20 + 2)
    assert torch.equal(torch.get_rng_state(), before)
