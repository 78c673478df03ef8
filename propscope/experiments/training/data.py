"""`make_data`: examples of a source, split into training and validation rows, scaled by what the training rows are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from propscope.checks import number, one_of
from propscope.errors import InputError
from propscope.experiments.training.sources import parse_source
from propscope.networks import SCALES, seeded_generator
from propscope.records.training import Task


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Training and validation examples: inputs (rows, features), targets as `DataSource` has them.

    `outputs`: of the readout: the classes, or the columns of the targets. `constant_loss`: the training loss of the
    best constant prediction, the entropy of the classes (nats) or the variance of the targets.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    task: Task
    outputs: int
    constant_loss: float

    @property
    def features(self) -> int:
        """Number of features of an input."""
        return self.train[0].shape[1]


def make_data(
    spec: str,
    *,
    seed: int,
    rows: int | None = None,
    validation: float = 0.2,
    scale: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> TrainingData:
    """Return the examples that a network is trained on and validated with, the same for the same seed.

    `rows`: how many to draw; None for 500 moons, 10 000 of a synthetic target, all of stored data; stored data gives at
    most what there is. `validation`: the share of them held out, 0 for none. `scale`: per feature, as in `make_input`,
    with mean and range of the training rows for both. Synthetic examples are drawn, and stored ones split, by the seed.

    Raises `InputError` for a source, share or scale that is not valid, for a split that leaves either side without
    a row, for values too large for `dtype`, and for what a file's reader refuses.
    """
    if scale is not None:
        one_of("scale", scale, SCALES)
    found = parse_source(spec)
    source = found.source
    x, y = source.draw(rows or source.rows, seed, **found.parameters)
    chosen = torch.randperm(len(x), generator=seeded_generator(seed, "split"))
    held = _held_out(len(x), validation)
    sides = [(x[part], y[part]) for part in (chosen[held:], chosen[:held])]
    scaled = [_scaled(values, sides[0][0], scale).to(dtype) for values, _ in sides]
    if source.task == "classification":
        outputs = source.classes or int(y.max()) + 1
        targets = [labels for _, labels in sides]
        shares = torch.bincount(targets[0]).double() / len(targets[0])
        constant = float(-torch.special.xlogy(shares, shares).sum())
    else:
        outputs = y.shape[1]
        constant = float(sides[0][1].var(0, unbiased=False).mean())
        targets = [values.to(dtype) for _, values in sides]
    if not all(values.isfinite().all() for values in (*scaled, *targets)):
        raise InputError(
            f"data {found.name} has values too large for {dtype}", hint="scale it, or choose a wider dtype"
        )
    train, held_out = ((values.to(device), wanted.to(device)) for values, wanted in zip(scaled, targets, strict=True))
    return TrainingData(train, held_out, source.task, outputs, constant)


def share_of_validation(value: Any) -> float:
    """Return the share of the rows that is held out; raises `InputError`."""
    return number("validation", value, high=1, below=True, what="a share of the rows")


def _held_out(rows: int, validation: float) -> int:
    held = round(rows * share_of_validation(validation))
    if validation and not 0 < held < rows:
        raise InputError(
            f"validation {validation:g} of {rows} rows must leave at least one row to train on and one to validate "
            f"with, got {rows - held} and {held}",
            hint="give more rows or another share; validation 0 trains without",
        )
    return held


def _scaled(values: Tensor, training: Tensor, scale: str | None) -> Tensor:
    if scale in (None, "none"):
        return values
    low, high = training.aminmax(dim=0)
    constant = low == high
    if scale == "minmax":
        return torch.where(constant, 0.0, (values - low) / (high - low))
    mean = training.mean(0)
    # The largest of each feature goes first, so that no square overflows or vanishes.
    largest = (training - mean).abs().amax(0)
    spread = ((training - mean) / largest).square().mean(0).sqrt()
    return torch.where(constant, 0.0, (values - mean) / largest / spread)
