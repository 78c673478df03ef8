"""`TrainingRun`: how one network learned, epoch by epoch; `TrainingSet`: many of them along named axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from propscope.errors import InputError
from propscope.records.display import as_html, as_text
from propscope.records.labelled import LabelledSet
from propscope.records.network import Floats, Label, NetworkProfile, Provenance
from propscope.records.profile_set import ProfileSet
from propscope.records.stability import Stability

if TYPE_CHECKING:
    import pandas

Task = Literal["classification", "regression"]
TrainingTable = Literal["run", "epoch"]
CURVES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    """One training of one network: its curves, how it ended, and its signal on the way.

    `labels` hold one coordinate an axis: initializer, activation, depth, width, seed, optimizer; learning_rate when it
    was given, not chosen from a list. `learning_rate`: the one trained with, of `learning_rates_tried`.

    `train_loss`, `train_accuracy`, `validation_loss`, `validation_accuracy`: shape (epochs + 1,), before the first step
    and after each epoch, NaN where not defined (regression has no accuracy) or not reached. `update_ratio`: rms of a
    step's parameter update over rms of the weights, mean over the epoch's middle and last step, shape (epochs,).

    `constant_loss`: loss of the best constant prediction on the training data, NaN where not known. `steps_to_target`:
    steps until the accuracy (loss, for regression) reached `target`; None where it never did, or without a target.
    `stability` as `stability_of` tells it; `diverged_at`: the first step, from 1, whose loss is not finite.

    `rows`: of each weight matrix in order; `distinct_rows_before`, `distinct_rows_after`: how many of them differ from
    every earlier one, before the first step and after the last. `profiles`: (epoch, signal profile), ascending, epoch
    0 before the first step. `wall_seconds`: of the training, without profiling.
    """

    labels: Mapping[str, Label]
    task: Task
    learning_rate: float
    learning_rates_tried: tuple[float, ...]
    train_loss: Floats
    train_accuracy: Floats
    validation_loss: Floats
    validation_accuracy: Floats
    update_ratio: Floats
    steps_per_epoch: int
    stability: Stability
    diverged_at: int | None = None
    target: float | None = None
    steps_to_target: int | None = None
    constant_loss: float = math.nan
    rows: tuple[int, ...] = ()
    distinct_rows_before: tuple[int, ...] = ()
    distinct_rows_after: tuple[int, ...] = ()
    profiles: tuple[tuple[int, NetworkProfile], ...] = ()
    wall_seconds: float = math.nan
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        length = len(self.train_loss)
        for name in (*CURVES, "update_ratio"):
            found, expected = getattr(self, name).shape, (length - (name == "update_ratio"),)
            if not length or found != expected:
                raise InputError(f"{name} has shape {found}; valid is {expected}, as train_loss has {length} values")
        if not len(self.rows) == len(self.distinct_rows_before) == len(self.distinct_rows_after):
            raise InputError(
                f"rows are of {len(self.rows)} weights, distinct_rows_before of {len(self.distinct_rows_before)}, "
                f"distinct_rows_after of {len(self.distinct_rows_after)}; valid are as many of each"
            )
        taken = [epoch for epoch, _ in self.profiles]
        if taken != sorted(set(taken)) or not set(taken) <= set(range(length)):
            raise InputError(f"profiles are of epochs {taken}; valid are epochs from 0 to {self.epochs}, ascending")

    def __repr__(self) -> str:
        labels = "".join(f", {name} {value}" for name, value in self.labels.items())
        return f"TrainingRun({self.epochs} epochs, {self.stability}, final loss {self.final_loss:.4g}{labels})"

    @property
    def epochs(self) -> int:
        """Number of epochs that were asked for."""
        return len(self.update_ratio)

    @property
    def final_loss(self) -> float:
        """Loss after the last epoch, on the validation data where there are some; NaN where the run diverged."""
        return _final(self.validation_loss, self.train_loss)

    @property
    def final_accuracy(self) -> float:
        """Accuracy after the last epoch, on the validation data where there are some; NaN without one."""
        return _final(self.validation_accuracy, self.train_accuracy)

    def profile(self, epoch: int = 0) -> NetworkProfile | None:
        """Return the signal profile of an epoch, a negative one counted from the last; None where none was taken."""
        if epoch < 0:
            return self.profiles[epoch][1] if -epoch <= len(self.profiles) else None
        return next((profile for at, profile in self.profiles if at == epoch), None)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def _final(validation: Floats, train: Floats) -> float:
    # Where a run with validation data diverged its last value is NaN, and the training's must not stand in for it.
    return float((validation if math.isfinite(validation[0]) else train)[-1])


@dataclass(frozen=True, slots=True, repr=False)
class TrainingSet(LabelledSet[TrainingRun]):
    """Training runs in a fixed order; `a + b` appends, and `TrainingSet(())` is the neutral element."""

    runs: tuple[TrainingRun, ...]
    _noun = "run"

    @property
    def _records(self) -> tuple[TrainingRun, ...]:
        return self.runs

    def profiles(self, epoch: int = 0) -> ProfileSet:
        """Return the signal profiles of an epoch with their runs' labels; a negative epoch counts from each last one.

        Runs without a profile of that epoch are left out.
        """
        found = ((run, run.profile(epoch)) for run in self.runs)
        return ProfileSet.of(replace(profile, labels=dict(run.labels)) for run, profile in found if profile is not None)

    def to_frame(self, table: TrainingTable = "epoch") -> pandas.DataFrame:
        """Return a pandas frame of the `epoch` or the `run` table, one row for each, labels first.

        Columns are those of the file's table of that name. Raises `MissingDependencyError` without pandas.
        """
        from propscope.records.frames import training_frame

        return training_frame(self.runs, table)
