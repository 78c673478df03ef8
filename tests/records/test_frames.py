"""Profiles as pandas frames and xarray datasets, by value."""

import importlib.util
import math
import sys

import numpy as np
import pytest
from building.records import layered

from propscope.errors import InputError, MissingDependencyError
from propscope.records import Expected, ProfileSet, TensorSummary

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")
    for package in ("pandas", "xarray")
]


@pytest.fixture
def profiles():
    return ProfileSet.of(
        layered([scale, 2 * scale], [3.0, 4.0], figures={"mean_cosine": 0.5}, initializer=name, depth=2, seed=seed)
        for name, scale in (("a", 1.0), ("b", 10.0))
        for seed in range(2)
    )


def test_the_site_frame(profiles):
    frame = profiles.to_frame()
    assert frame.columns[:4].tolist() == ["profile", "initializer", "depth", "seed"]
    assert len(frame) == 4 * 4
    row = frame[(frame.initializer == "b") & (frame.seed == 1) & (frame.name == "layers.1.linear")].iloc[0]
    assert (row.profile, row.layer, row.forward_rms, row.backward_rms, row.forward_count) == (3, 2, 20.0, 4.0, 4)
    assert row["mean_cosine"] == 0.5
    assert math.isnan(row.flat_fraction)


def test_a_site_column_that_a_label_is_called_like_keeps_both():
    frame = ProfileSet.of([layered([1.0], activation="relu", dtype="bfloat16")]).to_frame()
    assert frame.activation.tolist() == ["relu", "relu"]
    assert frame.site_activation.tolist() == ["ReLU", ""]
    assert frame["dtype"].tolist() == ["bfloat16"] * 2


def test_the_parameter_and_profile_frames(profiles):
    parameters = profiles.to_frame("parameter")
    assert parameters.value_norm.tolist() == [5.0] * 4
    assert parameters.gradient_norm.isna().all()
    assert parameters.initializer.tolist() == ["a", "a", "b", "b"]
    whole = profiles.to_frame("profile")
    assert whole.seed.tolist() == [0, 1, 0, 1]
    assert whole["depth"].tolist() == [2] * 4
    assert whole.samples.tolist() == [2] * 4


def test_a_single_profile_has_the_frames_of_a_set_of_one(profiles):
    one, few = profiles[0], profiles[:1]
    for table in ("site", "parameter", "profile"):
        assert one.to_frame(table).equals(few.to_frame(table))
    assert one.to_xarray().identical(few.to_xarray())
    assert one.to_xarray().backward_rms.values.ravel().tolist() == [3.0, 4.0]


def test_frames_of_nothing():
    for table in ("site", "parameter", "profile"):
        assert len(ProfileSet(()).to_frame(table)) == 0


def test_an_unknown_table(profiles):
    with pytest.raises(InputError, match='table must be "profile" or "site" or "parameter", got "sites"'):
        profiles.to_frame("sites")


def test_the_dataset(profiles):
    data = profiles.to_xarray()
    assert dict(data.sizes) == {"initializer": 2, "depth": 1, "seed": 2, "layer": 2}
    assert data.initializer.values.tolist() == ["a", "b"]
    assert data.layer.values.tolist() == [1, 2]
    assert data.forward_rms.sel(initializer="b", depth=2, seed=0).values.tolist() == [10.0, 20.0]
    assert data.backward_rms.sel(initializer="a", depth=2, seed=1).values.tolist() == [3.0, 4.0]
    assert (data.mean_cosine.values == 0.5).all()
    assert np.isnan(data.flat_fraction).all()
    assert (data.forward_rms.attrs["long_name"], data.forward_rms.attrs["units"]) == ("value: root mean square", "1")
    assert data.attention_entropy.attrs["units"] == "nat"


def test_what_is_expected_stands_beside_what_was_seen():
    expected = [Expected(forward_rms=1.5, backward_log_std=0.25), None, Expected(forward_rms=2.5)]
    jacobian = {"jacobian": TensorSummary.of([3.0, 4.0]), "jacobian_condition": 8.0}
    profiles = ProfileSet.of([layered([1.0, 2.0], expected=expected, figures=jacobian, seed=0)])
    frame = profiles.to_frame()
    assert frame.expected_forward_rms.tolist() == pytest.approx([1.5, math.nan, 2.5, math.nan], nan_ok=True)
    assert frame.jacobian_max.tolist() == pytest.approx([4.0, math.nan] * 2, nan_ok=True)
    data = profiles.to_xarray()
    assert data.expected_forward_rms.sel(seed=0).values.tolist() == [1.5, 2.5]
    assert data.expected_backward_log_std.values[0, 0] == 0.25
    assert data.jacobian_max.values.tolist() == [[4.0, 4.0]]
    assert data.jacobian_rms.values[0, 0] == pytest.approx(math.sqrt(12.5))
    assert data.jacobian_condition.values.tolist() == [[8.0, 8.0]]
    assert data.expected_mean_cosine.attrs["long_name"] == "theory: mean cosine between samples"


def test_cells_and_layers_that_no_profile_has_are_nan():
    ragged = ProfileSet.of([layered([1.0, 2.0], [1.0, 1.0], depth=2, seed=0), layered([5.0], depth=1, seed=1)])
    data = ragged.to_xarray()
    assert data.forward_rms.sel(depth=1, seed=1).values.tolist() == [5.0, pytest.approx(math.nan, nan_ok=True)]
    assert np.isnan(data.forward_rms.sel(depth=1, seed=0)).all()
    assert np.isnan(data.backward_rms.sel(depth=1, seed=1)).all()


def test_a_label_that_some_lack_counts_as_empty():
    data = ProfileSet.of([layered([1.0], norm="batch"), layered([2.0])]).to_xarray()
    assert data.norm.values.tolist() == ["batch", ""]
    assert data.forward_rms.sel(norm="").values.tolist() == [2.0]


def test_two_profiles_with_the_same_labels_do_not_hide_each_other(profiles):
    with pytest.raises(InputError, match=r"two profiles have the labels \{'initializer': 'a', 'depth': 2, 'seed': 0\}"):
        (profiles + profiles[:1]).to_xarray()


def test_a_dataset_of_nothing():
    assert dict(ProfileSet(()).to_xarray().sizes) == {"layer": 0}


@pytest.mark.parametrize(("package", "call"), [("pandas", "to_frame"), ("xarray", "to_xarray")])
def test_without_the_package_the_pip_command_is_quoted(profiles, monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{call}\(\) needs {package}, which is not installed") as caught:
        getattr(profiles, call)()
    assert caught.value.hint == "pip install 'propscope[frame]'"
