"""Many networks in one call: a grid of MLPs, profiled here and trained in `propscope.experiments.training`.

The names are imported on first use: the process that hands out the networks needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from propscope.experiments.grid import LOSSES, Grid, make_grid
    from propscope.experiments.profiling import profile_mlp, profiled, run

_HOMES = dict.fromkeys(("LOSSES", "Grid", "make_grid"), "grid")
_HOMES |= dict.fromkeys(("profile_mlp", "profiled", "run"), "profiling")

__all__ = ["LOSSES", "Grid", "make_grid", "profile_mlp", "profiled", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
