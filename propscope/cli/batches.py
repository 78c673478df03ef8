"""The input that a model is inspected on, drawn or read from a file, and the loss at its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propscope.cli.targets import load_tensors
from propscope.errors import InputError
from propscope.measure.outputs import tensors_in
from propscope.networks import seeded_generator

KINDS = ("float", "tokens", "image")
LOSSES = ("cotangent", "cross-entropy", "mse", "sum")


@dataclass(frozen=True, slots=True)
class RandomBatches:
    """Random input: one positional argument of the model for each of `shapes`, of the kind at its place in `kinds`."""

    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]

    def batch(self, model: nn.Module, *, seed: int, number: int, dtype: torch.dtype) -> Any:
        """Return the arguments; raises `InputError` for tokens when the model's vocabulary cannot be found."""
        generator = seeded_generator(seed, "inspect", str(number))
        made = tuple(
            _KINDS[kind](shape, model, generator, dtype) for shape, kind in zip(self.shapes, self.kinds, strict=True)
        )
        return made[0] if len(made) == 1 else made


@dataclass(frozen=True, slots=True, eq=False)
class FileBatches:
    """Input from a file: a tensor, a tuple of positional arguments, or a dict of keyword arguments."""

    value: Any

    def batch(self, model: nn.Module, *, seed: int, number: int, dtype: torch.dtype) -> Any:
        """Return the input, floating tensors in the dtype of the model."""
        return moved(self.value, dtype=dtype)


def make_source(shapes: Sequence[str], kinds: str, file: Path | None) -> RandomBatches | FileBatches:
    """Return the source of input that was typed; raises `InputError` for none, for both, and for what is not valid."""
    if file is not None:
        if shapes:
            raise InputError("--input and --input-shape are both given; valid is one of them")
        return FileBatches(_read(file))
    if not shapes:
        raise InputError("no input is given", hint="--input-shape 8,3,32,32 draws one, --input FILE reads one")
    named = [kind.strip() for kind in kinds.split(",")]
    for kind in named:
        if kind not in KINDS:
            raise InputError(f"--input-kind has {kind!r}; valid is one of {', '.join(KINDS)}")
    if len(named) not in (1, len(shapes)):
        raise InputError(f"--input-kind names {len(named)} kinds for {len(shapes)} --input-shape; give one for each")
    return RandomBatches(tuple(map(_shape, shapes)), tuple(named if len(named) == len(shapes) else named * len(shapes)))


def _shape(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(
            f"--input-shape is {text!r}; valid are whole numbers of at least 1, comma-separated",
            hint="--input-shape 8,3,32,32 is a batch of 8",
        )
    return tuple(map(int, parts))


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        if not path.is_file():
            raise InputError(f"the input {path} does not exist", hint="give the path of a .npy or .pt file")
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"the input {path} is no readable numpy array ({error})", hint="save it again") from error
        if array.dtype.kind not in "biufc":
            raise InputError(f"the input {path} holds elements of type {array.dtype}; valid are numbers")
        held: Any = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    else:
        held = load_tensors(path, "input")
    tensors = list(tensors_in(held))
    if isinstance(held, list):
        held = tuple(held)
    if not tensors or not isinstance(held, (Tensor, tuple, dict)):
        raise InputError(
            f"the input {path} holds a {type(held).__name__}; valid are a tensor, a tuple or a dict of them"
        )
    for suffix, tensor in tensors:
        if (tensor.is_floating_point() or tensor.is_complex()) and not (finite := tensor.isfinite()).all():
            first = tuple((~finite).nonzero()[0].tolist())
            raise InputError(
                f"the input {path}{suffix} has {int(tensor.isnan().sum())} NaN and {int(tensor.isinf().sum())} "
                f"infinite values, the first at {first}; valid are finite numbers",
                hint="drop or replace them: whatever follows would be NaN",
            )
    return held


def moved(value: Any, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Any:
    """Return the input on a device, its floating tensors of a dtype."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, dict):
        return {name: moved(part, dtype=dtype, device=device) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(moved(part, dtype=dtype, device=device) for part in value)
    return value


def spelled_shapes(batch: Any) -> str:
    """Return the shapes of a batch's tensors in words."""
    return "; ".join(",".join(map(str, tensor.shape)) + f" {_name(tensor.dtype)}" for _, tensor in tensors_in(batch))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _float(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def _image(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Draw noise whose neighbours are alike, as in pictures: mean 0 and variance 1, shape (batch, channels, ...)."""
    if len(shape) != 4:
        raise InputError(f"an image has shape batch,channels,height,width; --input-shape has {len(shape)} numbers")
    coarse = torch.randn((*shape[:2], *(-(-size // 8) + 1 for size in shape[2:])), generator=generator)
    smooth = F.interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=True)
    values = smooth + 0.1 * torch.randn(shape, generator=generator)
    return ((values - values.mean()) / values.std(correction=0).clamp_min(1e-6)).to(dtype)


def _tokens(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if not isinstance(size, int):
        embeddings = (module for module in model.modules() if isinstance(module, nn.Embedding))
        size = getattr(next(embeddings, None), "num_embeddings", None)
    if size is None:
        raise InputError(
            "the model has neither config.vocab_size nor an Embedding, so that no tokens can be drawn",
            hint="give --input FILE, or another --input-kind",
        )
    return torch.randint(size, shape, generator=generator)


_KINDS = {"float": _float, "tokens": _tokens, "image": _image}


def make_loss(name: str, *, seed: int) -> Callable[[Any], Tensor] | None:
    """Return the loss of a name, a function of the model's output; None for cotangent.

    It acts on the output's first floating tensor. cross-entropy: classes on the last axis of a matrix or a sequence,
    else on axis 1, against random labels; mse: against N(0, 1); sum: the sum. Raises `InputError` for another name.
    """
    if name not in LOSSES:
        raise InputError(f"--loss is {name!r}; valid is one of {', '.join(LOSSES)}")
    if name == "cotangent":
        return None

    def loss(output: Any) -> Tensor:
        first = next(_floating(output), None)
        if first is None:
            raise InputError(f"the model's output has no floating tensor for the loss {name}")
        generator = seeded_generator(seed, "inspect", name)
        if name == "sum":
            return first.sum()
        if name == "mse":
            return F.mse_loss(first, torch.randn(first.shape, generator=generator).to(first))
        if first.dim() < 2:
            raise InputError(f"the model's output has shape {tuple(first.shape)}; cross-entropy needs (batch, classes)")
        logits = first.flatten(0, -2) if first.dim() == 3 else first
        labels = torch.randint(logits.shape[1], (logits.shape[0], *logits.shape[2:]), generator=generator)
        return F.cross_entropy(logits, labels.to(first.device))

    return loss


def _floating(output: Any) -> Iterator[Tensor]:
    return (tensor for _, tensor in tensors_in(output) if tensor.is_floating_point())
