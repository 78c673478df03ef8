"""Where a nonlinearity is flat, by its own derivative.

A value z is flat when abs(phi'(z)) < eps * max abs(phi'), with eps = sech^2(2) = 0.0707: abs(z) > 2 for tanh and
abs(z) > 4 for sigmoid follow from the one rule. The derivative is evaluated once, at the centre of every bin of the
log histogram, and the bounds between are bisected; a flat fraction is then a sum over a histogram's counts.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from propscope.records.histogram import BIN_COUNT, LogHistogram

_Found = TypeVar("_Found")

FLAT_THRESHOLD = 1 / math.cosh(2) ** 2

_CENTERS = LogHistogram(np.arange(BIN_COUNT, dtype=np.uint16), np.ones(BIN_COUNT, np.int64)).centers
_FINITE = np.flatnonzero(np.isfinite(_CENTERS))
_BY_VALUE = _FINITE[np.argsort(_CENTERS[_FINITE], kind="stable")]
# Bins of 1/8 octave this far out are beyond every kink; derivatives there overflow in composite formulas (mish, gelu).
_LIMIT = 1e4
_BEYOND = 2.0**129
# A module of so many parameters is known again by their values, and so much is kept of modules and functions.
_FEW = 1024
_KEPT = 1024


@dataclass(frozen=True, slots=True)
class FlatRegion:
    """The flat set of one nonlinearity.

    `bounds`: ascending values of z where flat and responsive intervals meet; `first_flat`: whether the interval below
    the first bound is flat.
    """

    bounds: NDArray[np.float64]
    first_flat: bool

    def fraction(self, histogram: LogHistogram) -> float | None:
        """Return the share of the histogram's values (NaN left out) that are flat; None when there are none.

        A bin that straddles a bound is divided in proportion to its width.
        """
        total = histogram.total - histogram.nan_count
        if not total:
            return None
        masses = histogram.mass(np.concatenate([[-_BEYOND], self.bounds, [_BEYOND]]))
        masses[0] += histogram.neginf_count
        masses[-1] += histogram.posinf_count
        return float(masses[int(not self.first_flat) :: 2].sum() / total)

    def is_flat(self, values: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return whether each value is flat, same shape; NaN is not."""
        result: NDArray[np.bool_] = self.are_flat(self.intervals_of(values)) & ~np.isnan(values)
        return result

    def intervals_of(self, values: NDArray[np.floating]) -> NDArray[np.intp]:
        """Return the number of the interval between bounds that each value is in, the last one for NaN; same shape."""
        return np.searchsorted(self.bounds, values)

    def are_flat(self, intervals: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return whether the intervals of these numbers are flat, same shape."""
        flat: NDArray[np.bool_] = (intervals % 2 == 1) != self.first_flat
        return flat


def flat_region(module: nn.Module) -> FlatRegion:
    """Return the flat set of an elementwise activation module, from autograd in float64; the module is not touched.

    A module with a slope per channel (PReLU) is taken with its mean slope. Raises what the module raises when it
    cannot take a 1-D float64 tensor.
    """
    return flat_region_of(_twin(module))


def _twin(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the elementwise function of a copy of a module, in float64."""
    # Hooks are bound to whoever watches the model: copied along, they would take the recorder and the model with them.
    bare = copy.copy(module)
    bare.__dict__.update({name: OrderedDict() for name in vars(module) if name.endswith("_hooks")})
    twin = copy.deepcopy(bare).double().cpu().eval()
    for name, parameter in list(twin.named_parameters(recurse=False)):
        if parameter.numel() > 1:
            setattr(twin, name, nn.Parameter(parameter.detach().mean().reshape(1)))
    if hasattr(twin, "inplace"):
        twin.inplace = False  # type: ignore[assignment]
    forward: Callable[[Tensor], Tensor] = twin.forward
    return forward


def at_zero(function: nn.Module | partial[Tensor]) -> tuple[bool, bool] | None:
    """Return whether an elementwise function is other than zero at zero, and whether its slope is, by autograd.

    `function`: a module, or a function bound to all its arguments but the tensor. None where it cannot be computed.
    """

    def compute() -> tuple[bool, bool]:
        run = _twin(function) if isinstance(function, nn.Module) else function
        zero = np.zeros(1)
        with torch.no_grad():
            value = run(torch.from_numpy(zero.copy()))
        return bool((value != 0).any()), bool((_derivative(lambda z: run(z.clone()), zero) != 0).any())

    if isinstance(function, nn.Module):
        key = _determining(function)
        return _apart(compute) if key is None else _once(_AT_ZERO, key, compute)
    return _once(_AT_ZERO, (function.func, repr(function.args), repr(function.keywords)), compute)


def flat_region_of(function: Callable[[Tensor], Tensor]) -> FlatRegion:
    """Return the flat set of an elementwise function of a float64 vector."""
    order = _BY_VALUE
    steep = np.abs(_derivative(function, np.clip(_CENTERS[order], -_LIMIT, _LIMIT)))
    flat_in_order = steep < FLAT_THRESHOLD * steep.max()
    bounds = _refine(function, order, flat_in_order, float(steep.max()))
    return FlatRegion(bounds, bool(flat_in_order[0]))


def _derivative(function: Callable[[Tensor], Tensor], at: NDArray[np.float64]) -> NDArray[np.float64]:
    with torch.inference_mode(False), torch.enable_grad():
        z = torch.from_numpy(np.ascontiguousarray(at)).requires_grad_()
        value = function(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
    steepness: NDArray[np.float64] = np.nan_to_num(slope.numpy())
    return steepness


def _refine(
    function: Callable[[Tensor], Tensor], order: NDArray[np.int64], flat: NDArray[np.bool_], steepest: float
) -> NDArray[np.float64]:
    """Bisect each change between flat and responsive to float32 accuracy."""
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    low, high = _CENTERS[order[changes]], _CENTERS[order[changes + 1]]
    low_flat = flat[changes]
    if not changes.size:
        return np.empty(0)
    for _ in range(60):
        middle = (low + high) / 2
        same = (np.abs(_derivative(function, middle)) < FLAT_THRESHOLD * steepest) == low_flat
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return (low + high) / 2


# What the type and the public attributes of a module, or a function and its arguments, determine. Shared by all
# recorders, since a grid has hundreds of them.
_DETERMINED: dict[object, FlatRegion | None] = {}
_AT_ZERO: dict[object, tuple[bool, bool] | None] = {}


class FlatRegions:
    """The flat region of each nonlinearity, computed once for each kind; None where it has no derivative."""

    def __init__(self) -> None:
        # By identity, for as long as the recorder knows the module.
        self._own: dict[int, FlatRegion | None] = {}

    def of_module(self, module: nn.Module) -> FlatRegion | None:
        """Return the flat region of an elementwise module."""
        if id(module) not in self._own:
            key, cache = _determining(module), _DETERMINED
            self._own[id(module)] = (
                _apart(lambda: flat_region(module)) if key is None else _once(cache, key, lambda: flat_region(module))
            )
        return self._own[id(module)]

    def of_function(
        self, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> FlatRegion | None:
        """Return the flat region of an elementwise function, called with these arguments after the tensor."""
        rest = {name: value for name, value in kwargs.items() if name not in ("input", "inplace")}

        def compute() -> FlatRegion:
            # On a copy, since the function may work in place.
            return flat_region_of(lambda z: function(z.clone(), *args, **rest))

        if any(isinstance(value, Tensor) for value in (*args, *rest.values())):
            return _apart(compute)
        return _once(_DETERMINED, (function, repr(args), repr(rest)), compute)


def _determining(module: nn.Module) -> object | None:
    """Return the class, public attributes and parameters of a module, as a key; None where these tell too little.

    That is where there are many parameters, or on another device, and where an attribute has no hash.
    """
    public = [(name, vars(module)[name]) for name in sorted(vars(module)) if name[0] != "_" and name != "training"]
    try:
        slopes = [(name, parameter.numel(), _bytes_of(parameter)) for name, parameter in module.named_parameters()]
        key = (type(module), tuple(public), tuple(slopes))
        hash(key)
    except (TypeError, RuntimeError):
        return None
    return key


def _bytes_of(parameter: Tensor) -> bytes:
    """Return the values of a few parameters; raises TypeError for many, and for those that cannot be read for free."""
    if parameter.numel() > _FEW or parameter.device.type != "cpu" or type(parameter) is not nn.Parameter:
        raise TypeError
    return parameter.detach().numpy().tobytes()


def _once(cache: dict[Any, _Found | None], key: object, compute: Callable[[], _Found]) -> _Found | None:
    if key not in cache:
        # Learned slopes change at each step of a training, and so do the keys.
        if len(cache) >= _KEPT:
            cache.clear()
        cache[key] = _apart(compute)
    return cache[key]


def _apart(compute: Callable[[], _Found]) -> _Found | None:
    """Run in a separate thread, where none of the caller's modes hold: autocast, saved-tensor hooks, no_grad.

    An activation checkpoint counts the tensors that are saved inside it; those of this derivative must not be counted.
    """
    found: list[_Found] = []

    def run() -> None:
        # A user's own class may refuse a float64 vector in ways that cannot be foreseen.
        with contextlib.suppress(Exception):
            found.append(compute())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0] if found else None
