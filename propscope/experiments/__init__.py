"""Many profiles in one call: the grid of MLPs."""

from propscope.experiments.grid import LOSSES, Grid
from propscope.experiments.profile import make_grid, profile_mlp, run

__all__ = ["LOSSES", "Grid", "make_grid", "profile_mlp", "run"]
