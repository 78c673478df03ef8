from __future__ import annotations

import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from building.records import file_of, small_monitored, small_profile, small_set, small_training

from propscope.records import ProfileSet
from propscope.records.figures import MONITORED_TABLES, TRAINING_TABLES
from propscope.records.figures import TABLES as PROFILE_FIELDS
from propscope.records.histogram import LogHistogram
from propscope.store import SCHEMA_VERSION, save
from propscope.store.schema import COORDINATES, MONITORED, SHARING, TABLES, TEXTS, TRAINING, StoredTable

FIELDS = PROFILE_FIELDS | TRAINING_TABLES | MONITORED_TABLES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")


def _documented(table: str) -> list[tuple[str, ...]]:
    lines = DOCUMENT.split(f"## Table `{table}`\n\n")[1].splitlines()
    lines = lines[: lines.index("")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    assert rows[0] == ("column", "type", "unit", "meaning")
    return [(name.strip("`"), *rest) for name, *rest in rows[2:]]


@pytest.mark.parametrize("table", TABLES)
def test_the_document_lists_every_column_and_no_other(table: StoredTable) -> None:
    assert _documented(table) == [(c.name, c.stored, c.unit, c.meaning) for c in TABLES[table]]


def test_the_document_has_every_table_and_the_version() -> None:
    assert re.findall(r"^## Table `(\w+)`", DOCUMENT, flags=re.MULTILINE) == list(TABLES)
    assert DOCUMENT.startswith(f"# The result file, schema version {SCHEMA_VERSION}\n")
    assert f"| `schema_version` | int64 | {SCHEMA_VERSION} |" in DOCUMENT


@pytest.mark.parametrize("table", FIELDS)
def test_every_recorded_field_has_a_column(table: StoredTable) -> None:
    columns = {column.name: column for column in TABLES[table]}
    assert len(columns) == len(TABLES[table])
    for field in FIELDS[table]:
        assert (columns[field.name].meaning, columns[field.name].unit) == (field.label, field.unit)


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_file_holds_what_is_documented(tmp_path: Path, table: StoredTable) -> None:
    monitored = table in MONITORED
    (tmp_path / "run.h5").write_bytes(file_of(small_monitored if monitored else small_training))
    with h5py.File(tmp_path / "run.h5") as file:
        assert set(file) == {*TABLES, *([TEXTS] if monitored else [])} - set(TRAINING if monitored else MONITORED)
        group = file[table]
        columns = [name for name, *_ in _documented(table)]
        assert [name for name in group if name in columns] == columns
        assert set(group) == {*columns, table}
        assert group[table].shape == group[columns[0]].shape
        assert group[table].is_scale
        for name, stored, unit, meaning in _documented(table):
            column = group[name]
            is_text = h5py.check_string_dtype(column.dtype)
            assert (("text" if is_text else str(column.dtype)), column.ndim) == (stored, 1), name
            assert is_text is None or (is_text.encoding, is_text.length) == ("utf-8", None)
            assert (column.attrs["units"], column.attrs["long_name"]) == (unit, meaning)
            assert name == table or column.dims[0][0] == group[table], name


def test_the_text_of_a_monitored_run_is_stored_once_and_rows_have_its_number(tmp_path: Path) -> None:
    run = small_monitored()
    save(tmp_path / "run.h5", run)
    save(tmp_path / "set.h5", ProfileSet.of(run))
    with h5py.File(tmp_path / "run.h5") as file, h5py.File(tmp_path / "set.h5") as plain:
        texts = file[TEXTS].asstr()[:]
        assert len(set(texts)) == len(texts)
        for table in SHARING:
            for column in TABLES[table]:
                if column.stored == "text":
                    assert file[table][column.name].dtype == np.uint32
                    found = texts[file[table][column.name][:]]
                    assert found.tolist() == plain[table][column.name].asstr()[:].tolist()


def test_rows_that_are_missing_take_no_space(tmp_path: Path) -> None:
    save(tmp_path / "run.h5", small_profile())
    with h5py.File(tmp_path / "run.h5") as file:
        for table, missing in (("site", "expected_forward_mean"), ("parameter", "gradient_after")):
            column = file[table][missing]
            assert (len(column), column.id.get_storage_size()) == (len(file[table]["name"]), 0)
            (expected,) = (each.missing for each in TABLES[table] if each.name == missing)
            assert np.array_equal(column[:], [expected] * len(column), equal_nan=True)


def test_a_file_without_runs_has_no_tables_of_them(tmp_path: Path) -> None:
    (tmp_path / "run.h5").write_bytes(file_of(small_set))
    with h5py.File(tmp_path / "run.h5") as file:
        assert set(file) == set(TABLES) - {*TRAINING, *MONITORED}
        assert set(file["profile/run"][:]) == set(file["profile/epoch"][:]) == {-1}


def test_the_document_lists_the_root_attributes(tmp_path: Path) -> None:
    save(tmp_path / "run.h5", small_profile())
    section = DOCUMENT.split("Attributes of the root group:")[1].split("Types and missing values:")[0]
    with h5py.File(tmp_path / "run.h5") as file:
        assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == set(file.attrs)


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_xarray_opens_it_labelled(tmp_path: Path, table: StoredTable) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    path = tmp_path / "run.h5"
    path.write_bytes(file_of(small_monitored if table in MONITORED else small_training))
    with warnings.catch_warnings(), xarray.open_dataset(path, group=table, engine="h5netcdf") as dataset:
        warnings.simplefilter("error")
        dataset.load()
        assert list(dataset.sizes) == [table]
        own = {table} & {column.name for column in TABLES[table]}
        assert set(dataset.coords) == own | set(COORDINATES[table])
        assert set(dataset.variables) == {column.name for column in TABLES[table]}
        for column in TABLES[table]:
            assert dataset[column.name].dims == (table,)
            assert dataset[column.name].attrs == {"long_name": column.meaning, "units": column.unit}
            kind = dataset[column.name].dtype.kind
            assert kind in {"int64": "i", "float64": "f", "text": "UOT"}.get(column.stored, "u")


@pytest.mark.slow
def test_the_examples_of_the_document_run_and_xarray_selects_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xarray")
    monkeypatch.chdir(tmp_path)
    save("run.h5", small_set())
    save("monitored.h5", small_monitored())
    values = np.array([-2.0, -0.3, 1e-3, 1.0, 1.125, 7.9], np.float32)
    held = {"bins": LogHistogram.of(values).bins}
    for example in re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL):
        exec(example, held)
    assert held["one"].labels["initializer"] == "he_normal"
    assert held["rms"].shape == (12,)
    assert held["names"].tolist() == ["layers.0", "layers.0.act"] * 2
    assert held["first"].sizes == {"site": 2}
    chosen = held["sites"].isel(site=held["sites"].profile.values == 4)
    assert chosen.name.values.tolist() == ["layers.0", "layers.0.act"]
    assert chosen.forward_max.values.tolist() == [4.0, 4.0]
    in_order = sorted(values.tolist(), key=lambda value: (value < 0, abs(value)))
    for near, far, value in zip(held["near"].tolist(), held["far"].tolist(), in_order, strict=True):
        assert abs(near) <= abs(value) < abs(far)
        assert np.sign(near) == np.sign(value)
    held["sites"].close()
    held["file"].close()


def test_the_documented_bins_are_those_of_the_histogram() -> None:
    tiny = float(np.float32(2.0**-128))
    below = float(np.nextafter(np.float32(tiny), np.float32(0)))
    for values, code in (
        ([0.0, -0.0], 0),
        ([1e-45, below], 1),
        ([-1e-45, -below], 2049),
        ([np.inf], 2040),
        ([np.nan, -np.nan], 2047),
        ([-np.inf], 4088),
    ):
        assert LogHistogram.of(np.array(values, np.float32)).bins.tolist() == [code]
        assert f"| {code} | " in DOCUMENT
    assert LogHistogram.of([tiny]).bins.tolist() == [2]
