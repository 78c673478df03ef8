"""`track`, `profile` and `summary`: watch the caller's own loop, run a model on a batch, print what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from propscope.errors import InputError
from propscope.measure.filters import Filter, Patterns
from propscope.measure.outputs import tensors_in
from propscope.measure.recorder import Recorder
from propscope.measure.sampling import HISTOGRAM_LIMIT
from propscope.measure.sites import Options, Stats
from propscope.measure.undisturbed import undisturbed
from propscope.records.display import print_inspection
from propscope.records.network import NetworkProfile

Loss = Callable[[Any], Tensor]


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


def profile(
    model: nn.Module,
    batch: Any,
    loss: Loss | None = None,
    *,
    seed: int = 0,
    include: Patterns = None,
    exclude: Patterns = None,
    kinds: Iterable[str] | None = None,
    depth: int | None = None,
    stats: Stats = "all",
    histogram_limit: int = HISTOGRAM_LIMIT,
) -> NetworkProfile:
    """Run `model` forward and backward on one batch and return its profile; the model is left as it was found.

    `batch`: a tensor, a tuple or list of positional arguments, or a mapping of keyword arguments. `loss`: a function
    of the model's output that returns a scalar tensor; None sends a gradient drawn from N(0, 1) with `seed` into the
    first floating output, so that the backward curve shows the network and not the loss (a scalar output is taken as
    the loss itself). Where no gradient can flow, the profile is of the forward pass alone. The model's mode, train or
    eval, is kept. `include`, `exclude`, `kinds`, `depth`, `stats` and `histogram_limit` are as in `track`.

    Raises `InputError` for a model, batch or loss that is none. What the model raises passes through, with the profile
    up to there as its attribute `partial_profile`; the profile's coverage says where it stopped.
    """
    recorder = track(
        model,
        include=include,
        exclude=exclude,
        kinds=kinds,
        depth=depth,
        stats=stats,
        histogram_limit=histogram_limit,
    )
    return profile_batches(model, recorder, [(batch, loss, seed)], seed=seed)


def summary(
    model: nn.Module,
    batch: Any,
    loss: Loss | None = None,
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


def profile_batches(
    model: nn.Module, recorder: Recorder, batches: Iterable[tuple[Any, Loss | None, int]], *, seed: int
) -> NetworkProfile:
    """Run `model` on several batches with one recorder of it and return their profile; the model is left as found.

    `batches`: each batch with its loss and the seed of its gradient, as `profile` takes them. Every batch starts from
    the same buffers and random states. Summaries merge exactly, and a unit is dead (symmetric) where it is in every
    batch; mean cosine and effective rank are means over the batches. Raises what `profile` raises.
    """
    for batch, loss, gradient_seed in batches:
        _run(model, recorder, batch, loss, gradient_seed, seed)
        recorder.end_batch()
    return recorder.profile(seed=seed)


def _run(model: nn.Module, recorder: Recorder, batch: Any, loss: Loss | None, gradient_seed: int, seed: int) -> None:
    if loss is not None and not callable(loss):
        raise InputError(f"loss is a {type(loss).__name__}; valid is a function of the model's output, or None")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(
            "the model has parameters of lazy modules, which get their shape in the first forward pass",
            hint="run the model once on a batch first",
        )
    try:
        with undisturbed(model, batch), recorder:
            output = call_model(model, batch)
            _backward(output, loss, gradient_seed)
    except Exception as error:
        error.partial_profile = recorder.profile(seed=seed)  # type: ignore[attr-defined]
        raise


def call_model(model: nn.Module, batch: Any) -> Any:
    """Return the output of a model for a batch: a tensor, a tuple or list of arguments, or a dict of named ones."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    if isinstance(batch, Tensor):
        return model(batch)
    raise InputError(f"batch is a {type(batch).__name__}; valid is a tensor, or a tuple, list or dict of arguments")


def _backward(output: Any, loss: Loss | None, seed: int) -> None:
    if loss is not None:
        value = loss(output)
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(f"loss returned {what}; expected a tensor with one element")
        if value.requires_grad:
            value.backward()
        return
    for _, tensor in tensors_in(output):
        if tensor.requires_grad and (tensor.is_floating_point() or tensor.is_complex()):
            tensor.backward(_cotangent(tensor, seed))
            return


def _cotangent(output: Tensor, seed: int) -> Tensor:
    if output.dim() == 0:
        return torch.ones_like(output)
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if output.is_complex() else torch.float64
    return torch.randn(output.shape, generator=generator, dtype=dtype).to(output)
