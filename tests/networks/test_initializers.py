import functools
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import propscope
from propscope.errors import InputError
from propscope.networks import initializers
from propscope.networks.initializers import INITIALIZERS, SQUARE_DEFAULTS, parse_initializer
from propscope.networks.randomness import seeded_generator

ROWS, COLUMNS = 600, 1000  # fan_out, fan_in
# What an initializer cannot do without.
NEEDED = {"critical": "critical:weight_variance=2"}


def filled(spec, *shape, seed=0, dtype=torch.float32):
    weight = torch.full(shape or (ROWS, COLUMNS), torch.nan, dtype=dtype)
    parse_initializer(spec).fill(weight, seeded_generator(seed, "test"))
    return weight


# The variance of an entry, from the papers, for fan_in 1000 and fan_out 600.
VARIANCES = {
    "normal": 1e-4,
    "normal:std=0.3": 0.09,
    "trunc_normal": 0.7737413 * 4e-4,
    "trunc_normal:std=5": 0.7737413 * 25,
    "uniform": 0.1**2 / 12,
    "uniform:low=-2:high=2": 16 / 12,
    "xavier_uniform": 2 / 1600,
    "xavier_normal": 2 / 1600,
    "xavier_normal:gain=3": 9 * 2 / 1600,
    "he_uniform": 2 / 1000,
    "he_normal": 2 / 1000,
    "he_normal:mode=fan_out": 2 / 600,
    "he_uniform:mode=fan_out:nonlinearity=linear": 1 / 600,
    "he_normal:nonlinearity=relu": 2 / 1000,
    "he_normal:nonlinearity=tanh": 25 / 9 / 1000,
    "he_normal:a=0.5": 2 / 1.25 / 1000,
    "lecun_uniform": 1 / 1000,
    "lecun_normal": 1 / 1000,
    "orthogonal": 1 / 1000,
    "orthogonal:gain=2": 4 / 1000,
    "sparse": 0.1 * 1e-4,
    "sparse:sparsity=0.5:std=0.1": 0.5 * 0.01,
    "variance_scaling": 1 / 1000,
    "variance_scaling:scale=3:mode=fan_out:distribution=uniform": 3 / 600,
    "variance_scaling:mode=fan_avg:distribution=normal": 1 / 800,
    "variance_scaling:mode=fan_avg:distribution=untruncated_normal": 1 / 800,
    "variance_scaling:scale=2:distribution=truncated_normal": 2 / 1000,
    "default": 1 / 3000,
    "critical:weight_variance=1.98:bias_variance=0.2": 1.98 / 1000,
}


@pytest.mark.parametrize("spec", VARIANCES)
def test_variance_is_that_of_the_formula(spec):
    weight = filled(spec).double()
    stated = parse_initializer(spec).weight_variance(COLUMNS, ROWS)
    assert stated == pytest.approx(VARIANCES[spec], rel=1e-6)
    # 600,000 entries: the variance of a normal is known to 0.2%, that of a tenth of them to 0.6%.
    assert float(weight.square().mean()) == pytest.approx(stated, rel=0.02 if "sparse" in spec else 0.008)
    assert abs(float(weight.mean())) < 5 * math.sqrt(stated / weight.numel())


def test_every_random_initializer_is_checked_against_its_formula():
    assert {spec.split(":")[0] for spec in VARIANCES} == {e.name for e in INITIALIZERS if e.variance is not None}


@pytest.mark.parametrize("spec", ["zeros", "ones", "constant", "identity", "dirac", "uniform:low=0:high=1", "critical"])
def test_no_variance_where_mean_field_does_not_apply(spec):
    assert parse_initializer(spec).weight_variance(5, 5) is None


@pytest.mark.parametrize(
    "spec, reference",
    [
        ("xavier_uniform:gain=2", lambda w, g: nn.init.xavier_uniform_(w, gain=2, generator=g)),
        ("xavier_normal", lambda w, g: nn.init.xavier_normal_(w, generator=g)),
        ("he_uniform", lambda w, g: nn.init.kaiming_uniform_(w, generator=g)),
        ("he_normal:a=0.3:mode=fan_out", lambda w, g: nn.init.kaiming_normal_(w, a=0.3, mode="fan_out", generator=g)),
        ("he_normal:nonlinearity=selu", lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="selu", generator=g)),
        ("orthogonal:gain=0.5", lambda w, g: nn.init.orthogonal_(w, 0.5, generator=g)),
        ("default", lambda w, g: nn.init.kaiming_uniform_(w, a=math.sqrt(5), generator=g)),
        ("normal:std=0.2", lambda w, g: nn.init.normal_(w, 0, 0.2, generator=g)),
    ],
)
@pytest.mark.parametrize("shape", [(40, 30), (8, 4, 3, 3)])
def test_agrees_with_torch_number_by_number(spec, reference, shape):
    expected = torch.empty(shape)
    reference(expected, seeded_generator(0, "test"))
    torch.testing.assert_close(filled(spec, *shape), expected, rtol=1e-6, atol=0)


def test_constants_and_bounds():
    assert (filled("zeros", 3, 4) == 0).all()
    assert (filled("ones", 3, 4) == 1).all()
    assert (filled("constant:value=-2.5", 3, 4) == -2.5).all()
    assert (filled("constant", 3, 4) == torch.tensor(0.01)).all()
    uniform = filled("uniform:low=1:high=3")
    assert 1 <= uniform.min() < 1.001
    assert 2.999 < uniform.max() <= 3
    assert filled("trunc_normal:std=5").abs().max() == pytest.approx(10, rel=1e-3)
    assert filled("he_uniform").abs().max() == pytest.approx(math.sqrt(6 / 1000), rel=1e-3)
    truncated = filled("variance_scaling").abs().max()
    assert truncated == pytest.approx(2 / 0.87962566103423978 / math.sqrt(1000), rel=1e-3)


@pytest.mark.parametrize("shape", [(50, 50), (30, 50), (50, 30)])
def test_orthogonal_is(shape):
    weight = filled("orthogonal:gain=2", *shape, dtype=torch.float64)
    gram = weight @ weight.T if shape[0] <= shape[1] else weight.T @ weight
    torch.testing.assert_close(gram, 4 * torch.eye(len(gram), dtype=torch.float64))


def test_identity_and_dirac_pass_the_signal_on():
    x = torch.arange(4.0)
    assert torch.equal(filled("identity", 4, 4) @ x, x)
    image = torch.rand(1, 3, 5, 5)
    assert torch.equal(nn.functional.conv2d(image, filled("dirac", 3, 3, 3, 3), padding=1), image)


@pytest.mark.parametrize(
    "alias, label",
    [
        ("kaiming_normal", "he_normal"),
        ("kaiming_uniform:mode=fan_out", "he_uniform:mode=fan_out"),
        ("glorot_normal", "xavier_normal"),
        ("Glorot-Uniform:gain=1", "xavier_uniform"),
        ("eye", "identity"),
        ("gaussian:std=0.01", "normal"),
        ("truncated_normal", "trunc_normal"),
        ("normal:std=1", "normal:std=1"),
        ("sparse:std=0.1:sparsity=0.5", "sparse:sparsity=0.5:std=0.1"),
        ("torch", "default"),
        ("critical:bias_variance=AUTO:weight_variance=2.0", "critical:weight_variance=2"),
    ],
)
def test_label_is_canonical(alias, label):
    spec = parse_initializer(alias)
    assert spec.label == label
    assert parse_initializer(label) == spec == parse_initializer(spec)


@pytest.mark.parametrize(
    "text, message",
    [
        ("normal:sd=1", 'initializer normal has no parameter "sd"; it has std'),
        ("zeros:value=1", 'initializer zeros has no parameter "value"; it has none'),
        ("normal:std=abc", 'std of initializer normal must be a finite number of at least 0 .*got "abc"'),
        ("normal:std=-1", 'std of initializer normal must be .* got "-1"'),
        ("normal:std=inf", 'std of initializer normal must be .* got "inf"'),
        ("trunc_normal:std=nan", 'std of initializer trunc_normal must be .* got "nan"'),
        ("sparse:sparsity=1.1", 'sparsity of initializer sparse must be .*at least 0 and at most 1, got "1.1"'),
        ("uniform:low=1:high=1", "low of initializer uniform must be below high, got low 1 and high 1"),
        ("uniform:low=1", "got low 1 and high 0.05"),
        ("uniform:low=-1e300", 'low of initializer uniform must be .* got "-1e300"'),
        ("he_normal:mode=fan_avg", 'mode of initializer he_normal must be one of fan_in, fan_out, got "fan_avg"'),
        ("he_normal:nonlinearity=gelu", 'nonlinearity of initializer he_normal must be .* got "gelu"'),
        ("he_normal:nonlinearity=relu:a=0.2", "a of initializer he .*relu, got 0.2"),
        ("variance_scaling:scale=0", 'scale of initializer variance_scaling must be .*above 0.*got "0"'),
        (
            "variance_scaling:distribution=cauchy",
            'distribution of initializer variance_scaling .* got "cauchy"',
        ),
        ("constant:value=x", 'value of initializer constant must be .* got "x"'),
        (
            "critical:weight_variance=0",
            'weight_variance of initializer critical must be .* above 0 .*, or auto, got "0"',
        ),
        ("critical:bias_variance=-1", 'bias_variance of initializer critical must be .* got "-1"'),
        ("critical:bias_variance=nan", 'bias_variance of initializer critical must be .* got "nan"'),
        ("xavier_normal:gain=-1", 'gain of initializer xavier_normal must be .* got "-1"'),
    ],
)
def test_bad_parameters(text, message):
    with pytest.raises(InputError, match=message):
        parse_initializer(text)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match='unknown initializer "he_norml"') as caught:
        parse_initializer("he_norml")
    assert '"he_normal"' in caught.value.hint


@pytest.mark.parametrize(
    "spec, shape, message",
    [
        ("dirac", (4, 4), r"initializer dirac fills a convolution; the weight has shape \(4, 4\)"),
        ("identity", (4, 4, 3), "initializer identity fills a matrix"),
        ("he_normal", (4,), "initializer he_normal fills two or more dimensions"),
        ("sparse", (4,), "initializer sparse fills two or more"),
        ("orthogonal", (), "initializer orthogonal fills two or more"),
    ],
)
def test_shapes_that_do_not_fit(spec, shape, message):
    weight = torch.full(shape, 7.0)
    with pytest.raises(InputError, match=message):
        parse_initializer(spec).fill(weight)
    assert (weight == 7).all()


@pytest.mark.parametrize("entry", INITIALIZERS, ids=lambda entry: entry.name)
def test_fill_is_deterministic_in_place_and_leaves_torch_alone(entry):
    shape = (16, 16, 3) if entry.name == "dirac" else (16, 16)
    before = torch.get_rng_state()
    weight = nn.Parameter(torch.full(shape, torch.nan))
    parse_initializer(NEEDED.get(entry.name, entry.name)).fill(weight, seeded_generator(0, "test"))
    assert torch.equal(weight, filled(NEEDED.get(entry.name, entry.name), *shape))
    assert weight.isfinite().all()
    assert weight.is_leaf
    assert weight.grad_fn is None
    assert torch.equal(torch.get_rng_state(), before)
    if entry.variance is not None:
        assert not torch.equal(weight, filled(NEEDED.get(entry.name, entry.name), *shape, seed=1))


@pytest.mark.parametrize("entry", INITIALIZERS, ids=lambda entry: entry.name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fill_in_other_types(entry, dtype):
    shape = (16, 16, 3) if entry.name == "dirac" else (16, 16)
    weight = filled(NEEDED.get(entry.name, entry.name), *shape, dtype=dtype)
    assert weight.isfinite().all()
    if dtype == torch.bfloat16:
        assert torch.equal(weight, filled(NEEDED.get(entry.name, entry.name), *shape).to(dtype))


@pytest.mark.parametrize("entry", INITIALIZERS, ids=lambda entry: entry.name)
def test_the_largest_parameters_fill_without_an_error(entry):
    for sign in (1, -1):
        ends = {p.name: p.high if sign == 1 else p.low for p in entry.parameters if math.isfinite(p.high)}
        text = ":".join([entry.name, *(f"{name}={end}" for name, end in ends.items())])
        if entry.name == "uniform":
            text = "uniform:low=-1e30:high=1e30"
        if entry.name not in ("variance_scaling", "critical") or sign == 1:
            assert filled(text, *((1, 1, 1) if entry.name == "dirac" else (1, 1))).isfinite().all()


def test_without_a_generator_torchs_own_draws():
    torch.manual_seed(3)
    expected = nn.init.normal_(torch.empty(4, 4), 0, 0.01)
    torch.manual_seed(3)
    weight = torch.empty(4, 4)
    parse_initializer("normal").fill(weight)
    assert torch.equal(weight, expected)


def test_square_defaults():
    # The first cannot fill a square matrix; the others repeat what is in the list under other names.
    left_out = {"dirac", "variance_scaling", "critical"}
    assert {entry.name for entry in INITIALIZERS} - set(SQUARE_DEFAULTS) == left_out
    assert SQUARE_DEFAULTS == (
        "zeros",
        "ones",
        "constant",
        "uniform",
        "normal",
        "trunc_normal",
        "xavier_uniform",
        "xavier_normal",
        "he_uniform",
        "he_normal",
        "lecun_uniform",
        "lecun_normal",
        "orthogonal",
        "identity",
        "sparse",
        "default",
    )


def test_bias():
    bias = torch.full((50_000,), torch.nan)
    parse_initializer("he_normal").fill_bias(bias, fan_in=4, generator=seeded_generator(0))
    assert (bias == 0).all()
    parse_initializer("default").fill_bias(bias, fan_in=4, std=0.0, generator=seeded_generator(0))
    assert (bias == 0).all()
    parse_initializer("default").fill_bias(bias, fan_in=4, generator=seeded_generator(0))
    assert 0.499 < bias.abs().max() <= 0.5
    assert bias.var() == pytest.approx(1 / 12, rel=0.02)
    parse_initializer("zeros").fill_bias(bias, fan_in=4, std=0.3, generator=seeded_generator(0))
    assert bias.std() == pytest.approx(0.3, rel=0.02)


def test_critical_fills_biases_too_and_its_first_layer_apart():
    spec = parse_initializer("critical:weight_variance=1.98:bias_variance=0.2:first_weight_variance=4")
    bias = torch.full((50_000,), torch.nan)
    spec.fill_bias(bias, fan_in=7, generator=seeded_generator(0))
    assert spec.bias_variance(7) == 0.2
    assert bias.var() == pytest.approx(0.2, rel=0.02)
    spec.fill_bias(bias, fan_in=7, std=0.0, generator=seeded_generator(0))
    assert (bias == 0).all()
    assert spec.weight_variance(10, 10) == pytest.approx(0.198)
    assert spec.first_layer.weight_variance(10, 10) == pytest.approx(0.4)
    assert spec.first_layer.label == "critical:weight_variance=4:bias_variance=0.2"
    # The same numbers, scaled.
    assert spec.stream_name == spec.first_layer.stream_name == "critical"
    for name in ("he_normal", "default", "critical", "normal:std=0.1"):
        same = parse_initializer(name)
        assert same.first_layer is same
        assert same.bias_variance(9) == (1 / 27 if name == "default" else 0)


def test_critical_without_an_activation_says_what_it_needs():
    with pytest.raises(InputError, match="critical needs numbers") as caught:
        filled("critical", 4, 4)
    assert "critical:weight_variance=" in caught.value.hint


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\n"
        "def half(weight, value=0.5):\n    weight.fill_(value)\n"
        "def noise(weight, std=1.0):\n    return weight.normal_(0, std)\n"
        "def new(weight):\n    return torch.zeros_like(weight)\n"
        "def fails(weight):\n    raise RuntimeError('no')\n"
    )
    return str(file)


def test_own_callable(own):
    assert (filled(f"{own}:half", 3, 3) == 0.5).all()
    assert (filled(f"{own}:half:value=2", 3, 3, dtype=torch.float16) == 2).all()
    before = torch.get_rng_state()
    first = filled(f"{own}:noise:std=0.1", 200, 200)
    assert torch.equal(first, filled(f"{own}:noise:std=0.1", 200, 200))
    assert not torch.equal(first, filled(f"{own}:noise:std=0.1", 200, 200, seed=1))
    assert first.std() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(torch.get_rng_state(), before)
    spec = parse_initializer(f"{own}:noise:std=0.1")
    assert spec.custom
    assert spec.label == f"{own}:noise:std=0.1"
    assert spec.weight_variance(3, 3) is None
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert filled("torch.nn.init:normal_:std=0.5", 300, 300).std() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    "name, message",
    [
        ("new", "returned a new tensor"),
        ("fails", r"failed on a weight of shape \(3, 3\) \(RuntimeError: no\)"),
        ("half:valeu=1", "failed on a weight.*TypeError"),
        ("missing", 'no attribute "missing"'),
    ],
)
def test_own_callables_that_do_not_fit(own, name, message):
    with pytest.raises(InputError, match=message):
        filled(f"{own}:{name}", 3, 3)


def test_cut_variance_is_that_of_the_truncated_normal():
    assert math.isclose(initializers.CUT_VARIANCE, stats.truncnorm(-2, 2).var(), rel_tol=1e-9)
    assert math.isclose(math.sqrt(initializers.CUT_VARIANCE), 0.87962566103423978, rel_tol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (6, 4, 3), (6, 4, 3, 2), (6, 4, 3, 2, 5)])
def test_fans_count_as_torch_does(shape):
    weight = torch.empty(shape)
    assert initializers.fans(weight) == torch.nn.init._calculate_fan_in_and_fan_out(weight)


def test_truncated_draw_has_the_whole_distribution():
    weight = torch.empty(200_000)
    initializers.draw_truncated(weight, seeded_generator(0), 1.0)
    std = 1 / math.sqrt(initializers.CUT_VARIANCE)
    assert weight.abs().max() <= 2 * std
    assert weight.abs().max() > 1.999 * std
    assert stats.kstest(weight.double().numpy(), stats.truncnorm(-2, 2, scale=std).cdf).pvalue > 0.01


def test_normal_draw_is_normal():
    weight = torch.empty(200_000)
    initializers.draw_normal(weight, seeded_generator(0), 4.0)
    assert stats.kstest(weight.double().numpy(), stats.norm(scale=2).cdf).pvalue > 0.01


@pytest.mark.parametrize("rows, columns, sparsity", [(40, 7, 0.5), (10, 300, 0.33), (7, 3, 1.0), (7, 3, 0.0)])
def test_sparse_has_torchs_zeros_in_each_column(rows, columns, sparsity):
    weight, reference = torch.empty(rows, columns), torch.empty(rows, columns)
    initializers.sparse(weight, seeded_generator(0), sparsity=sparsity, std=1.0)
    with torch.random.fork_rng():
        torch.nn.init.sparse_(reference, sparsity)
    zeros = (weight == 0).sum(0)
    assert torch.equal(zeros, (reference == 0).sum(0))
    assert torch.equal(zeros, torch.full((columns,), math.ceil(sparsity * rows)))


def test_sparse_puts_its_zeros_anywhere():
    weight = torch.empty(8, 20_000)
    initializers.sparse(weight, seeded_generator(1), sparsity=0.25, std=1.0)
    share = (weight == 0).double().mean(1)
    assert share.sub(0.25).abs().max() < 0.015
    kept = weight[weight != 0].double().numpy()
    assert stats.kstest(kept, "norm").pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_same_draw_rounded(dtype):
    narrow, wide = torch.empty(30, 40, dtype=dtype), torch.empty(30, 40)
    for weight in (narrow, wide):
        initializers.draw_into(
            weight, g := seeded_generator(2), lambda target, g=g: initializers.draw_normal(target, g, 1.0)
        )
    assert torch.equal(narrow, wide.to(dtype))


def test_a_weight_in_another_layout_gets_the_same_numbers():
    plain, turned = torch.empty(6, 9), torch.empty(9, 6).t()
    for weight in (plain, turned):
        initializers.draw_into(
            weight, g := seeded_generator(2), lambda target, g=g: initializers.draw_normal(target, g, 1.0)
        )
    assert torch.equal(plain, turned)


def halves(weight, value=0.5):
    weight.fill_(value)


def test_a_callable_fills_the_weight_and_is_named_as_its_spec_would_name_it():
    spec = parse_initializer(functools.partial(halves, value=0.25))
    assert spec.label == f"{__name__}:halves:value=0.25"
    weight = torch.empty(3, 4)
    spec.fill(weight)
    assert (weight == 0.25).all()
    assert parse_initializer(halves).label == f"{__name__}:halves"
    assert parse_initializer(nn.init.kaiming_normal_).label == "torch.nn.init:kaiming_normal_"
    twice = [torch.empty(3, 4), torch.empty(3, 4)]
    for weight in twice:
        parse_initializer(nn.init.kaiming_normal_).fill(weight, seeded_generator(1))
    assert torch.equal(*twice)
    with pytest.raises(InputError, match="must be a name or a callable, got 3"):
        parse_initializer(3)


class Scaled:
    """An initializer as Keras has them: an object with settings."""

    def __init__(self, std, mode="fan_in"):
        self.std, self.mode, self._calls, self.table = std, mode, 0, [std]

    def __call__(self, weight):
        self._calls += 1
        weight.fill_(self.std)


@dataclass(slots=True)
class Fixed:
    value: float

    def __call__(self, weight):
        weight.fill_(self.value)


def test_an_object_is_told_from_others_of_its_class_by_its_settings():
    spec = parse_initializer(Scaled(0.25))
    assert spec.label == f"{__name__}:Scaled:std=0.25:mode=fan_in"
    weight = torch.empty(3, 4)
    spec.fill(weight)
    assert (weight == 0.25).all()
    assert parse_initializer(Fixed(np.float64(2))).label == f"{__name__}:Fixed:value=2"
    profiles = propscope.profile_mlp(2, 4, initializer=[Fixed(0.1), Fixed(0.2)], batch=4, seeds=1)
    found = {profile.labels["initializer"]: profile.parameters[0].value.mean for profile in profiles}
    assert found == pytest.approx({f"{__name__}:Fixed:value={value}": value for value in (0.1, 0.2)})


def for_a_module(module):
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.weight)


@pytest.mark.parametrize("garbage", [0.0, math.nan])
def test_a_function_of_a_module_does_not_leave_the_weight_as_memory_had_it(garbage):
    weight = torch.full((3, 4), garbage)
    with pytest.raises(InputError, match=r"for_a_module\" left a weight of shape \(3, 4\) as it was") as caught:
        parse_initializer(for_a_module).fill(weight)
    assert "module.apply" in caught.value.hint
    # To fill with what is there already is to fill.
    zeros = torch.zeros(3, 4)
    parse_initializer(nn.init.zeros_).fill(zeros)
    parse_initializer(through_data).fill(weight)
    assert (weight == 1).all()


def through_data(weight):
    weight.data[:] = 1
