"""Gradients of a scaled loss, without the scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from propscope.errors import InputError


def unscaling(loss_scale: Any) -> Callable[[Tensor], Tensor] | None:
    """Return a function that divides a gradient by the scale of the loss, in float32 at least; None for no scale.

    `loss_scale`: a positive number, or a `GradScaler`, whose scale is read on its device at each gradient. Raises
    `InputError` for anything else.
    """
    if loss_scale is None:
        return None
    if hasattr(loss_scale, "get_scale"):

        def by_scaler(gradient: Tensor) -> Tensor:
            # get_scale() would wait for the device; the tensor behind it does not, and exists from the first scale().
            scale = getattr(loss_scale, "_scale", None)
            return gradient if scale is None else _wide(gradient) / scale.to(gradient.device)

        return by_scaler
    if isinstance(loss_scale, bool) or not isinstance(loss_scale, (int, float)):
        raise InputError(f"loss_scale is a {type(loss_scale).__name__}; valid is a number or a GradScaler")
    if not (loss_scale > 0 and math.isfinite(loss_scale)):
        raise InputError(f"loss_scale is {loss_scale}; valid is a finite number above 0")
    return lambda gradient: _wide(gradient) / loss_scale


def _wide(gradient: Tensor) -> Tensor:
    half = gradient.dtype in (torch.float16, torch.bfloat16)
    return gradient.float() if half else gradient
