"""`Grid`: the networks of an experiment, every combination of its axes, and `make_grid`, which reads the axes."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from propscope.checks import count, fits_memory, machine_memory, one_of, seed_number, unknown_argument
from propscope.errors import InputError
from propscope.networks import (
    ACTIVATIONS,
    SQUARE_DEFAULTS,
    ActivationSpec,
    InitializerSpec,
    InputSpec,
    MLPSpec,
    default_features,
    parse_activation,
    parse_initializer,
    parse_input,
    parse_width,
    split_list,
)
from propscope.networks.devices import named_dtype, usable_device
from propscope.networks.mlp import MODULE_BYTES, ROOT_OF_DEPTH, Norm, Residual
from propscope.ranges import real_numbers, whole_numbers
from propscope.records.network import Label
from propscope.theory.initialization import critical_initializer

# What names an activation or an initializer in Python: a spec string, what parsing returns, or the callable itself.
Choice = str | ActivationSpec | InitializerSpec | Callable[..., Any]
S = TypeVar("S", ActivationSpec, InitializerSpec)
Loss = Literal["cotangent", "mse", "cross-entropy"]
LOSSES = ("cotangent", "mse", "cross-entropy")
RANDOM_CLASSES = 10
JACOBIAN_SAMPLES = 4
# What a network of a grid takes at least: its labels, and its profile without layers.
_CELL_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Cell:
    """One network of a grid with one seed, the rows and the dtype of its input, and the labels of its profile."""

    network: MLPSpec
    seed: int
    batch: int
    dtype: str
    labels: dict[str, Label]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of network and input."""
        return named_dtype("dtype", self.dtype)


# A network, and the rows and the dtype of its input.
Pair = tuple[MLPSpec, int, str]


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination of the axes, for each seed, all else equal.

    The axes are the fields up to `dtype`, each a value or several, in Python or as text: numbers and ranges as
    `propscope.ranges` reads them, names separated by commas, and `all` for every activation, or for every initializer
    that `propscope profile` compares by default. Activations and initializers may be callables; they are held as the
    specs that `parse_activation` and `parse_initializer` return. An axis with several values is a label of every
    profile; of a single value only an unusual one is.

    `batch`: rows of `input`, scaled by `scale` ("zscore", "minmax", "none" or None). `loss`: "cotangent" sends a random
    gradient of unit variance into the output; "mse" and "cross-entropy" take the labels of the input, or random ones
    where it has none. `jacobian`: the number of samples whose Jacobian is computed at every layer, in float64; False
    for none, True for 4. The other fields are those of `MLPSpec`.

    Raises `InputError` for an argument that is not valid, for a network that does not fit in memory, and for the
    initializer `critical` with an activation that has no critical point.
    """

    activation: tuple[ActivationSpec, ...]
    initializer: tuple[InitializerSpec, ...]
    depth: tuple[int, ...]
    width: tuple[int | tuple[int, ...], ...]
    seeds: tuple[int, ...]
    gain: tuple[float, ...] = (1.0,)
    weight_variance: tuple[float | None, ...] = (None,)
    bias_variance: tuple[float | None, ...] = (None,)
    norm: tuple[Norm, ...] = ("none",)
    residual: tuple[Residual, ...] = (False,)
    batch: tuple[int, ...] = (256,)
    dtype: tuple[str, ...] = ("float32",)
    input: InputSpec = field(default_factory=partial(parse_input, "normal"))
    scale: str | None = None
    loss: Loss = "cotangent"
    input_size: int | None = None
    output_size: int | None = None
    bias: float | None = None
    dropout: float = 0.0
    alpha_dropout: float = 0.0
    device: str = "cpu"
    histogram_limit: int = 8192
    jacobian: int = 0

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in _AXES:
            keep(name, read_axis(name, getattr(self, name)))
        keep("input", parse_input(self.input))
        keep("seeds", tuple(seed_number(seed, least=0) for seed in self.seeds))
        keep("batch", tuple(count("batch", batch) for batch in self.batch))
        keep("histogram_limit", count("histogram_limit", self.histogram_limit, least=0))
        samples = JACOBIAN_SAMPLES * self.jacobian if isinstance(self.jacobian, bool) else self.jacobian
        keep("jacobian", count("jacobian", samples, least=0))
        one_of("loss", self.loss, LOSSES)
        for dtype in self.dtype:
            named_dtype("dtype", dtype)
        usable_device("device", self.device)
        _fits_cells("networks", len(self))
        # All networks are checked before the first runs, so that a mistake in the last costs no work.
        sizes: set[tuple[object, ...]] = set()
        for network in self.networks():
            size = network.depth, network.width, network.activation, network.norm
            if size not in sizes:
                sizes.add(size)
                self._check_memory(network)
            critical_initializer(network.initializer, network.activation, bias=network.bias_std)

    def __len__(self) -> int:
        return math.prod(len(getattr(self, name)) for name in _AXES)

    def cells(self) -> Iterator[Cell]:
        """Yield every network with every seed, seeds innermost: a pair is finished before the next begins."""
        for pair, seed in itertools.product(self.pairs(), self.seeds):
            yield self.cell(pair, seed)

    def pairs(self) -> Iterator[Pair]:
        """Yield every combination of the axes but the seeds."""
        return ((network, *own) for network in self.networks() for own in itertools.product(self.batch, self.dtype))

    def cell(self, pair: Pair, seed: int) -> Cell:
        """Return a pair with a seed."""
        network, batch, dtype = pair
        return Cell(network, seed, batch, dtype, {**self._labels(network, batch, dtype), "seed": seed})

    def networks(self) -> Iterator[MLPSpec]:
        """Yield every combination of the axes that make a network."""
        shared = {name: getattr(self, name) for name in _PASSED_ON}
        for values in itertools.product(*(getattr(self, name) for name in _OF_NETWORK)):
            network = MLPSpec(**dict(zip(_OF_NETWORK, values, strict=True)), **shared)
            first = network.width if isinstance(network.width, int) else network.width[0]
            if self.input_size is None and (features := default_features(self.input, first)) is not None:
                network = replace(network, input_size=features)
            yield network

    def _check_memory(self, network: MLPSpec) -> None:
        """Refuse a network that cannot fit, for which the system would end the process."""
        if torch.device(self.device).type != "cpu":
            return
        total, batch = machine_memory(), max(self.batch)
        widest = max((named_dtype("dtype", dtype) for dtype in self.dtype), key=lambda dtype: dtype.itemsize)
        # Modules take memory of their own, and a taper of a billion layers must not cost a tuple of a billion widths.
        needed = network.depth * MODULE_BYTES
        if needed <= total:
            units = network.width * network.depth if isinstance(network.width, int) else sum(network.widths)
            values = batch * (units * 2 + (network.input_size or 0) + (network.output_size or 0))
            needed += values * widest.itemsize + 2 * network.parameter_bytes(widest)
        if needed > total:
            raise InputError(
                f"depth {network.depth}, width {network.width_label}, batch {batch} need "
                f"{min(needed, 10**30) / 1e9:,.1f} GB; this machine has {total / 1e9:.1f} GB",
                hint="choose a smaller width, depth or batch",
            )

    def _labels(self, network: MLPSpec, batch: int, dtype: str) -> dict[str, Label]:
        labels: dict[str, Label] = {
            "initializer": network.initializer.label,
            "activation": network.activation.label,
            "depth": network.depth,
            "width": network.width if isinstance(network.width, int) else network.width_label,
        }
        own = {"input": self.input.label, "scale": self.scale, "loss": self.loss, "batch": batch, "dtype": dtype}
        # What is unusual about a run tells it from others when files are merged; what is usual would only clutter.
        for name, usual in _USUAL.items():
            value: Any = own[name] if name in own else getattr(self if name in _PASSED_ON else network, name)
            several = name in _AXES and len(getattr(self, name)) > 1
            if value != usual or (several and value is not None):
                labels[name] = str(value) if isinstance(value, bool) else value
        return labels

    def description(self) -> dict[str, Any]:
        """Return all that tells this grid from another, in values that JSON has; axes as lists, seeds as "0..4"."""
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {n: list(getattr(self, n)) for n in _AXES}
        values |= {name: [spec.label for spec in values[name]] for name in ("activation", "initializer")}
        values["width"] = [each if isinstance(each, int) else "-".join(map(str, each)) for each in self.width]
        names = [spec.name for spec in self.activation] + [spec.name for spec in self.initializer]
        own = [name.rpartition(":")[0] for name in names if ":" in name]
        own += [str(path) for path in (self.input.parameters.get("path"),) if path is not None]
        values["contents"] = {name: _content(name) for name in own}
        return values | {"input": self.input.label, "seeds": _runs_of(self.seeds)}

    def spec(self, cell: Cell) -> str:
        """Return the JSON text of all that a cell is made from."""
        run = {name: getattr(self, name) for name in ("input", "scale", "loss", "device")}
        run |= {"batch": cell.batch, "dtype": cell.dtype, "input": self.input.label}
        return json.dumps({"network": cell.network.document(), "seed": cell.seed, **run})


_PASSED_ON = ("input_size", "output_size", "bias", "dropout", "alpha_dropout")
# The values that make no label, in the order of the labels.
_USUAL: dict[str, Any] = {
    "input": "normal",
    "scale": None,
    "loss": "cotangent",
    "batch": 256,
    "dtype": "float32",
    "input_size": None,
    "output_size": None,
    "bias": None,
    "gain": 1.0,
    "weight_variance": None,
    "bias_variance": None,
    "norm": "none",
    "residual": False,
    "dropout": 0.0,
    "alpha_dropout": 0.0,
}


def _specs(parse: Callable[[Any], S], every: Iterable[str]) -> Callable[[Any], tuple[S, ...]]:
    """Return what reads one entry of an axis of activations or initializers; `all` stands for `every` one."""

    def read(value: Any) -> tuple[S, ...]:
        texts = split_list(value) if isinstance(value, str) else (value,)
        expanded = [
            each for text in texts for each in (every if isinstance(text, str) and text.lower() == "all" else (text,))
        ]
        return tuple(map(parse, expanded))

    return read


def _numbers(name: str, parse: Callable[[str, str], tuple[Any, ...]]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads one entry of an axis of numbers: text by `parse`, anything else as it is."""
    return lambda value: parse(name, value) if isinstance(value, str) else (value,)


def _widths(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, str):
        return (tuple(value),) if isinstance(value, list) else (value,)
    return tuple(
        width
        for part in value.split(",")
        for width in (whole_numbers("width", part) if ".." in part else (parse_width(part),))
    )


def _residuals(value: Any) -> tuple[Residual, ...]:
    """Return residual factors; in text `none` stands for no residual connections."""
    if not isinstance(value, str):
        return (value,)
    words: dict[str, Residual] = {"none": False, ROOT_OF_DEPTH: ROOT_OF_DEPTH}
    try:
        return tuple(
            each
            for part in map(str.strip, value.split(","))
            for each in ((words[part],) if part in words else real_numbers("residual", part))
        )
    except InputError as error:
        raise InputError(f"{error}", hint=f'for example 0.5, 0.5..2:16, "{ROOT_OF_DEPTH}" or "none"') from None


def _words(value: Any) -> tuple[Any, ...]:
    return tuple(split_list(value)) if isinstance(value, str) else (value,)


# How an entry of each axis is read; those up to residual make a network.
_AXES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "activation": _specs(parse_activation, [entry.name for entry in ACTIVATIONS]),
    "initializer": _specs(parse_initializer, SQUARE_DEFAULTS),
    "depth": _numbers("depth", whole_numbers),
    "width": _widths,
    "gain": _numbers("gain", real_numbers),
    "weight_variance": _numbers("weight_variance", real_numbers),
    "bias_variance": _numbers("bias_variance", real_numbers),
    "norm": _words,
    "residual": _residuals,
    "batch": _numbers("batch", whole_numbers),
    "dtype": _words,
    "seeds": lambda value: (value,),
}
_OF_NETWORK = tuple(_AXES)[: tuple(_AXES).index("residual") + 1]


def make_grid(*, seeds: int | Iterable[int], **options: Any) -> Grid:
    """Return the `Grid` with these fields; `seeds` may be a number of seeds, from 0 on."""
    for name in options:
        if name not in Grid.__dataclass_fields__:
            raise unknown_argument("profile_mlp", name, ("depth", "width", *Grid.__dataclass_fields__))
    return Grid(seeds=_seeds(seeds), **options)  # type: ignore[arg-type]


def _fits_cells(what: str, number: int) -> None:
    """Refuse a grid whose profiles cannot fit in memory, before a list of its networks is made."""
    fits_memory(f"a grid of {number:,} {what}", number * _CELL_BYTES, hint="choose fewer, and merge the files")


def _content(name: str) -> str:
    """Return a digest of the file of a module or of data, which tells a changed one; "" where none can be read."""
    path = name if "." in name and os.path.isfile(name) else getattr(sys.modules.get(name), "__file__", None)
    try:
        return hashlib.blake2b(Path(path or name).read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return ""


def _runs_of(numbers: tuple[int, ...]) -> str:
    """Return whole numbers as text, those that follow one another as first..last."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}..{last}" if last > first else str(first) for first, last in runs)


def read_axis(name: str, value: Any) -> tuple[Any, ...]:
    """Return the values of the axis of this name, each once, in order.

    Raises `InputError` for text that cannot be read, for no value, and for two callables of one label.
    """
    if isinstance(value, range):
        _fits_cells("values", max(0, (value.stop - value.start) // value.step))
    value = _plain(value)
    # A tuple of widths is a list of networks; a class with __iter__ is no list of classes.
    listed = value if isinstance(value, Iterable) and not isinstance(value, str) and not callable(value) else (value,)
    found: dict[Any, Any] = {}
    for each in (one for item in listed for one in _AXES[name](_plain(item))):
        key = getattr(each, "label", each)
        # NaN, which equals nothing, is refused with its name later.
        if found.setdefault(key, each) is not each and found[key] != each:
            raise InputError(f"{name} lists two callables named {key}", hint="give each a name of its own")
    if not found:
        raise InputError(f"{name} must list at least one value, got none")
    return tuple(found.values())


def _plain(value: Any) -> Any:
    """Return an array or a tensor of one number as the number: it is no list, and JSON has no word for it."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _seeds(value: int | Iterable[int]) -> int | Iterable[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise InputError(f"seeds must be a number of seeds of at least 1, or a list of seeds, got {value}")
        _fits_cells("seeds", value)
        return range(value)
    return value
