"""`WidthCheck`: how the sizes in a network and of its changes in training grow with its width, site by site."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from propscope.checks import one_of
from propscope.records.display import as_html, as_text
from propscope.records.interval import Interval, student
from propscope.records.numerals import counted

if TYPE_CHECKING:
    import pandas

Floats = NDArray[np.float64]
Quantity = Literal["size", "change", "weights_part", "input_part", "gradient", "update"]
# Of a site without weights of its own it is "".
LayerRole = Literal["input", "hidden", "output", "vector", "fixed", ""]
Fit = Literal["as expected", "unclear", "not as expected", "not judged"]


@dataclass(frozen=True, slots=True)
class QuantityText:
    """How a quantity is called and written, and what it is."""

    label: str
    symbol: str
    meaning: str


QUANTITIES: dict[Quantity, QuantityText] = {
    "size": QuantityText("size", "x_t", "the value of a site, or of a parameter, after t steps"),
    "change": QuantityText("change", "x_t - x_0", "what t steps changed of the value of a site"),
    "weights_part": QuantityText(
        "by weights", "(W_t - W_0) x_0", "the part of a layer's change that its new weights make of its first input"
    ),
    "input_part": QuantityText(
        "by input", "W_t (x_t - x_0)", "the other part, which the change of the layer's input makes"
    ),
    "gradient": QuantityText("gradient", "dL/dx_t", "the gradient of the loss, for a site or a parameter"),
    "update": QuantityText("update", "W_t - W_0", "what t steps changed of a parameter"),
}
SITE_QUANTITIES: tuple[Quantity, ...] = ("size", "change", "weights_part", "input_part", "gradient")
PARAMETER_QUANTITIES: tuple[Quantity, ...] = ("size", "gradient", "update")

# How a parametrization is called in a sentence.
_PARAMETRIZATIONS = {"standard": "the standard parametrization", "mup": "muP", "ntk": "the NTK parametrization"}


def judged_step(quantity: Quantity, steps: int) -> int:
    """Return the step at which a quantity is judged: the first for what the initialization makes, else the last."""
    return 0 if quantity in ("size", "gradient") else steps


@dataclass(frozen=True, slots=True, eq=False)
class WidthRow:
    """The rms of one quantity at one site or parameter, at every seed, width and step.

    `sizes`: shape (seeds, widths, steps + 1), NaN where the quantity was not measured. `role`: how the weights of the
    layer widen, "" for a site without weights. `widens`: whether the site itself has more elements in a wider network.
    `expected`: the lowest and the highest exponent of width that are as expected at step `judged`, None where nothing
    is expected. `parameter`: whether `name` is a parameter; `kind` is the class of the module.
    """

    name: str
    kind: str
    role: LayerRole
    widens: bool
    quantity: Quantity
    widths: tuple[int, ...]
    sizes: Floats
    judged: int
    expected: tuple[float, float] | None = None
    parameter: bool = False

    def exponent(self, step: int | None = None) -> Interval:
        """Return the exponent of width at a step (None: at `judged`) with its 95% interval over the seeds.

        The slope of the least-squares line of log rms on log width. The interval is Student's, from the scatter of the
        seeds about their mean at each width, with widths (seeds - 1) degrees of freedom; NaN for one seed. A seed with
        a size of zero is left out; without any other, the exponent is NaN.
        """
        with np.errstate(divide="ignore"):
            logs = np.log(self.sizes[:, :, self.judged if step is None else step])
        logs = logs[np.isfinite(logs).all(axis=1)]
        seeds, widths = logs.shape
        if not seeds:
            return Interval(math.nan, math.nan, math.nan, 0)
        x = np.log(np.asarray(self.widths, dtype=np.float64))
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        center = float(logs.mean(axis=0) @ weights)
        if seeds < 2:
            return Interval(center, math.nan, math.nan, seeds)
        free = widths * (seeds - 1)
        variance = float(((logs - logs.mean(axis=0)) ** 2).sum()) / free
        half = student(free) * math.sqrt(variance / seeds * float(weights @ weights))
        return Interval(center, center - half, center + half, seeds)

    def fit(self, tolerance: float) -> Fit:
        """Return whether the exponent is as expected.

        "as expected": its mean is within `tolerance` of the expected range. "not as expected": its whole interval is
        further away, or one seed gives no interval. "unclear": the mean is further away, and the interval reaches it.
        "not judged": nothing is expected, or the exponent is NaN.
        """
        found = self.exponent()
        if self.expected is None or math.isnan(found.center):
            return "not judged"
        low, high = self.expected[0] - tolerance, self.expected[1] + tolerance
        if low <= found.center <= high:
            return "as expected"
        reaches = not math.isnan(found.low) and found.low <= high and found.high >= low
        return "unclear" if reaches else "not as expected"


@dataclass(frozen=True, slots=True, eq=False)
class WidthCheck:
    """What `propscope.width_check` measured: a network at several `widths`, over training steps.

    `title` names the network. `seeds` and `steps` are numbers of them. `optimizer` and `loss` name what was used.
    `expect`: the parametrization whose exponents the rows have as `expected`, "" for none; `source` cites them. An
    exponent fits when it is within `tolerance` of the expected range.
    """

    title: str
    widths: tuple[int, ...]
    seeds: int
    steps: int
    optimizer: str
    learning_rate: float
    loss: str
    rows: tuple[WidthRow, ...]
    expect: str = ""
    source: str = ""
    tolerance: float = 0.25

    def row(self, name: str, quantity: Quantity) -> WidthRow:
        """Return the row of a site or parameter; raises `InputError` for a name or quantity that the check lacks."""
        found = {row.name: row for row in self.rows if row.quantity == quantity}
        one_of("quantity", quantity, QUANTITIES)
        one_of("name", name, found)
        return found[name]

    @property
    def headline(self) -> str:
        """What ran, in one line."""
        widths = ", ".join(map(str, self.widths))
        steps, seeds = counted(self.steps, "step"), counted(self.seeds, "seed")
        how = f"{self.optimizer}, lr {self.learning_rate:g}, {steps}, {seeds}, loss {self.loss}"
        return f"{self.title} at widths {widths}: {how}"

    @property
    def expected_in(self) -> str:
        """The parametrization that is expected, as a sentence calls it."""
        return _PARAMETRIZATIONS.get(self.expect, self.expect)

    @property
    def fits(self) -> dict[Fit, tuple[WidthRow, ...]]:
        """The rows by how well they fit what is expected."""
        of = [(row.fit(self.tolerance), row) for row in self.rows]
        fits: tuple[Fit, ...] = ("as expected", "unclear", "not as expected", "not judged")
        return {fit: tuple(row for found, row in of if found == fit) for fit in fits}

    @property
    def passed(self) -> bool:
        """Whether no exponent is "not as expected" and not all are "unclear"; also where nothing is expected."""
        fits = self.fits
        return not self.expect or bool(fits["as expected"] and not fits["not as expected"])

    @property
    def exit_code(self) -> int:
        """0 where the check passed, else 1."""
        return 0 if self.passed else 1

    def to_frame(self, table: Literal["exponent", "size"] = "exponent") -> pandas.DataFrame:
        """Return the exponents, one row for each quantity and step, or the measured sizes behind them, with pandas.

        Raises `InputError` for another table, and `MissingDependencyError` without pandas.
        """
        from propscope.records.frames import frame_of

        one_of("table", table, ("exponent", "size"))
        return frame_of(self.exponent_rows() if table == "exponent" else self._size_rows())

    def exponent_rows(self) -> list[dict[str, Any]]:
        """Return the exponent of each quantity at each step at which it was measured, with its interval."""
        found = []
        for row in self.rows:
            low, high = row.expected or (math.nan, math.nan)
            for step in range(self.steps + 1):
                exponent = row.exponent(step)
                if math.isnan(exponent.center):
                    continue
                judged = step == row.judged and row.expected is not None
                found.append({
                    **_head(row),
                    "step": step,
                    "exponent": exponent.center,
                    "low": exponent.low,
                    "high": exponent.high,
                    "expected_low": low if judged else math.nan,
                    "expected_high": high if judged else math.nan,
                    "fit": row.fit(self.tolerance) if judged else "not judged",
                })  # fmt: skip
        return found

    def _size_rows(self) -> list[dict[str, Any]]:
        return [
            {
                **_head(row),
                "seed": seed,
                "width": self.widths[at],
                "step": step,
                "rms": float(row.sizes[seed, at, step]),
            }
            for row in self.rows
            for seed, at, step in np.argwhere(~np.isnan(row.sizes)).tolist()
        ]

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __repr__(self) -> str:
        return f"WidthCheck({self.title}, widths {', '.join(map(str, self.widths))}, {len(self.rows)} rows)"


def _head(row: WidthRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "parameter": row.parameter,
        "kind": row.kind,
        "role": row.role,
        "quantity": row.quantity,
    }
