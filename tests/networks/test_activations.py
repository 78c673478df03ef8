import functools
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from propscope.errors import InputError
from propscope.networks import INITIALIZERS
from propscope.networks.activations import ACTIVATIONS, Erf, FunctionActivation, Sin, parse_activation

# No point is a kink of any activation.
Z = np.array([-7.1, -3.4, -1.3, -0.9, -0.21, 0.17, 0.8, 1.6, 3.3, 6.7])


def logistic(z):
    return special.expit(z)


def normal_cdf(z):
    return special.ndtr(z)


def normal_pdf(z):
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(z):
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
    return z / 2 * (1 + np.tanh(u)), (1 + np.tanh(u)) / 2 + z / 2 * slope / np.cosh(u) ** 2


def mish(z):
    t = np.tanh(np.log1p(np.exp(z)))
    return z * t, t + z * (1 - t * t) * logistic(z)


def exponential(z, alpha, scale=1.0, rate=1.0):
    bent = alpha * np.expm1(np.minimum(z, 0) / rate)
    return scale * np.where(z > 0, z, bent), scale * np.where(z > 0, 1, (bent + alpha) / rate)


SELU = (1.6732632423543772, 1.0507009873554805)
INSIDE3 = (Z > -3) & (Z < 3)

# (value, derivative) of each, written from the papers' formulas and not from torch.
CLOSED_FORMS = {
    "identity": (Z, np.ones_like(Z)),
    "relu": (np.maximum(Z, 0), Z > 0),
    "leaky_relu": (np.where(Z > 0, Z, 0.01 * Z), np.where(Z > 0, 1, 0.01)),
    "leaky_relu:negative_slope=0.2": (np.where(Z > 0, Z, 0.2 * Z), np.where(Z > 0, 1, 0.2)),
    "prelu": (np.where(Z > 0, Z, 0.25 * Z), np.where(Z > 0, 1, 0.25)),
    "prelu:init=0.5": (np.where(Z > 0, Z, 0.5 * Z), np.where(Z > 0, 1, 0.5)),
    "relu6": (np.clip(Z, 0, 6), (Z > 0) & (Z < 6)),
    "elu": exponential(Z, 1.0),
    "elu:alpha=0.3": exponential(Z, 0.3),
    "selu": exponential(Z, *SELU),
    "celu": exponential(Z, 1.0),
    "celu:alpha=2": exponential(Z, 2.0, rate=2.0),
    "gelu": (Z * normal_cdf(Z), normal_cdf(Z) + Z * normal_pdf(Z)),
    "gelu:approximate=tanh": gelu_tanh(Z),
    "silu": (Z * logistic(Z), logistic(Z) * (1 + Z * (1 - logistic(Z)))),
    "mish": mish(Z),
    "softplus": (np.log1p(np.exp(Z)), logistic(Z)),
    "softplus:beta=2": (np.log1p(np.exp(2 * Z)) / 2, logistic(2 * Z)),
    "softsign": (Z / (1 + abs(Z)), 1 / (1 + abs(Z)) ** 2),
    "tanh": (np.tanh(Z), 1 / np.cosh(Z) ** 2),
    "hardtanh": (np.clip(Z, -1, 1), abs(Z) < 1),
    "hardtanh:min=-2:max=0.5": (np.clip(Z, -2, 0.5), (Z > -2) & (Z < 0.5)),
    "sigmoid": (logistic(Z), logistic(Z) * logistic(-Z)),
    "hardsigmoid": (np.clip(Z / 6 + 0.5, 0, 1), INSIDE3 / 6),
    "hardswish": (Z * np.clip(Z / 6 + 0.5, 0, 1), np.where(INSIDE3, Z / 3 + 0.5, Z > 3)),
    "logsigmoid": (-np.log1p(np.exp(-Z)), logistic(-Z)),
    "tanhshrink": (Z - np.tanh(Z), np.tanh(Z) ** 2),
    "erf": (special.erf(Z), 2 / math.sqrt(math.pi) * np.exp(-Z * Z)),
    "sin": (np.sin(Z), np.cos(Z)),
}


def value_and_slope(module):
    z = torch.tensor(Z, requires_grad=True)
    value = module.double()(z)
    value.sum().backward()
    return value.detach().numpy(), z.grad.numpy()


@pytest.mark.parametrize("spec", CLOSED_FORMS)
def test_value_and_derivative(spec):
    value, slope = value_and_slope(parse_activation(spec).module())
    np.testing.assert_allclose(value, CLOSED_FORMS[spec][0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(slope, CLOSED_FORMS[spec][1], rtol=1e-6, atol=1e-9)


def test_every_activation_has_a_closed_form():
    assert {spec.split(":")[0] for spec in CLOSED_FORMS} == {entry.name for entry in ACTIVATIONS}
    assert all(entry.formula and entry.source for entry in ACTIVATIONS)


# The least and the largest value of each that is bounded.
RANGES = {
    "softsign": (-1, 1),
    "tanh": (-1, 1),
    "hardtanh": (-1, 1),
    "sigmoid": (0, 1),
    "hardsigmoid": (0, 1),
    "erf": (-1, 1),
    "sin": (-1, 1),
}


def test_the_bounded_ones_have_these_bounds():
    z = torch.cat([torch.linspace(-40, 40, 20_001), torch.tensor([-1e6, 1e6])]).double()
    ends = {}
    for entry in ACTIVATIONS:
        values = parse_activation(entry.name).module().double()(z).detach()
        if entry.bounded:
            ends[entry.name] = (values.min().item(), values.max().item())
            assert -1 <= values.min() <= values.max() <= 1
    assert ends == {name: pytest.approx(pair, abs=1e-5) for name, pair in RANGES.items()}


def test_recommendations_come_from_the_entries_of_the_activations():
    found = {entry.name: set(entry.recommended_for) for entry in INITIALIZERS}
    rectifiers = {"relu", "leaky_relu", "prelu", "relu6"}
    saturating = {"tanh", "sigmoid", "softsign", "hardtanh", "erf"}
    assert {name: group for name, group in found.items() if group} == {
        "xavier_uniform": saturating,
        "xavier_normal": saturating,
        "he_uniform": rectifiers,
        "he_normal": rectifiers,
        "lecun_uniform": {"selu", "tanh"},
        "lecun_normal": {"selu", "tanh"},
        "orthogonal": {"identity", "tanh"},
        "identity": {"identity", "relu"},
        "dirac": {"identity", "relu"},
    }


@pytest.mark.parametrize(
    "text, label",
    [
        ("swish", "silu"),
        ("linear", "identity"),
        ("logistic", "sigmoid"),
        ("sine", "sin"),
        ("TanH", "tanh"),
        ("gelu_tanh", "gelu:approximate=tanh"),
        ("gelu:approximate=none", "gelu"),
        ("gelu:approximate=TANH", "gelu:approximate=tanh"),
        ("leaky_relu:negative_slope=0.01", "leaky_relu"),
        ("leaky_relu:negative_slope=2e-1", "leaky_relu:negative_slope=0.2"),
        ("softplus:beta=2", "softplus:beta=2"),
        ("hardtanh:max=2:min=-1", "hardtanh:max=2"),
    ],
)
def test_label_is_canonical(text, label):
    spec = parse_activation(text)
    assert spec.label == label
    assert spec.name == label.split(":")[0]
    assert parse_activation(label) == spec == parse_activation(spec)
    assert hash(parse_activation(label)) == hash(spec)


def test_parameters_include_the_defaults():
    assert parse_activation("hardtanh:max=2").parameters == {"min": -1.0, "max": 2.0}
    assert parse_activation("relu").parameters == {}


def test_each_module_is_new_and_of_torch():
    spec = parse_activation("prelu")
    first, second = spec.module(), spec.module()
    assert type(first) is nn.PReLU
    assert first.weight is not second.weight
    assert isinstance(parse_activation("erf").module(), Erf)
    assert isinstance(parse_activation("sin").module(), Sin)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match='unknown activation "rellu"; valid are') as caught:
        parse_activation("rellu")
    assert '"relu"' in caught.value.hint


@pytest.mark.parametrize(
    "text, message",
    [
        ("relu:slope=1", 'activation relu has no parameter "slope"; it has none'),
        ("swish:beta=1", 'activation silu has no parameter "beta"'),
        ("leaky_relu:slope=1", 'activation leaky_relu has no parameter "slope"; it has negative_slope'),
        ("elu:alpha=big", 'alpha of activation elu must be a finite number, got "big"'),
        ("elu:alpha=nan", 'alpha of activation elu must be .* got "nan"'),
        ("celu:alpha=0", 'alpha of activation celu must be a finite number above 0, got "0"'),
        ("softplus:beta=-1", 'beta of activation softplus must be .* got "-1"'),
        ("gelu:approximate=erf", 'approximate of activation gelu must be one of none, tanh, got "erf"'),
        ("hardtanh:min=2", "min of activation hardtanh must be below max, got min 2 and max 1"),
        ("elu:alpha=1e300", 'activation "elu:alpha=1e[+]300" failed'),
        ("gelu_tanh:approximate=none", "approximate is given twice"),
    ],
)
def test_bad_parameters(text, message):
    with pytest.raises(InputError, match=message):
        parse_activation(text)


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import torch\n"
        "from torch import nn\n"
        "def cube(x, scale=1.0):\n    return scale * x**3\n"
        "def total(x):\n    return x.sum()\n"
        "def number(x):\n    return 3\n"
        "class Noisy(nn.Module):\n"
        "    def __init__(self, gain=1.0):\n"
        "        super().__init__()\n"
        "        self.weight = nn.Parameter(gain * torch.randn(()))\n"
        "    def forward(self, x):\n        return self.weight * x\n"
        "class NoModule:\n    pass\n"
        "class NeedsMore(nn.Module):\n    def __init__(self, size):\n        super().__init__()\n"
    )
    return str(file)


def test_own_function(own):
    spec = parse_activation(f"{own}:cube:scale=0.5")
    assert spec.custom
    assert spec.label == f"{own}:cube:scale=0.5"
    module = spec.module()
    assert isinstance(module, FunctionActivation)
    assert torch.equal(module(torch.tensor([[2.0]])), torch.tensor([[4.0]]))
    assert "cube:scale=0.5" in repr(module)
    assert pickle.loads(pickle.dumps(spec)).module()(torch.ones(1)) == 0.5


def test_own_class_and_torch_callables(own):
    module = parse_activation(f"{own}:Noisy:gain=0").module()
    assert type(module).__name__ == "Noisy"
    assert module.weight == 0
    assert parse_activation("torch.nn:PReLU:num_parameters=3").module().weight.shape == (3,)
    assert torch.equal(
        parse_activation("torch.nn.functional:relu").module()(torch.tensor([-1.0, 2])), torch.tensor([0.0, 2])
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("total", r"shape \(2, 3\) became shape \(\)"),
        ("number", "became a int"),
        ("cube:power=2", 'cube:power=2" failed.*TypeError'),
        ("NoModule", "must make an nn.Module, got a NoModule"),
        ("NeedsMore", "failed.*TypeError"),
        ("missing", 'no attribute "missing"'),
    ],
)
def test_own_callables_that_do_not_fit(own, name, message):
    with pytest.raises(InputError, match=message):
        parse_activation(f"{own}:{name}")


def test_parsing_leaves_the_global_generator_alone(own):
    before = torch.get_rng_state()
    parse_activation(f"{own}:Noisy")
    parse_activation("torch.nn.functional:rrelu:training=True")
    assert torch.equal(torch.get_rng_state(), before)


def cube(x, scale=1.0):
    return scale * x**3


def leaky():
    return nn.LeakyReLU(0.3)


@pytest.mark.parametrize(
    "given, label",
    [(nn.ReLU, "relu"), (torch.tanh, "tanh"), (nn.functional.gelu, "gelu"), (Erf, "erf"), (torch.sin, "sin")],
)
def test_torchs_own_classes_and_functions_are_entries_of_the_table(given, label):
    assert parse_activation(given) == parse_activation(label)


def test_a_callable_is_named_as_its_spec_would_name_it():
    spec = parse_activation(cube)
    assert spec.label == f"{__name__}:cube"
    assert spec.module()(torch.tensor([2.0])) == 8
    scaled = parse_activation(functools.partial(cube, scale=0.5))
    assert scaled.label == f"{__name__}:cube:scale=0.5"
    assert scaled.module()(torch.tensor([2.0])) == 4
    assert parse_activation(functools.partial(nn.LeakyReLU, 0.2)).label.endswith(":LeakyReLU:negative_slope=0.2")
    assert parse_activation(lambda x: x * x).label.endswith("<lambda>")
    assert parse_activation(torch.sgn).label == "torch:sgn"


def test_a_factory_makes_a_module_for_each_layer():
    spec = parse_activation(leaky)
    first, second = spec.module(), spec.module()
    assert type(first) is nn.LeakyReLU
    assert first is not second
    assert first.negative_slope == 0.3
    assert parse_activation(functools.partial(nn.LeakyReLU, 0.2)).module().negative_slope == 0.2


@pytest.mark.parametrize(
    "given, message",
    [
        (nn.LeakyReLU(0.2), r"got the module LeakyReLU\(negative_slope=0.2\)"),
        (3, "must be a name or a callable, got 3"),
        (None, "got None"),
        (torch.sum, r"shape \(2, 3\) became shape \(\)"),
        (lambda: 3, "must make an nn.Module, got a int"),
        (functools.partial(nn.LeakyReLU, slope=0.2), "failed .TypeError"),
    ],
)
def test_what_is_no_activation(given, message):
    with pytest.raises(InputError, match=message):
        parse_activation(given)
