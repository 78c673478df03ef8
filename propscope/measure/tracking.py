"""`track`: a recorder for the caller's own loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from propscope.measure.filters import Filter, Patterns
from propscope.measure.recorder import Recorder
from propscope.measure.sampling import HISTOGRAM_LIMIT
from propscope.measure.sites import Options, Stats


def track(
    model: nn.Module,
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    kinds: Iterable[str] | None = None,
    depth: int | None = None,
    stats: Stats = "all",
    histogram_limit: int = HISTOGRAM_LIMIT,
    loss_scale: Any = None,
) -> Recorder:
    """Return a context manager that watches `model` in the caller's own loop and changes nothing in it.

    `include`, `exclude`: regular expressions searched in site names, or module types, one or several. `kinds`: names
    of classes or functions to record alone. `depth`: how many levels of modules below the model. `stats`: "all", or
    "moments" for moments and counts alone. `histogram_limit`: elements of one tensor that a histogram counts at most,
    0 for all. `loss_scale`: the factor that the loss was multiplied with, a number or a `GradScaler`; gradients are
    recorded without it. `recorder.profile()` inside or after the block returns a `NetworkProfile`; several batches
    and backward passes are merged in it. Raises `InputError` for what is not valid.
    """
    return Recorder(
        model,
        options=Options(stats=stats, histogram_limit=histogram_limit),
        kept=Filter.of(include, exclude, kinds, depth),
        loss_scale=loss_scale,
    )
