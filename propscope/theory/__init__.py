"""What theory predicts for networks at initialization, of infinite width and with the spread of a finite one.

`MeanField` is the theory of one network. `gain`, `critical_point` and `critical_line` find the variances to initialize
with, `phase_diagram` covers a plane of them, and `layer_variances` gives those of an initializer. `predict` gives what
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
