"""What was measured against what theory expects, by value."""

import dataclasses
import math

import pytest
from building.records import layered, signal

from propscope.records import Expected, NetworkProfile, Site
from propscope.records.expectations import (
    Deviation,
    deviation,
    end_to_end,
    expected_factor,
    mean_deviation,
    reason_without_theory,
    second_moment_ratios,
    seed_band,
    theory_note,
    without_theory,
)

nan, inf = math.nan, math.inf


def same(found, ratio, sd):
    assert (found.ratio, found.sd) == pytest.approx((ratio, sd), nan_ok=True)


def site(rms, expected, log_std=0.5):
    return layered([rms], [rms], expected=[Expected(forward_rms=expected, forward_log_std=log_std)]).sites[0]


@pytest.mark.parametrize(
    ("rms", "expected", "log_std", "ratio", "sd"),
    [
        (2.0, 2.0, 0.5, 1.0, 0.0),
        (2.0 * math.e, 2.0, 0.5, math.e, 2.0),
        (2.0 / math.e, 2.0, 0.5, 1 / math.e, -2.0),
        (2.0, 1.0, nan, 2.0, nan),
        (2.0, 2.0, nan, 1.0, nan),
        (2.0, 1.0, 0.0, 2.0, inf),
        (2.0, 2.0, 0.0, 1.0, 0.0),
        (0.0, 2.0, 0.5, 0.0, -inf),
        (0.0, 0.0, 0.5, 1.0, 0.0),
        (2.0, 0.0, 0.5, inf, inf),
        (inf, 2.0, 0.5, inf, inf),
        (nan, 2.0, 0.5, inf, inf),
        (inf, inf, 0.5, 1.0, 0.0),
        (2.0, inf, 0.5, 0.0, -inf),
        (2.0, nan, 0.5, nan, nan),
        (None, 2.0, 0.5, nan, nan),
    ],
)
def test_a_site_against_theory(rms, expected, log_std, ratio, sd):
    same(deviation(site(rms, expected, log_std), "forward"), ratio, sd)


@pytest.mark.parametrize(("rms", "ratio", "sd"), [(2.0, 1.0, 0.5), (2.0 * math.exp(-0.25), math.exp(-0.25), 0.0)])
def test_the_drift_of_a_finite_width_is_no_deviation(rms, ratio, sd):
    expected = Expected(forward_rms=2.0, forward_log_std=0.5, forward_log_drift=-0.25)
    same(deviation(layered([rms], [rms], expected=[expected]).sites[0], "forward"), ratio, sd)


def test_numbers_at_the_ends_of_the_range_do_not_overflow():
    found = deviation(site(1e150, 1e-200), "forward")
    assert found.ratio == inf
    assert found.sd == pytest.approx(350 * math.log(10) / 0.5)


def test_the_directions_are_apart_and_no_expectation_gives_nan():
    one = site(3.0, 3.0)
    same(deviation(one, "backward"), nan, nan)
    same(deviation(dataclasses.replace(one, expected=None), "forward"), nan, nan)
    both = dataclasses.replace(one, expected=Expected(forward_rms=1.0, backward_rms=6.0, backward_log_std=math.log(2)))
    same(deviation(both, "backward"), 0.5, -1.0)


def test_several_networks_are_averaged_on_logarithms():
    same(mean_deviation([Deviation(2.0, 1.0), Deviation(8.0, 4.0), Deviation()]), 4.0, 2.5)
    same(mean_deviation([Deviation(2.0), Deviation(0.5, -1.0)]), 1.0, -1.0)
    same(mean_deviation([Deviation(0.0, -inf), Deviation(2.0, 1.0)]), 0.0, -inf)
    same(mean_deviation([Deviation(0.0, -inf), Deviation(inf, inf)]), nan, nan)
    same(mean_deviation([]), nan, nan)


def test_the_end_of_the_way_is_the_last_layer_forward_and_the_first_backward():
    expected = [
        Expected(forward_rms=1.0, backward_rms=2.0, backward_log_std=1.0),
        None,
        Expected(forward_rms=4.0, backward_rms=8.0),
    ]
    profile = layered([1.0, 2.0], [2.0 * math.e, 8.0], expected=expected)
    same(end_to_end(profile, "forward"), 0.5, nan)
    same(end_to_end(profile, "backward"), math.e, 1.0)
    same(end_to_end(NetworkProfile(()), "forward"), nan, nan)


def test_the_expected_factor_is_between_the_ends_of_the_way():
    expected = [Expected(forward_rms=2.0, backward_rms=6.0), None, Expected(forward_rms=8.0, backward_rms=2.0)]
    profile = layered([1.0, 1.0], expected=expected)
    assert (expected_factor(profile, "forward"), expected_factor(profile, "backward")) == (4.0, 3.0)
    assert math.isnan(expected_factor(layered([1.0, 1.0], expected=expected[:1]), "forward"))
    assert math.isnan(expected_factor(NetworkProfile(()), "forward"))


def test_the_band_holds_95_percent_of_networks():
    low, high = seed_band([2.0, 0.0, 1e300, 1.0], [0.5, 0.5, 1e3, nan])
    assert low.tolist() == pytest.approx([2 * math.exp(-0.98), 0.0, 0.0, nan], nan_ok=True)
    assert high.tolist() == pytest.approx([2 * math.exp(0.98), 0.0, inf, nan], nan_ok=True)
    low, high = seed_band([2.0, 2.0], [0.5, 0.5], [-0.25, nan])
    assert low.tolist() == pytest.approx([2 * math.exp(-1.23), 2 * math.exp(-0.98)])
    assert high.tolist() == pytest.approx([2 * math.exp(0.73), 2 * math.exp(0.98)])


def test_the_mean_square_of_an_activation_over_that_of_its_pre_activation():
    expected = [Expected(forward_rms=2.0), Expected(forward_rms=math.sqrt(2.0))]
    ratios = second_moment_ratios(layered([1.0, 2.0], expected=expected))
    assert list(ratios) == [1, 3]
    assert (ratios[1].measured, ratios[1].expected) == pytest.approx((0.25, 0.5))
    assert ratios[3].measured == 0.25
    assert math.isnan(ratios[3].expected)


@pytest.mark.parametrize("rms", [0.0, inf, nan, None])
def test_no_ratio_of_what_has_none(rms):
    assert math.isnan(second_moment_ratios(layered([rms]))[1].measured)


def test_the_ratio_of_small_numbers_does_not_underflow():
    assert second_moment_ratios(layered([1e-200]))[1].measured == pytest.approx(0.25)


def test_only_an_activation_right_behind_its_pre_activation_has_a_ratio():
    before = Site("a", "Linear", "pre-activation", (2, 2), forward=signal(1.0))
    after = Site("b", "ReLU", "activation", (2, 2), forward=signal(0.5))
    between = Site("c", "Dropout", "other", (2, 2), forward=signal(1.0))
    pooled = dataclasses.replace(after, shape=(2, 1))
    assert list(second_moment_ratios(NetworkProfile((before, after)))) == [1]
    for sites in [(before, between, after), (between, after), (before, pooled), (after,), ()]:
        assert not second_moment_ratios(NetworkProfile(sites))


def without(reason):
    profile = layered([1.0])
    return dataclasses.replace(profile, coverage=(theory_note(reason),)) if reason else profile


def test_why_theory_says_nothing():
    assert reason_without_theory(without("no variance")) == "no variance"
    assert reason_without_theory(layered([1.0])) == ""


def grid(*entries):
    return [
        ({"initializer": initializer, "activation": activation, "seed": seed}, reason)
        for initializer, activation, reason in entries
        for seed in range(2)
    ]


def test_a_reason_names_whom_it_is_true_of_in_few_words():
    assert without_theory(grid(("zeros", "relu", "A"), ("ones", "relu", "A"), ("he", "relu", ""))) == (
        "no theory for zeros, ones: A",
    )
    everywhere = grid(("zeros", "relu", "A"), ("zeros", "tanh", "A"), ("he", "relu", ""), ("he", "tanh", "B"))
    assert without_theory(everywhere) == ("no theory for zeros: A", "no theory for he with tanh: B")
    activation = grid(("a", "relu", ""), ("a", "prelu", "A"), ("b", "relu", ""), ("b", "prelu", "A"))
    assert without_theory(activation) == ("no theory for prelu: A",)
    assert without_theory(grid(("he", "relu", ""))) == ()
    assert without_theory([({}, "A")]) == ("no theory for model: A",)


def test_a_scatter_without_limit_leaves_no_distance_in_standard_deviations():
    (site,) = layered([0.0], activations=False, expected=[Expected(forward_rms=1.0, forward_log_std=math.inf)]).sites
    found = deviation(site, "forward")
    assert found.ratio == 0
    assert math.isnan(found.sd)
