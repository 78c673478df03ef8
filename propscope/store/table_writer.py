"""`TableWriter`: creates the columns of a new file and appends rows to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias, get_args

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
    SHARING,
    TABLES,
    TEXTS,
    Column,
    StoredTable,
    StoredType,
    tables_of,
)

Values = Sequence[Any] | NDArray[Any]

# "uint32" is text by its number.
_Kind: TypeAlias = 'StoredType | Literal["uint32"]'
_KINDS: tuple[_Kind, ...] = (*get_args(StoredType), "uint32")
_DTYPES = {kind: h5py.string_dtype("utf-8") if kind == "text" else np.dtype(kind) for kind in _KINDS}
_IN_FILE = {kind: h5t.py_create(dtype, logical=True) for kind, dtype in _DTYPES.items()}
_IN_MEMORY = {kind: h5t.py_create(dtype) for kind, dtype in _DTYPES.items()}

# benches/store.py: smaller chunks make one profile load faster, larger ones make the file smaller. Level 2 is as fast
# as 1 on counts and 2% smaller; 4 is 40% slower for another 4%.
_CHUNK_ROWS, _BIN_CHUNK_ROWS = 1024, 16384
# What is the same in every sample of a run costs some bytes a chunk, which add up in a table of many rows.
_LONG_TABLE, _LONG_CHUNK_ROWS = 1 << 15, 8192
_GZIP_LEVEL = 2
# The most texts that are remembered, and their length; what is longer is rarely met again.
_REMEMBERED, _LONGEST = 1 << 16, 1 << 12
# HDF5 keeps 1 MB of each of 190 columns; rows are only appended, so one chunk is enough.
_ACCESS = h5p.create(h5p.DATASET_ACCESS)
_ACCESS.set_chunk_cache(11, 1 << 17, 1.0)

# netCDF marks a dimension without a coordinate so; row numbers for the bins would take more space than the bins.
_BARE_DIMENSION = "This is a netCDF dimension but not a netCDF variable."


class TableWriter:
    """The tables of an open, empty HDF5 file; `rows` is the number of rows that each has so far.

    `make` makes the tables that not every file has. `check` is called after every append, to raise a failure of the
    disk that HDF5 does not report. `monitored`: whether the file holds a monitored run, whose samples share their text.
    `expected`: about how many rows a table will have, where that is known.
    """

    def __init__(
        self,
        file: h5py.File,
        check: Callable[[], None],
        *,
        monitored: bool = False,
        expected: Mapping[StoredTable, int] | None = None,
    ) -> None:
        self._file = file
        self._check = check
        self._expected = expected or {}
        self._texts = _Texts(file) if monitored else None
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
        long = self._texts is not None and self._expected.get(table, 0) >= _LONG_TABLE
        chunk = _BIN_CHUNK_ROWS if table == "histogram" else _LONG_CHUNK_ROWS if long else _CHUNK_ROWS
        columns = _create_columns(group.id, table, chunk, shared=self._texts is not None and table in SHARING)
        if table in columns:
            scale = columns[table]
            h5ds.set_scale(scale, table.encode())
        else:
            bare = group.create_dataset(table, shape=(0,), maxshape=(None,), chunks=(chunk,), dtype=">f4")
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
            values = arrays[column.name]
            stored: _Kind = column.stored
            if stored == "text" and self._texts is not None and table in SHARING:
                values, stored = self._texts.numbers(values), "uint32"
            elif stored != "text" and column.missing is not None and _all_missing(values, column.missing):
                # The fill value says so, and takes no space.
                continue
            place = dataset.get_space()
            place.select_hyperslab((start,), (end - start,))
            dataset.write(added, place, values, _IN_MEMORY[stored])
        if table in self._bare:
            self._bare[table].resize((end,))
        self.rows[table] = end
        self._check()


def arrays_of(table: StoredTable, columns: Mapping[str, Values]) -> dict[str, NDArray[Any]]:
    """Return the columns of some rows in the types of the file; raises `InputError` for a value that does not fit."""
    return {column.name: array_of(table, column, columns[column.name]) for column in TABLES[table]}


class _Texts:
    """The dataset that has each text of a file once."""

    def __init__(self, file: h5py.File) -> None:
        made = _creation(_CHUNK_ROWS)
        self._dataset = h5d.create(file.id, TEXTS.encode(), _IN_FILE["text"], _growing(), made, dapl=_ACCESS)
        # Else netCDF's readers would warn that it has no dimension.
        h5ds.set_scale(self._dataset, TEXTS.encode())
        self._numbers: dict[str | bytes, int] = {}
        self._count = 0

    def numbers(self, texts: NDArray[np.object_]) -> NDArray[np.uint32]:
        """Return the number of each text, after writing those that are new; text is str or UTF-8 bytes."""
        listed = texts.tolist()
        if new := [text for text in dict.fromkeys(listed) if text not in self._numbers]:
            if len(self._numbers) + len(new) > _REMEMBERED:
                self._numbers, new = {}, [*dict.fromkeys(listed)]
            self._numbers.update(zip(new, range(self._count, self._count + len(new)), strict=True))
            self._write(new)
        found = np.fromiter(map(self._numbers.__getitem__, listed), np.uint32, len(listed))
        for text in new:
            if len(text) > _LONGEST:
                del self._numbers[text]
        return found

    def _write(self, new: Sequence[str | bytes]) -> None:
        start, self._count = self._count, self._count + len(new)
        self._dataset.set_extent((self._count,))
        place = self._dataset.get_space()
        place.select_hyperslab((start,), (len(new),))
        values = np.empty(len(new), object)
        values[:] = new
        self._dataset.write(h5s.create_simple((len(new),)), place, values, _IN_MEMORY["text"])


def _all_missing(values: NDArray[Any], missing: Any) -> bool:
    # NaN does not equal itself.
    return bool((values == missing).all() if missing == missing else np.isnan(values).all())


def _growing() -> h5s.SpaceID:
    return h5s.create_simple((0,), (h5s.UNLIMITED,))


def _creation(chunk: int) -> h5p.PropDCID:
    made = h5p.create(h5p.DATASET_CREATE)
    made.set_chunk((chunk,))
    made.set_shuffle()
    made.set_deflate(_GZIP_LEVEL)
    made.set_fill_time(h5d.FILL_TIME_IFSET)
    made.set_obj_track_times(False)
    return made


def _create_columns(group: h5g.GroupID, table: StoredTable, chunk: int, *, shared: bool) -> dict[str, h5d.DatasetID]:
    # `create_dataset` and `attrs` make the same bytes and take more than twice as long, for 140 columns a file.
    empty, single = _growing(), h5s.create(h5s.SCALAR)
    columns = {}
    for column in TABLES[table]:
        made = _creation(chunk)
        stored: _Kind = column.stored
        if stored == "text":
            stored = "uint32" if shared else stored
        elif column.missing is not None:
            made.set_fill_value(np.array(column.missing, stored))
        dataset = h5d.create(group, column.name.encode(), _IN_FILE[stored], empty, made, dapl=_ACCESS)
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
