from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from building.records import DATA, few_examples, of_version, plain, profile_sets, small_profile, small_set
from hypothesis import given, settings
from hypothesis import strategies as st

from propscope.errors import InputError, StoreError
from propscope.records import ProfileSet
from propscope.store import SCHEMA_VERSION, load, merge, save, table_writer


@pytest.mark.slow
@settings(few_examples, max_examples=8)
@given(st.lists(profile_sets, min_size=1, max_size=3))
def test_a_merge_is_a_sum(sets: list[ProfileSet]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{number}.h5" for number in range(len(sets))]
        for path, profiles in zip(paths, sets, strict=True):
            save(path, profiles)
        merge(paths, Path(directory) / "all.h5")
        assert plain(load(Path(directory) / "all.h5")) == plain(sum(sets, ProfileSet(())))


@pytest.mark.slow
def test_a_merged_file_is_the_file_of_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package's attribute of that name is the function.
    monkeypatch.setattr(sys.modules["propscope.store.merge"], "_BLOCK_ROWS", 5)
    save(tmp_path / "a.h5", small_set()[:2])
    save(tmp_path / "b.h5", small_set()[2:])
    save(tmp_path / "whole.h5", small_set())
    merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "merged.h5")
    with h5py.File(tmp_path / "merged.h5") as merged, h5py.File(tmp_path / "whole.h5") as whole:
        for table in whole:
            for column in whole[table]:
                same = merged[table][column][:].tobytes() == whole[table][column][:].tobytes()
                text = whole[table][column].dtype == object
                assert same or text or column == "histogram", (table, column)
    assert plain(load(tmp_path / "merged.h5")) == plain(small_set())
    assert plain(load(tmp_path / "merged.h5", seed=1, initializer="zeros")) == plain(small_set()[4:5])


def test_equal_profiles_are_all_kept(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", small_profile())
    merge([tmp_path / "a.h5"] * 3, tmp_path / "new" / "merged.h5")
    assert plain(load(tmp_path / "new" / "merged.h5")) == plain(ProfileSet((small_profile(),) * 3))


@pytest.mark.slow
def test_files_of_every_version_merge(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", small_profile())
    versions = range(1, SCHEMA_VERSION + 1)
    files = [str(tmp_path / "a.h5"), *(DATA / f"schema-{version}.h5" for version in versions)]
    merge(files, str(tmp_path / "merged.h5"))
    expected = sum(map(of_version, versions), ProfileSet((small_profile(),)))
    assert plain(load(tmp_path / "merged.h5")) == plain(expected)
    merge(files[::-1], tmp_path / "reversed.h5")
    backwards = sum(map(of_version, reversed(versions)), ProfileSet(())) + ProfileSet((small_profile(),))
    assert plain(load(tmp_path / "reversed.h5")) == plain(backwards)
    with h5py.File(tmp_path / "merged.h5") as file:
        assert file.attrs["schema_version"] == SCHEMA_VERSION
        old = slice(2, 14)
        assert np.isnan(file["site/expected_forward_rms"][old]).all()
        for column, missing in (("count", -1), ("histogram_start", -1), ("histogram_length", 0)):
            assert set(file[f"site/jacobian_{column}"][old]) == {missing}


def test_an_input_may_be_the_output(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", small_profile())
    with pytest.raises(StoreError, match="exists and is kept"):
        merge([tmp_path / "a.h5"], tmp_path / "a.h5")
    merge([tmp_path / "a.h5", tmp_path / "a.h5"], tmp_path / "a.h5", overwrite=True)
    assert len(load(tmp_path / "a.h5")) == 2


@pytest.mark.parametrize("paths", [[], "a.h5", Path("a.h5")])
def test_paths_is_a_list_of_files(tmp_path: Path, paths: Any) -> None:
    with pytest.raises(InputError, match="paths must be a list of one or more result files, got "):
        merge(paths, tmp_path / "merged.h5")
    assert os.listdir(tmp_path) == []


def test_a_bad_input_leaves_no_output(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", small_profile())
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:5000])
    with pytest.raises(StoreError, match=r"b\.h5 is truncated or damaged"):
        merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "merged.h5")
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]


def test_what_fails_in_the_output_is_not_blamed_on_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.h5", small_profile())

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_writer.TableWriter, "append", fail)
    with pytest.raises(StoreError, match=r"cannot write .*merged\.h5: No space left on device"):
        merge([tmp_path / "a.h5"], tmp_path / "merged.h5")
