"""The model's inputs as sites: their names, their summary, and the spread of rms over their features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from propscope.measure.device_memory import Numbers
from propscope.measure.outputs import tensors_in
from propscope.measure.parts import Part, added_alike, joint, vector
from propscope.measure.rank_places import Places
from propscope.measure.shards import Sharding, local_shard
from propscope.measure.sites import SiteAccumulator, measurable
from propscope.measure.sums import widest

_ELEMENTS = 1 << 16


def inputs_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield (suffix, tensor) for each tensor that a model is called with.

    The suffix is the argument's position or keyword in brackets, then the keys inside it: "[0]", "[pixel_values]",
    "[states][1]". Where one positional argument holds all tensors, its position is left out: "", "[image]".
    """
    found = [*tensors_in(args), *tensors_in(kwargs)]
    holding = {suffix.partition("]")[0] for suffix, _ in found}
    alone = len(holding) == 1 and not any(True for _ in tensors_in(kwargs))
    for suffix, tensor in found:
        yield suffix.partition("]")[2] if alone else suffix, tensor


class InputAccumulator(SiteAccumulator):
    """Gathers an input: whole numbers as float64 and without geometry; of others also the mean square of each feature.

    The features are those of the axis that `axis_of_unknown` gives: channels of an image, else the last axis. Their
    mean squares are those of at most 2^16 elements of a batch, taken at even strides over the other axes.
    """

    __slots__ = ("_squares", "is_integer")

    def __init__(self, tensor: Tensor, **keywords: Any) -> None:
        super().__init__(tensor, **keywords)
        self.is_integer = not (tensor.is_floating_point() or tensor.is_complex())
        self.has_geometry &= not self.is_integer
        self._squares: Tensor | Numbers | None = None

    def see_forward(self, value: Tensor) -> None:
        """Add a value."""
        if self.is_integer:
            super().see_forward(_as_float(local_shard(value.detach())))
            return
        super().see_forward(value)
        if value.dim() > 1 and value.numel() and value.layout is torch.strided and not value.is_nested:
            squares = _squares(measurable(value.detach()), self.unit_axis % value.dim())
            before = self._squares
            # A length that changes from batch to batch is no number of features: they start anew.
            if self._options.may_sync(squares):
                if isinstance(before, Tensor) and before.shape == squares.shape:
                    squares = before + squares
                self._squares = squares
                return
            if not isinstance(before, Numbers) or before.most < len(squares):
                # Twice as many, since what was taken of the memory is not given back.
                self._squares = before = Numbers(self._options.memory, 2 * len(squares), squares.device)
            if len(before.kept()) == len(squares):
                before.kept().add_(squares)
            else:
                before.keep(squares)

    def measured(self) -> dict[str, Any]:
        """Return what was gathered, as `SiteAccumulator.measured` does; waits for the device."""
        return super().measured() | {"feature_spread": _spread(self._own_squares())}

    def _own_squares(self) -> list[float]:
        held = self._squares.read() if isinstance(self._squares, Numbers) else self._squares
        squares: list[float] = [] if held is None else held.tolist()
        return squares

    def _merged(self, places: Places, sharding: Sharding | None, *, bins: bool) -> Part[dict[str, Any]]:
        weights = vector(self._own_squares()) * self._samples
        parts = super()._merged(places, sharding, bins=bins), added_alike(weights)
        found, squares = yield from joint(parts)
        found["all"]["feature_spread"] = _spread([] if squares is None else squares.tolist())
        return found  # type: ignore[no-any-return]


def _spread(squares: Sequence[float]) -> float | None:
    """Return the largest rms of a feature over the median of those that are not zero; None below two of these."""
    positive = sorted(square for square in squares if 0 < square < math.inf)
    return math.sqrt(positive[-1] / positive[(len(positive) - 1) // 2]) if len(positive) > 1 else None


# numpy computes in the thread that calls it: in a child process, torch would wait for threads that are not there.
def _as_float(value: Tensor) -> Tensor:
    return torch.from_numpy(value.numpy().astype(np.float64)) if value.is_cpu else value.to(widest(value))


def _squares(value: Tensor, axis: int) -> Tensor:
    """Return the mean square of each feature along an axis of a tensor."""
    steps = [1] * value.dim()
    others = [other for other in range(value.dim()) if other != axis]
    while math.prod(lengths := [-(-n // step) for n, step in zip(value.shape, steps, strict=True)]) > _ELEMENTS:
        longest = max(others, key=lambda other: lengths[other])
        if lengths[longest] == 1:
            break
        steps[longest] *= 2
    value = value[tuple(slice(None, None, step) for step in steps)]
    if not value.is_cpu:
        return value.to(widest(value)).square().mean(others)
    values = value.float().numpy() if value.dtype is torch.bfloat16 else value.numpy()
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.square(values, dtype=np.float64).mean(tuple(others)))
