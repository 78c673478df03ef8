import math

import numpy as np
import pytest
import torch

from propscope.remedies.calibration import spread
from propscope.remedies.calibration.spread import Spread


def pooled(*tensors, axis=-1):
    seen = Spread()
    for tensor in tensors:
        seen.add(tensor, axis)
    return seen


def test_pools_unequal_tensors_exactly():
    torch.manual_seed(0)
    tensors = [torch.randn(n, 5, dtype=torch.float64) * n + n for n in (1, 4, 30)]
    together = torch.cat(tensors).numpy()
    seen = pooled(*tensors)
    assert seen.count == together.size
    assert seen.rows == 35
    assert seen.mean == pytest.approx(together.mean(), rel=1e-13)
    assert seen.std == pytest.approx(together.std(), rel=1e-13)
    assert seen.sample_fraction == pytest.approx(1 - together.mean(0).var() / together.var(), rel=1e-12)


def test_chunks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    images = torch.randn(6, 3, 4, 5) + torch.arange(3.0).view(3, 1, 1)
    whole = pooled(images, axis=1)
    monkeypatch.setattr(spread, "_CHUNK", 100)
    chunked = pooled(images, axis=1)
    assert (chunked.count, chunked.rows) == (whole.count, whole.rows) == (360, 120)
    assert chunked.std == pytest.approx(whole.std, rel=1e-13)
    assert chunked.sample_fraction == pytest.approx(whole.sample_fraction, rel=1e-12)
    between = images.double().mean((0, 2, 3)).var(correction=0) / images.double().var(correction=0)
    assert whole.sample_fraction == pytest.approx(1 - float(between), rel=1e-6)


def test_a_large_mean_does_not_drown_the_deviation():
    torch.manual_seed(0)
    values = torch.randn(1000, 4) + 1e4
    assert pooled(*values.split(100)).std == pytest.approx(np.std(values.double().numpy()), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    values = (torch.arange(60_000) % 7).to(dtype).view(-1, 6) * 100
    assert pooled(values).std == pytest.approx(np.std(values.double().numpy()), rel=1e-12)


def test_constant_is_zero_even_when_rounded():
    assert pooled(torch.full((100, 3), 0.1)).std == 0
    assert pooled(torch.tensor([[1.0, 1.0 + 1e-7]])).std == 0
    assert pooled(torch.tensor([[1e-20, 2e-20]])).std == pytest.approx(0.5e-20)


def test_alike_samples_have_no_fraction():
    row = torch.randn(7)
    assert pooled(row.expand(9, 7)).sample_fraction == pytest.approx(0, abs=1e-12)
    assert pooled(torch.randn(9, 1)).sample_fraction == pytest.approx(1)


def test_empty_infinite_and_changing_units():
    assert pooled().rows == pooled(torch.empty(0, 3)).count == 0
    assert math.isnan(pooled(torch.ones(2, 3)).sample_fraction)
    assert not pooled(torch.tensor([[1.0, math.inf]])).finite
    assert not pooled(torch.tensor([[1.0, math.nan]])).finite
    lengths = pooled(torch.randn(4, 3), torch.randn(4, 5))
    assert lengths.count == 32
    assert math.isnan(lengths.sample_fraction)
