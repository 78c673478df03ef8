"""Of the learning rates that each network was trained with, the best one. Without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from propscope.records.training import TrainingRun

Final = tuple[bool, float]


def final_of(run: TrainingRun) -> Final:
    """Return how a run ended: whether it diverged, and its loss, on validation data where there is any."""
    return run.stability == "diverged", run.final_loss


def chosen(finals: Mapping[int, Final], *, networks: int, learning_rates: Sequence[float]) -> list[int]:
    """Return the jobs to keep by their number, in the grid's order, seeds innermost: of each network its best rate's.

    `finals`: by the number in `TrainingPlan.jobs`. `networks`: how many there are, seeds and rates not counted. The
    best rate has the fewest seeds that diverge, then the lowest mean final loss over the seeds; of equals the one
    listed first. Where an interrupt left some seeds of a network without every learning rate, the other seeds decide
    and are kept; with one learning rate every run is kept.
    """
    rates = len(learning_rates)
    found: dict[int, dict[int, dict[int, int]]] = {}
    for number in sorted(finals):
        seed, rest = divmod(number, networks * rates)
        network, rate = divmod(rest, rates)
        found.setdefault(network, {}).setdefault(seed, {})[rate] = number
    kept: list[int] = []
    for _, members in sorted(found.items()):
        seeds = [tried for tried in members.values() if len(tried) == rates]
        if seeds:
            best = min(range(rates), key=lambda rate: _badness([finals[tried[rate]] for tried in seeds]))
            kept += [tried[best] for tried in seeds]
    return kept


def _badness(finals: list[Final]) -> tuple[int, float]:
    finite = [loss for _, loss in finals if math.isfinite(loss)]
    return sum(diverged for diverged, _ in finals), sum(finite) / len(finite) if finite else math.inf
