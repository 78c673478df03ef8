"""The singular values of a network's Jacobian, from its input to each of its sites."""

from propscope.spectra.jacobian import jacobian

__all__ = ["jacobian"]
