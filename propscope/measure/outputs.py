"""The tensors inside whatever a module takes or returns, and a user's batch as tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from propscope.checks import fits_memory
from propscope.errors import InputError

# What arguments mostly are beside tensors, and holds none.
_SINGLE = frozenset((bool, int, float, str, type(None), slice, torch.dtype, torch.device))


def tensors_in(value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (suffix, tensor) for each tensor in nested tuples, lists, mappings and dataclasses, in their order.

    The suffix is "" for a tensor that stands alone, "[0]", "[1][0]" or "[logits]" for one inside. A structure that
    holds itself is followed once.
    """
    if isinstance(value, Tensor):
        yield "", value
    else:
        yield from ((suffix, leaf) for suffix, leaf in _leaves(value, "", ()) if isinstance(leaf, Tensor))


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors that `tensors_in` yields, without suffixes, in a fraction of the time."""
    found: list[Tensor] = []
    _gather(value, found, ())
    return found


def _gather(value: Any, found: list[Tensor], above: tuple[int, ...]) -> None:
    kind = type(value)
    if isinstance(value, Tensor):
        found.append(value)
        return
    if kind in _SINGLE or id(value) in above:
        return
    parts: Iterable[Any] | None = value if kind in (tuple, list) else value.values() if kind is dict else None
    if parts is None:
        parts = [part for _, part in _parts(value) or ()]
    above = (*above, id(value))
    for part in parts:
        if isinstance(part, Tensor):
            found.append(part)
        elif type(part) not in _SINGLE:
            _gather(part, found, above)


def leaves_in(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (suffix, leaf) for all that nested structures hold, tensors and anything else; see `tensors_in`."""
    return _leaves(value, "", ())


def _leaves(value: Any, suffix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    parts = None if isinstance(value, Tensor) else _parts(value)
    if parts is None:
        yield suffix, value
    elif id(value) not in above:
        for key, part in parts:
            yield from _leaves(part, f"{suffix}[{key}]", (*above, id(value)))


def _parts(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return the parts of a structure with their keys; None for anything else."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    if isinstance(value, (tuple, list)):
        return enumerate(value)
    if isinstance(value, Mapping):
        return value.items()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    return None


def as_batch(model: nn.Module, given: Any, *, name: str = "batch") -> Any:
    """Return a batch with each NumPy array as a tensor: floating-point ones with the dtype and device of `model`.

    Tensors, and whatever holds no array, are returned as they are. Raises `InputError` for an array of something else
    than numbers, for a batch whose tensors are all empty, and for one that stores few values but shows more than fit in
    memory, as an expanded tensor does: a copy of it would not.
    """
    batch = _with_tensors(model, given, name)
    tensors = tensors_of(batch)
    for tensor in tensors:
        if not (tensor.is_meta or tensor.is_nested):
            _fits(name, tensor.shape, tensor.element_size())
    if tensors and not any(tensor.numel() for tensor in tensors):
        raise InputError(
            f"{name} must have shape (rows, ...) with at least one element, got {tuple(tensors[0].shape)}",
            hint="nothing can be measured on an empty batch",
        )
    return batch


def _with_tensors(model: nn.Module, value: Any, name: str) -> Any:
    if isinstance(value, np.ndarray):
        return _tensor(model, value, name)
    if not any(isinstance(part, np.ndarray) or _holds_arrays(part) for _, part in _parts(value) or ()):
        return value
    if isinstance(value, Mapping):
        return {key: _with_tensors(model, part, f"{name}[{key}]") for key, part in value.items()}
    parts = [_with_tensors(model, part, f"{name}[{key}]") for key, part in _parts(value) or ()]
    if isinstance(value, (tuple, list)):
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, (tuple, list, Mapping)) and any(
        isinstance(part, np.ndarray) or _holds_arrays(part) for _, part in _parts(value) or ()
    )


def _tensor(model: nn.Module, array: np.ndarray[Any, Any], name: str) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise InputError(f"{name} must hold numbers, got a NumPy array of {array.dtype}", hint="convert it to numbers")
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
    if array.dtype.kind == "f":
        _fits(name, array.shape, np.dtype(np.float64).itemsize)
        # A copy: NumPy's arrays may be read-only, reversed or wider than any tensor.
        return torch.from_numpy(array.astype(np.float64)).to(device=like.device, dtype=like.dtype)
    _fits(name, array.shape, array.dtype.itemsize)
    plain = array.astype(np.complex128 if array.dtype.kind == "c" else array.dtype.newbyteorder("="))
    return torch.from_numpy(plain).to(like.device)


def _fits(name: str, shape: Sequence[int], itemsize: int) -> None:
    fits_memory(f"{name} of shape {tuple(shape)}", math.prod(shape) * itemsize, hint="pass fewer rows")


def describe_shapes(batch: Any) -> str:
    """Return shape and dtype of each tensor of a batch, such as 8,3,32,32 float32."""
    shapes = "; ".join(
        ",".join(map(str, tensor.shape)) + f" {str(tensor.dtype).removeprefix('torch.')}"
        for tensor in tensors_of(batch)
    )
    return shapes or "without a tensor"
