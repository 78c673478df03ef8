"""The scale of a scaled loss: what it is now, and how it is divided out of the gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from propscope.checks import number


def scale_of(loss_scale: Any) -> Tensor | None:
    """Return the factor of the loss as it is now, a copy on its device; None where there is none yet."""
    if _is_scaler(loss_scale):
        scale = _scale_in(loss_scale)
        return None if scale is None else scale.detach().clone()
    return None if loss_scale is None else torch.tensor(float(loss_scale), device="cpu")


def unscaling(loss_scale: Any, *, shares: float = 1) -> Callable[[Tensor], Tensor] | None:
    """Return a function that divides a gradient by the scale of the loss in float32 or wider; None without a scale.

    `loss_scale`: a positive number, or a `GradScaler`, whose scale is read on its device at each gradient. `shares`: by
    what the sum of the losses of several ranks is divided. Raises `InputError` for another loss_scale.
    """
    if loss_scale is None:
        return None if shares == 1 else lambda gradient: _wide(gradient) / shares
    if _is_scaler(loss_scale):

        def by_scaler(gradient: Tensor) -> Tensor:
            scale = _scale_in(loss_scale)
            return gradient / shares if scale is None else _wide(gradient) / (scale.to(gradient.device) * shares)

        return by_scaler
    factor = number("loss_scale", loss_scale, above=True, what="a GradScaler or a finite number")
    return lambda gradient: _wide(gradient) / (factor * shares)


def _is_scaler(loss_scale: Any) -> bool:
    return hasattr(loss_scale, "get_scale")


def _scale_in(scaler: Any) -> Tensor | None:
    # get_scale() would wait for the device; the tensor behind it does not, and exists from the first scale().
    scale: Tensor | None = getattr(scaler, "_scale", None)
    return scale


def _wide(gradient: Tensor) -> Tensor:
    half = gradient.dtype in (torch.float16, torch.bfloat16)
    return gradient.float() if half else gradient
