"""`save`: profiles as rows of the tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from propscope.errors import InputError
from propscope.results.histogram import LogHistogram
from propscope.results.network import NetworkProfile, Parameter, Site
from propscope.results.profile_set import ProfileSet
from propscope.results.rows import Row, parameter_row, profile_row, site_row
from propscope.store.atomic import new_file
from propscope.store.schema import DIRECTIONS, TABLES, StoredTable
from propscope.store.table_writer import TableWriter

# Rows are gathered as Python objects before they are written; this bounds them to some 100 MB at depth 20.
_BATCH = 256


def save(path: str | os.PathLike[str], profiles: NetworkProfile | ProfileSet, *, overwrite: bool = False) -> None:
    """Write one profile or a set of them to the HDF5 file `path`, which appears whole or not at all.

    A missing directory is made. An empty set gives a valid file of no profiles. Raises `StoreError` when the file
    exists and `overwrite` is false, or when it cannot be written (an earlier file is then untouched), and `InputError`
    when `profiles` is something else or holds a value that no column can store.
    """
    if isinstance(profiles, NetworkProfile):
        profiles = ProfileSet((profiles,))
    if not isinstance(profiles, ProfileSet):
        raise InputError(
            f"profiles is of type {type(profiles).__name__}; valid are NetworkProfile and ProfileSet",
            hint="ProfileSet.of(...) makes a set of any iterable of profiles",
        )
    with new_file(path, overwrite=overwrite) as (file, check):
        writer = TableWriter(file, check)
        for start in range(0, len(profiles), _BATCH):
            _append(writer, profiles[start : start + _BATCH])


class _Batch:
    """The rows of some profiles, numbered onwards from what the file holds already."""

    def __init__(self, base: dict[StoredTable, int]) -> None:
        self.base = base
        self.rows: dict[StoredTable, list[Row]] = {"profile": [], "site": [], "parameter": []}
        self.histograms: list[LogHistogram] = []
        self._bins = 0

    def next_row(self, table: StoredTable) -> int:
        return self.base[table] + len(self.rows[table])

    def add(self, profile: NetworkProfile) -> None:
        number = self.next_row("profile")
        row = _profile_row(profile) | {"profile": number}
        row |= {"site_start": self.next_row("site"), "site_count": len(profile.sites)}
        row |= {"parameter_start": self.next_row("parameter"), "parameter_count": len(profile.parameters)}
        self.rows["profile"].append(row)
        self._add_entries("site", number, profile.sites, site_row)
        self._add_entries("parameter", number, profile.parameters, parameter_row)

    def _add_entries(
        self, table: Any, profile: int, entries: Sequence[Site | Parameter], to_row: Callable[[Any, int], Row]
    ) -> None:
        for index, entry in enumerate(entries):
            row = to_row(entry, index)
            row[table], row["profile"] = self.next_row(table), profile
            for direction in DIRECTIONS[table]:
                summary = getattr(entry, direction)
                start, length = self._add_histogram(None if summary is None else summary.histogram)
                row[f"{direction}_histogram_start"], row[f"{direction}_histogram_length"] = start, length
            self.rows[table].append(row)

    def _add_histogram(self, histogram: LogHistogram | None) -> tuple[int, int]:
        if histogram is None:
            return -1, 0
        start, length = self.base["histogram"] + self._bins, histogram.bins.size
        self.histograms.append(histogram)
        self._bins += length
        return start, length


def _append(writer: TableWriter, profiles: ProfileSet) -> None:
    batch = _Batch(dict(writer.rows))
    for profile in profiles:
        batch.add(profile)
    for table, rows in batch.rows.items():
        if rows:
            names = [column.name for column in TABLES[table]]
            values = zip(*map(itemgetter(*names), rows), strict=True)
            writer.append(table, dict(zip(names, values, strict=True)))
    if batch.histograms:
        bins = np.concatenate([histogram.bins for histogram in batch.histograms])
        counts = np.concatenate([histogram.counts for histogram in batch.histograms], dtype=np.uint64, casting="unsafe")
        writer.append("histogram", {"bin": bins, "count": counts})


def _profile_row(profile: NetworkProfile) -> Row:
    try:
        return profile_row(profile)
    except TypeError as error:
        raise InputError(
            f"labels {dict(profile.labels)!r} cannot be stored: {error}",
            hint="a label's value is a str, an int or a float",
        ) from error
