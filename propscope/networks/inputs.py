"""The inputs that a network is profiled on: one table, and `make_input`, which makes a batch of one of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.networks.data_files import Rows, digits, npy_file, pt_file
from propscope.networks.randomness import seeded_generator
from propscope.networks.spec import Value, index_names, label, look_up, parse_spec
from propscope.records.spec_parameter import SpecParameter

SCALES = ("zscore", "minmax", "none")


@dataclass(frozen=True, slots=True, eq=False)
class InputBatch:
    """`values`, shape (rows, features); `targets`, class labels, int64, shape (rows,), or None; `name`, the spec."""

    values: Tensor
    targets: Tensor | None
    name: str


@dataclass(frozen=True, slots=True)
class InputSource:
    """Where a batch comes from: `draw(rows, features, generator, **parameters)` gives values and targets.

    `features`: how many it has when none are asked for; None where that has to be said. `exact`: no other number
    will do.
    """

    name: str
    formula: str
    source: str
    draw: Callable[..., Rows]
    features: int | None = None
    exact: bool = False
    aliases: tuple[str, ...] = ()
    parameters: tuple[SpecParameter, ...] = ()


def _normal(rows: int, features: int, generator: torch.Generator) -> Rows:
    return torch.randn(rows, features, generator=generator, dtype=torch.float64), None


def _uniform(rows: int, features: int, generator: torch.Generator, *, low: float, high: float) -> Rows:
    if not low < high:
        raise InputError(f"low of input uniform is {low:g}, high {high:g}; valid is low < high")
    return torch.empty(rows, features, dtype=torch.float64).uniform_(low, high, generator=generator), None


def _mixed(rows: int, features: int, generator: torch.Generator) -> Rows:
    def one(column: int) -> Tensor:
        values = torch.empty(rows, dtype=torch.float64)
        if column % 3 == 0:
            return values.normal_(generator=generator) + 2
        if column % 3 == 1:
            return values.uniform_(-2, 4, generator=generator)
        return torch.sin(2 * values.uniform_(-1, 1, generator=generator)) + 1

    return torch.stack([one(column) for column in range(features)], dim=1), None


def _drawn_from(load: Callable[..., Rows]) -> Callable[..., Rows]:
    """Return the source that takes `rows` rows of what `load` gives, without replacement, or all that there are."""

    def draw(rows: int, features: int | None, generator: torch.Generator, **parameters: Any) -> Rows:
        values, targets = load(**parameters)
        chosen = torch.randperm(len(values), generator=generator)[:rows]
        return values[chosen], None if targets is None else targets[chosen]

    return draw


# fmt: off
INPUTS: tuple[InputSource, ...] = (
    InputSource("normal", "N(0, 1)", "", _normal, aliases=("gaussian",)),
    InputSource("uniform", "U(low, high)", "", _uniform,
                parameters=(SpecParameter("low", -1.0), SpecParameter("high", 1.0))),
    InputSource("mixed", "N(2, 1), U(-2, 4), 1 + sin(2 U(-1, 1)), again and again", "none of them standard", _mixed, 3),
    InputSource("digits", "8x8 handwritten digits, 0 to 16, with labels", "Alpaydin, Kaynak 1998; scikit-learn",
                _drawn_from(digits), 64, exact=True),
    InputSource(".npy", "rows of a numpy array of two or more dimensions", "a file of yours", _drawn_from(npy_file),
                exact=True),
    InputSource(".pt", "rows of a tensor, with labels from a pair (x, y) or a dict of x and y", "a file of yours",
                _drawn_from(pt_file), exact=True, aliases=(".pth",)),
)
# fmt: on

_INDEX = index_names(INPUTS)


def default_features(spec: str, width: int) -> int | None:
    """Return what to ask `make_input` for when the number of features is open: `width` where any number will do.

    None for sources that have a number of their own: mixed, digits and files. Raises `InputError` as `make_input`.
    """
    source, _, _ = _parse(spec)
    return width if source.features is None and not source.exact else None


def make_input(
    spec: str,
    *,
    batch: int,
    seed: int,
    features: int | None = None,
    scale: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> InputBatch:
    """Return a batch of `normal`, `uniform:low=-1:high=1`, `mixed`, `digits`, or of a `.npy` or `.pt` file.

    `batch` rows, or all that there are when data has fewer; data is drawn without replacement. `features` columns,
    None for the number that the source has by itself. `scale`, per feature over the rows of the batch: `zscore` to
    mean 0 and (population) standard deviation 1, `minmax` to [0, 1]; a constant feature becomes 0. `none` or None
    leaves the values. The same seed gives the same batch, rounded, for every dtype and device; torch's global
    generator is not used.

    Raises `InputError` for an unknown source, parameter or scale, for a batch or features below 1, for a file that is
    missing, damaged, empty, of the wrong shape or type, or holds NaN or Inf, and for features that it does not have;
    `MissingDependencyError` for digits without scikit-learn.
    """
    source, parameters, name = _parse(spec)
    for what, number in (("batch", batch), ("features", features)):
        if number is not None and number < 1:
            raise InputError(f"{what} is {number}; valid is a whole number of at least 1")
    if scale is not None and scale not in SCALES:
        raise InputError(f"scale is {scale!r}; valid is one of {', '.join(SCALES)}")
    wanted = source.features if features is None else features
    if wanted is None and not source.exact:
        raise InputError(f"input {name} has any number of features; say how many", hint="give features")
    values, targets = source.draw(batch, wanted, seeded_generator(seed, "input", name), **parameters)
    if wanted not in (None, values.shape[1]):
        raise InputError(
            f"features is {wanted}, but input {name} has {values.shape[1]}", hint="leave features (input size) out"
        )
    values = _scaled(values, scale).to(dtype)
    if not values.isfinite().all():
        raise InputError(f"input {name} has values too large for {dtype}", hint="scale it, or choose a wider dtype")
    return InputBatch(values.to(device), targets if targets is None else targets.to(device), name)


def _parse(spec: str) -> tuple[InputSource, dict[str, Any], str]:
    if isinstance(spec, str) and (suffix := Path(spec).suffix.lower()) in _INDEX:
        return _INDEX[suffix], {"path": Path(spec)}, spec
    parsed = parse_spec(spec, "input")
    if parsed.name not in _INDEX or parsed.name.startswith("."):
        names = [name for name in _INDEX if not name.startswith(".")]
        near = difflib.get_close_matches(parsed.name, names, n=1)
        raise InputError(
            f"unknown input {spec!r}; valid are {', '.join(names)}, and a file that ends in .npy or .pt",
            hint=f"did you mean {near[0]!r}?" if near else "save the data as .npy or .pt",
        )
    entry, values = look_up(_INDEX, parsed, "input")
    parameters: dict[str, Value] = {**values}
    return entry, parameters, label(entry.name, parameters, entry.parameters)


def _scaled(values: Tensor, scale: str | None) -> Tensor:
    if scale in (None, "none"):
        return values
    low, high = values.aminmax(dim=0)
    constant = low == high
    if scale == "minmax":
        return torch.where(constant, 0.0, (values - low) / (high - low))
    centred = values - values.mean(0)
    # The largest of each feature goes first, so that no square overflows or vanishes.
    unit = centred / centred.abs().amax(0)
    return torch.where(constant, 0.0, unit / unit.square().mean(0).sqrt())
