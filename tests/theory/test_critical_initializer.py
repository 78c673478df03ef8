"""`critical_initializer`: the numbers that the initializer `critical` stands for."""

import math

import pytest

from propscope.errors import InputError
from propscope.theory.critical import NoCriticalPoint
from propscope.theory.initialization import critical_initializer, layer_variances

Q = (3 + math.sqrt(17)) / 2


def variances(text, activation, **more):
    spec = critical_initializer(text, activation, **more)
    found = layer_variances(spec, fan_in=10, fan_out=10)
    first = layer_variances(spec.first_layer, fan_in=10, fan_out=10)
    return found.weight_variance, found.bias_variance, first.weight_variance


@pytest.mark.parametrize(
    ("text", "activation", "more", "expected"),
    [
        ("critical", "tanh", {}, (1, 0, 1)),
        ("critical", "tanh", {"mean_square": 0.25}, (1, 0, 1)),
        ("critical", "relu", {"mean_square": 0.25}, (2, 0, 2)),
        ("critical", "identity", {}, (1, 0, 1)),
        ("critical", "gelu", {}, (1.983058257438, 0.172922390756, 1.983058257438)),
        ("critical", "gelu", {"mean_square": 1.0}, (1.983058257438, 0.172922390756, Q - 0.172922390756)),
        ("critical", "gelu", {"mean_square": 2.0}, (1.983058257438, 0.172922390756, (Q - 0.172922390756) / 2)),
        ("critical", "gelu", {"mean_square": 0.0}, (1.983058257438, 0.172922390756, 1.983058257438)),
        ("critical:bias_variance=0.05", "tanh", {}, (1.7609546396, 0.05, 1.7609546396)),
        ("critical", "tanh", {"bias": math.sqrt(0.05)}, (1.7609546396, 0.05, 1.7609546396)),
        ("critical", "tanh", {"bias": 0.0}, (1, 0, 1)),
        ("critical:first_weight_variance=3", "tanh", {"mean_square": 1.0}, (1, 0, 3)),
        ("critical:weight_variance=1.5", "softplus", {"mean_square": 1.0}, (1.5, 0, 1.5)),
    ],
)
def test_the_numbers(text, activation, more, expected):
    assert variances(text, activation, **more) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_sigmoid_has_its_point_without_biases():
    # sigmoid(w, b) behaves as tanh(w / 16, w / 16 + b / 4), so that tanh is critical with sigma_w^2 = sigma_b^2 there.
    weight, bias, _ = variances("critical", "sigmoid")
    assert bias == 0
    assert variances(f"critical:bias_variance={weight / 16!r}", "tanh")[0] == pytest.approx(weight / 16, rel=1e-8)


def test_other_initializers_pass():
    assert critical_initializer("kaiming_normal", "softplus").label == "he_normal"


@pytest.mark.parametrize(
    ("text", "activation", "message", "hint"),
    [
        ("critical", "softplus", 'initializer critical with activation "softplus" has no', "leave that pair out"),
        ("critical:bias_variance=1", "relu", "with bias_variance 1: its variance map is linear", "or plain critical"),
        ("critical", "tanhshrink", "critical line has bias variances from", "critical:bias_variance=B"),
    ],
)
def test_no_critical_point(text, activation, message, hint):
    with pytest.raises(NoCriticalPoint, match=message) as caught:
        critical_initializer(text, activation)
    assert hint in caught.value.hint


def test_two_bias_variances():
    with pytest.raises(InputError, match=r"bias 0.5 and the bias variance of critical:bias_variance=1 cannot both"):
        critical_initializer("critical:bias_variance=1", "tanh", bias=0.5)


def test_without_an_activation_it_is_no_mean_field():
    with pytest.raises(InputError, match='mean field does not apply to initializer "critical": its variances follow'):
        layer_variances("critical", fan_in=3, fan_out=3)
