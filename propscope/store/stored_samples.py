"""`StoredSamples`: the samples of a monitored run, read from its file or journal when they are asked for."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from propscope.errors import unknown_name
from propscope.records.figures import TABLES as FIELDS
from propscope.records.figures import EntryTable
from propscope.records.network import Label, NetworkProfile
from propscope.records.over_steps import HistogramsOverSteps, OverSteps, part_of, table_of
from propscope.records.rows import MISSING, TableName
from propscope.records.samples import Samples
from propscope.records.uncollected import uncollected
from propscope.store.entries import Entries, histograms_of, owned_rows
from propscope.store.packed import blocks_of
from propscope.store.table_reader import TableReader, reading

# About as many sites and parameters are made into records at once.
_MADE = 1 << 13


class OpenTables:
    """Tables that stay open as long as something refers to them."""

    def __init__(self, tables: TableReader, close: ExitStack) -> None:
        self.tables = tables
        weakref.finalize(self, close.close)


class StoredSamples(Samples):
    """The profiles at some `rows` of open tables; only what is asked for is read."""

    def __init__(self, source: OpenTables, rows: NDArray[np.int64], labels: Sequence[Mapping[str, Label]]) -> None:
        self._source = source
        self._rows = rows
        self._labels = labels

    @property
    def labels(self) -> Sequence[Mapping[str, Label]]:
        """The labels of each profile."""
        return self._labels

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, positions: Sequence[int]) -> StoredSamples:
        """Return the profiles at these positions, in that order."""
        return StoredSamples(self._source, self._rows[list(positions)], [self._labels[at] for at in positions])

    @overload
    def __getitem__(self, index: int) -> NetworkProfile: ...
    @overload
    def __getitem__(self, index: slice) -> StoredSamples: ...
    def __getitem__(self, index: int | slice) -> NetworkProfile | StoredSamples:
        if isinstance(index, slice):
            return self.at(range(len(self))[index])
        at = range(len(self))[index]
        return self._made(self._rows[at : at + 1])[0]

    def __iter__(self) -> Iterator[NetworkProfile]:
        sizes = np.ones(len(self), np.int64)
        for table in ("site", "parameter"):
            sizes += np.maximum(self._tables.pick("profile", f"{table}_count", self._rows), 0)
        for block in blocks_of(sizes, _MADE):
            yield from self._made(self._rows[block])

    def _made(self, rows: NDArray[np.int64]) -> list[NetworkProfile]:
        with reading(self._tables.path), uncollected():
            return [*Entries.of(self._tables, rows).profiles(np.arange(len(rows)))]

    @property
    def _tables(self) -> TableReader:
        return self._source.tables

    def over_steps(self, quantity: str, table: EntryTable | None) -> OverSteps:
        """Return a quantity of every site or parameter at each sample; of the file, two columns are read."""
        own, field = table_of(quantity, table)
        with reading(self._tables.path):
            steps, counts, rows = self._entries(own)
            columns = self._tables.take(own, rows, ("name", quantity))
        names, found = columns["name"], columns[quantity].astype(np.float64)
        if field.dtype == "int64" and not field.required:
            found[found == MISSING["int64"]] = np.nan
        if len(steps) and (counts == counts[0]).all():
            grid = names.reshape(len(steps), -1)
            if (grid == grid[0]).all():
                return OverSteps(quantity, steps, tuple(grid[0].tolist()), found.reshape(grid.shape))
        # Some sites ran at some of the steps.
        places = {name: place for place, name in enumerate(dict.fromkeys(names.tolist()))}
        values = np.full((len(steps), len(places)), np.nan)
        values[np.repeat(np.arange(len(steps)), counts), [places[name] for name in names.tolist()]] = found
        return OverSteps(quantity, steps, tuple(places), values)

    def histograms_over_steps(self, name: str, part: str) -> HistogramsOverSteps:
        """Return the histograms of one summary of a site or parameter; of the file, theirs alone are read."""
        table = part_of(part)
        with reading(self._tables.path):
            steps, counts, rows = self._entries(table)
            names = self._tables.take(table, rows, ("name",))["name"]
            chosen = np.flatnonzero(names == name)
            if not len(chosen):
                raise unknown_name(table, name, dict.fromkeys(names.tolist()))
            places = (f"{part}_histogram_start", f"{part}_histogram_length")
            columns = self._tables.take(table, rows[chosen], (table, f"{part}_count", *places))
            found = histograms_of(self._tables, {table: columns})[part].at(np.arange(len(chosen)))
        kept = np.array([one is not None for one in found], bool)
        return HistogramsOverSteps(
            np.repeat(steps, counts)[chosen][kept], tuple(one for one in found if one is not None)
        )

    def columns(self, table: TableName) -> tuple[NDArray[Any], Mapping[str, NDArray[Any]]]:
        """Return the position of the profile of each row of a table, and the recorded columns of these rows."""
        names = [field.name for field in FIELDS[table]]
        with reading(self._tables.path):
            if table == "profile":
                return np.arange(len(self)), self._tables.take(table, self._rows, names)
            own = self._tables.take("profile", self._rows, (f"{table}_start", f"{table}_count"))
            rows = owned_rows(own, table, self._tables.rows(table))
            return np.repeat(np.arange(len(self)), own[f"{table}_count"]), self._tables.take(table, rows, names)

    def _entries(self, table: EntryTable) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the step of each sample that has one, the number of its sites or parameters, and the rows of all."""
        steps = {at: step for at, own in enumerate(self._labels) if isinstance(step := own.get("step"), int)}
        own = self._tables.take("profile", self._rows[[*steps]], (f"{table}_start", f"{table}_count"))
        rows = owned_rows(own, table, self._tables.rows(table))
        return np.fromiter(steps.values(), np.int64), own[f"{table}_count"], rows
