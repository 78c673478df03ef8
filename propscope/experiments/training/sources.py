"""What a network can be trained on: one table of sources, and `parse_source`, which finds one by its spec."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.experiments.training.idx import images_and_labels
from propscope.networks import make_input, seeded_generator
from propscope.networks.data_files import digits, pt_file
from propscope.networks.spec import index_names, label, look_up, parse_spec
from propscope.records.spec_parameter import SpecParameter
from propscope.records.training import Task

Examples = tuple[Tensor, Tensor]
HIDDEN_UNITS = 10


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where examples come from: `draw(rows, seed, **parameters)` gives inputs (rows, features), float64, and targets.

    Targets: class labels, int64, shape (rows,), for classification; float64, shape (rows, outputs), for regression.
    `rows`: how many are drawn when none are asked for; None where there are only so many, all of them then.
    `classes`: how many a classification has; None to count them. `takes_path`: it has one parameter, `path`.
    """

    name: str
    formula: str
    source: str
    task: Task
    draw: Callable[..., Examples]
    rows: int | None = None
    classes: int | None = None
    takes_path: bool = False
    aliases: tuple[str, ...] = ()
    parameters: tuple[SpecParameter, ...] = ()


@dataclass(frozen=True, slots=True)
class DataSpec:
    """A source with its parameters; `name` is the spec that gives the same again, `label` it without a path."""

    source: DataSource
    parameters: dict[str, Any]
    name: str
    label: str


def _moons(rows: int, seed: int, *, noise: float) -> Examples:
    generator = seeded_generator(seed, "moons")
    outer = torch.linspace(0, math.pi, rows // 2, dtype=torch.float64)
    inner = torch.linspace(0, math.pi, rows - rows // 2, dtype=torch.float64)
    x = torch.cat((torch.cat((outer.cos(), 1 - inner.cos())), torch.cat((outer.sin(), 0.5 - inner.sin()))))
    values = x.reshape(2, rows).T
    values = values + noise * torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    return values, torch.cat((torch.zeros(len(outer)), torch.ones(len(inner)))).long()


def _mixed(rows: int, seed: int) -> Tensor:
    return make_input("mixed", batch=rows, seed=seed, dtype=torch.float64).values


def _noisy(target: Tensor, seed: int, noise: float) -> Tensor:
    generator = seeded_generator(seed, "target noise")
    return target + noise * torch.randn(target.shape, generator=generator, dtype=torch.float64)


def _linear(rows: int, seed: int, *, noise: float) -> Examples:
    x = _mixed(rows, seed)
    weight = torch.tensor([[1.2], [-0.5], [2.2]], dtype=torch.float64)
    return x, _noisy(x @ weight - 2, seed, noise)


def _one_hidden(rows: int, seed: int, *, noise: float, activation: str) -> Examples:
    x = _mixed(rows, seed)
    # The target is the same for every seed: what differs are the examples.
    truth = seeded_generator(0, "one hidden target")
    inner = 2 * torch.randn(HIDDEN_UNITS, 3, generator=truth, dtype=torch.float64)
    outer = torch.randn(1, HIDDEN_UNITS, generator=truth, dtype=torch.float64)
    bias = torch.tensor([-1.0, 0.5, 0.1, 0.4, 2.5], dtype=torch.float64).repeat(2)
    hidden: Tensor = getattr(torch, activation)(x @ inner.T + bias)
    return x, _noisy(hidden @ outer.T + 1, seed, noise)


def _stored(load: Callable[..., tuple[Tensor, Tensor | None]]) -> Callable[..., Examples]:
    """Return the source that takes `rows` rows of what `load` gives, drawn by the seed, or all."""

    def draw(rows: int | None, seed: int, **parameters: Any) -> Examples:
        values, targets = load(**parameters)
        if targets is None:
            raise InputError(f"{parameters['path']} has no labels", hint="save a pair (x, y), or a dict of x and y")
        if rows is None:
            return values, targets
        chosen = torch.randperm(len(values), generator=seeded_generator(seed, "data"))[:rows]
        return values[chosen], targets[chosen]

    return draw


@lru_cache(maxsize=1)
def _idx(path: Path, within: tuple[str, ...]) -> Examples:
    images, labels = images_and_labels(path, classes=10, within=within)
    # Half the memory of float64, and exact enough: 8 bits.
    values = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / np.float32(255))
    return values, torch.from_numpy(labels.astype(np.int64))


def _idx_in(*within: str) -> Callable[..., Examples]:
    return _stored(partial(_idx, within=within))


_NOISE = SpecParameter("noise", 1.0, 0.0)
# fmt: off
DATA: tuple[DataSource, ...] = (
    DataSource("digits", "8x8 handwritten digits, 0 to 16", "Alpaydin, Kaynak 1998; scikit-learn", "classification",
               _stored(digits), classes=10),
    DataSource("moons", "two half circles, N(0, noise^2) added", "as scikit-learn's make_moons", "classification",
               _moons, rows=500, classes=2, parameters=(SpecParameter("noise", 0.2, 0.0),)),
    DataSource("linear", "1.2 x1 - 0.5 x2 + 2.2 x3 - 2 + N(0, noise^2) of the input mixed", "a linear target",
               "regression", _linear, rows=10_000, parameters=(_NOISE,)),
    DataSource("one_hidden", "v phi(W x + b) + 1 + N(0, noise^2) of the input mixed, 10 units",
               "a target of one hidden layer", "regression", _one_hidden, rows=10_000,
               parameters=(_NOISE, SpecParameter("activation", "tanh", choices=("relu", "sigmoid", "tanh")))),
    DataSource("mnist", "28x28 handwritten digits, 0 to 1", "LeCun et al. 1998; IDX files in path=DIR",
               "classification", _idx_in("raw", "MNIST/raw"), classes=10, takes_path=True),
    DataSource("fashion_mnist", "28x28 articles of clothing, 0 to 1", "Xiao et al. 2017; IDX files in path=DIR",
               "classification", _idx_in("raw", "FashionMNIST/raw"), classes=10, takes_path=True),
    DataSource(".pt", "a pair (x, y), or a dict of x and y, with class labels y", "a file of yours",
               "classification", _stored(pt_file), takes_path=True, aliases=(".pth",)),
)
# fmt: on

_INDEX = index_names(DATA)


def parse_source(spec: str) -> DataSpec:
    """Return the source that `digits`, `moons:noise=0.1`, `mnist:path=DIR` or a `.pt` file names.

    Raises `InputError` for an unknown name or parameter, and for images without a path.
    """
    if isinstance(spec, str) and (suffix := Path(spec).suffix.lower()) in _INDEX:
        return DataSpec(_INDEX[suffix], {"path": Path(spec)}, spec, Path(spec).name)
    # A path may hold whatever a spec gives a meaning to.
    head, colon, path = spec.partition(":path=") if isinstance(spec, str) else (spec, "", "")
    parsed = parse_spec(head, "data")
    names = [name for name in _INDEX if not name.startswith(".")]
    if parsed.name not in names:
        near = difflib.get_close_matches(parsed.name, names, n=1)
        raise InputError(
            f"unknown data {spec!r}; valid are {', '.join(names)}, and a file that ends in .pt",
            hint=f"did you mean {near[0]!r}?" if near else "save the data as .pt: a dict of x and y",
        )
    source = _INDEX[parsed.name]
    if source.takes_path != bool(colon and path):
        wants = "needs the folder of its files" if source.takes_path else "has no parameter 'path'"
        raise InputError(f"data {source.name} {wants}", hint=f"{source.name}{':path=DIR' * source.takes_path}")
    _, values = look_up(_INDEX, parsed, "data")
    shown = label(source.name, values, source.parameters)
    if source.takes_path:
        return DataSpec(source, {"path": Path(path)}, f"{shown}:path={path}", shown)
    return DataSpec(source, values, shown, shown)
