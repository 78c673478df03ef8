"""`TrainingPlan`: which networks are trained, on what and how, as a record that lists its jobs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from propscope.checks import count, number
from propscope.errors import InputError
from propscope.experiments.grid import Cell, Choice, Grid, make_grid
from propscope.experiments.training.data import TrainingData, make_data, share_of_validation
from propscope.experiments.training.optimizers import parse_optimizer
from propscope.experiments.training.sources import parse_source
from propscope.records.network import Label

TARGET_ACCURACY = 0.9
PROFILE_ROWS = 256


@dataclass(frozen=True, slots=True)
class Job:
    """One training: a network with a seed, and a learning rate."""

    cell: Cell
    learning_rate: float


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Every network of `grid`, for each seed, trained with each of `learning_rates`, all else equal.

    `data`, `scale`, `rows` and `validation` as in `make_data`. `optimizer`: a spec of `OPTIMIZERS`. `batch`: rows of a
    step, all of them where there are not more, without shuffling then. `weight_decay`: None for the optimizer's own
    (0, but 0.01 for adamw). `target`: the validation accuracy (loss, for regression) that the steps are counted to;
    None for 0.9, and for none in regression. `profile_every`: the signal is profiled before the first step, after
    every so many epochs and after the last; None for the first and the last alone, 0 for never. `threads`: of one run.

    Raises `InputError` for anything that is not valid, and for data that cannot be had.
    """

    grid: Grid
    data: str
    optimizer: str = "adam"
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

        optimizer = parse_optimizer(self.optimizer)
        keep("optimizer", optimizer.name)
        keep("data", parse_source(self.data).name)
        rates = self.learning_rates or (optimizer.kind.learning_rate,)
        keep("learning_rates", tuple(dict.fromkeys(number("learning_rate", rate, above=True) for rate in rates)))
        decay = optimizer.kind.weight_decay if self.weight_decay is None else self.weight_decay
        keep("weight_decay", number("weight_decay", decay))
        for name, least in (("epochs", 1), ("batch", 1), ("rows", 1), ("profile_every", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None or name not in ("rows", "profile_every"):
                keep(name, count(name, value, least=least))
        keep("validation", share_of_validation(self.validation))
        classification = parse_source(self.data).source.task == "classification"
        if self.target is None and classification:
            keep("target", TARGET_ACCURACY)
        elif self.target is not None:
            most, what = (1.0, "an accuracy") if classification else (math.inf, "a loss")
            keep("target", number("target", self.target, above=True, high=most, what=what))

    def __len__(self) -> int:
        return len(self.grid) * len(self.learning_rates)

    def jobs(self) -> list[Job]:
        """Return every training: all learning rates of a network, then the next network, then the next seed.

        With the seeds outermost, what an interrupt leaves has every network.
        """
        place = {seed: number for number, seed in enumerate(self.grid.seeds)}
        cells = sorted(self.grid.cells(), key=lambda cell: place[cell.seed])
        return [Job(cell, rate) for cell, rate in itertools.product(cells, self.learning_rates)]

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
        """Return a training's labels: its axes, and what is unusual about it."""
        network = {name: value for name, value in job.cell.labels.items() if name not in _NOT_OF_NETWORK}
        labels = {**network, "data": parse_source(self.data).label, "optimizer": self.optimizer}
        if len(self.learning_rates) == 1:
            labels["learning_rate"] = job.learning_rate
        usual = {field.name: field.default for field in fields(self)}
        usual["weight_decay"] = parse_optimizer(self.optimizer).kind.weight_decay
        for name in ("epochs", "batch", "weight_decay", "scale", "rows", "validation"):
            if (value := getattr(self, name)) != usual[name]:
                labels[name] = value
        return {**labels, "seed": job.cell.seed}

    def spec(self, job: Job) -> str:
        """Return the JSON text of everything that a training was asked for."""
        training = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "grid"}
        grid = {name: getattr(self.grid, name) for name in ("dtype", "device")}
        return json.dumps({"network": job.cell.network.document(), "seed": job.cell.seed, **training, **grid})


# The data and the readout say these already.
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
    """Return the plan of what a user wrote; the data of the first seed are made, and say the network's two ends."""
    valid = (*(name for name in _OF_PLAN if name not in ("data", "learning_rates")), *_OF_GRID)
    if unknown := sorted(set(options) - set(valid)):
        raise InputError(f"unknown option {', '.join(unknown)}; valid are {', '.join(valid)}")
    axes = {"depth": depth, "width": width, "activation": activation, "initializer": initializer, "seeds": seeds}
    plan: dict[str, Any] = {name: value for name, value in options.items() if name in _OF_PLAN}
    network: dict[str, Any] = {name: value for name, value in options.items() if name in _OF_GRID}
    if learning_rate is not None:
        many = isinstance(learning_rate, Iterable) and not isinstance(learning_rate, str)
        plan["learning_rates"] = tuple(learning_rate) if many else (learning_rate,)  # type: ignore[arg-type]
        if not plan["learning_rates"]:
            raise InputError("learning_rate must list at least one value, got none")
    first = TrainingPlan(make_grid(**axes, **network), data, **plan)  # type: ignore[arg-type]
    found = first.data_of(first.grid.seeds[0])
    batch = min(first.batch, len(found.train[0]))
    if first.grid.norm == "batch" and batch < 2:
        raise InputError("batch must have at least two rows for norm batch, got 1", hint="choose another norm")
    # Once more with its two ends, so that what does not fit in memory is refused.
    grid = replace(first.grid, input_size=found.features, output_size=found.outputs, batch=batch)
    return replace(first, grid=grid)
