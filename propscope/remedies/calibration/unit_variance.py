"""`calibrate`: scale the weights of a model, layer after layer, until each gives a signal of unit variance."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from propscope.errors import InputError
from propscope.measure.filters import Filter, Patterns
from propscope.measure.outputs import tensors_in
from propscope.measure.wrappers import seen_in_full
from propscope.records.calibration import Calibration, SkippedWeight
from propscope.remedies.calibration.passes import CalibrationPass
from propscope.remedies.calibration.progress import Goal, PartProgress
from propscope.remedies.calibration.survey import survey
from propscope.remedies.calibration.weights import Ledger, put_back

Batches = Iterable[Any] | Callable[[], Iterable[Any]]


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
    batch, until abs(std / target - 1) <= `tolerance`, in at most `steps` steps (one, where there is no bias), each
    layer behind those that are calibrated already. Parameters stay the same objects; buffers, gradients, random states,
    mode and hooks stay as they are. The model runs in its mode, train or eval.

    `batch`: as in `propscope.profile`; one forward pass calibrates all layers, each of which is run again once a step.
    `batches`, in its place: an iterable of such batches that can be gone through repeatedly, or a function that returns
    an iterable; statistics are pooled over all of them in float64, the memory is that of one batch, and every layer
    takes a pass over all batches, as far as that layer. `target`: the standard deviation, or a mapping from regular
    expressions, searched in the name, to standard deviations; the first that is found counts, else 1. `orthogonal`:
    start from random orthonormal matrices, drawn from `seed`, as the paper does. `include`, `exclude`: regular
    expressions or module types, as in `track`.

    Scaled: Linear, Bilinear, convolutions, transformers' Conv1D and whatever else has a `weight` of two dimensions or
    more; the q, k, v and output projections of MultiheadAttention; the gain of weight_norm; `weight_ih` of RNN, LSTM,
    GRU and their cells, so that the input's part of the gates' pre-activations has the standard deviation wanted. Left
    alone, and listed in the result with the reason: embeddings and what is tied to them, `weight_hh`, frozen,
    otherwise computed and excluded weights, and what did not run. Norms and biases are not touched. A module that runs
    several times, and a weight that several modules share, is scaled on the first call.

    Returns a `Calibration`; its `undo()` restores the weights bit for bit, from copies that it holds. Raises
    `InputError` for what is not valid, for a model that is lazy, on the meta device, quantized, sharded or replicated,
    and for a layer that cannot be brought there: zero weight, constant output, NaN or Inf, one row, a bias too large.
    Then, and when the model raises or is interrupted, all weights are as they were.
    """
    goal = Goal(
        _targets(target), _positive("tolerance", tolerance), _whole("steps", steps), seed if orthogonal else None
    )
    found = survey(model, Filter.of(include, exclude, None, None))
    if (batch is None) == (batches is None):
        raise InputError("pass one of batch and batches", hint="batch: what the model takes; batches: several of these")
    _refuse_unused(goal, [part.name for own in found.parts.values() for part in own])
    ledger = Ledger()
    walk = CalibrationPass(
        model, {module: tuple(PartProgress(part, goal, ledger) for part in own) for module, own in found.parts.items()}
    )
    try:
        with seen_in_full(model):
            if batches is None:
                walk.one_pass(_varied(batch))
            else:
                walk.many_passes(lambda: map(_varied, _again(batches)))
        if not any(progress.settled for progress in walk.order):
            raise InputError(
                "no layer was calibrated: " + "; ".join(f"{entry.name!r}: {entry.reason}" for entry in _open(walk)[:3]),
                hint="a layer must run as a module, on at least two rows of a batch, and return a dense tensor",
            )
        saved = ledger.close()
    except BaseException:
        ledger.restore()
        raise
    return Calibration(
        layers=tuple(progress.scaled() for progress in walk.order if progress.settled),
        left=(*found.left, *_open(walk)),
        passes=walk.passes,
        reruns=walk.reruns,
        restore=partial(put_back, saved),
    )


def _open(walk: CalibrationPass) -> list[SkippedWeight]:
    return [progress.left() for own in walk.parts.values() for progress in own if not progress.settled]


def _again(batches: Batches) -> Iterable[Any]:
    made = batches() if callable(batches) else batches
    if isinstance(made, (Tensor, Mapping)) or not isinstance(made, Iterable):
        raise InputError(
            f"batches is a {type(made).__name__}; valid is an iterable of batches, or a function that returns one",
            hint="a single batch is the argument batch",
        )
    if made is batches and iter(made) is made:
        raise InputError(
            f"batches is a {type(made).__name__}, which can be gone through once; every layer takes a pass",
            hint="pass a function that returns it: batches=lambda: (x for x, _ in loader)",
        )
    return made


def _varied(batch: Any) -> Any:
    """Return the batch; raises `InputError` for one that is none, or that holds a single value."""
    if not isinstance(batch, (Tensor, Mapping, tuple, list)):
        raise InputError(
            f"batch is a {type(batch).__name__}; valid is a tensor, or a tuple, list or dict of arguments",
            hint="what gives several batches is the argument batches",
        )
    tensors = [tensor for _, tensor in tensors_in(batch) if tensor.layout == torch.strided and not tensor.is_nested]
    if tensors and all(tensor.numel() and bool((tensor == tensor.reshape(-1)[0]).all()) for tensor in tensors):
        raise InputError(
            f"batch holds {tensors[0].reshape(-1)[0].item():g} everywhere, no signal to calibrate by",
            hint="pass data as the model will see in training",
        )
    return batch


def _targets(target: float | Mapping[str, float]) -> tuple[tuple[re.Pattern[str], float], ...]:
    given = target if isinstance(target, Mapping) else {"": target}
    try:
        return tuple((re.compile(pattern), _positive("target", std)) for pattern, std in given.items())
    except re.error as error:
        raise InputError(f"target has {error.pattern!r}, no regular expression: {error}") from None


def _refuse_unused(goal: Goal, names: list[str]) -> None:
    for pattern, _ in goal.targets:
        if not any(pattern.search(name) for name in names):
            shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
            raise InputError(f"target has {pattern.pattern!r}, which no layer has in its name; there are {shown}")


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InputError(f"{name} is {value!r}; valid is a finite number above 0")
    return value


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; valid is a whole number of at least 1")
    return value
