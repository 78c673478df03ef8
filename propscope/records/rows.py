"""Records as flat rows and back. Which column holds what follows from `records.figures`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import astuple, is_dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from propscope.records.figures import EPOCH_FIELDS, PARAMETER_FIELDS, PROFILE_FIELDS, RUN_FIELDS, SITE_FIELDS, Field
from propscope.records.histogram import LogHistogram
from propscope.records.network import CoverageNote, Expected, NetworkProfile, Parameter, Parent, Provenance, Site
from propscope.records.summary import TensorSummary
from propscope.records.time_course import TimeCourse, course_document, course_from_document
from propscope.records.training import TrainingRun

TableName = Literal["profile", "site", "parameter"]
Row = dict[str, Any]

MISSING: Mapping[str, Any] = {"int64": -1, "float64": math.nan, "text": "", "json": ""}
_INDEX = "index"


class _Columns:
    """The columns that hold one record, or one record within it: `part`, "" for the record itself.

    `missing`: what a row has there when the part is None.
    """

    __slots__ = ("_attributes", "_get", "_optional", "_parsed", "fields", "missing", "part")

    def __init__(self, part: str, fields: Sequence[Field], record: type) -> None:
        self.part = part
        self.fields = tuple((field.name, field.attribute, field.dtype) for field in fields)
        self.missing = {field.name: MISSING[field.dtype] for field in fields}
        declared = getattr(record, "__dataclass_fields__", {})
        order = list(declared)
        read = sorted((entry for entry in self.fields if entry[1] in declared), key=lambda entry: order.index(entry[1]))
        self._attributes = tuple(attribute for _, attribute, _ in read)
        # A second name, since itemgetter returns no tuple for a single one.
        self._get = itemgetter(*(name for name, _, _ in read), fields[0].name)
        self._parsed = tuple(
            (attribute, declared[attribute].default) for _, attribute, dtype in read if dtype == "json"
        )
        # The fields of the record that may be None.
        self._optional = tuple(
            (attribute, MISSING[dtype])
            for _, attribute, dtype in read
            if dtype != "json" and declared[attribute].default is None
        )

    def write(self, record: Any, row: Row) -> None:
        """Add the record's columns to the row."""
        owner = getattr(record, self.part) if self.part else record
        if owner is None:
            row |= self.missing
            return
        for name, attribute, dtype in self.fields:
            value = _label(owner, attribute, dtype) if self.part == "labels" else getattr(owner, attribute)
            if value is None:
                row[name] = self.missing[name]
            else:
                row[name] = _as_json(value) if dtype == "json" else value

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record's fields that the row holds, by name."""
        # Without strict: the last value is the second name of the first.
        found = dict(zip(self._attributes, self._get(row), strict=False))
        for attribute, default in self._parsed:
            text = found[attribute]
            if text[:1] == "[":
                found[attribute] = _elements(text)
            else:
                found[attribute] = json.loads(text) if text or default is NO_DEFAULT else default
        for attribute, missing in self._optional:
            value = found[attribute]
            if value != value or value == missing:
                found[attribute] = None
        return found

    def ordered(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the same in the order of the record's fields, for a part that has neither None nor JSON."""
        found: tuple[Any, ...] = self._get(row)
        return found[:-1]

    def is_absent(self, row: Mapping[str, Any]) -> bool:
        """Return whether all columns are missing: then the record has no such part."""
        for name, missing in self.missing.items():
            value = row[name]
            # NaN, which stands for a missing number, does not equal itself.
            if value == value and value != missing:
                return False
        return True


class _Table:
    """The columns of one table, by the part of the record that they hold, in the order of `fields`."""

    __slots__ = ("order", "parts")

    def __init__(self, fields: Sequence[Field], record: type) -> None:
        kinds = {"": record, "expected": Expected, "provenance": Provenance, "labels": dict}
        own: dict[str, list[Field]] = {}
        for field in fields:
            if field.name != _INDEX:
                own.setdefault(field.part, []).append(field)
        self.order = dict.fromkeys(field.name for field in fields)
        self.parts = {part: _Columns(part, columns, kinds.get(part, TensorSummary)) for part, columns in own.items()}

    def row(self, record: Any, **more: Any) -> Row:
        """Return the record as a row."""
        row: Row = self.order | more
        for columns in self.parts.values():
            columns.write(record, row)
        return row

    def values(self, row: Mapping[str, Any], part: str = "") -> dict[str, Any]:
        """Return the fields of the record, or of a part of it, that the row holds."""
        return self.parts[part].values(row)

    def summary(self, part: str, row: Mapping[str, Any], histogram: LogHistogram | None) -> TensorSummary | None:
        """Return a summary that the row holds, None where it was not recorded."""
        columns = self.parts[part]
        return None if columns.is_absent(row) else TensorSummary(*(*columns.ordered(row), histogram))

    def provenance(self, row: Mapping[str, Any]) -> Provenance:
        """Return the provenance that the row holds."""
        return Provenance(**self.values(row, "provenance"))


_SITE, _PARAMETER = _Table(SITE_FIELDS, Site), _Table(PARAMETER_FIELDS, Parameter)
_PROFILE, _RUN = _Table(PROFILE_FIELDS, NetworkProfile), _Table(RUN_FIELDS, TrainingRun)
_CURVES = tuple(field.name for field in EPOCH_FIELDS if field.dtype == "float64")


def site_row(site: Site, index: int) -> Row:
    """Return a site as one row of `SITE_FIELDS`; its histograms are not in the row."""
    return _SITE.row(site, index=index)


def site_from_row(
    row: Mapping[str, Any],
    forward: LogHistogram | None,
    backward: LogHistogram | None,
    jacobian: LogHistogram | None = None,
) -> Site:
    """Return the site that `site_row` made the row of, with its histograms; an expectation of only NaN is None."""
    expected = _SITE.parts["expected"]
    own = _SITE.values(row)
    if own["parents"]:
        own["parents"] = tuple(Parent(name, tuple(between), passes) for name, between, passes in own["parents"])
    return Site(
        **own,
        forward=_SITE.summary("forward", row, forward),
        backward=_SITE.summary("backward", row, backward),
        jacobian=_SITE.summary("jacobian", row, jacobian),
        expected=None if expected.is_absent(row) else Expected(*expected.ordered(row)),
    )


def parameter_row(parameter: Parameter, index: int) -> Row:
    """Return a parameter as one row of `PARAMETER_FIELDS`; its histograms are not in the row."""
    return _PARAMETER.row(parameter, index=index)


def parameter_from_row(row: Mapping[str, Any], value: LogHistogram | None, gradient: LogHistogram | None) -> Parameter:
    """Return the parameter that `parameter_row` made the row of, with its histograms."""
    return Parameter(
        **_PARAMETER.values(row),
        value=_PARAMETER.summary("value", row, value) or TensorSummary.empty(),
        gradient=_PARAMETER.summary("gradient", row, gradient),
    )


def profile_row(profile: NetworkProfile) -> Row:
    """Return a profile's labels, provenance and coverage as one row of `PROFILE_FIELDS`."""
    return _PROFILE.row(profile)


def profile_from_row(
    row: Mapping[str, Any], sites: tuple[Site, ...], parameters: tuple[Parameter, ...]
) -> NetworkProfile:
    """Return the profile that `profile_row` made the row of, around its sites and parameters."""
    own = _PROFILE.values(row)
    own["coverage"] = tuple(CoverageNote(*note) for note in own["coverage"])
    own["time_courses"] = tuple(map(course_from_document, own["time_courses"]))
    return NetworkProfile(sites, parameters, provenance=_PROFILE.provenance(row), **own)


def run_row(run: TrainingRun) -> Row:
    """Return a training run as one row of `RUN_FIELDS`; its curves and profiles are not in the row."""
    return _RUN.row(run)


def epoch_rows(run: TrainingRun) -> list[Row]:
    """Return a run's epochs as rows of `EPOCH_FIELDS`; the first is the network before the first step."""
    columns = {name: getattr(run, name).tolist() for name in _CURVES}
    # No step comes before the first row.
    columns["update_ratio"].insert(0, math.nan)
    return [
        {"number": number, **dict(zip(columns, values, strict=True))}
        for number, values in enumerate(zip(*columns.values(), strict=True))
    ]


def run_from_rows(
    row: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]], profiles: Sequence[tuple[int, NetworkProfile]]
) -> TrainingRun:
    """Return the run that `run_row` and `epoch_rows` made the rows of, around its profiles."""
    curves: dict[str, Any] = {name: np.array([epoch[name] for epoch in epochs], dtype=np.float64) for name in _CURVES}
    curves["update_ratio"] = curves["update_ratio"][1:]
    return TrainingRun(**_RUN.values(row), **curves, profiles=tuple(profiles), provenance=_RUN.provenance(row))


@lru_cache(maxsize=1024)
def _elements(text: str) -> tuple[Any, ...]:
    """Return the elements of a JSON list; few shapes occur, each at many sites."""
    return tuple(json.loads(text))


def _label(labels: Mapping[str, Any], name: str, dtype: str) -> Any:
    """Return a label as a column of this type holds it; None where it is missing or of another type."""
    value = labels.get(name)
    if dtype == "text":
        return None if value is None else str(value)
    return value if isinstance(value, int) else None


def _as_json(value: Any) -> str:
    return json.dumps(dict(value)) if isinstance(value, Mapping) else json.dumps(value, default=_element)


def _element(value: Any) -> Any:
    """Return what JSON has for an element of a list: a number of numpy's, or the fields of a record."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, TimeCourse):
        return course_document(value)
    if is_dataclass(value) and not isinstance(value, type):
        return astuple(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
