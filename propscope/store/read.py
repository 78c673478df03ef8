"""`load`: rows of the tables as profiles again, all of them or those with certain labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError
from propscope.results.histogram import BIN_COUNT, LogHistogram
from propscope.results.network import Label, NetworkProfile
from propscope.results.profile_set import ProfileSet
from propscope.results.rows import Row, TableName, parameter_from_row, profile_from_row, site_from_row
from propscope.store.schema import DIRECTIONS
from propscope.store.table_reader import TableReader, open_tables, reading

# Neighbouring profiles are read with one slice a column; this bounds the rows that are held as Python objects.
_BATCH = 256


def load(path: str | os.PathLike[str], /, **labels: Label | Iterable[Label]) -> ProfileSet:
    """Return the profiles of a file that `save` or `merge` wrote, always as a set, also when there is one.

    With labels, such as `initializer="he_normal"` or `seed=[0, 1]`, return those profiles only, in the file's order,
    and read no rows but theirs. Raises `StoreError` when the file is missing, truncated, damaged, not propscope's or of
    a newer schema, and `InputError` for a label that no profile carries and when no profile has these labels.
    """
    with open_tables(path) as tables, reading(path):
        runs: Iterable[tuple[int, int]] = [(0, tables.rows("profile"))]
        if labels:
            runs = _runs(_matching(tables, labels))
        batches = [(at, min(at + _BATCH, stop)) for start, stop in runs for at in range(start, stop, _BATCH)]
        return ProfileSet.of(chain.from_iterable(_profiles(tables, start, stop) for start, stop in batches))


def _matching(tables: TableReader, labels: Mapping[str, Any]) -> list[int]:
    wanted = {name: _choices(value) for name, value in labels.items()}
    # Of 10,000 profiles' labels, parsing takes as long as reading; few hold the text that is asked for.
    texts = [values[0] for values in wanted.values() if len(values) == 1 and isinstance(values[0], str)]
    held = tables.labels(text.encode() for text in texts if json.dumps(text) == f'"{text}"')
    for name, values in wanted.items():
        held = {row: profile for row, profile in held.items() if name in profile and profile[name] in values}
    if not held:
        raise _no_match(tables, wanted)
    return list(held)


def _no_match(tables: TableReader, wanted: Mapping[str, tuple[Label, ...]]) -> InputError:
    profiles = list(tables.labels().values())
    there = {name: tuple(dict.fromkeys(p[name] for p in profiles if name in p)) for name in wanted}
    for name, values in there.items():
        if not values:
            carried = ", ".join(sorted({name for profile in profiles for name in profile})) or "none"
            return InputError(f"no profile in {tables.path} has a label {name!r}; the labels are {carried}")
    return InputError(f"no profile in {tables.path} has {_listed(wanted)}; there are {_listed(there)}")


def _choices(value: Label | Iterable[Label]) -> tuple[Label, ...]:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _listed(labels: Mapping[str, tuple[Label, ...]]) -> str:
    return "; ".join(
        f"{name} {', '.join(map(str, values[:12]))}{', ...' if len(values) > 12 else ''}"
        for name, values in labels.items()
    )


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    breaks = [at for at in range(1, len(rows)) if rows[at] != rows[at - 1] + 1]
    for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        yield rows[start], rows[stop - 1] + 1


def _profiles(tables: TableReader, start: int, stop: int) -> Iterator[NetworkProfile]:
    rows = tables.take("profile", start, stop)
    sites, parameters = _entries(tables, "site", rows), _entries(tables, "parameter", rows)
    held = _Histograms.spanning(tables, sites, parameters)
    for row, own_sites, own_parameters in zip(rows, sites, parameters, strict=True):
        profile = profile_from_row(
            row,
            tuple(site_from_row(r, *(held.of(r, name) for name in DIRECTIONS["site"])) for r in own_sites),
            tuple(
                parameter_from_row(r, *(held.of(r, name) for name in DIRECTIONS["parameter"])) for r in own_parameters
            ),
        )
        if not isinstance(profile.labels, dict):
            raise ValueError(f"the labels of profile {row['profile']} are not one JSON object")
        yield profile


def _entries(tables: TableReader, table: Literal["site", "parameter"], rows: list[Row]) -> list[list[Row]]:
    ranges = [(row[f"{table}_start"], row[f"{table}_count"]) for row in rows]
    low, high = _span(ranges)
    taken = tables.take(table, low, high)
    entries = [taken[start - low : start - low + count] for start, count in ranges]
    for row, own in zip(rows, entries, strict=True):
        if any(entry["profile"] != row["profile"] for entry in own):
            raise ValueError(f"rows of table {table} for profile {row['profile']} belong to another profile")
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
        low, high = _span(
            _range(row, direction)
            for table, directions in DIRECTIONS.items()
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


def _span(ranges: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the rows from the first to the last of these (start, length) ranges, (0, 0) when all are empty."""
    occupied = [(start, start + length) for start, length in ranges if length]
    if any(stop < start for start, stop in occupied):
        raise ValueError("a range of rows has a negative length")
    return min((start for start, _ in occupied), default=0), max((stop for _, stop in occupied), default=0)
