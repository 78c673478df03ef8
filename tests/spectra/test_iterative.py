"""Jacobians known by products alone, against the same written down."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from propscope.errors import InputError
from propscope.networks import MLPSpec
from propscope.spectra import jacobian
from propscope.spectra.iterative import density_of
from propscope.spectra.spectrum import of_density


class Known:
    """Products with given matrices, shape (samples, outputs, inputs)."""

    def __init__(self, matrices):
        self.matrices = np.asarray(matrices, dtype=np.float64)
        self.shape = self.matrices.shape[1:]

    def forward(self, vectors):
        return np.einsum("soi,psi->pso", self.matrices, vectors)

    def backward(self, vectors):
        return np.einsum("soi,pso->psi", self.matrices, vectors)


def matrices(samples, outputs, features, seed=0):
    return np.random.default_rng(seed).standard_normal((samples, outputs, features)) / math.sqrt(features)


@pytest.mark.parametrize("shape", [(2, 12, 12), (3, 6, 15), (3, 15, 6), (1, 1, 9), (2, 9, 1), (1, 1, 1)])
def test_with_as_many_steps_as_dimensions_the_quadrature_is_exact(shape):
    """Golub, Meurant 2010: its nodes are then the singular values, its weights the start vector's shares of them."""
    known = matrices(*shape)
    size = min(shape[1:])
    density = density_of(Known(known), samples=shape[0], probes=2, seed=0, steps=size)
    expected = np.linalg.svd(known, compute_uv=False)
    assert density.nodes == pytest.approx(np.stack([expected, expected], axis=1), rel=1e-8)
    assert density.weights.sum(axis=2) == pytest.approx(np.ones((shape[0], 2)))
    start = np.random.default_rng(0).standard_normal((2, shape[0], size))
    start /= np.linalg.norm(start, axis=2, keepdims=True)
    small = known if shape[2] <= shape[1] else known.swapaxes(1, 2)
    for power, images in ((2, small), (4, small.swapaxes(1, 2) @ small)):
        rayleigh = (np.einsum("soi,psi->pso", images, start) ** 2).sum(axis=2)
        assert density.moment(power) == pytest.approx(rayleigh.T, rel=1e-8)
    assert density.largest == pytest.approx(expected.max(), rel=1e-6)
    assert density.converged


def test_few_steps_have_the_moments_all_the_same():
    known = matrices(2, 40, 40)
    few, all_of_them = (density_of(Known(known), samples=2, probes=2, seed=0, steps=steps) for steps in (3, 40))
    for power in (2, 4, 6, 8, 10):
        assert few.moment(power) == pytest.approx(all_of_them.moment(power), rel=1e-9)


def test_a_spectrum_of_one_value_ends_the_steps():
    turned = np.linalg.qr(matrices(1, 10, 10)[0])[0]
    density = density_of(Known([3 * turned]), samples=1, probes=1, seed=0)
    assert density.moment(2) == pytest.approx(9)
    assert density.moment(4) == pytest.approx(81)
    assert density.largest == pytest.approx(3)


def test_the_largest_is_that_of_all_samples_and_converged():
    known = matrices(3, 300, 300) * np.array([1.0, 1.3, 0.7])[:, None, None]
    density = density_of(Known(known), samples=3, probes=1, seed=0, steps=8)
    expected = np.linalg.svd(known, compute_uv=False)[:, 0].max()
    # Eight steps alone are 1.4% short.
    assert density.nodes.max() < 0.99 * expected
    assert density.largest == pytest.approx(expected, rel=1e-4)


def test_the_histogram_counts_every_value_once():
    known = matrices(3, 60, 80)
    spectrum = of_density(density_of(Known(known), samples=3, probes=4, seed=0), eps=1e-16)
    expected = np.linalg.svd(known, compute_uv=False).ravel()
    assert spectrum.summary.count == spectrum.summary.histogram.total == 180
    for quantile in (0.25, 0.5, 0.75):
        assert spectrum.summary.histogram.quantile(quantile) == pytest.approx(np.quantile(expected, quantile), rel=0.15)


def test_zeros_are_counted_by_their_weight():
    known = matrices(2, 50, 50)
    known[:, :, 25:] = 0
    summary = of_density(density_of(Known(known), samples=2, probes=8, seed=0, steps=50), eps=1e-10).summary
    assert summary.zero_fraction == pytest.approx(0.5, abs=0.05)
    assert summary.histogram.zero_count == round(100 * summary.zero_fraction)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_network_is_as_its_matrices_are(activation):
    net = MLPSpec(6, width=96, activation=activation, initializer="he_normal").build(seed=0)
    x = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    exact, found = (jacobian(net, x, method=method, probes=16) for method in ("exact", "iterative"))
    described = json.loads(found.provenance.spec)["jacobian"]["sites"]
    for true, site in zip(exact.sites, found.sites, strict=True):
        error = described[site.name]["mean_square_relative_error"]
        assert site.jacobian.max == pytest.approx(true.jacobian.max, rel=1e-4)
        assert site.jacobian.count == true.jacobian.count
        # Of 7 sites the worst lies 2.1 standard errors off.
        assert abs(site.jacobian.rms**2 / true.jacobian.rms**2 - 1) < 4 * error
        assert error < 0.1
        assert site.jacobian_square_variance == pytest.approx(true.jacobian_square_variance, rel=6 * error)
        assert math.isnan(site.jacobian.min)
        assert site.jacobian_condition is None


@pytest.mark.slow
def test_the_stated_error_is_the_one_there_is():
    """Over 30 seeds the mean square varies by as much as its standard error says."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(40, 40), nn.Tanh()), torch.randn(2, 40)
    squares, errors = [], []
    for seed in range(30):
        found = jacobian(net, x, method="iterative", include="1", seed=seed)
        squares.append(found["1"].jacobian.rms ** 2)
        errors.append(json.loads(found.provenance.spec)["jacobian"]["sites"]["1"]["mean_square_relative_error"])
    # A standard deviation of 30 is known to 13%.
    assert np.mean(errors) == pytest.approx(np.std(squares, ddof=1) / np.mean(squares), rel=0.4)
    true = jacobian(net, x, include="1")["1"].jacobian.rms ** 2
    assert np.mean(squares) == pytest.approx(true, rel=4 * np.mean(errors) / math.sqrt(30))


def test_samples_that_see_each_other():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(12, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 9)), torch.randn(5, 12)
    exact, found = (jacobian(net, x, samples=3, method=method, probes=64) for method in ("exact", "iterative"))
    for true, site in zip(exact.sites, found.sites, strict=True):
        assert site.jacobian.max == pytest.approx(true.jacobian.max, rel=1e-4)
        assert site.jacobian.rms == pytest.approx(true.jacobian.rms, rel=0.1)


@pytest.mark.slow
def test_fused_attention_can_be_differentiated_twice():
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), torch.randn(2, 4, 16)
    exact, found = (jacobian(layer, x, method=method).sites[-1].jacobian.max for method in ("exact", "iterative"))
    assert found == pytest.approx(exact, rel=1e-4)


def test_no_second_derivative_is_one_clear_line():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return Once.apply(self.linear(x))

    with pytest.raises(InputError, match="second derivatives") as caught:
        jacobian(Model(), torch.randn(2, 4), method="iterative", include=".*")
    assert "exact" in caught.value.hint
    assert jacobian(Model(), torch.randn(2, 4), include=".*").sites
