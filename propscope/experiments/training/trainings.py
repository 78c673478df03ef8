"""`train_mlp` and `run`: each network of a plan is trained, and its best learning rate is chosen."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from typing import Any

from propscope.experiments.engine import (
    JOBLIB,
    Extent,
    Outcome,
    Outline,
    Recipe,
    engine_for,
    outcomes,
    without_failures,
)
from propscope.experiments.grid import Choice
from propscope.experiments.training.learning_rates import chosen, final_of
from propscope.experiments.training.loop import train
from propscope.experiments.training.plan import TrainingPlan, make_plan
from propscope.records.network import Label
from propscope.records.training import TrainingRun, TrainingSet


def typed_work(**options: Any) -> TrainingWork:
    """Return the trainings of the plan that these options of `make_plan` describe; raises `InputError`."""
    return TrainingWork(make_plan(**options))


class TrainingWork:
    """The trainings of a plan: number n is the n-th of `TrainingPlan.jobs`."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan, self.jobs = plan, plan.jobs()
        self.data_of = lru_cache(maxsize=4)(plan.data_of)

    @property
    def extent(self) -> Extent:
        """How much work there is."""
        plan, grid = self.plan, self.plan.grid
        rows = plan.epochs * len(self.data_of(grid.seeds[0], grid.dtype[0]).train[0])
        each = (
            (rows // batch + 1) * network.seconds_of_a_pass(batch)
            for network, _, _ in grid.pairs()
            for batch in plan.batch
        )
        seconds = len(grid.seeds) * len(plan.learning_rates) * sum(each)
        return Extent(len(plan), seconds, threads=plan.threads, parallel=grid.device.startswith("cpu"))

    @property
    def outline(self) -> Outline:
        """What a command has to know of the run."""
        plan = self.plan
        names = (plan.data.label, *(activation.label for activation in plan.grid.activation))
        description = {"command": "train", **plan.description()}
        return Outline(len(plan), _pairs(plan), names, plan.grid.depth, description, plan.learning_rates)

    def labels(self, number: int) -> dict[str, Label]:
        """Return the labels of a training."""
        return self.plan.labels(self.jobs[number]) | {"learning_rate": self.jobs[number].learning_rate}

    def all_labels(self) -> list[dict[str, Label]]:
        """Return the labels of every network, by number."""
        return [self.labels(number) for number in range(self.extent.networks)]

    def run(self, number: int) -> TrainingRun:
        """Return the record of a training."""
        job = self.jobs[number]
        return train(self.plan, job, self.data_of(job.cell.seed, job.cell.dtype))


def run(
    plan: TrainingPlan, *, workers: int | None = None, engine: str = JOBLIB, leave_out: Collection[int] = ()
) -> Generator[Outcome, None, None]:
    """Yield the number of each job (in `plan.jobs()`) with its run, as it is finished; `collect` makes a set of them.

    `workers`, `engine`: see `engine_for`; the runs depend on neither. The jobs whose number is in `leave_out` are left
    out. A training that fails twice has a `Failure` in place of its run. Closing the iterator ends every worker. Raises
    `InputError` as `engine_for` does.
    """
    recipe = Recipe(f"{__name__}:TrainingWork", {"plan": plan})
    return outcomes(engine_for(recipe, engine=engine, workers=workers), leave_out=leave_out)


def collect(plan: TrainingPlan, runs: Iterable[tuple[int, TrainingRun]]) -> TrainingSet:
    """Return the runs in the grid's order, seeds innermost, of each network's best learning rate: see `chosen`."""
    found = dict(runs)
    finals = {number: final_of(run) for number, run in found.items()}
    kept = chosen(finals, networks=_pairs(plan), learning_rates=plan.learning_rates)
    return TrainingSet.of(found[number] for number in kept)


def _pairs(plan: TrainingPlan) -> int:
    """Return the number of trainings that differ in more than seed and learning rate."""
    return len(plan) // (len(plan.grid.seeds) * len(plan.learning_rates))


def train_mlp(
    depth: int | str | Sequence[int | str] = 10,
    width: int | str | Sequence[int | str | tuple[int, ...]] = 64,
    *,
    activation: Choice | Sequence[Choice] = "relu",
    initializer: Choice | Sequence[Choice] = "he_normal",
    seeds: int | Sequence[int] = 3,
    data: str = "digits",
    optimizer: str = "adam",
    learning_rate: float | str | Sequence[float] | None = None,
    epochs: int = 20,
    workers: int | None = None,
    engine: str = JOBLIB,
    **options: Any,
) -> TrainingSet:
    """Train an MLP for every combination of the axes: depth, width, activation, initializer, batch, seed, and others.

    `depth` layers of `width` units and a linear readout. The axes are as in `profile_mlp`. `data`: digits, mnist5k,
    moons, linear, one_hidden, mnist:path=DIR, fashion_mnist:path=DIR, or a .pt file. `optimizer`: sgd, momentum, adam
    or adamw, with parameters as in adam:beta2=0.99. `learning_rate`: one, or several, of which each network gets the
    best for its seeds; None for the optimizer's usual one. `options` are those of `TrainingPlan`: the axis batch, and
    weight_decay, scale, rows, validation, target, profile_every, threads; and as in `profile_mlp` the axes gain,
    weight_variance, bias_variance, norm, residual, dtype, and bias, dropout, alpha_dropout, device, histogram_limit.
    `workers` and `engine` as in `engine_for`. A bar on a terminal's stderr shows the progress.

    A run that diverges is a result, and the others continue. After an interrupt, or an error after the first run, a
    warning says so and the finished runs are returned. Raises `InputError` for an argument that is not valid.
    """
    plan = make_plan(
        depth=depth,
        width=width,
        activation=activation,
        initializer=initializer,
        seeds=seeds,
        data=data,
        learning_rate=learning_rate,
        optimizer=optimizer,
        epochs=epochs,
        **options,
    )
    with closing(run(plan, workers=workers, engine=engine)) as runs:
        done, stopped = finish(plan, runs)
    if stopped is not None:
        if not len(done):
            raise stopped
        warnings.warn(f"training stopped ({stopped!r}); {len(done)} finished runs are returned", stacklevel=2)
    return done


def finish(plan: TrainingPlan, runs: Iterator[Outcome]) -> tuple[TrainingSet, BaseException | None]:
    """Return the finished runs of a plan, and the interrupt or error that stopped the others, or None."""
    from tqdm import tqdm

    done: dict[int, Any] = {}
    silent = not sys.stderr.isatty()
    stopped: BaseException | None = None
    try:
        for number, each in tqdm(runs, total=len(plan), unit="run", disable=silent, leave=False, file=sys.stderr):
            done[number] = each  # noqa: PERF403  an interrupt must find what is finished
    except (KeyboardInterrupt, Exception) as error:
        stopped = error
    return collect(plan, without_failures(done, lambda: TrainingWork(plan)).items()), stopped
