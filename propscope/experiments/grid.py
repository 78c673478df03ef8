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
    ActivationSpec,
    InitializerSpec,
    InputSpec,
    MLPSpec,
    default_features,
    parse_activation,
    parse_initializer,
    parse_input,
    split_list,
)
from propscope.networks.devices import named_dtype, usable_device
from propscope.networks.mlp import MODULE_BYTES, Norm
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
    """One network of a grid with one seed, and the labels of its profile."""

    network: MLPSpec
    seed: int
    labels: dict[str, Label]


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination of activation, initializer, depth and width, for each seed, all else equal.

    The first five are the axes. `activation`, `initializer` and `input` may be given as spec strings, and the first two
    as callables; they are held as the specs that `parse_activation`, `parse_initializer` and `parse_input` return.
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
    batch: int = 256
    input: InputSpec = field(default_factory=partial(parse_input, "normal"))
    scale: str | None = None
    loss: Loss = "cotangent"
    input_size: int | None = None
    output_size: int | None = None
    bias: float | None = None
    norm: Norm = "none"
    residual: bool = False
    dropout: float = 0.0
    alpha_dropout: float = 0.0
    dtype: str = "float32"
    device: str = "cpu"
    histogram_limit: int = 8192
    jacobian: int = 0

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("activation", "initializer", "depth", "width", "seeds"):
            if not getattr(self, name):
                raise InputError(f"{name} must list at least one value, got none")
        keep("activation", _distinct("activation", map(parse_activation, self.activation)))
        keep("initializer", _distinct("initializer", map(parse_initializer, self.initializer)))
        keep("input", parse_input(self.input))
        keep("seeds", tuple(seed_number(seed, least=0) for seed in self.seeds))
        keep("batch", count("batch", self.batch))
        keep("histogram_limit", count("histogram_limit", self.histogram_limit, least=0))
        samples = JACOBIAN_SAMPLES * self.jacobian if isinstance(self.jacobian, bool) else self.jacobian
        keep("jacobian", count("jacobian", samples, least=0))
        one_of("loss", self.loss, LOSSES)
        named_dtype("dtype", self.dtype)
        usable_device("device", self.device)
        _fits_cells("networks", len(self))
        # All networks are checked before the first runs, so that a mistake in the last costs no work.
        for network in self.networks():
            self._check_memory(network)
            critical_initializer(network.initializer, network.activation, bias=network.bias)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of network and input."""
        return named_dtype("dtype", self.dtype)

    def __len__(self) -> int:
        return math.prod(map(len, (self.activation, self.initializer, self.depth, self.width, self.seeds)))

    def cells(self) -> Iterator[Cell]:
        """Yield every network with every seed, seeds innermost: a pair is finished before the next begins."""
        for network in self.networks():
            labels = self._labels(network)
            for seed in self.seeds:
                yield Cell(network, seed, {**labels, "seed": seed})

    def networks(self) -> Iterator[MLPSpec]:
        """Yield every combination of activation, initializer, depth and width."""
        shared = {name: getattr(self, name) for name in _PASSED_ON}
        for activation, initializer, depth, width in itertools.product(
            self.activation, self.initializer, self.depth, self.width
        ):
            network = MLPSpec(depth, width=width, activation=activation, initializer=initializer, **shared)
            first = network.width if isinstance(network.width, int) else network.width[0]
            if self.input_size is None and (features := default_features(self.input, first)) is not None:
                network = replace(network, input_size=features)
            yield network

    def _check_memory(self, network: MLPSpec) -> None:
        """Refuse a network that cannot fit, for which the system would end the process."""
        if torch.device(self.device).type != "cpu":
            return
        total = machine_memory()
        # Modules take memory of their own, and a taper of a billion layers must not cost a tuple of a billion widths.
        needed = network.depth * MODULE_BYTES
        if needed <= total:
            units = network.width * network.depth if isinstance(network.width, int) else sum(network.widths)
            values = self.batch * (units * 2 + (network.input_size or 0) + (network.output_size or 0))
            needed += values * self.torch_dtype.itemsize + 2 * network.parameter_bytes(self.torch_dtype)
        if needed > total:
            raise InputError(
                f"depth {network.depth}, width {network.width_label}, batch {self.batch} need "
                f"{min(needed, 10**30) / 1e9:,.1f} GB; this machine has {total / 1e9:.1f} GB",
                hint="choose a smaller width, depth or batch",
            )

    def _labels(self, network: MLPSpec) -> dict[str, Label]:
        labels: dict[str, Label] = {
            "initializer": network.initializer.label,
            "activation": network.activation.label,
            "depth": network.depth,
            "width": network.width if isinstance(network.width, int) else network.width_label,
        }
        # What is unusual about a run tells it from others when files are merged; what is usual would only clutter.
        unusual = {"input": "normal", "scale": None, "loss": "cotangent", "batch": 256, "dtype": "float32"} | {
            name: None if name == "bias" else Grid.__dataclass_fields__[name].default for name in _PASSED_ON
        }
        for name, usual in unusual.items():
            value = self.input.label if name == "input" else getattr(self, name)
            if value != usual:
                labels[name] = str(value) if isinstance(value, bool) else value
        return labels

    def description(self) -> dict[str, Any]:
        """Return all that tells this grid from another, in values that JSON has; axes as lists, seeds as "0..4"."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: [spec.label for spec in values[name]] for name in ("activation", "initializer")}
        values["width"] = [each if isinstance(each, int) else "-".join(map(str, each)) for each in self.width]
        names = [spec.name for spec in self.activation] + [spec.name for spec in self.initializer]
        own = [name.rpartition(":")[0] for name in names if ":" in name]
        own += [str(path) for path in (self.input.parameters.get("path"),) if path is not None]
        values["contents"] = {name: _content(name) for name in own}
        return values | {"input": self.input.label, "depth": list(self.depth), "seeds": _runs_of(self.seeds)}

    def spec(self, cell: Cell) -> str:
        """Return the JSON text of all that a cell is made from."""
        run = {name: getattr(self, name) for name in ("batch", "input", "scale", "loss", "dtype", "device")}
        run["input"] = self.input.label
        return json.dumps({"network": cell.network.document(), "seed": cell.seed, **run})


_PASSED_ON = ("input_size", "output_size", "bias", "norm", "residual", "dropout", "alpha_dropout")


def make_grid(
    *,
    depth: int | Iterable[int],
    width: int | Iterable[int | tuple[int, ...]],
    activation: Choice | Iterable[Choice],
    initializer: Choice | Iterable[Choice],
    seeds: int | Iterable[int],
    **options: Any,
) -> Grid:
    """Return the grid with these axes; a single value and comma-separated text become axes too."""
    for name in options:
        if name not in Grid.__dataclass_fields__:
            raise unknown_argument("profile_mlp", name, ("depth", "width", *Grid.__dataclass_fields__))
    return Grid(
        activation=_distinct("activation", map(parse_activation, _choices(activation))),
        initializer=_distinct("initializer", map(parse_initializer, _choices(initializer))),
        depth=_axis(depth),
        width=_axis(width),
        seeds=_seeds(seeds),
        **options,
    )


def _fits_cells(what: str, number: int) -> None:
    """Refuse a grid whose profiles cannot fit in memory, before a list of its networks is made."""
    fits_memory(f"a grid of {number:,} {what}", number * _CELL_BYTES, hint="choose fewer, and merge the files")


def _distinct(name: str, specs: Iterable[S]) -> tuple[S, ...]:
    """Return the specs, each once, in order; raises `InputError` for two callables with one label."""
    found: dict[str, S] = {}
    for spec in specs:
        if found.setdefault(spec.label, spec) != spec:
            raise InputError(f"{name} lists two callables named {spec.label}", hint="give each a name of its own")
    return tuple(found.values())


def _choices(value: Choice | Iterable[Choice]) -> tuple[Any, ...]:
    # A class with __iter__ is no list of classes.
    return tuple(split_list(value)) if isinstance(value, str) else (value,) if callable(value) else _axis(value)


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


def _axis(value: Any) -> tuple[Any, ...]:
    if isinstance(value, range):
        _fits_cells("values", max(0, (value.stop - value.start) // value.step))
    if getattr(value, "ndim", 1) == 0:
        # An array or a tensor of one number is no list.
        value = value.item()
    listed = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    return tuple(dict.fromkeys(tuple(item) if isinstance(item, list) else item for item in listed))


def _seeds(value: int | Iterable[int]) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise InputError(f"seeds must be a number of seeds of at least 1, or a list of seeds, got {value}")
        _fits_cells("seeds", value)
        return tuple(range(value))
    return _axis(value)
