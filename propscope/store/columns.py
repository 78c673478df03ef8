"""`open_columns`: the datasets of a table that the schema names, and no others.

A result file may come from a stranger, and HDF5 follows what a file says: to other files (external storage and links,
virtual datasets), to filters that it loads as plugins, to memory that a few bytes claim. So a link is looked at before
it is followed, and the size of a dataset before it is read.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from propscope.store.schema import TABLES, TEXTS, Column, StoredTable

# deflate makes at most 1032 bytes of one (zlib's technical details, section 1).
_EXPANSION = 1032
# The largest chunk that HDF5 may hold in memory; propscope's own have 128 KiB.
_CHUNK_BYTES = 1 << 24
_FILTERS = {h5py.h5z.FILTER_DEFLATE: "deflate", h5py.h5z.FILTER_SHUFFLE: "shuffle"}
# A text column whose rows could hold more than this, were each as long as the file, is measured before it is read.
_TEXT_BYTES = 1 << 26
# HDF5 keeps 1 MB of each column that was read, which is 130 MB of a file; rows are read in order, so a chunk is enough.
_ACCESS = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
_ACCESS.set_chunk_cache(101, 1 << 17, 1.0)
# Of so many rows at least one is asked for where all of them are read.
_DENSE = 4
_LINKS = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}


@dataclass(frozen=True, slots=True)
class SharedText:
    """A text column of a monitored run: for each row the `numbers` of its text in `texts`, which has each text once."""

    numbers: h5py.Dataset
    texts: h5py.Dataset

    @property
    def shape(self) -> tuple[int]:
        """The number of rows."""
        shape: tuple[int] = self.numbers.id.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element, an object for text."""
        return np.dtype(object)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        numbers, which = np.unique(read_rows(self.numbers, rows), return_inverse=True)
        if numbers[-1] >= (there := self.texts.id.shape[0]):
            raise ValueError(f"column {self.numbers.name[1:]} has text {numbers[-1]} of {there}")
        return read_rows(self.texts, numbers.astype(np.int64))[which]


StoredColumn: TypeAlias = "h5py.Dataset | SharedText"


def has_table(file: h5py.File, table: StoredTable) -> bool:
    """Return whether the file has an entry of a table's name, without following it."""
    return bool(file.id.links.exists(table.encode()))


def open_columns(file: h5py.File, table: StoredTable, version: int) -> dict[str, StoredColumn]:
    """Return the columns of a table that a file of this schema version has, each checked, all equally long.

    Raises `ValueError` for a column that is missing, lies outside the file, is of another type or rank than the schema
    says, or claims more rows than its stored bytes can hold.
    """
    if not has_table(file, table):
        raise ValueError(f"table {table} is missing")
    _check_link(file.id, table, f"table {table}")
    try:
        group = h5py.h5g.open(file.id, table.encode())
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"table {table} is not a group") from error
    runs = has_table(file, "run")
    texts = None
    if file.id.links.exists(TEXTS.encode()):
        texts = _open_dataset(file.id, TEXTS, f"dataset {TEXTS}", ("text",))
    columns = {
        column.name: _open_column(group, table, column, texts)
        for column in TABLES[table]
        if column.since <= version and not (column.optional and not runs)
    }
    first = TABLES[table][0].name
    rows = columns[first].shape[0]
    for name, dataset in columns.items():
        if (found := dataset.shape[0]) != rows:
            raise ValueError(f"table {table} has {rows} rows of {first} and {found} of {name}")
    return columns


def attribute(file: h5py.File, name: str) -> Any:
    """Return one attribute of the root group, a whole number or text; None where there is none.

    Raises `ValueError` for an attribute of another type, or with more than one element.
    """
    if not h5py.h5a.exists(file.id, name.encode()):
        return None
    handle = h5py.h5a.open(file.id, name.encode())
    right = handle.dtype.kind in "iu" or h5py.check_string_dtype(handle.dtype) is not None
    if handle.shape != () or handle.get_storage_size() > 1024 or not right:
        raise ValueError(
            f"attribute {name} must be one whole number or text, got shape {handle.shape} of {handle.dtype}"
        )
    return file.attrs[name]


def _check_link(group: Any, name: str, what: str) -> None:
    if (kind := group.links.get_info(name.encode()).type) != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{what} is {_LINKS.get(kind, 'a link of another program')}, which is not followed")


def _open_column(
    group: h5py.h5g.GroupID, table: StoredTable, column: Column, texts: h5py.h5d.DatasetID | None
) -> StoredColumn:
    shared = texts is not None and column.stored == "text"
    stored = (column.stored, "uint32") if shared else (column.stored,)
    handle = _open_dataset(group, column.name, f"column {table}/{column.name}", stored, column)
    if shared and handle.dtype.kind == "u":
        return SharedText(h5py.Dataset(handle), h5py.Dataset(texts))
    return h5py.Dataset(handle)


def _open_dataset(
    group: Any, name: str, what: str, stored: tuple[str, ...], column: Column | None = None
) -> h5py.h5d.DatasetID:
    """Return a dataset that is 1-D, of one of these types, and no larger than its stored bytes can hold.

    Rows of a column may take none where they are missing. Raises `ValueError` for any other entry of the name.
    """
    if not group.links.exists(name.encode()):
        raise ValueError(f"{what} is missing")
    _check_link(group, name, what)
    try:
        # group[name] takes twice as long, since it first asks for the kind of the object; there are a hundred columns.
        handle = h5py.h5d.open(group, name.encode(), _ACCESS)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{what} is not a dataset") from error
    # Each of these is made anew when it is asked for.
    made, kind, shape = handle.get_create_plist(), handle.get_type(), handle.shape
    dtype = kind.dtype
    _check_storage(made, what)
    text = h5py.check_string_dtype(dtype)
    right = dtype in stored if text is None else text.length is None and "text" in stored
    dimensions = len(shape or ())
    if dimensions != 1 or not right or kind.committed():
        raise ValueError(f"{what} must be 1-D of {stored[0]}, got {dimensions}-D of {dtype}")
    rows, width = shape[0], kind.get_size()
    chunk = width * made.get_chunk()[0] if made.get_layout() == h5py.h5d.CHUNKED else 0
    if chunk > _CHUNK_BYTES:
        raise ValueError(f"{what} has chunks of {chunk:,} bytes; at most {_CHUNK_BYTES:,} are read")
    held = handle.get_storage_size()
    if rows * width > _EXPANSION * held + chunk and not (column and _fills(made, column)):
        raise ValueError(f"{what} has {rows:,} rows in {held:,} stored bytes, which cannot hold so many")
    return handle


def _fills(made: h5py.h5p.PropDCID, column: Column) -> bool:
    """Return whether rows that take no space are missing; the table's first column says how many they are."""
    by_user = made.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
    if column.missing is None or column.stored == "text" or not by_user:
        return False
    found = np.zeros((), column.stored)
    made.get_fill_value(found)
    return bool(np.array_equal(found, np.array(column.missing, column.stored), equal_nan=True))


def _check_storage(made: h5py.h5p.PropDCID, what: str) -> None:
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise ValueError(f"{what} keeps its values in another file, which is not opened")
    for index in range(made.get_nfilters()):
        code, _, _, name = made.get_filter(index)
        if code not in _FILTERS:
            raise ValueError(
                f"{what} must be stored with {' and '.join(_FILTERS.values())} or plainly, got the filter "
                f'"{name.decode(errors="replace")}" ({code})'
            )


def read_rows(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return these rows of a dataset, at least one, in any order; text is bytes."""
    dtype = dataset.dtype
    if dtype.kind == "O":
        check_text(dataset, rows)
    space, first = dataset.id.get_space(), int(rows.min())
    beyond = int(rows.max()) + 1 - first
    in_order = beyond == len(rows) and (np.diff(rows) == 1).all()
    # Rows one after the other are read a hundred times as fast as single ones: the rows between cost less. No text is
    # among those, whose length has not been checked.
    together = in_order or (dtype.kind != "O" and beyond <= _DENSE * len(rows))
    count = beyond if together else len(rows)
    if together:
        space.select_hyperslab((first,), (count,))
    else:
        # One reading of scattered rows takes a tenth of the time of one for each run of neighbours.
        space.select_elements(rows.astype(np.uint64)[:, None])
    values = np.empty(count, dtype)
    dataset.id.read(h5py.h5s.create_simple((count,)), space, values, h5py.h5t.py_create(dtype))
    return values[rows - first] if together and not in_order else values


def check_text(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> None:
    """Raise `ValueError` where rows of a text column, read together, are longer than the whole file.

    Rows of a hostile file may all point to one long text, so that a small file fills the memory.
    """
    size = dataset.file.id.get_filesize()
    if rows.size * size <= _TEXT_BYTES:
        return
    total = _text_bytes(dataset, rows)
    if total > size:
        raise ValueError(f"column {dataset.name[1:]} has {total:,} bytes of text in a file of {size:,} bytes")


def _text_bytes(dataset: h5py.Dataset, rows: NDArray[np.int64]) -> int:
    """Return the summed length of the texts of some rows, from the heads of their heap references."""
    if not dataset.chunks:
        raise ValueError(f"column {dataset.name[1:]} must be stored in chunks")
    made, chunk = dataset.id.get_create_plist(), dataset.chunks[0]
    filters = [made.get_filter(index)[0] for index in range(made.get_nfilters())]
    # In the file a text is its length (4 bytes), the address of its heap, and its number there (4 bytes).
    width = 8 + dataset.file.id.get_create_plist().get_sizes()[0]
    total = 0
    at = np.sort(rows)
    owners, starts = np.unique(at // chunk, return_index=True)
    for first, own_rows in zip((owners * chunk).tolist(), np.split(at, starts[1:]), strict=True):
        if dataset.id.get_chunk_info_by_coord((first,)).byte_offset is None:
            continue
        mask, raw = dataset.id.read_direct_chunk((first,))
        applied = [code for index, code in enumerate(filters) if not mask >> index & 1]
        # Shuffled, the first bytes of all references come first, then the second ones: the lengths before all else.
        own = 4 if applied == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE] else width
        for code in reversed(applied):
            if code == h5py.h5z.FILTER_DEFLATE:
                raw = zlib.decompressobj().decompress(raw, chunk * own)
            else:
                raw = np.frombuffer(raw, np.uint8).reshape(own, -1).T.tobytes()
        lengths = np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(-1, own)[:, :4]).view("<u4").ravel()
        total += int(lengths[own_rows - first].sum(dtype=np.int64))
    return total
