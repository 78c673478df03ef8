"""`TableWriter`: creates the columns of a new file and appends rows to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from propscope._version import __version__
from propscope.checks import shown
from propscope.errors import InputError
from propscope.store.schema import COORDINATES, FORMAT, SCHEMA_VERSION, TABLES, TRAINING, Column, StoredTable

Values = Sequence[Any] | NDArray[Any]

# benches/store.py: smaller chunks make one profile load faster, larger ones make the file smaller. Level 2 is as fast
# as 1 on counts and 2% smaller; 4 is 40% slower for another 4%.
_CHUNK_ROWS: dict[StoredTable, int] = {
    "run": 1024,
    "epoch": 1024,
    "profile": 1024,
    "site": 1024,
    "parameter": 1024,
    "histogram": 16384,
}
_GZIP_LEVEL = 2

# netCDF marks a dimension without a coordinate so; row numbers for the bins would take more space than the bins.
_BARE_DIMENSION = "This is a netCDF dimension but not a netCDF variable."


class TableWriter:
    """The tables of an open, empty HDF5 file; `rows` is the number of rows that each has so far.

    `add_training` makes the tables of training runs. `check` is called after every append, to raise a failure of the
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
        self._datasets: dict[StoredTable, dict[str, h5py.Dataset]] = {}
        self._bare: dict[StoredTable, h5py.Dataset] = {}
        for table in TABLES:
            if table not in TRAINING:
                self._create(table)

    def add_training(self) -> None:
        """Make the tables of training runs unless they exist."""
        for table in TRAINING:
            if table not in self._datasets:
                self._create(table)

    def _create(self, table: StoredTable) -> None:
        group = self._file.create_group(table, track_order=True)
        columns = {column.name: _create_column(group, table, column) for column in TABLES[table]}
        if table in columns:
            scale = columns[table]
            scale.make_scale(table)
        else:
            scale = group.create_dataset(table, shape=(0,), maxshape=(None,), chunks=(_CHUNK_ROWS[table],), dtype=">f4")
            scale.make_scale(_BARE_DIMENSION)
            self._bare[table] = scale
        for name, dataset in columns.items():
            if name != table:
                dataset.dims[0].attach_scale(scale)
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
        for name, dataset in self._datasets[table].items():
            dataset.resize((end,))
            dataset[start:end] = arrays[name]
        if table in self._bare:
            self._bare[table].resize((end,))
        self.rows[table] = end
        self._check()


def arrays_of(table: StoredTable, columns: Mapping[str, Values]) -> dict[str, NDArray[Any]]:
    """Return the columns of some rows in the types of the file; raises `InputError` for a value that does not fit."""
    return {column.name: _array(table, column, columns[column.name]) for column in TABLES[table]}


def _create_column(group: h5py.Group, table: StoredTable, column: Column) -> h5py.Dataset:
    dataset = group.create_dataset(
        column.name,
        shape=(0,),
        maxshape=(None,),
        chunks=(_CHUNK_ROWS[table],),
        dtype=h5py.string_dtype("utf-8") if column.stored == "text" else column.stored,
        compression=_GZIP_LEVEL,
        shuffle=True,
    )
    dataset.attrs["long_name"] = column.meaning
    dataset.attrs["units"] = column.unit
    return dataset


def _array(table: StoredTable, column: Column, values: Values) -> NDArray[Any]:
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
