"""Depth scales as measured: against theory's sequences, and on sampled networks."""

import math

import pytest
from building.records import network

from propscope.experiments import profile_mlp
from propscope.records.depth_scale import correlation_depth, log_chi
from propscope.theory import MeanField

LAYERS = 50
# sigma_w^2, sigma_b^2, and the relative error of the fit of a line.
TANH = [
    *((0.5, 0.05, 0.05), (0.8, 0.02, 0.05), (1.2, 0.05, 0.05), (1.2, 0.2, 0.05), (1.4, 0.05, 0.05)),
    *((2.5, 0.02, 0.25), (3.0, 0.02, 0.15), (3.0, 0.05, 0.25), (4.0, 0.02, 0.1), (4.0, 0.2, 0.3)),
]


def field(weight, bias):
    return MeanField("tanh", weight_variance=weight, bias_variance=bias)


def with_cosines(cosines):
    return network([1.0] * len(cosines), mean_cosine=list(map(float, cosines)))


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "bias", "error"), TANH)
def test_infinitely_wide_networks_show_theorys_scales(weight, bias, error):
    theory = field(weight, bias).depth_scales()
    layers = field(weight, bias).propagate(weight + bias, LAYERS - 1, c0=bias / (weight + bias))
    assert correlation_depth([with_cosines(layers.correlation)]) == pytest.approx(theory.correlation, rel=error)
    gradients = [math.sqrt(each) for each in layers.gradient]
    chi = field(weight, bias).fixed_point().chi
    assert log_chi(network([1.0] * LAYERS, gradients)) == pytest.approx(math.log(chi), abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "bias", "low", "high"), [(0.8, 0.05, 0.9, 1.1), (3.0, 0.05, 0.7, 1.6)])
def test_sampled_networks_show_theorys_scales(weight, bias, low, high):
    """Of 8 times 3 seeds the correlation's scale lay between 0.98 and 1.01, and 0.88 and 1.33, times theory's.

    ln chi_1 lay within 0.007 of theory's.
    """
    profiles = profile_mlp(
        LAYERS, 256, activation="tanh", initializer="normal", weight_variance=weight, bias_variance=bias, seeds=3,
        batch=64, histogram_limit=64,
    )  # fmt: skip
    assert low < correlation_depth(profiles) / field(weight, bias).depth_scales().correlation < high
    chi = math.log(field(weight, bias).fixed_point().chi)
    assert sum(map(log_chi, profiles)) / 3 == pytest.approx(chi, abs=0.02)


def test_a_map_whose_factor_is_a_line_is_found_exactly():
    # u' = (1.3 - 0.6 u) u keeps u = 0.5, where its slope is 0.7; u' = (0.7 + 0.1 u) u keeps 0.
    for start, slope in ((1.3, -0.6), (0.7, 0.1)):
        gaps = [0.9]
        for _ in range(20):
            gaps.append((start + slope * gaps[-1]) * gaps[-1])
        cosines = [1 - gap for gap in gaps]
        assert correlation_depth([with_cosines(cosines)]) == pytest.approx(-1 / math.log(0.7))
        # Seeds count together, and these two do not change together.
        mirrored = with_cosines([1 - cosine for cosine in cosines])
        assert math.isnan(correlation_depth([with_cosines(cosines), mirrored]))


@pytest.mark.parametrize(
    "cosines",
    [[], [0.5], [0.5] * 30, [1.0] * 30, [0.0] * 30, [math.nan] * 30, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]],
    ids=str,
)
def test_a_correlation_that_does_not_settle_tells_no_scale(cosines):
    assert math.isnan(correlation_depth([with_cosines(cosines)]))


def test_nothing_tells_no_scale():
    assert math.isnan(correlation_depth([]))
    assert math.isnan(correlation_depth([network([1.0] * 20, mean_cosine=[None] * 20)]))
    assert math.isnan(correlation_depth([with_cosines([0.5] * 9), with_cosines([0.5] * 8)]))


def test_noise_about_a_correlation_is_no_scale():
    # tanh without biases: two inputs stay uncorrelated, and each layer draws its own small deviation.
    noise = [0.001 * (-1) ** (layer * layer // 3) * (layer % 5) for layer in range(40)]
    assert math.isnan(correlation_depth([with_cosines(noise)]))


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([0.5 ** (20 - layer) for layer in range(20)], math.log(0.25)),
        ([1.0] * 20, 0.0),
        ([0.0] * 20, math.nan),
        ([1.0, math.inf] * 10, math.nan),
        ([1.0, 1.0], math.nan),
        ([], math.nan),
    ],
    ids=["vanishing", "kept", "zero", "infinite", "short", "none"],
)
def test_log_chi(gradients, expected):
    assert log_chi(network([1.0] * len(gradients), gradients)) == pytest.approx(expected, abs=1e-9, nan_ok=True)
