"""Records as flat rows, and back without a loss."""

import dataclasses
import json
import math

import numpy as np
import pytest
from building.records import layered, plain, with_gradient

from propscope.records import Expected, NetworkProfile, Parameter, Provenance, Site, TensorSummary
from propscope.records.figures import PARAMETER_FIELDS, PROFILE_FIELDS, SITE_FIELDS, SUMMARIES, TABLES
from propscope.records.rows import (
    Arrays,
    Row,
    parameter_row,
    parameters_of,
    profile_row,
    profiles_of,
    site_row,
    sites_of,
)


def columns(*rows: Row) -> Arrays:
    def column(values: list) -> np.ndarray:
        return np.array(values, object if isinstance(values[0], str) else None)

    return {name: column([row[name] for row in rows]) for name in rows[0]}


def histograms(*records, parts):
    def of(record, part):
        summary = getattr(record, part)
        return summary and summary.histogram

    return {part: [of(record, part) for record in records] for part in parts}


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


BARE = Site("", "Net", "output", ())


@pytest.mark.parametrize("sites", [[FULL], [BARE], [FULL, BARE], [BARE, FULL, BARE]], ids=len)
def test_sites_and_back(sites):
    rows = [site_row(site, 7) for site in sites]
    found = sites_of(columns(*rows), len(rows), histograms(*sites, parts=SUMMARIES["site"]))
    assert plain(found) == plain(sites)


def test_a_column_that_is_not_given_leaves_its_field_at_the_default():
    left_out = {"units", "jacobian_condition", *(name for name in site_row(FULL, 0) if name.startswith("jacobian_"))}
    arrays = {name: column for name, column in columns(site_row(FULL, 0)).items() if name not in left_out}
    bare = dataclasses.replace(FULL, units=None, jacobian=None, jacobian_condition=None, jacobian_square_variance=None)
    found = sites_of(arrays, 1, histograms(FULL, parts=("forward", "backward")))
    assert plain(found) == plain([bare])


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
    assert sites_of(columns(row), 1, {})[0].expected is None


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
    found = parameters_of(columns(row), 1, histograms(made, parts=SUMMARIES["parameter"]))
    assert plain(found) == plain([made])


def test_a_parameter_without_a_value_has_an_empty_one():
    row = parameter_row(Parameter("w", (1, 2), TensorSummary.of([1.0, 2.0])), 0)
    missing = {name: -1 if isinstance(row[name], int) else math.nan for name in row if name.startswith("value_")}
    assert plain(parameters_of(columns(row | missing), 1, {})[0].value) == plain(TensorSummary.empty())


def test_a_profile_and_back():
    origin = Provenance(seed=3, spec='{"a": 1}', torch_version="2", wall_seconds=0.5, samples=2, histogram_limit=64)
    profile = dataclasses.replace(
        layered([1.0], initializer="he_normal", activation="relu", depth=1, width="8-4", seed=3, bias=0.5),
        provenance=origin,
    )
    row = profile_row(profile)
    assert json.loads(row["labels"])["bias"] == 0.5
    assert (row["initializer"], row["depth"], row["width"], row["seed"]) == ("he_normal", 1, "8-4", 3)
    assert plain(profiles_of(columns(row), [profile.sites], [profile.parameters])) == plain([profile])


def test_a_profile_without_labels():
    row = profile_row(NetworkProfile(()))
    assert (row["initializer"], row["depth"], row["width"], row["seed"]) == ("", -1, "", -1)
    assert profiles_of(columns(row), [()], [()])[0].provenance.seed is None


def test_profiles_that_are_alike_share_no_labels():
    row = profile_row(layered([1.0], initializer="he_normal"))
    one, other = profiles_of(columns(row, row), [(), ()], [(), ()])
    assert one.labels == other.labels
    assert one.labels is not other.labels


def test_equal_values_of_other_types_are_written_as_what_they_are():
    shapes = [(1, 0), (1.0, 0.0), (True, False), (1, 0)]
    written = [site_row(Site("a", "Linear", "other", shape), 0)["shape"] for shape in shapes]
    assert written == ["[1, 0]", "[1.0, 0.0]", "[true, false]", "[1, 0]"]
