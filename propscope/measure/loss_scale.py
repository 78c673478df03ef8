"""Divide the scale of a scaled loss out of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from propscope.checks import number


def unscaling(loss_scale: Any, *, shares: float = 1) -> Callable[[Tensor], Tensor] | None:
    """Return a function that divides a gradient by the scale of the loss in float32 or wider; None without a scale.

    `loss_scale`: a positive number, or a `GradScaler`, whose scale is read on its device at each gradient. `shares`: by
    what the sum of the losses of several ranks is divided. Raises `InputError` for another loss_scale.
    """
    if loss_scale is None:
        return None if shares == 1 else lambda gradient: _wide(gradient) / shares
    if hasattr(loss_scale, "get_scale"):

        def by_scaler(gradient: Tensor) -> Tensor:
            # get_scale() would wait for the device; the tensor behind it does not, and exists from the first scale().
            scale = getattr(loss_scale, "_scale", None)
            return gradient / shares if scale is None else _wide(gradient) / (scale.to(gradient.device) * shares)

        return by_scaler
    factor = number("loss_scale", loss_scale, above=True, what="a GradScaler or a finite number")
    return lambda gradient: _wide(gradient) / (factor * shares)


def _wide(gradient: Tensor) -> Tensor:
    half = gradient.dtype in (torch.float16, torch.bfloat16)
    return gradient.float() if half else gradient
