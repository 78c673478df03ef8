"""Hand-built trainings for the tests: curves as given, everything else plain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from propscope.records import NetworkProfile, Provenance, TrainingRun


def trained(
    loss: Sequence[float],
    accuracy: Sequence[float] | None = None,
    *,
    validation_loss: Sequence[float] | None = None,
    validation_accuracy: Sequence[float] | None = None,
    profiles: dict[int, NetworkProfile] | None = None,
    options: dict[str, Any] | None = None,
    **labels: Any,
) -> TrainingRun:
    """Return a training with these curves; `options` are further fields of the run."""

    def curve(values: Sequence[float] | None) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.full(len(loss), math.nan) if values is None else np.array(values, dtype=np.float64)

    return TrainingRun(
        **{
            "labels": labels,
            "task": "regression" if accuracy is None else "classification",
            "learning_rate": 0.1,
            "learning_rates_tried": (0.1,),
            "train_loss": curve(loss),
            "train_accuracy": curve(accuracy),
            "validation_loss": curve(validation_loss),
            "validation_accuracy": curve(validation_accuracy),
            "update_ratio": np.full(len(loss) - 1, 0.01),
            "steps_per_epoch": 10,
            "stability": "converged",
            "profiles": tuple((profiles or {}).items()),
            "provenance": Provenance(seed=labels.get("seed")),
            **(options or {}),
        }
    )
