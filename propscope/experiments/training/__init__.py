"""The networks of a grid, trained: what initialization does to learning, one record for each run."""

from propscope.experiments.training.data import DATA, DataSource, TrainingData, make_data
from propscope.experiments.training.optimizers import OPTIMIZERS, OptimizerKind
from propscope.experiments.training.plan import TrainingPlan, make_plan
from propscope.experiments.training.run import chosen, collect, final_of, finish, run, train_mlp

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
