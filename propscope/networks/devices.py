"""The dtypes and devices that a network can have, by their names."""

from __future__ import annotations

import torch

from propscope.checks import one_of
from propscope.errors import InputError

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}
_HINT = "the cpu is valid everywhere"


def named_dtype(argument: str, name: str) -> torch.dtype:
    """Return the dtype of this name; raises `InputError` for one that is not in `DTYPES`."""
    return DTYPES[one_of(argument, name, DTYPES)]


def usable_device(name: str, value: str | torch.device) -> torch.device:
    """Return the device; raises `InputError` with torch's reason where no tensor can be made on it.

    `name` begins the message. A meta tensor has a shape and no values, so there is nothing to measure on that device.
    """
    try:
        found = torch.device(value)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f'{name} "{value!s}" cannot be used: {reason}', hint=_HINT) from error
    if found.type == "meta":
        raise InputError(f'{name} "{value!s}" cannot be used: its tensors have no values', hint=_HINT)
    return found
