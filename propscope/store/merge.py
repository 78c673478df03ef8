"""`merge`: joins result files of any size into one, column by column."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError
from propscope.records.figures import SUMMARIES
from propscope.store.atomic import new_file
from propscope.store.schema import MONITORED, TABLES, TRAINING, Column, StoredTable
from propscope.store.table_reader import TableReader, open_tables, reading
from propscope.store.table_writer import TableWriter
from propscope.store.values import check_values

Mask = NDArray[np.bool_]

# The most rows that are copied at once, of every column of a table: some 40 MB of numbers and text.
_BLOCK_ROWS = 65536


def merge(
    paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str], *, overwrite: bool = False
) -> list[tuple[int, int]]:
    """Write the profiles and training runs of all files in `paths`, in that order, to the one file `out`.

    A run or profile that is there already is left out: one whose labels, provenance (with its time of measurement) and
    every other value of its row are those of an earlier one. One without a time of measurement is always kept. A file
    holds one monitored run, of which each file may have a part. Returns for each file how many runs and how many
    profiles outside runs were left out.

    `out` may be one of `paths` when `overwrite` is true. Raises `StoreError` for an input that `load` would refuse or
    an output that `save` would refuse, and `InputError` when `paths` is empty or a single path, and where two files
    have a step of the same number that is not the same step.
    """
    if isinstance(paths, (str, os.PathLike)) or not (sources := list(paths)):
        raise InputError(f"paths must be a list of one or more result files, got {paths!r}", hint="merge([a, b], out)")
    with new_file(out, overwrite=overwrite) as (file, check):
        writer = TableWriter(file, check, monitored=any(map(_monitored, sources)))
        identities: set[bytes] = set()
        stepped: dict[int, str | os.PathLike[str]] = {}
        left_out: list[tuple[int, int]] = []
        for source in sources:
            with open_tables(source) as tables:
                if tables.unfinished:
                    warnings.warn(tables.unfinished, stacklevel=2)
                left_out.append(_append(writer, tables, identities, stepped, source))
    return left_out


def _monitored(source: str | os.PathLike[str]) -> bool:
    with open_tables(source) as tables:
        return tables.monitored


def _append(
    writer: TableWriter,
    tables: TableReader,
    identities: set[bytes],
    stepped: dict[int, str | os.PathLike[str]],
    source: str | os.PathLike[str],
) -> tuple[int, int]:
    with reading(tables.path):
        runs, loose = _repeated(tables, "run", identities), _repeated(tables, "profile", identities)
        monitored = {table: _repeated(tables, table, identities) for table in MONITORED}
        new = _new_steps(tables, monitored["step"])
        repeated = any(each.any() for each in (runs, loose, *monitored.values()))
        masks = _kept(tables, runs, loose, monitored) if repeated else None
    if both := new & stepped.keys():
        raise InputError(
            f"{source} and {stepped[min(both)]} are two monitored runs: both have a step {min(both)}, and it differs",
            hint="leave each run in its own file",
        )
    stepped.update(dict.fromkeys(new, source))
    if tables.training and (masks is None or masks["run"].any()):
        writer.make(TRAINING)
    if tables.monitored:
        writer.make(MONITORED)
    base = dict(writer.rows)
    for table, columns in TABLES.items():
        rows = tables.rows(table)
        for start in range(0, rows, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, rows)
            block = {column.name: tables.array(table, column.name, start, stop) for column in columns}
            with reading(tables.path):
                check_values(table, block, np.arange(start, stop))
            mask = slice(None) if masks is None else masks[table][start:stop]
            writer.append(table, {c.name: _shifted(c, block[c.name][mask], base, masks) for c in columns})
    return int(runs.sum()), int(loose.sum())


def _shifted(
    column: Column, values: NDArray[Any], base: dict[StoredTable, int], masks: Mapping[StoredTable, Mask] | None
) -> NDArray[Any]:
    if not column.refers:
        return values
    moved = values
    if masks is not None:
        # Where each row comes to stand; an empty range may start behind the last one.
        place = np.concatenate([[0], np.cumsum(masks[column.refers])])
        moved = place[np.clip(values, 0, len(place) - 1)]
    return np.where(values < 0, values, moved + base[column.refers])


def _new_steps(tables: TableReader, repeated: Mask) -> set[int]:
    """Return the numbers of the steps that stand and that no earlier file had."""
    rows = tables.rows("step")
    numbers, superseded = (tables.array("step", name, 0, rows) for name in ("number", "superseded"))
    return set(numbers[~repeated & (superseded == 0)].tolist()) if rows else set()


def _repeated(tables: TableReader, table: StoredTable, identities: set[bytes]) -> Mask:
    """Return which rows were seen before, in this file or an earlier one, and add the others to `seen`."""
    rows = tables.rows(table)
    repeated = np.zeros(rows, bool)
    if not rows:
        return repeated
    columns = [column.name for column in TABLES[table] if not column.refers]
    values = [tables.array(table, name, 0, rows).tolist() for name in columns]
    # The time that a step took is as good as the time when it was measured, and an alarm is about one step.
    times = tables.array(table, "created", 0, rows).tolist() if table in ("run", "profile") else [True] * rows
    owners = tables.array("profile", "run", 0, rows).tolist() if table == "profile" else [-1] * rows
    for row, entry in enumerate(zip(*values, strict=True)):
        # A profile of a run goes where its run goes.
        if times[row] and owners[row] < 0:
            identity = hashlib.blake2b(repr((table, entry)).encode(), digest_size=16).digest()
            repeated[row] = identity in identities
            identities.add(identity)
    return repeated


def _kept(
    tables: TableReader, runs: Mask, loose: Mask, monitored: Mapping[StoredTable, Mask]
) -> dict[StoredTable, Mask]:
    """Return the rows of every table that belong to no run and no profile that is left out."""

    def owned(table: StoredTable, owner: StoredTable, left_out: Mask) -> Mask:
        owners = tables.array(table, owner, 0, tables.rows(table))
        if owners.size and owners.max() >= left_out.size:
            raise ValueError(f"table {table} refers to row {owners.max()} of {owner}, which has {left_out.size} rows")
        mask: Mask = (owners < 0) | ~np.append(left_out, False)[owners]
        return mask

    masks: dict[StoredTable, Mask] = {table: ~repeated for table, repeated in monitored.items()}
    masks |= {"run": ~runs, "epoch": owned("epoch", "run", runs)}
    masks["profile"] = ~loose & owned("profile", "run", runs)
    bounds = np.zeros(tables.rows("histogram") + 1, np.int64)
    for table, directions in SUMMARIES.items():
        masks[table] = owned(table, "profile", ~masks["profile"])
        for direction in directions:
            start, length = (
                tables.array(table, f"{direction}_histogram_{name}", 0, tables.rows(table))[masks[table]]
                for name in ("start", "length")
            )
            start, length = start[length > 0], length[length > 0]
            np.add.at(bounds, start, 1)
            np.add.at(bounds, start + length, -1)
    masks["histogram"] = np.cumsum(bounds)[:-1] > 0
    return masks
