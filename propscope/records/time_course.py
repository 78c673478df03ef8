"""`TimeCourse`: a recurrent module over its steps, as far as it was seen: states, gradients, gates and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from propscope.records.figures import FINITE
from propscope.records.interval import arithmetic_interval, geometric_interval

# The most steps that a course holds, as `propscope.store` checks.
STEPS = 16
# With fewer points a line fits by itself.
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class GainFit:
    """A factor per step: `gain`, and `residual`, the standard deviation of ln rms about the fitted line.

    Least squares of ln r_k = a + b k over the steps k with a finite rms r_k > 0: gain = exp(b) forward and exp(-b)
    backward, as the gradient travels from the last step to the first; residual = sqrt(sum of squares / (n - 2)). Both
    are NaN for n < 3.
    """

    gain: float = math.nan
    residual: float = math.nan


@dataclass(frozen=True, slots=True)
class StateCourse:
    """The rms of a state after each step of a course, `forward`, and of the gradient with respect to it, `backward`.

    `step_gains`: the rms of the part of the gradient that one step passes on to the state before it, over the rms of
    the gradient with respect to the state after it. Unlike the slope of `backward` it does not depend on which steps
    the loss reads. None where it was not seen, NaN at a step where the gradient is zero, Inf for a state that is not
    finite.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...] | None = None
    step_gains: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class GateCourse:
    """The values of one gate: their `mean` at each step, and the share of them that is `flat`.

    A sigmoid s is flat where 4 s (1 - s) < eps, a tanh t where 1 - t^2 < eps, with eps of the flat fraction.
    """

    name: str
    mean: tuple[float, ...]
    flat: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GateWeights:
    """The rows of weight_ih and weight_hh that make one gate, each as a gain.

    `input_gain` and `recurrent_gain` are the Frobenius norm over the square root of the number of rows: the factor by
    which the matrix changes the rms of a vector of independent elements with mean zero. `radius` is the spectral radius
    of the recurrent part (times the projection, where there is one); None where it was not computed.
    """

    name: str
    input_gain: float
    recurrent_gain: float
    radius: float | None = None


@dataclass(frozen=True, slots=True)
class TimeCourse:
    """One recurrent layer over the steps of a pass, at up to 16 steps, the first and the last among them.

    `module`: its path. `kind`: its class. `layer`: from 1, within the module. `reverse`: whether it runs from the end
    of the sequence. `length`: the steps of the longest sequence. `steps`: the steps that are held, from 1, in the order
    in which they ran. `hidden` is the state h that is handed on, `cell` the state c of an LSTM; None where they were
    not seen, and `reason` says why there is no gradient. `gates` and `weights` have one entry for each gate: i, f, g, o
    of an LSTM, r, z, n of a GRU, h of a plain RNN. A packed batch counts, at each step, the sequences that reach it.
    """

    module: str
    kind: str
    layer: int = 1
    reverse: bool = False
    length: int = 0
    steps: tuple[int, ...] = ()
    hidden: StateCourse | None = None
    cell: StateCourse | None = None
    gates: tuple[GateCourse, ...] = ()
    weights: tuple[GateWeights, ...] = ()
    reason: str = ""

    @property
    def state(self) -> StateCourse | None:
        """The state that carries the memory: the cell state of an LSTM, else the hidden state."""
        return self.hidden if self.cell is None else self.cell

    @property
    def forward_gain(self) -> GainFit:
        """The factor by which the rms of the state grows per step."""
        return GainFit() if self.state is None else fit_gain(self.steps, self.state.forward)

    @property
    def backward_gain(self) -> GainFit:
        """The factor by which the rms of its gradient grows per step back in time."""
        if self.state is None or self.state.backward is None:
            return GainFit()
        return fit_gain([-step for step in self.steps], self.state.backward)

    @property
    def step_gain(self) -> float:
        """The geometric mean of the state's step gains; NaN where there are none."""
        gains = [] if self.state is None else [gain for gain in self.state.step_gains or () if not math.isnan(gain)]
        if not gains or math.inf in gains:
            return math.inf if gains else math.nan
        return 0.0 if 0.0 in gains else math.exp(math.fsum(map(math.log, gains)) / len(gains))

    @property
    def label(self) -> str:
        """What tells it from other courses: the module, and the layer and direction where there are several."""
        part = f" layer {self.layer}" if self.layer > 1 else ""
        return f"{self.module or '(model)'}{part}{' reverse' if self.reverse else ''}"


def sampled_steps(length: int) -> tuple[int, ...]:
    """Return at most 16 of the steps 1 to `length`, evenly spread, the first and the last among them."""
    if length <= STEPS:
        return tuple(range(1, length + 1))
    return tuple(1 + round(at * (length - 1) / (STEPS - 1)) for at in range(STEPS))


def fit_gain(positions: Sequence[int], rms: Sequence[float]) -> GainFit:
    """Return the factor of the rms per position, as `GainFit` states it."""
    points = [(at, math.log(value)) for at, value in zip(positions, rms, strict=True) if 0 < value < math.inf]
    if len(points) < _FEWEST:
        return GainFit()
    at, logarithm = np.array(points).T
    at = at - at.mean()
    slope = float(at @ logarithm / (at @ at))
    residual = logarithm - logarithm.mean() - slope * at
    # A slope of 700 a step is beyond any float.
    return GainFit(math.exp(min(slope, 700.0)), math.sqrt(float(residual @ residual) / (len(points) - 2)))


def pooled_courses(members: Sequence[tuple[TimeCourse, ...]]) -> tuple[TimeCourse, ...]:
    """Return the courses of several networks as those of one: geometric means of rms and gains, means of gates.

    The courses of the first network stand alone where the others have other modules or steps.
    """
    first = members[0]
    if not first or any(
        [_frame(course) for course in courses] != [_frame(course) for course in first] for courses in members
    ):
        return first
    return tuple(_mean_of(courses) for courses in zip(*members, strict=True))


def _frame(value: Any) -> Any:
    """Return a record without its numbers: what two of them must share to be pooled."""
    if isinstance(value, (float, GateWeights)) or value is None:
        return None
    if isinstance(value, tuple):
        return tuple(map(_frame, value))
    if hasattr(value, "__dataclass_fields__"):
        return tuple(_frame(getattr(value, field.name)) for field in fields(value))
    return value


def _mean_of(values: Sequence[Any], *, gate: bool = False) -> Any:
    first: Any = None if None in values else values[0]
    if isinstance(first, float):
        return (arithmetic_interval if gate else geometric_interval)(values).center
    if isinstance(first, tuple):
        return tuple(_mean_of(parts, gate=gate) for parts in zip(*values, strict=True))
    if not hasattr(first, "__dataclass_fields__"):
        return first
    inside = isinstance(first, GateCourse)
    pooled = {
        field.name: _mean_of([getattr(value, field.name) for value in values], gate=inside) for field in fields(first)
    }
    return type(first)(**pooled)


def course_document(course: TimeCourse) -> dict[str, Any]:
    """Return a course as JSON has it: NaN as null, infinities as "inf" and "-inf"."""
    document: dict[str, Any] = _plain(course)
    return document


def course_from_document(document: Any) -> TimeCourse:
    """Return the course that `course_document` made; raises `ValueError` for anything else."""
    found: TimeCourse = _record(TimeCourse, document)
    steps = found.steps
    if len(steps) > STEPS or any(later <= earlier for earlier, later in pairwise((0, *steps))):
        raise ValueError(f"steps must be at most {STEPS}, ascending from 1")
    if steps and steps[-1] > found.length:
        raise ValueError(f"steps must be at most the length {found.length}")
    held = [
        series
        for state in (found.hidden, found.cell)
        if state is not None
        for series in (state.forward, state.backward, state.step_gains)
        if series is not None
    ]
    shares = [gate.flat for gate in found.gates]
    gates = [gate.mean for gate in found.gates] + shares
    if any(len(series) != len(steps) for series in (*held, *gates)):
        raise ValueError("a series must have one number a step")
    low = [value for series in (*held, *shares) for value in series]
    if any(value < 0 for value in low) or any(value > 1 for series in shares for value in series):
        raise ValueError("an rms or gain must be at least 0, a share from 0 to 1")
    sizes = [size for each in found.weights for size in (each.input_gain, each.recurrent_gain, each.radius or 0.0)]
    if any(size < 0 for size in sizes):
        raise ValueError("a gain of weights must be at least 0")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a name must be text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("reverse must be true or false")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("a step must be a whole number")
    return value


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if value in ("inf", "-inf"):
        return float(value)
    # A whole number may be too large for a float.
    if type(value) not in (int, float) or not abs(value) <= FINITE:
        raise ValueError('a number must be finite, null, "inf" or "-inf"')
    return float(value)


def _series(value: Any) -> tuple[float, ...]:
    return tuple(map(_number, _list(value)))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a series must be a list")
    return value


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _records(record: type) -> Callable[[Any], tuple[Any, ...]]:
    return lambda value: tuple(_record(record, part) for part in _list(value))


# How a field is read, by its annotation.
_READ: Mapping[str, Callable[[Any], Any]] = {
    "str": _text,
    "bool": _flag,
    "int": _count,
    "float": _number,
    "float | None": _optional(_number),
    "tuple[int, ...]": lambda value: tuple(map(_count, _list(value))),
    "tuple[float, ...]": _series,
    "tuple[float, ...] | None": _optional(_series),
    "StateCourse | None": _optional(lambda value: _record(StateCourse, value)),
    "tuple[GateCourse, ...]": _records(GateCourse),
    "tuple[GateWeights, ...]": _records(GateWeights),
}


def _record(record: type, document: Any) -> Any:
    names = [field.name for field in fields(record)]
    if not isinstance(document, dict) or set(document) != set(names):
        raise ValueError(f"a {record.__name__} must be an object of {', '.join(names)}")
    return record(**{field.name: _READ[str(field.type)](document[field.name]) for field in fields(record)})
