"""Singular values of a network's Jacobian from its input to each site, and the loss around its weights."""

from propscope.spectra.jacobian import jacobian
from propscope.spectra.loss_surface import hessian_eigenvalues, loss_surface

__all__ = ["hessian_eigenvalues", "jacobian", "loss_surface"]
