import dataclasses
import math

import numpy as np
import pytest
import torch
from building.normalized_mean_field import expectation
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from propscope.errors import InputError
from propscope.theory import Elementwise
from propscope.theory.correlation_kernel import correlation_kernel
from propscope.theory.quadrature import decorrelation, moments, slope_product

# From where V of float64 is exact to where 1/sqrt(q) is a millionth of the window.
Q = np.array([1e-280, 1e-100, 1e-9, 1e-3, 0.3, 1.0, 7.0, 1e3, 1e6, 1e12])
THETA = np.array([1e-7, 1e-3, 0.2, 1.0, 1.5, 2.0, 3.0, math.pi - 1e-7])


def without_closed_form(name):
    return dataclasses.replace(Elementwise.of(name), slopes=None)


def gelu_value(q):
    # E[x^2 Phi(x)^2], x ~ N(0, q), by the quadrant probability (Sheppard 1899) and Stein's lemma twice.
    return q / 4 + q / (2 * np.pi) * (np.arctan(q / np.sqrt(1 + 2 * q)) + 2 * q / ((1 + q) * np.sqrt(1 + 2 * q)))


def test_erf_has_its_closed_form_at_every_variance():
    # Williams 1997, eq. 11: 2/pi asin(2 q c / (1 + 2 q)); at c = 1 by the arc tangent, which keeps its digits.
    known = moments(Elementwise.of("erf"), Q)
    assert known.value == pytest.approx(2 / np.pi * np.arctan(2 * Q / np.sqrt(1 + 4 * Q)), rel=1e-13, abs=0)
    assert known.slope == pytest.approx(4 / np.pi / np.sqrt(1 + 4 * Q), rel=1e-13, abs=0)
    assert known.growth == pytest.approx(4 / np.pi / ((1 + 2 * Q) * np.sqrt(1 + 4 * Q)), rel=1e-12, abs=0)


def test_sin_has_its_closed_form_until_it_is_refused():
    q = Q[(Q > 1e-12) & (Q < 1e4)]
    known = moments(Elementwise.of("sin"), q)
    assert known.value == pytest.approx(-np.expm1(-2 * q) / 2, rel=1e-13, abs=0)
    assert known.slope == pytest.approx((1 + np.exp(-2 * q)) / 2, rel=1e-13)
    with pytest.raises(InputError, match="bends more than 4096 times"):
        moments(Elementwise.of("sin"), 1e12)


def test_gelu_has_its_closed_form():
    q = Q[Q > 1e-12]
    assert moments(Elementwise.of("gelu"), q).value == pytest.approx(gelu_value(q), rel=1e-12, abs=0)


@pytest.mark.parametrize("name, kinks", [("elu", [0]), ("hardswish", [-3, 3]), ("relu6", [0, 6]), ("mish", [])])
@pytest.mark.parametrize("q", [0.2, 1.0, 30.0])
def test_moments_agree_with_adaptive_integration(name, kinks, q):
    activation = Elementwise.of(name)
    points = [kink / math.sqrt(q) for kink in kinks] or [0.0]

    def density(z):
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    for function, found in (
        (activation.value, moments(activation, q).value),
        (activation.derivative, moments(activation, q).slope),
    ):
        expected, _ = integrate.quad(
            lambda z, f=function: f(np.array([math.sqrt(q) * z]))[0] ** 2 * density(z),
            -12,
            12,
            points=points,
            epsabs=1e-12,
            limit=200,
        )
        assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu:negative_slope=0.3"])
def test_quadrature_agrees_with_the_closed_form_of_two_slopes(name):
    closed, integrated = moments(Elementwise.of(name), Q), moments(without_closed_form(name), Q)
    for field in ("value", "slope", "growth"):
        assert getattr(integrated, field) == pytest.approx(getattr(closed, field), rel=1e-10, abs=0)


def test_growth_is_the_derivative_of_the_value():
    for name in ("tanh", "selu", "sigmoid", "hardswish"):
        activation = Elementwise.of(name)
        rise = moments(activation, np.array([0.7 - 1e-5, 0.7 + 1e-5])).value
        assert float(moments(activation, 0.7).growth) == pytest.approx((rise[1] - rise[0]) / 2e-5, rel=1e-7)


def test_a_jump_takes_the_form_that_is_safe_at_jumps():
    # E[(3 step(x - 1))^2] = 9 P(x > 1), whose derivative sees the jump that phi' does not.
    activation = Elementwise.of(lambda x: 3 * (x > 1).double())
    known = moments(activation, 0.5)
    assert float(known.value) == pytest.approx(9 * 0.5 * math.erfc(1 / math.sqrt(2 * 0.5)), rel=1e-12)
    density = math.exp(-1) / math.sqrt(2 * math.pi * 0.5)
    assert float(known.growth) == pytest.approx(9 * density / (2 * 0.5), rel=1e-11)
    assert float(known.slope) == pytest.approx(0, abs=1e-12)


def test_moments_at_zero_are_limits():
    known = moments(Elementwise.of("sigmoid"), 0.0)
    assert (float(known.value), float(known.slope)) == pytest.approx((0.25, 1 / 16))
    assert float(moments(Elementwise.of("elu"), 0.0).slope) == pytest.approx(1)
    assert float(moments(Elementwise.of("selu"), 0.0).slope) == pytest.approx(
        1.0507009873554805**2 * (1 + 1.6732632423543772**2) / 2
    )


@pytest.mark.parametrize("q", [-1.0, math.nan, math.inf, [1.0, -2.0]])
def test_a_variance_that_is_none_is_refused(q):
    with pytest.raises(InputError, match=r"q must be finite numbers of at least 0"):
        moments(Elementwise.of("relu"), q)


def test_a_second_moment_that_is_infinite_is_refused():
    with pytest.raises(InputError, match="no finite second moment at q = 1"):
        moments(Elementwise.of(lambda x: torch.exp(x * x)), 1.0)
    # exp(0.2 x^2) has V = (1 - 0.8 q)^(-1/2) while q < 1.25.
    activation = Elementwise.of(lambda x: torch.exp(0.2 * x * x))
    assert float(moments(activation, 1.0).value) == pytest.approx(0.2**-0.5, rel=1e-12)
    with pytest.raises(InputError, match=r"no finite second moment at q = 1\.3"):
        moments(activation, np.array([0.1, 1.3]))
    assert float(moments(Elementwise.of(torch.exp), 16.0).value) == pytest.approx(math.exp(32), rel=1e-12)


def test_expectation_of_higher_moments():
    relu = without_closed_form("relu")
    assert expectation(relu, 2.0, lambda z, phi, slope: phi**4) == pytest.approx(1.5 * 4, rel=1e-12)
    assert expectation(relu, 2.0, lambda z, phi, slope: z * phi) == pytest.approx(math.sqrt(2) / 2, rel=1e-12)
    with pytest.raises(InputError, match="no finite moment"):
        expectation(Elementwise.of(lambda x: torch.exp(0.2 * x * x)), 1.0, lambda z, phi, slope: phi**3)


@pytest.mark.parametrize("q", [1e-6, 1.0, 40.0, 1e4])
def test_correlation_kernel_of_erf(q):
    erf = Elementwise.of("erf")
    c = np.cos(THETA)
    whole = 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q))
    gap = whole - 2 / np.pi * np.arcsin(2 * q * c / (1 + 2 * q))
    found = np.array([decorrelation(erf, q, theta) for theta in THETA])
    assert (found * (1 - c))[1:] == pytest.approx(gap[1:], rel=1e-8, abs=1e-13 * whole)
    # Near c = 1 the closed form cancels; its limit is q D.
    assert found[0] == pytest.approx(q * float(moments(erf, q).slope), rel=1e-8)
    slopes = [slope_product(erf, q, theta) for theta in THETA]
    assert slopes == pytest.approx(4 / np.pi / np.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2), rel=1e-11)


def test_correlation_kernel_of_relu():
    # Cho, Saul 2009; the integral, split where both samples have their kink, against it.
    relu, split = Elementwise.of("relu"), without_closed_form("relu")
    for theta in (0.0, *THETA):
        allowed = 1e-11 + (1e-15 / theta if theta else 0)
        assert decorrelation(split, 3.0, theta) == pytest.approx(decorrelation(relu, 3.0, theta), rel=allowed)
        assert slope_product(split, 3.0, theta) == pytest.approx(slope_product(relu, 3.0, theta), abs=1e-12)
        c = math.cos(theta)
        kernel = (math.sin(theta) + (math.pi - theta) * c) / (2 * math.pi)
        assert decorrelation(relu, 1.0, theta) * (1 - c) == pytest.approx(0.5 - kernel, abs=1e-15)


@pytest.mark.parametrize("name", ["tanh", "gelu", "selu", "hardtanh:min=-2:max=0.5", "softsign"])
@pytest.mark.parametrize("q", [0.01, 1.0, 9.0])
def test_hermite_series_and_double_integral_agree(name, q):
    activation = Elementwise.of(name)
    series = correlation_kernel(activation, np.array([q])).at(0, THETA[1:-1])
    integral = [decorrelation(activation, q, theta) for theta in THETA[1:-1]]
    assert series.tolist() == pytest.approx(integral, rel=2e-12)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["tanh", "elu", "gelu", "relu6", "softplus", "sigmoid"]),
    q=st.floats(1e-3, 50),
    c=st.floats(-1, 1),
)
def test_kernel_obeys_cauchy_schwarz_and_convexity(name, q, c):
    activation = Elementwise.of(name)
    value = float(moments(activation, q).value)
    at = np.arccos(np.array([c, 0.0]))
    product, apart = value - (1 - np.cos(at)) * correlation_kernel(activation, np.array([q])).at(0, at)
    assert abs(product) <= value * (1 + 1e-12)
    # All Hermite weights are positive: of two samples on one side, the nearer agree more.
    assert (product - apart) * c >= -1e-12 * value or c < 0


@settings(max_examples=25, deadline=None)
@given(q=st.floats(1e-6, 1e4), scale=st.floats(0.1, 5))
def test_scaling_the_input_scales_the_variance(q, scale):
    plain = moments(Elementwise.of("tanh"), q * scale**2)
    scaled = moments(Elementwise.of(lambda x: torch.tanh(scale * x)), q)
    assert float(scaled.value) == pytest.approx(float(plain.value), rel=1e-12)
    assert float(scaled.slope) == pytest.approx(scale**2 * float(plain.slope), rel=1e-12)
