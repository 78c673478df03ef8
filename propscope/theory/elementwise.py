"""`Elementwise`: an activation as a function of float64 numbers, with its derivative and its kinks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from propscope.checks import shown
from propscope.errors import InputError
from propscope.networks.activations import ActivationSpec, FunctionActivation, parse_activation
from propscope.networks.randomness import global_stream, seeded_generator
from propscope.theory.piecewise import Piecewise

Array: TypeAlias = NDArray[np.float64]
Function: TypeAlias = Callable[[Array], Array]

_VALID = "give an activation's name or spec, an nn.Module, or an elementwise function of a tensor or array"
# Irregular, beyond where activations saturate, and 0 itself.
_PROBE = np.array([-9.3, -6.1, -3.7, -2.2, -1.1, -0.43, -0.02, 0.0, 0.01, 0.37, 0.9, 1.7, 2.9, 4.6, 7.3, 8.8])


@dataclass(frozen=True, slots=True, eq=False)
class Elementwise:
    """An activation phi in float64: `value(x)`, `derivative(x)`, arrays of any shape to arrays of that shape.

    `label` is its spec or name. `kinks`, ascending: where phi or one of its first two derivatives jumps, within 64 of
    0. `slopes` (a, b) when phi(x) = a x for x < 0 and b x for x > 0, else None. `continuous`: phi is the integral of
    `derivative`. Made by `Elementwise.of`.
    """

    label: str
    value: Function
    derivative: Function
    kinks: tuple[float, ...]
    slopes: tuple[float, float] | None
    continuous: bool
    pieces: Piecewise

    @classmethod
    def of(
        cls,
        activation: ActivationLike,
        *,
        derivative: Callable[..., Any] | None = None,
        kinks: Iterable[float] = (),
    ) -> Elementwise:
        """Return the activation that a name or spec, an nn.Module, or a function of a tensor or numpy array gives.

        `derivative`: that of a function. By default it is torch's autograd in float64; if autograd cannot differentiate
        the function, it is the derivative of polynomials fitted to the values. `kinks`: found if they are not given. A
        module is copied to float64. The result for a spec or a function is cached.

        Raises `InputError` when it is not elementwise, is random, changes the shape, returns NaN or is 0 everywhere.
        """
        if isinstance(activation, Elementwise):
            return activation
        declared = tuple(float(kink) for kink in kinks)
        if isinstance(activation, (str, ActivationSpec)):
            spec = parse_activation(activation)
            if spec.custom:
                module = spec.module()
                if isinstance(module, FunctionActivation):
                    return _of_function(module.function, tuple(module.arguments.items()), spec.label, None, declared)
                return _made(_module_call(module), spec.label, None, declared)
            return _of_spec(spec, declared)
        if isinstance(activation, nn.Module):
            return _made(_module_call(activation), type(activation).__name__, derivative, declared)
        if not callable(activation):
            raise InputError(f"activation must be a name, a module or a function, got {shown(activation)}", hint=_VALID)
        name = getattr(activation, "__name__", type(activation).__name__)
        try:
            return _of_function(activation, (), name, derivative, declared)
        except TypeError as error:
            if "unhashable" not in str(error):
                raise
            return _made(activation, name, derivative, declared)

    def __call__(self, x: Array) -> Array:
        """Return phi(x)."""
        return self.value(x)


ActivationLike: TypeAlias = str | ActivationSpec | nn.Module | Callable[..., Any] | Elementwise


@lru_cache(maxsize=256)
def _of_spec(spec: ActivationSpec, kinks: tuple[float, ...]) -> Elementwise:
    # A parameter of a module is kept in float32, and 0.3 is then off by 1e-8.
    module = nn.LeakyReLU(float(spec.parameters["init"])) if spec.name == "prelu" else spec.module()
    return _made(_module_call(module), spec.label, None, kinks)


@lru_cache(maxsize=64)
def _of_function(
    function: Callable[..., Any],
    arguments: tuple[tuple[str, Any], ...],
    label: str,
    derivative: Callable[..., Any] | None,
    kinks: tuple[float, ...],
) -> Elementwise:
    call = (lambda x: function(x, **dict(arguments))) if arguments else function
    return _made(call, label, derivative, kinks)


def _module_call(module: nn.Module) -> Callable[..., Any]:
    return copy.deepcopy(module).to(device="cpu", dtype=torch.float64).requires_grad_(False)


def _made(
    call: Callable[..., Any], label: str, derivative: Callable[..., Any] | None, kinks: tuple[float, ...]
) -> Elementwise:
    with global_stream(seeded_generator(0, "elementwise")):
        value = _vectorised(call, f'activation "{label}"')
        _check(value, label)
    if derivative is not None:
        slope: Function | None = _vectorised(derivative, f'the derivative of activation "{label}"')
    else:
        slope = _autograd(call) if _follows(call) else None
    pieces = Piecewise(value, slope, kinks=kinks, what=f'"{label}"')
    pieces.within(64.0)
    exact: Function = pieces.derivative if slope is None else slope
    if np.isnan(exact(_PROBE[_PROBE != 0])).any():
        raise InputError(f'activation "{label}" has a derivative that is NaN; {_VALID}')
    return Elementwise(label, value, exact, pieces.kinks, _slopes(value), _integrates(value, exact, pieces), pieces)


def _vectorised(call: Callable[..., Any], what: str) -> Function:
    def with_torch(x: Array) -> Any:
        with torch.no_grad(), np.errstate(all="ignore"):
            return call(torch.from_numpy(np.array(x, dtype=np.float64)))

    def with_numpy(x: Array) -> Any:
        with np.errstate(all="ignore"):
            return call(np.array(x, dtype=np.float64))

    problem: Exception | None = None
    for run, kind in ((with_torch, Tensor), (with_numpy, np.ndarray)):
        try:
            # numpy's functions take a tensor with a warning, and do not let autograd follow.
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)
                found = run(_PROBE)
        except Exception as error:  # A user's function may fail in any way.
            problem = problem or error
            continue
        if not isinstance(found, kind):
            problem = problem or TypeError(f"it turns an array into a {type(found).__name__}")
            continue
        if tuple(found.shape) != _PROBE.shape:
            raise InputError(f"{what} turns shape (16,) into shape {tuple(found.shape)}; {_VALID}")
        return lambda x: np.asarray(run(x), dtype=np.float64)
    raise InputError(f"{what} failed ({type(problem).__name__}: {problem})", hint=_VALID) from problem


def _check(value: Function, label: str) -> None:
    what = f'activation "{label}"'
    found = value(_PROBE)
    if np.isnan(found).any():
        where = _PROBE[np.isnan(found)][0]
        raise InputError(f"{what} must have a value at every real number, got NaN at {where:g}")
    if not np.array_equal(found, value(_PROBE)):
        raise InputError(f"{what} is random: the same input gave two outputs", hint="call eval() on the module")
    alone = np.array([_at(value, x, what) for x in _PROBE])
    matrix = value(_PROBE.reshape(4, 4)[::-1]).reshape(4, 4)[::-1].ravel()
    for other in (alone, matrix):
        if not np.allclose(found, other, rtol=1e-9, atol=1e-12):
            raise InputError(
                f"{what} is not elementwise: an output depends on other inputs or on the position; {_VALID}"
            )
    if not found.any():
        raise InputError(f"{what} must not be 0 everywhere")


def _at(value: Function, x: float, what: str) -> float:
    try:
        return float(value(np.array([x]))[0])
    except Exception as error:  # For example a parameter for each of 16 channels.
        raise InputError(f"{what} is not elementwise: it fails on a single number ({error}); {_VALID}") from error


def _autograd(call: Callable[..., Any]) -> Function:
    def derivative(x: Array) -> Array:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = torch.from_numpy(np.array(x, dtype=np.float64)).requires_grad_()
            # A clone, since an activation may act in place.
            (slope,) = torch.autograd.grad(call(leaf.clone()).sum(), leaf)
        return np.asarray(slope.numpy(), dtype=np.float64)

    return derivative


def _follows(call: Callable[..., Any]) -> bool:
    try:
        _autograd(call)(_PROBE)
    except Exception:  # Whatever numpy or a user's function makes of a tensor that records gradients.
        return False
    return True


def _slopes(value: Function) -> tuple[float, float] | None:
    at = np.array([1e-6, 0.3, 1.0, 5.0, 77.0, 1e5])
    falling, rising = 0.0 - value(-at) / at, value(at) / at
    homogeneous = all(np.ptp(slope) <= 4e-16 * np.abs(slope).max() for slope in (falling, rising))
    return (float(falling[2]), float(rising[2])) if homogeneous and float(value(np.zeros(1))[0]) == 0 else None


def _integrates(value: Function, derivative: Function, pieces: Piecewise) -> bool:
    edges = pieces.within(16.0)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges) / 2
    x = (edges[:-1] + half)[:, None] + half[:, None] * nodes
    risen = np.cumsum((derivative(x) * weights).sum(axis=1) * half)
    return bool(np.allclose(risen, value(edges[1:]) - value(edges[:1]), rtol=1e-7, atol=1e-8 * np.abs(risen).max()))
