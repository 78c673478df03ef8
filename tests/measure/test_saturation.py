"""The flat region follows from the derivative, for any nonlinearity."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from propscope.measure import saturation
from propscope.measure.saturation import FLAT_THRESHOLD, FlatRegions, at_zero, flat_region
from propscope.records.histogram import LogHistogram


def test_threshold_is_sech_squared_of_two():
    assert pytest.approx(0.0706508249) == FLAT_THRESHOLD


@pytest.mark.parametrize(
    ("module", "bounds", "first_flat"),
    [
        (nn.Tanh(), [-2, 2], True),
        (nn.Sigmoid(), [-4, 4], True),
        (nn.ReLU(), [0], True),
        (nn.ReLU6(), [0, 6], True),
        (nn.Hardtanh(), [-1, 1], True),
        (nn.LeakyReLU(0.2), [], False),
        (nn.Identity(), [], False),
        (nn.ELU(), [math.log(FLAT_THRESHOLD)], True),
        (nn.Softplus(), [math.log(FLAT_THRESHOLD / (1 - FLAT_THRESHOLD))], True),
    ],
    ids=repr,
)
def test_bounds(module, bounds, first_flat):
    region = flat_region(module)
    assert region.first_flat is first_flat
    assert region.bounds == pytest.approx(bounds, abs=1e-6)


def test_gelu_has_a_flat_spot_where_its_slope_changes_sign():
    region = flat_region(nn.GELU())
    assert region.is_flat(np.array([-0.75]))[0]
    assert not region.is_flat(np.array([-1.5]))[0]
    assert not region.is_flat(np.array([0.0, np.nan])).any()


@pytest.mark.parametrize("module", [nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.GELU(), nn.SiLU()], ids=repr)
def test_fraction_from_counts_is_that_of_the_values(module):
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    z.requires_grad_()
    (slope,) = torch.autograd.grad(module(z).sum(), z)
    grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64, requires_grad=True)
    (all_slopes,) = torch.autograd.grad(module(grid).sum(), grid)
    exact = float((slope.abs() < FLAT_THRESHOLD * all_slopes.abs().max()).double().mean())
    assert flat_region(module).fraction(LogHistogram.of(z.detach().numpy())) == pytest.approx(exact, abs=2e-3)


def test_fraction_of_nothing_is_none():
    assert flat_region(nn.Tanh()).fraction(LogHistogram.empty()) is None
    assert flat_region(nn.Tanh()).fraction(LogHistogram.of([math.nan])) is None
    assert flat_region(nn.Tanh()).fraction(LogHistogram.of([math.inf, 0.0])) == 0.5


def test_the_module_is_not_touched():
    module = nn.PReLU(num_parameters=3)
    kept = module.weight
    module.register_forward_hook(lambda *_: pytest.fail("a hook fired"))
    assert flat_region(module).bounds.size == 0
    assert module.weight is kept
    assert module.weight.shape == (3,)
    assert module.weight.dtype == torch.float32


class Scaled(nn.Module):
    """An activation with a slope that is learned."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, z):
        return torch.tanh(self.scale * z)


def test_modules_with_the_same_slopes_share_a_region(monkeypatch):
    computed = []
    monkeypatch.setattr(saturation, "flat_region", lambda module: computed.append(module) or flat_region(module))
    modules = [Scaled(2.0), Scaled(2.0), Scaled(4.0)]
    # Each recorder has its own.
    bounds = [FlatRegions().of_module(module).bounds[1] for module in modules]
    assert bounds == pytest.approx([1.0, 1.0, 0.5], abs=1e-6)
    assert computed == modules[::2]
    with torch.no_grad():
        modules[0].scale.fill_(8.0)
    assert FlatRegions().of_module(modules[0]).bounds[1] == pytest.approx(0.25, abs=1e-6)


def test_what_is_kept_of_modules_has_an_end(monkeypatch):
    monkeypatch.setattr(saturation, "_KEPT", 3)
    for number in range(10):
        FlatRegions().of_module(Scaled(1.0 + number / 16))
        assert len(saturation._DETERMINED) <= 3


def test_an_activation_is_asked_once_for_its_slope_at_zero(monkeypatch):
    asked = []
    monkeypatch.setattr(saturation, "_apart", lambda compute: asked.append(compute) or compute())
    monkeypatch.setattr(saturation, "_AT_ZERO", {})
    assert [at_zero(nn.ELU(alpha=0.3)) for _ in range(5)] == [(False, True)] * 5
    assert len(asked) == 1
