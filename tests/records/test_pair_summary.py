"""PairSummary: what several seeds say together, by hand."""

import dataclasses
import math

import pytest
from building.records import layered

from propscope.records import Expected, NetworkProfile, ProfileSet
from propscope.records.expectations import theory_note
from propscope.records.pair_summary import summarize_pairs


def summary_of(*profiles):
    (pair,) = summarize_pairs(ProfileSet.of(profiles))
    return pair


def test_factors_are_geometric_over_seeds_and_gains_are_their_roots():
    pair = summary_of(
        layered([1.0, 1.0, 4.0], [8.0, 1.0, 1.0], initializer="a", seed=0),
        layered([1.0, 9.0, 16.0], [2.0, 1.0, 1.0], initializer="a", seed=1),
    )
    assert (pair.labels, pair.seeds, pair.layers) == ({"initializer": "a"}, 2, 3)
    assert pair.forward_factor.center == pytest.approx(8.0)
    assert pair.forward_gain.center == pytest.approx(math.sqrt(8))
    assert pair.backward_factor.center == pytest.approx(4.0)
    assert pair.backward_gain.center == pytest.approx(2.0)
    assert pair.forward_gain.low == pytest.approx(math.sqrt(pair.forward_factor.low))
    assert pair.forward_factor.count == 2


def test_stds_are_of_the_first_and_last_activation():
    pair = summary_of(layered([2.0, 6.0, 8.0], seed=0), layered([2.0, 6.0, 32.0], seed=1))
    assert pair.first_std == pytest.approx(1.0)
    assert pair.last_std == pytest.approx(8.0)
    without = summary_of(layered([2.0, 8.0], activations=False))
    assert (without.first_std, without.last_std) == pytest.approx((2.0, 8.0))


def test_how_pairs_compare_with_theory():
    expected = [Expected(backward_rms=4.0), None, Expected(forward_rms=1.0, forward_log_std=math.log(2))]
    pair = summary_of(*(layered([1.0, last], [1.0, 1.0], expected=expected, seed=last) for last in (2.0, 8.0)))
    assert (pair.forward_deviation.ratio, pair.forward_deviation.sd) == pytest.approx((4.0, 2.0))
    assert pair.backward_deviation.ratio == 0.25
    assert math.isnan(pair.backward_deviation.sd)
    assert pair.no_theory == ""
    zeros = dataclasses.replace(layered([1.0]), coverage=(theory_note("no variance"),))
    assert summary_of(zeros).no_theory == "no variance"
    assert math.isnan(summary_of(zeros).forward_deviation.ratio)


def test_shares_and_cosines():
    figures = {"flat_fraction": 0.25, "dead_units": 1, "mean_cosine": 0.5}
    other = {"flat_fraction": 0.75, "dead_units": 2, "mean_cosine": 0.9}
    pair = summary_of(
        layered([1.0, 1.0], figures=figures, seed=0),
        layered([1.0, 1.0], figures=other, seed=1),
    )
    assert pair.flat_fraction == pytest.approx(0.5)
    assert pair.dead_fraction == pytest.approx(6 / 8)
    assert pair.mean_cosine == pytest.approx(0.7)


def test_what_was_not_recorded_is_none():
    pair = summary_of(layered([1.0, 1.0]))
    assert pair.flat_fraction is pair.dead_fraction is pair.mean_cosine is None
    assert math.isnan(pair.backward_factor.center)
    assert pair.forward_factor.count == 1
    assert math.isnan(pair.forward_factor.low)


def test_a_cosine_of_nan_is_left_out():
    pair = summary_of(
        layered([1.0], figures={"mean_cosine": math.nan}, seed=0), layered([1.0], figures={"mean_cosine": 0.5}, seed=1)
    )
    assert pair.mean_cosine == 0.5


def test_an_overflow_in_one_seed_shows():
    pair = summary_of(layered([1.0, 1.0], seed=0), layered([1.0, math.inf], activations=False, seed=1))
    assert pair.forward_factor.center == math.inf
    assert pair.nonfinite_count == 2


def test_one_layer_and_none():
    assert summary_of(layered([3.0], [2.0])).forward_gain.center == 1.0
    assert summary_of(layered([3.0], [2.0])).layers == 1
    nothing = summary_of(NetworkProfile(()))
    assert nothing.layers == 0
    assert math.isnan(nothing.forward_factor.center)
    assert math.isnan(nothing.first_std)
    assert summarize_pairs(ProfileSet(())) == ()


def test_pairs_keep_the_order_of_the_set():
    profiles = [layered([1.0], initializer=name, seed=seed) for seed in range(2) for name in ("zeros", "he", "a")]
    pairs = summarize_pairs(ProfileSet.of(profiles))
    assert [pair.labels["initializer"] for pair in pairs] == ["zeros", "he", "a"]
    assert [pair.seeds for pair in pairs] == [2, 2, 2]
