import math

import numpy as np
import pytest
import torch
from building.normalized_mean_field import NormalizedMeanField, linear_batch_norm_factor

from propscope.errors import InputError
from propscope.networks import MLPSpec
from propscope.theory import MeanField
from propscope.theory.quadrature import moments


def test_without_either_it_is_the_plain_field():
    plain = MeanField("tanh", weight_variance=1.3, bias_variance=0.1).propagate(0.5, depth=9, c0=0.2)
    same = NormalizedMeanField("tanh", weight_variance=1.3, bias_variance=0.1).propagate(0.5, depth=9, c0=0.2)
    assert same.q.tolist() == plain.q.tolist()
    assert same.correlation.tolist() == plain.correlation.tolist()


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_layer_norm_fixes_the_variance(norm):
    # chi = sigma_w^2 D(1) / (sigma_w^2 V(1) + sigma_b^2).
    field = NormalizedMeanField("tanh", weight_variance=1.7, bias_variance=0.2, norm=norm)
    known = moments(field.plain.activation, 1.0)
    settled = 1.7 * float(known.value) + 0.2
    run = field.propagate(5.0, depth=6, c0=0.5)
    assert run.q == pytest.approx([5.0] + [settled] * 6)
    assert field.gradient_factor == pytest.approx(1.7 * float(known.slope) / settled)
    assert run.gradient_factor == pytest.approx([1.7 * float(known.slope) / 5.0] + [field.gradient_factor] * 6)
    assert run.correlation[1] == pytest.approx(
        MeanField("tanh", weight_variance=1.7, bias_variance=0.2).correlation_map(0.5, q=1.0)
    )


def test_residual_relu_grows_by_half_its_weights():
    # Yang, Schoenholz 2017: q' = q + sigma_w^2 V, chi = 1 + sigma_w^2 D.
    run = NormalizedMeanField("relu", weight_variance=0.6, residual=True).propagate(2.0, depth=10, c0=0.0)
    assert run.q == pytest.approx(2.0 * 1.3 ** np.arange(11))
    assert run.gradient_factor == pytest.approx([1.3] * 11)
    assert run.correlation[1] == pytest.approx((0 + 0.6 * 0.5 / math.pi) / 1.3)


@pytest.mark.slow
def test_residual_tanh_by_its_maps():
    field = MeanField("tanh", weight_variance=0.8, bias_variance=0.1)
    run = NormalizedMeanField("tanh", weight_variance=0.8, bias_variance=0.1, residual=True).propagate(
        0.3, depth=60, c0=0.2
    )
    q, c = 0.3, 0.2
    for layer in range(61):
        assert run.q[layer] == pytest.approx(q, rel=1e-10)
        assert run.gradient_factor[layer] == pytest.approx(1 + field.chi(q), rel=1e-10)
        assert run.correlation[layer] == pytest.approx(c, abs=1e-9)
        update = field.variance_map(q)
        q, c = q + update, (c * q + field.correlation_map(c, q=q) * update) / (q + update)


def test_residual_with_layer_norm_grows_by_the_same_each_layer():
    run = NormalizedMeanField("relu", weight_variance=2.0, norm="layer", residual=True).propagate(1.0, depth=200)
    assert run.q == pytest.approx(1 + np.arange(201))
    assert run.gradient_factor == pytest.approx(1 + 1 / (1 + np.arange(201)))
    assert run.correlation[1] == pytest.approx((1 / math.pi) / 2)


@pytest.mark.parametrize("name, factor", [("relu", math.pi / (math.pi - 1)), ("identity", 1.0)])
def test_batch_norm_explodes_gradients(name, factor):
    # Yang et al. 2019, for large batches: 1.467 a layer for ReLU, nothing for the identity.
    field = NormalizedMeanField(name, weight_variance=1.9, bias_variance=0.3, norm="batch")
    run = field.propagate(3.0, depth=5, c0=0.25)
    assert field.gradient_factor == pytest.approx(factor)
    assert run.gradient_factor[1:] == pytest.approx([factor] * 5)
    assert run.gradient_factor[0] == pytest.approx(1.9 * float(moments(field.plain.activation, 1.0).slope) / (3 * 0.75))


def test_linear_batch_norm_for_any_batch():
    assert linear_batch_norm_factor(5) == pytest.approx(3 / 2)
    assert linear_batch_norm_factor(10**9) == pytest.approx(1)
    with pytest.raises(InputError, match="batch is 3"):
        linear_batch_norm_factor(3)


def test_linear_batch_norm_factor_agrees_with_sampled_layers():
    # The squared gradient's factor of one sampled layer of 3000 units varies by 2% to 3% for batches of 10.
    batch, width = 10, 3000
    generator = torch.Generator().manual_seed(2)
    norm = torch.nn.BatchNorm1d(width, affine=False, eps=1e-12, dtype=torch.float64)
    factors = []
    for _ in range(4):
        z = torch.randn(batch, width, generator=generator, dtype=torch.float64, requires_grad=True)
        # At the fixed point the layer before has normalized too: variance sigma_w^2 over the batch, here 1.
        scale = math.sqrt(batch / (batch - 1))
        weights_gradient = torch.randn(batch, width, generator=generator, dtype=torch.float64)
        weights_gradient -= weights_gradient.mean(0)
        (out,) = torch.autograd.grad((norm(z * scale) * weights_gradient).sum(), z)
        factors.append(float((out / scale).square().detach().sum() / weights_gradient.square().sum()))
    assert np.mean(factors) == pytest.approx(linear_batch_norm_factor(batch), rel=0.03)


SAMPLED = [
    ("relu", 2.0, "layer", False),
    ("tanh", 2.0, "rms", False),
    ("relu", 0.5, "none", True),
    ("tanh", 1.0, "layer", True),
    ("relu", 2.0, "batch", False),
    ("tanh", 1.0, "batch", True),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, weight, norm, residual", SAMPLED)
def test_sampled_networks_agree(name, weight, norm, residual):
    """400 units, 8 layers, 4 seeds: the mean squares vary by sqrt(5 * 8 / 400 / 4) = 16% at the very most."""
    depth, width, batch = 8, 400, 256 if norm == "batch" else 64
    scale = math.sqrt(weight / width)
    spec = MLPSpec(
        depth, width=width, activation=name, initializer=f"normal:std={scale!r}", norm=norm, residual=residual
    )
    forward, backward = np.zeros(depth), np.zeros(depth)
    for seed in range(4):
        network = spec.build(seed=seed).double()
        x = torch.randn(batch, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        streams, h, stream = [], x, None
        for layer in network.layers:
            stream = layer.linear(h) + (stream if residual and stream is not None else 0)
            stream.retain_grad()
            streams.append(stream)
            h = layer._activate(stream)
        h.backward(torch.randn(h.shape, generator=torch.Generator().manual_seed(seed + 9), dtype=torch.float64))
        forward += [float(z.detach().square().mean()) / 4 for z in streams]
        backward += [float(z.grad.square().mean()) / 4 for z in streams]
    run = NormalizedMeanField(name, weight_variance=weight, norm=norm, residual=residual).propagate(
        weight, depth=depth - 1, c0=0.0
    )
    assert forward == pytest.approx(run.q, rel=0.12)
    # The last layer's gradient lacks the weights that the factor counts.
    expected = np.cumprod(run.gradient_factor[-2::-1])[::-1]
    assert backward[:-1] / backward[-1] == pytest.approx(expected, rel=0.15)


def test_what_is_refused():
    with pytest.raises(InputError, match='unknown norm "group"'):
        NormalizedMeanField("relu", weight_variance=2, norm="group")
    with pytest.raises(InputError, match="c0 is 1"):
        NormalizedMeanField("relu", weight_variance=2, norm="batch").propagate(1.0, c0=1.0)
    with pytest.raises(InputError, match="q0 is 0"):
        NormalizedMeanField("relu", weight_variance=2, norm="layer").propagate(0.0)
