"""`summary`: profile a model and print what was seen as a tree of its modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO

from torch import Tensor, nn

from propscope.measure.filters import Patterns
from propscope.measure.profiler import profile
from propscope.measure.sampling import HISTOGRAM_LIMIT
from propscope.measure.sites import Stats
from propscope.records.display import print_inspection
from propscope.records.network import NetworkProfile


def summary(
    model: nn.Module,
    batch: Any,
    loss: Callable[[Any], Tensor] | None = None,
    *,
    seed: int = 0,
    include: Patterns = None,
    exclude: Patterns = None,
    stats: Stats = "all",
    histogram_limit: int = HISTOGRAM_LIMIT,
    sort: str | None = None,
    top: int | None = None,
    depth: int | None = None,
    file: TextIO | None = None,
) -> NetworkProfile:
    """Profile `model` on one batch, print the tree of its sites and return the profile; the model stays as it was.

    The verdict of `diagnose` stands on top, and each line that starts with `!` shows something wrong, named at its end.
    `batch`, `loss`, `seed`,
    `include`, `exclude`, `stats` and `histogram_limit` are as in `profile`. `sort`: "gain", "backward", "flat", "dead"
    or "nonfinite", the worst site first instead of the tree; `top`: that many lines. `depth`: modules that many levels
    down stand in one line, with the range of their sites; all sites are recorded nevertheless. Printed to `file`, None
    for stdout, as wide as the terminal. Raises what `profile` raises, and `InputError` for a sort, top or depth that is
    not valid.
    """
    seen = profile(
        model,
        batch,
        loss,
        seed=seed,
        include=include,
        exclude=exclude,
        stats=stats,
        histogram_limit=histogram_limit,
    )
    print_inspection(seen, title=type(model).__name__, sort=sort, top=top, depth=depth, file=file)
    return seen
