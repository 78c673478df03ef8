import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from propscope.errors import InputError
from propscope.theory import MeanField, gain

# Poole et al. 2016 and Schoenholz et al. 2017; recomputed twice over.
FIXED_POINTS = [
    ("tanh", 2.5, 0.05, 1.0639583774, {"chi": 1.1335156987}),
    ("tanh", 1.7609546396, 0.05, 0.5700478816, {"chi": 1.0}),
    # Klambauer et al. 2017.
    ("selu", 1.0, 0.0, 1.0, {"chi": 1.0715749925, "chi_parallel": 0.7826478832}),
    ("sigmoid", 1.0, 0.0, 0.2646868752, {"chi": 0.0557207068}),
]


@pytest.mark.parametrize("name, weight, bias, q, more", FIXED_POINTS)
def test_stable_fixed_points(name, weight, bias, q, more):
    field = MeanField(name, weight_variance=weight, bias_variance=bias)
    point = field.fixed_point()
    assert point.stability == "stable"
    assert point.q == pytest.approx(q, abs=1e-10)
    for what, value in more.items():
        assert getattr(point, what) == pytest.approx(value, abs=1e-10)
        assert getattr(field, what)(point.q) == getattr(point, what)
    assert field.variance_map(point.q) == pytest.approx(point.q, rel=1e-13)


def test_gelus_gain_is_an_unstable_fixed_point():
    field = MeanField("gelu", weight_variance=gain("gelu") ** 2)
    assert [(point.q, point.stability) for point in field.fixed_points()] == [
        (0.0, "decay"),
        (pytest.approx(1), "unstable"),
        (math.inf, "divergence"),
    ]
    assert field.fixed_point(q0=1.0).stability == "unstable"
    assert field.fixed_point(q0=0.99).q == 0
    assert field.fixed_point(q0=1.01).q == math.inf


@pytest.mark.parametrize("name", ["silu", "mish"])
def test_so_are_those_of_silu_and_mish(name):
    assert MeanField(name, weight_variance=gain(name) ** 2).fixed_point().stability == "unstable"


def test_gelus_critical_point_is_half_stable():
    field = MeanField("gelu", weight_variance=1.983058257438, bias_variance=0.172922390756)
    low, high = field.fixed_points()
    assert (low.stability, high.stability) == ("stable", "half-stable")
    # The variances have 12 digits, of which q loses some: chi_parallel hardly varies here.
    assert high.q == pytest.approx((3 + math.sqrt(17)) / 2, abs=1e-9)
    assert (high.chi, high.chi_parallel) == pytest.approx((1, 1), abs=1e-11)
    # Below it lies another, which the closed form of V confirms.
    q = low.q
    value = q / 4 + q / (2 * math.pi) * (math.atan(q / math.sqrt(1 + 2 * q)) + 2 * q / ((1 + q) * math.sqrt(1 + 2 * q)))
    assert 1.983058257438 * value + 0.172922390756 == pytest.approx(q, rel=1e-14)
    assert q == pytest.approx(3.034981, abs=1e-6)
    assert field.fixed_point(q0=20).q == high.q
    assert field.fixed_point(q0=3.5).q == low.q


def test_a_hair_apart_the_double_point_becomes_two_or_none():
    above = MeanField("gelu", weight_variance=1.983058257438, bias_variance=0.172922390756 + 1e-9).fixed_points()
    assert [point.stability for point in above] == ["stable", "unstable", "stable"]
    below = MeanField("gelu", weight_variance=1.983058257438, bias_variance=0.172922390756 - 1e-9).fixed_points()
    assert [point.stability for point in below] == ["stable"]


@pytest.mark.parametrize(
    "name, weight, bias, q, stability, law",
    [
        # Pitfall: with sigma_b = 0 tanh decays, exponentially below sigma_w^2 = 1 and algebraically at 1.
        ("tanh", 0.9, 0, 0, "decay", "exponential, q_l ~ 0.9^l"),
        ("tanh", 1.0, 0, 0, "decay", "algebraic, q_l ~ l^-1"),
        ("elu", 1.0, 0, 0, "decay", "algebraic, q_l ~ l^-2"),
        ("hardtanh", 1.0, 0, 0, "decay", "logarithmic"),
        ("tanhshrink", 1.0, 0, 0, "decay", "super-exponential"),
        ("gelu", 2.0, 0, 0, "decay", "exponential, q_l ~ 0.5^l"),
        ("relu", 2.0, 0, 1, "line", "None"),
        ("relu", 1.0, 0, 0, "decay", "exponential, q_l ~ 0.5^l"),
        ("relu", 1.0, 0.1, 0.2, "stable", "None"),
        ("relu", 3.0, 0.1, math.inf, "divergence", "exponential, q_l ~ 1.5^l"),
        ("relu", 2.0, 0.1, math.inf, "divergence", "algebraic, q_l ~ l^1"),
        ("elu", 2.0, 0, math.inf, "divergence", "algebraic, q_l ~ l^1"),
        ("selu", 3.0, 0, math.inf, "divergence", "exponential"),
        ("identity", 0.0625, 0, 0, "decay", "exponential, q_l ~ 0.0625^l"),
    ],
)
def test_decays_and_divergences_have_a_law(name, weight, bias, q, stability, law):
    point = MeanField(name, weight_variance=weight, bias_variance=bias).fixed_point()
    assert point.q == pytest.approx(q)
    assert point.stability == stability
    assert str(point.law).startswith(law)
    assert stability in str(point)


@pytest.mark.slow
def test_laws_are_those_of_the_iteration():
    for name, exponent in (("tanh", -1), ("elu", -2)):
        q = MeanField(name, weight_variance=1.0).propagate(0.5, depth=20000).q
        assert math.log(q[20000] / q[10000]) / math.log(2) == pytest.approx(exponent, abs=0.02)


def test_a_super_linear_activation_diverges_faster_than_any_exponential():
    field = MeanField(lambda x: x * x, weight_variance=1.0)
    assert [(point.q, point.stability) for point in field.fixed_points()] == [
        (0, "decay"),
        (pytest.approx(1 / 3), "unstable"),
        (math.inf, "divergence"),
    ]
    assert field.fixed_points()[-1].law.kind == "super-exponential"


def test_near_the_transition_the_fixed_point_is_solved_and_not_waited_for():
    # V = q - 2 q^2 + 17/3 q^3: q* = (w - 1) / (2 w) + ..., which an iteration reaches after 1 / (w - 1) layers.
    for excess in (1e-3, 1e-6, 1e-9, 1e-11):
        zero, point = MeanField("tanh", weight_variance=1 + excess).fixed_points()
        assert (zero.q, zero.stability) == (0, "unstable")
        assert point.q == pytest.approx(excess / 2, rel=2 * excess + 1e-15 / excess * 4)


def test_every_q_is_fixed_on_the_line():
    field = MeanField("relu", weight_variance=2)
    assert field.fixed_point(q0=7.5).q == 7.5
    assert field.fixed_point(q0=7.5).chi == 1


def test_sigmoid_behaves_as_tanh():
    # sigmoid(w, b) as tanh(w/16, w/16 + b/4), its q four times as large.
    one = MeanField("sigmoid", weight_variance=30, bias_variance=0.2)
    other = MeanField("tanh", weight_variance=30 / 16, bias_variance=30 / 16 + 0.2 / 4)
    assert one.fixed_point().q == pytest.approx(4 * other.fixed_point().q, rel=1e-13)
    ours, theirs = one.depth_scales(), other.depth_scales()
    assert ours.correlation == pytest.approx(theirs.correlation, rel=1e-9)
    assert ours.variance == pytest.approx(theirs.variance, rel=1e-9)


def test_depth_scales_of_chaotic_tanh():
    scales = MeanField("tanh", weight_variance=2.5, bias_variance=0.05).depth_scales()
    assert scales.variance == pytest.approx(1.17987, abs=5e-6)
    assert scales.gradient == pytest.approx(1 / math.log(1.1335156987), rel=1e-8)
    assert scales.phase == "chaotic"
    assert scales.trainable_depth == pytest.approx(6 * scales.correlation)
    field = MeanField("tanh", weight_variance=2.5, bias_variance=0.05)
    c = scales.fixed_correlation
    assert 0 < c < 1
    assert field.correlation_map(c) == pytest.approx(c, abs=1e-12)
    rise = (field.correlation_map(c + 1e-5) - field.correlation_map(c - 1e-5)) / 2e-5
    assert scales.correlation == pytest.approx(-1 / math.log(rise), rel=1e-6)


def test_depth_scale_of_erf_in_closed_form():
    # chi_c = sigma_w^2 4/pi / sqrt((1 + 2q)^2 - (2qc)^2), Williams 1997.
    field = MeanField("erf", weight_variance=3.0, bias_variance=0.1)
    q, scales = field.fixed_point().q, field.depth_scales()
    c = scales.fixed_correlation
    chi = 3 * 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
    assert scales.correlation == pytest.approx(-1 / math.log(chi), rel=1e-9)
    assert 3 * 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q)) + 0.1 == pytest.approx(q * c, rel=1e-12)


def test_in_the_ordered_phase_samples_agree():
    scales = MeanField("tanh", weight_variance=1.2, bias_variance=0.05).depth_scales()
    chi = MeanField("tanh", weight_variance=1.2, bias_variance=0.05).fixed_point().chi
    assert (scales.phase, scales.fixed_correlation) == ("ordered", 1.0)
    assert scales.correlation == scales.gradient == pytest.approx(-1 / math.log(chi), rel=1e-13)


def test_at_criticality_the_scale_is_infinite_and_near_it_no_cap_shows():
    from propscope.theory import critical_point

    point = critical_point("tanh", bias_variance=0.05)
    depths = []
    for offset in (0, -1e-9, -1e-6, 1e-6):
        weight = point.weight_variance * (1 + offset)
        depths.append(MeanField("tanh", weight_variance=weight, bias_variance=0.05).depth_scales().correlation)
    assert depths[0] == math.inf
    assert depths[1] == pytest.approx(1000 * depths[2], rel=1e-4)
    # |1 - chi_c| is twice as large above the transition, where c* < 1: the usual exponent of a mean-field transition.
    assert 0.3 * depths[2] < depths[3] < 3 * depths[2]


@pytest.mark.parametrize("weight, scale", [(2.0, math.inf), (1.0, 1 / math.log(2)), (4.0, 1 / math.log(2))])
def test_relu_has_a_scale_for_its_gradient_alone(weight, scale):
    scales = MeanField("relu", weight_variance=weight).depth_scales()
    assert scales.correlation == math.inf
    assert scales.gradient == pytest.approx(scale)
    assert scales.trainable_depth == pytest.approx(6 * scale)


def test_relu_correlation_map():
    # Cho, Saul 2009; C(0) = 1/pi.
    field = MeanField("relu", weight_variance=2)
    c = np.linspace(-1, 1, 41)
    expected = (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / np.pi
    assert field.correlation_map(c) == pytest.approx(expected, abs=1e-15)
    assert field.correlation_map(0.0) == pytest.approx(1 / math.pi, rel=1e-14)
    assert isinstance(field.correlation_map(0.0), float)
    assert field.correlation_map(c, q=17.0) == pytest.approx(expected, abs=1e-15)


def test_correlation_map_follows_sampled_networks():
    # A layer of 400,000 units: the sampling error of a correlation is (1 - c^2) / sqrt(400000) = 0.0016.
    generator = np.random.default_rng(1)
    field = MeanField("selu", weight_variance=1.3, bias_variance=0.2)
    q, c = 1.7, 0.4
    first, own = generator.standard_normal((2, 400_000)) * math.sqrt(q)
    phi = field.activation.value
    product = np.mean(phi(first) * phi(c * first + math.sqrt(1 - c * c) * own))
    expected = (1.3 * product + 0.2) / field.variance_map(q)
    assert field.correlation_map(c, q=q) == pytest.approx(expected, abs=4 * 0.0016)


def test_maps_take_arrays_of_any_shape():
    field = MeanField("tanh", weight_variance=1.5, bias_variance=0.1)
    q = np.array([[0.1, 1.0, 3.0], [0.0, 2.0, 9.0]])
    for method in (field.variance_map, field.chi, field.chi_parallel):
        assert method(q).shape == (2, 3)
        assert method(q)[1, 2] == method(9.0)
        assert isinstance(method(9), float)
    assert field.variance_map(0.0) == 0.1
    assert field.chi(0.0) == 1.5


def test_a_users_function():
    field = MeanField(lambda x: torch.tanh(x), weight_variance=2.5, bias_variance=0.05)
    assert field.fixed_point().q == pytest.approx(1.0639583774, abs=1e-10)


@settings(max_examples=30, deadline=None)
@given(weight=st.floats(0.05, 8), bias=st.just(0.0) | st.floats(1e-12, 3))
def test_tanh_has_one_stable_fixed_point_which_the_map_keeps(weight, bias):
    field = MeanField("tanh", weight_variance=weight, bias_variance=bias)
    *others, point = field.fixed_points()
    assert all(other.q == 0 and other.stability == "unstable" for other in others)
    assert point.stability in ("stable", "decay")
    assert field.variance_map(point.q) == pytest.approx(point.q, rel=1e-12)
    assert abs(point.chi_parallel) <= 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weight_variance": -1.0}, "weight_variance must .* got -1"),
        ({"weight_variance": 0}, "weight_variance must .* got 0"),
        ({"weight_variance": math.nan}, "weight_variance must .* got nan"),
        ({"weight_variance": True}, "weight_variance must .* got True"),
        (
            {"weight_variance": 1.0, "bias_variance": -0.1},
            "bias_variance must .* got -0.1",
        ),
    ],
)
def test_variances_that_are_none(arguments, message):
    with pytest.raises(InputError, match=message):
        MeanField("tanh", **arguments)


def test_arguments_that_are_none():
    field = MeanField("tanh", weight_variance=1.5)
    for call, message in (
        (lambda: field.propagate(math.inf), "q0 must .* got inf"),
        (lambda: field.propagate(1.0, depth=0), "depth must .* got 0"),
        (lambda: field.propagate(1.0, depth=2.5), "depth must .* got 2.5"),
        (lambda: field.propagate(1.0, c0=1.5), "c0 must .* got 1.5"),
        (lambda: field.variance_map(-1.0), "q must .* got -1"),
        (lambda: field.chi([1.0, math.nan]), "q must .* got nan"),
        (lambda: field.correlation_map(1.2), "c must .* got 1.2"),
        (lambda: field.fixed_point(q0=-1), "q0 must .* got -1"),
        (lambda: MeanField(lambda x: torch.exp(x * x), weight_variance=1), "no finite second moment"),
    ):
        with pytest.raises(InputError, match=message):
            call()
