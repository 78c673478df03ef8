"""Layer-sequential unit-variance scaling: the weights of an existing model brought to a wanted signal, in place."""

from propscope.records.calibration import Calibration, ScaledWeight, SkippedWeight
from propscope.remedies.calibration.unit_variance import calibrate

__all__ = ["Calibration", "ScaledWeight", "SkippedWeight", "calibrate"]
