"""Several seeds as one network: second moments, sums and averages."""

import dataclasses
import math

import numpy as np
import pytest
from building.records import layered, plain, small_profile, with_gradient

from propscope.errors import InputError
from propscope.records import Expected, ProfileSet, TensorSummary
from propscope.records.pooling import pooled, pooled_seeds

FIGURES = {"flat_fraction": 0.2, "dead_units": 1, "symmetric_units": 0, "mean_cosine": 0.5, "effective_rank": 2.0}
OTHERS = {"flat_fraction": 0.4, "dead_units": 2, "symmetric_units": 2, "mean_cosine": None, "effective_rank": 4.0}


def test_second_moments_counts_and_averages():
    one = pooled(
        ProfileSet.of(
            [
                layered([1.0, 2.0], [1.0, 1.0], figures=FIGURES, initializer="a", seed=0),
                layered([3.0, 4.0], figures=OTHERS, initializer="a", seed=1),
            ]
        )
    )
    np.testing.assert_allclose(one.signal_rms("forward"), [math.sqrt(5), math.sqrt(10)])
    first = one.sites[0]
    assert first.forward.count == 8
    assert (first.samples, first.units, first.dead_units, first.symmetric_units) == (4, 4, 3, 2)
    assert first.flat_fraction == pytest.approx(0.3)
    assert first.mean_cosine == 0.5
    assert first.effective_rank == 3.0
    assert first.backward.count == 4
    assert one.sites[1].backward is None
    assert one.sites[1].flat_fraction is None


def expectation(*members):
    profiles = ProfileSet.of(layered([1.0], expected=[member], seed=seed) for seed, member in enumerate(members))
    return pooled(profiles).sites[0].expected


def test_an_expectation_that_all_share_is_kept_to_the_last_bit():
    shared = Expected(0.1, 0.2, 0.3, 0.25, float("nan"), math.nan)
    assert expectation(shared, dataclasses.replace(shared, backward_rms=float("nan")), shared) is shared


def test_expectations_are_pooled_as_what_they_expect():
    one = expectation(
        Expected(1.0, 0.0, 1.0, 0.3, 1e200, 0.1, 0.2, -0.2, 0.1, 1.0, 0.3),
        Expected(-3.0, 4.0, 5.0, 0.4, 7e200, 0.1, 0.4, -0.4, 0.3, 7.0, 0.4),
    )
    assert one.forward_mean == -1.0
    assert one.forward_rms == pytest.approx(math.sqrt(13))
    assert math.hypot(one.forward_mean, one.forward_std) == pytest.approx(one.forward_rms)
    assert one.backward_rms == pytest.approx(5e200)
    # That of one network, not of the average.
    assert (one.forward_log_std, one.backward_log_std) == pytest.approx((math.sqrt(0.125), 0.1))
    assert (one.forward_mean_std, one.forward_std_log_std) == pytest.approx((5.0, math.sqrt(0.125)))
    assert (one.mean_cosine, one.forward_log_drift, one.backward_log_drift) == pytest.approx((0.3, -0.3, 0.2))


def test_what_no_network_expects_stays_unknown():
    assert expectation(None, None) is None
    one = expectation(None, Expected(forward_std=3.0), Expected(forward_std=4.0, backward_rms=math.inf))
    assert one.forward_std == pytest.approx(math.sqrt(12.5))
    assert one.backward_rms == math.inf
    assert math.isnan(one.forward_mean)
    assert math.isnan(one.forward_rms)


def test_jacobians_merge():
    figures = [
        {"jacobian": TensorSummary.of([1.0, 2.0]), "jacobian_condition": 2.0, "jacobian_square_variance": 1.0},
        {"jacobian": TensorSummary.of([0.0, 4.0]), "jacobian_condition": 8.0, "jacobian_square_variance": 3.0},
        {},
    ]
    site = pooled(ProfileSet.of(layered([1.0], figures=entry, seed=seed) for seed, entry in enumerate(figures))).sites[
        0
    ]
    assert (site.jacobian.count, site.jacobian.max) == (4, 4.0)
    assert site.jacobian.histogram.total == 4
    assert (site.jacobian_condition, site.jacobian_square_variance) == pytest.approx((4.0, 2.0))
    deficient = ProfileSet.of(layered([1.0], figures={"jacobian_condition": value}) for value in (2.0, math.inf))
    assert pooled(deficient).sites[0].jacobian_condition == math.inf


def test_the_largest_logit_of_several_networks_is_the_largest():
    logits = [{"largest_logit": 1.0, "attention_entropy": 1.0}, {"largest_logit": 9.0, "attention_entropy": 3.0}, {}]
    one = pooled(ProfileSet.of(layered([1.0], figures=entry, seed=seed) for seed, entry in enumerate(logits)))
    assert (one.sites[0].largest_logit, one.sites[0].attention_entropy) == (9.0, 2.0)


def test_a_network_whose_figure_is_not_a_number_is_left_out_as_after_reading_it_from_a_file():
    figures = ({"mean_cosine": math.nan, "largest_logit": math.nan}, {"mean_cosine": 0.5, "largest_logit": 2.0})
    one = pooled(ProfileSet.of(layered([1.0], figures=entry) for entry in figures))
    assert (one.sites[0].mean_cosine, one.sites[0].largest_logit) == (0.5, 2.0)


def test_what_tells_it_from_a_single_run():
    one = pooled(ProfileSet.of(layered([1.0], initializer="a", seed=seed) for seed in (3, 4, 5)))
    assert one.labels == {"initializer": "a", "networks": 3}
    assert one.provenance.seed is None
    assert (one.provenance.samples, one.provenance.batches) == (6, 3)


def test_parameters_merge_and_keep_their_norms():
    members = [with_gradient(layered([1.0], seed=0), [3.0, 4.0, 0.0, 0.0]), layered([1.0], seed=1)]
    (weight,) = pooled(ProfileSet.of(members)).parameters
    assert weight.value.count == 8
    assert weight.gradient_norm == pytest.approx(5.0)
    assert weight.symmetric_units is None


def test_one_network_is_itself():
    profile = layered([1.0], seed=0)
    assert pooled(ProfileSet((profile,))) is profile


def test_different_networks_and_none_are_refused():
    with pytest.raises(InputError, match="profiles with different sites"):
        pooled(ProfileSet.of([layered([1.0]), layered([1.0, 2.0])]))
    with pytest.raises(InputError, match="no profile"):
        pooled(ProfileSet(()))


def test_seeds_with_other_sites_are_left_out_and_named():
    seeds = [layered([1.0], seed=3), layered([1.0, 2.0], seed=4), layered([7.0], seed=5), layered([1.0, 2.0], seed=6)]
    one = pooled_seeds(ProfileSet.of(seeds))
    assert one.labels == {"networks": 2}
    np.testing.assert_allclose(one.signal_rms("forward"), [5.0])
    assert [(note.name, note.what) for note in one.coverage] == [("4", "seed"), ("6", "seed")]
    assert all("seed 3" in note.reason for note in one.coverage)


def test_the_seeds_of_one_network_pool_without_a_note():
    seeds = ProfileSet.of(layered([1.0 + seed], seed=seed) for seed in range(3))
    assert plain(pooled_seeds(seeds)) == plain(pooled(seeds))
    assert pooled_seeds(seeds).coverage == ()
    assert pooled_seeds(seeds[:1]) is seeds[0]


def test_the_members_are_not_changed():
    profile = layered([1.0], seed=0)
    before = dataclasses.replace(profile)
    pooled(ProfileSet((profile, profile)))
    assert profile == before


def test_the_mean_of_numbers_near_the_end_of_float64_is_one():
    largest = (1.5e308, 1.7e308)
    networks = (layered([1.0], activations=False, figures={"jacobian_square_variance": each}) for each in largest)
    (site,) = pooled(ProfileSet(tuple(networks))).sites
    assert site.jacobian_square_variance == pytest.approx(1.6e308)


def test_networks_with_other_parameters_are_not_pooled():
    first = small_profile()
    other = dataclasses.replace(first, parameters=())
    with pytest.raises(InputError, match="different sites or parameters"):
        pooled(ProfileSet.of([first, other]))
    (note,) = pooled_seeds(ProfileSet.of([first, other])).coverage[len(first.coverage) :]
    assert note.reason.startswith("left out")
