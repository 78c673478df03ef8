import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from propscope.errors import InputError
from propscope.records import NetworkProfile, Parameter, Site, TensorSummary

# At the end: no bench may hide an installed module.
sys.path.append(str(Path(__file__).parent))

from verdict_baselines import (
    GRADIENT_RATIO_RULES,
    NOT_EVALUABLE,
    SMDEBUG_RULES,
    gradient_ratio,
    gradient_ratio_verdict,
    mean_absolute,
    smdebug_verdict,
)

SPREAD = np.linspace(-1, 1, 1001)


def weight(name, values=SPREAD, gradient=SPREAD, shape=(7, 143)):
    """Return a weight; of the gradient only the elements matter, and the shape for its norm."""
    seen = None if gradient is None else TensorSummary.of(gradient)
    return Parameter(name, shape, TensorSummary.of(values), seen)


def network(*parameters, sites=()):
    return NetworkProfile(tuple(sites), parameters or (weight("a.weight"), weight("b.weight")))


def layer(activation, values=SPREAD, **figures):
    """Return the pre-activation that this nonlinearity takes."""
    return Site(
        f"{activation}.linear",
        "Linear",
        "pre-activation",
        (1, 1001),
        activation=activation,
        forward=TensorSummary.of(values),
        **figures,
    )


def fired(profile):
    """Return the names of the rules that fired."""
    verdict = smdebug_verdict(profile)
    assert verdict.broken == bool(verdict.rules)
    return [rule.split(":")[0] for rule in verdict.rules]


def test_a_healthy_network_is_not_broken():
    sites = [layer("ReLU", units=10, dead_units=1), layer("Tanh"), layer("Sigmoid")]
    assert fired(network(sites=sites)) == []
    assert not gradient_ratio_verdict(network(sites=sites)).broken


def test_vanishing_gradient():
    # The tensor's own spread is far under the range that another rule asks for.
    rest = ["PoorWeightInitialization (gradients)"]
    assert fired(network(weight("a", gradient=SPREAD * 2.02e-7))) == rest
    assert fired(network(weight("a", gradient=SPREAD * 1.98e-7))) == ["VanishingGradient", *rest]


def test_vanishing_gradient_takes_the_worst_of_all_parameters():
    bias = Parameter("b.bias", (2,), TensorSummary.of([0.0, 0.0]), TensorSummary.of([3e-9, 3e-9]))
    (finding,) = smdebug_verdict(network(weight("a"), bias)).rules
    assert finding == ("VanishingGradient: mean absolute gradient 3e-09 < 1e-07 at b.bias.grad (1 of 2 places)")


def test_the_worst_of_several_is_named():
    parameters = [weight(name, gradient=[size, size]) for name, size in (("a", 2e-9), ("b", 1e-9), ("c", 3e-9))]
    assert "1e-09 < 1e-07 at b.grad (3 of 3 places)" in smdebug_verdict(network(*parameters)).rules[0]


def test_a_parameter_without_gradient_has_not_vanished():
    assert fired(network(weight("a", gradient=None))) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_exploding_tensor(value):
    bad, largest = [*SPREAD, value], [*SPREAD, 3e38]
    assert fired(network(weight("a", gradient=bad))) == ["ExplodingTensor"]
    assert fired(network(weight("a", bad))) == ["ExplodingTensor"]
    assert fired(network(sites=[layer("GELU", bad)])) == ["ExplodingTensor"]
    assert fired(network(weight("a", gradient=largest), sites=[layer("GELU", largest)])) == []


def test_a_gradient_that_is_not_finite_is_not_small():
    assert fired(network(weight("a", gradient=[*SPREAD * 1e-9, math.nan]))) == ["ExplodingTensor"]


def test_what_has_no_finite_element_has_no_share_and_no_variance():
    nothing = [math.nan] * 4
    assert fired(network(sites=[layer("Tanh", nothing), layer("ReLU", nothing)])) == ["ExplodingTensor"]
    assert fired(network(weight("a", nothing), weight("b"), weight("c"))) == ["ExplodingTensor"]


def test_dead_relu():
    half, more = {"units": 100, "dead_units": 50}, {"units": 100, "dead_units": 51}
    assert fired(network(sites=[layer("ReLU", **half)])) == []
    assert fired(network(sites=[layer("ReLU", **more)])) == ["DeadRelu"]
    assert fired(network(sites=[layer("Tanh", **more)])) == []


@pytest.mark.parametrize("activation, low, high", [("Tanh", -9.4999, 9.4999), ("Sigmoid", -23, 16.99999)])
def test_saturated_activation_at_either_limit(activation, low, high):
    # A bin that holds the limit is divided in proportion, so the values keep a bin's width away.
    for limit in (low, high):
        assert fired(network(sites=[layer(activation, [limit * 0.8] * 10)])) == []
        assert fired(network(sites=[layer(activation, [limit * 1.2] * 10)])) == ["SaturatedActivation"]
        assert fired(network(sites=[layer("Softsign", [limit * 1.2] * 10)])) == []


def test_saturated_activation_needs_more_than_half_of_the_units():
    # Of 1000 elements 495 beyond the limits may be half of the units, at 99% of their samples.
    def with_saturated(count):
        return network(sites=[layer("Tanh", [20.0] * count + [0.5] * (1000 - count))])

    assert fired(with_saturated(495)) == []
    assert fired(with_saturated(496)) == ["SaturatedActivation"]


def test_the_variance_of_the_weights():
    name = ["PoorWeightInitialization (weights)"]
    assert fired(network(weight("a"), weight("b", SPREAD * math.sqrt(9.9)))) == []
    assert fired(network(weight("a"), weight("b", SPREAD * math.sqrt(10.1)))) == name
    assert fired(network(weight("a", SPREAD * math.sqrt(10.1)), weight("b"))) == name
    assert fired(network(weight("a", [2.0] * 4), weight("b", [3.0] * 4))) == []
    assert fired(network(weight("a", [2.0] * 4), weight("b"))) == name


def test_the_variance_of_a_bias_does_not_count():
    bias = Parameter("b.bias", (1001,), TensorSummary.of(SPREAD * 100), TensorSummary.of(SPREAD))
    assert fired(network(weight("a"), bias)) == []


def test_the_variance_of_the_inputs_of_relu():
    def two(activation, ratio):
        return network(sites=[layer(activation), layer(activation, SPREAD * math.sqrt(ratio))])

    assert fired(two("ReLU", 9.9)) == []
    assert fired(two("ReLU", 10.1)) == ["PoorWeightInitialization (inputs)"]
    assert fired(two("GELU", 10.1)) == []


def test_the_range_of_the_gradients():
    # 90% of an even spread from -1 to 1 is 1.8 wide; the percentiles are good to a bin, 1/8.
    assert fired(network(weight("a", gradient=SPREAD * 1e-3 / 1.8 * 1.15))) == []
    assert fired(network(weight("a", gradient=SPREAD * 1e-3 / 1.8 * 0.85))) == ["PoorWeightInitialization (gradients)"]


def test_the_range_of_the_gradients_leaves_out_a_twentieth_at_either_end():
    def with_outliers(count):
        middle = np.linspace(-1e-5, 1e-5, 1000 - 2 * count)
        return network(weight("a", gradient=[*middle, *[-1] * count, *[1] * count]))

    assert fired(with_outliers(40)) == ["PoorWeightInitialization (gradients)"]
    assert fired(with_outliers(60)) == []


def test_equal_gradients_have_no_range_whatever_their_bin():
    assert fired(network(weight("a", gradient=[1.1] * 100))) == ["PoorWeightInitialization (gradients)"]


def test_all_zero():
    zeros = np.zeros(1001)
    almost = np.append(zeros[1:], 1.0)
    assert fired(network(weight("a", zeros))) == ["AllZero"]
    assert fired(network(weight("a", almost))) == []
    assert "AllZero" in fired(network(weight("a", gradient=zeros)))
    assert "AllZero" not in fired(network(weight("a", gradient=almost)))
    bias = Parameter("a.bias", (1001,), TensorSummary.of(zeros), TensorSummary.of(SPREAD))
    assert fired(network(weight("a"), bias)) == []


def test_the_names_of_the_rules_are_distinct():
    names = [rule.name for rule in (*SMDEBUG_RULES, *GRADIENT_RATIO_RULES, *NOT_EVALUABLE)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform"])
def test_the_mean_absolute_value_of_smooth_distributions(draw):
    generator = np.random.default_rng(0)
    values = generator.uniform(-1, 1, 200_000) if draw == "uniform" else getattr(generator, draw)(size=200_000)
    assert mean_absolute(TensorSummary.of(values)) == pytest.approx(np.abs(values).mean(), rel=2e-3)


@pytest.mark.parametrize("edge", [1.0, np.nextafter(np.float32(1.125), np.float32(0))])
def test_the_mean_absolute_value_at_the_edges_of_a_bin(edge):
    # Two far larger bounds, |mean| and rms, cannot help: one element in a hundred is large.
    values = np.array([edge, -edge] * 50 + [100.0, -100.0])
    error = mean_absolute(TensorSummary.of(values)) / np.abs(values).mean() - 1
    assert 0.01 < abs(error) <= 1 / 16


def test_the_mean_absolute_value_of_one_sign_is_exact():
    assert mean_absolute(TensorSummary.of([1.01, 1.1, 0.0])) == pytest.approx(2.11 / 3, rel=1e-15)
    assert mean_absolute(TensorSummary.of([-1.01, -1.1])) == pytest.approx(1.055, rel=1e-15)
    assert mean_absolute(TensorSummary.of([1.01, -1.01])) == pytest.approx(1.01, rel=1e-15)


def test_no_mean_absolute_value():
    assert math.isnan(mean_absolute(TensorSummary.of([1.0, 2.0, math.nan])))
    assert math.isnan(mean_absolute(TensorSummary.of([1.0, 2.0, math.inf])))
    assert math.isnan(mean_absolute(TensorSummary.empty()))
    with pytest.raises(InputError, match="no histogram"):
        mean_absolute(dataclasses.replace(TensorSummary.of([1.0, -1.0]), histogram=None))


@pytest.mark.parametrize(
    "factor, name",
    [(1001, "exploding"), (999, None), (1, None), (1 / 999, None), (1 / 1001, "vanishing")],
)
def test_the_gradient_ratio(factor, name):
    middle = weight("b", gradient=SPREAD * 1e6)
    profile = network(weight("a", gradient=SPREAD * factor), middle, weight("c"))
    verdict = gradient_ratio_verdict(profile)
    assert gradient_ratio(profile) == pytest.approx(factor)
    assert verdict.broken == (name is not None)
    assert [rule.split()[0] for rule in verdict.rules] == [name] * verdict.broken


def test_the_gradient_ratio_is_of_norms_and_of_weights():
    # 100 times the elements, 10 times the norm.
    wide = weight("a", gradient=[1.0, -1.0], shape=(100, 10))
    bias = Parameter("b.bias", (2,), TensorSummary.of([0.0, 0.0]), TensorSummary.of([1e9, 1e9]))
    assert gradient_ratio(network(wide, weight("b", gradient=[1.0, -1.0], shape=(10, 1)), bias)) == pytest.approx(10)


@pytest.mark.parametrize(
    "first, last, ratio, broken",
    [
        ([0.0], [1.0], 0, True),
        ([0.0], [0.0], 0, True),
        ([1.0], [0.0], math.inf, True),
        ([math.nan], [1.0], math.inf, True),
        ([1.0], [math.inf], math.inf, True),
        ([1.0], None, math.nan, False),
    ],
)
def test_the_gradient_ratio_at_its_limits(first, last, ratio, broken):
    profile = network(weight("a", gradient=first), weight("b", gradient=last))
    assert gradient_ratio(profile) == pytest.approx(ratio, nan_ok=True)
    assert gradient_ratio_verdict(profile).broken == broken
