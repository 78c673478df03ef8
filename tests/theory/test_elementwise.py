import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from propscope.errors import InputError
from propscope.networks import ACTIVATIONS
from propscope.theory import Elementwise

X = np.array([-7.3, -2.1, -0.4, 0.3, 1.9, 8.2])

KINKS = {
    "relu": (0.0,),
    "leaky_relu": (0.0,),
    "prelu": (0.0,),
    "relu6": (0.0, 6.0),
    "hardtanh": (-1.0, 1.0),
    "hardtanh:min=-2:max=0.5": (-2.0, 0.5),
    "hardsigmoid": (-3.0, 3.0),
    "hardswish": (-3.0, 3.0),
    "elu": (0.0,),
    "selu": (0.0,),
    "celu": (0.0,),
    "softsign": (0.0,),
    # torch's softplus is the identity from there on.
    "softplus": (20.0,),
}


@pytest.mark.parametrize("name", [*(entry.name for entry in ACTIVATIONS), "hardtanh:min=-2:max=0.5"])
def test_kinks_of_the_table_are_found_exactly(name):
    assert Elementwise.of(name).kinks == KINKS.get(name, ())


@pytest.mark.parametrize("name", [entry.name for entry in ACTIVATIONS])
def test_derivative_is_that_of_the_value(name):
    activation = Elementwise.of(name)
    step = 1e-6
    numeric = (activation.value(X + step) - activation.value(X - step)) / (2 * step)
    assert activation.derivative(X) == pytest.approx(numeric, abs=1e-8)
    assert activation.continuous


def test_only_homogeneous_activations_have_slopes():
    found = {entry.name: slopes for entry in ACTIVATIONS if (slopes := Elementwise.of(entry.name).slopes)}
    assert found == {"identity": (1, 1), "relu": (0, 1), "leaky_relu": (0.01, 1), "prelu": (0.25, 1)}
    assert Elementwise.of("prelu:init=0.3").slopes == (0.3, 1.0)
    assert Elementwise.of(torch.abs).slopes == (-1, 1)
    assert Elementwise.of(lambda x: x + 1e-9).slopes is None


def test_shape_is_kept():
    assert Elementwise.of("tanh")(np.zeros((2, 3, 4))).shape == (2, 3, 4)
    assert Elementwise.of("tanh").derivative(np.zeros((2, 0))).shape == (2, 0)


@pytest.mark.parametrize(
    "function", [np.tanh, torch.tanh, nn.Tanh(), lambda x: torch.tanh(x), lambda x: np.tanh(np.asarray(x))]
)
def test_functions_of_torch_and_of_numpy(function):
    activation = Elementwise.of(function)
    assert activation.value(X) == pytest.approx(np.tanh(X), rel=1e-15)
    assert activation.derivative(X) == pytest.approx(1 / np.cosh(X) ** 2, abs=1e-10)
    assert activation.kinks == ()


def test_a_derivative_given_is_the_one_used():
    activation = Elementwise.of(special.erf, derivative=lambda x: 2 / np.sqrt(np.pi) * np.exp(-(x**2)))
    assert activation.derivative(X) == pytest.approx(2 / np.sqrt(np.pi) * np.exp(-(X**2)), rel=1e-14)


def test_derivative_of_a_numpy_function_follows_its_kinks():
    activation = Elementwise.of(lambda x: np.maximum(x, 0.3) ** 2 if isinstance(x, np.ndarray) else x.no)
    assert activation.kinks == (0.3,)
    at = np.array([-1.0, 0.2999, 0.3001, 0.7, 5.0, 40.0])
    assert activation.derivative(at) == pytest.approx(np.where(at > 0.3, 2 * at, 0), abs=1e-8)


def test_kinks_of_a_users_function_are_found():
    def bent(x):
        return torch.where(x > 1 / 3, 2 * x - 1 / 3, x) + torch.relu(x - 2.7) ** 2 + torch.sign(x + 5.25)

    activation = Elementwise.of(bent)
    assert activation.kinks == (-5.25, pytest.approx(1 / 3, abs=1e-11), 2.7)
    assert not activation.continuous
    # Once a kink is known no piece needs to be narrow.
    assert np.diff(activation.pieces.within(16)).min() > 1e-3


def test_declared_kinks_are_kept():
    assert Elementwise.of(torch.tanh, kinks=[0.5]).kinks == (0.5,)


@pytest.mark.parametrize("steepness", [1e3, 1e5])
def test_steep_functions_are_resolved(steepness):
    activation = Elementwise.of(lambda x: torch.tanh(steepness * (x - 3.3)))
    edges = activation.pieces.within(16)
    assert np.diff(edges[np.abs(edges - 3.3) * steepness < 10]).max() * steepness < 5
    assert activation.kinks == ()


def test_modules_are_copied_and_stay_as_they_are():
    module = nn.PReLU(init=0.25)
    activation = Elementwise.of(module)
    with torch.no_grad():
        module.weight.fill_(0.5)
    assert activation.slopes == (0.25, 1.0)
    assert module.weight.dtype == torch.float32
    assert Elementwise.of(nn.ReLU(inplace=True)).value(X).tolist() == np.maximum(X, 0).tolist()
    assert X[0] == -7.3


def test_repeated_use_is_cheap():
    assert Elementwise.of("mish") is Elementwise.of("mish")
    assert Elementwise.of("swish") is Elementwise.of("silu")
    assert Elementwise.of(torch.sin) is Elementwise.of(torch.sin)
    assert Elementwise.of(activation := Elementwise.of("relu")) is activation


def test_randomness_and_gradient_mode_are_left_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.no_grad(), pytest.raises(InputError, match="random"):
        Elementwise.of(nn.Dropout())
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        assert Elementwise.of(lambda x: torch.tanh(x) / 2).derivative(np.zeros(1)) == [0.5]


@pytest.mark.parametrize(
    "activation, message",
    [
        (lambda x: torch.softmax(x, -1), "not elementwise"),
        (nn.LayerNorm(16), "not elementwise"),
        (lambda x: x * torch.arange(x.numel()).reshape(x.shape), "not elementwise"),
        (nn.RReLU(), "random"),
        (torch.log, "NaN at -9.3"),
        (lambda x: x.sum(), "shape"),
        (lambda x: [1.0] * 16, "list"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x: x * 0, "0 everywhere"),
        (lambda x: x.float().tanh().double(), "more than can be resolved"),
        (3, "activation must .* got 3"),
        ("tanhh", "unknown activation"),
    ],
)
def test_what_is_no_activation_is_refused(activation, message):
    with pytest.raises(InputError, match=message):
        Elementwise.of(activation)
