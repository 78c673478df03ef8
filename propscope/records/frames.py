"""Profiles and training runs as pandas frames, profiles as xarray datasets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from propscope.errors import InputError, MissingDependencyError
from propscope.records.figures import MONITORED_TABLES, SITE_FIELDS, TABLES, TRAINING_TABLES
from propscope.records.labelled import axes_of
from propscope.records.rows import TableName, alarm_row, epoch_rows, parameter_row, profile_row, run_row, site_row
from propscope.records.samples import Samples
from propscope.records.training import TrainingRun, TrainingTable

if TYPE_CHECKING:
    import pandas
    import xarray

    from propscope.records.monitored import MonitoredRun
    from propscope.records.network import NetworkProfile

# What a dataset holds of each site: every number that was measured there, not the marks of where it is.
_LAYERWISE = tuple(field for field in SITE_FIELDS if field.dtype in ("int64", "float64") and field.seeds != "same")


def to_frame(profiles: Iterable[NetworkProfile], table: TableName) -> pandas.DataFrame:
    """Return one row for each site, parameter or profile; the labels come first, then the columns of `TABLES`."""
    _check(table, TABLES)
    if isinstance(profiles, Samples):
        return _frame_of_samples(profiles, table)
    rows: list[dict[str, Any]] = []
    for number, profile in enumerate(profiles):
        head = {"profile": number, **profile.labels}
        if table == "profile":
            rows.append(profile_row(profile) | head)
        elif table == "site":
            # A label wins over a column of the same name: "activation" is the network's, "site_activation" the site's.
            rows += [
                head | {f"site_{k}" if k in head else k: v for k, v in site_row(site, i).items()}
                for i, site in enumerate(profile.sites)
            ]
        else:
            rows += [head | parameter_row(parameter, i) for i, parameter in enumerate(profile.parameters)]
    return frame_of(rows)


def _frame_of_samples(samples: Samples, table: TableName) -> pandas.DataFrame:
    """Return the same from columns, without making a record of each row."""
    owners, columns = samples.columns(table)
    labels = frame_of([{"profile": number, **own} for number, own in enumerate(samples.labels)])
    head: dict[str, Any] = {str(name): labels[name].to_numpy()[owners] for name in labels}
    if table == "profile":
        # A label of some of the profiles only: the others have what the column says.
        for name in head.keys() & columns.keys():
            pairs = zip(samples.labels, columns[name].tolist(), strict=True)
            head[name] = [own.get(name, other) for own, other in pairs]
        return type(labels)({**columns, **head})
    named = {f"site_{k}" if table == "site" and k in head else k: column for k, column in columns.items()}
    return type(labels)({**head, **named})


def training_frame(runs: Iterable[TrainingRun], table: TrainingTable) -> pandas.DataFrame:
    """Return one row for each epoch or run; the labels come first, then the columns of `TRAINING_TABLES`."""
    _check(table, TRAINING_TABLES)
    rows: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        head = {"run": number, **run.labels}
        rows += [head | row for row in epoch_rows(run)] if table == "epoch" else [run_row(run) | head]
    return frame_of(rows)


def monitored_frame(run: MonitoredRun, table: str) -> pandas.DataFrame:
    """Return one row for each step or alarm, with the columns of `MONITORED_TABLES`."""
    _check(table, MONITORED_TABLES)
    return frame_of(run.steps.rows() if table == "step" else list(map(alarm_row, run.alarms)))


def _check(table: str, tables: Iterable[str]) -> None:
    if table not in tables:
        valid = " or ".join(f'"{name}"' for name in tables)
        raise InputError(f'table must be {valid}, got "{table}"')


def frame_of(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """Return rows, each a dict of columns, as a frame; raises `MissingDependencyError` without pandas."""
    try:
        import pandas
    except ImportError:
        raise MissingDependencyError("pandas", extra="frame", purpose="to_frame()") from None
    return pandas.DataFrame(rows)


def to_xarray(profiles: Sequence[NetworkProfile]) -> xarray.Dataset:
    """Return the numbers measured at each signal site, dimensions (*labels, layer); a cell without a profile is NaN.

    `layer` counts the signal sites from 1. A label that a profile lacks counts as "". Raises `InputError` when two
    profiles have the same labels.
    """
    try:
        import xarray
    except ImportError:
        raise MissingDependencyError("xarray", extra="frame", purpose="to_xarray()") from None
    axes = {name: _values(profiles, name) for name in axes_of(profiles)}
    depth = max((len(profile.signal_sites) for profile in profiles), default=0)
    shape = (*(len(values) for values in axes.values()), depth)
    columns = {field.name: np.full(shape, np.nan) for field in _LAYERWISE}
    taken: set[tuple[int, ...]] = set()
    for profile in profiles:
        at = tuple(values.index(profile.labels.get(name, "")) for name, values in axes.items())
        if at in taken:
            raise InputError(
                f"two profiles have the labels {dict(profile.labels)}; a dataset has one cell for each",
                hint="select one of them, or give each profile a label of its own",
            )
        taken.add(at)
        for position, site in enumerate(profile.signal_sites):
            row = site_row(site, position)
            for field in _LAYERWISE:
                value = row[field.name]
                columns[field.name][(*at, position)] = np.nan if field.dtype == "int64" and value == -1 else value
    dims = (*axes, "layer")
    return xarray.Dataset(
        {f.name: (dims, columns[f.name], {"long_name": f.label, "units": f.unit}) for f in _LAYERWISE},
        coords={**{name: list(values) for name, values in axes.items()}, "layer": np.arange(1, depth + 1)},
    )


def _values(profiles: Iterable[NetworkProfile], name: str) -> list[Any]:
    return list(dict.fromkeys(profile.labels.get(name, "") for profile in profiles))
