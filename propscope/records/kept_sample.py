"""What is kept of a sample of a training: numbers of 24 bits, and histograms where they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from propscope.records.figures import SUMMARIES, TABLES, EntryTable
from propscope.records.network import NetworkProfile, Parameter, Site
from propscope.records.summary import TensorSummary

Entry = TypeVar("Entry", Site, Parameter)

# The bits of a float64 that a float32 lacks.
_DROPPED = 52 - 23


def _numbers_of(record: type, table: EntryTable, part: str = "") -> tuple[str, ...]:
    """Return the fields of a record that hold a number of type float64."""
    own = {field.name for field in fields_of(record)}
    columns = [field for field in TABLES[table] if field.dtype == "float64" and field.part == part]
    return tuple(field.attribute for field in columns if field.attribute in own)


_SUMMARY = _numbers_of(TensorSummary, "site", "forward")
_OWN: dict[EntryTable, tuple[str, ...]] = {
    "site": _numbers_of(Site, "site"),
    "parameter": _numbers_of(Parameter, "parameter"),
}

_READ_SUMMARY = attrgetter(*_SUMMARY)
_READ = {table: attrgetter(*names) for table, names in _OWN.items()}


def shortened(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers rounded to the 24 significant bits of a float32, a tie away from zero, in the range of a float64.

    They take half the space once they are compressed.
    """
    bits = values.view(np.int64) + (1 << (_DROPPED - 1)) & -(1 << _DROPPED)
    rounded = bits.view(np.float64)
    # A number that is not finite, or that would not be any more, stays.
    return np.where(np.isfinite(values) & np.isfinite(rounded), rounded, values)


def kept_sample(profile: NetworkProfile, *, histograms: bool) -> NetworkProfile:
    """Return a profile whose sites and parameters have numbers of 24 significant bits, with or without histograms.

    What follows from other numbers, such as an rms, is computed from those that are kept, and has all bits.
    """
    numbers: list[float | None] = []
    entries: dict[EntryTable, Sequence[Site | Parameter]] = {"site": profile.sites, "parameter": profile.parameters}
    for table, own in entries.items():
        for entry in own:
            numbers += _READ[table](entry)
            for part in SUMMARIES[table]:
                if (summary := getattr(entry, part)) is not None:
                    numbers += _READ_SUMMARY(summary)
    # numpy makes NaN of None, all at once.
    rounded = shortened(np.array(numbers, np.float64)).tolist()
    short = iter([None if old is None else new for old, new in zip(numbers, rounded, strict=True)])

    def kept_summary(summary: TensorSummary | None) -> TensorSummary | None:
        if summary is None:
            return None
        changes: dict[str, Any] = dict(zip(_SUMMARY, islice(short, len(_SUMMARY)), strict=True))
        return replace(summary, **changes, histogram=summary.histogram if histograms else None)

    def kept(entry: Entry, table: EntryTable) -> Entry:
        changes: dict[str, Any] = dict(zip(_OWN[table], islice(short, len(_OWN[table])), strict=True))
        changes |= {part: kept_summary(getattr(entry, part)) for part in SUMMARIES[table]}
        return replace(entry, **changes)

    return replace(
        profile,
        sites=tuple(kept(site, "site") for site in profile.sites),
        parameters=tuple(kept(parameter, "parameter") for parameter in profile.parameters),
    )
