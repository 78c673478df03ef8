"""Records that carry labels: their axes, those with certain values, and those that differ in one label alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from propscope.errors import InputError
from propscope.records.network import Label

Wanted = Mapping[str, tuple[Label, ...]]


class Labelled(Protocol):
    """Whatever has labels."""

    @property
    def labels(self) -> Mapping[str, Label]:
        """One coordinate an axis."""
        ...


Record = TypeVar("Record", bound=Labelled)


def axes_of(records: Iterable[Labelled]) -> Mapping[str, tuple[Label, ...]]:
    """Return each label's distinct values, in the order of their first appearance."""
    values: dict[str, dict[Label, None]] = {}
    for record in records:
        for name, value in record.labels.items():
            values.setdefault(name, {})[value] = None
    return {name: tuple(seen) for name, seen in values.items()}


def wanted(labels: Mapping[str, Any], axes: Wanted, *, noun: str) -> Wanted:
    """Return the values asked for, one or several for each label; raises `InputError` for a label that no axis has."""
    for name in labels:
        if name not in axes:
            raise InputError(f"no {noun} has a label {name!r}; the labels are {', '.join(axes) or 'none'}")
    return {
        name: tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
        for name, value in labels.items()
    }


def having(records: Iterable[Record], labels: Wanted) -> tuple[Record, ...]:
    """Return the records whose labels have these values."""
    return tuple(r for r in records if all(r.labels.get(name) in values for name, values in labels.items()))


def nothing_has(labels: Wanted, axes: Wanted, *, noun: str) -> InputError:
    """Return the error for values that no record has, with those that there are."""
    return InputError(f"no {noun} has {_spell(labels)}; there are {_spell(axes)}")


def grouped(records: Sequence[Record], over: str) -> dict[tuple[tuple[str, Label], ...], tuple[Record, ...]]:
    """Return the records that differ in the label `over` alone together, keyed by their other labels."""
    together: dict[tuple[tuple[str, Label], ...], list[Record]] = {}
    for record in records:
        key = tuple((name, value) for name, value in record.labels.items() if name != over)
        together.setdefault(key, []).append(record)
    return {key: tuple(members) for key, members in together.items()}


def _spell(labels: Wanted) -> str:
    return "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in labels.items())
