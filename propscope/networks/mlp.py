"""`MLPSpec`: the multilayer perceptron that propscope profiles, as a record that builds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from propscope.checks import bytes_text, count, fits_memory, machine_memory, number, one_of, seed_number, shown
from propscope.errors import InputError
from propscope.networks.activations import ActivationSpec, parse_activation
from propscope.networks.initializers import LARGEST, InitializerSpec, parse_initializer
from propscope.networks.layers import MLP, Layer, ResidualLayer, unfilled_linear
from propscope.networks.randomness import global_stream, seeded_generator

Norm = Literal["none", "batch", "layer", "rms"]
# True and False, the factor of the branch, or "1/sqrt(L)" for 1 / sqrt(depth).
Residual = bool | float | str
ROOT_OF_DEPTH = "1/sqrt(L)"
_NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
# What the modules of one layer take at least beside their parameters.
MODULE_BYTES = 4096
# Of one core of a common CPU: the floating-point operations a second, and what a layer takes however small.
FLOPS = 4e10
SECONDS_A_LAYER = 1e-4
_NORM_PARAMETERS = {"none": 0, "batch": 2, "layer": 2, "rms": 1}


@dataclass(frozen=True, slots=True, init=False)
class MLPSpec:
    """An MLP: everything that it is built from, except the seed.

    `depth` layers of `width` units: one number for all layers, a tuple of `depth` numbers, or two numbers (first, last)
    with a geometric taper between them. `activation` and `initializer`: spec strings or callables, as
    `parse_activation` and `parse_initializer` take them; held as the specs that these return. `input_size`: by default
    the first width. `output_size`: adds a linear readout of as many units. `bias`: the standard deviation of the
    biases, 0 for zeros, None for what the initializer does (zeros; torch's own for `default`). `norm`: acts on the
    pre-activation. `residual`: z_{l+1} = z_l + s (W_{l+1} phi(norm(z_l)) + b_{l+1}), for equal widths; True for s = 1,
    a number for another s, "1/sqrt(L)" for s = 1 / sqrt(depth). `dropout` and `alpha_dropout`: probabilities, one of
    which may be set; they act on the activation.

    `gain`: a factor on every weight that the initializer gives. `weight_variance`: sigma_w^2 = fan_in Var[W] of every
    weight, to which the initializer's weights are scaled, in place of `gain`. `bias_variance`: sigma_b^2 = Var[b],
    in place of `bias`.

    Raises `InputError` for an argument that is not valid.
    """

    depth: int
    width: int | tuple[int, ...]
    activation: ActivationSpec
    initializer: InitializerSpec
    input_size: int | None
    output_size: int | None
    bias: float | None
    norm: Norm
    residual: Residual
    dropout: float
    alpha_dropout: float
    gain: float
    weight_variance: float | None
    bias_variance: float | None

    def __init__(
        self,
        depth: int,
        *,
        width: int | tuple[int, ...] = 256,
        activation: str | ActivationSpec | Callable[..., Any] = "relu",
        initializer: str | InitializerSpec | Callable[..., Any] = "he_normal",
        input_size: int | None = None,
        output_size: int | None = None,
        bias: float | None = None,
        norm: Norm = "none",
        residual: Residual = False,
        dropout: float = 0.0,
        alpha_dropout: float = 0.0,
        gain: float = 1.0,
        weight_variance: float | None = None,
        bias_variance: float | None = None,
    ) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        keep("depth", count("depth", depth))
        keep("width", _width(width, self.depth))
        keep("activation", parse_activation(activation))
        keep("initializer", parse_initializer(initializer))
        if self.initializer.shape == "a convolution":
            raise InputError(
                f"initializer {self.initializer} fills convolutions, and an MLP has none", hint="try identity"
            )
        for name, size in (("input_size", input_size), ("output_size", output_size)):
            keep(name, None if size is None else count(name, size))
        keep("bias", None if bias is None else number("bias", bias, what="a finite standard deviation"))
        keep("norm", one_of("norm", norm, _NORM_PARAMETERS))
        keep("residual", _residual(residual))
        for name, share in (("dropout", dropout), ("alpha_dropout", alpha_dropout)):
            keep(name, number(name, share, high=1, below=True, what="a probability"))
        if self.dropout and self.alpha_dropout:
            raise InputError("dropout and alpha_dropout cannot both be set", hint="set one to 0")
        keep("gain", number("gain", gain, above=True, high=LARGEST))
        for name, variance in (("weight_variance", weight_variance), ("bias_variance", bias_variance)):
            above = name == "weight_variance"
            keep(name, None if variance is None else number(name, variance, above=above, high=LARGEST))
        if self.weight_variance is not None:
            self._check_scaled()
        if self.bias is not None and self.bias_variance is not None:
            raise InputError("bias and bias_variance cannot both be set", hint="bias is the root of bias_variance")
        if self.residual and not isinstance(self.width, int) and len(set(self.width)) > 1:
            raise InputError(
                f"width must be the same for every layer of a residual network, got {self.width_label}",
                hint="give one width, or leave residual off",
            )

    def _check_scaled(self) -> None:
        """Refuse a weight variance beside a gain, and with an initializer whose variance is 0 or not known."""
        if self.gain != 1:
            raise InputError("gain and weight_variance cannot both be set", hint="gain is a factor on the std")
        first = self.width if isinstance(self.width, int) else self.width[0]
        if not self.initializer.weight_variance(first, first):
            reason = self.initializer.no_limit or "the variance of its weights is not known"
            raise InputError(
                f'weight_variance cannot be set with initializer "{self.initializer.label}": {reason}',
                hint="choose one with random weights of mean 0, for example normal",
            )

    def gain_of(self, initializer: InitializerSpec, fan_in: int, fan_out: int) -> float:
        """Return the factor on the weights that `initializer` gives a layer: `gain`, or that to `weight_variance`."""
        if self.weight_variance is None:
            return self.gain
        own = initializer.weight_variance(fan_in, fan_out)
        return math.sqrt(self.weight_variance / (fan_in * own)) if own else 0.0

    @property
    def bias_std(self) -> float | None:
        """The standard deviation of the biases; None for what the initializer does."""
        return self.bias if self.bias_variance is None else math.sqrt(self.bias_variance)

    @property
    def branch_scale(self) -> float:
        """The factor s of a residual branch; 1 without residual connections."""
        if isinstance(self.residual, str):
            return 1 / math.sqrt(self.depth)
        return float(self.residual) or 1.0

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
        """The width as the command line writes it: `256`, or `256-64`."""
        return "-".join(map(str, (self.width,) if isinstance(self.width, int) else self.width))

    @property
    def parameter_count(self) -> int:
        """The number of elements of all parameters."""
        # A depth of a billion, which is refused, must not cost a tuple of a billion widths.
        if isinstance(self.width, int):
            first = last = self.width
            shapes = [(self.input_size or first, first, 1), (first, first, self.depth - 1)]
        else:
            first, last = self.width[0], self.width[-1]
            shapes = [(fan_in, units, 1) for fan_in, units in pairwise((self.input_size or first, *self.widths))]
        each = 1 + _NORM_PARAMETERS[self.norm]
        hidden = sum(repeats * units * (fan_in + each) for fan_in, units, repeats in shapes)
        with global_stream(seeded_generator(0, "count")):
            own = sum(parameter.numel() for parameter in self.activation.module().parameters())
        return hidden + own * self.depth + (self.output_size or 0) * (last + 1)

    def parameter_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Return the bytes of the parameters; their gradients take as many again."""
        return self.parameter_count * dtype.itemsize

    def seconds_of_a_pass(self, rows: int) -> float:
        """Return about how long a forward and backward pass takes on one core, to decide what is worth a process."""
        return self.depth * SECONDS_A_LAYER + 6 * rows * self.parameter_count / FLOPS

    def document(self) -> dict[str, Any]:
        """Return the fields as a JSON document, with the labels of the activation and the initializer."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return own | {"activation": self.activation.label, "initializer": self.initializer.label}

    def build(self, *, seed: int, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> MLP:
        """Return the network; the same spec and seed give the same bits, and torch's global generator is not used.

        The weights depend only on the seed, the initializer and the shapes: they are the same for every activation,
        norm and bias, and those of every half-precision dtype and every device are the same numbers, rounded. Raises
        `InputError` when the network does not fit in memory, for a dtype that is not a floating type, and for a seed
        that is no whole number of 64 bits.
        """
        seed_number(seed)
        if not dtype.is_floating_point:
            raise InputError(f"dtype must be a floating type such as float32, got {dtype}")
        target = torch.device(device)
        if target.type == "cpu":
            self._check_memory(dtype)
        try:
            return _build(self, seed, target, dtype)
        except (MemoryError, RuntimeError) as error:
            # torch has no one type for this: its CPU allocator raises a bare RuntimeError.
            if "memory" in str(error) or "overflow" in str(error):
                raise self._too_large(dtype, "there is less memory") from error
            raise

    def _check_memory(self, dtype: torch.dtype) -> None:
        if not isinstance(self.width, int):
            # A taper of a billion layers must not cost a tuple of a billion widths.
            fits_memory(f"depth {self.depth}", self.depth * MODULE_BYTES, hint="choose a smaller depth")
        total = machine_memory()
        if 2 * self.parameter_bytes(dtype) > total:
            raise self._too_large(dtype, f"this machine has {total / 1e9:.1f} GB")

    def _too_large(self, dtype: torch.dtype, limit: str) -> InputError:
        return InputError(
            f"depth {self.depth} and width {self.width_label} need {bytes_text(2 * self.parameter_bytes(dtype))} "
            f"for parameters and gradients; {limit}",
            hint="choose a smaller width or depth",
        )


def _build(spec: MLPSpec, seed: int, device: torch.device, dtype: torch.dtype) -> MLP:
    initializer, activation = spec.initializer, spec.activation
    weights, biases, modules = (
        seeded_generator(seed, part, initializer.stream_name) for part in ("weights", "biases", "modules")
    )

    def linear(fan_in: int, fan_out: int) -> nn.Linear:
        made = unfilled_linear(fan_in, fan_out, device=device, dtype=dtype)
        filled_by = initializer if layers else initializer.first_layer
        filled_by.fill(made.weight, weights, gain=spec.gain_of(filled_by, fan_in, fan_out))
        initializer.fill_bias(made.bias, fan_in=fan_in, std=spec.bias_std, generator=biases)
        return made

    def layer(fan_in: int, fan_out: int) -> Layer:
        parts = linear(fan_in, fan_out), activation.module().to(device, dtype)
        norm = None if spec.norm == "none" else _NORMS[spec.norm](fan_out, device=device, dtype=dtype)
        more: dict[str, Any] = {"norm": norm, "dropout": _dropout(spec)}
        if not spec.residual:
            return Layer(*parts, **more)
        return ResidualLayer(*parts, **more, first=not layers, scale=spec.branch_scale)

    layers: list[Layer] = []
    widths = spec.widths
    # A class of the user's may draw its parameters from the global generator.
    with global_stream(modules if activation.custom else None):
        for fan_in, fan_out in pairwise((spec.input_size or widths[0], *widths)):
            layers.append(layer(fan_in, fan_out))
        return MLP(layers, linear(widths[-1], spec.output_size) if spec.output_size else None)


def _residual(value: Any) -> Residual:
    if isinstance(value, bool) or (isinstance(value, str) and value == ROOT_OF_DEPTH):
        return value
    what = f'True, False, "{ROOT_OF_DEPTH}" or a finite number'
    return number("residual", value, above=True, high=LARGEST, what=what)


def _dropout(spec: MLPSpec) -> nn.Module | None:
    if spec.dropout:
        return nn.Dropout(spec.dropout)
    return nn.AlphaDropout(spec.alpha_dropout) if spec.alpha_dropout else None


def parse_width(text: str) -> int | tuple[int, ...]:
    """Return the width whose `MLPSpec.width_label` is `text`: `256` or `256-128-64`.

    Raises `InputError` for anything but whole numbers of at least 1, joined by `-`.
    """
    parts = text.strip().split("-")
    # Python refuses to read thousands of digits.
    if not all(part.isdecimal() and len(part) < 100 and int(part) for part in parts):
        raise InputError(f"width must be a whole number of at least 1, or several joined by -, got {shown(text)}")
    return int(parts[0]) if len(parts) == 1 else tuple(map(int, parts))


def _width(value: Any, depth: int) -> int | tuple[int, ...]:
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return count("width", value)
    widths = tuple(count("width", each) for each in value)
    if len(widths) == 1:
        return widths[0]
    if len(widths) != depth and (len(widths) != 2 or depth < 2):
        raise InputError(
            f"width must be one number, {depth} numbers for depth {depth}, or two for a geometric taper from the first "
            f"to the last, got {len(widths)} numbers",
            hint=f"give {depth} widths, or the first and the last",
        )
    return widths
