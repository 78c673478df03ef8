"""What theory predicts for networks at initialization, of infinite width and with the spread of a finite one.

`MeanField` is the theory of one network. `gain`, `critical_point` and `critical_line` find the variances to initialize
with, `phase_diagram` covers a plane of them, and `layer_variances` gives those of an initializer. `predict` gives what
a multilayer perceptron should show at each of its sites.
"""

import warnings
from typing import Any

from propscope.records.theory import CriticalPoint, DepthScales, FixedPoint, Law
from propscope.theory.critical import (
    CriticalLine,
    NoCriticalPoint,
    critical_line,
    critical_point,
    gain,
)
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.initialization import LayerVariances, critical_initializer, layer_variances
from propscope.theory.mean_field import MeanField
from propscope.theory.phase import PhaseDiagram, phase_diagram
from propscope.theory.predict import predict
from propscope.theory.propagation import Propagation

__all__ = [
    "ActivationLike",
    "CriticalLine",
    "CriticalPoint",
    "DepthScales",
    "Elementwise",
    "FixedPoint",
    "Law",
    "LayerVariances",
    "MeanField",
    "NoCriticalPoint",
    "PhaseDiagram",
    "Propagation",
    "critical_initializer",
    "critical_line",
    "critical_point",
    "gain",
    "layer_variances",
    "phase_diagram",
    "predict",
]

# What version 0.1.0 offered here, and what to use instead.
_GONE = {
    "FiniteWidth": "propscope.theory.predict, whose bands have the spread of a finite width",
    "NormalizedMeanField": "propscope.theory.predict, with norm and residual of the MLPSpec",
    "finite_width": "propscope.theory.predict, whose bands have the spread of a finite width",
    "linear_batch_norm_factor": "the formula (batch - 2) / (batch - 3)",
    "weight_variance_of": "propscope.theory.layer_variances(...).weight_variance",
}


def __getattr__(name: str) -> Any:
    if name not in _GONE:
        raise AttributeError(f"module 'propscope.theory' has no attribute {name!r}")
    message = f"propscope.theory.{name} was only a check of the theory and is now part of the tests; use {_GONE[name]}"
    # `from propscope.theory import name` hides the message of the error.
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    raise AttributeError(message)
