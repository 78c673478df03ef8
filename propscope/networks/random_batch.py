"""A model's batch drawn at random: numbers, images, tokens, by the shapes that were asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propscope.checks import count, fits_memory, shown
from propscope.errors import InputError

Draw = Callable[[tuple[int, ...], nn.Module, torch.Generator], Tensor]
Size = Sequence[int]
# One size, several (positional arguments), or sizes by the names of keyword arguments.
Sizes = Size | Sequence[Size] | Mapping[str, Size]
_MASKS = ("mask", "masks")


@dataclass(frozen=True, slots=True)
class RandomTensor:
    """A tensor to be drawn by a function of its shape, the model and a generator; a mask or tokens in `dtype`."""

    shape: tuple[int, ...]
    draw: Draw
    dtype: torch.dtype | None = None


def drawn(
    arguments: Any, model: nn.Module, generator: torch.Generator, *, dtype: torch.dtype, device: torch.device
) -> Any:
    """Return a model's arguments with every `RandomTensor` in tuples, lists and dicts drawn, all tensors on a device.

    Floating tensors get `dtype`, but those of a `RandomTensor` that has one of its own.
    """
    if isinstance(arguments, RandomTensor):
        tensor = arguments.draw(arguments.shape, model, generator)
        wanted = arguments.dtype or (dtype if tensor.is_floating_point() else None)
        return tensor.to(device=device, dtype=wanted)
    if isinstance(arguments, Tensor):
        return arguments.to(device=device, dtype=dtype if arguments.is_floating_point() else None)
    if isinstance(arguments, dict):
        return {name: drawn(part, model, generator, dtype=dtype, device=device) for name, part in arguments.items()}
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(drawn(part, model, generator, dtype=dtype, device=device) for part in arguments)
    return arguments


def normal(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator) -> Tensor:
    """Draw from N(0, 1)."""
    return torch.randn(shape, generator=generator)


def image(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator) -> Tensor:
    """Draw smooth noise of mean 0 and variance 1, shape (batch, channels, height, width)."""
    if len(shape) != 4:
        raise InputError(
            f"--input-kind image needs batch,channels,height,width, got an --input-shape of {len(shape)} numbers",
            hint="for example --input-shape 8,3,32,32",
        )
    coarse = torch.randn((*shape[:2], *(-(-size // 8) + 1 for size in shape[2:])), generator=generator)
    smooth = F.interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=True)
    values = smooth + 0.1 * torch.randn(shape, generator=generator)
    return (values - values.mean()) / values.std(correction=0).clamp_min(1e-6)


def tokens(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator) -> Tensor:
    """Draw whole numbers from 0 to the size of the model's vocabulary: its configuration's, or its first Embedding's.

    Raises `InputError` where the model has neither.
    """
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if not isinstance(size, int):
        embeddings = (module for module in model.modules() if isinstance(module, nn.Embedding))
        size = getattr(next(embeddings, None), "num_embeddings", None)
    if size is None:
        raise InputError(
            "cannot draw tokens: the model has neither config.vocab_size nor an Embedding",
            hint="give a batch of your own (--input FILE), or another kind or dtype",
        )
    return torch.randint(size, shape, generator=generator)


def ones(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator) -> Tensor:
    """Return a mask that hides nothing."""
    return torch.ones(shape, dtype=torch.int64)


KINDS: dict[str, Draw] = {"float": normal, "tokens": tokens, "image": image, "ones": ones}


def kind_of(name: str) -> Draw:
    """Return what is drawn for an argument of a name: tokens for input_ids and its like, ones for masks, else N(0, 1).

    "" is an argument by position.
    """
    if name.endswith(_MASKS):
        return ones
    return tokens if name.endswith("_ids") or name == "tokens" else normal


def sized(input_size: Any, dtypes: Any = None) -> Any:
    """Return the arguments to draw for `input_size`: a size, a list of sizes, or a dict of them by argument name.

    A size is that of a whole batch, such as (8, 3, 32, 32). `dtypes`: a torch dtype for all, or one for each size, in a
    list or by name: floating-point ones are drawn from N(0, 1), whole numbers are tokens, bool is a mask of True.
    None: tokens for names such as input_ids, ones for masks, numbers for all else. Raises `InputError`.
    """
    if isinstance(input_size, Mapping):
        if not input_size or not all(isinstance(name, str) for name in input_size):
            raise _no_size(input_size)
        # Without a dtype for each name, the names say what is drawn.
        given = [dtypes.get(name) for name in input_size] if isinstance(dtypes, Mapping) else dtypes
        kinds = zip(input_size.items(), _aligned(given, len(input_size)), strict=True)
        return {name: _random(f"input_size[{name}]", size, kind, name) for (name, size), kind in kinds}
    if not _is_sequence(input_size) or not len(input_size):
        raise _no_size(input_size)
    if not any(_is_sequence(part) for part in input_size):
        return _random("input_size", input_size, _aligned(dtypes, 1)[0], "")
    each = _aligned(dtypes, len(input_size))
    return tuple(
        _random(f"input_size[{at}]", size, kind, "")
        for at, (size, kind) in enumerate(zip(input_size, each, strict=True))
    )


def _random(name: str, size: Any, dtype: torch.dtype | None, argument: str) -> RandomTensor:
    if not _is_sequence(size):
        raise _no_size(size, name)
    shape = tuple(count(name, part, hint="for example input_size=(8, 3, 32, 32), a batch of 8") for part in size)
    fits_memory(f"{name} {shape}", 8 * math.prod(shape), hint="choose a smaller batch or size")
    if dtype is None:
        return RandomTensor(shape, kind_of(argument))
    if dtype.is_floating_point or dtype.is_complex:
        return RandomTensor(shape, normal, dtype)
    return RandomTensor(shape, ones if dtype is torch.bool or argument.endswith(_MASKS) else tokens, dtype)


def _aligned(dtypes: Any, many: int) -> Sequence[torch.dtype | None]:
    each = list(dtypes) if isinstance(dtypes, (list, tuple)) else [dtypes] * many
    if len(each) != many:
        raise InputError(
            f"dtypes must be one dtype for all inputs or one for each of the {many}, got {len(each)}",
            hint="for example dtypes=[torch.int64, torch.float32]",
        )
    if wrong := [kind for kind in each if kind is not None and not isinstance(kind, torch.dtype)]:
        raise InputError(f"dtypes must be torch dtypes, got {shown(wrong[0])}", hint="for example torch.int64")
    return each


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _no_size(value: Any, name: str = "input_size") -> InputError:
    return InputError(
        f"{name} must be the size of a batch, a list of sizes or a dict of them by argument, got {shown(value)}",
        hint="for example input_size=(8, 3, 32, 32)",
    )
