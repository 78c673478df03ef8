"""What initialization does to learning: a grid of MLPs, trained, with how each one went as a record."""

from propscope.experiments.training.data import TrainingData, make_data
from propscope.experiments.training.optimizers import OPTIMIZERS, OptimizerKind
from propscope.experiments.training.plan import TrainingPlan, make_plan
from propscope.experiments.training.run import collect, finish, run, train_mlp
from propscope.experiments.training.sources import DATA, DataSource

__all__ = [
    "DATA",
    "OPTIMIZERS",
    "DataSource",
    "OptimizerKind",
    "TrainingData",
    "TrainingPlan",
    "collect",
    "finish",
    "make_data",
    "make_plan",
    "run",
    "train_mlp",
]
