import pytest

from propscope.errors import InputError
from propscope.networks import INITIALIZERS
from propscope.networks.initializers import CUT_VARIANCE
from propscope.theory import layer_variances

N, M = 300, 200


@pytest.mark.parametrize(
    "initializer, expected",
    [
        ("he_normal", 2),
        ("he_uniform:mode=fan_out", 2 * N / M),
        ("xavier_uniform", 2 * N / (N + M)),
        ("lecun_normal", 1),
        ("orthogonal:gain=1.5", 2.25),
        ("normal:std=0.05", N * 0.05**2),
        ("uniform:low=-0.1:high=0.1", N * 0.2**2 / 12),
        ("trunc_normal:std=0.02", N * CUT_VARIANCE * 0.02**2),
        ("sparse:sparsity=0.5:std=0.1", N * 0.5 * 0.1**2),
        ("default", 1 / 3),
        ("variance_scaling:scale=3", 3),
    ],
)
def test_weight_variances(initializer, expected):
    assert layer_variances(initializer, fan_in=N, fan_out=M).weight_variance == pytest.approx(expected)


def test_biases():
    assert layer_variances("default", fan_in=N, fan_out=M).bias_variance == pytest.approx(1 / (3 * N))
    assert layer_variances("default", fan_in=N, fan_out=M, bias=0.0).bias_variance == 0
    assert layer_variances("he_normal", fan_in=N, fan_out=M).bias_variance == 0
    assert layer_variances("he_normal", fan_in=N, fan_out=M, bias=0.3).bias_variance == pytest.approx(0.09)


def test_orthogonal_is_said():
    assert layer_variances("orthogonal", fan_in=N, fan_out=N).orthogonal
    assert not layer_variances("he_normal", fan_in=N, fan_out=N).orthogonal


@pytest.mark.parametrize(
    "initializer, reason",
    [
        ("zeros", "same value"),
        ("ones", "same value"),
        ("constant:value=0.2", "same value"),
        ("uniform:low=0:high=1", "mean other than 0"),
        ("identity", "not random"),
        ("dirac", "not random"),
        ("normal:std=0", "all 0"),
        ("sparse:sparsity=1", "all 0"),
        ("torch.nn.init:zeros_", "not known"),
    ],
)
def test_no_mean_field_and_why(initializer, reason):
    with pytest.raises(InputError, match=f"mean field does not apply to initializer .*{reason}"):
        layer_variances(initializer, fan_in=N, fan_out=M)


def test_every_initializer_has_variances_or_a_reason():
    for entry in INITIALIZERS:
        if entry.variance is None or entry.name == "critical":
            with pytest.raises(InputError, match=r"same value|not random|follow from the activation"):
                layer_variances(entry.name, fan_in=N, fan_out=N)
        else:
            assert layer_variances(entry.name, fan_in=N, fan_out=N).weight_variance > 0


def test_fans_that_are_none():
    with pytest.raises(InputError, match=r"fan_in must .* got 0"):
        layer_variances("he_normal", fan_in=0, fan_out=3)
