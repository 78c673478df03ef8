"""Against sampled networks: 64 to 128 wide, 200 of them, which knows a variance to sqrt(2 / 200) = 10%."""

import math

import numpy as np
import pytest
from building.finite_width import finite_width

from propscope.errors import InputError
from propscope.theory import Elementwise, MeanField

NETWORKS = 200
MANY = 3000


def test_he_relu():
    # Hanin, Nica 2020; Hanin, Rolnick 2018: variance 5 sum 1/n, drift -(5/2) sum 1/n, forward and backward.
    found = finite_width("relu", widths=[256] * 50)
    layers = np.arange(50)
    assert found.forward_variance == pytest.approx(5 * layers / 256 + 2 / 256)
    assert found.forward_mean == pytest.approx(-2.5 * layers / 256 - 1 / 256)
    assert found.backward_variance == pytest.approx(5 * (50 - layers) / 256)
    assert found.backward_mean == pytest.approx(-2.5 * (50 - layers) / 256)


@pytest.mark.parametrize("width, spread", [(64, 0.50), (256, 0.27), (1024, 0.18)])
def test_the_spread_measured_at_depth_50(width, spread):
    # Standard deviation of log10(q_50 / q_1) over 10 seeds, for a batch of inputs drawn on their own. It is known to
    # 1 / sqrt(18) = 24%, of which two are allowed.
    found = finite_width("relu", widths=[width] * 50, c0=0.0, samples=256)
    predicted = math.sqrt(found.forward_variance[-1]) / math.log(10)
    assert spread == pytest.approx(predicted, rel=0.48)


def test_widths_that_vary():
    widths = [100, 300, 50, 200]
    found = finite_width("relu", widths=widths)
    inverse = np.cumsum([0, *(5 / n for n in widths[:-1])])
    assert found.forward_variance == pytest.approx(inverse + 2 / np.array(widths))
    assert found.widths.tolist() == widths


def test_linear_networks():
    # A product of Gaussian matrices: 2 / n a layer; of orthogonal ones nothing but the last layer's gradient.
    gaussian = finite_width("identity", widths=[100] * 5)
    assert gaussian.forward_variance == pytest.approx(2 * np.arange(1, 6) / 100)
    assert gaussian.backward_variance == pytest.approx(2 * np.arange(5, 0, -1) / 100)
    orthogonal = finite_width("identity", widths=[100] * 5, orthogonal=True)
    assert orthogonal.forward_variance == pytest.approx(np.zeros(5), abs=1e-15)
    assert orthogonal.backward_variance == pytest.approx([2 / 100] * 5)


def test_orthogonal_relu_has_three_fifths():
    found = finite_width("relu", widths=[100] * 5, orthogonal=True)
    assert found.forward_variance == pytest.approx(3 * np.arange(5) / 100)


def test_saturation_holds_the_variance():
    # Where chi_parallel < 1 a deviation is forgotten: the variance settles at noise / (1 - f'^2).
    field = MeanField("tanh", weight_variance=2.5, bias_variance=0.05)
    found = finite_width("tanh", widths=[100] * 60, weight_variance=2.5, bias_variance=0.05)
    q = field.fixed_point().q
    assert found.q == pytest.approx([q] * 60)
    z = np.random.default_rng(0).standard_normal(400_000) * math.sqrt(q)
    noise = (2.5 / q) ** 2 * np.var(np.tanh(z) ** 2) / 100
    settled = noise / (1 - field.fixed_point().chi_parallel ** 2) + 2 / 100
    assert found.forward_variance[-1] == pytest.approx(settled, rel=0.01)


def sample(name, weight, bias, q0, *, width, depth, batch, orthogonal, seed, networks=NETWORKS):
    """Return ln of the mean squares forward and backward, (depth, networks), of networks drawn all at once."""
    generator = np.random.default_rng(seed)
    activation = Elementwise.of(name)
    z = generator.standard_normal((networks, batch, width))
    if orthogonal:
        z /= np.sqrt(np.square(z).mean(axis=2, keepdims=True))
    z *= math.sqrt(q0 - bias)
    z += math.sqrt(bias) * generator.standard_normal((networks, 1, width))
    weights, pre, forward, backward = [], [z], [], []
    for _ in range(depth - 1):
        matrix = generator.standard_normal((networks, width, width))
        if orthogonal:
            # The signs of a QR decomposition are a convention; all orthogonal matrices alike have them at random.
            signs = np.sign(generator.standard_normal((networks, 1, width)))
            matrix = np.linalg.qr(matrix)[0] * signs * math.sqrt(weight)
        else:
            matrix *= math.sqrt(weight / width)
        z = activation.value(z) @ matrix + math.sqrt(bias) * generator.standard_normal((networks, 1, width))
        weights.append(matrix)
        pre.append(z)
    gradient = generator.standard_normal(z.shape)
    for layer in reversed(range(depth)):
        forward.append(np.log(np.square(pre[layer]).mean(axis=(1, 2))))
        gradient = gradient * activation.derivative(pre[layer])
        backward.append(np.log(np.square(gradient).mean(axis=(1, 2))))
        if layer:
            gradient = gradient @ weights[layer - 1].transpose(0, 2, 1)
    return np.array(forward)[::-1], np.array(backward)[::-1]


SAMPLED = [
    ("relu", 2.0, 0.0, 1, False),
    ("relu", 2.0, 0.0, 1, True),
    ("tanh", 2.5, 0.05, 1, False),
    ("tanh", 1.0, 0.0, 1, True),
    ("tanh", 1.76, 0.05, 8, False),
    ("gelu", 2.1, 0.08, 1, False),
    ("selu", 1.0, 0.0, 1, False),
    ("selu", 1.0, 0.0, 8, False),
    ("sigmoid", 20.0, 0.0, 1, False),
    ("sigmoid", 1.0, 0.0, 1, True),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, weight, bias, batch, orthogonal", SAMPLED)
def test_sampled_networks_agree(name, weight, bias, batch, orthogonal):
    """Means to 4 standard errors and a tenth of what is predicted, variances to 4 of theirs, 40%."""
    width, depth = 64, 12
    settled = MeanField(name, weight_variance=weight, bias_variance=bias).fixed_point().q
    q0 = settled if 0 < settled < math.inf else 1.0
    alike = {} if batch == 1 else {"c0": bias / q0, "gradient_correlation": 0.0, "samples": batch}
    found = finite_width(
        name,
        widths=[width] * depth,
        weight_variance=weight,
        bias_variance=bias,
        q0=q0,
        orthogonal=orthogonal,
        **alike,
    )
    settings = {"width": width, "depth": depth, "batch": batch, "orthogonal": orthogonal}
    forward, backward = sample(name, weight, bias, q0, **settings, seed=4)
    run = MeanField(name, weight_variance=weight, bias_variance=bias).propagate(q0, depth=depth - 1)
    infinite = np.cumsum(np.log(run.gradient_factor)[::-1])[::-1] - math.log(weight)
    for layer in (3, depth - 1):
        _agree(forward[layer] - math.log(run.q[layer]), found.forward_mean[layer], found.forward_variance[layer])
    for layer in (0, 6):
        _agree(backward[layer] - infinite[layer], found.backward_mean[layer], found.backward_variance[layer])


@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_mean_counts_that_gradients_return_through_the_same_weights(orthogonal):
    # Weights drawn anew for the way back would leave out a fifth of this mean, or more.
    width, depth = 24, 5
    field = MeanField("tanh", weight_variance=2.5, bias_variance=0.05)
    q0 = field.fixed_point().q
    settings = {"width": width, "depth": depth, "batch": 1, "orthogonal": orthogonal}
    _, backward = sample("tanh", 2.5, 0.05, q0, **settings, seed=5, networks=MANY)
    found = finite_width(
        "tanh", widths=[width] * depth, weight_variance=2.5, bias_variance=0.05, q0=q0, orthogonal=orthogonal
    )
    infinite = depth * math.log(field.fixed_point().chi) - math.log(2.5)
    error = math.sqrt(found.backward_variance[0] / MANY)
    assert backward[0].mean() - infinite == pytest.approx(found.backward_mean[0], abs=3 * error)


def test_samples_that_differ_come_to_vary_together():
    # Linear, 64 samples: on their own they would vary by 2 L / (64 n) = 0.012, but they come to correlate by chance.
    width, depth, batch = 32, 12, 64
    settings = {"width": width, "depth": depth, "batch": batch, "orthogonal": False}
    forward, backward = sample("identity", 1.0, 0.0, 1.0, **settings, seed=6)
    found = finite_width("identity", widths=[width] * depth, samples=batch, c0=0.0, gradient_correlation=0.0)
    assert found.forward_variance[-1] > 0.08
    _agree(forward[-1], found.forward_mean[-1], found.forward_variance[-1])
    _agree(backward[0], found.backward_mean[0], found.backward_variance[0])
    # What the batch averages out the mean of the logarithm does not lose.
    assert found.forward_mean[-1] == pytest.approx(-found.forward_variance[-1] / 2, rel=0.01)


def _agree(sampled, mean, variance):
    error = math.sqrt(variance / NETWORKS)
    assert sampled.mean() == pytest.approx(mean, abs=4 * error + 0.1 * abs(mean))
    assert np.var(sampled) == pytest.approx(variance, rel=0.4)


def test_defaults():
    # The gain keeps q = 1.
    assert finite_width("selu", widths=[50] * 3).q == pytest.approx([1, 1, 1])
    assert finite_width("tanh", widths=[50]).forward_variance == pytest.approx([2 / 50])


def test_a_batch_of_samples_that_differ_wanders_less():
    one = finite_width("tanh", widths=[100] * 20, weight_variance=1.5)
    many = finite_width("tanh", widths=[100] * 20, weight_variance=1.5, c0=0.0, gradient_correlation=0.0)
    few = finite_width("tanh", widths=[100] * 20, weight_variance=1.5, c0=0.0, gradient_correlation=0.0, samples=4)
    for field in ("forward_variance", "backward_variance"):
        assert (getattr(many, field) < getattr(few, field)).all()
        assert (getattr(few, field) < getattr(one, field)).all()
    same = finite_width("tanh", widths=[100] * 20, weight_variance=1.5, c0=0.0, samples=1, gradient_correlation=0.0)
    assert same.forward_variance == pytest.approx(one.forward_variance)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"widths": []}, "widths must"),
        ({"widths": [10, 0]}, "widths must .* got 0"),
        ({"widths": 10}, "widths must .* got 10"),
        ({"widths": [10.5]}, "widths must .* got 10.5"),
        ({"widths": [10, 20], "orthogonal": True}, "orthogonal"),
        ({"widths": [10], "q0": 0}, "q0 must .* got 0"),
        ({"widths": [10], "c0": 2}, "c0 must .* got 2"),
        ({"widths": [10], "samples": 0}, "samples must .* got 0"),
        ({"widths": [10], "gradient_correlation": math.nan}, "gradient_correlation must .* got nan"),
        ({"widths": [10] * 3000, "weight_variance": 0.5}, "q reaches 0 at layer"),
    ],
)
def test_arguments_that_are_none(arguments, message):
    with pytest.raises(InputError, match=message):
        finite_width("relu", **arguments)
