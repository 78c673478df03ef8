"""What was measured is never refused by `save`, however extreme its numbers are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from building.records import plain
from torch import nn

import propscope
from propscope.store import load, save


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38, 1e-45, 0.0, -0.0])
def test_a_network_with_an_extreme_weight_is_saved(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype)
    # float16 has no 1e38: it rounds to infinity.
    extreme = torch.tensor(value, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        model[0].weight[0, 0] = extreme
        model[2].weight.copy_(extreme.expand_as(model[2].weight))
    measured = propscope.profile(model, torch.randn(8, 4).to(dtype))
    save(tmp_path / "run.h5", measured)
    assert plain(load(tmp_path / "run.h5")[0].sites) == plain(measured.sites)
