from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
from building.records import DATA, mlp, plain, small_profile, small_set, small_training

from propscope.errors import StoreError
from propscope.store import load, load_profiles, merge, open_networks, save, seal


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "run.h5"
    save(path, small_profile())
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, saved: bytes) -> Path:
    (tmp_path / "run.h5").write_bytes(saved)
    return tmp_path / "run.h5"


def _flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _zeroed(data: bytes, start: int, stop: int) -> bytes:
    return data[:start] + bytes(len(data[start:stop])) + data[stop:]


def _refuses(file: Path, read: Callable[[Path], Any] = load) -> None:
    with pytest.raises(StoreError) as caught:
        read(file)
    message = str(caught.value)
    assert message.startswith((f"{file} is truncated or damaged: ", f"cannot read {file}: ")), message
    assert "\n" not in message
    assert caught.value.hint


def test_no_flipped_bit_is_read(file: Path, saved: bytes) -> None:
    generator = np.random.default_rng(0)
    places = {*range(48), *range(len(saved) - 120, len(saved)), *generator.integers(len(saved), size=150).tolist()}
    for at in sorted(places):
        file.write_bytes(_flipped(saved, at, int(generator.integers(8))))
        _refuses(file)


def test_no_zeroed_range_is_read(file: Path, saved: bytes) -> None:
    generator = np.random.default_rng(1)
    ends = [(len(saved) - length, len(saved)) for length in (1, 16, 17, 56, 57, 88, 89, 200, 5000)]
    starts = generator.integers(len(saved), size=60).tolist()
    for start, stop in [*ends, *((start, start + 1 << int(generator.integers(14))) for start in starts)]:
        changed = _zeroed(saved, start, stop)
        if changed != saved:
            file.write_bytes(changed)
            _refuses(file)


def test_a_file_cut_short_or_lengthened_is_refused(file: Path, saved: bytes) -> None:
    end = int.from_bytes(saved[28:36], "little")
    for length in [*range(8, 200, 13), *range(200, len(saved), 3001), end - 1, end + 1, len(saved) - 1]:
        file.write_bytes(saved[:length])
        _refuses(file)
    for more in (b"\0", b"x" * 100, saved[-56:], saved[end:]):
        file.write_bytes(saved + more)
        _refuses(file)
    # A file that ends where HDF5 says is one that another program has written to; nothing of it is lost.
    file.write_bytes(saved[:end])
    assert plain(load(file)[0]) == plain(small_profile())


@pytest.mark.parametrize(
    "read",
    [
        load,
        lambda path: load(path, seed=0),
        load_profiles,
        lambda path: merge([path], path.with_name("out.h5")),
    ],
    ids=["load", "selected", "profiles", "merge"],
)
def test_a_changed_letter_is_found_before_hdf5_opens_the_file(
    file: Path, saved: bytes, read: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = saved.index(b"layers.0.act")
    file.write_bytes(_flipped(saved, at))
    whole = h5py.File

    def opened(name: Any, mode: str, **options: Any) -> h5py.File:
        assert mode != "r", "HDF5 opened a damaged file"
        return whole(name, mode, **options)

    monkeypatch.setattr(seal.h5py, "File", opened)
    _refuses(file, read)
    assert sorted(os.listdir(file.parent)) == ["run.h5"]


@pytest.mark.slow
def test_of_a_large_file_only_what_is_read_is_checked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "WHOLE", 0)
    monkeypatch.setattr(seal, "SMALL", 0)
    monkeypatch.setattr(seal, "BLOCK", 512)
    for expected in (small_set(), small_training()):
        save(file, expected, overwrite=True)
        saved = file.read_bytes()
        assert plain(load(file)) == plain(expected)
        generator = np.random.default_rng(2)
        outcomes = set()
        for at in generator.integers(len(saved), size=40).tolist():
            file.write_bytes(_flipped(saved, at))
            try:
                assert plain(load(file)) == plain(expected)
                outcomes.add("same")
            except StoreError:
                outcomes.add("refused")
        assert "refused" in outcomes
    save(file, mlp(depth=10), overwrite=True)
    saved = file.read_bytes()
    with h5py.File(io.BytesIO(saved), "r") as opened:
        bins = opened["histogram/bin"].id.get_chunk_info(0)
    # Far from the blocks that hold anything else.
    assert bins.size > 4 * seal.BLOCK
    file.write_bytes(_flipped(saved, bins.byte_offset + bins.size // 2))
    with open_networks(file) as networks:
        assert len([*networks]) == 1
    with pytest.raises(StoreError, match="are not those that propscope wrote"):
        load(file)
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0


def test_a_large_file_that_changes_while_it_is_read(file: Path, saved: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "WHOLE", 0)
    monkeypatch.setattr(seal, "SMALL", 0)
    monkeypatch.setattr(seal, "BLOCK", 512)
    save(file, small_profile(), overwrite=True)
    whole = file.read_bytes()
    at = whole.index(b"layers.0.act")

    def read(path: Path) -> None:
        with seal.open_sealed(path) as opened:
            path.write_bytes(_flipped(whole, at))
            opened["site/name"][:]

    with pytest.raises(StoreError, match=f"bytes {at // 512 * 512} to "):
        read(file)


@pytest.mark.slow
def test_other_programs_read_a_sealed_file_and_may_edit_it(file: Path, saved: bytes) -> None:
    with h5py.File(file) as opened:
        assert opened["site/name"].asstr()[:].tolist() == ["layers.0", "layers.0.act"]
        counts = opened["histogram/count"][:].tolist()
    # h5netcdf takes seconds for a table of a hundred columns.
    with xarray.open_dataset(file, group="histogram", engine="h5netcdf") as bins:
        assert bins["count"].values.tolist() == counts
    assert file.read_bytes() == saved
    with h5py.File(file, "r+") as opened:
        opened["site/layer"][0] = 5
    assert load(file)[0].sites[0].layer == 5
    merge([file], file.with_name("out.h5"))
    assert b"propscope seal 1" in file.with_name("out.h5").read_bytes()[-16:]


@pytest.mark.parametrize("name", ["schema-1.h5", "schema-2.h5", "schema-2-training.h5"])
def test_a_file_without_a_seal_is_read_but_not_a_part_of_one(tmp_path: Path, name: str) -> None:
    assert not (DATA / name).read_bytes().endswith(b"propscope seal 1")
    shutil.copy(DATA / name, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    assert len(load(tmp_path / name)) > 0
    (tmp_path / name).write_bytes(whole[:-1])
    _refuses(tmp_path / name)
    (tmp_path / name).write_bytes(whole + b"\0")
    _refuses(tmp_path / name)


def test_the_seal_is_what_the_document_says(saved: bytes) -> None:
    end = int.from_bytes(saved[28:36], "little")
    digests = b"".join(hashlib.sha256(saved[at : min(at + 2**18, end)]).digest() for at in range(0, end, 2**18))
    table = digests + end.to_bytes(8, "little")
    assert saved[end:] == table + hashlib.sha256(table).digest() + b"propscope seal 1"
    document = (Path(__file__).parents[2] / "docs" / "schema.md").read_text()
    assert all(part in document for part in ("`propscope seal 1`", "2^18", "SHA-256", "## The seal"))


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(StoreError, match="it is a FIFO"):
        load(tmp_path / "pipe.h5")
    with pytest.raises(StoreError, match="it is not a regular file"):
        load("/dev/zero")
