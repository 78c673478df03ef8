"""`TrainingRun`: how one network learned, epoch by epoch; `TrainingSet`: many of them along named axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from propscope.errors import InputError
from propscope.records.display import as_html, as_page, as_text
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

    `labels` hold one value for each axis: initializer, activation, depth, width, seed, optimizer, and learning_rate
    where it was given rather than chosen. `learning_rate` is the one of `learning_rates_tried` that was trained with.

    `train_loss`, `train_accuracy`, `validation_loss`, `validation_accuracy` have shape (epochs + 1,): the first value
    is from before the first step, then one follows each epoch. They are NaN where they are not defined (regression has
    no accuracy) or were not reached. `update_ratio`, shape (epochs,): rms of a step's parameter update over the rms of
    the weights, the mean over the epoch's middle and last step.

    `constant_loss`: loss of the best constant prediction on the training data, NaN where it is not known.
    `steps_to_target`: steps until the accuracy (loss, for regression) reached `target`; None where it never did, or
    where there is no target. `stability` is what `stability_of` returns; `diverged_at` is the first step, from 1, whose
    loss is not finite.

    `rows`: the number of rows of each weight matrix, in order; `distinct_rows_before` and `distinct_rows_after` count
    those that differ from every earlier row, before the first step and after the last. `profiles` holds pairs (epoch,
    signal profile) in ascending order; epoch 0 is before the first step. `wall_seconds` is the time that the training
    took, without profiling.
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
                raise InputError(f"{name} must have shape {expected}, as train_loss has {length} values, got {found}")
        if not len(self.rows) == len(self.distinct_rows_before) == len(self.distinct_rows_after):
            raise InputError(
                "rows, distinct_rows_before and distinct_rows_after must have one value for each weight matrix, got "
                f"{len(self.rows)}, {len(self.distinct_rows_before)} and {len(self.distinct_rows_after)} values"
            )
        taken = [epoch for epoch, _ in self.profiles]
        if taken != sorted(set(taken)) or not set(taken) <= set(range(length)):
            raise InputError(f"profiles must be of epochs from 0 to {self.epochs} in ascending order, got {taken}")

    def __repr__(self) -> str:
        labels = "".join(f", {name} {value}" for name, value in self.labels.items())
        return f"TrainingRun({self.epochs} epochs, {self.stability}, final loss {self.final_loss:.4g}{labels})"

    @property
    def epochs(self) -> int:
        """The number of epochs that were asked for."""
        return len(self.update_ratio)

    @property
    def final_loss(self) -> float:
        """The loss after the last epoch, on validation data where there are any; NaN where the run diverged."""
        return _final(self.validation_loss, self.train_loss)

    @property
    def final_accuracy(self) -> float:
        """The accuracy after the last epoch, on validation data where there are any; NaN where there is none."""
        return _final(self.validation_accuracy, self.train_accuracy)

    def profile(self, epoch: int = 0) -> NetworkProfile | None:
        """Return the signal profile of an epoch; -1 is the last one taken. None where that epoch has none."""
        if epoch < 0:
            return self.profiles[epoch][1] if -epoch <= len(self.profiles) else None
        return next((profile for at, profile in self.profiles if at == epoch), None)

    def to_html(self, *, title: str = "") -> str:
        """Return one self-contained HTML page of the run, as `propscope report` writes it; `title` stands above it.

        The page holds what it draws as one JSON document, and loads nothing from the network.
        """
        return as_page(self, title, None)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def _final(validation: Floats, train: Floats) -> float:
    # A run that diverged ends with a NaN on its validation data; the training loss must not stand in for it.
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
        """Return the signal profiles of an epoch with the labels of their runs; -1 is the last one of each run.

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
