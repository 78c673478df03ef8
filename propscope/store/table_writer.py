"""`TableWriter`: creates the columns of a new file and appends rows to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, get_args

import h5py
import numpy as np
from h5py import h5a, h5d, h5ds, h5g, h5p, h5s, h5t
from numpy.typing import NDArray

from propscope._version import __version__
from propscope.checks import shown
from propscope.errors import InputError
from propscope.store.schema import (
    COORDINATES,
    FORMAT,
    SCHEMA_VERSION,
    TABLES,
    Column,
    StoredTable,
    StoredType,
    tables_of,
)

Values = Sequence[Any] | NDArray[Any]

_DTYPES = {kind: h5py.string_dtype("utf-8") if kind == "text" else np.dtype(kind) for kind in get_args(StoredType)}
_IN_FILE = {kind: h5t.py_create(dtype, logical=True) for kind, dtype in _DTYPES.items()}
_IN_MEMORY = {kind: h5t.py_create(dtype) for kind, dtype in _DTYPES.items()}

# benches/store.py: smaller chunks make one profile load faster, larger ones make the file smaller. Level 2 is as fast
# as 1 on counts and 2% smaller; 4 is 40% slower for another 4%.
_CHUNK_ROWS: dict[StoredTable, int] = {
    "run": 1024,
    "epoch": 1024,
    "step": 1024,
    "alarm": 1024,
    "profile": 1024,
    "site": 1024,
    "parameter": 1024,
    "histogram": 16384,
}
_GZIP_LEVEL = 2
# HDF5 keeps 1 MB of each of 190 columns; rows are only appended, so one chunk is enough.
_ACCESS = h5p.create(h5p.DATASET_ACCESS)
_ACCESS.set_chunk_cache(11, 1 << 17, 1.0)

# netCDF marks a dimension without a coordinate so; row numbers for the bins would take more space than the bins.
_BARE_DIMENSION = "This is a netCDF dimension but not a netCDF variable."


class TableWriter:
    """The tables of an open, empty HDF5 file; `rows` is the number of rows that each has so far.

    `make` makes the tables that not every file has. `check` is called after every append, to raise a failure of the
    disk that HDF5 does not report.
    """

    def __init__(self, file: h5py.File, check: Callable[[], None]) -> None:
        self._file = file
        self._check = check
        file.attrs["format"] = FORMAT
        file.attrs["schema_version"] = SCHEMA_VERSION
        file.attrs["propscope_version"] = __version__
        file.attrs["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.rows: dict[StoredTable, int] = dict.fromkeys(TABLES, 0)
        self._datasets: dict[StoredTable, dict[str, h5d.DatasetID]] = {}
        self._bare: dict[StoredTable, h5py.Dataset] = {}
        self.make(tables_of(lambda _: False, SCHEMA_VERSION))

    def make(self, tables: Iterable[StoredTable]) -> None:
        """Make these tables unless they exist."""
        for table in tables:
            if table not in self._datasets:
                self._create(table)

    def _create(self, table: StoredTable) -> None:
        group = self._file.create_group(table, track_order=True)
        columns = _create_columns(group.id, table)
        if table in columns:
            scale = columns[table]
            h5ds.set_scale(scale, table.encode())
        else:
            bare = group.create_dataset(table, shape=(0,), maxshape=(None,), chunks=(_CHUNK_ROWS[table],), dtype=">f4")
            bare.make_scale(_BARE_DIMENSION)
            self._bare[table] = bare
            scale = bare.id
        for name, dataset in columns.items():
            if name != table:
                h5ds.attach_scale(dataset, scale, 0)
        if COORDINATES[table]:
            group.attrs["coordinates"] = " ".join(COORDINATES[table])
        self._datasets[table] = columns

    def append(self, table: StoredTable, columns: Mapping[str, Values]) -> None:
        """Append rows; `columns` holds one sequence for each column of the table, all equally long.

        Text is str or UTF-8 bytes. Raises `InputError` as `arrays_of` does, and the failure of the disk when there was
        one.
        """
        arrays = arrays_of(table, columns)
        start = self.rows[table]
        end = start + len(arrays[TABLES[table][0].name])
        if end == start:
            return
        added = h5s.create_simple((end - start,))
        for column in TABLES[table]:
            dataset = self._datasets[table][column.name]
            dataset.set_extent((end,))
            place = dataset.get_space()
            place.select_hyperslab((start,), (end - start,))
            dataset.write(added, place, arrays[column.name], _IN_MEMORY[column.stored])
        if table in self._bare:
            self._bare[table].resize((end,))
        self.rows[table] = end
        self._check()


def arrays_of(table: StoredTable, columns: Mapping[str, Values]) -> dict[str, NDArray[Any]]:
    """Return the columns of some rows in the types of the file; raises `InputError` for a value that does not fit."""
    return {column.name: array_of(table, column, columns[column.name]) for column in TABLES[table]}


def _create_columns(group: h5g.GroupID, table: StoredTable) -> dict[str, h5d.DatasetID]:
    # `create_dataset` and `attrs` make the same bytes and take more than twice as long, for 140 columns a file.
    made = h5p.create(h5p.DATASET_CREATE)
    made.set_chunk((_CHUNK_ROWS[table],))
    made.set_shuffle()
    made.set_deflate(_GZIP_LEVEL)
    made.set_fill_time(h5d.FILL_TIME_IFSET)
    made.set_obj_track_times(False)
    empty, single = h5s.create_simple((0,), (h5s.UNLIMITED,)), h5s.create(h5s.SCALAR)
    columns = {}
    for column in TABLES[table]:
        dataset = h5d.create(group, column.name.encode(), _IN_FILE[column.stored], empty, made, dapl=_ACCESS)
        for name, text in (("long_name", column.meaning), ("units", column.unit)):
            attribute = h5a.create(dataset, name.encode(), _IN_FILE["text"], single)
            attribute.write(np.array(text, dtype=object), _IN_MEMORY["text"])
        columns[column.name] = dataset
    return columns


def array_of(table: StoredTable, column: Column, values: Values) -> NDArray[Any]:
    """Return values of one column in the type of the file; raises `InputError` for a value that does not fit."""
    if isinstance(values, np.ndarray):
        return values
    try:
        if column.stored != "text":
            return np.array(values, dtype=column.stored)
        everything = "".join(values)
        everything.encode("utf-8")
    except (OverflowError, TypeError, ValueError) as error:
        raise _unfit(table, column, values) from error
    if "\0" in everything:
        raise _unfit(table, column, values)
    return np.array(values, dtype=object)


def _unfit(table: StoredTable, column: Column, values: Sequence[Any]) -> InputError:
    value = next((value for value in values if not _fits(column, value)), values)
    valid = "text of valid Unicode without NUL" if column.stored == "text" else f"a number that {column.stored} holds"
    return InputError(
        f"column {table}/{column.name} must be {valid}, got {shown(value)}",
        hint="rename it or choose a smaller number; nothing was written",
    )


def _fits(column: Column, value: Any) -> bool:
    try:
        if column.stored == "text":
            return b"\0" not in value.encode("utf-8")
        np.array([value], dtype=column.stored)
    except (AttributeError, OverflowError, TypeError, ValueError):
        return False
    return True
