"""The tables of a result file and their columns; `records.figures` defines those that hold recorded quantities.

docs/schema.md lists them all. A column that is added gets a new version as its `since`, which `SCHEMA_VERSION` follows;
a file of every earlier version stays in tests/data to prove that it can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from propscope.records.figures import MONITORED_TABLES, SUMMARIES, TRAINING_TABLES, Field
from propscope.records.figures import TABLES as FIELDS
from propscope.records.rows import MISSING

FORMAT = "propscope"

StoredType = Literal["int64", "float64", "text", "uint16", "uint64"]
StoredTable = Literal["run", "epoch", "step", "alarm", "profile", "site", "parameter", "histogram"]


@dataclass(frozen=True, slots=True)
class Column:
    """One 1-D dataset of a table: `stored` is its type, `refers` the table whose row numbers it holds, or "".

    `since`: the first schema version that has it. `missing`: the value that every row has in a file that is older, or
    that lacks the column where it is `optional`. `field`: the recorded quantity, None for what only a file has.
    """

    name: str
    stored: StoredType
    meaning: str
    unit: str = "1"
    refers: StoredTable | Literal[""] = ""
    since: int = 1
    missing: Any = None
    optional: bool = False
    field: Field | None = None


# The dataset beside the tables that has each text of a monitored run once, and the tables whose text is a number of it.
TEXTS = "text"
SHARING: tuple[StoredTable, ...] = ("profile", "site", "parameter")

# The tables of training runs, and those of a monitored one; a file without the first table of a group lacks the group.
TRAINING: tuple[StoredTable, ...] = ("run", "epoch")
MONITORED: tuple[StoredTable, ...] = ("step", "alarm")

# What xarray shows beside the row number, to tell one row from another.
COORDINATES: dict[StoredTable, tuple[str, ...]] = {
    "run": ("initializer", "activation", "depth", "width", "seed", "optimizer", "learning_rate"),
    "epoch": ("run", "number"),
    "step": ("number",),
    "alarm": ("step", "kind", "site", "parameter"),
    "profile": ("initializer", "activation", "depth", "width", "seed"),
    "site": ("profile", "index", "name", "role", "layer"),
    "parameter": ("profile", "index", "name"),
    "histogram": (),
}


def _measured(fields: tuple[Field, ...]) -> tuple[Column, ...]:
    def column(field: Field) -> Column:
        stored: StoredType = "text" if field.dtype == "json" else field.dtype
        missing = b"" if stored == "text" else MISSING[field.dtype]
        return Column(field.name, stored, field.label, field.unit, since=field.since, missing=missing, field=field)

    return tuple(map(column, fields))


def _entry_table(table: Literal["site", "parameter"]) -> tuple[Column, ...]:
    ranges = []
    for direction in SUMMARIES[table]:
        since = next(field.since for field in FIELDS[table] if field.name == f"{direction}_count")
        first = f"{direction}: first row of its histogram, -1 where none was recorded"
        length = f"{direction}: rows of its histogram"
        ranges += [
            Column(f"{direction}_histogram_start", "int64", first, refers="histogram", since=since, missing=-1),
            Column(f"{direction}_histogram_length", "int64", length, since=since, missing=0),
        ]
    return (
        Column(table, "int64", "row number, the dimension's coordinate", refers=table),
        Column("profile", "int64", "row of its profile", refers="profile"),
        *_measured(FIELDS[table]),
        *ranges,
    )


TABLES: dict[StoredTable, tuple[Column, ...]] = {
    "run": (
        Column("run", "int64", "row number, the dimension's coordinate", refers="run", since=2),
        *_measured(TRAINING_TABLES["run"]),
        Column("epoch_start", "int64", "row of its first epoch", refers="epoch", since=2),
        Column("epoch_count", "int64", "rows of its epochs", since=2),
        Column("profile_start", "int64", "row of its first signal profile", refers="profile", since=2),
        Column("profile_count", "int64", "signal profiles", since=2),
    ),
    "epoch": (
        Column("epoch", "int64", "row number, the dimension's coordinate", refers="epoch", since=2),
        Column("run", "int64", "row of its run", refers="run", since=2),
        *_measured(TRAINING_TABLES["epoch"]),
    ),
    "step": (
        Column("step", "int64", "row number, the dimension's coordinate", refers="step", since=5),
        *_measured(MONITORED_TABLES["step"]),
    ),
    "alarm": (
        Column("alarm", "int64", "row number, the dimension's coordinate", refers="alarm", since=5),
        *_measured(MONITORED_TABLES["alarm"]),
    ),
    "profile": (
        Column("profile", "int64", "row number, the dimension's coordinate", refers="profile"),
        *_measured(FIELDS["profile"]),
        Column("site_start", "int64", "row of its first site", refers="site"),
        Column("site_count", "int64", "sites"),
        Column("parameter_start", "int64", "row of its first parameter", refers="parameter"),
        Column("parameter_count", "int64", "parameters"),
        Column("run", "int64", "row of the run it was taken in, -1 outside one", "1", "run", 2, -1, optional=True),
        Column(
            "epoch", "int64", "row of the epoch it was taken after, -1 outside one", "1", "epoch", 2, -1, optional=True
        ),
    ),
    "site": _entry_table("site"),
    "parameter": _entry_table("parameter"),
    "histogram": (
        Column("bin", "uint16", "bin: the value's sign, exponent and top three mantissa bits"),
        # A recording over many batches passes 2^32 elements, and the high bytes of small counts compress to nothing.
        Column("count", "uint64", "values in the bin"),
    ),
}


def tables_of(has: Callable[[StoredTable], bool], version: int) -> list[StoredTable]:
    """Return the tables of a file of this schema version, of which `has` says whether it has one by that name."""
    left_out = {table for group in (TRAINING, MONITORED) if not has(group[0]) for table in group}
    return [table for table, columns in TABLES.items() if columns[0].since <= version and table not in left_out]


SCHEMA_VERSION = max(column.since for columns in TABLES.values() for column in columns)
