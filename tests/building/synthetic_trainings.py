"""Hand-built trainings around simulated profiles, for pictures without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from building.synthetic_profiles import mlp
from propscope.records import Provenance, TrainingRun, TrainingSet


def run(
    initializer: str = "he_normal",
    activation: str = "relu",
    *,
    loss: Sequence[float] = (2.0, 1.0, 0.5),
    accuracy: Sequence[float] | None = (0.1, 0.5, 0.8),
    validation: bool = True,
    taken: Sequence[int] = (0, 1, 2),
    seed: int = 0,
    **options: Any,
) -> TrainingRun:
    """Return a training with this training loss and accuracy; those of validation are 1.5 times, and half, of them.

    Profiled after the epochs `taken`, as an MLP of depth 3 before any training.
    """
    losses = np.array(loss, dtype=np.float64)
    accuracies = np.full(losses.size, math.nan) if accuracy is None else np.array(accuracy, dtype=np.float64)
    unseen = np.full(losses.size, math.nan)
    labels = {"initializer": initializer, "activation": activation, "depth": 3, "width": 8, "optimizer": "sgd"}
    return TrainingRun(
        **{
            "labels": {**labels, "seed": seed},
            "task": "regression" if accuracy is None else "classification",
            "learning_rate": 0.1,
            "learning_rates_tried": (0.1,),
            "train_loss": losses,
            "train_accuracy": accuracies,
            "validation_loss": 1.5 * losses if validation else unseen,
            "validation_accuracy": accuracies / 2 if validation else unseen,
            "update_ratio": np.full(losses.size - 1, 0.01),
            "steps_per_epoch": 10,
            "stability": "converged",
            "profiles": tuple(
                (epoch, mlp(initializer, activation, depth=3, width=8, batch=4, seed=seed)) for epoch in taken
            ),
            "provenance": Provenance(seed=seed),
            **options,
        }
    )


def trainings(
    initializers: Sequence[str] = ("he_normal", "zeros"), activations: Sequence[str] = ("relu",), seeds: int = 2
) -> TrainingSet:
    """Return a training for every initializer, activation and seed, its loss growing with all three."""
    return TrainingSet.of(
        run(initializer, activation, loss=(2.0, 1.0 + place + seed, 0.5 + place + seed), seed=seed)
        for activation in activations
        for place, initializer in enumerate(initializers)
        for seed in range(seeds)
    )
