"""`TrainingPlan`: the networks, the data and the way of training them, as a record that lists its jobs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from propscope.checks import count, fits_memory, number, unknown_argument
from propscope.errors import InputError
from propscope.experiments.grid import Cell, Choice, Grid, make_grid
from propscope.experiments.training.data import DataSpec, TrainingData, make_data, parse_data, share_of_validation
from propscope.experiments.training.optimizers import OptimizerSpec, parse_optimizer
from propscope.records.network import Label

TARGET_ACCURACY = 0.9
PROFILE_ROWS = 256
# OpenMP ends the process where it has no memory for its threads.
MOST_THREADS = 1024
# The numbers of an epoch in the curves of a run, and what they are put together from.
_EPOCH_BYTES = 2 * 5 * 8


@dataclass(frozen=True, slots=True)
class Job:
    """One training: a network with a seed, and a learning rate."""

    cell: Cell
    learning_rate: float


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Every network of `grid`, for each seed, trained with each of `learning_rates`, all else equal.

    `data` and `optimizer` may be given as spec strings. `scale`, `rows` and `validation` are those of `make_data`.
    `batch`: the rows of a step; where there are not more, a step takes all of them, unshuffled. `weight_decay`: None
    for the optimizer's own (0, and 0.01 for adamw). `target`: the validation accuracy (for regression the loss) up to
    which steps are counted; None for 0.9, in regression for no target. `profile_every`: the signal is profiled before
    the first step, after every so many epochs and after the last; None for only the first and the last, 0 for never.
    `threads`: the threads of one run.

    Raises `InputError` for an argument that is not valid, and for data that cannot be read.
    """

    grid: Grid
    data: DataSpec
    optimizer: OptimizerSpec = field(default_factory=partial(parse_optimizer, "adam"))
    learning_rates: tuple[float, ...] = ()
    epochs: int = 20
    batch: int = 32
    weight_decay: float | None = None
    scale: str | None = None
    rows: int | None = None
    validation: float = 0.2
    target: float | None = None
    profile_every: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        keep("optimizer", parse_optimizer(self.optimizer))
        keep("data", parse_data(self.data))
        rates = self.learning_rates or (self.optimizer.kind.learning_rate,)
        keep("learning_rates", tuple(dict.fromkeys(number("learning_rate", rate, above=True) for rate in rates)))
        decay = self.optimizer.kind.weight_decay if self.weight_decay is None else self.weight_decay
        keep("weight_decay", number("weight_decay", decay))
        for name, least in (("epochs", 1), ("batch", 1), ("rows", 1), ("profile_every", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None or name not in ("rows", "profile_every"):
                keep(name, count(name, value, least=least))
        number("threads", self.threads, low=1, high=MOST_THREADS, what="a whole number")
        fits_memory(f"a training of {self.epochs:,} epochs", _EPOCH_BYTES * self.epochs, hint="choose fewer epochs")
        keep("validation", share_of_validation(self.validation))
        classification = self.data.source.task == "classification"
        if self.target is None and classification:
            keep("target", TARGET_ACCURACY)
        elif self.target is not None:
            most, what = (1.0, "an accuracy") if classification else (math.inf, "a loss")
            keep("target", number("target", self.target, above=True, high=most, what=what))

    def __len__(self) -> int:
        return len(self.grid) * len(self.learning_rates)

    def jobs(self) -> list[Job]:
        """Return every training: all learning rates of a network, then the next network, then the next seed.

        With the seeds outermost, an interrupt leaves runs of every network.
        """
        order = {seed: number for number, seed in enumerate(self.grid.seeds)}
        cells = sorted(self.grid.cells(), key=lambda cell: order[cell.seed])
        return [Job(cell, rate) for cell, rate in itertools.product(cells, self.learning_rates)]

    def description(self) -> dict[str, Any]:
        """Return all that tells this plan from another, in values that JSON has."""
        training = {name: getattr(self, name) for name in _OF_PLAN if name != "threads"}
        training |= {"data": self.data.label, "optimizer": self.optimizer.label}
        grid = {
            name: value for name, value in self.grid.description().items() if name not in ("input", "loss", "batch")
        }
        return grid | training | {"learning_rates": list(self.learning_rates)}

    def data_of(self, seed: int) -> TrainingData:
        """Return the examples of a seed."""
        return make_data(
            self.data,
            seed=seed,
            rows=self.rows,
            validation=self.validation,
            scale=self.scale,
            dtype=self.grid.torch_dtype,
            device=self.grid.device,
        )

    def labels(self, job: Job) -> dict[str, Label]:
        """Return the labels of a training: its axes, and the options that differ from the default."""
        network = {name: value for name, value in job.cell.labels.items() if name not in _NOT_OF_NETWORK}
        labels = {**network, "data": self.data.short_label, "optimizer": self.optimizer.label}
        if len(self.learning_rates) == 1:
            labels["learning_rate"] = job.learning_rate
        usual = {field.name: field.default for field in fields(self)}
        usual["weight_decay"] = self.optimizer.kind.weight_decay
        for name in ("epochs", "batch", "weight_decay", "scale", "rows", "validation"):
            if (value := getattr(self, name)) != usual[name]:
                labels[name] = value
        return {**labels, "seed": job.cell.seed}

    def spec(self, job: Job, *, epoch: int | None = None) -> str:
        """Return the JSON text of all that a training is made from; for a profile, with its epoch."""
        training = {name: getattr(self, name) for name in _OF_PLAN}
        training |= {"data": self.data.label, "optimizer": self.optimizer.label}
        grid = {name: getattr(self.grid, name) for name in ("dtype", "device")}
        at = {} if epoch is None else {"epoch": epoch}
        return json.dumps({"network": job.cell.network.document(), "seed": job.cell.seed, **training, **grid, **at})


# These follow from the data and the readout.
_NOT_OF_NETWORK = ("seed", "loss", "batch", "input_size", "output_size")
_OF_PLAN = tuple(field.name for field in fields(TrainingPlan) if field.name != "grid")
_OF_GRID = ("bias", "norm", "residual", "dropout", "alpha_dropout", "dtype", "device", "histogram_limit")


def make_plan(
    *,
    depth: int | Iterable[int],
    width: int | Iterable[int | tuple[int, ...]],
    activation: Choice | Iterable[Choice],
    initializer: Choice | Iterable[Choice],
    seeds: int | Iterable[int],
    data: str,
    learning_rate: float | Iterable[float] | None = None,
    **options: Any,
) -> TrainingPlan:
    """Return the plan with these axes and options; the first seed's data set the sizes of input and output."""
    valid = (*(name for name in _OF_PLAN if name not in ("data", "learning_rates")), *_OF_GRID)
    for name in options:
        if name not in valid:
            axes_of_all = ("depth", "width", "activation", "initializer", "seeds", "data", "learning_rate")
            raise unknown_argument("train_mlp", name, (*axes_of_all, *valid))
    axes = {"depth": depth, "width": width, "activation": activation, "initializer": initializer, "seeds": seeds}
    plan: dict[str, Any] = {name: value for name, value in options.items() if name in _OF_PLAN}
    network: dict[str, Any] = {name: value for name, value in options.items() if name in _OF_GRID}
    if learning_rate is not None:
        many = isinstance(learning_rate, Iterable) and not isinstance(learning_rate, str)
        plan["learning_rates"] = tuple(learning_rate) if many else (learning_rate,)  # type: ignore[arg-type]
        if not plan["learning_rates"]:
            raise InputError("learning_rate must list at least one value, got none")
    first = TrainingPlan(make_grid(**axes, **network), parse_data(data), **plan)  # type: ignore[arg-type]
    found = first.data_of(first.grid.seeds[0])
    batch = min(first.batch, len(found.train[0]))
    if first.grid.norm == "batch" and batch < 2:
        raise InputError("batch must have at least two rows for norm batch, got 1", hint="choose another norm")
    # Once more with its two ends, so that what does not fit in memory is refused.
    grid = replace(first.grid, input_size=found.features, output_size=found.outputs, batch=batch)
    return replace(first, grid=grid)
