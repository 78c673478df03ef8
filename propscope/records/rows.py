"""Records as flat rows and back: the one place that knows how a record is spread over a table's columns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from propscope.records.figures import EXPECTED_FIELDS, SUMMARY_FIELDS
from propscope.records.histogram import LogHistogram
from propscope.records.network import CoverageNote, Expected, Label, NetworkProfile, Parameter, Provenance, Site
from propscope.records.summary import TensorSummary

TableName = Literal["profile", "site", "parameter"]
Row = dict[str, Any]

_STORED = tuple(field.name for field in SUMMARY_FIELDS if field.name != "rms")
_EXPECTED = tuple(field.name for field in EXPECTED_FIELDS)
_PROVENANCE = tuple(name for name in Provenance.__dataclass_fields__ if name != "seed")
_UNIT_COUNTS = ("units", "dead_units", "symmetric_units")
_FIGURES = (
    "flat_fraction",
    "mean_cosine",
    "effective_rank",
    "attention_entropy",
    "largest_logit",
    "branch_share",
)
_JACOBIAN = ("jacobian_condition", "jacobian_square_variance")


def site_row(site: Site, index: int) -> Row:
    """Return a site as one row of `SITE_FIELDS`; its histograms are not in the row."""
    row: Row = {
        "index": index,
        "name": site.name,
        "kind": site.kind,
        "role": site.role,
        "layer": _or_missing(site.layer),
        "shape": json.dumps(site.shape),
        "dtype": site.dtype,
        "activation": site.activation,
        "samples": site.samples,
    }
    row.update({name: _or_missing(getattr(site, name)) for name in _UNIT_COUNTS})
    row.update({name: _or_nan(getattr(site, name)) for name in _FIGURES})
    row.update({f"expected_{name}": getattr(site.expected, name, math.nan) for name in _EXPECTED})
    row.update({name: _or_nan(getattr(site, name)) for name in _JACOBIAN})
    for direction in ("forward", "backward", "jacobian"):
        row |= _summary_row(direction, getattr(site, direction))
    return row


def site_from_row(
    row: Mapping[str, Any],
    forward: LogHistogram | None,
    backward: LogHistogram | None,
    jacobian: LogHistogram | None = None,
) -> Site:
    """Return the site that `site_row` made the row of, with its histograms; an expectation of NaN alone is None."""
    counts: dict[str, Any] = {name: _int(row[name]) for name in _UNIT_COUNTS}
    figures: dict[str, Any] = {name: _float(row[name]) for name in (*_FIGURES, *_JACOBIAN)}
    expected = {name: float(row[f"expected_{name}"]) for name in _EXPECTED}
    return Site(
        name=row["name"],
        kind=row["kind"],
        role=row["role"],
        shape=tuple(json.loads(row["shape"])),
        dtype=row["dtype"],
        layer=_int(row["layer"]),
        activation=row["activation"],
        forward=_summary_from_row("forward", row, forward),
        backward=_summary_from_row("backward", row, backward),
        samples=int(row["samples"]),
        expected=None if all(map(math.isnan, expected.values())) else Expected(**expected),
        jacobian=_summary_from_row("jacobian", row, jacobian),
        **counts,
        **figures,
    )


def parameter_row(parameter: Parameter, index: int) -> Row:
    """Return a parameter as one row of `PARAMETER_FIELDS`; its histograms are not in the row."""
    row: Row = {
        "index": index,
        "name": parameter.name,
        "shape": json.dumps(parameter.shape),
        "dtype": parameter.dtype,
        "symmetric_units": _or_missing(parameter.symmetric_units),
        "value_norm": parameter.value_norm,
        "gradient_norm": _or_nan(parameter.gradient_norm),
        "expected_gradient_norm": _or_nan(parameter.expected_gradient_norm),
        "expected_gradient_log_std": _or_nan(parameter.expected_gradient_log_std),
    }
    return row | _summary_row("value", parameter.value) | _summary_row("gradient", parameter.gradient)


def parameter_from_row(row: Mapping[str, Any], value: LogHistogram | None, gradient: LogHistogram | None) -> Parameter:
    """Return the parameter that `parameter_row` made the row of, with its histograms."""
    return Parameter(
        name=row["name"],
        shape=tuple(json.loads(row["shape"])),
        dtype=row["dtype"],
        symmetric_units=_int(row["symmetric_units"]),
        value=_summary_from_row("value", row, value) or TensorSummary.empty(),
        gradient=_summary_from_row("gradient", row, gradient),
        expected_gradient_norm=_float(row["expected_gradient_norm"]),
        expected_gradient_log_std=_float(row["expected_gradient_log_std"]),
    )


def profile_row(profile: NetworkProfile) -> Row:
    """Return a profile's labels and provenance as one row of `PROFILE_FIELDS`."""
    row = label_row(profile.labels, profile.provenance)
    row["coverage"] = json.dumps([(note.name, note.what, note.reason) for note in profile.coverage])
    return row


def label_row(labels: Mapping[str, Label], origin: Provenance) -> Row:
    """Return labels and provenance as the columns that the tables of profiles and of runs share."""
    row: Row = {
        "labels": json.dumps(dict(labels)),
        "initializer": str(labels.get("initializer", "")),
        "activation": str(labels.get("activation", "")),
        "depth": depth if isinstance(depth := labels.get("depth"), int) else -1,
        "width": str(labels.get("width", "")),
        "seed": _or_missing(origin.seed),
    }
    return row | {name: getattr(origin, name) for name in _PROVENANCE}


def provenance_from_row(row: Mapping[str, Any]) -> Provenance:
    """Return the provenance that `label_row` made the columns of."""
    return Provenance(seed=_int(row["seed"]), **{name: row[name] for name in _PROVENANCE})


def profile_from_row(
    row: Mapping[str, Any], sites: tuple[Site, ...], parameters: tuple[Parameter, ...]
) -> NetworkProfile:
    """Return the profile that `profile_row` made the row of, around its sites and parameters."""
    origin = provenance_from_row(row)
    coverage = tuple(CoverageNote(*note) for note in json.loads(row["coverage"]))
    return NetworkProfile(sites, parameters, json.loads(row["labels"]), origin, coverage)


def _summary_row(prefix: str, summary: TensorSummary | None) -> Row:
    if summary is None:
        missing = {field.name: -1 if field.kind == "int" else math.nan for field in SUMMARY_FIELDS}
        return {f"{prefix}_{name}": value for name, value in missing.items()}
    return {f"{prefix}_{field.name}": getattr(summary, field.name) for field in SUMMARY_FIELDS}


def _summary_from_row(prefix: str, row: Mapping[str, Any], histogram: LogHistogram | None) -> TensorSummary | None:
    if row[f"{prefix}_count"] < 0:
        return None
    return TensorSummary(**{name: row[f"{prefix}_{name}"] for name in _STORED}, histogram=histogram)


def _or_missing(value: int | None) -> int:
    return -1 if value is None else value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _int(value: int) -> int | None:
    return None if value == -1 else int(value)


def _float(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
