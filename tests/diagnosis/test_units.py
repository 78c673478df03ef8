from dataclasses import replace

import pytest
import torch
from building.networks import Made
from building.records import UNITS, evidence, model, network, site, weight
from torch import nn

import propscope
from propscope.diagnosis.units import (
    inactive_in_grid,
    inactive_in_model,
    saturated,
    symmetric_in_grid,
    symmetric_in_model,
)
from propscope.records import Parent


def kinds(rule, *members):
    return [(each.severity, each.sites) for each in rule(evidence(*members))]


class TestSymmetric:
    def test_every_unit_of_a_layer_has_to_equal_another(self):
        assert kinds(symmetric_in_grid, network([1.0, 1.0], symmetric_units=[0, UNITS])) == [
            ("broken", ("layers.1.linear",))
        ]
        assert kinds(symmetric_in_grid, network([1.0, 1.0], symmetric_units=[0, UNITS - 1])) == []
        assert kinds(symmetric_in_grid, network([1.0, 1.0], symmetric_units=None)) == []

    def test_a_layer_of_one_unit_has_nothing_to_tell_apart(self):
        assert kinds(symmetric_in_grid, network([1.0, 1.0], units=1, symmetric_units=1)) == []

    def test_zeros_are_said_to_be_zero(self):
        (found,) = symmetric_in_grid(evidence(network([0.0, 0.0], symmetric_units=UNITS)))
        assert "are zero" in found.message
        assert found.marks == {"layers.0.linear": "zero", "layers.1.linear": "zero"}


class TestSaturated:
    @pytest.mark.parametrize(("share", "severity"), [(0.49, None), (0.51, "strained")])
    def test_half_of_a_bounded_activation(self, share, severity):
        found = kinds(saturated, network([1.0, 1.0], activation="Tanh", flat_fraction=[0.1, share]))
        assert found == ([] if severity is None else [(severity, ("layers.1.linear",))])

    def test_a_rectifier_is_not_saturated(self):
        assert kinds(saturated, network([1.0, 1.0], flat_fraction=0.95)) == []

    def test_the_confidence_counts_seeds(self):
        members = [network([1.0], activation="Tanh", flat_fraction=f, seed=i) for i, f in enumerate((0.8, 0.9, 0.4))]
        (found,) = saturated(evidence(*members))
        assert found.evidence["flat_fraction"] == pytest.approx(0.7)
        assert found.confidence == pytest.approx(3 / 5)


class TestInactive:
    def test_half_of_a_rectifier_off_is_healthy(self):
        assert kinds(inactive_in_grid, network([1.0] * 50, flat_fraction=0.5, dead_units=UNITS // 2)) == []

    @pytest.mark.parametrize(("share", "severity"), [(0.89, None), (0.91, "strained")])
    def test_nine_tenths_of_the_input(self, share, severity):
        found = kinds(inactive_in_grid, network([1.0], flat_fraction=share))
        assert found == ([] if severity is None else [(severity, ("layers.0.linear",))])

    def test_more_units_off_than_a_coin_gives(self):
        # Half of 64 and three standard deviations of 4: 44.
        assert kinds(inactive_in_grid, network([1.0, 1.0], dead_units=[0, 44])) == []
        assert kinds(inactive_in_grid, network([1.0, 1.0], dead_units=[0, 45])) == [("strained", ("layers.1.linear",))]

    def test_all_layers_together_show_what_none_shows_alone(self):
        # 240 of 384 units: 62%, where chance gives 50 +- 2.6%.
        off = [f"layers.{n}.linear" for n in range(1, 6)]
        assert kinds(inactive_in_grid, network([1.0] * 6, dead_units=[30, *[42] * 5])) == [("strained", tuple(off))]
        assert kinds(inactive_in_grid, network([1.0] * 6, dead_units=[30, 42, 42, 42, 42, 30])) == []
        assert kinds(inactive_in_grid, network([1.0] * 2, dead_units=[40, 40])) == []

    def test_a_layer_that_is_off_altogether_is_broken(self):
        assert kinds(inactive_in_grid, network([1.0, 1.0], dead_units=[0, UNITS])) == [("broken", ("layers.1.linear",))]

    def test_a_few_samples_tell_nothing(self):
        assert kinds(inactive_in_grid, network([1.0], dead_units=UNITS, samples=15)) == []

    @pytest.mark.parametrize(("units", "cosine", "found"), [(64, 0.99, 1), (4, 0.99, 0), (4, None, 0), (4, 0.1, 1)])
    def test_few_units_whose_samples_are_alike_may_all_be_off(self, units, cosine, found):
        squeezed = network([1.0], flat_fraction=0.95, units=units, mean_cosine=cosine)
        assert len(kinds(inactive_in_model, squeezed)) == found


class TestModels:
    """Of existing models: what is zero on purpose, softplus, and layers that others go around."""

    @staticmethod
    def of(rms=1.0, **figures):
        sites = [site("stem"), site("body", rms=rms, **({"role": "pre-activation", "activation": "ReLU"} | figures))]
        return model(sites)

    def test_zeros_are_left_to_other_rules_and_equal_units_are_broken(self):
        zero, equal = self.of(0.0, symmetric_units=UNITS), self.of(symmetric_units=UNITS)
        assert kinds(symmetric_in_model, zero) == []
        assert kinds(symmetric_in_grid, zero) == kinds(symmetric_in_model, equal) == [("broken", ("body",))]

    @pytest.mark.parametrize(("rows", "severities"), [(0, []), (UNITS, ["broken"])])
    def test_equal_units_part_where_the_next_weights_differ(self, rows, severities):
        sites = [
            site("stem"),
            site("gate", symmetric_units=UNITS, parents=(Parent("stem"),), parameters=("gate.weight",)),
            site("sigmoid", "Sigmoid", parents=(Parent("gate"),)),
            site("next", parents=(Parent("sigmoid"), Parent("stem")), parameters=("next.weight",)),
        ]
        alike = [replace(weight(f"{name}.weight", 1.0), symmetric_units=rows) for name in ("gate", "next")]
        assert [severity for severity, _ in kinds(symmetric_in_model, model(sites, alike))] == severities

    def test_a_flat_softplus_is_meant(self):
        flat = self.of(activation="Softplus", flat_fraction=0.95)
        assert kinds(inactive_in_model, flat) == []
        assert kinds(inactive_in_grid, flat) == [("strained", ("body",))]

    def test_a_layer_that_is_off_altogether_is_strained(self):
        assert kinds(inactive_in_model, self.of(dead_units=UNITS)) == [("strained", ("body",))]


def clipped(low, high, *, gain=2.0):
    torch.manual_seed(0)
    layers = []
    for _ in range(8):
        layers += [nn.Linear(32, 32), nn.Hardtanh(low, high)]
        nn.init.normal_(layers[-2].weight, std=(gain / 32) ** 0.5)
        nn.init.constant_(layers[-2].bias, -0.1 if low == 0 else 0.0)
    return propscope.profile(nn.Sequential(*layers, nn.Linear(32, 4)), torch.randn(64, 32))


def test_a_function_that_is_only_flat_at_zero_is_no_bounded_one():
    assert kinds(saturated, clipped(0.0, 20.0)) == []
    assert kinds(saturated, clipped(-1.0, 1.0, gain=100.0)) != []
    # Half of the inputs lie below 0, and most others above 1.
    assert kinds(saturated, clipped(0.0, 1.0, gain=1000.0)) != []


def gated_branch(*, zero, activation, bias=0.0):
    """Return a residual network of convolutions whose branches end in a norm, an activation and a gate of channels."""

    def run(m, x):
        y = m.act(m.norm(m.conv(x)))
        return x + y * torch.sigmoid(m.expand(torch.relu(m.reduce(y.mean((2, 3))))))[:, :, None, None]

    def block():
        parts = {"conv": nn.Conv2d(16, 16, 1), "norm": nn.BatchNorm2d(16), "act": activation()}
        nn.init.constant_(parts["norm"].weight, 0.0 if zero else 1.0)
        nn.init.constant_(parts["norm"].bias, bias)
        return Made(run, **parts, reduce=nn.Linear(16, 16), expand=nn.Linear(16, 16))

    ends = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    return nn.Sequential(nn.Conv2d(3, 16, 1), *(block() for _ in range(3)), *ends)


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.Identity, nn.SiLU])
def test_units_that_zero_weights_make_zero_are_not_off(activation):
    torch.manual_seed(0)
    net = gated_branch(zero=True, activation=activation)
    for block in (net[1], net[2], net[3]):
        nn.init.zeros_(block.reduce.bias)
    profile = propscope.profile(net, torch.randn(16, 3, 6, 6))
    assert kinds(inactive_in_model, profile) == []
    assert propscope.diagnose(profile).verdict == "healthy"


def test_units_that_a_bias_turns_off_are_off():
    torch.manual_seed(0)
    net = gated_branch(zero=False, activation=nn.LeakyReLU, bias=-10.0)
    assert propscope.diagnose(propscope.profile(net, torch.randn(16, 3, 6, 6))).verdict == "strained"
