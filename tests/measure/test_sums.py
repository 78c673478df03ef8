"""Sums within their bounds, also where a device has no float64."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from propscope.measure import sums
from propscope.measure.attention import softmax_figures


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 1 << 20])
@pytest.mark.parametrize("value", [0.1, 1 / 3])
def test_equal_numbers(count, value):
    values = torch.full((count,), value)
    exact = float(values.double().sum()) if count else 0.0
    assert float(sums.total(values)) == pytest.approx(exact, rel=count * 2.0**-53, abs=0)
    with mock.patch.object(sums, "widest", return_value=torch.float32):
        found = sums.total(values)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(exact, rel=20 * 2.0**-24, abs=0)


def test_apple_devices_have_no_float64():
    assert sums.widest(SimpleNamespace(device=torch.device("mps"))) == torch.float32
    assert sums.widest(torch.ones(1)) == torch.float64


def test_the_entropy_of_a_long_row():
    # ln(n) for n equal weights: the weights are rounded once, and the sum not at all.
    for keys in (3, 1 << 20):
        weights = torch.full((1, keys), 1 / keys)
        exact = -(weights.double() * weights.double().log()).sum()
        assert float(softmax_figures(weights, weights).entropy) == pytest.approx(float(exact), rel=1e-12)
