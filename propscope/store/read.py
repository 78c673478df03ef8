"""`load`: rows of the tables as profiles and training runs again, all of them or those with certain labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np

from propscope.errors import InputError
from propscope.records.network import Label, NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.rows import run_from_rows
from propscope.records.training import TrainingRun, TrainingSet
from propscope.store.profile_reader import entries_of, profiles_between, span
from propscope.store.table_reader import TableReader, open_tables, reading

# Neighbouring profiles are read with one slice a column; this bounds the rows that are held as Python objects.
_BATCH = 256


def load(path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]) -> ProfileSet | TrainingSet:
    """Return what a file holds that `save` or `merge` wrote, always as a set: its training runs, else its profiles.

    With labels, such as `initializer="he_normal"` or `seed=[0, 1]`, return what has them only, in the file's order, and
    read no rows but theirs. Raises `StoreError` when the file is missing, truncated, damaged, not propscope's or of a
    newer schema, and `InputError` for a label that nothing carries and when nothing has these labels.
    """
    with open_tables(path) as tables, reading(path):
        return _runs(tables, labels) if tables.training else _loose(tables, labels)


def load_profiles(path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]) -> ProfileSet:
    """Return the profiles of a file that were not taken in a training run, as `load` does for a file without runs."""
    with open_tables(path) as tables, reading(path):
        return _loose(tables, labels)


def _loose(tables: TableReader, labels: Mapping[str, Any]) -> ProfileSet:
    ranges: Iterable[tuple[int, int]] = [(0, tables.rows("profile"))]
    if labels or tables.training:
        ranges = _neighbours(_matching(tables, "profile", labels))
    batches = [(at, min(at + _BATCH, stop)) for start, stop in ranges for at in range(start, stop, _BATCH)]
    return ProfileSet.of(chain.from_iterable(profiles_between(tables, start, stop) for start, stop in batches))


def _runs(tables: TableReader, labels: Mapping[str, Any]) -> TrainingSet:
    rows = _matching(tables, "run", labels) if labels else list(range(tables.rows("run")))
    counts = tables.array("run", "profile_count", 0, tables.rows("run"))
    runs: list[TrainingRun] = []
    for start, stop in _neighbours(rows):
        # As many runs at once as have a batch of profiles between them, one at least.
        full = np.cumsum(np.maximum(counts[start:stop], 0)) // _BATCH
        edges = [start, *(start + 1 + np.flatnonzero(np.diff(full))).tolist(), stop]
        for first, last in pairwise(edges):
            runs += _runs_between(tables, first, last)
    return TrainingSet.of(runs)


def _runs_between(tables: TableReader, start: int, stop: int) -> Iterator[TrainingRun]:
    rows = tables.take("run", start, stop)
    epochs = entries_of(tables, "run", "epoch", rows)
    low, high = span((row["profile_start"], row["profile_count"]) for row in rows)
    taken: dict[int, list[tuple[int, NetworkProfile]]] = {row["run"]: [] for row in rows}
    owners, moments = (tables.array("profile", name, low, high).tolist() for name in ("run", "epoch"))
    for owner, moment, profile in zip(owners, moments, profiles_between(tables, low, high), strict=True):
        # After a merge, profiles of no run may stand between those of two.
        if owner in taken:
            taken[owner].append((moment, profile))
    for row, own in zip(rows, epochs, strict=True):
        if len(taken[row["run"]]) != row["profile_count"] or not own:
            raise ValueError(f"the profiles or epochs of run {row['run']} are not all there")
        first = row["epoch_start"]
        try:
            run = run_from_rows(row, own, [(moment - first, profile) for moment, profile in taken[row["run"]]])
        except InputError as error:
            raise ValueError(f"run {row['run']}: {error}") from error
        if not isinstance(run.labels, dict):
            raise ValueError(f"the labels of run {row['run']} are not one JSON object")
        yield run


def _matching(tables: TableReader, table: Literal["profile", "run"], labels: Mapping[str, Any]) -> list[int]:
    wanted = {name: _choices(value) for name, value in labels.items()}
    # Of 10,000 profiles' labels, parsing takes as long as reading; few hold the text that is asked for.
    texts = [values[0] for values in wanted.values() if len(values) == 1 and isinstance(values[0], str)]
    held = tables.labels(table, mentioning=(text.encode() for text in texts if json.dumps(text) == f'"{text}"'))
    for name, values in wanted.items():
        held = {row: entry for row, entry in held.items() if name in entry and entry[name] in values}
    if labels and not held:
        raise _no_match(tables, table, wanted)
    return list(held)


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


def _choices(value: Label | Iterable[Label]) -> tuple[Label, ...]:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _listed(labels: Mapping[str, tuple[Label, ...]]) -> str:
    return "; ".join(
        f"{name} {', '.join(map(str, values[:12]))}{', ...' if len(values) > 12 else ''}"
        for name, values in labels.items()
    )


def _neighbours(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges that ascending rows form, none for no rows."""
    if not rows:
        return
    breaks = [at for at in range(1, len(rows)) if rows[at] != rows[at - 1] + 1]
    for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        yield rows[start], rows[stop - 1] + 1
