"""Layer-sequential unit-variance scaling: the weights of an existing model brought to a wanted signal, in place."""

from propscope.calibration.record import Calibration, Left, Scaled
from propscope.calibration.unit_variance import calibrate

__all__ = ["Calibration", "Left", "Scaled", "calibrate"]
