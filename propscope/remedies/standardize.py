"""`standardized`: a batch with its inputs brought to mean 0 and standard deviation 1, and the Python that does so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.measure.input_sites import inputs_of
from propscope.measure.module_info import axis_of_unknown
from propscope.measure.outputs import tensors_in
from propscope.records.finding import MeanAndStd
from propscope.records.numerals import number


def standardized(batch: Any, inputs: Mapping[str, MeanAndStd | None]) -> Any:
    """Return a batch with (x - mean) / std for each of these inputs x; the batch itself does not change.

    `batch`: as `propscope.profile` takes it, of tensors. `inputs`: by the name of an input's site its mean and standard
    deviation, None for those of each feature: of each column of a table, each channel of an image, else of each entry
    of the last axis. Features that do not vary stay. Raises `InputError` for an input that the batch does not have.
    """
    tensors = _named(batch)
    if missing := [name for name in inputs if name not in tensors]:
        raise InputError(f'the batch has no input "{missing[0]}"', hint=f"it has {', '.join(tensors) or 'none'}")
    changed = {id(tensors[name]): _standard(tensors[name], moments) for name, moments in inputs.items()}
    return _replaced(batch, changed)


def standardizing_lines(inputs: Mapping[str, MeanAndStd | None], batch: Any) -> tuple[str, ...]:
    """Return the lines of Python that standardize these inputs of `batch`."""
    tensors, lines = _named(batch), []
    places = {id(tensor): suffix for suffix, tensor in tensors_in(batch)}
    for name, moments in inputs.items():
        keys = [key.rstrip("]") for key in places[id(tensors[name])].split("[")[1:]]
        at = "batch" + "".join(f"[{key}]" if key.isdecimal() else f"[{key!r}]" for key in keys)
        if moments is not None:
            lines.append(f"{at} = ({at} - {number(moments[0], 4)}) / {number(moments[1], 4)}")
            continue
        axes = f"{_others(tensors[name])}, keepdim=True"
        lines.append(f"{at} = ({at} - {at}.mean({axes})) / {at}.std({axes}).clamp_min(1e-12)")
    return tuple(lines)


def _named(batch: Any) -> dict[str, Tensor]:
    if isinstance(batch, Mapping):
        found = inputs_of((), batch)
    else:
        found = inputs_of(tuple(batch) if isinstance(batch, (tuple, list)) else (batch,), {})
    return {f"input{suffix}": tensor for suffix, tensor in found}


def _standard(tensor: Tensor, moments: MeanAndStd | None) -> Tensor:
    if moments is not None:
        return (tensor - moments[0]) / moments[1]
    std, mean = torch.std_mean(tensor, _others(tensor), keepdim=True)
    return torch.where(std > 0, (tensor - mean) / torch.where(std > 0, std, 1.0), tensor)


def _others(tensor: Tensor) -> tuple[int, ...]:
    features = axis_of_unknown(tensor, None) % tensor.dim()
    return tuple(axis for axis in range(tensor.dim()) if axis != features)


def _replaced(value: Any, changed: Mapping[int, Tensor]) -> Any:
    if id(value) in changed:
        return changed[id(value)]
    if isinstance(value, Mapping):
        return {name: _replaced(part, changed) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_replaced(part, changed) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
