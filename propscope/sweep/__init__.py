"""Many profiles in one call: the grid of MLPs."""

from propscope.sweep.grid import LOSSES, Grid
from propscope.sweep.run import make_grid, profile_mlp, run

__all__ = ["LOSSES", "Grid", "make_grid", "profile_mlp", "run"]
