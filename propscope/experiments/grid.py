"""`Grid`: which networks are profiled, as a record that lists its cells."""

from __future__ import annotations

import itertools
import json
import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from propscope.errors import InputError
from propscope.networks import MLPSpec, default_features, parse_activation, parse_initializer
from propscope.networks.mlp import Norm
from propscope.records.network import Label
from propscope.theory.initialization import critical_initializer

Loss = Literal["cotangent", "mse", "cross-entropy"]
LOSSES = ("cotangent", "mse", "cross-entropy")
RANDOM_CLASSES = 10
JACOBIAN_SAMPLES = 4

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One network of a grid: its spec and seed, and the labels of its profile."""

    network: MLPSpec
    seed: int
    labels: dict[str, Label]


@dataclass(frozen=True, slots=True)
class Grid:
    """Every combination of activation, initializer, depth and width, for each seed, all else equal.

    The first five are the axes. `batch` rows of `input`, scaled by `scale` ("zscore", "minmax", "none" or None).
    `loss`: "cotangent" sends a random unit-variance gradient into the output; "mse" and "cross-entropy" are against
    the input's own labels where it has them, and random ones elsewhere. `jacobian`: the number of samples whose
    Jacobian is taken at every layer, in float64; False for none, True for 4. The rest is as in `MLPSpec`.

    Raises `InputError` for anything that is not valid, for a network that does not fit in memory, and for the
    initializer `critical` with an activation that has no critical point.
    """

    activation: tuple[str, ...]
    initializer: tuple[str, ...]
    depth: tuple[int, ...]
    width: tuple[int | tuple[int, ...], ...]
    seeds: tuple[int, ...]
    batch: int = 256
    input: str = "normal"
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
        for name in ("activation", "initializer", "depth", "width", "seeds"):
            if not getattr(self, name):
                raise InputError(f"{name} lists nothing; give at least one")
        object.__setattr__(self, "seeds", tuple(_whole("seed", seed, 0) for seed in self.seeds))
        object.__setattr__(self, "batch", _whole("batch", self.batch, 1))
        object.__setattr__(self, "histogram_limit", _whole("histogram_limit", self.histogram_limit, 0))
        samples = JACOBIAN_SAMPLES * self.jacobian if isinstance(self.jacobian, bool) else self.jacobian
        object.__setattr__(self, "jacobian", _whole("jacobian", samples, 0))
        if self.loss not in LOSSES:
            raise InputError(f"loss is {self.loss!r}; valid is one of {', '.join(LOSSES)}")
        if self.dtype not in _DTYPES:
            raise InputError(f"dtype is {self.dtype!r}; valid is one of {', '.join(_DTYPES)}")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"device {self.device!r} cannot be used: {reason}", hint="valid here is cpu") from error
        # All of them now: a mistake in the last must not cost the work on those before it.
        for network in self.networks():
            self._check_memory(network)
            critical_initializer(network.initializer, network.activation, bias=network.bias)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of network and input."""
        return _DTYPES[self.dtype]

    def __len__(self) -> int:
        return len(self.activation) * len(self.initializer) * len(self.depth) * len(self.width) * len(self.seeds)

    def cells(self) -> Iterator[Cell]:
        """Yield every network with every seed, seeds innermost, so that a pair is finished before the next begins."""
        for network in self.networks():
            labels = self._labels(network)
            for seed in self.seeds:
                yield Cell(network, seed, {**labels, "seed": seed})

    def networks(self) -> Iterator[MLPSpec]:
        """Yield every combination of activation, initializer, depth and width."""
        shared = {field.name: getattr(self, field.name) for field in fields(MLPSpec) if field.name in _PASSED_ON}
        for activation, initializer, depth, width in itertools.product(
            self.activation, self.initializer, self.depth, self.width
        ):
            network = MLPSpec(depth, width=width, activation=activation, initializer=initializer, **shared)
            first = network.width if isinstance(network.width, int) else network.width[0]
            if self.input_size is None and (features := default_features(self.input, first)) is not None:
                network = replace(network, input_size=features)
            yield network

    def _check_memory(self, network: MLPSpec) -> None:
        """Refuse what cannot fit before the system ends the process for it."""
        if torch.device(self.device).type != "cpu" or not hasattr(os, "sysconf"):
            return
        units = network.width * network.depth if isinstance(network.width, int) else sum(network.widths)
        values = self.batch * (units * 2 + (network.input_size or 0))
        needed = values * self.torch_dtype.itemsize + 2 * network.parameter_bytes(self.torch_dtype)
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > total:
            raise InputError(
                f"depth {network.depth}, width {network.width_label}, batch {self.batch} need {needed / 1e9:,.1f} GB; "
                f"this machine has {total / 1e9:.1f} GB",
                hint="choose a smaller width, depth or batch",
            )

    def _labels(self, network: MLPSpec) -> dict[str, Label]:
        labels: dict[str, Label] = {
            "initializer": network.initializer,
            "activation": network.activation,
            "depth": network.depth,
            "width": network.width if isinstance(network.width, int) else network.width_label,
        }
        # What is unusual about a run tells it from others when files are merged; what is usual would only clutter.
        unusual = {"input": "normal", "scale": None, "loss": "cotangent", "batch": 256, "dtype": "float32"} | {
            name: None if name == "bias" else MLPSpec.__dataclass_fields__[name].default for name in _PASSED_ON
        }
        for name, usual in unusual.items():
            value = getattr(self, name)
            if value != usual:
                labels[name] = str(value) if isinstance(value, bool) else value
        return labels

    def spec(self, cell: Cell) -> str:
        """Return the JSON text of everything that the cell was asked for."""
        network = {field.name: getattr(cell.network, field.name) for field in fields(MLPSpec)}
        run = {name: getattr(self, name) for name in ("batch", "input", "scale", "loss", "dtype", "device")}
        return json.dumps({"network": network, "seed": cell.seed, **run})


_PASSED_ON = ("input_size", "output_size", "bias", "norm", "residual", "dropout", "alpha_dropout")


def canonical(names: tuple[str, ...], what: Literal["activation", "initializer"]) -> tuple[str, ...]:
    """Return specs in their canonical form, each once, in order."""
    parse = parse_activation if what == "activation" else parse_initializer
    return tuple(dict.fromkeys(parse(name).label for name in names))


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < least:
        raise InputError(f"{name} is {value!r}; valid is a whole number of at least {least}")
    return number
