"""`open_tables`: the columns of a file, after checking that it is whole, written by propscope and not too new."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from propscope.errors import PropscopeError, StoreError
from propscope.records.network import Label
from propscope.store.columns import SharedText, StoredColumn, attribute, has_table, open_columns, read_rows
from propscope.store.journal import Journal, journals_of, target_of
from propscope.store.packed import PackedColumn
from propscope.store.run_journal import header_in, numbers_in_journal, rows_in_journal
from propscope.store.schema import FORMAT, SCHEMA_VERSION, TABLES, StoredTable, tables_of
from propscope.store.seal import open_sealed
from propscope.store.values import check_labels, check_values

Labels = dict[str, Label]

# The most rows whose text is held twice, as bytes and as str.
_BLOCK_ROWS = 1 << 15

# What h5py, json and the records raise for a file whose bytes are damaged.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class TableReader:
    """The columns of an open file, each of the right type, all columns of a table equally long.

    `datasets` lacks the tables of runs in a file without runs, and the columns that the file is too old for; such a
    column reads as missing in every row. `hidden`: the columns that `take` leaves out. `unfinished`: what the journal
    of a run says of it, "" for a file. Ranges of rows are half-open, from `start` to `stop`. Every method raises
    `StoreError` when the rows cannot be read.
    """

    path: str | os.PathLike[str]
    datasets: Mapping[StoredTable, Mapping[str, StoredColumn | PackedColumn]]
    hidden: frozenset[tuple[StoredTable, str]] = frozenset()
    unfinished: str = ""

    def rows(self, table: StoredTable) -> int:
        """Return the number of rows of a table; 0 for a table that the file lacks."""
        return int(self.datasets[table][TABLES[table][0].name].shape[0]) if table in self.datasets else 0

    def array(self, table: StoredTable, column: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows of one column, shape (stop - start,), text as bytes."""
        with reading(self.path):
            if not 0 <= start <= stop <= self.rows(table):
                raise ValueError(f"table {table} has {self.rows(table)} rows, but rows {start} to {stop} are asked for")
            return self.pick(table, column, np.arange(start, stop))

    def pick(self, table: StoredTable, column: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return these rows of one column, in any order, shape of `rows`, text as bytes."""
        with reading(self.path):
            if (dataset := self.datasets.get(table, {}).get(column)) is None:
                (absent,) = (entry for entry in TABLES[table] if entry.name == column)
                return np.full(len(rows), absent.missing, object if absent.stored == "text" else absent.stored)
            if not len(rows):
                return np.empty(0, dataset.dtype)
            return dataset[rows] if isinstance(dataset, (PackedColumn, SharedText)) else read_rows(dataset, rows)

    def take(
        self, table: StoredTable, rows: NDArray[np.int64], names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return these rows of the columns `names`, None for every one that is not hidden, text as str.

        The schema allows each value.
        """
        if names is None:
            names = [column.name for column in TABLES[table] if (table, column.name) not in self.hidden]
        with reading(self.path):
            if len(rows) and (rows.min() < 0 or rows.max() >= self.rows(table)):
                raise ValueError(
                    f"table {table} has {self.rows(table)} rows, but rows {rows.min()} to {rows.max()} are asked for"
                )
            blocks = np.split(rows, range(_BLOCK_ROWS, len(rows), _BLOCK_ROWS))
            parts = [self._checked(table, names, block) for block in blocks]
            return {name: np.concatenate([part.pop(name) for part in parts]) for name in names}

    def _checked(self, table: StoredTable, names: Sequence[str], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        arrays = {name: self.pick(table, name, rows) for name in names}
        for name, texts in check_values(table, arrays, rows).items():
            decoded = np.empty(len(rows), object)
            decoded[:] = [*map(texts.__getitem__, arrays[name].tolist())]
            arrays[name] = decoded
        return arrays

    def without(self, hidden: frozenset[tuple[StoredTable, str]]) -> TableReader:
        """Return the same tables without these columns: `take` neither reads nor checks them."""
        return replace(self, hidden=hidden)

    @property
    def training(self) -> bool:
        """Whether the file holds the tables of training runs."""
        return "run" in self.datasets

    @property
    def monitored(self) -> bool:
        """Whether the file holds the tables of a monitored run."""
        return "step" in self.datasets

    def labels(self, table: StoredTable, mentioning: Iterable[bytes] = ()) -> Iterator[tuple[int, Labels]]:
        """Yield the row and the labels of every profile or run; `mentioning`: of those whose JSON holds all of it.

        Profiles that belong to a training run are left out.
        """
        mentioned = list(mentioning)
        for start in range(0, self.rows(table), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, self.rows(table))
            texts = self.array(table, "labels", start, stop).tolist()
            at = list(range(stop - start))
            if table == "profile" and self.training:
                at = np.flatnonzero(self.array("profile", "run", start, stop) < 0).tolist()
            for token in mentioned:
                at = [row for row in at if token in texts[row]]
            with reading(self.path):
                # Parsing all labels in one call takes a third of the time of one call for each.
                try:
                    labels: list[Labels] = json.loads(b"[" + b",".join([texts[row] for row in at]) + b"]")
                except (ValueError, RecursionError):
                    labels = []
                if len(labels) != len(at) or set(map(type, labels)) - {dict} or any(map(check_labels, labels)):
                    for row in at:
                        check_values(table, {"labels": np.array([texts[row]], dtype=object)}, np.array([start + row]))
            yield from zip((start + row for row in at), labels, strict=True)


@contextmanager
def open_tables(path: str | os.PathLike[str]) -> Iterator[TableReader]:
    """Yield the tables of a file, or of the journal of the run that has yet to write it, which may go on meanwhile.

    Raises `StoreError` when it is missing, truncated, damaged, not propscope's or of a newer schema.
    """
    if (journal := journal_of(path)) is not None:
        with _journal_tables(journal) as tables:
            yield tables
        return
    _check_kind(path)
    # What the caller does with the tables may fail for reasons of its own, such as a full disk.
    with ExitStack() as stack:
        with reading(path):
            file = stack.enter_context(open_sealed(path))
            version = _check_schema(path, file)
            present = tables_of(partial(has_table, file), version)
            tables = TableReader(path, {table: open_columns(file, table, version) for table in present})
        yield tables


def journal_of(path: str | os.PathLike[str]) -> Journal | None:
    """Return the journal that a name stands for: its own, or that of a result file which is not there yet."""
    named = Path(path)
    names = [named] if target_of(named) != named else [] if os.path.lexists(named) else [*journals_of(named)]
    if len(names) > 1:
        listed = ", ".join(map(str, names))
        raise StoreError(f"there is no file {path}, but {len(names)} runs of it", hint=f"name one of {listed}")
    try:
        if names and names[0].is_file():
            return Journal.view(names[0])
    except StoreError:
        raise
    except FileNotFoundError:
        # The run has written its file just now.
        return None
    except OSError as error:
        raise StoreError(f"cannot read {names[0]}: {error.strerror}", hint="name a file that can be read") from error
    return None


@contextmanager
def _journal_tables(journal: Journal) -> Iterator[TableReader]:
    try:
        with reading(journal.path):
            header = header_in(journal[0]) if len(journal) else None
            if header is None:
                raise ValueError("no run says what it has to do")
            records = numbers_in_journal(journal)
            rows = rows_in_journal(journal, [records[number] for number in sorted(records)], records.__getitem__)
        said = f"{journal.path} is unfinished: {header.progress(len(records))}"
        yield TableReader(journal.path, rows.tables(monitored=not header.has_end), unfinished=said)
    finally:
        journal.close()


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what h5py, json or the records raise for damaged bytes into a `StoreError` that names `path`."""
    try:
        yield
    except PropscopeError:
        raise
    except _DAMAGE as error:
        # str() of a KeyError is its message in quotes.
        cause = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
        hint = "measure again, or restore a copy; h5py may still read parts of it"
        raise StoreError(f"{path} is truncated or damaged: {cause}", hint=hint) from error


def _check_kind(path: str | os.PathLike[str]) -> None:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISFIFO(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            # To open a FIFO waits until somebody writes to it.
            what = "it is a FIFO" if stat.S_ISFIFO(mode) else "it is not a regular file"
            raise StoreError(f"cannot read {path}: {what}", hint="name a file that propscope wrote")
        with Path(path).open("rb") as stream:
            empty = not stream.read(1)
    except StoreError:
        raise
    except FileNotFoundError as error:
        hint = "`propscope profile`, propscope.save(path, profiles) and propscope.monitor(..., file=path) write one"
        raise StoreError(f"there is no file {path}", hint=hint) from error
    except IsADirectoryError as error:
        raise StoreError(f"cannot read {path}: it is a directory", hint="name a result file in it") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}", hint="name a file that can be read") from error
    if empty or not h5py.is_hdf5(path):
        what = "it is empty" if empty else "it is not an HDF5 file"
        raise StoreError(f"cannot read {path}: {what}", hint="name a file that propscope wrote")


def _check_schema(path: str | os.PathLike[str], file: h5py.File) -> int:
    if attribute(file, "format") != FORMAT:
        raise StoreError(
            f"{path} is an HDF5 file that propscope did not write", hint="name a file that propscope wrote"
        )
    version = attribute(file, "schema_version")
    if not isinstance(version, (int, np.integer)):
        raise ValueError(f"attribute schema_version must be a whole number, got {version!r}")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} was written by propscope {attribute(file, 'propscope_version')} with schema {version}; "
            f"this propscope reads up to {SCHEMA_VERSION}",
            hint="pip install --upgrade propscope",
        )
    if version < 1:
        raise ValueError(f"schema_version is {version}")
    return int(version)
