"""profile_mlp and run: reproducible, undisturbing, and right at every edge of what can be asked for."""

import importlib.util
import json
import math
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from building.records import plain
from torch import nn

import propscope
import propscope.networks.spec
from propscope.errors import InputError
from propscope.experiments import make_grid, profile_mlp, run
from propscope.experiments.profiling import _MOST_GRAPHS
from propscope.measure.signal_graph import SignalGraph
from propscope.networks import ACTIVATIONS, INITIALIZERS, MLPSpec, make_input
from propscope.records.pooling import pooled


def small(**options):
    axes = {"depth": 2, "width": 8, "activation": "tanh", "initializer": "xavier_normal", "seeds": 1, "batch": 16}
    return profile_mlp(**{**axes, **options})


def one(**options):
    return small(**options)[0]


def seen(profiles):
    """Everything but when and how fast it was measured, to the bit."""
    return [plain((p.sites, p.parameters, p.labels, p.coverage)) for p in profiles]


def every_element(profile):
    return [s for site in profile.sites for s in (site.forward, site.backward) if s is not None]


def test_it_is_public():
    assert propscope.profile_mlp is profile_mlp


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5, "loss": "mse"}, {"initializer": "default", "bias": 1.0}])
def test_the_same_seed_gives_the_same_bits(options):
    first = small(seeds=[3, 4], **options)
    torch.rand(3)
    again = small(seeds=[4, 3], **options)
    assert seen(first) == seen(again[::-1])
    assert seen(first)[0] != seen(first)[1]


class InPlace(nn.Module):
    def forward(self, z):
        return z.tanh_()


SHARED = {"depth": 3, "width": 8, "activation": "tanh", "initializer": "xavier_normal", "seeds": 2, "batch": 16}


@pytest.mark.parametrize(
    "options",
    [
        {"initializer": "zeros,default", "norm": "batch"},
        {"residual": True, "dropout": 0.5, "norm": "rms", "output_size": 3, "loss": "mse", "depth": [2, 3]},
        {"activation": "prelu,relu,tanh", "bias": 0.5, "width": [8, (8, 4)]},
        {"activation": [InPlace, "relu"], "dtype": "bfloat16"},
    ],
)
def test_networks_that_share_a_graph_have_the_bits_of_each_alone(options):
    grid = make_grid(**{**SHARED, **options})
    for number, profile in run(grid, workers=1):
        ((same, alone),) = run(grid, workers=1, leave_out=set(range(len(grid))) - {number})
        assert same == number
        assert seen([profile]) == seen([alone])


@pytest.mark.parametrize(
    ("options", "traced"),
    [
        ({"initializer": "zeros,xavier_normal", "bias": 0.5}, 1),
        ({"activation": "relu,tanh"}, 2),
        ({"depth": [2, 3]}, 2),
        ({"activation": InPlace}, 2),
        ({"depth": list(range(1, 4 * _MOST_GRAPHS)), "seeds": 1}, 4 * _MOST_GRAPHS - 1),
    ],
)
def test_a_graph_is_traced_once_for_each_structure(options, traced, monkeypatch):
    entered, enter = [], SignalGraph.enter

    def enter_noted(self, info, *given):
        entered.extend([self] * (not info.path))
        return enter(self, info, *given)

    monkeypatch.setattr(SignalGraph, "enter", enter_noted)
    profiles = small(**{**SHARED, **options})
    assert len(entered) == traced
    assert all(site.parents for profile in profiles for site in profile.sites[1:])


def test_the_default_dtype_changes_nothing_and_is_not_changed():
    options = {"activation": "prelu,tanh", "initializer": "orthogonal,default", "norm": "layer", "loss": "mse"}
    usual = seen(small(**options))
    torch.set_default_dtype(torch.float64)
    try:
        assert seen(small(**options)) == usual
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_torchs_generator_is_left_as_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].tolist()  # noqa: NPY002  the global one is what must not move
    small(initializer="orthogonal,sparse,default", dropout=0.5, loss="cross-entropy", norm="batch", seeds=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_flow_even_where_the_caller_switched_them_off(mode):
    with mode():
        quiet = small()
        assert not torch.is_grad_enabled()
    assert seen(quiet) == seen(small())


def test_every_pair_meets_the_same_input_and_every_activation_the_same_weights():
    profiles = small(activation="tanh,relu", initializer="he_normal,zeros", bias=0.1)
    weights = [profile.parameters[0].value for profile in profiles.subset(initializer="he_normal")]
    assert weights[0].mean == weights[1].mean
    first = [profile["layers.0.linear"].forward.mean for profile in profiles.subset(initializer="he_normal")]
    assert first[0] == first[1]


def test_sites_layers_and_roles():
    profile = one(depth=3, norm="layer", dropout=0.1, output_size=4)
    names = [site.name for site in profile.sites]
    assert names[:5] == ["input", "layers.0.linear", "layers.0.norm", "layers.0.activation", "layers.0.dropout"]
    assert names[-1] == "output"
    assert [site.layer for site in profile.sites] == [None] + [1] * 4 + [2] * 4 + [3] * 4 + [None]
    assert Counter(site.role for site in profile.sites)["pre-activation"] == 3
    assert len(profile.signal_sites) == 3
    assert all(site.forward and site.backward for site in profile.without_inputs.sites)
    assert [parameter.gradient is not None for parameter in profile.parameters] == [True] * len(profile.parameters)


def test_provenance_says_what_was_run():
    profile = one(seeds=[7], batch=5, dtype="float64")
    origin = profile.provenance
    assert (origin.seed, origin.samples, origin.batches, origin.dtype, origin.device) == (7, 5, 1, "float64", "cpu")
    assert origin.wall_seconds > 0
    assert '"initializer": "xavier_normal"' in origin.spec


def test_the_spec_builds_the_network_again():
    profile = one(width=[(8, 4)], depth=2, bias=0.5, initializer="default")
    spec = json.loads(profile.provenance.spec)
    network = dict(spec["network"], width=tuple(spec["network"]["width"]))
    net = MLPSpec(network.pop("depth"), **network).build(seed=spec["seed"])
    assert float(net.layers[1].linear.weight.detach().double().mean()) == pytest.approx(
        profile.parameters[2].value.mean, rel=1e-6
    )


def test_run_is_lazy_but_looks_at_the_input_at_once(tmp_path):
    made = make_grid(depth=2, width=8, activation="relu", initializer="he_normal", seeds=1, input="none.npy")
    with pytest.raises(InputError, match=r"the input file none\.npy does not exist"):
        run(made)
    made = make_grid(depth=2, width=8, activation="relu", initializer="he_normal", seeds=100_000, batch=4)
    profiles = run(made, workers=1)
    for number in range(2):
        assert next(profiles)[1].labels["seed"] == number


# Losses


def test_the_cotangent_has_unit_variance_at_the_output():
    profile = one(depth=3, width=64, batch=256)
    assert profile["layers.2.activation"].backward.rms == pytest.approx(1.0, abs=0.02)
    assert abs(profile["layers.2.activation"].backward.mean) < 0.02


def test_mse_against_random_targets():
    # 2 (h - t) / n for n outputs: zeros against N(0, 1).
    profile = one(initializer="zeros", loss="mse", width=64, batch=64)
    assert profile["layers.1.activation"].backward.rms == pytest.approx(2 / (64 * 64), rel=0.05)


def test_cross_entropy_has_ten_random_classes_unless_told_otherwise():
    profile = one(initializer="zeros", loss="cross-entropy", batch=32)
    assert profile["output"].shape == (32, 10)
    # Softmax of zeros is 1/10 everywhere: (1/10 - [right]) / 32.
    assert profile["output"].backward.min == pytest.approx((0.1 - 1) / 32)
    assert profile["output"].backward.max == pytest.approx(0.1 / 32)
    assert abs(profile["output"].backward.mean) < 1e-8
    assert one(loss="cross-entropy", output_size=3)["output"].shape == (16, 3)


def test_digits_with_their_own_labels():
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("needs scikit-learn")
    profile = one(input="digits", scale="zscore", loss="cross-entropy", batch=200, initializer="zeros")
    assert profile["layers.0.linear"].shape == (200, 8)
    assert profile.parameters[0].shape == (8, 64)
    assert profile["output"].shape == (200, 10)
    # Softmax of zeros is 1/10 everywhere, so a digit's bias has the gradient 1/10 - its share of the real labels.
    shares = torch.bincount(make_input("digits", batch=200, seed=0).targets, minlength=10) / 200
    bias = profile.parameters[-1].gradient
    assert (bias.min, bias.max) == pytest.approx((0.1 - float(shares.max()), 0.1 - float(shares.min())), abs=1e-6)
    regression = one(input="digits", loss="mse", width=12, batch=50, initializer="zeros")
    # Against one-hot targets, 2 (0 - t) / n: one in twelve is -2/n.
    gradient = regression["layers.1.activation"].backward
    assert gradient.min == pytest.approx(-2 / (50 * 12))
    assert gradient.zero_fraction == pytest.approx(11 / 12)


def labelled(tmp_path, labels):
    path = tmp_path / "xy.pt"
    x = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0))
    torch.save((x, torch.tensor(labels)), path)
    return str(path)


def test_every_seed_gets_the_same_classes_though_a_small_batch_misses_some(tmp_path):
    path = labelled(tmp_path, [0] * 8 + [1] * 8 + [6])
    largest = {seed: int(make_input(path, batch=6, seed=seed).targets.max()) for seed in range(8)}
    seeds = sorted(largest, key=largest.get, reverse=True)
    assert largest[seeds[0]] == 6 > largest[seeds[-1]]
    profiles = small(input=path, loss="cross-entropy", batch=6, seeds=seeds)
    assert {profile["output"].shape for profile in profiles} == {(6, 7)}
    assert pooled(profiles)["output"].forward.count == 8 * 42


def test_labels_beyond_the_outputs_are_refused_at_once(tmp_path):
    path = labelled(tmp_path, [0, 1, 5])
    axes = {"depth": 1, "width": 4, "activation": "relu", "initializer": "zeros", "seeds": 1}
    made = make_grid(**axes, input=path, output_size=3, loss="cross-entropy")
    with pytest.raises(InputError, match=r"output_size must be at least 6 .*xy\.pt, got 3"):
        run(made)
    assert one(input=path, output_size=3, loss="mse")["output"].shape == (3, 3)


# Overflow, underflow, NaN


def test_overflow_is_a_result():
    profile = one(depth=40, width=16, activation="relu", initializer="normal:std=1e20")
    assert profile.factor("forward") == math.inf
    first, last = profile.with_role("activation")[0], profile.with_role("activation")[-1]
    assert first.forward.nonfinite_count == 0
    assert last.forward.finite_count == 0
    assert math.isnan(last.forward.rms)
    assert profile.nonfinite_count > 0
    for summary in every_element(profile):
        assert summary.nonfinite_count + summary.finite_count == summary.count
        assert summary.histogram.total == summary.count
        assert summary.histogram.nan_count == summary.nan_count
    assert "inf" in str(propscope.ProfileSet((profile,)))


def test_nan_is_counted_and_not_taken_for_a_number(tmp_path, monkeypatch):
    (tmp_path / "broken_init.py").write_text(
        "import torch\ndef fill(weight):\n    weight.normal_()\n    weight[0, 0] = float('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    profile = one(initializer="broken_init:fill", depth=3)
    assert profile["layers.0.linear"].forward.nan_count == 16
    assert profile["layers.1.linear"].forward.nan_count == 16 * 8
    assert profile.parameters[0].value.nan_count == 1
    assert profile.factor("forward") == math.inf
    assert np.isinf(profile.signal_rms("forward")).all()


def test_a_dead_network_is_zero_not_missing():
    profile = one(initializer="zeros", activation="relu", depth=5)
    assert profile.factor("forward") == profile.factor("backward") == 0.0
    assert profile["layers.4.linear"].dead_units == 8
    assert profile["layers.0.linear"].backward.zero_fraction == 1.0
    assert profile.nonfinite_count == 0


def test_underflow_in_half_precision_shows_as_zeros():
    profile = one(initializer="normal:std=0.001", dtype="float16", depth=6, width=16)
    assert profile["layers.0.linear"].forward.rms > 0
    assert profile["layers.5.linear"].forward.zero_fraction == 1.0
    assert one(initializer="normal:std=0.001", depth=6, width=16)["layers.5.linear"].forward.zero_fraction == 0.0


# Edges of what may be asked for


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("loss", ["cotangent", "mse", "cross-entropy"])
def test_every_dtype_runs_every_loss_and_agrees_with_float32(dtype, loss):
    profile, usual = one(dtype=dtype, loss=loss, width=32), one(loss=loss, width=32)
    assert {site.dtype for site in profile.sites} == {dtype}
    assert profile.labels["dtype"] == dtype
    for site, other in zip(profile.sites, usual.sites, strict=True):
        assert site.forward.rms == pytest.approx(other.forward.rms, rel=0.02)
    for site, other in zip(profile.sites[1:], usual.sites[1:], strict=True):
        assert site.backward.rms == pytest.approx(other.backward.rms, rel=0.05)


def test_double_precision_draws_numbers_of_its_own():
    profile = one(dtype="float64", width=128, batch=128)
    assert {site.dtype for site in profile.sites} == {"float64"}
    assert profile["layers.0.linear"].forward.rms == pytest.approx(1.0, rel=0.03)
    assert profile["layers.1.activation"].backward.rms == pytest.approx(1.0, rel=0.03)


def test_one_layer():
    profile = one(depth=1)
    assert [site.name for site in profile.sites] == ["input", "layers.0.linear", "layers.0.activation"]
    assert profile.factor("forward") == profile.factor("backward") == 1.0
    assert profile.forward_gains.size == 0


def test_one_unit_and_one_row():
    profile = one(width=1, batch=1)
    assert profile["layers.0.linear"].shape == (1, 1)
    assert profile["layers.0.linear"].mean_cosine is None


@pytest.mark.slow
def test_three_hundred_narrow_layers():
    profile = one(depth=300, width=4, batch=8, activation="identity", initializer="orthogonal")
    assert [site.layer for site in profile.signal_sites] == list(range(1, 301))
    assert profile.factor("forward") == pytest.approx(1.0, rel=1e-4)
    assert profile.factor("backward") == pytest.approx(1.0, rel=1e-4)


def test_widths_that_taper():
    profile = one(depth=3, width=[(16, 4)])
    assert [site.shape[1] for site in profile.signal_sites] == [16, 8, 4]


def test_an_identity_activation_passes_the_signal_on():
    profile = one(activation="identity", width=64, initializer="identity", depth=4)
    assert profile.forward_gains.tolist() == pytest.approx([1.0] * 3)
    assert profile.backward_gains.tolist() == pytest.approx([1.0] * 3)
    # What an identity returns is the tensor that it was given: one site, not two.
    assert [site.name for site in profile.sites] == ["input", *(f"layers.{number}.linear" for number in range(4))]
    assert [site.flat_fraction for site in profile.sites[1:]] == [0.0] * 4


def test_residual_adds_layer_by_layer():
    # z' = z + W relu(z) with E|W relu(z)|^2 = |z|^2: the second moment doubles, and so does the gradient's.
    profiles = small(residual=True, activation="relu", initializer="he_normal", depth=6, width=256, batch=64, seeds=4)
    (key,) = profiles.groups("seed")
    assert dict(key)["residual"] == "True"
    gains = np.exp(np.mean([np.log(profile.factor("forward")) for profile in profiles])) ** (1 / 5)
    assert gains == pytest.approx(math.sqrt(2), rel=0.03)
    assert any(site.name.endswith(".add") for site in profiles[0].sites)


def test_dropout_keeps_the_mean_and_raises_the_second_moment():
    profile = one(dropout=0.5, width=256, batch=256, depth=2)
    activation, dropped = profile["layers.0.activation"].forward, profile["layers.0.dropout"].forward
    assert dropped.zero_fraction == pytest.approx(0.5, abs=0.01)
    assert dropped.rms == pytest.approx(activation.rms * math.sqrt(2), rel=0.02)
    assert profile.labels["dropout"] == 0.5
    alpha = one(alpha_dropout=0.2, activation="selu", initializer="lecun_normal", width=256, batch=256)
    assert alpha["layers.1.dropout"].forward.std == pytest.approx(alpha["layers.1.activation"].forward.std, rel=0.03)


def test_batch_norm_of_one_row_is_refused_at_once():
    with pytest.raises(InputError, match="batch must have at least two rows for norm batch"):
        small(norm="batch", batch=1)
    assert one(norm="batch", batch=2)["layers.0.norm"].forward.rms == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [entry.name for entry in ACTIVATIONS])
def test_every_activation_runs(activation):
    profile = one(activation=activation, batch=8)
    a_layer = ["pre-activation"] if activation == "identity" else ["pre-activation", "activation"]
    assert [site.role for site in profile.sites] == ["input", *a_layer * 2]
    assert profile.nonfinite_count == 0
    assert 0 <= profile["layers.0.linear"].flat_fraction <= 1


def test_every_initializer_of_a_square_network_runs():
    names = [entry.name for entry in INITIALIZERS if entry.on_square]
    profiles = small(initializer=names, batch=8)
    assert profiles.axes["initializer"] == tuple(names)
    assert all(profile.nonfinite_count == 0 for profile in profiles)


# A user's own

OWN = """
import torch
from torch import nn

def scaled(z, k=2.0):
    return torch.tanh(z) * k

class Wave(nn.Module):
    def __init__(self, width=1.0):
        super().__init__()
        self.width = width
    def forward(self, z):
        return torch.sin(z / self.width)

class Broken(nn.Module):
    def forward(self, z):
        raise RuntimeError("nothing\\nworks")

def detached(z):
    return z.detach() * 2

def fill(weight, value=0.5):
    weight.fill_(value)

def noisy(weight):
    nn.init.normal_(weight)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_functions.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_functions", None)


def test_a_users_activations_and_initializers(own):
    profiles = small(
        activation=["own_functions:scaled:k=3", "own_functions:Wave"],
        initializer=["own_functions:fill:value=0.25", "own_functions:noisy"],
    )
    assert profiles.axes["activation"] == ("own_functions:scaled:k=3", "own_functions:Wave")
    filled = profiles.select(activation="own_functions:scaled:k=3", initializer="own_functions:fill:value=0.25")
    assert filled.parameters[0].value.min == filled.parameters[0].value.max == 0.25
    assert filled["layers.0.linear"].symmetric_units == 8
    assert [site.role for site in filled.sites] == ["input", *["pre-activation", "activation"] * 2]
    assert filled["layers.1.activation"].forward.max <= 3.0
    assert filled["layers.0.linear"].flat_fraction is not None
    assert seen(small(initializer="own_functions:noisy")) == seen(small(initializer="own_functions:noisy"))


def test_a_users_file(own):
    profile = one(activation=f"{own / 'own_functions.py'}:scaled")
    assert profile["layers.1.activation"].forward.max <= 2.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Broken",
            r"activation \"own_functions:Broken\" failed on a tensor of shape \(16, 8\) \(RuntimeError: nothing",
        ),
        ("detached", r"activation \"own_functions:detached\" failed .*does not require grad"),
        ("Missing", 'has no attribute "Missing"'),
    ],
)
def test_a_users_activation_that_fails_is_named(own, name, message):
    with pytest.raises(InputError, match=message) as caught:
        small(activation=f"own_functions:{name}")
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_after_all(monkeypatch):
    def build(self, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(sys.modules["propscope.experiments.profiling"], "Recorder", build)
    with pytest.raises(InputError, match="depth 2, width 8, batch 16 ran out of memory"):
        small()


def test_a_defect_stays_a_defect(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("unsupported memory format")

    monkeypatch.setattr(sys.modules["propscope.experiments.profiling"], "Recorder", fail)
    with pytest.raises(RuntimeError, match="unsupported memory format"):
        small()


@pytest.mark.slow
def test_each_spec_is_parsed_once(monkeypatch):
    parsed = []

    def counting(text, what, parse=propscope.networks.spec.parse_spec):
        parsed.append((what, text))
        return parse(text, what)

    for module in (name for name in list(sys.modules) if name.startswith("propscope.")):
        if hasattr(sys.modules[module], "parse_spec"):
            monkeypatch.setattr(sys.modules[module], "parse_spec", counting)
    axes = {"activation": "relu,tanh,leaky_relu:negative_slope=0.2", "initializer": "critical,normal:std=0.1,default"}
    profile_mlp([3, 4], 8, **axes, seeds=2, batch=8, input="uniform:low=-2:high=2", output_size=3, jacobian=2)
    assert sorted(parsed) == [
        ("activation", "leaky_relu:negative_slope=0.2"),
        ("activation", "relu"),
        ("activation", "tanh"),
        ("initializer", "critical"),
        ("initializer", "default"),
        ("initializer", "normal:std=0.1"),
        ("input", "uniform:low=-2:high=2"),
    ]


def cubic(z):
    return z + z**3 / 10


def tenths(weight):
    nn.init.normal_(weight, 0, 0.1)


def test_callables_are_taken_where_a_name_is():
    found = profile_mlp(3, 8, activation=[nn.Tanh, cubic, "relu"], initializer=tenths, seeds=1, batch=8)
    own = f"{__name__}:cubic"
    assert found.axes["activation"] == ("tanh", own, "relu")
    assert found.axes["initializer"] == (f"{__name__}:tenths",)
    same = profile_mlp(3, 8, activation=f"tanh,{own},relu", initializer=f"{__name__}:tenths", seeds=1, batch=8)
    for one, other in zip(found, same, strict=True):
        assert one.sites == other.sites
        assert json.loads(one.provenance.spec) == json.loads(other.provenance.spec)


def test_two_callables_of_one_name_are_refused():
    with pytest.raises(InputError, match="activation lists two callables named"):
        profile_mlp(2, 4, activation=[lambda z: z + 1, lambda z: z + 2], seeds=1, batch=4)
