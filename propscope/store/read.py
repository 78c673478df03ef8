"""`load`: reads the rows of a result file back into profiles and training runs."""

from __future__ import annotations

import gc
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from propscope.checks import file_path
from propscope.errors import InputError, StoreError
from propscope.records.figures import SUMMARIES
from propscope.records.histogram import LogHistogram
from propscope.records.labelled import values_of
from propscope.records.network import Label, NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.rows import Row, TableName, parameter_from_row, profile_from_row, run_from_rows, site_from_row
from propscope.records.training import TrainingRun, TrainingSet
from propscope.store.schema import StoredTable
from propscope.store.table_reader import TableReader, open_tables, reading
from propscope.store.values import check_owners, check_parents

# Neighbouring profiles are read with one slice per column; this bounds the rows that are held as Python objects.
_BATCH = 256
# Rows that may lie between those that are read, and belong to none of them.
_GAP = 1024
# The memory that one row takes as a record, measured, rounded down.
_BYTES: dict[StoredTable, int] = {
    "run": 4096,
    "epoch": 256,
    "profile": 2048,
    "site": 4096,
    "parameter": 4096,
    "histogram": 10,
}


def load(path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]) -> ProfileSet | TrainingSet:
    """Return the training runs of a result file, or its profiles where it has no runs, always as a set.

    Labels such as `initializer="he_normal"` or `seed=[0, 1]` select what has these values, in the file's order; only
    those rows are read. Raises `StoreError` when the file is missing, truncated, damaged, not written by propscope, or
    of a newer schema, and `InputError` for a label that no entry carries or values that no entry has.
    """
    file_path("path", path)
    with open_tables(path) as tables, reading(path):
        return training_runs(tables, labels) if tables.training else loose_profiles(tables, labels)


def load_for_table(path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]) -> ProfileSet | TrainingSet:
    """Return what `load` does; profiles of several networks come without histograms and singular values.

    The table of a grid shows neither, and they are most of what is to be read.
    """
    with open_tables(path) as tables, reading(path):
        if tables.training:
            return training_runs(tables, labels)
        kept = _matching(tables, "profile", labels) if labels else None
        labels_of = tables.labels("profile")
        kinds = {
            tuple(pair for pair in labels_of[row].items() if pair[0] != "seed")
            for row in (labels_of if kept is None else kept)
        }
        return loose_profiles(tables.without_distributions() if len(kinds) > 1 else tables, labels)


def numbers_in(path: str | os.PathLike[str], /) -> tuple[int | None, int]:
    """Return how many training runs a file holds, None where it has no table of them, and how many other profiles."""
    with open_tables(path) as tables, reading(path):
        return tables.rows("run") if tables.training else None, len(tables.labels("profile"))


def load_profiles(path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]) -> ProfileSet:
    """Return the profiles of a file that belong to no training run; labels select as in `load`."""
    with open_tables(path) as tables, reading(path):
        return loose_profiles(tables, labels)


def loose_profiles(tables: TableReader, labels: Mapping[str, Any]) -> ProfileSet:
    """Return the profiles of open tables that belong to no run and have the labels."""
    ranges: Iterable[tuple[int, int]] = [(0, tables.rows("profile"))]
    if labels or tables.training:
        ranges = _neighbours(_matching(tables, "profile", labels))
    ranges = list(ranges)
    _check_memory(tables, "profile", sum(stop - start for start, stop in ranges))
    batches = [(at, min(at + _BATCH, stop)) for start, stop in ranges for at in range(start, stop, _BATCH)]
    with _uncollected():
        return ProfileSet.of(chain.from_iterable(_profiles_between(tables, start, stop) for start, stop in batches))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from walking all records again and again while they are made; none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def training_runs(tables: TableReader, labels: Mapping[str, Any]) -> TrainingSet:
    """Return the runs of open tables that have the labels."""
    rows = _matching(tables, "run", labels) if labels else list(range(tables.rows("run")))
    _check_memory(tables, "run", len(rows))
    counts = tables.array("run", "profile_count", 0, tables.rows("run"))
    runs: list[TrainingRun] = []
    for start, stop in _neighbours(rows):
        # Read so many runs at once that they hold about one batch of profiles.
        full = np.cumsum(np.maximum(counts[start:stop], 0)) // _BATCH
        edges = [start, *(start + 1 + np.flatnonzero(np.diff(full))).tolist(), stop]
        for first, last in pairwise(edges):
            runs += _runs_between(tables, first, last)
    return TrainingSet.of(runs)


def _runs_between(tables: TableReader, start: int, stop: int) -> Iterator[TrainingRun]:
    rows = tables.take("run", start, stop)
    epochs = _entries_of(tables, "run", "epoch", rows)
    low, high = _span((row["profile_start"], row["profile_count"]) for row in rows)
    taken: dict[int, list[tuple[int, NetworkProfile]]] = {row["run"]: [] for row in rows}
    owners, moments = (tables.array("profile", name, low, high).tolist() for name in ("run", "epoch"))
    for owner, moment, profile in zip(owners, moments, _profiles_between(tables, low, high), strict=True):
        # After a merge, profiles of no run may stand between the profiles of two runs.
        if owner in taken:
            taken[owner].append((moment, profile))
    for row, own in zip(rows, epochs, strict=True):
        if len(taken[row["run"]]) != row["profile_count"] or not own:
            raise ValueError(f"the profiles or epochs of run {row['run']} are incomplete")
        if [epoch["number"] for epoch in own] != list(range(len(own))):
            raise ValueError(f"the epochs of run {row['run']} are not numbered from 0 in order")
        first = row["epoch_start"]
        try:
            run = run_from_rows(row, own, [(moment - first, profile) for moment, profile in taken[row["run"]]])
        except InputError as error:
            raise ValueError(f"run {row['run']}: {error}") from error
        yield run


def _matching(tables: TableReader, table: Literal["profile", "run"], labels: Mapping[str, Any]) -> list[int]:
    wanted = values_of(labels)
    # Parsing the labels of 10,000 profiles takes as long as reading them; few hold the text that is asked for.
    texts = [values[0] for values in wanted.values() if len(values) == 1 and isinstance(values[0], str)]
    labels_of = tables.labels(table, mentioning=(text.encode() for text in texts if json.dumps(text) == f'"{text}"'))
    for name, values in wanted.items():
        labels_of = {row: entry for row, entry in labels_of.items() if name in entry and entry[name] in values}
    if labels and not labels_of:
        raise _no_match(tables, table, wanted)
    return list(labels_of)


def _no_match(
    tables: TableReader, table: Literal["profile", "run"], wanted: Mapping[str, tuple[Label, ...]]
) -> InputError:
    entries = list(tables.labels(table).values())
    there = {name: tuple(dict.fromkeys(e[name] for e in entries if name in e)) for name in wanted}
    for name, values in there.items():
        if not values:
            carried = ", ".join(sorted({name for entry in entries for name in entry})) or "none"
            return InputError(f"no {table} in {tables.path} has a label {name!r}; the labels are {carried}")
    return InputError(f"no {table} in {tables.path} has {_listed(wanted)}; there are {_listed(there)}")


def _listed(labels: Mapping[str, tuple[Label, ...]]) -> str:
    return "; ".join(
        f"{name} {', '.join(map(str, values[:12]))}{', ...' if len(values) > 12 else ''}"
        for name, values in labels.items()
    )


def _neighbours(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges that ascending row numbers form."""
    if not rows:
        return
    breaks = [at for at in range(1, len(rows)) if rows[at] != rows[at - 1] + 1]
    for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        yield rows[start], rows[stop - 1] + 1


def _profiles_between(tables: TableReader, start: int, stop: int) -> Iterator[NetworkProfile]:
    """Yield the profiles of the rows from `start` to `stop`."""
    rows = tables.take("profile", start, stop)
    sites, parameters = _entries_of(tables, "profile", "site", rows), _entries_of(tables, "profile", "parameter", rows)
    histograms = _Histograms.spanning(tables, sites, parameters)
    for row, own_sites, own_parameters in zip(rows, sites, parameters, strict=True):
        made = tuple(site_from_row(r, *(histograms.of(r, name) for name in SUMMARIES["site"])) for r in own_sites)
        check_parents(made, row["site_start"])
        yield profile_from_row(
            row,
            made,
            tuple(
                parameter_from_row(r, *(histograms.of(r, name) for name in SUMMARIES["parameter"]))
                for r in own_parameters
            ),
        )


def _entries_of(
    tables: TableReader,
    parent: Literal["profile", "run"],
    table: Literal["site", "parameter", "epoch"],
    rows: list[Row],
) -> list[list[Row]]:
    """Return, for each of these neighbouring rows of `parent`, the rows of `table` that belong to it."""
    ranges = [(row[f"{table}_start"], row[f"{table}_count"]) for row in rows]
    low, high = _span(ranges, table)
    taken = tables.take(table, low, high)
    entries = [taken[start - low : start - low + count] for start, count in ranges]
    for row, own in zip(rows, entries, strict=True):
        if any(entry[parent] != row[parent] for entry in own):
            raise ValueError(f"rows of table {table} for {parent} {row[parent]} belong to another {parent}")
        if table != "epoch" and [entry["index"] for entry in own] != list(range(len(own))):
            raise ValueError(f"rows of table {table} for {parent} {row[parent]} are not in order")
    return entries


@dataclass(frozen=True, slots=True)
class _Histograms:
    """The rows of table histogram, from `first` on, that some sites and parameters refer to."""

    first: int
    bins: NDArray[np.uint16]
    counts: NDArray[np.int64]

    @classmethod
    def spanning(cls, tables: TableReader, sites: list[list[Row]], parameters: list[list[Row]]) -> _Histograms:
        rows: dict[TableName, list[Row]] = {
            "site": list(chain.from_iterable(sites)),
            "parameter": list(chain.from_iterable(parameters)),
        }
        ranges = [_range(row, part) for table, parts in SUMMARIES.items() for part in parts for row in rows[table]]
        low, high = _span([each for each in ranges if each[0] >= 0], "histogram")
        bins = tables.array("histogram", "bin", low, high)
        counts = tables.array("histogram", "count", low, high)
        check_owners(rows, bins, counts, low)
        return cls(low, bins, counts.astype(np.int64))

    def of(self, row: Row, direction: str) -> LogHistogram | None:
        start, length = _range(row, direction)
        if start < 0:
            return None
        at = slice(start - self.first, start - self.first + length)
        return LogHistogram(self.bins[at], self.counts[at])


def _range(row: Row, direction: str) -> tuple[int, int]:
    return row[f"{direction}_histogram_start"], row[f"{direction}_histogram_length"]


def _span(ranges: Iterable[Sequence[int]], table: StoredTable | None = None) -> tuple[int, int]:
    """Return where these (start, length) ranges begin and end together; (0, 0) when all are empty.

    Raises `ValueError` where most of what lies between the ranges of a `table` belongs to none of them: a few rows of a
    hostile file must not make a reader read millions.
    """
    occupied = [(start, start + length) for start, length in ranges if length]
    low, high = min((start for start, _ in occupied), default=0), max((stop for _, stop in occupied), default=0)
    if table is not None and high - low > sum(stop - start for start, stop in occupied) + _GAP:
        raise ValueError(f"rows {low} to {high} of table {table} are asked for, but most of them are not used")
    return low, high


def _check_memory(tables: TableReader, table: Literal["profile", "run"], rows: int) -> None:
    """Refuse to read more records than there is memory for, for which the system would end the process."""
    share = rows / max(tables.rows(table), 1)
    needed = share * sum(tables.rows(name) * size for name, size in _BYTES.items())
    if needed > (available := _available_memory()):
        raise StoreError(
            f"{tables.path} holds {rows:,} {table}s that need about {needed / 1e9:.1f} GB; this machine has "
            f"{available / 1e9:.1f} GB to spare",
            hint="select some by their labels: load(path, activation=...), or --act, --init, --seed",
        )


def _available_memory() -> float:
    with suppress(OSError, StopIteration, ValueError), open("/proc/meminfo") as lines:
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(AttributeError, OSError, ValueError):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return math.inf
