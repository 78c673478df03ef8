from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from building.records import DATA, of_version, plain, predicted_profile, small_profile, small_set, small_training

from propscope.errors import InputError, StoreError
from propscope.records import Expected, NetworkProfile, ProfileSet
from propscope.store import SCHEMA_VERSION, StoredNetworks, load, merge, numbers_in, open_networks, save
from propscope.store.table_reader import TableReader, open_tables


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "run.h5"
    save(path, small_set())
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, saved: bytes) -> Path:
    (tmp_path / "run.h5").write_bytes(saved)
    return tmp_path / "run.h5"


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"initializer": "zeros"}, [3, 4, 5]),
        ({"seed": 1}, [1, 4]),
        ({"seed": 1.0, "depth": 1}, [1, 4]),
        ({"seed": [0, 2], "initializer": "he_normal"}, [0, 2]),
        ({"initializer": ("zeros", "he_normal"), "seed": range(2)}, [0, 1, 3, 4]),
        ({"activation": "relu", "initializer": "zeros", "seed": 2}, [5]),
    ],
)
def test_labels_select_as_in_a_profile_set(file: Path, labels: dict[str, Any], rows: list[int]) -> None:
    found = load(file, **labels)
    assert isinstance(found, ProfileSet)
    assert plain(found) == plain(ProfileSet.of(small_set()[row] for row in rows))
    assert plain(found) == plain(small_set().subset(**labels))


@pytest.mark.slow
@pytest.mark.parametrize("value", ["größe", 'a "quoted" \\ name', "normal:std=0.01", "", "1", 1, 2.5, True])
def test_any_label_can_be_selected_by(tmp_path: Path, value: Any) -> None:
    profiles = [NetworkProfile((), labels={"net": net, "other": "1"}) for net in ("none", value)]
    save(tmp_path / "run.h5", ProfileSet.of(profiles))
    assert plain(load(tmp_path / "run.h5", net=value)) == plain(ProfileSet.of(profiles[1:]))
    assert len(load(tmp_path / "run.h5", net=[value])) == 1
    assert len(load(tmp_path / "run.h5", net=[value, "none"])) == 2


def test_numpy_numbers_select_too(file: Path) -> None:
    assert len(load(file, seed=np.int64(1))) == len(load(file, seed=np.array([1]))) == 2


def test_a_label_may_be_called_path(tmp_path: Path) -> None:
    profile = small_profile()
    object.__setattr__(profile, "labels", {"path": "left"})
    save(tmp_path / "run.h5", profile)
    assert len(load(tmp_path / "run.h5", path="left")) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"initialiser": "zeros"}, 'has a label "initialiser"; the labels are activation, depth, initializer, seed, w'),
        ({"initializer": "zer"}, "has initializer zer; there are initializer he_normal, zeros"),
        (
            {"initializer": "zeros", "seed": 7},
            "has initializer zeros; seed 7; there are initializer he_normal, zeros; s",
        ),
        ({"seed": "1"}, "has seed 1; there are seed 0, 1, 2"),
        ({"seed": None}, "has seed None; there are seed 0, 1, 2"),
        ({"lr": None}, 'has a label "lr"; the labels are activation, depth, initializer, seed, width'),
        ({"seed": []}, "has seed ; there are seed 0, 1, 2"),
    ],
)
def test_labels_that_nothing_has_are_refused(file: Path, labels: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(file, **labels)
    assert str(caught.value).startswith(f"no profile in {file} {message}")


def test_long_lists_of_choices_are_cut(tmp_path: Path) -> None:
    save(tmp_path / "run.h5", ProfileSet.of(small_profile(seed=seed) for seed in range(20)))
    with pytest.raises(InputError, match=r"there are seed 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, \.\.\.$"):
        load(tmp_path / "run.h5", seed=99)


def test_one_profile_reads_its_own_rows_only(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[tuple[str, str], Counter[int]] = {}
    whole = TableReader.pick

    def noted(self: TableReader, table: Any, column: str, rows: Any) -> Any:
        read.setdefault((table, column), Counter()).update(rows.tolist())
        return whole(self, table, column, rows)

    monkeypatch.setattr(TableReader, "pick", noted)
    profile = load(file, initializer="zeros", seed=0)[0]
    sizes = [
        s.histogram.bins.size for site in profile.sites for s in (site.forward, site.backward) if s and s.histogram
    ]
    sizes += [p.value.histogram.bins.size for p in profile.parameters if p.value.histogram]
    assert read.pop(("profile", "labels")) == Counter([*range(6), 3])
    assert {table: set(rows) for (table, _), rows in read.items() if table == "site"} == {"site": {6, 7}}
    assert all(rows == Counter([3]) for (table, _), rows in read.items() if table in ("profile", "parameter"))
    assert read["histogram", "count"].total() == read["histogram", "bin"].total() == sum(sizes)


def test_reading_imports_neither_torch_nor_pandas(file: Path) -> None:
    code = (
        "import sys, propscope; p = propscope.load(sys.argv[1], seed=1)[0]; propscope.save(sys.argv[1] + '2', p);"
        "assert p.sites[0].forward.histogram.total == 7;"
        "sys.exit(', '.join({'torch', 'pandas', 'xarray', 'h5netcdf'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda path: None, "there is no file {}", "propscope profile"),
        (lambda path: path.mkdir(), "cannot read {}: it is a directory", "name a result file in it"),
        (lambda path: path.write_bytes(b""), "cannot read {}: it is empty", "name a file that propscope wrote"),
        (lambda path: path.write_text("a,b\n1,2\n"), "cannot read {}: it is not an HDF5 file", "that propscope wrote"),
        (
            lambda path: h5py.File(path, "w").close(),
            "{} is an HDF5 file that propscope did not write",
            "name a file that propscope wrote",
        ),
    ],
    ids=["missing", "directory", "empty", "text", "foreign"],
)
def test_what_is_no_result_file(tmp_path: Path, make: Callable[[Path], Any], message: str, hint: str) -> None:
    path = tmp_path / "given.h5"
    make(path)
    for read in (load, lambda path: load(path, seed=0), lambda path: merge([path], tmp_path / "out.h5")):
        with pytest.raises(StoreError) as caught:
            read(path)
        assert str(caught.value) == message.format(path)
        assert hint in caught.value.hint
        assert not (tmp_path / "out.h5").exists()


def test_a_path_through_a_file_cannot_be_read(file: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot read .*: Not a directory"):
        load(file / "run.h5")


def test_a_truncated_file_is_one_clear_error(file: Path) -> None:
    whole = file.read_bytes()
    for length in [*range(8, 200, 7), *range(200, len(whole), 1009), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(StoreError) as caught:
            load(file)
        assert str(caught.value).startswith(f"{file} is truncated or damaged: ")
        assert "\n" not in str(caught.value)
        assert caught.value.hint
    file.write_bytes(whole[:7])
    with pytest.raises(StoreError, match="it is not an HDF5 file"):
        load(file)
    gc.collect()
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0


@pytest.mark.slow
def test_changed_bytes_never_surprise(file: Path) -> None:
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        changed = bytearray(whole)
        changed[generator.integers(len(whole))] ^= 1 << int(generator.integers(8))
        file.write_bytes(changed)
        try:
            load(file)
        except StoreError:
            refused += 1
    assert refused > 0


def test_a_newer_schema_names_both_versions(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened.attrs["schema_version"] = SCHEMA_VERSION + 1
        opened.attrs["propscope_version"] = "9.1"
    with pytest.raises(StoreError) as caught:
        load(file)
    written, read = (
        f"written by propscope 9.1 with schema {SCHEMA_VERSION + 1}",
        f"this propscope reads up to {SCHEMA_VERSION}",
    )
    assert str(caught.value) == f"{file} was {written}; {read}"
    assert "upgrade" in caught.value.hint


def _set_first(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(opened: h5py.File) -> None:
        opened[name][0] = value

    return change


def _replace(name: str, **created: Any) -> Callable[[h5py.File], None]:
    def change(opened: h5py.File) -> None:
        del opened[name]
        if created:
            opened.create_dataset(name, **created)

    return change


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (_replace("site/forward_rms"), "column site/forward_rms is missing"),
        (_replace("parameter"), "table parameter is missing"),
        (
            lambda opened: opened.attrs.pop("schema_version"),
            "schema_version must be a whole number",
        ),
        (lambda opened: opened.attrs.modify("schema_version", 0), "schema_version is 0"),
        (lambda opened: opened["site/name"].resize((3,)), "table site has 12 rows of site and 3 of name"),
        (lambda opened: opened["histogram/bin"].resize((3,)), "table histogram has 3 rows of bin and"),
        (
            _replace("site/layer", data=np.zeros(12, np.float32)),
            "column site/layer must be 1-D of int64, got 1-D of float32",
        ),
        (_replace("site/layer", data=np.zeros((12, 1), np.int64)), "column site/layer must be 1-D of int64, got 2-D"),
        (_replace("site/kind", data=np.zeros(12)), "column site/kind must be 1-D of text, got 1-D of float64"),
        (_set_first("profile/labels", "{"), "table profile, row 0, column labels: must be JSON (Expecting"),
        (_set_first("profile/labels", "[]"), "table profile, row 0, column labels: must be one JSON object, got '[]'"),
        (_set_first("profile/labels", "{}, {}"), "Extra data"),
        (_set_first("site/name", b"\xff"), "'utf-8' codec can't decode byte 0xff"),
        (_set_first("site/shape", "(3, 4)"), "Expecting value"),
        (_set_first("profile/site_start", 1), "rows of table site for profile 0 belong to another profile"),
        (_set_first("profile/site_start", -4), "table profile, row 0, column site_start: must be at least -1, got -4"),
        (_set_first("profile/site_count", 99), "table site has 12 rows, but 99 rows from 0 on are asked for"),
        (_set_first("profile/site_count", -1), "table profile, row 0, column site_count: must be at least 0, got -1"),
        (
            _set_first("site/forward_histogram_length", 9999),
            "row 0, column forward_histogram_length: must be from 0 to 4096",
        ),
        (_set_first("site/forward_histogram_length", 4000), "table histogram has"),
        (
            _set_first("histogram/bin", 5000),
            "table histogram, row 0, column bin: must be a bin that occurs, from 0 to 4095",
        ),
    ],
)
def test_a_damaged_file_says_what_is_wrong(file: Path, change: Callable[[h5py.File], Any], cause: str) -> None:
    with h5py.File(file, "r+") as opened:
        change(opened)
    with pytest.raises(StoreError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file} is truncated or damaged: ")
    assert cause in str(caught.value)
    assert caught.value.hint


def test_labels_that_are_no_object_cannot_be_selected_from(file: Path) -> None:
    for text in ("[]", "3", "{}, {}", "{"):
        with h5py.File(file, "r+") as opened:
            opened["profile/labels"][0] = text
        with pytest.raises(StoreError, match="is truncated or damaged"):
            load(file, seed=1)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_version_stays_readable(version: int) -> None:
    path = DATA / f"schema-{version}.h5"
    with h5py.File(path) as file:
        assert file.attrs["schema_version"] == version
    assert plain(load(path)) == plain(of_version(version))


def test_what_a_file_is_too_old_for_is_missing(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        del opened["site/jacobian_mean"]
        opened.attrs["schema_version"] = 1
    assert plain(load(file)) == plain(small_set())


def test_version_1_holds_neither_theory_nor_jacobian() -> None:
    for profile in load(DATA / "schema-1.h5"):
        assert [(site.expected, site.jacobian, site.jacobian_condition) for site in profile.sites] == [(None,) * 3] * 2


def test_an_expectation_of_nothing_is_none(tmp_path: Path) -> None:
    profile = predicted_profile()
    first, second = profile.sites
    blank = dataclasses.replace(profile, sites=(first, dataclasses.replace(second, expected=Expected())))
    save(tmp_path / "run.h5", blank)
    assert plain(load(tmp_path / "run.h5")) == plain(ProfileSet((profile,)))


def test_version_1_by_value() -> None:
    profiles = load(DATA / "schema-1.h5")
    assert len(profiles) == 6
    profile = profiles.select(initializer="zeros", seed=2)
    assert dict(profile.labels) == {"initializer": "zeros", "activation": "relu", "depth": 1, "width": 7, "seed": 2}
    assert (profile.provenance.torch_version, profile.provenance.wall_seconds) == ("2.13.0", 0.25)
    linear, activation = profile.sites
    assert (linear.name, linear.role, linear.shape, linear.layer) == ("layers.0", "pre-activation", (7, 1), 1)
    assert linear.backward is None
    assert (linear.forward.count, linear.forward.min, linear.forward.max) == (7, -3.0, 6.0)
    assert (linear.forward.mean, linear.forward.std) == (1.5, 3.0)
    assert linear.forward.histogram.bins.tolist() == [0, 1020, 1028, 1033, 1036, 3068, 3076]
    assert activation.forward.histogram is None
    assert activation.backward.histogram.total == 0
    (weight,) = profile.parameters
    assert (weight.value.nan_count, weight.value.posinf_count, weight.value.zero_fraction) == (1, 1, 0.25)
    assert weight.value.histogram.bins.tolist() == [0, 1016, 2040, 2047]
    assert weight.value.histogram.counts.tolist() == [1, 1, 1, 1]
    assert weight.gradient is None


def test_a_table_reads_neither_histograms_nor_singular_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = small_set() + ProfileSet((predicted_profile(),))
    save(tmp_path / "run.h5", several)
    read: set[str] = set()
    whole = TableReader.pick

    def noted(self: TableReader, table: Any, column: str, rows: Any) -> Any:
        read.update({f"{table}/{column}"} if len(rows) and column in self.datasets.get(table, {}) else ())
        return whole(self, table, column, rows)

    monkeypatch.setattr(TableReader, "pick", noted)
    with open_networks(tmp_path / "run.h5") as found:
        assert isinstance(found, StoredNetworks)
        assert (len(found), found.profiles) == (2, 7)
        shown = [site for members in found for profile in members for site in profile.sites]
    assert "site/forward_mean" in read
    assert not [name for name in read if "_histogram_" in name or "bin" in name or "jacobian" in name]
    assert [site.name for site in shown] == [site.name for profile in several for site in profile.sites]
    assert all(site.jacobian is None for site in shown)
    read.clear()
    with open_networks(tmp_path / "run.h5", initializer="zeros", seed=0) as found:
        assert len([*found]) == 1
    assert {"profile/spec", "site/dtype", "site/jacobian_max"} <= read
    assert not [name for name in read if "_histogram_" in name or "bin" in name]


def test_the_numbers_in_a_file(tmp_path: Path) -> None:
    save(tmp_path / "profiles.h5", small_set())
    save(tmp_path / "runs.h5", small_training())
    assert numbers_in(tmp_path / "profiles.h5") == (None, 6)
    merge([tmp_path / "profiles.h5", tmp_path / "runs.h5"], tmp_path / "both.h5")
    assert numbers_in(tmp_path / "both.h5") == (6, 6)


@pytest.mark.parametrize("column", ["bin", "count"])
@pytest.mark.parametrize("rows", [[3, 4, 5], [5, 4, 3], [0, 2, 9], [7, 7, 7], [40, 0], [0, 41, 1], [9], []], ids=str)
def test_rows_are_read_in_any_order_however_far_apart(file: Path, column: str, rows: list[int]) -> None:
    with h5py.File(file) as stored:
        expected = stored["histogram"][column][:][rows]
    with open_tables(file) as tables:
        found = tables.pick("histogram", column, np.array(rows, np.int64))
    assert found.tolist() == expected.tolist()
    assert found.dtype == expected.dtype


def test_of_text_nothing_is_read_that_was_not_asked_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = h5py.h5d.DatasetID.read
    counts = []

    class Counted:
        def __init__(self, dataset: h5py.Dataset) -> None:
            self.dtype, self.id = dataset.dtype, self
            self._dataset = dataset

        def get_space(self) -> Any:
            return self._dataset.id.get_space()

        def read(self, memory: Any, space: Any, values: Any, kind: Any) -> None:
            counts.append(len(values))
            read(self._dataset.id, memory, space, values, kind)

    monkeypatch.setattr("propscope.store.columns.check_text", lambda dataset, rows: None)
    with open_tables(file) as tables:
        datasets = {"profile": {name: Counted(tables.datasets["profile"][name]) for name in ("labels", "seed")}}
        for name in datasets["profile"]:
            dataclasses.replace(tables, datasets=datasets).pick("profile", name, np.array([0, 2]))  # type: ignore[arg-type]
    assert counts == [2, 3]
