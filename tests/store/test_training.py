"""Training runs in a file: every bit survives, beside profiles of no run, in batches, after merges and selections."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from building.records import (
    DATA,
    few_examples,
    file_of,
    plain,
    profile_sets,
    small_profile,
    small_run,
    small_set,
    small_training,
    training_sets,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from propscope.errors import InputError, StoreError
from propscope.records import ProfileSet, TrainingSet
from propscope.store import load, load_profiles, merge, read, save, write


@pytest.mark.slow
@settings(few_examples, max_examples=15)
@given(training_sets)
def test_every_field_of_a_run_survives(runs: TrainingSet) -> None:
    with tempfile.TemporaryDirectory() as directory:
        save(Path(directory) / "run.h5", runs)
        assert plain(load(Path(directory) / "run.h5")) == plain(runs)


@pytest.mark.slow
@settings(few_examples, max_examples=8)
@given(st.lists(training_sets | profile_sets, min_size=1, max_size=3))
def test_a_merge_keeps_runs_and_profiles_apart(sets: list[TrainingSet | ProfileSet]) -> None:
    runs = sum((one for one in sets if isinstance(one, TrainingSet)), TrainingSet(()))
    profiles = sum((one for one in sets if isinstance(one, ProfileSet)), ProfileSet(()))
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{number}.h5" for number in range(len(sets))]
        for path, one in zip(paths, sets, strict=True):
            save(path, one)
        merged = Path(directory) / "all.h5"
        merge(paths, merged)
        training = any(isinstance(one, TrainingSet) for one in sets)
        assert plain(load(merged)) == plain(runs if training else profiles)
        assert plain(load_profiles(merged)) == plain(profiles)


def test_a_run_alone_and_no_run_at_all(tmp_path: Path) -> None:
    save(tmp_path / "one.h5", small_run())
    assert plain(load(tmp_path / "one.h5")) == plain(TrainingSet((small_run(),)))
    save(tmp_path / "none.h5", TrainingSet(()))
    assert load(tmp_path / "none.h5") == TrainingSet(())
    merge([tmp_path / "none.h5", tmp_path / "none.h5"], tmp_path / "merged.h5")
    assert load(tmp_path / "merged.h5") == TrainingSet(())
    assert load_profiles(tmp_path / "one.h5") == ProfileSet(())


def test_profiles_of_runs_point_to_their_epoch(tmp_path: Path) -> None:
    save(tmp_path / "profiles.h5", small_profile())
    save(tmp_path / "runs.h5", small_training())
    merge([tmp_path / "profiles.h5", tmp_path / "runs.h5", tmp_path / "runs.h5"], tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["profile/run"][:].tolist() == [-1, *np.repeat(range(5), 2), *np.repeat(range(6, 11), 2)]
        moments = file["profile/epoch"][1:]
        assert file["epoch/number"][:][moments].tolist() == [0, 2] * 10
        assert file["epoch/run"][:][moments].tolist() == file["profile/run"][1:].tolist()
        assert file["epoch/train_loss"][:][moments][:2].tolist() == [1.0, 0.25]


@pytest.mark.slow
def test_batches_of_runs_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "whole.h5", small_training())
    monkeypatch.setattr(write, "_BATCH", 3)
    monkeypatch.setattr(read, "_BATCH", 3)
    save(tmp_path / "parts.h5", small_training())
    assert plain(load(tmp_path / "parts.h5")) == plain(load(tmp_path / "whole.h5")) == plain(small_training())
    found = load(tmp_path / "parts.h5", seed=[1, 2])
    assert plain(found) == plain(small_training().subset(seed=[1, 2]))


@pytest.mark.slow
def test_labels_select_runs(tmp_path: Path) -> None:
    save(tmp_path / "runs.h5", small_training())
    save(tmp_path / "profiles.h5", small_set())
    merge([tmp_path / "runs.h5", tmp_path / "profiles.h5", tmp_path / "runs.h5"], tmp_path / "run.h5")
    both = small_training() + small_training()
    for labels in ({"initializer": "zeros"}, {"seed": 1, "optimizer": "sgd"}, {"seed": range(2)}):
        assert plain(load(tmp_path / "run.h5", **labels)) == plain(both.subset(**labels))
    # Those within runs have these labels too.
    assert plain(load_profiles(tmp_path / "run.h5", initializer="zeros")) == plain(small_set()[3:])
    with pytest.raises(InputError, match=r"no run in .* has a label \"lr\"; the labels are activation, depth, initi"):
        load(tmp_path / "run.h5", lr=0.1)
    with pytest.raises(InputError, match=r"no run in .* has seed 7; there are seed 0, 1, 2$"):
        load(tmp_path / "run.h5", seed=7)
    with pytest.raises(InputError, match=r"no profile in .* has a label \"optimizer\""):
        load_profiles(tmp_path / "run.h5", optimizer="sgd")


def test_numpy_numbers_in_a_run_are_stored(tmp_path: Path) -> None:
    run = small_run()
    object.__setattr__(run, "rows", (np.int64(7), np.int64(1)))
    object.__setattr__(run, "steps_to_target", np.int64(3))
    save(tmp_path / "run.h5", run)
    (found,) = load(tmp_path / "run.h5")
    assert (found.rows, found.steps_to_target) == ((7, 1), 3)


def test_a_label_that_no_column_can_hold_is_refused(tmp_path: Path) -> None:
    run = small_run()
    object.__setattr__(run, "labels", {"net": b"bytes"})
    with pytest.raises(InputError, match=r"labels \{'net': b'bytes'\} cannot be stored"):
        save(tmp_path / "run.h5", run)
    assert os.listdir(tmp_path) == []


def test_the_file_with_runs_of_version_2_stays_readable(tmp_path: Path) -> None:
    assert plain(load(DATA / "schema-2-training.h5")) == plain(small_training())
    merge([DATA / "schema-1.h5", DATA / "schema-2-training.h5", DATA / "schema-2.h5"], tmp_path / "all.h5")
    assert plain(load(tmp_path / "all.h5")) == plain(small_training())
    assert len(load_profiles(tmp_path / "all.h5")) == 8


def test_a_truncated_file_of_runs_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    save(path, small_training())
    whole = path.read_bytes()
    for length in [*range(200, len(whole), 4001), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match="is truncated or damaged: "):
            load(path)


def _set_first(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(opened: h5py.File) -> None:
        opened[name][0] = value

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda opened: opened.pop("epoch"), "table epoch is missing"),
        (lambda opened: opened["profile"].pop("run"), "column profile/run is missing"),
        (lambda opened: opened["run"].pop("task"), "column run/task is missing"),
        (_set_first("run/labels", "[]"), "table run, row 0, column labels: must be one JSON object, got '[]'"),
        (_set_first("run/epoch_count", 4), "rows of table epoch for run 0 belong to another run"),
        (_set_first("run/epoch_count", 0), "the profiles or epochs of run 0 are incomplete"),
        (_set_first("run/profile_count", 3), "the profiles or epochs of run 0 are incomplete"),
        (_set_first("profile/run", 1), "the profiles or epochs of run 0 are incomplete"),
        (_set_first("profile/epoch", 17), "profiles must be of epochs from 0 to 2 in ascending order, got [17, 2]"),
        (_set_first("run/rows", "[7]"), "got 1, 2 and 2 values"),
    ],
)
def test_a_damaged_run_says_what_is_wrong(tmp_path: Path, change: Callable[[h5py.File], Any], cause: str) -> None:
    (tmp_path / "run.h5").write_bytes(file_of(small_training))
    with h5py.File(tmp_path / "run.h5", "r+") as opened:
        change(opened)
    with pytest.raises(StoreError) as caught:
        load(tmp_path / "run.h5")
    assert str(caught.value).startswith(f"{tmp_path / 'run.h5'} is truncated or damaged: ")
    assert cause in str(caught.value)
