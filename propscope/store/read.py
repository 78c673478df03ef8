"""`load`: reads the rows of a result file back into profiles and training runs."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from propscope.checks import file_path
from propscope.errors import InputError, StoreError, guessed
from propscope.records.figures import MONITORED_TABLES, SUMMARIES
from propscope.records.figures import TABLES as FIELDS
from propscope.records.labelled import GroupKey, values_of
from propscope.records.monitored import Alarm, MonitoredRun, Steps, no_steps
from propscope.records.network import Label, NetworkProfile
from propscope.records.pair_summary import PairName
from propscope.records.profile_set import ProfileSet
from propscope.records.rows import TableName, alarms_of, run_of
from propscope.records.training import TrainingRun, TrainingSet
from propscope.records.uncollected import uncollected
from propscope.store.entries import Entries, belonging, owned_rows
from propscope.store.packed import blocks_of
from propscope.store.schema import TABLES, StoredTable
from propscope.store.stored_samples import OpenTables, StoredSamples
from propscope.store.table_reader import TableReader, open_tables, reading

# The profiles that are read at once.
_BATCH = 1024
# The memory that one row takes as a record, measured, rounded down.
_BYTES: dict[StoredTable, int] = {
    "run": 4096,
    "epoch": 256,
    "step": 256,
    "alarm": 1024,
    "profile": 2048,
    "site": 4096,
    "parameter": 4096,
    "histogram": 10,
}
# The bytes of a site or parameter as columns, for a table, and the most rows whose columns are held at once.
_COLUMNS = 512
_HELD = 1 << 18

_MEASURED: tuple[TableName, ...] = ("profile", "site", "parameter")
Hidden = frozenset[tuple[StoredTable, str]]
# What a record computes from its other fields.
_DERIVED: Hidden = frozenset(
    (table, field.name)
    for table in SUMMARIES
    for field in FIELDS[table]
    if field.seeds == "recompute" and field.part != "expected"
)
_DISTRIBUTIONS: Hidden = frozenset(
    (table, column.name) for table in SUMMARIES for column in TABLES[table] if "_histogram_" in column.name
)
# What neither the table of several networks nor a verdict on them looks at.
_DETAILS: Hidden = frozenset(
    (table, field.name)
    for table in _MEASURED
    for field in FIELDS[table]
    if (field.part == "provenance" and field.attribute != "spec")
    or field.part == "jacobian"
    or (field.part == "labels" and table == "profile")
    or field.name in ("largest_logit", "jacobian_condition", "jacobian_square_variance")
    or field.name in ("expected_gradient_norm", "expected_gradient_log_std")
)


def load(path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]) -> ProfileSet | TrainingSet:
    """Return the training runs of a result file, or its profiles where it has no runs, always as a set.

    Of a run that was monitored it is a `MonitoredRun`, the set of its samples; the file stays open, and each sample is
    read when it is used.

    Labels such as `initializer="he_normal"` or `seed=[0, 1]` select what has these values, in the file's order; only
    those rows are read. While a run has not written its file yet, what it has finished is read from its journal, by
    the name of either, and a warning says how much of the run that is.

    Raises `StoreError` when the file is missing, truncated, damaged, not written by propscope, or of a newer schema,
    and `InputError` for a label that no entry carries or values that no entry has.
    """
    file_path("path", path)
    with ExitStack() as stack:
        tables = stack.enter_context(open_tables(path))
        with reading(path):
            if tables.unfinished:
                warnings.warn(tables.unfinished, stacklevel=2)
            if tables.training:
                return training_runs(tables, labels)
            if not tables.monitored:
                return loose_profiles(tables, labels)
            return monitored_run(OpenTables(tables, stack.pop_all()), labels)


@contextmanager
def open_networks(
    path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]
) -> Iterator[StoredNetworks | TrainingSet]:
    """Yield what `load` returns, the profiles as networks with only what a table shows and a verdict follows from.

    No column is read that shows nowhere: histograms, what follows from other columns, and of several networks the
    provenance, singular values and element types.
    """
    with open_tables(path) as tables:
        if tables.unfinished:
            warnings.warn(tables.unfinished, stacklevel=3)
        if tables.training:
            with reading(path):
                runs = training_runs(tables, labels)
            yield runs
            return
        groups: dict[GroupKey, list[int]] = {}
        with reading(path):
            for row, own in _matching(tables, "profile", labels):
                key = tuple((name, value) for name, value in own.items() if name != "seed")
                groups.setdefault(key, []).append(row)
        shown = tables.without(_DERIVED | _DISTRIBUTIONS | (_DETAILS if len(groups) > 1 else frozenset()))
        yield StoredNetworks(shown, groups)


@dataclass(frozen=True, slots=True)
class StoredNetworks:
    """The networks of an open file: each is the set of the profiles that differ only in the seed.

    Each is made when it is its turn. At most some 100 MB of columns are in memory at once, or those of one network.
    """

    _tables: TableReader
    _groups: Mapping[GroupKey, list[int]]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[ProfileSet]:
        tables, groups = self._tables, [*self._groups.values()]
        with reading(tables.path):
            order = np.array(list(chain.from_iterable(groups)), np.int64)
            entries = sum(np.maximum(tables.pick("profile", f"{table}_count", order), 0) for table in SUMMARIES)
            ends = np.cumsum([len(group) for group in groups], dtype=np.int64)
            sizes = np.diff(np.concatenate([[0], np.cumsum(entries)])[ends], prepend=0)
            most = int(sizes.max(initial=0))
            _check_memory(
                tables, f"profiles of one network, with {most:,} sites and parameters,", 1.0 * _COLUMNS * most
            )
        with uncollected():
            for block in blocks_of(sizes, _HELD):
                of_block = order[ends[block.start] - len(groups[block.start]) : ends[block.stop - 1]]
                rows = np.sort(of_block)
                with reading(tables.path):
                    read = Entries.of(tables, rows)
                # Networks of one seed are made together, since each array costs as much for one row as for a thousand.
                profiles = read.profiles(np.searchsorted(rows, of_block))
                for group in groups[block]:
                    yield ProfileSet.of(islice(profiles, len(group)))

    @property
    def monitored(self) -> bool:
        """Whether the profiles are samples of a monitored run."""
        return self._tables.monitored

    @property
    def profiles(self) -> int:
        """The number of profiles of all networks."""
        return sum(map(len, self._groups.values()))

    def split(self, most: int) -> tuple[StoredNetworks, list[PairName]]:
        """Return the first networks, at most so many, and the names of the others."""
        groups = self._groups.items()
        others = [PairName(dict(key), len(group)) for key, group in islice(groups, most, None)]
        return replace(self, _groups=dict(islice(groups, most))), others


def numbers_in(path: str | os.PathLike[str], /) -> tuple[int | None, int]:
    """Return how many training runs a file holds, None where it has no table of them, and how many other profiles."""
    with open_tables(path) as tables, reading(path):
        return tables.rows("run") if tables.training else None, sum(1 for _ in tables.labels("profile"))


def memory_to_load(path: str | os.PathLike[str], /) -> float:
    """Return the bytes of memory that a whole file takes once it is loaded."""
    with open_tables(path) as tables, reading(path):
        return _bytes_of(tables, "profile", tables.rows("profile"))


def load_profiles(path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]) -> ProfileSet:
    """Return the profiles of a file that belong to no training run; labels select as in `load`."""
    with open_tables(path) as tables, reading(path):
        return loose_profiles(tables, labels)


def monitored_run(source: OpenTables, labels: Mapping[str, Any]) -> MonitoredRun:
    """Return the run of open tables, with the samples that have the labels, each of which is read when it is used."""
    tables = source.tables
    found = dict(_matching(tables, "profile", labels))
    samples = StoredSamples(source, np.fromiter(found, np.int64, len(found)), [*found.values()])
    return MonitoredRun(samples, _steps(tables), _alarms(tables))


def _steps(tables: TableReader) -> Steps:
    if not tables.monitored:
        return no_steps()
    columns = tables.take("step", _every(tables, "step"))
    return Steps(*(columns[field.name] for field in MONITORED_TABLES["step"]))


def _alarms(tables: TableReader) -> tuple[Alarm, ...]:
    if not tables.monitored:
        return ()
    rows = _every(tables, "alarm")
    return tuple(alarms_of(tables.take("alarm", rows), len(rows)))


def entries_in(tables: TableReader) -> Iterator[NetworkProfile | TrainingRun]:
    """Yield the training runs of open tables, or the profiles where they have no runs; a block is read at a time."""
    with reading(tables.path):
        if tables.training:
            yield from _all_runs(tables, _every(tables, "run"))
        else:
            yield from _profiles(tables, _every(tables, "profile"))


def loose_profiles(tables: TableReader, labels: Mapping[str, Any]) -> ProfileSet:
    """Return the profiles of open tables that belong to no run and have the labels."""
    rows = _every(tables, "profile")
    if labels or tables.training:
        rows = _rows(tables, "profile", labels)
    _check_memory(tables, f"{len(rows):,} profiles", _bytes_of(tables, "profile", len(rows)))
    with uncollected():
        return ProfileSet.of(_profiles(tables, rows))


def _profiles(tables: TableReader, rows: NDArray[np.int64]) -> Iterator[NetworkProfile]:
    for at in range(0, len(rows), _BATCH):
        entries = Entries.of(tables, rows[at : at + _BATCH])
        yield from entries.profiles(np.arange(len(entries.own["profile"])))


def training_runs(tables: TableReader, labels: Mapping[str, Any]) -> TrainingSet:
    """Return the runs of open tables that have the labels."""
    rows = _rows(tables, "run", labels) if labels else _every(tables, "run")
    _check_memory(tables, f"{len(rows):,} runs", _bytes_of(tables, "run", len(rows)))
    return TrainingSet.of(_all_runs(tables, rows))


def _every(tables: TableReader, table: StoredTable) -> NDArray[np.int64]:
    return np.arange(tables.rows(table))


def _all_runs(tables: TableReader, rows: NDArray[np.int64]) -> Iterator[TrainingRun]:
    # Read so many runs at once that they hold about one batch of profiles.
    counts = np.maximum(tables.pick("run", "profile_count", rows), 0)
    edges = np.flatnonzero(np.diff(np.cumsum(counts) // _BATCH)) + 1
    return chain.from_iterable(_runs(tables, part) for part in np.split(rows, edges))


def _runs(tables: TableReader, rows: NDArray[np.int64]) -> Iterator[TrainingRun]:
    own = tables.take("run", rows)
    epochs, number = belonging(tables, "run", "epoch", own)
    bounds = np.concatenate([[0], np.cumsum(own["epoch_count"])])
    taken = owned_rows(own, "profile", tables.rows("profile"))
    moments = tables.pick("profile", "epoch", taken).tolist()
    belong = tables.pick("profile", "run", taken) == np.repeat(own["run"], own["profile_count"])
    incomplete = np.isin(own["run"], np.repeat(own["run"], own["profile_count"])[~belong]) | (own["epoch_count"] == 0)
    if incomplete.any():
        raise ValueError(f"the profiles or epochs of run {own['run'][incomplete][0]} are incomplete")
    if len(wrong := np.flatnonzero(epochs["number"] != number)):
        raise ValueError(f"the epochs of run {epochs['run'][wrong[0]]} are not numbered from 0 in order")
    timed = zip(moments, _profiles(tables, taken), strict=True)
    for at in range(len(rows)):
        first = int(own["epoch_start"][at])
        by_epoch = [(moment - first, profile) for moment, profile in islice(timed, int(own["profile_count"][at]))]
        one = {name: column[at : at + 1] for name, column in own.items()}
        curves = {name: column[bounds[at] : bounds[at + 1]] for name, column in epochs.items()}
        try:
            yield run_of(one, curves, by_epoch)
        except InputError as error:
            raise ValueError(f"run {own['run'][at]}: {error}") from error


def _matching(
    tables: TableReader, table: Literal["profile", "run"], labels: Mapping[str, Any]
) -> Iterator[tuple[int, dict[str, Label]]]:
    """Yield row and labels of the profiles outside runs, or of the runs, that have these labels."""
    wanted = values_of(labels)
    # Parsing the labels of 10,000 profiles takes as long as reading them; few hold the text that is asked for.
    texts = [values[0] for values in wanted.values() if len(values) == 1 and isinstance(values[0], str)]
    mentioning = (text.encode() for text in texts if json.dumps(text) == f'"{text}"')
    found = False
    for row, own in tables.labels(table, mentioning):
        if all(name in own and own[name] in values for name, values in wanted.items()):
            found = True
            yield row, own
    if labels and not found:
        raise _no_match(tables, table, wanted)


def _rows(tables: TableReader, table: Literal["profile", "run"], labels: Mapping[str, Any]) -> NDArray[np.int64]:
    return np.fromiter((row for row, _ in _matching(tables, table, labels)), np.int64)


def _no_match(
    tables: TableReader, table: Literal["profile", "run"], wanted: Mapping[str, tuple[Label, ...]]
) -> InputError:
    entries = [own for _, own in tables.labels(table)]
    there = {name: tuple(dict.fromkeys(e[name] for e in entries if name in e)) for name in wanted}
    if (asked := wanted.get("step")) and isinstance(asked[0], int):
        # Of thousands of samples, those that are near.
        nearest = sorted((step for step in there["step"] if isinstance(step, int)), key=partial(_distance, asked[0]))
        there["step"] = tuple(nearest)
    for name, values in there.items():
        if not values:
            carried = ", ".join(sorted({name for entry in entries for name in entry})) or "none"
            return InputError(f'no {table} in {tables.path} has a label "{name}"; the labels are {carried}')
    texts = ((each, [str(value) for value in there[name]]) for name, values in wanted.items() for each in values)
    near = (guessed(typed, valid) for typed, valid in texts if isinstance(typed, str) and typed not in valid)
    hint = next(filter(None, near), "")
    return InputError(f"no {table} in {tables.path} has {_listed(wanted)}; there are {_listed(there)}", hint=hint)


def _distance(one: int, other: int) -> int:
    return abs(one - other)


def _listed(labels: Mapping[str, tuple[Label, ...]]) -> str:
    return "; ".join(
        f"{name} {', '.join(map(str, values[:12]))}{', ...' if len(values) > 12 else ''}"
        for name, values in labels.items()
    )


def _check_memory(tables: TableReader, what: str, needed: float) -> None:
    """Refuse to read more than there is memory for, for which the system would end the process."""
    if needed > (available := _available_memory()):
        raise StoreError(
            f"{tables.path} holds {what} that need about {needed / 1e9:.1f} GB; this machine has "
            f"{available / 1e9:.1f} GB to spare",
            hint="select some by their labels: load(path, activation=...), or --act, --init, --seed",
        )


def _bytes_of(tables: TableReader, table: Literal["profile", "run"], rows: int) -> float:
    """Return the bytes of memory that so many profiles or runs take as records, if all are of equal size."""
    share = rows / max(tables.rows(table), 1)
    return share * sum(tables.rows(name) * size for name, size in _BYTES.items())


def _available_memory() -> float:
    with suppress(OSError, StopIteration, ValueError), open("/proc/meminfo") as lines:
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(AttributeError, OSError, ValueError):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return math.inf
