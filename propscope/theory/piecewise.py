"""`Piecewise`: cuts of the real line between which a short polynomial fits a function.

A quadrature that splits at these cuts is exact to rounding on every scale: every kink and jump is a cut, and cuts are
dense where a smooth function bends.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from propscope.errors import InputError

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

_ORDER = 17
_NODES = -np.cos((np.arange(_ORDER) + 0.5) * np.pi / _ORDER)
# Maps values at the nodes to Chebyshev coefficients.
_TO_COEFFICIENTS = np.linalg.inv(chebyshev.chebvander(_NODES, _ORDER - 1))
_TAIL = 4
_VALUE_TOLERANCE, _SLOPE_TOLERANCE = 1e-13, 1e-12
_NARROWEST, _TINY = 1e-12, 1e-9
_SHELLS = np.array([0.0, *(2.0 ** np.array([0, 1, 2, 3, 4, 6, 8, 12, 20, 40, 80, 160, 320, 500]))])
_MOST_PANELS = 4096


class Piecewise:
    """The cuts of a function, found outwards from 0 as far as `within` is asked; `kinks` holds those found or declared.

    `value` and `slope`: the function and its derivative, float64 arrays to arrays; with `slope` None only the values
    are used. A kink is a point where no polynomial fits however narrow the piece: a jump of the function or of its
    first or second derivative. Without `slope`, jumps of the first derivative are found, and the cuts are dense near a
    jump of the second. Kinks are right to about 1e-11, or exact where they have few digits.
    """

    def __init__(self, value: Function, slope: Function | None, *, kinks: tuple[float, ...] = (), what: str) -> None:
        self.kinks = tuple(sorted({float(kink) for kink in kinks}))
        self._value, self._slope, self._what = value, slope, what
        self._edges = np.zeros(1)
        self._coefficients = np.empty((0, _ORDER))
        self._shell = 0
        self._scales = np.zeros(2)

    @property
    def edges(self) -> Array:
        """The cuts found so far, ascending, 0 among them."""
        return self._edges

    def within(self, radius: float) -> Array:
        """Return the cuts in (-radius, radius), ascending.

        Raises `InputError` if the function bends too often to be resolved, as sin does far from 0.
        """
        while _SHELLS[self._shell] < radius and self._shell + 1 < len(_SHELLS):
            self._grow()
        return self._edges[np.abs(self._edges) < radius]

    def derivative(self, x: Array) -> Array:
        """Return the derivative at x from the polynomials of the pieces, for functions without one of their own."""
        flat = np.abs(x).ravel()
        self.within(float(flat.max(initial=0.0)) * 1.000001)
        panel = np.clip(np.searchsorted(self._edges, x) - 1, 0, len(self._edges) - 2)
        low, high = self._edges[panel], self._edges[panel + 1]
        bent = chebyshev.chebder(self._coefficients, axis=1)[panel]
        # The polynomial of each point is its own: the coefficients run along the last axis of x's shape.
        y = (2 * x - low - high) / (high - low)
        found: Array = chebyshev.chebval(y, np.moveaxis(bent, -1, 0), tensor=False) * 2 / (high - low)
        return found

    def _grow(self) -> None:
        low, high = _SHELLS[self._shell], _SHELLS[self._shell + 1]
        bounds = [(-high, -low), (low, high)]
        for side in bounds:
            self._measure(*side)
        halves = [self._resolve(*side) for side in bounds]
        (left, left_fit), (right, right_fit) = halves
        self._edges = np.concatenate([left[:-1], self._edges, right[1:]])
        self._coefficients = np.concatenate([left_fit, self._coefficients, right_fit])
        self._shell += 1
        self.kinks = tuple(sorted({*self.kinks, *self._jumps()}))

    def _jumps(self) -> list[float]:
        # A kink at 0 or at 3 coincides with a cut that halving makes, so no piece shows it.
        width = np.diff(self._edges)
        narrower = np.minimum(width[:-1], width[1:])
        found = np.zeros(narrower.shape, dtype=bool)
        fit, scale = self._coefficients.T, self._scales[0]
        for order, tolerance in enumerate((1e-11, 1e-9, 1e-6)):
            bent = chebyshev.chebder(fit, order) * (2 / width) ** order
            left, right = chebyshev.chebval(1.0, bent[:, :-1]), chebyshev.chebval(-1.0, bent[:, 1:])
            found |= np.abs(right - left) > tolerance * scale * (2 / narrower) ** order
        return [float(edge) for edge in self._edges[1:-1][found & (narrower > 1e-3)]]

    def _measure(self, low: float, high: float) -> None:
        x = np.linspace(low, high, 257)
        for index, function in enumerate((self._value, self._slope)):
            if function is not None:
                self._note(index, function(x))

    def _note(self, index: int, values: Array) -> None:
        size = np.abs(values)
        self._scales[index] = max(self._scales[index], size[np.isfinite(size)].max(initial=0.0))

    def _resolve(self, low: float, high: float) -> tuple[Array, Array]:
        declared = [kink for kink in self.kinks if low < kink < high]
        edges, fit, stuck = self._refine(np.array([low, *declared, high]))
        if stuck.size and (found := self._locate(stuck, low, high)):
            self.kinks = tuple(sorted({*self.kinks, *found}))
            inside = [kink for kink in self.kinks if low < kink < high]
            edges, fit, _ = self._refine(np.array([low, *inside, high]))
        return edges, fit

    def _locate(self, stuck: Array, low: float, high: float) -> list[float]:
        centre, width = stuck[:, np.argsort(stuck[0])]
        apart = np.flatnonzero(np.diff(centre) > 5 * _TINY * np.maximum(1, np.abs(centre[1:]))) + 1
        found = []
        for centres, widths in zip(np.split(centre, apart), np.split(width, apart), strict=True):
            # Kinks are written with a few digits; the bisection leaves the last ones open.
            near = float(centres[widths == widths.min()].mean())
            slack = 2 * float(widths.min())
            rounded = (0.0, *(float(f"{near:.{digits}g}") for digits in range(1, 13)))
            kink = next((short for short in rounded if abs(short - near) <= slack), near)
            if low <= kink <= high:
                found.append(kink)
        return found

    def _refine(self, edges: Array) -> tuple[Array, Array, Array]:
        """Return the cuts, the fit of each piece, and the centres and widths (2, k) of those too narrow."""
        low, high = edges[:-1], edges[1:]
        done: list[tuple[Array, Array, Array]] = []
        stuck: list[Array] = []
        count = 0
        while low.size:
            fit, resolved = self._fit(low, high)
            narrow = np.asarray((high - low) <= _NARROWEST * np.maximum(1, np.abs(low)))
            # A jump of the next derivative is resolved before the pieces are as narrow as they may be.
            tiny = np.asarray((high - low) <= _TINY * np.maximum(1, np.abs(low)))
            stuck.append(np.stack([(low + high) / 2, high - low])[:, tiny])
            done.append(tuple(part[resolved | narrow] for part in (low, high, fit)))  # type: ignore[arg-type]
            count += int((resolved | narrow).sum())
            unresolved = np.asarray(~(resolved | narrow))
            low, high = low[unresolved], high[unresolved]
            if count + low.size > _MOST_PANELS:
                raise InputError(
                    f"activation {self._what} bends more than {_MOST_PANELS} times within {abs(edges).max():g} of 0, "
                    "more than can be resolved in float64",
                    hint="give a function that is smooth between some kinks; for sin, a smaller variance",
                )
            middle = (low + high) / 2
            low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
        lows, highs, fits = (np.concatenate(parts) for parts in zip(*done, strict=True))
        order = np.argsort(lows)
        return np.append(lows[order], highs.max()), fits[order], np.concatenate(stuck, axis=1)

    def _fit(self, low: Array, high: Array) -> tuple[Array, NDArray[np.bool_]]:
        x = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * _NODES
        values = self._value(x)
        # A narrow feature may have been between the points that measured the scale.
        self._note(0, values)
        # Where a function overflows there is nothing to resolve; its moments will say that they are infinite.
        beyond = np.asarray(~np.isfinite(values).all(axis=1))
        fit = np.where(beyond[:, None], 0.0, values) @ _TO_COEFFICIENTS.T
        tolerance = _VALUE_TOLERANCE * self._scales[0] + _rounding(x, values)
        resolved = np.asarray(np.abs(fit[:, -_TAIL:]).max(axis=1) <= tolerance)
        if self._slope is not None:
            slopes = self._slope(x)
            self._note(1, slopes)
            bent = np.where(beyond[:, None], 0.0, slopes) @ _TO_COEFFICIENTS.T
            resolved &= np.abs(bent[:, -_TAIL:]).max(axis=1) <= _SLOPE_TOLERANCE * self._scales[1] + _rounding(
                x, slopes
            )
        return fit, resolved | beyond


def _rounding(x: Array, values: Array) -> Array:
    """Return the error of the values that comes from rounding x, which a narrower piece would not reduce, (pieces,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steepest = np.abs(np.diff(values, axis=1) / np.diff(x, axis=1)).max(axis=1)
    return np.asarray(np.nan_to_num(4e-16 * np.abs(x).max(axis=1) * steepest, posinf=0.0))
