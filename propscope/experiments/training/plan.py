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
from propscope.experiments.grid import Cell, Choice, Grid, make_grid, read_axis
from propscope.experiments.training.data import DataSpec, TrainingData, make_data, parse_data, share_of_validation
from propscope.experiments.training.optimizers import OptimizerSpec, parse_optimizer
from propscope.networks.devices import named_dtype
from propscope.ranges import real_numbers
from propscope.records.network import Label

TARGET_ACCURACY = 0.9
PROFILE_ROWS = 256
# OpenMP ends the process where it has no memory for its threads.
MOST_THREADS = 1024
# The numbers of an epoch in the curves of a run, and what they are put together from.
_EPOCH_BYTES = 2 * 5 * 8


@dataclass(frozen=True, slots=True)
class Job:
    """One training: a network with a seed, the rows of a step, and a learning rate."""

    cell: Cell
    batch: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Every network of `grid`, for each seed, trained with each of `batch` and `learning_rates`, all else equal.

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
    batch: tuple[int, ...] = (32,)
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
        keep("batch", tuple(count("batch", batch) for batch in read_axis("batch", self.batch)))
        for name, least in (("epochs", 1), ("rows", 1), ("profile_every", 0), ("threads", 1)):
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
        return len(self.grid) * len(self.batch) * len(self.learning_rates)

    def jobs(self) -> list[Job]:
        """Return every training: all learning rates of a network, then the next network, then the next seed.

        With the seeds outermost, an interrupt leaves runs of every network.
        """
        order = {seed: number for number, seed in enumerate(self.grid.seeds)}
        cells = sorted(self.grid.cells(), key=lambda cell: order[cell.seed])
        return list(itertools.starmap(Job, itertools.product(cells, self.batch, self.learning_rates)))

    def description(self) -> dict[str, Any]:
        """Return all that tells this plan from another, in values that JSON has."""
        training = {name: getattr(self, name) for name in _OF_PLAN if name != "threads"}
        training |= {"data": self.data.label, "optimizer": self.optimizer.label}
        grid = {
            name: value for name, value in self.grid.description().items() if name not in ("input", "loss", "batch")
        }
        return grid | training | {name: list(getattr(self, name)) for name in ("batch", "learning_rates")}

    def data_of(self, seed: int, dtype: str | None = None) -> TrainingData:
        """Return the examples of a seed; `dtype`: None for the grid's first."""
        return make_data(
            self.data,
            seed=seed,
            rows=self.rows,
            validation=self.validation,
            scale=self.scale,
            dtype=named_dtype("dtype", dtype or self.grid.dtype[0]),
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
        usual["batch"] = 32 if len(self.batch) == 1 else None
        for name in ("epochs", "batch", "weight_decay", "scale", "rows", "validation"):
            if (value := job.batch if name == "batch" else getattr(self, name)) != usual[name]:
                labels[name] = value
        return {**labels, "seed": job.cell.seed}

    def spec(self, job: Job, *, epoch: int | None = None) -> str:
        """Return the JSON text of all that a training is made from; for a profile, with its epoch."""
        training = {name: getattr(self, name) for name in _OF_PLAN}
        training |= {"data": self.data.label, "optimizer": self.optimizer.label, "batch": job.batch}
        grid = {"dtype": job.cell.dtype, "device": self.grid.device}
        at = {} if epoch is None else {"epoch": epoch}
        return json.dumps({"network": job.cell.network.document(), "seed": job.cell.seed, **training, **grid, **at})


# These follow from the data and the readout.
_NOT_OF_NETWORK = ("seed", "loss", "batch", "input_size", "output_size")
_OF_PLAN = tuple(field.name for field in fields(TrainingPlan) if field.name != "grid")
_OF_GRID = (
    *("gain", "weight_variance", "bias_variance", "norm", "residual", "dtype"),
    *("bias", "dropout", "alpha_dropout", "device", "histogram_limit"),
)


def make_plan(
    *,
    depth: int | str | Iterable[int | str],
    width: int | str | Iterable[int | str | tuple[int, ...]],
    activation: Choice | Iterable[Choice],
    initializer: Choice | Iterable[Choice],
    seeds: int | Iterable[int],
    data: str,
    learning_rate: float | str | Iterable[float] | None = None,
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
        if isinstance(learning_rate, str):
            learning_rate = real_numbers("learning_rate", learning_rate)
        plan["learning_rates"] = tuple(learning_rate) if isinstance(learning_rate, Iterable) else (learning_rate,)
        if not plan["learning_rates"]:
            raise InputError("learning_rate must list at least one value, got none")
    first = TrainingPlan(make_grid(**axes, **network), parse_data(data), **plan)  # type: ignore[arg-type]
    found = first.data_of(first.grid.seeds[0])
    rows = len(found.train[0])
    if "batch" in first.grid.norm and min(*first.batch, rows) < 2:
        raise InputError("batch must have at least two rows for norm batch, got 1", hint="choose another norm")
    # Once more with its two ends, so that what does not fit in memory is refused.
    grid = replace(
        first.grid, input_size=found.features, output_size=found.outputs, batch=(min(max(first.batch), rows),)
    )
    return replace(first, grid=grid)
