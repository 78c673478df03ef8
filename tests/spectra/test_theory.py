"""The spectrum of wide random networks against Pennington, Schoenholz, Ganguli 2017.

With E[s^2] normalized to 1, their eq. (24) gives the variance of the squared singular values of J = D_L W_L ... D_1 W_1
as L (mu_2 / mu_1^2 - 1 - s_1), where mu_k are the moments of phi'^2 (1 and 1 for a linear network, 1/2 and 1/2 for
ReLU) and s_1 is -1 for Gaussian and 0 for orthogonal weights.
"""

import math

import numpy as np
import pytest
import torch

from propscope.networks import MLPSpec
from propscope.spectra import jacobian

ROOT_TWO = f"orthogonal:gain={math.sqrt(2)}"


def end_to_end(activation, initializer, depth, *, seed, width=256, samples=2, method="exact"):
    net = MLPSpec(depth, width=width, activation=activation, initializer=initializer).build(seed=seed)
    x = torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))
    return jacobian(net, x, samples=samples, include=rf"layers\.{depth - 1}\.activation$", method=method).sites[0]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 8])
@pytest.mark.parametrize(
    ("activation", "initializer", "per_layer", "tolerance"),
    [
        # Over seeds, at width 256, the variance over depth varies by 0.035, 0.09 and 0.065 at most, so that over 8
        # seeds it is known to 0.012, 0.032 and 0.023; each tolerance is 4 of those.
        ("identity", "lecun_normal", 1, 0.05),
        ("relu", "he_normal", 2, 0.13),
        ("relu", ROOT_TWO, 1, 0.09),
        ("identity", "orthogonal", 0, 1e-6),
    ],
)
def test_the_variance_of_the_squared_singular_values_grows_with_depth(
    activation, initializer, per_layer, tolerance, depth
):
    sites = [end_to_end(activation, initializer, depth, seed=seed) for seed in range(8)]
    variance = np.mean([site.jacobian_square_variance for site in sites])
    assert variance / depth == pytest.approx(per_layer, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "initializer"), [("identity", "lecun_normal"), ("relu", "he_normal"), ("relu", ROOT_TWO)]
)
def test_the_mean_square_is_the_product_of_the_gradient_factors(activation, initializer):
    """chi_1 = 1 in each layer: E[s^2] = chi_1^L, Schoenholz et al. 2017, eq. (14)."""
    squares = [end_to_end(activation, initializer, 4, seed=seed).jacobian.rms ** 2 for seed in range(8)]
    # Over seeds it varies by 0.08 at most, over 8 seeds it is known to 0.03.
    assert np.mean(squares) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "tolerance"), [(1, 0.03), (2, 0.05), (4, 0.11)])
def test_the_largest_of_a_gaussian_product_tends_to_its_edge(depth, tolerance):
    """(L + 1)^(L + 1) / L^L, the right edge of the Fuss-Catalan law; Penson, Zyczkowski 2011, eq. (11).

    At width 512 the mean over seeds falls short of it by 0.01, 0.01 and 0.03, and varies over 6 seeds by 0.005, 0.01
    and 0.02.
    """
    edge = (depth + 1) ** (depth + 1) / depth**depth
    narrow, wide = (
        np.mean(
            [
                end_to_end("identity", "lecun_normal", depth, seed=seed, width=width, samples=1).jacobian.max ** 2
                for seed in range(6)
            ]
        )
        / edge
        for width in (64, 512)
    )
    assert wide == pytest.approx(1, abs=tolerance)
    assert narrow < wide < 1


def test_the_iterative_method_agrees_at_a_width_where_it_is_needed():
    site = end_to_end("identity", "lecun_normal", 2, seed=0, width=1024, samples=2, method="auto")
    assert site.jacobian_condition is None
    # One network: sqrt(L / n) and the 8 random vectors leave 0.05 each.
    assert site.jacobian.rms**2 == pytest.approx(1, abs=0.15)
    assert site.jacobian_square_variance == pytest.approx(2, abs=0.4)
    assert site.jacobian.max**2 == pytest.approx(27 / 4, rel=0.06)


def test_a_full_condition_number_is_that_of_a_gaussian_matrix():
    """Edelman 1988, theorem 6.1: E[ln(condition / n)] tends to 1.537 for square real Gaussian matrices."""
    logs = [
        math.log(end_to_end("identity", "lecun_normal", 1, seed=seed, width=64, samples=1).jacobian_condition / 64)
        for seed in range(80)
    ]
    # One matrix's varies by 1.1, over 80 it is known to 0.12.
    assert np.mean(logs) == pytest.approx(1.537, abs=0.4)
