"""Records as flat rows, and back without a loss."""

import dataclasses
import json
import math

import pytest
from building.records import layered, plain, with_gradient

from propscope.records import Expected, NetworkProfile, Parameter, Provenance, Site, TensorSummary
from propscope.records.figures import PARAMETER_FIELDS, PROFILE_FIELDS, SITE_FIELDS, TABLES
from propscope.records.rows import (
    parameter_from_row,
    parameter_row,
    profile_from_row,
    profile_row,
    site_from_row,
    site_row,
)


def test_every_row_has_the_columns_of_its_table():
    profile = with_gradient(layered([1.0], [2.0], seed=0), [1.0])
    assert list(site_row(profile.sites[0], 0)) == [field.name for field in SITE_FIELDS]
    assert list(parameter_row(profile.parameters[0], 0)) == [field.name for field in PARAMETER_FIELDS]
    assert list(profile_row(profile)) == [field.name for field in PROFILE_FIELDS]


def test_fields_are_of_the_kind_that_the_table_says():
    profile = with_gradient(layered([1.0], [2.0], seed=0), [1.0])
    rows = {"site": site_row(profile.sites[0], 0), "parameter": parameter_row(profile.parameters[0], 0)}
    rows["profile"] = profile_row(profile)
    types = {"int64": int, "float64": float, "text": str, "json": str}
    for table, row in rows.items():
        for field in TABLES[table]:
            assert isinstance(row[field.name], types[field.dtype]), (table, field.name)
        assert all(field.label for field in TABLES[table])
        assert len({field.name for field in TABLES[table]}) == len(TABLES[table])


FULL = Site(
    "layers.0.linear",
    "Linear",
    "pre-activation",
    (4, 2),
    dtype="bfloat16",
    layer=1,
    activation="ReLU",
    forward=TensorSummary.of([1.0, math.nan, math.inf, 0.0]),
    backward=TensorSummary.empty(),
    samples=4,
    units=2,
    dead_units=0,
    symmetric_units=2,
    flat_fraction=0.5,
    mean_cosine=-1.0,
    effective_rank=1.25,
    expected=Expected(forward_mean=0.0, forward_rms=1.5, backward_log_std=0.25),
    jacobian=TensorSummary.of([0.0, 2.0]),
    jacobian_condition=math.inf,
    jacobian_square_variance=1.0,
)


@pytest.mark.parametrize("site", [FULL, Site("", "Net", "output", ())], ids=["full", "bare"])
def test_a_site_and_back(site):
    forward = site.forward and site.forward.histogram
    backward = site.backward and site.backward.histogram
    jacobian = site.jacobian and site.jacobian.histogram
    assert plain(site_from_row(site_row(site, 7), forward, backward, jacobian)) == plain(site)


def test_what_is_missing_is_marked():
    row = site_row(Site("", "Net", "output", ()), 0)
    assert (row["layer"], row["units"], row["forward_count"], row["backward_nan_count"]) == (-1, -1, -1, -1)
    assert math.isnan(row["forward_rms"])
    assert math.isnan(row["mean_cosine"])
    # Seen, but empty, is not the same as not seen.
    assert site_row(FULL, 0)["backward_count"] == 0
    assert row["jacobian_count"] == -1
    assert math.isnan(row["expected_forward_rms"])


def test_an_expectation_is_spread_over_its_columns():
    row = site_row(FULL, 0)
    assert (row["expected_forward_mean"], row["expected_forward_rms"], row["expected_backward_log_std"]) == (
        0,
        1.5,
        0.25,
    )
    assert math.isnan(row["expected_mean_cosine"])
    assert (row["jacobian_max"], row["jacobian_condition"], row["jacobian_square_variance"]) == (2.0, math.inf, 1.0)
    fields = {f"expected_{field.name}" for field in dataclasses.fields(Expected)}
    assert fields == {name for name in row if name.startswith("expected_")}


def test_an_expectation_that_says_nothing_comes_back_as_none():
    row = site_row(dataclasses.replace(FULL, expected=Expected()), 0)
    assert site_from_row(row, None, None).expected is None


def test_the_rms_is_in_the_row_and_follows_from_the_moments():
    assert site_row(layered([3.0]).sites[0], 0)["forward_rms"] == 3.0


@pytest.mark.parametrize("gradient", [None, [3.0, -4.0]])
def test_a_parameter_and_back(gradient):
    made = Parameter(
        "w", (1, 2), TensorSummary.of([1.0, 2.0]), gradient and TensorSummary.of(gradient), symmetric_units=0
    )
    row = parameter_row(made, 3)
    assert row["index"] == 3
    assert row["value_norm"] == pytest.approx(math.sqrt(5))
    assert math.isnan(row["gradient_norm"]) if gradient is None else row["gradient_norm"] == pytest.approx(5.0)
    histogram = made.gradient and made.gradient.histogram
    assert plain(parameter_from_row(row, made.value.histogram, histogram)) == plain(made)


def test_a_profile_and_back():
    origin = Provenance(seed=3, spec='{"a": 1}', torch_version="2", wall_seconds=0.5, samples=2, histogram_limit=64)
    profile = dataclasses.replace(
        layered([1.0], initializer="he_normal", activation="relu", depth=1, width="8-4", seed=3, bias=0.5),
        provenance=origin,
    )
    row = profile_row(profile)
    assert json.loads(row["labels"])["bias"] == 0.5
    assert (row["initializer"], row["depth"], row["width"], row["seed"]) == ("he_normal", 1, "8-4", 3)
    assert plain(profile_from_row(row, profile.sites, profile.parameters)) == plain(profile)


def test_a_profile_without_labels():
    row = profile_row(NetworkProfile(()))
    assert (row["initializer"], row["depth"], row["width"], row["seed"]) == ("", -1, "", -1)
    assert profile_from_row(row, (), ()).provenance.seed is None
