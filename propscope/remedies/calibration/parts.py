"""What can be scaled: one part for each matrix whose output can be seen, and how that output is had."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from propscope.measure.module_info import unit_axis_of
from propscope.networks import parse_initializer, seeded_generator
from propscope.remedies.calibration.recurrent import input_of_layer


class Call:
    """One call of a module: what it took, and what it returns with the weights of now."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs
        self.reruns = 0
        self.stale = False
        self._output = output

    def changed(self) -> None:
        """Note that a weight changed: the output must be computed again."""
        self.stale = True
        # Autocast keeps the half-precision copy of a weight that it made for the first run.
        torch.clear_autocast_cache()

    @property
    def output(self) -> Any:
        """What the module returns; run again after a change of its weights."""
        if self.stale:
            self._output = self.module.forward(*self.args, **self.kwargs)
            self.reruns += 1
            self.stale = False
        return self._output

    def argument(self, name: str) -> Any:
        """Return an argument of the module's forward by its name; None where it was not given."""
        return inspect.signature(self.module.forward).bind(*self.args, **self.kwargs).arguments.get(name)


Observed = tuple[Tensor, int]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The rows `rows` of a parameter, or all of it, which `observe` shows the output of.

    `observe` returns the output of a call and its axis of units, or None where it is no dense floating tensor.
    `matrices`: how many are stacked along the rows, each orthogonal by itself; 0 for what is no matrix. `bias` is added
    to what the weight gives.
    """

    name: str
    kind: str
    parameter: nn.Parameter
    observe: Callable[[Call], Observed | None]
    rows: slice | None = None
    bias: Tensor | None = None
    matrices: int = 1

    @property
    def weight(self) -> Tensor:
        """The entries that are scaled, as a view of the parameter."""
        whole = self.parameter.detach()
        return whole if self.rows is None else whole[self.rows]

    @property
    def key(self) -> tuple[torch.device, int]:
        """What parts that share their memory have in common: also a transposed view in a parameter of its own."""
        return self.parameter.device, self.weight.data_ptr()

    def orthogonalize(self, seed: int) -> None:
        """Fill with random orthonormal rows or columns, each matrix by itself (Saxe et al. 2014)."""
        generator = seeded_generator(seed, "calibrate", self.name)
        for matrix in self.weight.chunk(self.matrices) if self.matrices else ():
            parse_initializer("orthogonal").fill(matrix, generator)


def own_output(call: Call) -> Observed | None:
    """Observe what a module returns."""
    output = call.output
    if not isinstance(output, Tensor) or not _dense(output):
        return None
    return output, unit_axis_of(call.module, output, None)


def cell_input(call: Call) -> Observed:
    """Observe the input's part of the gates' pre-activations of a recurrent cell."""
    return nn.functional.linear(call.argument("input"), call.module.weight_ih), -1  # type: ignore[arg-type]


def gate_input(layer: int, name: str) -> Callable[[Call], Observed]:
    """Return what observes the input's part of the gates' pre-activations of a layer of a recurrent network."""

    def observe(call: Call) -> Observed:
        module = call.module
        assert isinstance(module, nn.RNNBase)
        values = input_of_layer(module, call.argument("input"), call.argument("hx"), layer)
        return nn.functional.linear(values, getattr(module, name)), -1

    return observe


def projection(name: str, rows: slice | None, position: int) -> Callable[[Call], Observed | None]:
    """Return what observes the projection of the query, key or value of `nn.MultiheadAttention`."""

    def observe(call: Call) -> Observed | None:
        module = call.module
        values = call.argument(("query", "key", "value")[position])
        if not _dense(values):
            return None
        weight = getattr(module, name)
        bias = module.in_proj_bias
        if isinstance(bias, Tensor):
            bias = bias.chunk(3)[position]
        return nn.functional.linear(values, weight if rows is None else weight[rows], bias), -1  # type: ignore[arg-type]

    return observe


def attended(call: Call) -> Observed | None:
    """Observe the first of the outputs of `nn.MultiheadAttention`, which its last projection makes."""
    output = call.output[0]
    return (output, -1) if _dense(output) else None


def _dense(values: Tensor) -> bool:
    return values.is_floating_point() and values.dim() > 0 and values.layout == torch.strided and not values.is_nested
