"""`pack`: one profile or training run as bytes, for a journal; `PackedRows`: the rows of many, as of one result file.

The bytes are numbers of 8 bytes, little-endian as all numbers: of each table the number of rows, of each the bytes of
its text, the bytes of a count, and the number of the entry that this one is like, from 1, 0 for none. Then a byte for
each column of numbers: the bytes of one of its numbers, 0 where the column is that of the other entry. Then follow,
table by table, its columns of text as JSON, null where it is that of the other entry, those of float64, and those of
int64; of histogram, the bins and the counts. Row numbers start from 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.records.figures import SUMMARIES
from propscope.records.histogram import LogHistogram
from propscope.records.kept_sample import shortened
from propscope.records.monitored import MonitoredRun
from propscope.store.atomic import new_file
from propscope.store.schema import MONITORED, SCHEMA_VERSION, SHARING, TABLES, StoredTable, tables_of
from propscope.store.table_writer import TableWriter, array_of, arrays_of
from propscope.store.write import Kept, RowBatch, append_rows

_DTYPES = {"float64": "<f8", "int64": "<i8"}
_NARROW = {"float64": "<f4", "int64": "<i4"}
_NAMES = {
    table: {stored: [c.name for c in columns if c.stored == stored] for stored in (*_DTYPES, "text")}
    for table, columns in TABLES.items()
}
# The columns of numbers of each table, in their order in the bytes, and where they begin among those of all tables.
_NUMBERS = {table: [(name, stored) for stored in _DTYPES for name in names[stored]] for table, names in _NAMES.items()}
_ENDS = np.cumsum([len(numbers) for numbers in _NUMBERS.values()]).tolist()
_PLACES = {table: slice(end - len(_NUMBERS[table]), end) for table, end in zip(TABLES, _ENDS, strict=True)}
_COUNTS = 2 * len(TABLES) + 2
_HEAD = 8 * _COUNTS + _ENDS[-1]
# The most rows of a table that are read at once; more than `TableReader.take` asks for at once, of entries cut by it.
_ROWS = 1 << 16
# The most bytes of packed entries that are written at once.
_WRITTEN = 1 << 22
# The most entries like which others are that are remembered.
_REMEMBERED = 16

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Table:
    """The rows of one table: columns of text, and numbers of each type, shape (columns, rows)."""

    texts: list[list[str]]
    numbers: Mapping[str, NDArray[Any]]


def pack(entry: Kept) -> bytes:
    """Return a profile or a run, with its profiles, as bytes; raises `InputError` as `save` does."""
    tables, histograms = _tables(entry, short=False)
    return _packed(tables, histograms, {}, 0)


class RunPacker:
    """Packs the pieces of a monitored run one after the other, as `pack` does, without what an earlier one has.

    Numbers of sites and parameters are kept as `shortened` makes them.
    """

    def __init__(self) -> None:
        # The entries like which others are, by what these must have in common: the rows of each table, and histograms.
        self._wholes: dict[tuple[int, ...], tuple[int, Mapping[StoredTable, _Table]]] = {}

    def pack(self, number: int, piece: MonitoredRun) -> bytes:
        """Return the piece of this number in the run as bytes; raises `InputError` as `save` does."""
        tables, histograms = _tables(piece, short=True)
        shared = {table: tables[table] for table in SHARING if table in tables}
        kind = (*(_rows(tables[table]) if table in tables else 0 for table in SHARING), bool(histograms))
        if kind in self._wholes:
            other, whole = self._wholes[kind]
            return _packed(tables, histograms, whole, other + 1)
        if shared:
            if len(self._wholes) >= _REMEMBERED:
                self._wholes.clear()
            self._wholes[kind] = number, shared
        return _packed(tables, histograms, {}, 0)


def _rows(table: _Table) -> int:
    return int(table.numbers["int64"].shape[1])


def _tables(entry: Kept, *, short: bool) -> tuple[dict[StoredTable, _Table], list[LogHistogram]]:
    """Return the rows of an entry, of the tables that have any."""
    batch = RowBatch(dict.fromkeys(TABLES, 0))
    batch.add_entry(entry)
    found: dict[StoredTable, _Table] = {}
    for table, entries in batch.rows.items():
        if not entries:
            continue
        texts = [
            array_of(table, column, [row[column.name] for row in entries]).tolist()
            for column in TABLES[table]
            if column.stored == "text"
        ]
        numbers: dict[str, NDArray[Any]] = {}
        for stored, dtype in _DTYPES.items():
            # np.array of the rows takes three times as long.
            values = chain.from_iterable(map(itemgetter(*_NAMES[table][stored]), entries))
            try:
                flat = np.fromiter(values, dtype, len(entries) * len(_NAMES[table][stored]))
            except (OverflowError, TypeError, ValueError):
                arrays_of(table, {name: [row[name] for row in entries] for name in entries[0]})
                raise
            flat = shortened(flat) if short and stored == "float64" and table in SUMMARIES else flat
            numbers[stored] = np.ascontiguousarray(flat.reshape(len(entries), -1).T)
        found[table] = _Table(texts, numbers)
    return found, batch.histograms


def _packed(
    tables: Mapping[StoredTable, _Table],
    histograms: Sequence[LogHistogram],
    like: Mapping[StoredTable, _Table],
    reference: int,
) -> bytes:
    rows, lengths = dict.fromkeys(TABLES, 0), dict.fromkeys(TABLES, 0)
    widths = np.zeros(_ENDS[-1], np.uint8)
    parts: list[bytes] = []
    for table, own in tables.items():
        other = like.get(table)
        texts: list[list[str] | None] = [*own.texts]
        if other is not None:
            pairs = zip(own.texts, other.texts, strict=True)
            texts = [None if mine == theirs else mine for mine, theirs in pairs]
        text = json.dumps(texts, ensure_ascii=False).encode()
        rows[table], lengths[table] = _rows(own), len(text)
        parts.append(text)
        found: list[NDArray[np.int64]] = []
        for stored, values in own.numbers.items():
            bits = values.view(np.int64)
            with np.errstate(over="ignore", invalid="ignore"):
                narrow = values.astype(_NARROW[stored])
            fits = (narrow.astype(values.dtype).view(np.int64) == bits).all(axis=1)
            own_widths = np.where(fits, 4, 8)
            if other is not None:
                own_widths[(other.numbers[stored].view(np.int64) == bits).all(axis=1)] = 0
            found.append(own_widths)
            parts += [(narrow if w == 4 else values)[at].tobytes() for at, w in enumerate(own_widths.tolist()) if w]
        widths[_PLACES[table]] = np.concatenate(found)
    counted = 8
    if histograms:
        bins = np.concatenate([histogram.bins for histogram in histograms], dtype="<u2")
        counts = np.concatenate([histogram.counts for histogram in histograms])
        # Half the bytes to digest and to write.
        counted = 4 if counts.max(initial=0) < 2**32 else 8
        rows["histogram"] = bins.size
        parts += [bins.tobytes(), counts.astype(f"<u{counted}").tobytes()]
    head = np.array([*rows.values(), *lengths.values(), counted, reference], "<u8")
    return b"".join([head.tobytes(), widths.tobytes(), *parts])


def reference_of(head: bytes) -> int:
    """Return the number of the entry that a packed one is like, from 1, 0 for none; `head`: its first bytes."""
    return int.from_bytes(head[8 * (_COUNTS - 1) : 8 * _COUNTS], "little")


REFERENCE_BYTES = 8 * _COUNTS


def save_rows(
    path: str | os.PathLike[str], rows: PackedRows, *, overwrite: bool, run: str, monitored: bool = False
) -> None:
    """Write a file of the rows as `save` does, with the attribute `run` unless it is empty; a block is read at a time.

    Raises `ValueError` for bytes that `pack` did not make.
    """
    with new_file(path, overwrite=overwrite) as (file, check):
        tables = [*rows.tables(monitored=monitored)]
        expected = {table: rows.rows(table) for table in tables}
        writer = TableWriter(file, check, monitored=MONITORED[0] in tables, expected=expected)
        if run:
            file.attrs["run"] = run
        writer.make(tables)
        for entries in rows.blocks():
            append_rows(writer, {table: rows.columns(table, entries) for table in tables})


class PackedRows:
    """The rows of packed entries, numbered as in a file that holds the entries in this order.

    `sizes`: the bytes of each entry; `part(entry, start, stop)` returns some of them. `like`: of each entry the place
    of the one that it is like, -1 for none; those from `count` on are there for this only, None for none. Every method
    raises `ValueError` for bytes that `pack` did not make.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        part: Callable[[int, int, int], bytes],
        *,
        like: Sequence[int] | None = None,
        count: int | None = None,
    ) -> None:
        self._part = part
        self._like = np.array([-1] * len(sizes) if like is None else like, np.int64)
        self._count = count = len(sizes) if count is None else count
        # Few entries differ in the widths of their columns.
        widths: dict[bytes, int] = {}
        counts = np.empty((len(sizes), _COUNTS), np.int64)
        self._kinds = np.empty(len(sizes), np.int64)
        for entry in range(len(sizes)):
            head = part(entry, 0, _HEAD)
            counts[entry] = np.frombuffer(head, "<i8", _COUNTS)
            self._kinds[entry] = widths.setdefault(head[8 * _COUNTS :], len(widths))
        self._widths = np.frombuffer(b"".join(widths), np.uint8).reshape(len(widths), _ENDS[-1])
        self._rows, self._text = counts[:, : len(TABLES)], counts[:, len(TABLES) : -2]
        self._counted = counts[:, -2]
        possible = (counts >= 0).all(1) & (counts < 2**40).all(1) & np.isin(self._counted, (4, 8))
        possible &= np.asarray(np.isin(self._widths, (0, 4, 8)).all(1))[self._kinds]
        self._sizes = np.array(sizes, np.int64)
        # Where the numbers of each table begin, behind its text, and the text of the next one.
        self._starts = np.zeros((len(sizes), len(TABLES)), np.int64)
        at = np.full(len(sizes), _HEAD, np.int64)
        for number, table in enumerate(TABLES):
            rows, own = self._rows[:, number], self._widths[:, _PLACES[table]]
            self._starts[:, number] = at + self._text[:, number]
            each = 2 + self._counted if table == "histogram" else own.sum(1, dtype=np.int64)[self._kinds]
            at = self._starts[:, number] + np.where(possible, rows * each, 0)
            # What is left out must be in a whole entry of as many rows.
            other = self._like
            whole = np.where(other < 0, False, (self._rows[other, number] == rows) & (self._like[other] < 0))
            possible &= (rows == 0) | np.asarray((own > 0).all(1))[self._kinds] | whole
        if len(wrong := np.flatnonzero(~possible | (at != self._sizes))):
            raise ValueError(f"record {wrong[0] + 1} has not the rows that it says")
        # The first row of each entry, and behind the last one the number of rows.
        self._bounds = {
            table: np.concatenate([[0], np.cumsum(own)])
            for table, own in zip(TABLES, self._rows[:count].T, strict=True)
        }
        self._whole: dict[tuple[StoredTable, int], Columns] = {}
        self._parsed: tuple[StoredTable, bytes, list[list[list[str]]]] | None = None

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """Yield all entries, in order, a few at a time."""
        for block in blocks_of(self._sizes[: self._count], _WRITTEN):
            yield np.arange(block.start, block.stop)

    def rows(self, table: StoredTable) -> int:
        """Return the number of rows of a table."""
        return int(self._bounds[table][-1])

    def tables(self, *, monitored: bool = False) -> dict[StoredTable, dict[str, PackedColumn]]:
        """Return the columns of the tables; those of training runs only where there are runs, and so on.

        `monitored`: whether these are of a monitored run, which may have no step yet.
        """
        present = tables_of(lambda table: self.rows(table) > 0 or (monitored and table in MONITORED), SCHEMA_VERSION)
        return {
            table: {column.name: PackedColumn(self, table, column.name, column.stored) for column in TABLES[table]}
            for table in present
        }

    def columns(self, table: StoredTable, entries: NDArray[np.int64], names: Sequence[str] | None = None) -> Columns:
        """Return columns of the rows of some entries, all unless `names` says which; text is bytes."""
        wanted = {column.name for column in TABLES[table]} if names is None else {*names}
        if table == "histogram":
            return self._histograms(entries)
        found = self._numbers(table, entries, wanted)
        if texts := [(at, name) for at, name in enumerate(_NAMES[table]["text"]) if name in wanted]:
            read = self._texts(table, entries)
            for at, name in texts:
                listed = [text.encode() for entry in read for text in entry[at]]
                found[name] = np.empty(len(listed), object)
                found[name][:] = listed
        number = [*TABLES].index(table)
        for column in TABLES[table]:
            if column.refers and column.name in wanted:
                moved = np.repeat(self._bounds[column.refers][entries], self._rows[entries, number])
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
            values = self.columns(table, owners[block], (column,))[column]
            first = np.cumsum(counts[block]) - counts[block]
            here = np.flatnonzero((which >= block.start) & (which < block.stop))
            own = which[here]
            found[here] = values[first[own - block.start] + rows[here] - bounds[owners[own]]]
        return found

    def _numbers(self, table: StoredTable, entries: NDArray[np.int64], wanted: set[str]) -> Columns:
        """Return columns of numbers; of each entry, the bytes from the first of these columns to the last are read."""
        chosen = [at for at, (name, _) in enumerate(_NUMBERS[table]) if name in wanted]
        parts: dict[int, list[NDArray[Any]]] = {at: [] for at in chosen}
        number, place = [*TABLES].index(table), _PLACES[table]
        rows, kinds, like = self._rows[entries, number], self._kinds[entries], self._like[entries]
        # Neighbours whose columns have the same widths are read together.
        differ = (rows[1:] != rows[:-1]) | (kinds[1:] != kinds[:-1]) | (like[1:] != like[:-1])
        for group in np.split(entries, np.flatnonzero(differ) + 1) if chosen else ():
            if not len(group) or not (count := int(self._rows[group[0], number])):
                continue
            sizes = self._widths[self._kinds[group[0]], place].astype(np.int64)
            ends = np.concatenate([[0], np.cumsum(sizes)]) * count
            first, last = int(ends[chosen[0]]), int(ends[chosen[-1] + 1])
            starts = self._starts[group, number].tolist()
            raw = b"".join(self._part(e, at + first, at + last) for e, at in zip(group.tolist(), starts, strict=True))
            data = np.frombuffer(raw, np.uint8).reshape(len(group), last - first)
            for at in chosen:
                name, stored = _NUMBERS[table][at]
                if sizes[at]:
                    own = np.ascontiguousarray(data[:, int(ends[at]) - first : int(ends[at + 1]) - first])
                    kind = _DTYPES[stored] if sizes[at] == 8 else _NARROW[stored]
                    parts[at].append(own.view(kind).ravel().astype(stored, copy=False))
                else:
                    whole = self._whole_columns(table, int(self._like[group[0]]))
                    parts[at].append(np.tile(whole[name], len(group)))
        return {
            _NUMBERS[table][at][0]: np.concatenate([np.empty(0, _NUMBERS[table][at][1]), *found])
            for at, found in parts.items()
        }

    def _whole_columns(self, table: StoredTable, entry: int) -> Columns:
        if (table, entry) not in self._whole:
            if len(self._whole) >= _REMEMBERED:
                self._whole.clear()
            self._whole[table, entry] = self._numbers(table, np.array([entry]), {name for name, _ in _NUMBERS[table]})
        return self._whole[table, entry]

    def _texts(self, table: StoredTable, entries: NDArray[np.int64]) -> list[list[list[str]]]:
        """Return the columns of text of each entry; those that were asked for last are remembered."""
        key = entries.tobytes()
        if self._parsed is None or self._parsed[:2] != (table, key):
            whole = {at: self._text_of(table, at, None) for at in {*self._like[entries].tolist()} - {-1}}
            found = [self._text_of(table, e, whole.get(int(self._like[e]))) for e in entries.tolist()]
            self._parsed = table, key, found
        return self._parsed[2]

    def _text_of(self, table: StoredTable, entry: int, whole: list[list[str]] | None) -> list[list[str]]:
        number = [*TABLES].index(table)
        rows, end = int(self._rows[entry, number]), int(self._starts[entry, number])
        names = _NAMES[table]["text"]
        if not rows:
            return [[] for _ in names]
        read = json.loads(self._part(entry, end - int(self._text[entry, number]), end))
        texts = [whole[at] if each is None and whole is not None else each for at, each in enumerate(read)]
        if [len(each) for each in texts] != [rows] * len(names):
            raise ValueError(f"a record has not {rows} texts in each column of table {table}")
        return texts

    def _histograms(self, entries: NDArray[np.int64]) -> Columns:
        bins: list[NDArray[Any]] = [np.empty(0, np.uint16)]
        counts: list[NDArray[Any]] = [np.empty(0, np.uint64)]
        number = [*TABLES].index("histogram")
        for entry in entries[self._rows[entries, number] > 0].tolist():
            rows, start = int(self._rows[entry, number]), int(self._starts[entry, number])
            counted = int(self._counted[entry])
            raw = self._part(entry, start, start + rows * (2 + counted))
            bins.append(np.frombuffer(raw, "<u2", rows))
            counts.append(np.frombuffer(raw, f"<u{counted}", rows, 2 * rows))
        return {"bin": np.concatenate(bins, dtype=np.uint16), "count": np.concatenate(counts, dtype=np.uint64)}


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
