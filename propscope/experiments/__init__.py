"""Many networks in one call: a grid of MLPs, profiled here and trained in `propscope.experiments.training`."""

from propscope.experiments.grid import LOSSES, Grid, make_grid
from propscope.experiments.profiling import profile_mlp, run

__all__ = ["LOSSES", "Grid", "make_grid", "profile_mlp", "run"]
