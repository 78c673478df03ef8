"""`train`: one network trained once, with a record of the run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.experiments.profiling import at_criticality, problem_of
from propscope.experiments.training.data import TrainingData
from propscope.experiments.training.measurements import Updates, distinct_rows, evaluate, loss_of, signal
from propscope.experiments.training.plan import PROFILE_ROWS, Job, TrainingPlan
from propscope.measure.provenance import provenance
from propscope.networks import global_stream, seeded_generator
from propscope.records.network import NetworkProfile
from propscope.records.stability import stability_of
from propscope.records.training import CURVES, TrainingRun

TRAIN_ROWS_EVALUATED = 8192
CHECKED_ROWS = 1000
# Between two checks of the target, training takes 16 times as many rows as a check, which costs 2% in arithmetic.
CHECK_AFTER = 16
UPDATES_AN_EPOCH = 2
# Gathering the rows of 32 steps at once takes half the time of gathering them for each step.
GATHERED_STEPS = 32


def train(plan: TrainingPlan, job: Job, data: TrainingData) -> TrainingRun:
    """Train the job's network on `data` and return the record; the same plan and job give the same bits.

    Every epoch takes the rows in a new order, and its last step takes those that are left (none where batch norm would
    get a single row). Losses and accuracies are measured in evaluation mode after each epoch, on all validation rows
    and on at most the first 8192 training rows. The ratio of update to weights is measured at two evenly spaced steps
    of an epoch, the last among them. Whether the target is reached is checked after each epoch, and during long ones
    on at most the first 1000 validation rows, whenever 16 times as many rows have been trained on.

    A loss that is not finite ends the run. Torch's global generator and the number of threads are as before. Raises
    `InputError` where the network does not fit in memory after all, and where a user's activation fails.
    """
    # Dropout is the only draw in a forward pass. The caller may have switched gradients off.
    dropout = global_stream(seeded_generator(job.cell.seed, "dropout"), (torch.device(plan.grid.device),))
    with _threads(plan.threads), torch.inference_mode(False), torch.enable_grad(), dropout:
        try:
            return _Training(plan, job, data).run()
        except Exception as error:
            if isinstance(error, InputError) or (problem := problem_of(error, job.cell.network, job.batch)) is None:
                raise
            raise problem from error


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Training:
    def __init__(self, plan: TrainingPlan, job: Job, data: TrainingData) -> None:
        network = at_criticality(job.cell.network, data.train[0])
        seed = job.cell.seed
        self.plan, self.data = plan, data
        self.job = replace(job, cell=replace(job.cell, network=network))
        self.net = network.build(seed=seed, device=plan.grid.device, dtype=job.cell.torch_dtype)
        self.weights = [parameter for parameter in self.net.parameters() if parameter.dim() == 2]
        self.updates = Updates(list(self.weights))
        assert plan.weight_decay is not None
        self.optimizer = plan.optimizer.build(
            self.net.parameters(), learning_rate=job.learning_rate, weight_decay=plan.weight_decay
        )
        self.order = seeded_generator(seed, "order")
        rows = len(data.train[0])
        self.batch = min(job.batch, rows)
        drop_last = network.norm == "batch" and rows % self.batch == 1
        self.steps_per_epoch = math.ceil(rows / self.batch) - drop_last
        self.judged = data.validation if len(data.validation[0]) else data.train
        checks = rows // (CHECK_AFTER * min(CHECKED_ROWS, len(self.judged[0])))
        self.check_steps = _spread(checks, self.steps_per_epoch) - {self.steps_per_epoch}
        self.measured = _spread(UPDATES_AN_EPOCH, self.steps_per_epoch)
        self.curves = {name: np.full(plan.epochs + 1, math.nan) for name in CURVES}
        self.update_ratio = np.full(plan.epochs, math.nan)
        self.profiles: list[tuple[int, NetworkProfile]] = []
        self.steps_to_target: int | None = None
        self.diverged_at: int | None = None

    def run(self) -> TrainingRun:
        """Train, and return the record of it."""
        before = [distinct_rows(weight) for weight in self.weights]
        started, profiling = time.perf_counter(), 0.0
        for epoch in range(self.plan.epochs + 1):
            if epoch:
                self.epoch(epoch)
            if not self.finite(epoch):
                break
            profiling += self.profile(epoch)
        seconds = time.perf_counter() - started - profiling
        plan, job, data = self.plan, self.job, self.data
        return TrainingRun(
            labels=plan.labels(job),
            task=data.task,
            learning_rate=job.learning_rate,
            learning_rates_tried=plan.learning_rates,
            **self.curves,
            update_ratio=self.update_ratio,
            steps_per_epoch=self.steps_per_epoch,
            stability=stability_of(
                self.curves["train_loss"], constant_loss=data.constant_loss, diverged_at=self.diverged_at
            ),
            diverged_at=self.diverged_at,
            target=plan.target,
            steps_to_target=self.steps_to_target,
            constant_loss=data.constant_loss,
            rows=tuple(len(weight) for weight in self.weights),
            distinct_rows_before=tuple(before),
            distinct_rows_after=tuple(distinct_rows(weight) for weight in self.weights),
            profiles=tuple(self.profiles),
            wall_seconds=seconds,
            provenance=provenance(
                spec=plan.spec(job),
                seed=job.cell.seed,
                device=plan.grid.device,
                dtype=job.cell.dtype,
                wall_seconds=seconds,
                samples=len(data.train[0]),
                batches=self.steps_per_epoch,
                histogram_limit=plan.grid.histogram_limit,
            ),
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the rows of each step of an epoch."""
        x, y = self.data.train
        if self.batch == len(x):
            yield x, y
            return
        order = torch.randperm(len(x), generator=self.order).to(x.device)
        order = order[: self.steps_per_epoch * self.batch]
        for rows in order.split(self.batch * GATHERED_STEPS):
            yield from zip(
                x.index_select(0, rows).split(self.batch), y.index_select(0, rows).split(self.batch), strict=True
            )

    def epoch(self, epoch: int) -> None:
        """Take the steps of an epoch; stop at a loss that is not finite."""
        net, optimizer, task, done = self.net, self.optimizer, self.data.task, (epoch - 1) * self.steps_per_epoch
        parameters = list(net.parameters())
        for step, (x, y) in enumerate(self.batches(), start=1):
            loss = loss_of(task, net(x), y)
            for parameter in parameters:
                parameter.grad = None
            loss.backward()
            if not math.isfinite(loss.item()):
                self.diverged_at = done + step
                break
            if step in self.measured:
                self.updates.before()
                optimizer.step()
                self.updates.after()
            else:
                optimizer.step()
            if step in self.check_steps:
                self.check_target(done + step)
        self.update_ratio[epoch - 1] = self.updates.mean()

    def check_target(self, steps: int) -> None:
        """Check on some of the validation rows whether the target is reached for the first time, and note the steps."""
        if self.plan.target is not None and self.steps_to_target is None:
            self.note_target(*evaluate(self.net, _first(self.judged, CHECKED_ROWS), self.data.task), steps)

    def note_target(self, loss: float, accuracy: float, steps: int) -> None:
        """Note the steps when the target is reached for the first time."""
        target = self.plan.target
        if target is not None and self.steps_to_target is None:
            reached = accuracy >= target if self.data.task == "classification" else loss <= target
            self.steps_to_target = steps if reached else None

    def finite(self, epoch: int) -> bool:
        """Keep the losses and accuracies after an epoch; return whether the run goes on."""
        if self.diverged_at is not None:
            return False
        steps = epoch * self.steps_per_epoch
        train = evaluate(self.net, _first(self.data.train, TRAIN_ROWS_EVALUATED), self.data.task)
        if not math.isfinite(train[0]):
            self.diverged_at = max(steps, 1)
            return False
        validation = evaluate(self.net, self.data.validation, self.data.task)
        for name, value in zip(CURVES, (*train, *validation), strict=True):
            self.curves[name][epoch] = value
        self.note_target(*(validation if len(self.data.validation[0]) else train), steps)
        return True

    def profile(self, epoch: int) -> float:
        """Profile the signal if this epoch is one to profile; return the seconds that it took."""
        plan, started = self.plan, time.perf_counter()
        every = plan.epochs if plan.profile_every is None else plan.profile_every
        if every and (epoch % every == 0 or epoch == plan.epochs):
            profile = signal(
                self.net,
                _first(self.data.train, PROFILE_ROWS),
                self.data.task,
                histogram_limit=plan.grid.histogram_limit,
                labels=plan.labels(self.job),
                spec=plan.spec(self.job, epoch=epoch),
                seed=self.job.cell.seed,
            )
            self.profiles.append((epoch, profile))
        return time.perf_counter() - started


def _first(examples: tuple[Tensor, Tensor], rows: int) -> tuple[Tensor, Tensor]:
    return examples[0][:rows], examples[1][:rows]


def _spread(number: int, steps: int) -> set[int]:
    """Return up to `number` of the steps 1 to `steps`, evenly spaced, the last among them."""
    return {math.ceil(steps * k / number) for k in range(1, number + 1)}
