"""The one engine that runs the networks of an experiment: in this process, in processes beside it, or on a cluster.

A `Recipe` says how a worker makes the `Work`, the networks of a run by number. `engine_for` chooses where it is done;
the engine's `outcomes` yields each network's number and its result or a `Failure`, as it is finished, in any order. A
result never depends on the engine, on the number of workers or on the order.
"""

from propscope.experiments.engine.choice import JOBLIB, Engine, Outcomes, engine_for, outcomes
from propscope.experiments.engine.work import (
    Extent,
    Failure,
    Outcome,
    Outline,
    Recipe,
    Work,
    failure_lines,
    without_failures,
)

__all__ = [
    "JOBLIB",
    "Engine",
    "Extent",
    "Failure",
    "Outcome",
    "Outcomes",
    "Outline",
    "Recipe",
    "Work",
    "engine_for",
    "failure_lines",
    "outcomes",
    "without_failures",
]
