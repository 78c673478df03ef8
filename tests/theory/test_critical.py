"""Sources: Poole et al. 2016, Schoenholz et al. 2017; Roberts, Yaida, Hanin 2022, section 5.3.4 for GELU and SiLU."""

import math

import numpy as np
import pytest
import torch

from propscope.errors import InputError
from propscope.networks import ACTIVATIONS
from propscope.theory import MeanField, NoCriticalPoint, critical_line, critical_point, gain


@pytest.mark.parametrize(
    "name, expected",
    [
        ("relu", math.sqrt(2)),
        ("leaky_relu:negative_slope=0.5", math.sqrt(2 / 1.25)),
        ("identity", 1.0),
        ("gelu", 1.5335304412),
        ("tanh", 1.5925374197),
        # Klambauer et al. 2017: SELU is made for it.
        ("selu", 1.0),
        ("sigmoid", 1.8462285453),
        ("sin", math.sqrt(2 / (1 - math.exp(-2)))),
        ("erf", 1 / math.sqrt(2 / math.pi * math.asin(2 / 3))),
    ],
)
def test_gains(name, expected):
    assert gain(name) == pytest.approx(expected, abs=6e-11)


def test_gain_is_not_torchs_convention():
    assert gain("tanh") != pytest.approx(torch.nn.init.calculate_gain("tanh"), rel=0.01)


def test_tanh_with_a_bias():
    point = critical_point("tanh", bias_variance=0.05)
    assert point.weight_variance == pytest.approx(1.7609546396, abs=6e-11)
    assert point.q == pytest.approx(0.5700478816, abs=6e-11)
    assert point.bias_variance == 0.05


def test_gelu_is_half_stable():
    # q* = (3 + sqrt 17) / 2 is the root of V' = D, for which the arc tangents of V cancel.
    point = critical_point("gelu")
    assert point.q == pytest.approx((3 + math.sqrt(17)) / 2, rel=1e-11)
    assert point.weight_variance == pytest.approx(1.983058257438, abs=1e-11)
    assert point.bias_variance == pytest.approx(0.172922390756, abs=1e-11)
    assert "half-stable" in point.note


def test_silu():
    # Roberts, Yaida, Hanin 2022, section 5.3.4: (0.55514317, 1.98800468) for SWISH, (0.17292239, 1.98305826) for GELU.
    point = critical_point("silu")
    assert (point.bias_variance, point.weight_variance) == pytest.approx((0.55514317, 1.98800468), abs=6e-9)


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "hardswish", "gelu_tanh"])
def test_double_criticality(name):
    point = critical_point(name)
    field = MeanField(name, weight_variance=point.weight_variance, bias_variance=point.bias_variance)
    assert field.chi(point.q) == pytest.approx(1, abs=1e-12)
    assert field.chi_parallel(point.q) == pytest.approx(1, abs=1e-12)
    assert field.variance_map(point.q) == pytest.approx(point.q, rel=1e-12)


@pytest.mark.parametrize("name, weight", [("relu", 2.0), ("leaky_relu:negative_slope=0.5", 1.6), ("identity", 1.0)])
def test_two_slopes_have_a_line_of_fixed_points(name, weight):
    point = critical_point(name)
    assert (point.weight_variance, point.bias_variance, point.q) == pytest.approx((weight, 0, 1))
    assert "every q" in point.note
    with pytest.raises(NoCriticalPoint, match="grow without end"):
        critical_point(name, bias_variance=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name, weight", [("tanh", 1.0), ("erf", math.pi / 4), ("sin", 1.0), ("elu", 1.0)])
def test_the_limit_of_small_variances(name, weight):
    for point in (critical_point(name), critical_point(name, bias_variance=0)):
        assert (point.weight_variance, point.bias_variance, point.q) == pytest.approx((weight, 0, 0), abs=1e-12)
        assert "limit" in point.note


def test_sigmoid_and_tanh_are_one_family():
    # sigmoid(x) = (1 + tanh(x/2))/2, so sigmoid at (w, b) behaves as tanh at (w/16, w/16 + b/4).
    point = critical_point("sigmoid", bias_variance=2.0)
    w = point.weight_variance
    twin = critical_point("tanh", bias_variance=w / 16 + 2.0 / 4)
    assert twin.weight_variance == pytest.approx(w / 16, rel=1e-11)
    assert twin.q == pytest.approx(point.q / 4, rel=1e-11)


@pytest.mark.parametrize(
    "name, bias, message",
    [
        ("softplus", None, "negative bias variance at every q"),
        ("softplus", 0.3, "negative bias variance at every q"),
        ("sigmoid", None, "chi_parallel is not 1 anywhere"),
        ("gelu", 0.0, "bias variances from .* to infinity"),
    ],
)
def test_no_critical_point_and_why(name, bias, message):
    with pytest.raises(NoCriticalPoint, match=message):
        critical_point(name, bias_variance=bias)


# Without a bias variance chi_1 = chi_parallel = 1 is asked; with one, chi_1 = 1 at the fixed point that it leads to.
NO_POINT = {
    None: {"softplus", "sigmoid", "hardsigmoid", "logsigmoid", "tanhshrink"},
    0.05: {"identity", "relu", "leaky_relu", "prelu", "softplus", "logsigmoid"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in ACTIVATIONS])
@pytest.mark.parametrize("bias", [None, 0.05])
def test_every_critical_point_is_one(name, bias):
    if name in NO_POINT[bias]:
        with pytest.raises(NoCriticalPoint, match=f'activation "{name}" has no'):
            critical_point(name, bias_variance=bias)
    else:
        check_critical(name, critical_point(name, bias_variance=bias))


def check_critical(name, point):
    field = MeanField(name, weight_variance=point.weight_variance, bias_variance=point.bias_variance)
    assert field.chi(point.q) == pytest.approx(1, abs=1e-11)
    assert field.variance_map(point.q) == pytest.approx(point.q, rel=1e-11)


def test_line_is_critical():
    q = np.array([0.0, 0.1, 1.0, 4.0])
    line = critical_line("tanh", q)
    assert (line.weight_variance[0], line.bias_variance[0]) == pytest.approx((1, 0), abs=1e-14)
    for at, weight, bias in zip(q, line.weight_variance, line.bias_variance, strict=True):
        field = MeanField("tanh", weight_variance=weight, bias_variance=bias)
        assert field.chi(at) == pytest.approx(1, abs=1e-13)
        assert field.variance_map(at) == pytest.approx(at, rel=1e-13)
    assert (critical_line("softplus", q).bias_variance < 0).all()


@pytest.mark.parametrize("bias", [-0.1, math.nan, math.inf, "much"])
def test_a_bias_variance_that_is_none(bias):
    with pytest.raises(InputError, match=r"bias_variance must be a finite number of at least 0, got"):
        critical_point("tanh", bias_variance=bias)
