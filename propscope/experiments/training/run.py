"""`train_mlp` and `run`: each network of a plan is trained, and its best learning rate is chosen."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

from propscope.checks import count
from propscope.experiments.grid import Choice
from propscope.experiments.training.plan import Job, TrainingPlan, make_plan
from propscope.experiments.training.processes import Numbered, available_workers, trained
from propscope.records.training import TrainingRun, TrainingSet

Final = tuple[bool, float]


def run(
    plan: TrainingPlan, *, workers: int | None = None, leave_out: Collection[int] = ()
) -> Generator[Numbered, None, None]:
    """Yield the number of each job (in `plan.jobs()`) with its run, as it is finished; `collect` makes a set of them.

    `workers`: processes that train at the same time, this one included; None for as many as there are cores. Any number
    gives the same bits. The jobs whose number is in `leave_out` are left out. Closing the iterator and an interrupt end
    them all. Raises `InputError`.
    """
    if workers is not None:
        workers = count("workers", workers)
    most = available_workers(plan)
    workers = most if workers is None else min(workers, len(plan)) if most > 1 else 1
    return trained(plan, workers=workers, leave_out=leave_out)


def final_of(run: TrainingRun) -> Final:
    """Return how a run ended: whether it diverged, and its loss, on validation data where there is any."""
    return run.stability == "diverged", run.final_loss


def chosen(plan: TrainingPlan, finals: Mapping[int, Final]) -> list[int]:
    """Return the jobs to keep by their number, in the grid's order, seeds innermost: of each network its best rate's.

    The best rate has the fewest seeds that diverge, then the lowest mean final loss over the seeds; of equals the one
    listed first. Where an interrupt left some seeds of a network without every learning rate, the other seeds decide
    and are kept; with one learning rate every run is kept.
    """
    jobs = plan.jobs()
    # The first seed's jobs come first, in the grid's order.
    found: dict[tuple[str, str, int], dict[int, dict[float, int]]] = {_network_of(job): {} for job in jobs}
    for number in sorted(finals):
        job = jobs[number]
        found[_network_of(job)].setdefault(job.cell.seed, {})[job.learning_rate] = number
    kept: list[int] = []
    for members in found.values():
        seeds = [rates for rates in members.values() if len(rates) == len(plan.learning_rates)]
        if seeds:
            best = min(plan.learning_rates, key=lambda rate: _badness([finals[rates[rate]] for rates in seeds]))
            kept += [rates[best] for rates in seeds]
    return kept


def collect(plan: TrainingPlan, runs: Iterable[Numbered]) -> TrainingSet:
    """Return the runs that `chosen` keeps."""
    found = dict(runs)
    kept = chosen(plan, {number: final_of(run) for number, run in found.items()})
    return TrainingSet.of(found[number] for number in kept)


def _network_of(job: Job) -> tuple[str, str, int]:
    """Return what all seeds and learning rates of a network share."""
    return repr(job.cell.network), job.cell.dtype, job.batch


def _badness(finals: list[Final]) -> tuple[int, float]:
    finite = [loss for _, loss in finals if math.isfinite(loss)]
    return sum(diverged for diverged, _ in finals), sum(finite) / len(finite) if finite else math.inf


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
    **options: Any,
) -> TrainingSet:
    """Train an MLP for every combination of the axes: depth, width, activation, initializer, batch, seed, and others.

    `depth` layers of `width` units and a linear readout. The axes are as in `profile_mlp`. `data`: digits, moons,
    linear, one_hidden, mnist:path=DIR, fashion_mnist:path=DIR, or a .pt file. `optimizer`: sgd, momentum, adam or
    adamw, with parameters as in adam:beta2=0.99. `learning_rate`: one, or several, of which each network gets the best
    for its seeds; None for the optimizer's usual one. `options` are those of `TrainingPlan`: the axis batch, and
    weight_decay, scale, rows, validation, target, profile_every, threads; and as in `profile_mlp` the axes gain,
    weight_variance, bias_variance, norm, residual, dtype, and bias, dropout, alpha_dropout, device, histogram_limit.
    `workers` as in `run`. A bar on a terminal's stderr shows the progress.

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
    done, stopped = finish(plan, run(plan, workers=workers))
    if stopped is not None:
        if not len(done):
            raise stopped
        warnings.warn(f"training stopped ({stopped!r}); {len(done)} finished runs are returned", stacklevel=2)
    return done


def finish(plan: TrainingPlan, runs: Generator[Numbered, None, None]) -> tuple[TrainingSet, BaseException | None]:
    """Return the finished runs of a plan, and the interrupt or error that stopped the others, or None."""
    from tqdm import tqdm

    done: list[Numbered] = []
    silent = not sys.stderr.isatty()
    stopped: BaseException | None = None
    with closing(runs):
        try:
            for each in tqdm(runs, total=len(plan), unit="run", disable=silent, leave=False, file=sys.stderr):
                done.append(each)  # noqa: PERF402  an interrupt must find what is finished
        except (KeyboardInterrupt, Exception) as error:
            stopped = error
    return collect(plan, done), stopped
