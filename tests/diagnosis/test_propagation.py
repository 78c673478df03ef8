import math

import numpy as np
import pytest
import torch
from building.records import evidence, geometric, network
from torch import nn

import propscope
from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence, steepest_fall
from propscope.diagnosis.propagation import exploding, vanishing

STRAINED, EXPLODED, VANISHED = math.exp(limits.STRAINED), math.exp(limits.EXPLODED), math.exp(limits.VANISHED)


def verdicts(rule, *members):
    return [(found.direction, found.severity) for found in rule(evidence(*members))]


@pytest.mark.parametrize("layers", [5, 20, 50])
class TestLimits:
    @pytest.mark.parametrize(
        ("factor", "severity"),
        [
            (0.99 * STRAINED, None),
            (1.01 * STRAINED, "note"),
            (0.99 * EXPLODED**limits.SLOWED, "note"),
            (1.01 * EXPLODED**limits.SLOWED, "strained"),
            (0.99 * EXPLODED, "strained"),
            (1.01 * EXPLODED, "broken"),
        ],
    )
    def test_a_forward_signal_explodes_at_them(self, layers, factor, severity):
        found = verdicts(exploding, network(geometric(factor, layers)))
        assert found == ([] if severity is None else [("forward", severity)])

    @pytest.mark.parametrize(
        ("factor", "severity"),
        [
            (0.99 * STRAINED, None),
            (1.01 * STRAINED, "note"),
            (0.99 * VANISHED**limits.SLOWED, "note"),
            (1.01 * VANISHED**limits.SLOWED, "strained"),
            (0.99 * VANISHED, "strained"),
            (1.01 * VANISHED, "broken"),
        ],
    )
    def test_a_gradient_vanishes_at_them(self, layers, factor, severity):
        found = verdicts(vanishing, network([1.0] * layers, geometric(1 / factor, layers, reverse=True)))
        assert found == ([] if severity is None else [("backward", severity)])

    def test_a_gradient_that_explodes_where_values_do_not_is_chaos_and_broken_earlier(self, layers):
        factor = 1.01 * math.exp(limits.CHAOTIC)
        chaos = network([1.0] * layers, geometric(factor, layers, reverse=True))
        both = network(geometric(factor, layers), geometric(factor, layers, reverse=True))
        assert verdicts(exploding, chaos) == [("backward", "broken")]
        assert verdicts(exploding, both) == [("forward", "note"), ("backward", "note")]
        assert verdicts(exploding, network([1.0] * layers, geometric(0.97 * factor, layers, reverse=True))) == [
            ("backward", "strained")
        ]


def test_the_scale_of_the_loss_and_of_the_input_change_nothing():
    curve, back = geometric(1e-3), geometric(1e-9, reverse=True)
    for scale in (1e-6, 1.0, 1e6):
        scaled = network([scale * x for x in curve], [x / scale for x in back])
        assert verdicts(vanishing, scaled) == [("forward", "note"), ("backward", "broken")]
        assert not verdicts(exploding, scaled)


def test_a_rise_and_a_fall_do_not_hide_each_other():
    profile = network(geometric(1e5, 10) + [1e5 * x for x in geometric(1e-5, 10)])
    assert verdicts(exploding, profile) == [("forward", "broken")]
    assert verdicts(vanishing, profile) == [("forward", "strained")]


def test_one_layer_that_does_it_all_is_the_one_named():
    curve = [1.0, 0.99, 0.98, 98.0, 97.0, 96.0]
    (found,) = exploding(evidence(network(curve)))
    assert found.sites == ("layers.3.linear",)
    assert found.evidence["factor"] == pytest.approx(100)
    assert found.marks == {"layers.3.linear": "exploding"}


def test_a_gradient_names_the_layers_that_it_passes_from_the_last_on():
    (found,) = vanishing(evidence(network([1.0] * 5, geometric(1e-8, 5, reverse=True))))
    assert found.sites == tuple(f"layers.{n}.linear" for n in (4, 3, 2, 1))
    assert (found.first, found.last) == ("layers.4.linear", "layers.1.linear")
    assert "x0.010 per layer" in found.message


def test_the_interval_is_over_seeds_and_the_confidence_counts_them():
    members = [network(geometric(factor), seed=seed) for seed, factor in enumerate((1e-2, 2e-2, 1e-1))]
    (found,) = vanishing(evidence(*members))
    assert found.evidence["factor"] == pytest.approx((1e-2 * 2e-2 * 1e-1) ** (1 / 3))
    assert found.evidence["factor_low"] < found.evidence["factor"] < found.evidence["factor_high"]
    # Two of three seeds are below e^-3: (2 + 1) / (3 + 2).
    assert found.confidence == pytest.approx(0.6)


def test_layers_of_other_widths_are_held_against_each_other_by_the_gradient_of_a_sample():
    # E|delta|^2 over all units is what theory keeps: a layer of 1/900 as many units has 30 times the rms.
    wide, narrow = (128, 57600), (128, 64)
    tapered = network([1.0, 1.0], [1.0, 30.0], shape=[wide, narrow])
    assert verdicts(exploding, tapered) == verdicts(vanishing, tapered) == []
    assert verdicts(vanishing, network([1.0, 1.0], [1.0, 30.0])) == [("backward", "note")]


def test_zero_is_found_where_it_starts():
    found = list(vanishing(evidence(network([1.0, 1.0, 0.0, 0.0]))))
    assert [(each.severity, each.first) for each in found] == [("broken", "layers.2.linear")]
    assert "exactly zero" in found[0].message


def test_what_was_not_seen_or_is_not_finite_is_left_out():
    assert not verdicts(exploding, network([1.0, math.nan, 1.0], [None, None, None]))
    assert not verdicts(vanishing, network([None, None], [None, None]))


def test_causes_tell_the_cases_apart():
    def cause(rule, *curves, **figures):
        return next(iter(rule(evidence(network(*curves, **figures))))).cause

    fading, kept = geometric(1e-8, reverse=True), [1.0] * 20
    assert "too small for relu" in cause(vanishing, geometric(1e-8), fading)
    assert "all samples have in common" in cause(vanishing, kept, fading)
    assert "is saturated" in cause(vanishing, kept, fading, activation="Tanh", flat_fraction=0.9)
    assert "chaos" in cause(exploding, kept, geometric(1e8, reverse=True), activation="Tanh")
    assert "too large for relu" in cause(exploding, geometric(1e8))


def test_the_remedy_is_the_inverse_of_what_a_layer_does():
    (found,) = vanishing(evidence(network(geometric(0.5**19), [1.0] * 20)))
    assert found.remedy.text.startswith("multiply the weight std of layers 2 to 20 by 2.00")
    assert found.remedy.factors == {f"layers.{n}.linear": pytest.approx(2.0) for n in range(1, 20)}


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([5, 4, 3, 2], (0, 3)),
        ([5, 5, 0, 0], (1, 2)),
        ([1, 9, 0], (1, 2)),
        ([3, 4], (0, 1)),
        ([0, -0.1, -0.11, -9, -9.02], (2, 3)),
        ([0, 5, 4, 6, 1, 2, 0], (3, 6)),
    ],
)
def test_the_steepest_fall(curve, expected):
    assert steepest_fall(np.array(curve, dtype=float)) == expected


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("std", [1e-3, 1e-2])
class TestOfASignalThatUnderflows:
    def profile(self, activation, std, scales=None, bias=0.0):
        torch.manual_seed(0)
        model = nn.Sequential(*(part for _ in range(60) for part in (nn.Linear(64, 64), activation())))
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, std=std) if parameter.dim() > 1 else nn.init.normal_(parameter, std=bias)
            if parameter.dim() > 1 and scales is not None:
                parameter.data *= scales.get(name.removesuffix(".weight"), 1.0)
        return propscope.profile(model, torch.randn(64, 64))

    def test_the_stretch_ends_before_the_zero_and_its_factor_mends_every_layer(self, activation, std):
        diagnosis = propscope.diagnose(self.profile(activation, std))
        worst, gain = diagnosis.worst, std * 8 * (math.sqrt(0.5) if activation is nn.ReLU else 1)
        assert (diagnosis.verdict, worst.kind, worst.direction) == ("broken", "vanishing", "forward")
        assert worst.evidence["factor_per_layer"] == pytest.approx(gain, rel=0.1)
        assert worst.evidence["layers"] == pytest.approx(math.log(1e-36 / (8 * std)) / math.log(gain), abs=2)
        assert "where it is zero" in worst.message
        assert [*worst.remedy.factors] == [str(2 * layer) for layer in range(60)]
        mended = propscope.diagnose(self.profile(activation, std, worst.remedy.factors))
        assert not [
            found.message for found in mended.findings if found.severity != "note" and found.kind == "vanishing"
        ]

    def test_so_does_that_of_the_gradient(self, activation, std):
        # Biases keep the values up, which a ReLU passes no gradient without.
        evidence = Evidence.of([self.profile(activation, std, bias=0.1)])
        (found,) = (found for found in vanishing(evidence) if found.direction == "backward")
        gain = std * 8 * (math.sqrt(0.5) if activation is nn.ReLU else 1)
        assert found.evidence["factor_per_layer"] == pytest.approx(gain, rel=0.1)
        assert "where it is zero" in found.message
        assert [*found.remedy.factors] == [str(2 * layer) for layer in range(59, 0, -1)]


def test_a_gradient_behind_values_that_underflow_is_too_small_for_the_weights():
    evidence = Evidence.of([TestOfASignalThatUnderflows().profile(nn.Tanh, 1e-3)])
    (found,) = (found for found in vanishing(evidence) if found.direction == "backward")
    assert "weights are too small" in found.cause
    assert [*found.remedy.factors] == [str(2 * layer) for layer in range(59, 0, -1)]
