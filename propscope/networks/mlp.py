"""`MLPSpec`: the multilayer perceptron that propscope profiles, as a record that builds it."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from propscope.errors import InputError
from propscope.networks.activations import parse_activation
from propscope.networks.initializers import parse_initializer
from propscope.networks.layers import MLP, Layer, ResidualLayer, unfilled_linear
from propscope.networks.randomness import global_stream, seeded_generator

Norm = Literal["none", "batch", "layer", "rms"]
_NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
_NORM_PARAMETERS = {"none": 0, "batch": 2, "layer": 2, "rms": 1}


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """An MLP: everything about it but the seed.

    `depth` layers of `width` units: one number for all, a tuple of `depth` numbers, or two numbers (first, last) with
    a geometric taper between them. `activation` and `initializer` are specs, kept in their canonical form.
    `input_size` is the first width unless given; `output_size` adds a linear readout. `bias` is the biases' standard
    deviation, 0 for zeros, None for what the initializer does (zeros; torch's own for `default`). `norm` acts on the
    pre-activation. `residual`: z_{l+1} = z_l + W_{l+1} phi(norm(z_l)) + b_{l+1}, for equal widths. `dropout` and
    `alpha_dropout` are probabilities, of which one may be set, after the activation.

    Raises `InputError` for anything that is not valid.
    """

    depth: int
    _: KW_ONLY
    width: int | tuple[int, ...] = 256
    activation: str = "relu"
    initializer: str = "he_normal"
    input_size: int | None = None
    output_size: int | None = None
    bias: float | None = None
    norm: Norm = "none"
    residual: bool = False
    dropout: float = 0.0
    alpha_dropout: float = 0.0

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        keep("depth", _count("depth", self.depth))
        keep("width", _width(self.width, self.depth))
        keep("activation", parse_activation(self.activation).label)
        initializer = parse_initializer(self.initializer)
        keep("initializer", initializer.label)
        if initializer.shape == "a convolution":
            raise InputError(f"initializer {initializer.name} fills convolutions; an MLP has none", hint="try identity")
        for name in ("input_size", "output_size"):
            if (size := getattr(self, name)) is not None:
                keep(name, _count(name, size))
        if self.bias is not None:
            keep("bias", _number("bias", self.bias, math.inf, "a finite standard deviation of at least 0, or None"))
        if self.norm not in _NORM_PARAMETERS:
            raise InputError(f"norm is {self.norm!r}; valid is one of {', '.join(_NORM_PARAMETERS)}")
        for name in ("dropout", "alpha_dropout"):
            keep(name, _number(name, getattr(self, name), 1.0, "a probability of at least 0 and below 1"))
        if self.dropout and self.alpha_dropout:
            raise InputError("dropout and alpha_dropout are both set; valid is one of them", hint="set one to 0")
        if self.residual and not isinstance(self.width, int) and len(set(self.width)) > 1:
            raise InputError(
                f"width is {self.width_label}; a residual network needs equal widths",
                hint="give one width, or leave residual off",
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of units of each layer."""
        if isinstance(self.width, int):
            return (self.width,) * self.depth
        if len(self.width) == self.depth:
            return self.width
        first, last = self.width
        steps = self.depth - 1
        return tuple(round(first * (last / first) ** (layer / steps)) for layer in range(self.depth))

    @property
    def width_label(self) -> str:
        """The width as it is written: `256`, or `256-64`."""
        return "-".join(map(str, (self.width,) if isinstance(self.width, int) else self.width))

    @property
    def parameter_count(self) -> int:
        """Number of the parameters' elements."""
        # A depth of a billion must not cost a tuple of a billion widths only to be refused.
        if isinstance(self.width, int):
            first = last = self.width
            shapes = [(self.input_size or first, first, 1), (first, first, self.depth - 1)]
        else:
            first, last = self.width[0], self.width[-1]
            shapes = [(fan_in, units, 1) for fan_in, units in pairwise((self.input_size or first, *self.widths))]
        each = 1 + _NORM_PARAMETERS[self.norm]
        hidden = sum(repeats * units * (fan_in + each) for fan_in, units, repeats in shapes)
        with global_stream(seeded_generator(0, "count")):
            own = sum(parameter.numel() for parameter in parse_activation(self.activation).module().parameters())
        return hidden + own * self.depth + (self.output_size or 0) * (last + 1)

    def parameter_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Return the bytes that the parameters take; their gradients take as many again."""
        return self.parameter_count * dtype.itemsize

    def build(self, *, seed: int, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> MLP:
        """Return the network: the same for the same spec and seed, to the bit; torch's global generator is not used.

        Weights depend on the seed, the initializer and the shapes alone: they are the same for every activation, norm
        and bias, and rounded from the same numbers for every half-precision dtype and every device. Raises
        `InputError` when it does not fit in memory, and for a dtype that is not a floating type.
        """
        if not dtype.is_floating_point:
            raise InputError(f"dtype is {dtype}; valid is a floating type such as float32")
        place = torch.device(device)
        if place.type == "cpu":
            self._check_memory(dtype)
        try:
            return _build(self, seed, place, dtype)
        except (MemoryError, RuntimeError) as error:
            # torch has no one type for this: its CPU allocator raises a bare RuntimeError.
            if "memory" in str(error) or "overflow" in str(error):
                raise self._too_large(dtype, "that is more than there is") from error
            raise

    def _check_memory(self, dtype: torch.dtype) -> None:
        # Linux grants memory that it does not have, and ends the process at first use.
        if not hasattr(os, "sysconf"):
            return
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if 2 * self.parameter_bytes(dtype) > total:
            raise self._too_large(dtype, f"this machine has {total / 1e9:.1f} GB")

    def _too_large(self, dtype: torch.dtype, limit: str) -> InputError:
        return InputError(
            f"depth {self.depth} and width {self.width_label} need {2 * self.parameter_bytes(dtype) / 1e9:,.1f} GB "
            f"for parameters and gradients; {limit}",
            hint="choose a smaller width or depth",
        )


def _build(spec: MLPSpec, seed: int, device: torch.device, dtype: torch.dtype) -> MLP:
    initializer, activation = parse_initializer(spec.initializer), parse_activation(spec.activation)
    weights, biases, modules = (
        seeded_generator(seed, part, initializer.stream_name) for part in ("weights", "biases", "modules")
    )

    def linear(fan_in: int, fan_out: int) -> nn.Linear:
        made = unfilled_linear(fan_in, fan_out, device=device, dtype=dtype)
        filled_by = initializer if layers else initializer.first_layer
        filled_by.fill(made.weight, weights)
        initializer.fill_bias(made.bias, fan_in=fan_in, std=spec.bias, generator=biases)
        return made

    def layer(fan_in: int, fan_out: int) -> Layer:
        parts = linear(fan_in, fan_out), activation.module().to(device, dtype)
        norm = None if spec.norm == "none" else _NORMS[spec.norm](fan_out, device=device, dtype=dtype)
        more: dict[str, Any] = {"norm": norm, "dropout": _dropout(spec)}
        return ResidualLayer(*parts, **more, first=not layers) if spec.residual else Layer(*parts, **more)

    layers: list[Layer] = []
    widths = spec.widths
    # A class of the user's may draw its parameters from the global generator.
    with global_stream(modules if activation.custom else None):
        for fan_in, fan_out in pairwise((spec.input_size or widths[0], *widths)):
            layers.append(layer(fan_in, fan_out))
        return MLP(layers, linear(widths[-1], spec.output_size) if spec.output_size else None)


def _dropout(spec: MLPSpec) -> nn.Module | None:
    if spec.dropout:
        return nn.Dropout(spec.dropout)
    return nn.AlphaDropout(spec.alpha_dropout) if spec.alpha_dropout else None


def parse_width(text: str) -> int | tuple[int, ...]:
    """Return the width that `256` or `256-128-64` spells, `MLPSpec.width_label` backwards.

    Raises `InputError` for anything but whole numbers of at least 1, joined by `-`.
    """
    parts = text.strip().split("-")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"width is {text!r}; valid is a whole number of at least 1, or several joined by -")
    return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))


def _count(name: str, value: Any) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < 1:
        raise InputError(f"{name} is {value!r}; valid is a whole number of at least 1")
    return number


def _number(name: str, value: Any, below: float, valid: str) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < below:
        raise InputError(f"{name} is {value!r}; valid is {valid}")
    return number


def _width(value: Any, depth: int) -> int | tuple[int, ...]:
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return _count("width", value)
    widths = tuple(_count("width", each) for each in value)
    if len(widths) == 1:
        return widths[0]
    if len(widths) != depth and (len(widths) != 2 or depth < 2):
        raise InputError(
            f"width lists {len(widths)} numbers for depth {depth}; valid are one number, {depth} numbers, or two, "
            "the first and the last width, with a geometric taper between them",
            hint=f"give {depth} widths, or the first and the last",
        )
    return widths
