"""A multilayer perceptron as theory sees it: its units, and the variances of its weights and biases."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError
from propscope.networks.mlp import MLPSpec, Norm
from propscope.theory.elementwise import Elementwise
from propscope.theory.initialization import LayerVariances, critical_initializer, layer_variances

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chain:
    """An `MLPSpec` with numbers for its initializer: `units` of the input and of each layer, `layers`, the `readout`.

    `readout`: its variances, None without one, and `outputs` its units. `kept`: 1 / (1 - dropout), by which dropout
    multiplies second moments. `flat_biases`: drawn from a uniform distribution, as torch does.
    """

    activation: Elementwise
    units: tuple[int, ...]
    layers: tuple[LayerVariances, ...]
    readout: LayerVariances | None
    outputs: int
    norm: Norm
    residual: bool
    kept: float
    flat_biases: bool

    @property
    def widths(self) -> NDArray[np.int_]:
        """The units of each layer, shape (layers,)."""
        return np.array(self.units[1:])

    def weight_variances(self) -> Array:
        """Return sigma_w^2 of each layer, shape (layers,)."""
        return np.array([layer.weight_variance for layer in self.layers])

    def bias_variances(self) -> Array:
        """Return sigma_b^2 of each layer, shape (layers,)."""
        return np.array([layer.bias_variance for layer in self.layers])


def chain_of(spec: MLPSpec, *, mean_square: float) -> Chain:
    """Return the chain of a spec, `critical` being asked for inputs of this mean square.

    Raises `InputError` for what mean field does not cover: an initializer, an activation, alpha dropout.
    """
    if spec.alpha_dropout:
        raise InputError("theory does not cover alpha_dropout", hint="leave it out, or use dropout")
    activation = Elementwise.of(spec.activation)
    initializer = critical_initializer(spec.initializer, activation, bias=spec.bias, mean_square=mean_square)
    known: dict[Any, LayerVariances] = {}

    def variances(fan_in: int, fan_out: int, first: bool) -> LayerVariances:
        key = fan_in, fan_out, first
        if key not in known:
            which = initializer.first_layer if first else initializer
            known[key] = layer_variances(which, fan_in=fan_in, fan_out=fan_out, bias=spec.bias)
        return known[key]

    units = (spec.input_size or spec.widths[0], *spec.widths)
    return Chain(
        activation=activation,
        units=units,
        layers=tuple(variances(*fans, not layer) for layer, fans in enumerate(pairwise(units))),
        readout=variances(units[-1], spec.output_size, False) if spec.output_size else None,
        outputs=spec.output_size or 0,
        norm=spec.norm,
        residual=spec.residual,
        kept=1 / (1 - spec.dropout),
        flat_biases=spec.bias is None and spec.initializer.name == "default",
    )
