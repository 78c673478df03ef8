"""Records as flat rows and back. Which column holds what follows from `records.figures`."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from functools import lru_cache, partial
from itertools import repeat
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from propscope.records.figures import (
    ALARM_FIELDS,
    EPOCH_FIELDS,
    PARAMETER_FIELDS,
    PROFILE_FIELDS,
    RUN_FIELDS,
    SITE_FIELDS,
    Field,
)
from propscope.records.histogram import LogHistogram
from propscope.records.monitored import Alarm
from propscope.records.network import CoverageNote, Expected, NetworkProfile, Parameter, Parent, Provenance, Site
from propscope.records.summary import TensorSummary
from propscope.records.time_course import TimeCourse, course_document, course_from_document
from propscope.records.training import TrainingRun

TableName = Literal["profile", "site", "parameter"]
Row = dict[str, Any]
# Columns of some rows; text is str.
Arrays = Mapping[str, NDArray[Any]]
# The histogram of each row, None where it has none, by the summary that it belongs to.
Histograms = Mapping[str, Sequence[LogHistogram | None]]

MISSING: Mapping[str, Any] = {"int64": -1, "float64": math.nan, "text": "", "json": ""}
_INDEX = "index"


def _labels(fields: Sequence[Field], labels: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return labels as their columns hold them; None where one is missing or of another type."""

    def label(name: str, dtype: str) -> Any:
        value = labels.get(name)
        if dtype == "text":
            return None if value is None else str(value)
        return value if isinstance(value, int) else None

    return tuple(label(field.attribute, field.dtype) for field in fields)


class _Columns:
    """The columns that hold one record, or one record within it: `part`, "" for the record itself.

    `missing`: what a row has there when the part is None.
    """

    __slots__ = ("_fields", "_get", "_json", "_plain", "_read", "missing", "part", "record", "required")

    def __init__(self, part: str, fields: Sequence[Field], record: type) -> None:
        self.part, self.record = part, record
        self.missing = {field.name: MISSING[field.dtype] for field in fields}
        every = fields_of(record) if is_dataclass(record) else ()
        self._fields = tuple(field for field in every if field.init)
        # Whether its constructor does no more than to set its fields.
        self._plain = self._fields == every and hasattr(record, "__slots__") and not hasattr(record, "__post_init__")
        own = {field.name: field.default for field in self._fields}
        self.required = {name for name, default in own.items() if default is NO_DEFAULT}
        # A quantity that follows from others is a property of the record.
        self._read = tuple(
            (field.name, field.attribute, field.dtype, own[field.attribute])
            for field in fields
            if field.attribute in own
        )
        self._json = tuple(field.name for field in fields if field.dtype == "json")
        # In one call for all. A second attribute, since attrgetter returns no tuple for a single one.
        self._get: Callable[[Any], tuple[Any, ...]] = (
            partial(_labels, fields)
            if part == "labels"
            else attrgetter(*(field.attribute for field in fields), fields[0].attribute)
        )

    def write(self, record: Any, row: Row) -> None:
        """Add the record's columns to the row."""
        owner = getattr(record, self.part) if self.part else record
        if owner is None:
            row |= self.missing
            return
        values = self._get(owner)
        row.update(zip(self.missing, values, strict=False))
        for name in self._json:
            if row[name] is not None:
                row[name] = _as_json(row[name])
        if None in values:
            row.update((name, self.missing[name]) for name in self.missing if row[name] is None)

    def records(self, arrays: Arrays, count: int, given: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return one record a row: a field is that of `given`, else that of its column, else its default."""
        lists = dict(given)
        for name, attribute, dtype, default in self._read:
            if name in arrays:
                lists[attribute] = _values(arrays[name], attribute, dtype, default)
        columns = [
            repeat(field.default, count)
            if field.name not in lists and field.default is not NO_DEFAULT
            else lists[field.name]
            for field in self._fields
        ]
        if not self._plain:
            return list(map(self.record, *columns))
        # A frozen class sets one field after the other, which takes twice as long as one field of all records.
        made: list[Any] = list(map(object.__new__, repeat(self.record, count)))
        for field, column in zip(self._fields, columns, strict=True):
            deque(map(getattr(self.record, field.name).__set__, made, column), maxlen=0)
        return made

    def parts(self, arrays: Arrays, count: int, given: Mapping[str, Sequence[Any]], absent: Any = None) -> list[Any]:
        """Return the same with `absent` where all columns of a row are missing: there the record has no such part."""
        gone = np.ones(count, bool)
        for name, missing in self.missing.items():
            if name in arrays:
                gone &= _is_missing(arrays[name], missing)
        if gone.all():
            return [absent] * count
        made = self.records(arrays, count, given)
        for row in np.flatnonzero(gone).tolist():
            made[row] = absent
        return made


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

    def records(
        self, arrays: Arrays, count: int, histograms: Histograms | None = None, /, **given: Sequence[Any]
    ) -> list[Any]:
        """Return one record a row, whose summaries have these histograms."""
        own = self.parts[""]
        for part, columns in self.parts.items():
            if columns.record is TensorSummary:
                absent = TensorSummary.empty() if part in own.required else None
                own_histograms = {} if histograms is None or part not in histograms else {"histogram": histograms[part]}
                given[part] = columns.parts(arrays, count, own_histograms, absent)
            elif columns.record is Expected:
                given[part] = columns.parts(arrays, count, {})
            elif columns.record is Provenance:
                given[part] = columns.records(arrays, count, {})
        return own.records(arrays, count, given)


_SITE, _PARAMETER = _Table(SITE_FIELDS, Site), _Table(PARAMETER_FIELDS, Parameter)
_PROFILE, _RUN = _Table(PROFILE_FIELDS, NetworkProfile), _Table(RUN_FIELDS, TrainingRun)
_ALARM = _Table(ALARM_FIELDS, Alarm)
_CURVES = tuple(field.name for field in EPOCH_FIELDS if field.dtype == "float64")


def site_row(site: Site, index: int) -> Row:
    """Return a site as one row of `SITE_FIELDS`; its histograms are not in the row."""
    return _SITE.row(site, index=index)


def sites_of(arrays: Arrays, count: int, histograms: Histograms) -> list[Site]:
    """Return the sites that `site_row` made the rows of, `count` of them, from the columns of these rows.

    A column that `arrays` lacks leaves its field at the default. An expectation of only NaN is None.
    """
    return _SITE.records(arrays, count, histograms)


def parameter_row(parameter: Parameter, index: int) -> Row:
    """Return a parameter as one row of `PARAMETER_FIELDS`; its histograms are not in the row."""
    return _PARAMETER.row(parameter, index=index)


def parameters_of(arrays: Arrays, count: int, histograms: Histograms) -> list[Parameter]:
    """Return the parameters that `parameter_row` made the rows of, as `sites_of` does."""
    return _PARAMETER.records(arrays, count, histograms)


def profile_row(profile: NetworkProfile) -> Row:
    """Return a profile's labels, provenance and coverage as one row of `PROFILE_FIELDS`."""
    return _PROFILE.row(profile)


def profiles_of(
    arrays: Arrays, sites: Sequence[tuple[Site, ...]], parameters: Sequence[tuple[Parameter, ...]]
) -> list[NetworkProfile]:
    """Return the profiles that `profile_row` made the rows of, around their sites and parameters."""
    return _PROFILE.records(arrays, len(sites), sites=sites, parameters=parameters)


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


def run_of(arrays: Arrays, epochs: Arrays, profiles: Sequence[tuple[int, NetworkProfile]]) -> TrainingRun:
    """Return the run that `run_row` and `epoch_rows` made the rows of: `arrays` have one row, `epochs` one an epoch."""
    curves = {name: epochs[name].astype(np.float64) for name in _CURVES}
    curves["update_ratio"] = curves["update_ratio"][1:]
    given = {name: [curve] for name, curve in curves.items()} | {"profiles": [tuple(profiles)]}
    run: TrainingRun = _RUN.records(arrays, 1, None, **given)[0]
    return run


def alarm_row(alarm: Alarm) -> Row:
    """Return an alarm as one row of `ALARM_FIELDS`."""
    return _ALARM.row(alarm)


def alarms_of(arrays: Arrays, count: int) -> list[Alarm]:
    """Return the alarms that `alarm_row` made the rows of, `count` of them."""
    return _ALARM.records(arrays, count)


def _values(array: NDArray[Any], attribute: str, dtype: str, default: Any) -> Sequence[Any]:
    """Return a column as Python values; `default` for a text of JSON that is missing, None for what else may be."""
    values: list[Any] = array.tolist()
    if dtype == "json":
        # Few texts occur, such as those of shapes, each in many rows.
        found = {text: _parsed(text, attribute) if text else default for text in dict.fromkeys(values)}
        made = map(found.__getitem__, values)
        # Each record has labels of its own.
        return [*map(dict, made)] if attribute == "labels" else [*made]
    if default is None:
        missing = _is_missing(array, MISSING[dtype])
        if missing.all():
            return [None] * len(values)
        for row in np.flatnonzero(missing).tolist():
            values[row] = None
    return values


def _parsed(text: str, attribute: str) -> Any:
    value = json.loads(text)
    if not isinstance(value, list):
        return value
    element = _ELEMENTS.get(attribute)
    return tuple(value) if element is None else tuple(map(element, value))


# What an element of a list in a column of JSON becomes, by the field that holds the list.
_ELEMENTS: Mapping[str, Callable[[Any], Any]] = {
    "coverage": lambda note: CoverageNote(*note),
    "parents": lambda edge: Parent(edge[0], tuple(edge[1]), edge[2]),
    "time_courses": course_from_document,
}


def _is_missing(array: NDArray[Any], missing: Any) -> NDArray[np.bool_]:
    # NaN, which stands for a missing number, does not equal itself.
    found: NDArray[np.bool_] = np.asarray(array == missing) if missing == missing else np.isnan(array)
    return found


def _as_json(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    # Few shapes and edges occur, in every network of a grid. 1, 1.0 and True are equal, and written differently.
    kinds = tuple(map(type, value)) if isinstance(value, tuple) else ()
    return _remembered(value, kinds) if kinds and _PLAIN.issuperset(kinds) else _encoded(value)


@lru_cache(maxsize=1024)
def _remembered(value: tuple[Any, ...], kinds: tuple[type, ...]) -> str:
    return _encoded(value)


def _element(value: Any) -> Any:
    """Return what JSON has for an element of a list: a number of numpy's, or the fields of a record."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, TimeCourse):
        return course_document(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields_of(value)]
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_PLAIN = {int, str, Parent}
# json.dumps would make an encoder for each value.
_encoded = json.JSONEncoder(default=_element).encode
