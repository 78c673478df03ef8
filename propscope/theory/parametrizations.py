"""`PARAMETRIZATIONS`: the exponents of width that sizes and changes have in standard, NTK and muP networks.

n is the width, and every exponent is at a learning rate that is the same at all widths, apart from the factors that the
parametrization itself gives each layer. Standard: weights of variance c / fan_in (He, LeCun, PyTorch's default), one
learning rate. NTK: weights of variance 1 under a factor 1 / sqrt(fan_in). muP, maximal update: what lets every layer
change as much as it can without growing.

How the exponents follow, with m the number of inputs of a layer, x of size 1 and delta the gradient at its output:

- Size at the start: n^0, as variance 1 / m keeps it. The random readout of muP has variance 1 / m^2: n^(-1/2).
- Gradient: delta is of order 1 at the readout, and n^(-1/2) before it (its weights in the standard and NTK
  parametrizations), of order 1/n in muP.
- (W_t - W_0) x_0: SGD adds -lr delta x^T, whose sum over m inputs is m lr delta. Adam adds lr sign(delta x^T), whose
  sum is m lr, as the signs agree with x. In the NTK parametrization the factor of the weights comes in twice for SGD,
  once for Adam.
- x_t - x_0: the larger of that part and of what the change of the input makes. A hidden layer passes a change on as it
  is. The change of the readout's input points along the readout's weights, as a gradient does: n weights of size
  n^(-1/2) add up to n^(1/2), where independent ones would give 1. In muP they are of size 1/n. In narrow networks the
  independent part may still be the larger one, so the readout's change is expected between the two.

This is to first order in the learning rate: where changes are as large as the signal, they are multiplied from layer to
layer, and grow faster than listed. muP's exponents are 0 and need no such condition.

Yang, Hu 2021 (Feature learning in infinite-width neural networks, Tensor Programs IV), table 1; Yang et
al. 2022 (Tuning large neural networks via zero-shot hyperparameter transfer, Tensor Programs V), tables 3 and 8; Yang,
Littwin 2023 (Adaptive optimization in the infinite-width limit, Tensor Programs IVb), for Adam; Everett et al. 2024
(Scaling exponents across parameterizations and optimizers), for the exponents of each layer with and without alignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from propscope.records.width_check import LayerRole, Quantity

Family = Literal["sgd", "adam"]
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Parametrization:
    """A parametrization by `name`, with exponents of width and the `source` of them.

    `weights_part`: of (W_t - W_0) x_0, by optimizer and role of the layer. `readout_size`: of the output at the start.
    `readout_gain`: what a change that points along the readout's weights gains in the readout.
    """

    name: str
    weights_part: Mapping[Family, Mapping[LayerRole, float]]
    readout_size: float
    readout_gain: float
    source: str


def _roles(input: float, hidden: float, output: float) -> dict[LayerRole, float]:
    # Gains and biases are layers with one input each; what does not widen changes as the gradient at it, of order 1.
    return {"input": input, "hidden": hidden, "output": output, "vector": input, "fixed": 0.0}


PARAMETRIZATIONS: tuple[Parametrization, ...] = (
    Parametrization(
        "standard",
        {"sgd": _roles(-0.5, 0.5, 1.0), "adam": _roles(0.0, 1.0, 1.0)},
        readout_size=0.0,
        readout_gain=0.5,
        source="Yang, Hu 2021, table 1; Everett et al. 2024",
    ),
    Parametrization(
        "mup",
        {"sgd": _roles(0.0, 0.0, 0.0), "adam": _roles(0.0, 0.0, 0.0)},
        readout_size=-0.5,
        readout_gain=0.0,
        source="Yang et al. 2022, tables 3 and 8",
    ),
    Parametrization(
        "ntk",
        {"sgd": _roles(-0.5, -0.5, 0.0), "adam": _roles(0.0, 0.5, 0.5)},
        readout_size=0.0,
        readout_gain=0.5,
        source="Yang, Hu 2021, table 1; Everett et al. 2024",
    ),
)
NAMES = tuple(one.name for one in PARAMETRIZATIONS)


class ExpectedExponents:
    """The exponents that a network is expected to show, site by site in the order in which they run."""

    def __init__(self, parametrization: Parametrization, family: Family | None) -> None:
        self._of = parametrization
        # muP's are the same for every optimizer.
        self._weights = parametrization.weights_part[family or "sgd"]
        self._change: Range | None = None
        self._read_out = False

    def next(self, role: LayerRole, *, widens: bool, tied: bool) -> dict[Quantity, Range]:
        """Return the lowest and highest exponent of each quantity that is judged at the next site.

        `tied`: whether the layer's weights serve another layer too, as those of an embedding do. Its output then starts
        between the size of a random readout and that of an embedding compared with itself.
        """
        mup = self._of.name == "mup"
        if role == "fixed" and not self._read_out:
            # What comes before the first layer that widens changes as it does at any width.
            self._change = (0.0, 0.0)
            return {}
        expected: dict[Quantity, Range] = {}
        readout = role == "output"
        self._read_out = readout or (self._read_out and not widens)
        if widens:
            expected["size"] = (0.0, 0.0)
        elif self._read_out and role != "fixed":
            expected["size"] = (self._of.readout_size, self._of.readout_size if readout and not tied else 0.0)
        if role:
            weights = self._weights[role]
            low, high = self._change or (weights, weights)
            if readout:
                low, high = low + self._of.readout_gain - 0.5, high + self._of.readout_gain
            else:
                low = max(weights, low)
            self._change = (low, max(weights, high))
            expected["weights_part"] = (weights, weights)
            expected["change"] = self._change
        elif mup:
            expected["change"] = (0.0, 0.0) if widens or self._change is None else self._change
        # The readout of an embedding is larger than the parametrizations of separate weights have it.
        return {} if tied and readout and not mup else expected
