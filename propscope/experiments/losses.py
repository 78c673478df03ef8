"""`LOSSES`: losses of a model's output that need no data, with targets that are drawn once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from propscope.errors import InputError
from propscope.measure.outputs import tensors_in
from propscope.networks import seeded_generator

Loss = Callable[[Any], Tensor]


def cross_entropy(seed: int) -> Loss:
    """Return the cross entropy with random labels; classes are on the last axis of a matrix or a sequence, else on 1.

    The loss uses the first floating tensor of the output, and raises `InputError` where it has no classes.
    """

    def loss(output: Any) -> Tensor:
        first = _first(output, "cross-entropy")
        if first.dim() < 2:
            raise InputError(
                f'loss "cross-entropy" needs an output of shape (batch, classes), got {tuple(first.shape)}',
                hint="choose another loss",
            )
        logits = first.flatten(0, -2) if first.dim() == 3 else first
        generator = seeded_generator(seed, "inspect", "cross-entropy")
        labels = torch.randint(logits.shape[1], (logits.shape[0], *logits.shape[2:]), generator=generator)
        return F.cross_entropy(logits, labels.to(first.device))

    return loss


def mse(seed: int) -> Loss:
    """Return the mean squared difference of the output's first floating tensor from N(0, 1) numbers."""

    def loss(output: Any) -> Tensor:
        first = _first(output, "mse")
        generator = seeded_generator(seed, "inspect", "mse")
        return F.mse_loss(first, torch.randn(first.shape, generator=generator).to(first))

    return loss


def cotangent(seed: int) -> Loss:
    """Return a loss whose gradient is N(0, 1) numbers at the output, over the number of its rows, whatever it outputs.

    It is the mean over rows of the output's product with these numbers, where a row is one place on all axes but the
    last. A field `loss` of the output wins, a tensor whose mean is taken.
    """

    def loss(output: Any) -> Tensor:
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(own, Tensor):
            return own.mean()
        first = _first(output, "cotangent")
        drawn = torch.randn(first.shape, generator=seeded_generator(seed, "inspect", "cotangent")).to(first)
        return (first * drawn).sum() / max(first[..., :1].numel() if first.dim() else 1, 1)

    return loss


def total(seed: int) -> Loss:
    """Return the sum of the output's first floating tensor."""
    return lambda output: _first(output, "sum").sum()


LOSSES: dict[str, Callable[[int], Loss]] = {
    "cotangent": cotangent,
    "cross-entropy": cross_entropy,
    "mse": mse,
    "sum": total,
}


def _first(output: Any, name: str) -> Tensor:
    for _, tensor in tensors_in(output):
        if tensor.is_floating_point():
            return tensor
    raise InputError(
        f'loss "{name}" needs a floating-point tensor in the model\'s output, got none', hint="choose another loss"
    )
