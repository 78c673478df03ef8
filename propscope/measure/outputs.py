"""The tensors inside whatever a module takes or returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors_in(value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (suffix, tensor) for each tensor in nested tuples, lists, mappings and dataclasses, in their order.

    The suffix is "" for a tensor that stands alone, "[0]", "[1][0]" or "[logits]" for one inside. A structure that
    holds itself is followed once.
    """
    if isinstance(value, Tensor):
        yield "", value
    else:
        yield from _inside(value, ())


def _inside(value: Any, above: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    for key, part in _parts(value):
        if isinstance(part, Tensor):
            yield f"[{key}]", part
        elif id(part) not in above:
            for suffix, tensor in _inside(part, (*above, id(value))):
                yield f"[{key}]{suffix}", tensor


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)
