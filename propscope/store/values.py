"""`check_values`: whether rows hold what the schema allows, before anything is made of them.

A file may be damaged, or written by a stranger to mislead. What `records.figures` says of each quantity is checked here
for all rows at once; an error names table, row and column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.records.figures import FINITE, SUMMARIES, SUMMARY_FIELDS, EntryTable, Field
from propscope.records.histogram import BIN_COUNT, NAN, NEGINF, POSINF
from propscope.records.network import UNKNOWN, Site
from propscope.records.time_course import course_from_document
from propscope.store.schema import TABLES, Column, StoredTable

Arrays = Mapping[str, NDArray[Any]]
Bad = NDArray[np.bool_]
# The numbers of some rows.
Rows = NDArray[np.int64]

# What is computed in floating point may leave its range by a rounding error.
_ROUNDING = 1e-3
_SHOWN = 60
_PARENT = "[site, [operations], true or false]"
# What a summary is made of; the other quantities follow from these.
_SUMMARY = tuple(field.name for field in SUMMARY_FIELDS if field.seeds == "merge")
_LARGEST = 2**63
_ABSENT_BINS = np.ones(1 << 16, np.bool_)
_ABSENT_BINS[[*range(POSINF + 1), NAN, *range(NAN + 2, NEGINF + 1)]] = False


class InvalidValue(ValueError):
    """A value that its column does not allow."""

    def __init__(self, table: str, row: int | np.int64, column: str, valid: str, got: Any) -> None:
        said = f"{got.item()!r}" if isinstance(got, np.generic) else repr(got)
        said = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."
        super().__init__(f"table {table}, row {row}, column {column}: must be {valid}, got {said}")


def check_values(table: StoredTable, values: Arrays, rows: Rows) -> dict[str, dict[bytes, str]]:
    """Return each text of the text columns by its bytes, after checking the columns of these rows.

    `rows` are their numbers, for the column that holds them and for errors. `values` may lack columns; then what
    compares them is not checked. A summary is checked where `values` have all its columns. Raises `ValueError` for the
    first value found that is not allowed.
    """
    texts: dict[str, dict[bytes, str]] = {}
    if table == "histogram":
        # What belongs to one histogram is known to the reader of its owner only: it calls `check_histograms`.
        check_histograms(values["bin"], values["count"], np.empty((0, 2), np.int64), rows)
        return texts
    for column in TABLES[table]:
        if (stored := values.get(column.name)) is None or not len(stored):
            continue
        if column.stored == "text":
            texts[column.name] = _texts(table, column, stored, rows)
        elif column.stored in ("int64", "float64"):
            _refuse(table, column.name, _out_of_range(column, stored, rows, table), _valid(column, table), stored, rows)
    if table in ("site", "parameter"):
        for part in SUMMARIES[table]:
            if values.keys() >= {f"{part}_{name}" for name in _SUMMARY}:
                _check_summary(table, part, values, rows)
    if "units" in values:
        for name in {"dead_units", "symmetric_units"} & values.keys():
            bad = values[name] > np.maximum(values["units"], 0)
            _refuse(table, name, bad, "at most the number of units", values[name], rows)
    return texts


def check_histograms(
    bins: NDArray[np.uint16], counts: NDArray[np.uint64], ranges: NDArray[np.int64], rows: Rows
) -> None:
    """Raise `ValueError` for histograms that cannot have been recorded.

    `bins` and `counts` are the given rows of table histogram; `ranges`, shape (n, 2), holds the position among them and
    the length of each histogram. Bins that occur are 0 to 2047 of each sign without those of other NaNs; they ascend,
    and none is empty.
    """
    table = "histogram"
    _refuse(table, "bin", _ABSENT_BINS[bins], f"a bin that occurs, from 0 to {BIN_COUNT - 1}", bins, rows)
    _refuse(table, "count", (counts < 1) | (counts >= _LARGEST), "from 1 to 2^63 - 1", counts, rows)
    if not len(ranges):
        return
    # Where a histogram begins, its first bin may be below the last bin of the one before.
    falls = np.flatnonzero(bins[1:] <= bins[:-1]) + 1
    for at in falls[~np.isin(falls, ranges[:, 0])].tolist():
        if ((ranges[:, 0] < at) & (at < ranges.sum(1))).any():
            raise InvalidValue(table, rows[at], "bin", "above the bin before", bins[at])


def check_owners(
    columns: Mapping[EntryTable, Arrays],
    places: NDArray[np.int64],
    bins: NDArray[np.uint16],
    counts: NDArray[np.uint64],
    rows: Rows,
) -> None:
    """Raise `ValueError` for histograms that cannot have been recorded, or that hold more than their owner counts.

    `columns`: of sites and parameters; `bins` and `counts` are the rows of table histogram that they refer to.
    `places`: where each histogram starts among these, in the order of `histogram_ranges`.
    """
    starts, lengths = histogram_ranges(columns)
    counted = _of_parts(columns, "count")
    ranges = np.stack([np.where(lengths > 0, places, 0), lengths], axis=1)
    check_histograms(bins, counts, ranges, rows)
    total = totals(counts, ranges)
    for owner in np.flatnonzero((starts >= 0) & (total > np.maximum(counted, 0) * (1 + 1e-9))).tolist():
        valid, got = f"at least the {total[owner]:.0f} values of its histogram", int(counted[owner])
        for table, part in histogram_parts(columns):
            if owner < len(numbers := columns[table][table]):
                raise InvalidValue(table, numbers[owner], f"{part}_count", valid, got)
            owner -= len(numbers)


def histogram_parts(columns: Mapping[EntryTable, Arrays]) -> list[tuple[EntryTable, str]]:
    """Return the summaries, with their table, whose histograms the columns refer to."""
    named = ((table, part) for table, parts in SUMMARIES.items() for part in parts)
    return [(table, part) for table, part in named if f"{part}_histogram_start" in columns.get(table, {})]


def histogram_ranges(columns: Mapping[EntryTable, Arrays]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row (-1: none) and the length of every histogram, one summary of all rows after the other."""
    starts = _of_parts(columns, "histogram_start")
    return starts, np.where(starts < 0, 0, _of_parts(columns, "histogram_length"))


def _of_parts(columns: Mapping[EntryTable, Arrays], name: str) -> NDArray[np.int64]:
    found = [columns[table][f"{part}_{name}"] for table, part in histogram_parts(columns)]
    return np.concatenate([np.empty(0, np.int64), *found])


def check_parents(sites: Sequence[Site], first: int) -> None:
    """Raise `ValueError` where a site of one network, the rows from `first` on, has a parent that is no site before it.

    In execution order no parent comes later, so that what passes has no cycle.
    """
    before = {UNKNOWN}
    for at, site in enumerate(sites, first):
        for parent in site.parents or ():
            if parent.name not in before:
                raise InvalidValue("site", at, "parents", f"names of sites before it, or {UNKNOWN}", parent.name)
        before.add(site.name)


def totals(counts: NDArray[np.uint64], ranges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the number of values in each histogram, shape (n,), for `counts` and `ranges` as in `check_histograms`."""
    if not counts.size or not len(ranges):
        return np.zeros(len(ranges))
    # Sums of small counts are exact as whole numbers, and take half the time.
    exact = counts if counts.max() < _LARGEST // BIN_COUNT else counts.astype(np.float64)
    starts, stops = ranges[:, 0], ranges.sum(1)
    last = stops == len(counts)
    edges = np.stack([np.minimum(starts, len(counts) - 1), np.where(last, starts, stops)], axis=1).ravel()
    sums = np.add.reduceat(exact, edges)[::2].astype(np.float64)
    for at in np.flatnonzero(last):
        sums[at] = exact[starts[at] :].sum()
    return np.where(ranges[:, 1] > 0, sums, 0.0)


def check_labels(labels: Mapping[str, Any]) -> str:
    """Return what is wrong with the labels of a profile or run; "" where nothing is."""
    for name, value in labels.items():
        if not isinstance(value, (str, int, float)) or value != value:
            return f'an object of texts and numbers, without NaN; label "{name}" is {json.dumps(value)}'
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            return f'an object of texts and numbers of 64 bits; label "{name}" is larger'
    return ""


def _refuse(table: str, column: str, bad: Bad, valid: str, stored: NDArray[Any], rows: Rows) -> None:
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise InvalidValue(table, rows[at], column, valid, stored[at])


def _out_of_range(column: Column, stored: NDArray[Any], rows: Rows, table: StoredTable) -> Bad:
    if column.field is None:
        if column.name == table:
            return np.asarray(stored != rows)
        bad = stored < (-1 if column.refers else 0)
        return np.asarray(bad | (stored > BIN_COUNT) if column.name.endswith("_histogram_length") else bad)
    low, high = _limits(column.field)
    with np.errstate(invalid="ignore"):
        bad = (stored < low) | (stored > high)
    if column.field.dtype == "int64" and not column.field.required:
        bad &= stored != -1
    return np.asarray(bad)


@cache
def _limits(field: Field) -> tuple[float, float]:
    """Return the limits that a value is held against; a limit that rounding may pass is a little wider."""
    low, high = field.low, field.high
    if field.dtype == "float64":
        low = low - _ROUNDING * abs(low) if abs(low) < FINITE else low
        high = high + _ROUNDING * abs(high) if abs(high) < FINITE else high
    return low, high


def _valid(column: Column, table: StoredTable) -> str:
    field = column.field
    if field is None:
        if column.name == table:
            return "the row's own number"
        if column.name.endswith("_histogram_length"):
            return f"from 0 to {BIN_COUNT}"
        return f"at least {-1 if column.refers else 0}"
    missing = " or -1" if field.dtype == "int64" and not field.required else ""
    finite = "finite and " if field.high == FINITE or field.low == -FINITE else ""
    bounds = [
        *([f"at least {field.low:g}"] if abs(field.low) < FINITE else []),
        *([f"at most {field.high:g}"] if abs(field.high) < FINITE else []),
    ]
    return (finite + " and ".join(bounds) if bounds else finite.removesuffix(" and ")) + missing


def _check_summary(table: StoredTable, part: str, values: Arrays, rows: Rows) -> None:
    def of(name: str) -> NDArray[Any]:
        return values[f"{part}_{name}"]

    def refuse(name: str, bad: Bad, valid: str) -> None:
        _refuse(table, f"{part}_{name}", bad, valid, of(name), rows)

    count = of("count")
    absent, moments = count == -1, ("mean", "std", "min", "max", "zero_fraction")
    for name in moments:
        refuse(name, absent & ~np.isnan(of(name)), f"missing, as {part}_count is")
    finite = np.where(absent, 0, count)
    for name in ("nan_count", "posinf_count", "neginf_count"):
        refuse(name, absent & (of(name) != -1), f"missing, as {part}_count is")
        refuse(name, ~absent & (of(name) < 0), "at least 0")
        finite = finite - np.where(absent, 0, of(name))
        refuse(name, finite < 0, f"at most what is left of {part}_count")
    for name in moments[:-1]:
        stored = of(name)
        refuse(name, (finite > 0) & np.isnan(stored), f"a number, as {part}_count has finite elements")
        refuse(name, (finite == 0) & ~np.isnan(stored), f"NaN, as {part}_count has no finite element")
    share, low, high, mean, std = of("zero_fraction"), of("min"), of("max"), of("mean"), of("std")
    refuse("zero_fraction", (count > 0) == np.isnan(share), "from 0 to 1, and NaN only without elements")
    with np.errstate(invalid="ignore", over="ignore"):
        room = np.maximum(np.abs(low), np.abs(high)) * _ROUNDING
        refuse("max", high < low, f"at least {part}_min")
        refuse("mean", (mean < low - room) | (mean > high + room), f"between {part}_min and {part}_max")
        refuse("std", std > high - low + room, f"at most {part}_max less {part}_min")


def _texts(table: StoredTable, column: Column, stored: NDArray[Any], rows: Rows) -> dict[bytes, str]:
    decoded: dict[bytes, str] = {}
    check = _text_check(column.field)
    for raw in dict.fromkeys(stored.tolist()):
        try:
            text = raw if isinstance(raw, str) else raw.decode("utf-8")
            problem = check(text) if check else ""
            decoded[raw] = text
        except UnicodeDecodeError as error:
            problem, text = f"valid UTF-8 ({error})", raw
        except RecursionError:
            problem = "JSON that is not nested deeply"
        except ValueError as error:
            problem = f"JSON ({error})"
        if problem:
            raise InvalidValue(table, rows[stored.tolist().index(raw)], column.name, problem, text)
    return decoded


def _text_check(field: Field | None) -> Callable[[str], str] | None:
    """Return what says how a text of a column must be, "" where it is so; None where any text will do."""
    if field is None:
        return None
    if field.choices:
        valid = f"one of {', '.join(field.choices)}"
        return lambda text: "" if text in field.choices else valid
    if field.pattern:
        pattern = re.compile(field.pattern)
        return lambda text: "" if pattern.fullmatch(text) else "the name of an element type"
    return _JSON[field.holds] if field.holds else None


def _json_object(text: str) -> str:
    return "" if not text or isinstance(json.loads(text), dict) else "one JSON object"


def _json_labels(text: str) -> str:
    found = json.loads(text)
    return check_labels(found) if isinstance(found, dict) else "one JSON object"


def _json_list(text: str, fits: Callable[[Any], bool], valid: str) -> str:
    found = json.loads(text)
    return "" if isinstance(found, list) and all(map(fits, found)) else valid


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def _is_note(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value)


def _is_parent(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    name, operations, passes = value
    texts = isinstance(operations, list) and all(isinstance(operation, str) for operation in operations)
    return isinstance(name, str) and texts and isinstance(passes, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _json_courses(text: str) -> str:
    found = json.loads(text) if text else []
    if not isinstance(found, list):
        return "a JSON list of courses over time"
    try:
        for document in found:
            course_from_document(document)
    except ValueError as error:
        return f"a JSON list of courses over time ({error})"
    return ""


_JSON: Mapping[str, Callable[[str], str]] = {
    "object": _json_object,
    "labels": _json_labels,
    "counts": lambda text: _json_list(text, _is_count, "a JSON list of whole numbers of at least 0"),
    "numbers": lambda text: _json_list(text, _is_number, "a JSON list of numbers"),
    "texts": lambda text: "" if not text else _json_list(text, _is_text, "a JSON list of texts"),
    "parents": lambda text: "" if not text else _json_list(text, _is_parent, f"a JSON list of {_PARENT}"),
    "courses": _json_courses,
    "notes": lambda text: _json_list(text, _is_note, "a JSON list of [name, what, reason]"),
}
