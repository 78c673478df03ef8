"""Layer-sequential unit-variance scaling: each layer's weights are scaled until its output has the wanted std."""

from propscope.records.calibration import Calibration, ScaledWeight, SkippedWeight
from propscope.remedies.calibration.unit_variance import calibrate

__all__ = ["Calibration", "ScaledWeight", "SkippedWeight", "calibrate"]
