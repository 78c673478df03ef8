"""Training runs as flat rows and back, one row a run and one an epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from propscope.records.network import NetworkProfile
from propscope.records.rows import Row, label_row, provenance_from_row
from propscope.records.training import CURVES, TrainingRun

_LISTS = ("learning_rates_tried", "rows", "distinct_rows_before", "distinct_rows_after")
_AS_THEY_ARE = ("task", "learning_rate", "steps_per_epoch", "stability", "constant_loss")
_COUNTS = ("diverged_at", "steps_to_target")


def run_row(run: TrainingRun) -> Row:
    """Return a run as one row of `RUN_FIELDS`; its curves and profiles are not in the row."""
    return (
        label_row(run.labels, run.provenance)
        | {name: getattr(run, name) for name in _AS_THEY_ARE}
        | {name: json.dumps(np.asarray(getattr(run, name)).tolist()) for name in _LISTS}
        | {name: -1 if (count := getattr(run, name)) is None else count for name in _COUNTS}
        | {
            "optimizer": str(run.labels.get("optimizer", "")),
            "target": math.nan if run.target is None else run.target,
            "training_seconds": run.wall_seconds,
        }
    )


def epoch_rows(run: TrainingRun) -> list[Row]:
    """Return a run's epochs as rows of `EPOCH_FIELDS`, that before the first step first."""
    columns = {name: getattr(run, name).tolist() for name in CURVES}
    columns["update_ratio"] = [math.nan, *run.update_ratio.tolist()]
    return [
        {"number": number, **dict(zip(columns, values, strict=True))}
        for number, values in enumerate(zip(*columns.values(), strict=True))
    ]


def run_from_rows(
    row: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]], profiles: Sequence[tuple[int, NetworkProfile]]
) -> TrainingRun:
    """Return the run that `run_row` and `epoch_rows` made the rows of, around its profiles."""
    curves: dict[str, Any] = {name: np.array([epoch[name] for epoch in epochs], dtype=np.float64) for name in CURVES}
    lists: dict[str, Any] = {name: tuple(json.loads(row[name])) for name in _LISTS}
    counts: dict[str, Any] = {name: None if row[name] == -1 else int(row[name]) for name in _COUNTS}
    kept: dict[str, Any] = {name: row[name] for name in _AS_THEY_ARE}
    return TrainingRun(
        labels=json.loads(row["labels"]),
        update_ratio=np.array([epoch["update_ratio"] for epoch in epochs[1:]], dtype=np.float64),
        target=None if math.isnan(row["target"]) else float(row["target"]),
        wall_seconds=float(row["training_seconds"]),
        profiles=tuple(profiles),
        provenance=provenance_from_row(row),
        **lists,
        **counts,
        **kept,
        **curves,
    )
