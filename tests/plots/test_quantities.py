from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from building.records import constant, mlp, predicted

from propscope.plots.quantities import QUANTITIES, curve_of
from propscope.records import NetworkProfile, Site, TensorSummary
from propscope.records.interval import geometric_interval

STD, MEAN, BACKWARD, NORM = QUANTITIES


def network(*values: float, spread: float = 0.0) -> NetworkProfile:
    """A network whose activations and gradients at layer l are value_l +- spread."""
    sites: list[Site] = []
    for layer, value in enumerate(values, start=1):
        seen = TensorSummary.of(np.array([value - spread, value + spread]))
        sites += [
            Site(role, "", role, (2,), layer=layer, forward=seen, backward=seen)
            for role in ("pre-activation", "activation")
        ]
    return NetworkProfile(tuple(sites))


def test_each_quantity_reads_its_field_of_its_tensors() -> None:
    profile = mlp(depth=3)
    activations, before = profile.with_role("activation"), profile.with_role("pre-activation")
    weights = [p for p in profile.parameters if p.name.endswith(".weight")]
    expected = {
        STD: [site.forward.std for site in activations],
        MEAN: [site.forward.mean for site in activations],
        BACKWARD: [site.backward.rms for site in before],
        NORM: [weight.gradient_norm for weight in weights],
    }
    for quantity, values in expected.items():
        curve = curve_of("he", quantity, [quantity.series(profile)])
        assert curve.center == pytest.approx(values)
        np.testing.assert_array_equal(curve.positions, [1, 2, 3])
        assert np.isnan(curve.low).all()
        assert quantity.field.label
    assert [quantity.field.name for quantity in QUANTITIES] == ["std", "mean", "rms", "gradient_norm"]


def test_symbols_are_those_of_the_table_with_the_tensor_put_in() -> None:
    assert [quantity.symbol for quantity in QUANTITIES] == [
        r"\sigma(h)",
        r"\langle h \rangle",
        r"\mathrm{rms}(\partial L/\partial z)",
        r"\|\partial L/\partial W\|",
    ]


def test_magnitudes_are_averaged_on_logarithms_over_seeds() -> None:
    seeds = [network(0.0, spread=spread) for spread in (1.0, 10.0, 100.0)]
    curve = curve_of("a", STD, [STD.series(seed) for seed in seeds])
    interval = geometric_interval([1.0, 10.0, 100.0])
    assert curve.profiles == 3
    assert (curve.center[0], curve.low[0], curve.high[0]) == pytest.approx((10.0, interval.low, interval.high))


def test_the_mean_is_averaged_as_it_is() -> None:
    curve = curve_of("a", MEAN, [MEAN.series(network(value)) for value in (-1.0, 0.0, 4.0)])
    # Student: t(0.975, 2) = 4.3027, standard deviation sqrt(7).
    assert curve.center[0] == pytest.approx(1.0)
    assert curve.high[0] - 1 == pytest.approx(4.302653 * math.sqrt(7 / 3), rel=1e-6)
    assert not curve.vanished.any()


def test_zeros_and_overflows_are_counted_and_never_missing() -> None:
    seeds = [network(1.0, 0.0, 0.0), network(1.0, 1.0, 0.0), network(1.0, 1.0, math.inf)]
    curve = curve_of("a", BACKWARD, [BACKWARD.series(seed) for seed in seeds])
    np.testing.assert_array_equal(curve.vanished, [0, 1, 2])
    np.testing.assert_array_equal(curve.nonfinite, [0, 0, 1])
    np.testing.assert_array_equal(curve.center, [1.0, 0.0, np.inf])


def test_nan_elements_make_a_layer_not_finite_however_few() -> None:
    summary = TensorSummary.of(np.array([1.0] * 99 + [np.nan]))
    profile = NetworkProfile((Site("a", "", "activation", (1,), layer=1, forward=summary),))
    assert STD.values(STD.series(profile)) == [math.inf]


def test_what_is_expected_of_each_quantity() -> None:
    profile = predicted(mlp(depth=3), times=2.0, log_std=0.5)
    for quantity in (STD, MEAN, BACKWARD):
        curve = curve_of("he", quantity, [quantity.series(profile)])
        assert curve.expected == pytest.approx(2 * curve.center)
        if quantity is MEAN:
            # A mean may be 0 and have either sign: what networks scatter by is added.
            assert curve.expected_high - curve.expected == pytest.approx(0.98 * np.abs(curve.expected))
            assert curve.expected - curve.expected_low == pytest.approx(0.98 * np.abs(curve.expected))
            continue
        assert curve.expected_low == pytest.approx(curve.expected * math.exp(-0.98))
        assert curve.expected_high == pytest.approx(curve.expected * math.exp(0.98))
    norm = curve_of("he", NORM, [NORM.series(profile)])
    assert np.isnan([norm.expected, norm.expected_low, norm.expected_high]).all()


def test_the_band_lies_about_the_drift_and_not_about_the_prediction() -> None:
    profile = predicted(mlp(depth=3), log_std=0.5)
    sites = tuple(
        replace(site, expected=replace(site.expected, backward_log_drift=-0.3, forward_log_drift=0.2))
        for site in profile.sites
    )
    for quantity, drift in ((BACKWARD, -0.3), (STD, 0.2)):
        curve = curve_of("he", quantity, [quantity.series(replace(profile, sites=sites))])
        assert curve.expected == pytest.approx(curve.center)
        assert np.log(curve.expected_low / curve.expected) == pytest.approx([drift - 0.98] * 3)
        assert np.log(curve.expected_high / curve.expected) == pytest.approx([drift + 0.98] * 3)


def test_expectations_are_averaged_over_seeds_as_the_values_are() -> None:
    seeds = [predicted(network(value), times=times) for value, times in ((1.0, 2.0), (1.0, 8.0))] + [network(1.0)]
    assert curve_of("a", BACKWARD, [BACKWARD.series(seed) for seed in seeds]).expected == pytest.approx([4.0])
    assert curve_of("a", MEAN, [MEAN.series(seed) for seed in seeds]).expected == pytest.approx([5.0])
    nothing = curve_of("a", BACKWARD, [BACKWARD.series(network(1.0))])
    assert np.isnan([nothing.expected, nothing.expected_low, nothing.expected_high]).all()


def test_a_place_on_the_axis() -> None:
    values = np.array([-1.0, 0.0, 1.0, math.inf, math.nan])
    assert STD.drawable(values).tolist() == [False, False, True, False, False]
    assert MEAN.drawable(values).tolist() == [True, True, True, False, False]


def test_what_was_not_seen_is_nan() -> None:
    profile = mlp(depth=2, backward=False)
    assert np.isnan(BACKWARD.values(BACKWARD.series(profile))).all()
    assert np.isnan(NORM.values(NORM.series(profile))).all()
    empty = NetworkProfile((Site("a", "", "activation", (0,), layer=1, forward=TensorSummary.empty()),))
    assert np.isnan(STD.values(STD.series(empty))).all()


def test_networks_of_different_depth_share_the_union_of_positions() -> None:
    curve = curve_of("a", BACKWARD, [BACKWARD.series(constant(1.0, depth=depth)) for depth in (1, 3)])
    np.testing.assert_array_equal(curve.positions, [1, 2, 3])
    np.testing.assert_array_equal(curve.center, [1, 1, 1])
