"""`pack`: one profile or training run as bytes, for a journal; `PackedRows`: the rows of many, as of one result file.

The bytes are numbers of 8 bytes, little-endian as all numbers: of each table the number of rows, of each the bytes of
its text, and the bytes of a count. Then follow, table by table, its columns of text as JSON, those of float64, and
those of int64; of histogram, the bins and the counts. Row numbers start from 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.records.figures import SUMMARIES
from propscope.records.kept_sample import shortened
from propscope.store.atomic import new_file
from propscope.store.schema import MONITORED, SCHEMA_VERSION, TABLES, StoredTable, tables_of
from propscope.store.table_writer import TableWriter, array_of, arrays_of
from propscope.store.write import Kept, RowBatch, append_rows

_HEAD = 8 * (2 * len(TABLES) + 1)
_DTYPES = {"float64": "<f8", "int64": "<i8"}
_NAMES = {
    table: {stored: [c.name for c in columns if c.stored == stored] for stored in (*_DTYPES, "text")}
    for table, columns in TABLES.items()
}
_SIZES = {table: sum(8 * len(_NAMES[table][stored]) for stored in _DTYPES) for table in TABLES}
# The most rows of a table that are read at once; more than `TableReader.take` asks for at once, of entries cut by it.
_ROWS = 1 << 16
# The most bytes of packed entries that are written at once.
_WRITTEN = 1 << 22

Columns = dict[str, NDArray[Any]]


def pack(entry: Kept, *, short: bool = False) -> bytes:
    """Return a profile or a run, with its profiles, as bytes; raises `InputError` as `save` does.

    `short`: numbers of sites and parameters are kept as `shortened` makes them.
    """
    batch = RowBatch(dict.fromkeys(TABLES, 0))
    batch.add_entry(entry)
    rows, lengths = dict.fromkeys(TABLES, 0), dict.fromkeys(TABLES, 0)
    parts: list[bytes] = []
    for table, entries in batch.rows.items():
        if entries:
            names = _NAMES[table]
            texts = [
                array_of(table, column, [row[column.name] for row in entries]).tolist()
                for column in TABLES[table]
                if column.stored == "text"
            ]
            text = json.dumps(texts, ensure_ascii=False).encode()
            rows[table], lengths[table] = len(entries), len(text)
            parts.append(text)
            for stored, dtype in _DTYPES.items():
                # np.array of the rows takes three times as long.
                values = chain.from_iterable(map(itemgetter(*names[stored]), entries))
                try:
                    flat = np.fromiter(values, dtype, len(entries) * len(names[stored]))
                except (OverflowError, TypeError, ValueError):
                    arrays_of(table, {name: [row[name] for row in entries] for name in entries[0]})
                    raise
                if short and stored == "float64" and table in SUMMARIES:
                    flat = shortened(flat)
                parts.append(flat.reshape(len(entries), -1).T.tobytes())
    counted = 8
    if batch.histograms:
        bins = np.concatenate([histogram.bins for histogram in batch.histograms], dtype="<u2")
        counts = np.concatenate([histogram.counts for histogram in batch.histograms])
        # Half the bytes to digest and to write.
        counted = 4 if counts.max(initial=0) < 2**32 else 8
        rows["histogram"] = bins.size
        parts += [bins.tobytes(), counts.astype(f"<u{counted}").tobytes()]
    return b"".join([np.array([*rows.values(), *lengths.values(), counted], "<u8").tobytes(), *parts])


def save_rows(path: str | os.PathLike[str], rows: PackedRows, *, overwrite: bool, run: str) -> None:
    """Write a file of the rows as `save` does, with the attribute `run` unless it is empty; a block is read at a time.

    Raises `ValueError` for bytes that `pack` did not make.
    """
    with new_file(path, overwrite=overwrite) as (file, check):
        tables = [*rows.tables()]
        expected = {table: rows.rows(table) for table in tables}
        writer = TableWriter(file, check, monitored=MONITORED[0] in tables, expected=expected)
        if run:
            file.attrs["run"] = run
        writer.make(tables)
        for entries in rows.blocks():
            append_rows(writer, {table: rows.columns(table, entries) for table in tables})


class PackedRows:
    """The rows of packed entries, numbered as in a file that holds the entries in this order.

    `sizes`: the bytes of each entry; `part(entry, start, stop)` returns some of them. Of each table the block that was
    read last is kept. Every method raises `ValueError` for bytes that `pack` did not make.
    """

    def __init__(self, sizes: Sequence[int], part: Callable[[int, int, int], bytes]) -> None:
        self._part = part
        head = b"".join(part(entry, 0, _HEAD) for entry in range(len(sizes)))
        heads = np.frombuffer(head, "<u8").reshape(len(sizes), _HEAD // 8).astype(np.int64)
        rows, text, counted = heads[:, : len(TABLES)], heads[:, len(TABLES) : -1], heads[:, -1]
        widths = np.array([_SIZES[table] for table in TABLES])
        widths = np.where(widths == 0, 2 + counted[:, None], widths)
        possible = (heads >= 0).all(1) & (heads < 2**40).all(1) & np.isin(counted, (4, 8))
        self._sizes = np.array(sizes, np.int64)
        size = _HEAD + (rows * widths).sum(1) + text.sum(1)
        if len(wrong := np.flatnonzero(~possible | (size != self._sizes))):
            raise ValueError(f"record {wrong[0] + 1} has not the rows that it says")
        self._counted = counted
        self._text = dict(zip(TABLES, text.T, strict=True))
        # The first row of each entry, and behind the last one the number of rows.
        self._bounds = {table: np.concatenate([[0], np.cumsum(own)]) for table, own in zip(TABLES, rows.T, strict=True)}
        self._last: dict[StoredTable, tuple[bytes, Columns]] = {}

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """Yield all entries, in order, a few at a time."""
        for block in blocks_of(self._sizes, _WRITTEN):
            yield np.arange(block.start, block.stop)

    def rows(self, table: StoredTable) -> int:
        """Return the number of rows of a table."""
        return int(self._bounds[table][-1])

    def tables(self) -> dict[StoredTable, dict[str, PackedColumn]]:
        """Return the columns of the tables; those of training runs only where there are runs, and so on."""
        present = tables_of(lambda table: self.rows(table) > 0, SCHEMA_VERSION)
        return {
            table: {column.name: PackedColumn(self, table, column.name, column.stored) for column in TABLES[table]}
            for table in present
        }

    def columns(self, table: StoredTable, entries: NDArray[np.int64]) -> Columns:
        """Return all columns of the rows of some entries; text is bytes."""
        counts = np.diff(self._bounds[table])[entries]
        parts = [self._unpacked(table, entry) for entry in entries.tolist()]
        found: Columns = {}
        if table == "histogram":
            found["bin"] = np.concatenate([np.empty(0, np.uint16), *(bins for bins, _ in parts)], dtype=np.uint16)
            found["count"] = np.concatenate([np.empty(0, np.uint64), *(number for _, number in parts)], dtype=np.uint64)
            return found
        for at, (stored, dtype) in enumerate(_DTYPES.items(), 1):
            names = _NAMES[table][stored]
            values = np.concatenate([np.empty((len(names), 0), dtype), *(part[at] for part in parts)], axis=1)
            found |= zip(names, values.astype(stored, copy=False), strict=True)
        for at, name in enumerate(_NAMES[table]["text"]):
            found[name] = np.empty(int(counts.sum()), object)
            found[name][:] = [text.encode() for part in parts for text in part[0][at]]
        for column in TABLES[table]:
            if column.refers:
                moved = np.repeat(self._bounds[column.refers][entries], counts)
                found[column.name] = np.where(found[column.name] < 0, found[column.name], found[column.name] + moved)
        return found

    def pick(self, table: StoredTable, column: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return these rows of a column, in any order."""
        (stored,) = (each.stored for each in TABLES[table] if each.name == column)
        found = np.empty(len(rows), object if stored == "text" else stored)
        bounds = self._bounds[table]
        owners, which = np.unique(np.searchsorted(bounds, rows, side="right") - 1, return_inverse=True)
        counts = np.diff(bounds)[owners]
        for block in blocks_of(counts, _ROWS):
            columns = self._cached(table, owners[block])
            first = np.cumsum(counts[block]) - counts[block]
            here = np.flatnonzero((which >= block.start) & (which < block.stop))
            own = which[here]
            found[here] = columns[column][first[own - block.start] + rows[here] - bounds[owners[own]]]
        return found

    def _cached(self, table: StoredTable, entries: NDArray[np.int64]) -> Columns:
        key = entries.tobytes()
        if self._last.get(table, (b"",))[0] != key:
            self._last.pop(table, None)
            self._last[table] = key, self.columns(table, entries)
        return self._last[table][1]

    def _unpacked(self, table: StoredTable, entry: int) -> Sequence[Any]:
        """Return the text and the numbers of an entry's rows; of histogram its bins and counts."""
        start = _HEAD
        for before in TABLES:
            if before == table:
                break
            start += int(self._text[before][entry]) + _SIZES[before] * self._of(before, entry)
        rows, text = self._of(table, entry), int(self._text[table][entry])
        if table == "histogram":
            raw = self._part(entry, start, start + rows * (2 + int(self._counted[entry])))
            return np.frombuffer(raw, "<u2", rows), np.frombuffer(raw, f"<u{self._counted[entry]}", rows, 2 * rows)
        raw = self._part(entry, start, start + text + _SIZES[table] * rows)
        names = _NAMES[table]
        texts = json.loads(raw[:text]) if rows else [[] for _ in names["text"]]
        if [len(each) for each in texts] != [rows] * len(names["text"]):
            raise ValueError(f"a record has not {rows} texts in each column of table {table}")
        found: list[Any] = [texts]
        for stored, dtype in _DTYPES.items():
            values = np.frombuffer(raw, dtype, rows * len(names[stored]), text).reshape(len(names[stored]), rows)
            found.append(values)
            text += values.nbytes
        return found

    def _of(self, table: StoredTable, entry: int) -> int:
        return int(self._bounds[table][entry + 1] - self._bounds[table][entry])


@dataclass(frozen=True, slots=True)
class PackedColumn:
    """A column of packed entries, which is read when rows of it are asked for."""

    _rows: PackedRows
    _table: StoredTable
    _name: str
    _stored: str

    @property
    def shape(self) -> tuple[int]:
        """The number of rows."""
        return (self._rows.rows(self._table),)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element, an object for text."""
        return np.dtype(object if self._stored == "text" else self._stored)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._rows.pick(self._table, self._name, rows)


def blocks_of(sizes: NDArray[np.int64], most: int) -> list[slice]:
    """Return ranges of neighbours whose sizes add up to at most so much, or that are one alone."""
    edges, total = [0], 0
    for at, size in enumerate(sizes.tolist()):
        if total + size > most and at > edges[-1]:
            edges.append(at)
            total = 0
        total += size
    return [slice(*pair) for pair in zip(edges, [*edges[1:], len(sizes)], strict=True) if pair[0] < pair[1]]
