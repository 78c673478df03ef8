"""The networks of a grid, trained: what initialization does to learning, one record for each run.

The names are imported on first use: the process that hands out the trainings needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from propscope.experiments.training.data import DATA, DataSource, TrainingData, make_data
    from propscope.experiments.training.learning_rates import chosen, final_of
    from propscope.experiments.training.optimizers import OPTIMIZERS, OptimizerKind
    from propscope.experiments.training.plan import TrainingPlan, make_plan
    from propscope.experiments.training.trainings import collect, finish, run, train_mlp

_HOMES = dict.fromkeys(("chosen", "final_of"), "learning_rates")
_HOMES |= dict.fromkeys(("DATA", "DataSource", "TrainingData", "make_data"), "data")
_HOMES |= dict.fromkeys(("OPTIMIZERS", "OptimizerKind"), "optimizers")
_HOMES |= dict.fromkeys(("TrainingPlan", "make_plan"), "plan")
_HOMES |= dict.fromkeys(("collect", "finish", "run", "train_mlp"), "trainings")

__all__ = [
    "DATA",
    "OPTIMIZERS",
    "DataSource",
    "OptimizerKind",
    "TrainingData",
    "TrainingPlan",
    "chosen",
    "collect",
    "final_of",
    "finish",
    "make_data",
    "make_plan",
    "run",
    "train_mlp",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
