from __future__ import annotations

import dataclasses
import errno
import io
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from building.records import few_examples, plain, profile_sets, small_profile, small_set
from hypothesis import given

from propscope.errors import InputError, StoreError
from propscope.records import LogHistogram, NetworkProfile, ProfileSet, Provenance, Site, TensorSummary, rows
from propscope.store import SCHEMA_VERSION, atomic, check_target, load, merge, read, save, write


@pytest.mark.slow
@few_examples
@given(profile_sets)
def test_every_field_survives(profiles: ProfileSet) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run.h5"
        save(path, profiles)
        assert plain(load(path)) == plain(profiles)
        assert os.listdir(directory) == ["run.h5"]


def test_no_direction_no_histogram_and_an_empty_one_are_three_things(tmp_path: Path) -> None:
    save(tmp_path / "run.h5", small_profile())
    linear, activation = load(tmp_path / "run.h5")[0].sites
    assert linear.backward is None
    assert activation.forward is not None
    assert activation.forward.histogram is None
    assert activation.backward is not None
    assert activation.backward.histogram is not None
    assert activation.backward.histogram.total == 0
    assert activation.backward.count == 0
    assert np.isnan(activation.backward.mean)


@pytest.mark.parametrize("profiles", [ProfileSet(()), NetworkProfile(())], ids=["no profile", "no site"])
def test_the_empty_cases_are_valid_files(tmp_path: Path, profiles: Any) -> None:
    save(tmp_path / "run.h5", profiles)
    expected = profiles if isinstance(profiles, ProfileSet) else ProfileSet((profiles,))
    assert plain(load(tmp_path / "run.h5")) == plain(expected)


def test_batches_of_profiles_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "whole.h5", small_set())
    monkeypatch.setattr(write, "_BATCH", 4)
    monkeypatch.setattr(read, "_BATCH", 5)
    save(tmp_path / "parts.h5", small_set())
    assert plain(load(tmp_path / "parts.h5")) == plain(load(tmp_path / "whole.h5")) == plain(small_set())
    with h5py.File(tmp_path / "parts.h5") as parts, h5py.File(tmp_path / "whole.h5") as whole:
        assert parts["site/forward_histogram_start"][:].tolist() == whole["site/forward_histogram_start"][:].tolist()


def test_the_root_attributes_say_what_it_is(tmp_path: Path) -> None:
    save(tmp_path / "run.h5", small_profile())
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["format"] == "propscope"
        assert file.attrs["schema_version"] == SCHEMA_VERSION
        assert file.attrs["propscope_version"] == "0.1.0"
        assert file.attrs["created"].endswith("+00:00")


def test_columns_are_compressed_chunked_and_unlimited(tmp_path: Path) -> None:
    save(tmp_path / "run.h5", small_profile())
    with h5py.File(tmp_path / "run.h5") as file:
        for name in ("profile/labels", "site/forward_rms", "parameter/value_count", "histogram/bin"):
            column = file[name]
            assert (column.maxshape, column.compression, column.shuffle) == ((None,), "gzip", True), name
            assert column.chunks[0] >= 1024


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (
            [small_profile()],
            "profiles must be a NetworkProfile, ProfileSet, TrainingRun or TrainingSet, got a list",
        ),
        (
            NetworkProfile((Site("a\0b", "Linear", "other", ()),)),
            r'column site/name must be text of valid Unicode without NUL, got "a\x00b"',
        ),
        (
            NetworkProfile((Site("ok", "\ud800", "other", ()),)),
            r'column site/kind must be text of valid Unicode without NUL, got "\ud800"',
        ),
        (
            NetworkProfile((), provenance=Provenance(seed=2**63)),
            "column profile/seed must be a number that int64 holds, got 9223372036854775808",
        ),
        (
            NetworkProfile((), labels={"seed": np.int64(3)}),  # type: ignore[dict-item]
            "labels {'seed': np.int64(3)} cannot be stored: Object of type int64 is not JSON serializable",
        ),
    ],
    ids=["type", "nul", "surrogate", "large", "label"],
)
def test_what_no_column_can_hold_is_refused(tmp_path: Path, profile: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        save(tmp_path / "run.h5", profile)
    assert str(caught.value) == message
    assert caught.value.hint
    assert os.listdir(tmp_path) == []


def test_labels_of_any_kind_are_stored(tmp_path: Path) -> None:
    labels = {"depth": "deep", "width": 2.5, "initializer": 3, "net": "größe", "on": True}
    save(tmp_path / "run.h5", NetworkProfile((), labels=labels))
    assert plain(load(tmp_path / "run.h5")[0].labels) == plain(labels)


def test_an_existing_file_is_kept_unless_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_text("precious")
    for refuse in (check_target, lambda path: save(path, small_profile())):
        with pytest.raises(StoreError) as caught:
            refuse(path)
        assert str(caught.value) == f"{path} exists and is kept"
        assert "--overwrite" in caught.value.hint
        assert "overwrite=True" in caught.value.hint
    assert path.read_text() == "precious"
    check_target(path, overwrite=True)
    assert path.read_text() == "precious"
    save(path, small_profile(), overwrite=True)
    assert len(load(path)) == 1
    assert os.listdir(tmp_path) == ["run.h5"]


@pytest.mark.parametrize("link_works", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link_works: bool
) -> None:
    if not link_works:
        monkeypatch.setattr(os, "link", _raising(OSError(errno.EPERM, "no links here")))
    path = tmp_path / "run.h5"
    save(tmp_path / "first.h5", small_profile())
    with pytest.raises(StoreError, match="exists and is kept"), atomic.new_file(path, overwrite=False):
        path.write_text("another run's")
    assert path.read_text() == "another run's"
    assert sorted(os.listdir(tmp_path)) == ["first.h5", "run.h5"]


def test_a_disk_without_links_takes_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _raising(OSError(errno.EPERM, "no links here")))
    save(tmp_path / "run.h5", small_profile())
    assert os.listdir(tmp_path) == ["run.h5"]


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    save(tmp_path / "a" / "b" / "run.h5", small_profile())
    check_target(tmp_path / "c" / "run.h5")
    assert os.listdir(tmp_path / "c") == []
    assert os.listdir(tmp_path / "a" / "b") == ["run.h5"]


@pytest.mark.parametrize("inside", ["run.h5", "deeper/run.h5"])
def test_a_path_through_a_file_is_one_clear_error(tmp_path: Path, inside: str) -> None:
    (tmp_path / "notes.txt").write_text("text")
    path = tmp_path / "notes.txt" / inside
    for write_to in (check_target, lambda path: save(path, small_profile())):
        with pytest.raises(StoreError) as caught:
            write_to(path)
        assert str(caught.value).startswith(f"cannot write {path}: ")
        assert "ot a directory" in str(caught.value)
        assert caught.value.hint == "name a file in a directory that can be written"


def test_a_name_too_long_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*: File name too long"):
        save(tmp_path / ("x" * 300), small_profile())
    save(tmp_path / ("x" * 255), small_profile())


def test_directories_and_devices_are_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="it is a directory"):
        save(tmp_path, small_profile(), overwrite=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="it is a FIFO"):
        save(tmp_path / "pipe", small_profile(), overwrite=True)
    check_target(tmp_path / "run.h5")
    with pytest.raises(StoreError, match="it is not a regular file"):
        check_target("/dev/full", overwrite=True)


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run.h5").symlink_to(tmp_path / "disk" / "real.h5")
    save(tmp_path / "run.h5", small_profile())
    save(tmp_path / "run.h5", small_set(), overwrite=True)
    assert (tmp_path / "run.h5").is_symlink()
    assert len(load(tmp_path / "disk" / "real.h5")) == 6


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(tmp_path / "run.h5", small_profile())
    finally:
        os.umask(before)
    assert (tmp_path / "run.h5").stat().st_mode & 0o777 == 0o640


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    save(path, small_set())
    earlier = path.read_bytes()
    other = small_profile(seed=9)
    for limit in [*range(0, len(earlier), 15000), len(earlier) - 1]:
        for attempt in (lambda: save(path, small_set(), overwrite=True), lambda: merge([path], path, overwrite=True)):
            with _file_size_limit(limit), pytest.raises(StoreError) as caught:
                attempt()
            assert str(caught.value) == f"cannot write {path}: File too large"
            assert caught.value.hint == "free some space, or write to another disk"
            assert path.read_bytes() == earlier
            assert os.listdir(tmp_path) == ["run.h5"]
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0
    save(path, other, overwrite=True)
    assert plain(load(path)[0]) == plain(other)


class _Disk(io.FileIO):
    """A disk that takes at most `piece` bytes at once and raises `failure` at the `room`-th write."""

    room, piece, failure = 10**9, 10**9, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, data: Any) -> int:
        type(self).room -= 1
        if type(self).room < 0:
            raise type(self).failure
        return super().write(data[: type(self).piece])


def _disk(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    monkeypatch.setattr(atomic.io, "FileIO", type("Disk", (_Disk,), attributes))


@pytest.mark.parametrize("room", [0, 1, 5, 50])
def test_no_space_left_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    _disk(monkeypatch, room=room)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        save(tmp_path / "run.h5", small_set())
    assert isinstance(caught.value.__cause__, OSError)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_ends_a_long_work_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = LogHistogram.from_dense(np.random.default_rng(0).integers(1, 2**60, 4096))
    site = Site("s", "Linear", "other", (), forward=TensorSummary(1, 0, 0, 0, 0, 0, histogram=full))
    _disk(monkeypatch, room=0)
    monkeypatch.setattr(write, "_BATCH", 1)
    seen: list[Any] = []
    monkeypatch.setattr(write, "profile_row", lambda profile: seen.append(profile) or rows.profile_row(profile))
    with pytest.raises(StoreError, match="No space left on device"):
        save(tmp_path / "run.h5", ProfileSet((NetworkProfile((site,) * 10),) * 60))
    assert len(seen) < 60


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _disk(monkeypatch, piece=100)
    save(tmp_path / "run.h5", small_set())
    assert plain(load(tmp_path / "run.h5")) == plain(small_set())


def test_a_disk_that_fails_at_the_last_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _raising(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StoreError, match=r"cannot write .*: Input/output error"):
        save(tmp_path / "run.h5", small_set())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("room", [0, 5, 50])
def test_an_interrupt_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    _disk(monkeypatch, room=room, failure=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "run.h5", small_set())
    assert os.listdir(tmp_path) == []


def test_the_first_failure_is_the_one_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _disk(monkeypatch, room=0, failure=KeyboardInterrupt())

    def write_and_fail() -> None:
        with atomic.new_file(tmp_path / "run.h5", overwrite=False) as (file, _):
            file.flush()
            raise RuntimeError("what follows from it")

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("a defect"), MemoryError()])
def test_whatever_fails_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "run.h5"
    save(path, small_profile())
    earlier = path.read_bytes()
    monkeypatch.setattr(write, "parameter_row", _raising(error))
    with pytest.raises(type(error)):
        save(path, small_set(), overwrite=True)
    assert path.read_bytes() == earlier
    assert os.listdir(tmp_path) == ["run.h5"]


def test_an_error_inside_hdf5_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write.TableWriter, "append", _raising(RuntimeError("Can't\n  write")))
    with pytest.raises(StoreError) as caught:
        save(tmp_path / "run.h5", small_profile())
    assert str(caught.value) == f"cannot write {tmp_path / 'run.h5'}: Can't write"


def _raising(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_unseen_numbers_are_missing_in_the_columns(tmp_path: Path) -> None:
    site = Site("s", "Linear", "other", (), forward=dataclasses.replace(TensorSummary.of([0.0]), histogram=None))
    save(tmp_path / "run.h5", NetworkProfile((site,)))
    with h5py.File(tmp_path / "run.h5") as file:
        held = {name: file["site"][name][0] for name in file["site"]}
    assert (held["layer"], held["dead_units"], held["backward_count"], held["backward_nan_count"]) == (-1, -1, -1, -1)
    assert np.isnan([held["mean_cosine"], held["backward_mean"], held["backward_rms"]]).all()
    assert (held["forward_histogram_start"], held["forward_histogram_length"]) == (-1, 0)
    assert (held["forward_count"], held["forward_mean"]) == (1, 0.0)
