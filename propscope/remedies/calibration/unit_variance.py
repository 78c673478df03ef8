"""`calibrate`: scale the weights of a model, layer after layer, until each output has unit variance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from propscope import checks
from propscope.checks import known_arguments
from propscope.errors import InputError
from propscope.measure.filters import Filter, Patterns
from propscope.measure.outputs import as_batch, tensors_in
from propscope.measure.wrappers import without_shortcuts
from propscope.records.calibration import Calibration, SkippedWeight
from propscope.records.numerals import listed
from propscope.remedies.calibration.backup import WeightBackup, restore_all
from propscope.remedies.calibration.parts import survey
from propscope.remedies.calibration.passes import CalibrationRun, Goal, PartProgress

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


@known_arguments
def calibrate(
    model: nn.Module,
    batch: Any = None,
    *,
    batches: Batches | None = None,
    target: float | Mapping[str, float] = 1.0,
    tolerance: float = 0.01,
    steps: int = 10,
    orthogonal: bool = False,
    seed: int = 0,
    include: Patterns = None,
    exclude: Patterns = None,
) -> Calibration:
    """Scale the weight of each layer, in place and in execution order, so that its output has standard deviation 1.

    Layer-sequential unit variance, Mishkin and Matas 2016, algorithm 1: W <- W / std(output), over all elements of the
    batch, until abs(std / target - 1) <= `tolerance`, in at most `steps` steps (one is enough without a bias). Each
    layer is scaled after all layers before it. Parameters stay the same objects; buffers, gradients, random states,
    mode and hooks do not change. The model runs in its current mode, train or eval.

    `batch`: as in `propscope.profile`; one forward pass calibrates all layers, and each layer runs again once per step.
    `batches`, instead of `batch`: an iterable of batches that can be iterated repeatedly, or a function that returns
    one. Statistics are pooled over all batches in float64; the memory is that of one batch; each layer takes at least
    one pass over all batches, up to that layer. `target`: the standard deviation, or a mapping from regular expressions
    to standard deviations, in which the first one found in the layer's name counts, else 1. `orthogonal`: start from
    random orthonormal matrices, drawn from `seed`, as in the paper. `include`, `exclude`: regular expressions or module
    types, as in `track`.

    Scaled are: Linear, Bilinear, convolutions, transformers' Conv1D and every other `weight` of two dimensions or more;
    the q, k, v and output projections of MultiheadAttention; the gain of weight_norm; `weight_ih` of RNN, LSTM, GRU and
    their cells, where W_ih x gets the wanted standard deviation. Left alone, and listed in the result with the reason,
    are: embeddings and weights tied to them, `weight_hh`, frozen weights, weights computed in another way, excluded
    weights, and modules that did not run. Norms and biases do not change. A module that runs several times, and a
    weight that several modules share, is scaled on the first call.

    Returns a `Calibration`, whose `undo()` restores the weights bit for bit from copies. Raises `InputError` for
    invalid arguments; for a model that is lazy, on the meta device, quantized, sharded or replicated; and for a layer
    that cannot reach its target: zero weight, constant output, NaN or Inf, one row, or a bias that is too large. In
    these cases, and if the model raises or is interrupted, all weights are as before.
    """
    checks.seed_number(seed)
    goal = Goal(
        _targets(target),
        checks.number("tolerance", tolerance, above=True),
        checks.count("steps", steps),
        seed if orthogonal else None,
    )
    found = survey(model, Filter.of(include, exclude, None, None))
    if (batch is None) == (batches is None):
        raise InputError("pass either batch or batches", hint="batch: one input of the model; batches: several of them")
    _refuse_unused(goal, [part.name for own in found.parts.values() for part in own])
    backup = WeightBackup()
    run = CalibrationRun(
        model, {module: tuple(PartProgress(part, goal, backup) for part in own) for module, own in found.parts.items()}
    )
    try:
        with without_shortcuts(model):
            if batches is None:
                run.one_pass(_varied(as_batch(model, batch)))
            else:
                run.many_passes(lambda: (_varied(as_batch(model, one)) for one in _again(batches)))
        if not any(progress.settled for progress in run.order):
            raise InputError(
                "no layer was calibrated: " + "; ".join(f'"{entry.name}": {entry.reason}' for entry in _open(run)[:3]),
                hint="a layer must run as a module, on at least two rows of a batch, and return a dense tensor",
            )
        saved = backup.close()
    except BaseException:
        backup.restore()
        raise
    return Calibration(
        layers=tuple(progress.scaled() for progress in run.order if progress.settled),
        skipped=(*found.skipped, *_open(run)),
        passes=run.passes,
        reruns=run.reruns,
        restore=partial(restore_all, saved),
    )


def _open(run: CalibrationRun) -> list[SkippedWeight]:
    return [progress.skipped() for own in run.parts.values() for progress in own if not progress.settled]


def _again(batches: Batches) -> Iterable[Any]:
    made = batches() if callable(batches) else batches
    if isinstance(made, (Tensor, Mapping)) or not isinstance(made, Iterable):
        raise InputError(
            f"batches must be an iterable of batches or a function that returns one, got a {type(made).__name__}",
            hint="pass a single batch as batch",
        )
    if made is batches and iter(made) is made:
        raise InputError(
            f"batches must allow several passes, one for each layer, got a {type(made).__name__}, which allows one",
            hint="pass a function that returns it: batches=lambda: (x for x, _ in loader)",
        )
    return made


def _varied(batch: Any) -> Any:
    """Return the batch; raises `InputError` if it is not a batch, or if all its elements are equal."""
    if not isinstance(batch, (Tensor, Mapping, tuple, list)):
        raise InputError(
            f"batch must be a tensor, or a tuple, list or dict of arguments, got a {type(batch).__name__}",
            hint="pass an iterable of several batches as batches",
        )
    tensors = [tensor for _, tensor in tensors_in(batch) if tensor.layout == torch.strided and not tensor.is_nested]
    if tensors and all(tensor.numel() and bool((tensor == tensor.reshape(-1)[0]).all()) for tensor in tensors):
        raise InputError(
            f"batch must vary to calibrate with it, got {tensors[0].reshape(-1)[0].item():g} everywhere",
            hint="pass data that the model will see in training",
        )
    return batch


def _targets(target: float | Mapping[str, float]) -> tuple[tuple[re.Pattern[str], float], ...]:
    given = target if isinstance(target, Mapping) else {"": target}
    try:
        return tuple((re.compile(pattern), checks.number("target", std, above=True)) for pattern, std in given.items())
    except re.error as error:
        raise InputError(
            f"target must have regular expressions as keys, got {checks.shown(error.pattern)}: {error}"
        ) from None


def _refuse_unused(goal: Goal, names: list[str]) -> None:
    for pattern, _ in goal.targets:
        if not any(pattern.search(name) for name in names):
            there = listed(names, 6)
            raise InputError(f'target has "{pattern.pattern}", which is in the name of no layer; there are {there}')
