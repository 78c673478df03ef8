import math

import pytest
import torch
from torch import nn

from propscope.errors import InputError
from propscope.networks.initialize import initialize_
from propscope.networks.initializers import INITIALIZERS
from propscope.networks.randomness import seeded_generator


def model():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "linear": nn.Linear(6, 8),
            "norm": nn.LayerNorm(8),
            "conv": nn.Conv2d(4, 4, 3),
            "up": nn.ConvTranspose1d(3, 5, 2, bias=False),
            "lstm": nn.LSTM(5, 7, num_layers=2, bidirectional=True, proj_size=3),
            "gru": nn.GRUCell(5, 7),
            "embedding": nn.Embedding(9, 4, padding_idx=2),
            "bilinear": nn.Bilinear(3, 4, 5),
            "attention": nn.MultiheadAttention(8, 2, add_bias_kv=True),
            "cross": nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
        }
    )


def marked():
    made = model()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(7.0)
    return made


def untouched(module):
    return {name for name, parameter in module.named_parameters() if (parameter == 7).all()}


LEFT_ALONE = {"norm.weight", "norm.bias", "attention.bias_k", "attention.bias_v"}


def test_sets_every_weight_and_bias_of_every_layer():
    module = marked()
    names = initialize_(module, "he_normal", generator=seeded_generator(0))
    assert untouched(module) == LEFT_ALONE
    assert set(names) == {name for name, _ in module.named_parameters()} - LEFT_ALONE
    assert names == [name for name, _ in module.named_parameters() if name in names]
    biases = [p for n, p in module.named_parameters() if n in names and "bias" in n.split(".")[-1]]
    assert len(biases) == 17
    assert all((bias == 0).all() for bias in biases)
    assert (module["embedding"].weight[2] == 0).all()
    assert (module["embedding"].weight[1] != 0).all()


@pytest.mark.parametrize("entry", [e for e in INITIALIZERS if e.name != "default"], ids=lambda entry: entry.name)
def test_same_generator_same_weights_and_torch_left_alone(entry):
    first, second = marked(), marked()
    before = torch.get_rng_state()
    spec = "critical:weight_variance=2:bias_variance=0.3" if entry.name == "critical" else entry.name
    assert initialize_(first, spec, generator=seeded_generator(0)) == initialize_(
        second, spec, generator=seeded_generator(0)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_critical_needs_its_variances_and_draws_biases():
    module = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 400))
    with pytest.raises(InputError, match="critical needs numbers"):
        initialize_(module, "critical")
    initialize_(module, "critical:weight_variance=2:bias_variance=0.25", generator=seeded_generator(0))
    assert float(module[0].weight.detach().var()) == pytest.approx(2 / 300, rel=0.05)
    assert float(module[2].bias.detach().std()) == pytest.approx(0.5, rel=0.1)
    initialize_(module, "critical:weight_variance=2:bias_variance=0.25", bias_std=0.0, generator=seeded_generator(0))
    assert (module[2].bias == 0).all()


def test_gates_are_matrices_of_their_own():
    module = marked()
    initialize_(module, "identity", generator=seeded_generator(0))
    eye = torch.eye(7, 3)
    assert torch.equal(module["lstm"].weight_hh_l0, torch.cat([eye] * 4))
    assert torch.equal(module["lstm"].weight_hh_l1_reverse, torch.cat([eye] * 4))
    assert torch.equal(module["lstm"].weight_hr_l0, torch.eye(3, 7))
    assert torch.equal(module["gru"].weight_ih, torch.cat([torch.eye(7, 5)] * 3))
    assert torch.equal(module["attention"].in_proj_weight, torch.cat([torch.eye(8)] * 3))
    assert torch.equal(module["cross"].k_proj_weight, torch.eye(8, 6))


def test_gate_variance_counts_the_gate_not_the_stack():
    module = nn.LSTM(50, 300)
    initialize_(module, "xavier_normal", generator=seeded_generator(0))
    assert module.weight_ih_l0.var().item() == pytest.approx(2 / 350, rel=0.03)


def test_dirac_sets_convolutions_only():
    module = marked()
    assert initialize_(module, "dirac", generator=seeded_generator(0)) == ["conv.weight", "conv.bias", "up.weight"]
    assert "linear.bias" in untouched(module)
    assert "bilinear.weight" in untouched(module)


def test_dirac_knows_groups():
    convolution = nn.Conv1d(6, 6, 3, padding=1, groups=3)
    initialize_(convolution, "dirac")
    x = torch.rand(2, 6, 5)
    assert torch.equal(convolution(x), x)


def test_identity_sets_matrices_only():
    module = marked()
    names = initialize_(module, "identity")
    assert "linear.weight" in names
    assert not {"conv.weight", "conv.bias", "bilinear.weight", "up.weight"} & set(names)


def test_biases_from_a_normal_distribution():
    module = nn.Linear(3, 40_000)
    assert initialize_(module, "zeros", bias_std=0.2, generator=seeded_generator(0)) == ["weight", "bias"]
    assert module.bias.std().item() == pytest.approx(0.2, rel=0.02)
    assert (module.weight == 0).all()


def test_default_is_what_torch_does():
    module = marked()
    before = torch.get_rng_state()
    names = initialize_(module, "default", generator=seeded_generator(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert untouched(module) == {"norm.weight", "norm.bias"}
    assert len(names) == len(list(module.parameters())) - 2
    fresh = dict(model().named_parameters())
    for name, parameter in module.named_parameters():
        if name.startswith("norm"):
            continue
        spread = fresh[name].abs().max()
        assert parameter.abs().max() <= 4 * spread
        assert bool(parameter.any()) == bool(fresh[name].any()), name
    again = marked()
    initialize_(again, "default", generator=seeded_generator(0))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_default_of_a_linear_layer():
    layer = nn.Linear(25, 4000)
    initialize_(layer, "default", generator=seeded_generator(0))
    assert 0.199 < layer.bias.abs().max() <= 0.2
    assert layer.weight.var().item() == pytest.approx(1 / 75, rel=0.02)
    initialize_(layer, "default", bias_std=0.0, generator=seeded_generator(0))
    assert (layer.bias == 0).all()


def test_shared_weights_are_set_once():
    module = nn.Sequential(nn.Embedding(30, 20), nn.Linear(20, 30, bias=False))
    module[1].weight = module[0].weight
    alone = nn.Embedding(30, 20)
    assert initialize_(module, "normal", generator=seeded_generator(0)) == ["0.weight"]
    initialize_(alone, "normal", generator=seeded_generator(0))
    assert torch.equal(module[0].weight, alone.weight)


def test_half_precision_models():
    module = nn.Linear(50, 50, dtype=torch.bfloat16)
    initialize_(module, "orthogonal", generator=seeded_generator(0))
    assert module.weight.dtype == torch.bfloat16
    assert module.weight.float().square().mean().item() == pytest.approx(1 / 50, rel=0.01)


@pytest.mark.parametrize(
    "module, spec, more, message",
    [
        (nn.Linear(2, 2), "dirac", {}, "dirac fills a convolution, and no layer .* weights: weight"),
        (nn.LayerNorm(2), "he_normal", {}, "weights: none"),
        (nn.Linear(2, 2), "he_normal", {"bias_std": -1.0}, "bias_std must .* got -1.0"),
        (nn.Linear(2, 2), "he_normal", {"bias_std": math.nan}, "bias_std must .* got nan"),
        (nn.Linear(2, 2), "he_norma", {}, "unknown initializer"),
    ],
)
def test_refuses(module, spec, more, message):
    with pytest.raises(InputError, match=message):
        initialize_(module, spec, **more)


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_refuses_lazy_layers():
    with pytest.raises(InputError, match="LazyLinear has no shape yet"):
        initialize_(nn.LazyLinear(3), "he_normal")


def test_the_transposed_linear_layers_of_transformers_are_filled_as_linear_ones():
    transposed = pytest.importorskip("transformers.pytorch_utils").Conv1D(6, 4)
    linear = nn.Linear(4, 6)
    for spec in ("he_normal", "orthogonal", "xavier_uniform"):
        assert initialize_(transposed, spec, generator=torch.Generator().manual_seed(0)) == ["weight", "bias"]
        initialize_(linear, spec, generator=torch.Generator().manual_seed(0))
        assert torch.equal(transposed.weight.T, linear.weight)
        assert not transposed.bias.any()
    kept = transposed.weight.clone()
    initialize_(nn.Sequential(linear, transposed), "default")
    assert torch.equal(transposed.weight, kept), "it has no reset of its own"
