"""Layer-sequential unit-variance scaling: the weights of an existing model brought to a wanted signal, in place."""

from propscope.calibration.calibrate import calibrate
from propscope.calibration.record import Calibration, Left, Scaled

__all__ = ["Calibration", "Left", "Scaled", "calibrate"]
