"""Several seeds as one network: second moments, sums and averages."""

import dataclasses
import math

import numpy as np
import pytest
from result_records import layered, with_gradient

from propscope.errors import InputError
from propscope.results import ProfileSet
from propscope.results.pooling import pooled

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
    with pytest.raises(InputError, match="profiles with different sites cannot be taken together"):
        pooled(ProfileSet.of([layered([1.0]), layered([1.0, 2.0])]))
    with pytest.raises(InputError, match="no profiles to take together"):
        pooled(ProfileSet(()))


def test_the_members_are_not_changed():
    profile = layered([1.0], seed=0)
    before = dataclasses.replace(profile)
    pooled(ProfileSet((profile, profile)))
    assert profile == before
