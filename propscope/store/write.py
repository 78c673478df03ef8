"""`save`: writes profiles and training runs as rows of the tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.checks import file_path, known_arguments
from propscope.errors import InputError
from propscope.records.figures import SUMMARIES
from propscope.records.histogram import LogHistogram
from propscope.records.monitored import MonitoredRun
from propscope.records.network import NetworkProfile, Parameter, Site
from propscope.records.profile_set import ProfileSet
from propscope.records.rows import Row, alarm_row, epoch_rows, parameter_row, profile_row, run_row, site_row
from propscope.records.training import TrainingRun, TrainingSet
from propscope.store.atomic import new_file
from propscope.store.schema import MONITORED, TABLES, TRAINING, StoredTable
from propscope.store.table_writer import TableWriter, arrays_of
from propscope.store.values import InvalidValue, check_owners, check_parents, check_values, histogram_ranges

# Rows are gathered as Python objects before they are written; this bounds them to some 100 MB at depth 20.
_BATCH = 256
# The columns that say where the histogram of each summary is, and how long.
_RANGES = {
    table: [(part, f"{part}_histogram_start", f"{part}_histogram_length") for part in parts]
    for table, parts in SUMMARIES.items()
}


# What is kept as one: a profile, a training run, or what was recorded of a monitored one.
Kept = NetworkProfile | TrainingRun | MonitoredRun
Saved = NetworkProfile | ProfileSet | TrainingRun | TrainingSet


@known_arguments
def save(path: str | os.PathLike[str], profiles: Saved, *, overwrite: bool = False) -> None:
    """Write a profile, a training run, or a set of either to the HDF5 file `path`.

    The file appears whole or not at all, and a missing directory is made. An empty set gives a valid file without
    profiles, or without runs. Raises `StoreError` when the file exists and `overwrite` is false, or when it cannot be
    written (an earlier file is then untouched), and `InputError` when `profiles` is something else, or holds a value
    that `load` would refuse: it names table, row and column.
    """
    if isinstance(profiles, NetworkProfile):
        profiles = ProfileSet((profiles,))
    if isinstance(profiles, TrainingRun):
        profiles = TrainingSet((profiles,))
    if not isinstance(profiles, (ProfileSet, TrainingSet)):
        raise InputError(
            "profiles must be a NetworkProfile, ProfileSet, TrainingRun or TrainingSet, "
            f"got a {type(profiles).__name__}",
            hint="ProfileSet.of(...) and TrainingSet.of(...) make a set of any iterable",
        )
    file_path("path", path)
    with new_file(path, overwrite=overwrite) as (file, check):
        writer = TableWriter(file, check, monitored=isinstance(profiles, MonitoredRun))
        if isinstance(profiles, TrainingSet):
            writer.make(TRAINING)
        if isinstance(profiles, MonitoredRun):
            writer.make(MONITORED)
            _append(writer, [MonitoredRun((), profiles.steps, profiles.alarms)])
        _append(writer, profiles)


class RowBatch:
    """The rows of some profiles, numbered from `base`, the number of rows that the file holds already."""

    def __init__(self, base: dict[StoredTable, int]) -> None:
        self.base = base
        self.rows: dict[StoredTable, list[Row]] = {table: [] for table in TABLES if table != "histogram"}
        self.histograms: list[LogHistogram] = []
        self._bins = 0

    def next_row(self, table: StoredTable) -> int:
        """Return the number of the table's next row."""
        return self.base[table] + len(self.rows[table])

    def add_entry(self, entry: Kept) -> None:
        """Add a profile, or a run with all that it holds."""
        if isinstance(entry, MonitoredRun):
            self.add_monitored(entry)
        elif isinstance(entry, TrainingRun):
            self.add_run(entry)
        else:
            self.add(entry)

    def add_monitored(self, run: MonitoredRun) -> None:
        """Add the samples, steps and alarms of a monitored run."""
        for profile in run.profiles:
            self.add(profile)
        found: dict[StoredTable, list[Row]] = {"step": run.steps.rows(), "alarm": list(map(alarm_row, run.alarms))}
        for table, rows in found.items():
            for row in rows:
                self.rows[table].append(row | {table: self.next_row(table)})

    def add_run(self, run: TrainingRun) -> None:
        """Add a run with its epochs and profiles."""
        number, first = self.next_row("run"), self.next_row("epoch")
        epochs = [row | {"epoch": first + at, "run": number} for at, row in enumerate(epoch_rows(run))]
        row = _checked(run_row, run) | {"run": number, "epoch_start": first, "epoch_count": len(epochs)}
        row |= {"profile_start": self.next_row("profile"), "profile_count": len(run.profiles)}
        self.rows["run"].append(row)
        self.rows["epoch"] += epochs
        for epoch, profile in run.profiles:
            self.add(profile, run=number, epoch=first + epoch)

    def add(self, profile: NetworkProfile, *, run: int = -1, epoch: int = -1) -> None:
        """Add a profile, which belongs to the rows `run` and `epoch` unless they are -1."""
        number = self.next_row("profile")
        with _refusing():
            check_parents(profile.sites, self.next_row("site"))
        row = _checked(profile_row, profile) | {"profile": number, "run": run, "epoch": epoch}
        row |= {"site_start": self.next_row("site"), "site_count": len(profile.sites)}
        row |= {"parameter_start": self.next_row("parameter"), "parameter_count": len(profile.parameters)}
        self.rows["profile"].append(row)
        self._add_entries("site", number, profile.sites, site_row)
        self._add_entries("parameter", number, profile.parameters, parameter_row)

    def _add_entries(
        self, table: Any, profile: int, entries: Sequence[Site | Parameter], to_row: Callable[[Any, int], Row]
    ) -> None:
        rows, base = self.rows[table], self.base["histogram"]
        for index, entry in enumerate(entries):
            row = to_row(entry, index)
            row[table], row["profile"] = self.next_row(table), profile
            for direction, first, number in _RANGES[table]:
                summary = getattr(entry, direction)
                histogram = None if summary is None else summary.histogram
                row[first], row[number] = (-1, 0) if histogram is None else (base + self._bins, histogram.bins.size)
                if histogram is not None:
                    self.histograms.append(histogram)
                    self._bins += histogram.bins.size
            rows.append(row)

    def tables(self) -> dict[StoredTable, dict[str, NDArray[Any]]]:
        """Return the rows as columns, in the types of the file; of tables without rows, only histogram is there."""
        tables: dict[StoredTable, dict[str, NDArray[Any]]] = {}
        for table, rows in self.rows.items():
            if rows:
                names = [column.name for column in TABLES[table]]
                values = zip(*map(itemgetter(*names), rows), strict=True)
                tables[table] = arrays_of(table, dict(zip(names, values, strict=True)))
        bins = [np.empty(0, np.uint16), *(histogram.bins for histogram in self.histograms)]
        counts = [np.empty(0, np.uint64), *(histogram.counts for histogram in self.histograms)]
        tables["histogram"] = {
            "bin": np.concatenate(bins),
            "count": np.concatenate(counts, dtype=np.uint64, casting="unsafe"),
        }
        return tables


def _append(writer: TableWriter, entries: Iterable[Kept]) -> None:
    batch = RowBatch(dict(writer.rows))
    for entry in entries:
        if len(batch.rows["profile"]) >= _BATCH or len(batch.rows["run"]) >= _BATCH:
            append_rows(writer, batch.tables())
            batch = RowBatch(dict(writer.rows))
        batch.add_entry(entry)
    append_rows(writer, batch.tables())


def append_rows(writer: TableWriter, tables: dict[StoredTable, dict[str, NDArray[Any]]]) -> None:
    """Append rows of several tables, numbered from those that the file has; each refers to rows of these only.

    Raises `InputError` for a value that `load` would refuse.
    """
    first = writer.rows["histogram"]
    own = {name: tables[name] for name in SUMMARIES if name in tables}
    bins, counts = (tables["histogram"][name] for name in ("bin", "count"))
    with _refusing():
        for table, arrays in tables.items():
            if table != "histogram":
                check_values(table, arrays, writer.rows[table] + np.arange(len(arrays[table])))
        check_owners(own, histogram_ranges(own)[0] - first, bins, counts, first + np.arange(len(bins)))
    for table, arrays in tables.items():
        writer.append(table, arrays)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except InvalidValue as error:
        raise InputError(
            f"profiles must hold what load reads; {error}", hint="correct that value; nothing was written"
        ) from error


def _checked(to_row: Callable[[Any], Row], entry: NetworkProfile | TrainingRun) -> Row:
    try:
        return to_row(entry)
    except TypeError as error:
        raise InputError(
            f"labels {dict(entry.labels)!r} cannot be stored: {error}",
            hint="a label's value is a str, an int or a float",
        ) from error
