"""What should be seen: networks of infinite width, at initialization, and what a finite width adds.

`MeanField` is the theory of one network; `gain`, `critical_point` and `critical_line` say which network to build,
`phase_diagram` shows them all, `layer_variances` says where an initializer stands, `predict` what
a multilayer perceptron should show at each of its sites.
"""

from propscope.records.theory import CriticalPoint, DepthScales, FixedPoint, Law
from propscope.theory.critical import (
    CriticalLine,
    NoCriticalPoint,
    critical_line,
    critical_point,
    gain,
)
from propscope.theory.elementwise import ActivationLike, Elementwise
from propscope.theory.finite_width import FiniteWidth, finite_width
from propscope.theory.initialization import LayerVariances, critical_initializer, layer_variances, weight_variance_of
from propscope.theory.mean_field import MeanField
from propscope.theory.normalized import NormalizedMeanField, linear_batch_norm_factor
from propscope.theory.phase import PhaseDiagram, phase_diagram
from propscope.theory.predict import predict
from propscope.theory.propagation import Propagation

__all__ = [
    "ActivationLike",
    "CriticalLine",
    "CriticalPoint",
    "DepthScales",
    "Elementwise",
    "FiniteWidth",
    "FixedPoint",
    "Law",
    "LayerVariances",
    "MeanField",
    "NoCriticalPoint",
    "NormalizedMeanField",
    "PhaseDiagram",
    "Propagation",
    "critical_initializer",
    "critical_line",
    "critical_point",
    "finite_width",
    "gain",
    "layer_variances",
    "linear_batch_norm_factor",
    "phase_diagram",
    "predict",
    "weight_variance_of",
]
