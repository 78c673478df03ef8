"""Rows of the tables as profiles again, with their sites, parameters and histograms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from propscope.records.figures import SUMMARIES
from propscope.records.histogram import BIN_COUNT, LogHistogram
from propscope.records.network import NetworkProfile
from propscope.records.rows import Row, TableName, parameter_from_row, profile_from_row, site_from_row
from propscope.store.table_reader import TableReader


def profiles_between(tables: TableReader, start: int, stop: int) -> Iterator[NetworkProfile]:
    """Yield the profiles of these neighbouring rows."""
    rows = tables.take("profile", start, stop)
    sites, parameters = entries_of(tables, "profile", "site", rows), entries_of(tables, "profile", "parameter", rows)
    held = _Histograms.spanning(tables, sites, parameters)
    for row, own_sites, own_parameters in zip(rows, sites, parameters, strict=True):
        profile = profile_from_row(
            row,
            tuple(site_from_row(r, *(held.of(r, name) for name in SUMMARIES["site"])) for r in own_sites),
            tuple(
                parameter_from_row(r, *(held.of(r, name) for name in SUMMARIES["parameter"])) for r in own_parameters
            ),
        )
        if not isinstance(profile.labels, dict):
            raise ValueError(f"the labels of profile {row['profile']} are not one JSON object")
        yield profile


def entries_of(
    tables: TableReader,
    parent: Literal["profile", "run"],
    table: Literal["site", "parameter", "epoch"],
    rows: list[Row],
) -> list[list[Row]]:
    """Return the rows of a table that belong to each of these neighbouring rows of `parent`."""
    ranges = [(row[f"{table}_start"], row[f"{table}_count"]) for row in rows]
    low, high = span(ranges)
    taken = tables.take(table, low, high)
    entries = [taken[start - low : start - low + count] for start, count in ranges]
    for row, own in zip(rows, entries, strict=True):
        if any(entry[parent] != row[parent] for entry in own):
            raise ValueError(f"rows of table {table} for {parent} {row[parent]} belong to another {parent}")
    return entries


@dataclass(frozen=True, slots=True)
class _Histograms:
    """The rows of table histogram from `first` on that some sites and parameters refer to."""

    first: int
    bins: NDArray[np.uint16]
    counts: NDArray[np.int64]

    @classmethod
    def spanning(cls, tables: TableReader, sites: list[list[Row]], parameters: list[list[Row]]) -> _Histograms:
        entries: dict[TableName, list[list[Row]]] = {"site": sites, "parameter": parameters}
        low, high = span(
            _range(row, direction)
            for table, directions in SUMMARIES.items()
            for row in chain.from_iterable(entries[table])
            for direction in directions
        )
        bins = tables.array("histogram", "bin", low, high)
        if bins.size and bins.max() >= BIN_COUNT:
            raise ValueError(f"a histogram has bin {bins.max()}; valid are 0 to {BIN_COUNT - 1}")
        return cls(low, bins, tables.array("histogram", "count", low, high).astype(np.int64))

    def of(self, row: Row, direction: str) -> LogHistogram | None:
        start, length = _range(row, direction)
        if start < 0:
            return None
        at = slice(start - self.first, start - self.first + length)
        return LogHistogram(self.bins[at], self.counts[at])


def _range(row: Row, direction: str) -> tuple[int, int]:
    return row[f"{direction}_histogram_start"], row[f"{direction}_histogram_length"]


def span(ranges: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the rows from the first to the last of these (start, length) ranges, (0, 0) when all are empty."""
    occupied = [(start, start + length) for start, length in ranges if length]
    if any(stop < start for start, stop in occupied):
        raise ValueError("a range of rows has a negative length")
    return min((start for start, _ in occupied), default=0), max((stop for _, stop in occupied), default=0)
