"""`OverSteps`: one recorded quantity of every site, or of every parameter, at each sample of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError, unknown_name
from propscope.records.figures import SUMMARIES, TABLES, EntryTable, Field
from propscope.records.histogram import LogHistogram
from propscope.records.network import Floats, NetworkProfile

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class OverSteps:
    """A recorded quantity of every site, or of every parameter, at each sample of a run.

    `quantity`: the name of its column. `steps`: those of the samples, shape (samples,). `names`: those of the sites in
    execution order, or of the parameters. `values`: shape (samples, names), NaN where nothing was recorded.
    """

    quantity: str
    steps: Integers
    names: tuple[str, ...]
    values: Floats

    def of(self, name: str) -> Floats:
        """Return the values of one site or parameter, shape (samples,); raises `InputError` for an unknown name."""
        if name not in self.names:
            raise unknown_name("name", name, self.names)
        return self.values[:, self.names.index(name)]

    def __repr__(self) -> str:
        return f"OverSteps({self.quantity}: {len(self.steps)} samples of {len(self.names)} names)"


@dataclass(frozen=True, slots=True, eq=False)
class HistogramsOverSteps:
    """The histograms of one summary at the samples that kept one: `steps`, shape (n,), and the n `histograms`."""

    steps: Integers
    histograms: tuple[LogHistogram, ...]


def table_of(quantity: str, table: EntryTable | None) -> tuple[EntryTable, Field]:
    """Return the table that has a quantity, `table` unless that is None, and the quantity's row of `figures.TABLES`.

    Raises `InputError` for what is no number of a site or parameter.
    """
    if table is not None and table not in SUMMARIES:
        raise InputError(f'table must be "site" or "parameter", got "{table}"')
    numbers = {
        own: {each.name: each for each in TABLES[own] if each.dtype in ("int64", "float64") and each.name != "index"}
        for own in (SUMMARIES if table is None else (table,))
    }
    for own, fields in numbers.items():
        if quantity in fields:
            return own, fields[quantity]
    raise unknown_name("quantity", quantity, dict.fromkeys(name for fields in numbers.values() for name in fields))


def part_of(part: str) -> EntryTable:
    """Return the table whose entries have the summary `part`, such as "forward"; raises `InputError` for none."""
    for table, parts in SUMMARIES.items():
        if part in parts:
            return table
    raise unknown_name("summary", part, [part for parts in SUMMARIES.values() for part in parts])


def over_steps(profiles: Iterable[NetworkProfile], quantity: str, table: EntryTable | None = None) -> OverSteps:
    """Return a quantity of the samples among profiles, those that have a label `step`."""
    own, field = table_of(quantity, table)
    read = attrgetter(field.attribute)
    steps: list[int] = []
    places: dict[str, int] = {}
    found: list[dict[int, float]] = []
    for step, profile in _samples(profiles):
        row: dict[int, float] = {}
        for entry in _entries(profile, own):
            place = places.setdefault(entry.name, len(places))
            owner = getattr(entry, field.part) if field.part else entry
            value = None if owner is None else read(owner)
            if value is not None:
                row[place] = value
        steps.append(step)
        found.append(row)
    values = np.full((len(steps), len(places)), np.nan)
    for at, row in enumerate(found):
        values[at, list(row)] = list(row.values())
    return OverSteps(quantity, np.array(steps, np.int64), tuple(places), values)


def histograms_over_steps(profiles: Iterable[NetworkProfile], name: str, part: str) -> HistogramsOverSteps:
    """Return the histograms of one summary of a site or parameter among profiles that have a label `step`."""
    table = part_of(part)
    steps: list[int] = []
    histograms: list[LogHistogram] = []
    names: dict[str, None] = {}
    for step, profile in _samples(profiles):
        for entry in _entries(profile, table):
            names[entry.name] = None
            summary = getattr(entry, part) if entry.name == name else None
            if summary is not None and summary.histogram is not None:
                steps.append(step)
                histograms.append(summary.histogram)
    if name not in names:
        raise unknown_name(table, name, names)
    return HistogramsOverSteps(np.array(steps, np.int64), tuple(histograms))


def _samples(profiles: Iterable[NetworkProfile]) -> Iterator[tuple[int, NetworkProfile]]:
    for profile in profiles:
        if isinstance(step := profile.labels.get("step"), int):
            yield step, profile


def _entries(profile: NetworkProfile, table: EntryTable) -> Iterable[Any]:
    return profile.sites if table == "site" else profile.parameters
