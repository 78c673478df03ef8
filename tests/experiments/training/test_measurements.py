import pytest
import torch

from propscope.experiments.training.measurements import Updates


def test_the_update_ratio_of_a_million_weights_is_summed_in_float64():
    weight = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0)) + 3
    before = weight.clone()
    updates = Updates([weight])
    updates.before()
    weight *= 1.01
    updates.after()
    moved = (weight - before).double().square().sum().sqrt() / before.double().square().sum().sqrt()
    # In float32 the sum of the squares is off by 1e-5.
    assert updates.mean() == pytest.approx(moved.item(), rel=1e-12)
