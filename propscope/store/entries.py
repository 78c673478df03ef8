"""The sites and parameters of profiles: from the columns of a result file to records, with their histograms."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from propscope.records.figures import SUMMARIES, EntryTable
from propscope.records.histogram import LogHistogram
from propscope.records.network import NetworkProfile
from propscope.records.rows import Histograms, parameters_of, profiles_of, sites_of
from propscope.store.schema import StoredTable
from propscope.store.table_reader import TableReader, reading
from propscope.store.values import check_owners, check_parents, histogram_parts, histogram_ranges

Columns = dict[str, NDArray[Any]]

# The profiles that are made into records at once.
_MADE = 512
# The rows that may be claimed more than a table has.
_GAP = 1024
_RECORDS: Mapping[EntryTable, Callable[[Columns, int, Histograms], Sequence[Any]]] = {
    "site": sites_of,
    "parameter": parameters_of,
}


@dataclass(frozen=True, slots=True)
class Entries:
    """The columns of some profiles, `own`, and of their sites and parameters, all checked, with their histograms.

    `first`: the position of each profile's first site and parameter in the columns, and behind the last one their end.
    """

    path: str | os.PathLike[str]
    own: Columns
    columns: Mapping[EntryTable, Columns]
    first: Mapping[EntryTable, NDArray[np.int64]]
    histograms: Mapping[str, StoredHistograms]

    @classmethod
    def of(cls, tables: TableReader, rows: NDArray[np.int64]) -> Entries:
        """Return what these rows of `profile` have; raises `ValueError` for what was not written so."""
        own = tables.take("profile", rows)
        columns: dict[EntryTable, Columns] = {}
        for table in SUMMARIES:
            columns[table], index = belonging(tables, "profile", table, own)
            if len(wrong := np.flatnonzero(columns[table]["index"] != index)):
                raise ValueError(
                    f"rows of table {table} for profile {columns[table]['profile'][wrong[0]]} are not in order"
                )
        first = {table: np.concatenate([[0], np.cumsum(own[f"{table}_count"])]) for table in SUMMARIES}
        return cls(tables.path, own, columns, first, histograms_of(tables, columns))

    def profiles(self, order: NDArray[np.int64]) -> Iterator[NetworkProfile]:
        """Yield the profiles at these positions, in that order."""
        for part in np.split(order, range(_MADE, len(order), _MADE)):
            with reading(self.path):
                made = self._made(part)
            yield from made

    def _made(self, order: NDArray[np.int64]) -> list[NetworkProfile]:
        own = {name: column[order] for name, column in self.own.items()}
        made: dict[EntryTable, list[tuple[Any, ...]]] = {}
        for table, records in _RECORDS.items():
            counts = own[f"{table}_count"]
            at = spread(self.first[table][order], counts)
            histograms = {name: self.histograms[name].at(at) for name in SUMMARIES[table] if name in self.histograms}
            entries = iter(records({name: each[at] for name, each in self.columns[table].items()}, len(at), histograms))
            made[table] = [tuple(islice(entries, count)) for count in counts.tolist()]
        for sites, first in zip(made["site"], own["site_start"].tolist(), strict=True):
            check_parents(sites, first)
        return profiles_of(own, made["site"], made["parameter"])


def belonging(
    tables: TableReader,
    parent: Literal["profile", "run"],
    table: Literal["site", "parameter", "epoch"],
    own: Columns,
) -> tuple[Columns, NDArray[np.int64]]:
    """Return the rows of `table` that belong to these rows of `parent`, and the number of each among its siblings."""
    entries = tables.take(table, owned_rows(own, table, tables.rows(table)))
    counts = own[f"{table}_count"]
    if len(wrong := np.flatnonzero(entries[parent] != np.repeat(own[parent], counts))):
        row = np.repeat(own[parent], counts)[wrong[0]]
        raise ValueError(f"rows of table {table} for {parent} {row} belong to another {parent}")
    return entries, spread(np.zeros(len(counts), np.int64), counts)


def owned_rows(own: Columns, table: StoredTable, there: int) -> NDArray[np.int64]:
    """Return the rows of `table` that some rows say are theirs; raises `ValueError` for more than the table holds."""
    starts, counts = own[f"{table}_start"], own[f"{table}_count"]
    beyond = (counts > 0) & ((starts < 0) | (starts > there - np.minimum(counts, there)) | (counts > there))
    if beyond.any():
        at = int(np.flatnonzero(beyond)[0])
        raise ValueError(f"table {table} has {there} rows, but {counts[at]} rows from {starts[at]} on are asked for")
    # No row has two owners, so a few rows of a hostile file cannot make a reader read millions.
    if counts.sum() > there + _GAP:
        raise ValueError(f"table {table} has {there} rows, but {counts.sum()} are asked for")
    return spread(starts, counts)


def spread(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of half-open ranges, one range after the other."""
    total = int(counts.sum())
    found: NDArray[np.int64] = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(total)
    return found


@dataclass(frozen=True, slots=True)
class StoredHistograms:
    """The histograms of one summary, a row each: its place in `bins` and `counts`, -1 for none, and its length."""

    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    bins: NDArray[np.uint16]
    counts: NDArray[np.int64]

    def at(self, rows: NDArray[np.int64]) -> list[LogHistogram | None]:
        """Return the histogram of each of these rows, None where it was not recorded."""
        return [
            None if start < 0 else LogHistogram(self.bins[start : start + length], self.counts[start : start + length])
            for start, length in zip(self.places[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        ]


def histograms_of(tables: TableReader, columns: Mapping[EntryTable, Columns]) -> dict[str, StoredHistograms]:
    """Return the histograms that sites and parameters refer to, by summary; {} where they are hidden."""
    starts, lengths = histogram_ranges(columns)
    rows = owned_rows({"histogram_start": starts, "histogram_count": lengths}, "histogram", tables.rows("histogram"))
    bins, counts = (tables.pick("histogram", name, rows) for name in ("bin", "count"))
    places = np.where(starts < 0, -1, np.cumsum(lengths) - lengths)
    check_owners(columns, places, bins, counts, rows)
    found: dict[str, StoredHistograms] = {}
    for table, part in histogram_parts(columns):
        size = len(columns[table][table])
        found[part] = StoredHistograms(places[:size], lengths[:size], bins, counts.view(np.int64))
        places, lengths = places[size:], lengths[size:]
    return found
