import math
from functools import cache

import numpy as np
import pytest

from propscope.theory import MeanField, gain


def iterate(field, q, c, depth):
    """Return q, chi_1 and 1 - c of every layer by the maps themselves, each integrated afresh."""
    # Once q and c have settled, every layer is the same.
    variance, chi, correlation = cache(field.variance_map), cache(field.chi), cache(field.correlation_map)
    found = [(q, chi(q), 1 - c)]
    for _ in range(depth):
        q, c = variance(q), correlation(c, q=q)
        found.append((q, chi(q), 1 - c))
    return np.array(found).T


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, weight, bias, q0, c0",
    [
        ("tanh", 2.5, 0.05, 4.0, 0.3),
        ("tanh", 1.0, 0.0, 1.0, 0.9),
        ("tanh", 0.8, 0.0, 1.0, -0.5),
        ("selu", 1.0, 0.0, 2.0, 0.5),
        ("gelu", 1.9, 0.1, 0.3, 0.0),
        ("elu", 2.0, 0.1, 0.3, 0.0),
        ("hardtanh", 1.5, 0.01, 0.3, 0.99),
        ("relu", 1.5, 0.3, 0.3, -1.0),
        ("sigmoid", 40.0, 0.0, 1.0, 0.0),
    ],
)
def test_propagation_is_the_iteration(name, weight, bias, q0, c0):
    field = MeanField(name, weight_variance=weight, bias_variance=bias)
    q, chi, gap = iterate(field, q0, c0, 120)
    run = field.propagate(q0, depth=120, c0=c0)
    assert run.q.shape == run.gradient_factor.shape == run.correlation.shape == (121,)
    assert run.q == pytest.approx(q, rel=1e-9)
    assert run.gradient_factor == pytest.approx(chi, rel=1e-9)
    # 1 - c of the plain map has lost its digits by 1e-16.
    assert run.decorrelation == pytest.approx(gap, rel=1e-7, abs=1e-14)
    assert (run.correlation == 1 - run.decorrelation).all()


@pytest.mark.parametrize("q1, end", [(0.95, 4.743e-7), (1.05, 118.23)])
def test_gelus_gain_keeps_no_variance(q1, end):
    # Pitfall: 0.95 ends at 5e-7 and 1.05 at 118 after 50 layers.
    run = MeanField("gelu", weight_variance=gain("gelu") ** 2).propagate(q1, depth=50)
    assert run.q[-1] == pytest.approx(end, rel=1e-3)


def test_half_a_layer_of_he_is_lost_by_gelu_and_silu_and_elu_grows():
    for name in ("gelu", "silu"):
        run = MeanField(name, weight_variance=2.0).propagate(1e-3, depth=5)
        assert (run.q[1:] / run.q[:-1]) == pytest.approx([0.5] * 5, rel=0.01)
    assert MeanField("elu", weight_variance=2.0).propagate(1.0, depth=5).q[-1] > 2.5


def test_relu_samples_approach_as_the_layer_squared():
    # From c = 0, (1 - c_l) l^2 -> 9 pi^2 / 2.
    gap = MeanField("relu", weight_variance=2.0).propagate(1.0, depth=10_000).decorrelation
    layer = np.array([100, 1000, 10_000])
    ratio = gap[layer] * layer**2.0 / (9 * math.pi**2 / 2)
    assert (np.diff(ratio) > 0).all()
    assert ratio[-1] == pytest.approx(1, abs=0.005)


def test_tanh_at_its_transition_decays_as_one_over_two_layers():
    # V = q - 2 q^2 + ..., so 1 / q_l grows by 2 a layer and slower by logarithms.
    run = MeanField("tanh", weight_variance=1.0).propagate(1.0, depth=10_000)
    assert run.q[-1] * 2 * 10_000 == pytest.approx(1, abs=0.002)
    assert run.gradient_factor[-1] == pytest.approx(1 - 2 * run.q[-1], abs=1e-7)
    # An odd function keeps samples apart that are.
    assert run.correlation == pytest.approx(np.zeros(10_001), abs=1e-8)


def test_deep_runs_end_at_the_fixed_point():
    field = MeanField("tanh", weight_variance=2.5, bias_variance=0.05)
    run = field.propagate(0.1, depth=10_000, c0=0.999)
    assert run.q[-1] == pytest.approx(1.0639583774, abs=1e-10)
    assert run.correlation[-1] == pytest.approx(field.depth_scales().fixed_correlation, abs=1e-10)


def test_gradient_is_the_product_of_the_factors():
    run = MeanField("tanh", weight_variance=1.2, bias_variance=0.1).propagate(1.0, depth=4)
    assert run.gradient[-1] == 1
    assert run.gradient[1] == pytest.approx(math.prod(run.gradient_factor[1:4]))


def test_a_divergence_overflows_to_infinity():
    run = MeanField("relu", weight_variance=20.0).propagate(1.0, depth=2000, c0=0.5)
    assert run.q[-1] == math.inf
    assert (run.gradient_factor == 10).all()
    assert np.isnan(run.correlation[np.isinf(run.q)]).all()
    assert np.isfinite(run.correlation[np.isfinite(run.q)]).all()
    assert run.gradient[0] == math.inf


def test_a_divergence_of_a_smooth_function_tends_to_that_of_its_asymptotes():
    run = MeanField("elu", weight_variance=400.0).propagate(1.0, depth=12)
    assert run.q[-1] / run.q[-2] == pytest.approx(200, rel=1e-9)
    q, _, gap = iterate(MeanField("elu", weight_variance=400.0), 1.0, 0.0, 5)
    assert run.decorrelation[:6] == pytest.approx(gap, rel=1e-7)
    assert run.q[:6] == pytest.approx(q, rel=1e-9)


def test_a_decay_ends_at_zero():
    run = MeanField("tanh", weight_variance=0.5).propagate(1.0, depth=1500, c0=0.5)
    assert run.q[-1] == 0
    assert run.gradient_factor[-1] == 0.5
    assert run.correlation[-1] == pytest.approx(run.correlation[100], abs=1e-9)
    assert MeanField("tanh", weight_variance=0.5).propagate(0.0, depth=3).q.tolist() == [0, 0, 0, 0]


def test_samples_that_agree_stay_so():
    run = MeanField("tanh", weight_variance=3.0).propagate(1.0, depth=30, c0=1.0)
    assert (run.correlation == 1).all()
