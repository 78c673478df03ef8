"""`merge`: joins result files of any size into one, column by column."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError
from propscope.store.atomic import new_file
from propscope.store.schema import TABLES, Column, StoredTable
from propscope.store.table_reader import TableReader, open_tables, reading
from propscope.store.table_writer import TableWriter
from propscope.store.values import check_values

# The most rows that are copied at once, of every column of a table: some 40 MB of numbers and text.
_BLOCK_ROWS = 65536


def merge(paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write the profiles and training runs of all files in `paths`, in that order, to the one file `out`.

    Nothing is compared or dropped: `load(out)` is the sum of the loads. `out` may be one of `paths` when `overwrite`
    is true. Raises `StoreError` for an input that `load` would refuse or an output that `save` would refuse, and
    `InputError` when `paths` is empty or a single path.
    """
    if isinstance(paths, (str, os.PathLike)) or not (sources := list(paths)):
        raise InputError(f"paths must be a list of one or more result files, got {paths!r}", hint="merge([a, b], out)")
    with new_file(out, overwrite=overwrite) as (file, check):
        writer = TableWriter(file, check)
        for source in sources:
            with open_tables(source) as tables:
                _append(writer, tables)


def _append(writer: TableWriter, tables: TableReader) -> None:
    if tables.training:
        writer.add_training()
    base = dict(writer.rows)
    for table, columns in TABLES.items():
        rows = tables.rows(table)
        for start in range(0, rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, rows)
            held = {column.name: tables.array(table, column.name, start, stop) for column in columns}
            with reading(tables.path):
                check_values(table, held, start)
            writer.append(table, {column.name: _shifted(column, held[column.name], base) for column in columns})


def _shifted(column: Column, values: NDArray[Any], base: dict[StoredTable, int]) -> NDArray[Any]:
    return np.where(values < 0, values, values + base[column.refers]) if column.refers else values
