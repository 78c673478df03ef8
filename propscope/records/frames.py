"""Profiles and training runs as pandas frames, profiles as xarray datasets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError, MissingDependencyError
from propscope.records.figures import EXPECTED_FIELDS, TABLES, TRAINING_TABLES
from propscope.records.profile_set import ProfileSet
from propscope.records.rows import TableName, parameter_row, profile_row, site_row
from propscope.records.training import TrainingSet, TrainingTable
from propscope.records.training_rows import epoch_rows, run_row

if TYPE_CHECKING:
    import pandas
    import xarray

    from propscope.records.network import NetworkProfile

_QUANTITIES = {
    "forward_mean": ("forward", "mean", "mean of the pre-activations"),
    "forward_std": ("forward", "std", "standard deviation of the pre-activations"),
    "forward_rms": ("forward", "rms", "root mean square of the pre-activations"),
    "backward_rms": ("backward", "rms", "root mean square of the gradient with respect to the pre-activations"),
    "jacobian_rms": ("jacobian", "rms", "root mean square of the singular values of d pre-activation / d input"),
    "jacobian_max": ("jacobian", "max", "largest singular value of d pre-activation / d input"),
}
_FIGURES = {
    "flat_fraction": "share of pre-activations where the nonlinearity is flat",
    "mean_cosine": "mean cosine between samples",
    "effective_rank": "effective rank of the sampled rows",
    "jacobian_condition": "condition number of d pre-activation / d input",
    "jacobian_square_variance": "variance of its squared singular values over their squared mean",
}
_EXPECTED = {f"expected_{field.name}": field.label for field in EXPECTED_FIELDS}


def to_frame(profiles: ProfileSet, table: TableName) -> pandas.DataFrame:
    """Return one row a site, parameter or profile, the labels first; columns as in `fields.TABLES`."""
    if table not in TABLES:
        raise InputError(f"table is {table!r}; valid are {', '.join(TABLES)}")
    rows: list[dict[str, Any]] = []
    for number, profile in enumerate(profiles):
        head = {"profile": number, **profile.labels}
        if table == "profile":
            rows.append(profile_row(profile) | head)
        elif table == "site":
            # A site's own columns win over a label of that name: the nonlinearity a site enters, not the network's.
            rows += [
                head | {f"site_{k}" if k in head else k: v for k, v in site_row(site, i).items()}
                for i, site in enumerate(profile.sites)
            ]
        else:
            rows += [head | parameter_row(parameter, i) for i, parameter in enumerate(profile.parameters)]
    return _frame(rows)


def training_frame(runs: TrainingSet, table: TrainingTable) -> pandas.DataFrame:
    """Return one row an epoch or a run, the labels first; columns as in `fields.TRAINING_TABLES`."""
    if table not in TRAINING_TABLES:
        raise InputError(f"table is {table!r}; valid are {', '.join(TRAINING_TABLES)}")
    rows: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        head = {"run": number, **run.labels}
        rows += [head | row for row in epoch_rows(run)] if table == "epoch" else [run_row(run) | head]
    return _frame(rows)


def _frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError:
        raise MissingDependencyError("pandas", extra="frame", purpose="to_frame()") from None
    return pandas.DataFrame(rows)


def to_xarray(profiles: ProfileSet) -> xarray.Dataset:
    """Return layer-wise quantities, dimensions (*labels, layer): NaN where no profile has those labels.

    `layer` counts the signal sites from 1. With labels missing on some profiles, those count as "". Raises `InputError`
    when two profiles have the same labels.
    """
    try:
        import xarray
    except ImportError:
        raise MissingDependencyError("xarray", extra="frame", purpose="to_xarray()") from None
    axes = {name: _values(profiles, name) for name in profiles.axes}
    depth = max((len(profile.signal_sites) for profile in profiles), default=0)
    shape = (*(len(values) for values in axes.values()), depth)
    columns: dict[str, NDArray[np.float64]] = {
        name: np.full(shape, np.nan) for name in itertools.chain(_QUANTITIES, _FIGURES, _EXPECTED)
    }
    taken: set[tuple[int, ...]] = set()
    for profile in profiles:
        at = tuple(values.index(profile.labels.get(name, "")) for name, values in axes.items())
        if at in taken:
            raise InputError(
                f"two profiles have the labels {dict(profile.labels)}; a dataset has one cell for each",
                hint="select, or give each profile a label of its own",
            )
        taken.add(at)
        for name, values in _layers(profile).items():
            columns[name][at][: values.size] = values
    names = {**{name: entry[2] for name, entry in _QUANTITIES.items()}, **_FIGURES, **_EXPECTED}
    dims = (*axes, "layer")
    return xarray.Dataset(
        {name: (dims, column, {"long_name": names[name], "units": "1"}) for name, column in columns.items()},
        coords={**{name: list(values) for name, values in axes.items()}, "layer": np.arange(1, depth + 1)},
    )


def _values(profiles: ProfileSet, name: str) -> list[Any]:
    return list(dict.fromkeys(profile.labels.get(name, "") for profile in profiles))


def _layers(profile: NetworkProfile) -> dict[str, NDArray[np.float64]]:
    sites = profile.signal_sites

    def column(pick: Any) -> NDArray[np.float64]:
        return np.array([np.nan if (value := pick(site)) is None else value for site in sites], dtype=np.float64)

    directed = {
        name: column(lambda site, d=direction, f=field: getattr(getattr(site, d), f, None))
        for name, (direction, field, _) in _QUANTITIES.items()
    }
    figures = {name: column(lambda site, f=name: getattr(site, f)) for name in _FIGURES}
    expected = {
        name: column(lambda site, f=name: getattr(site.expected, f.removeprefix("expected_"), None))
        for name in _EXPECTED
    }
    return directed | figures | expected
