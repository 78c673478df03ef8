"""`TrainedPair`: what the trainings of several seeds show together, for each pair of initializer and activation."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from propscope.records.interval import Interval, arithmetic_interval, geometric_interval
from propscope.records.network import Label
from propscope.records.stability import Stability
from propscope.records.training import TrainingRun, TrainingSet


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """Weight matrices `first` to `last`, from 1: each has `rows` rows, of which `before` and `after` are distinct."""

    first: int
    last: int
    rows: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class TrainedPair:
    """What the trainings of one pair show together.

    `labels`: all except the seed. `final_accuracy` (arithmetic mean) and `final_loss` (geometric mean) are over the
    runs that have one; a diverged run has none. `steps_to_target`: median over runs, Inf where half of them or more
    never reached it, NaN without a target; `never` counts the runs that did not reach it. `stability`: number of runs
    by their stability. `diverged_at`: median of the steps at which runs diverged. `collapsed`: the weights that have
    equal rows before or after the training, in any run, with the fewest distinct rows of all runs.
    """

    labels: Mapping[str, Label]
    runs: int
    final_accuracy: Interval
    final_loss: Interval
    steps_to_target: float
    never: int
    stability: Mapping[Stability, int]
    diverged_at: float
    learning_rates: tuple[float, ...]
    collapsed: tuple[DistinctRows, ...]


def summarize_training(runs: TrainingSet) -> tuple[TrainedPair, ...]:
    """Return a summary of each group of runs that differ only in the seed, in the order of the set."""
    return tuple(_summarize(dict(key), members) for key, members in runs.groups("seed").items())


def _summarize(labels: Mapping[str, Label], members: TrainingSet) -> TrainedPair:
    aimed = [run for run in members if run.target is not None]
    steps = [math.inf if run.steps_to_target is None else float(run.steps_to_target) for run in aimed]
    diverged = [run.diverged_at for run in members if run.diverged_at is not None]
    return TrainedPair(
        labels=labels,
        runs=len(members),
        final_accuracy=arithmetic_interval(run.final_accuracy for run in members),
        final_loss=geometric_interval(run.final_loss for run in members),
        # The upper median, since the mean of a number and Inf (never) would be Inf.
        steps_to_target=statistics.median_high(steps) if steps else math.nan,
        never=sum(math.isinf(count) for count in steps),
        stability=dict(Counter(run.stability for run in members).most_common()),
        diverged_at=statistics.median(diverged) if diverged else math.nan,
        learning_rates=tuple(sorted({run.learning_rate for run in members})),
        collapsed=_collapsed(members.runs),
    )


def _collapsed(runs: Sequence[TrainingRun]) -> tuple[DistinctRows, ...]:
    first = runs[0].rows
    alike = [run for run in runs if run.rows == first]
    before = [min(counts) for counts in zip(*(run.distinct_rows_before for run in alike), strict=True)]
    # Rows of NaN are equal, but their units have not learned the same.
    ends = (run.distinct_rows_before if run.stability == "diverged" else run.distinct_rows_after for run in alike)
    after = [min(counts) for counts in zip(*ends, strict=True)]
    found: list[DistinctRows] = []
    for number, (rows, early, late) in enumerate(zip(first, before, after, strict=True), start=1):
        if min(early, late) >= rows:
            continue
        last = found[-1] if found else None
        if last is not None and (last.last, last.rows, last.before, last.after) == (number - 1, rows, early, late):
            found[-1] = DistinctRows(last.first, number, rows, early, late)
        else:
            found.append(DistinctRows(number, number, rows, early, late))
    return tuple(found)
