"""`ReducedGradients`: the gradients that FSDP reduces over the ranks and puts in place past the parameters' hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from propscope.measure.hooks import Guard
from propscope.measure.parameters import ParameterAccumulator
from propscope.measure.pass_ends import PassEnds, stamp_of_gradient
from propscope.measure.shards import local_shard


class ReducedGradients:
    """Shows `see` what each backward pass adds to the gradients that are reduced, of the part that this rank holds.

    Of passes without a reduction, as under `no_sync`, the next one with a reduction shows the sum. A gradient that is
    there before a pass is copied until the pass is over.
    """

    def __init__(
        self,
        guard: Guard,
        parameters: Mapping[str, ParameterAccumulator],
        see: Callable[[ParameterAccumulator, Tensor], None],
    ) -> None:
        self._guard = guard
        self._parameters = parameters
        self._see = see
        self._before: dict[str, tuple[tuple[int, int] | None, Tensor]] = {}
        self._passes = PassEnds(guard, self._end, began=self._begin)

    def watch(self, model: nn.Module) -> None:
        """Watch the passes of a model from now on."""
        self._passes.watch(model)

    def unwatch(self) -> None:
        """Take the hooks away."""
        self._passes.unwatch()
        self._before.clear()

    def _begin(self) -> None:
        for name, one in self._parameters.items():
            if one.reduced and name not in self._before and (gradient := _reduced(one.parameter)) is not None:
                self._before[name] = stamp_of_gradient(one.parameter), gradient.clone()

    def _end(self) -> None:
        before, self._before = self._before, {}
        with torch.no_grad():
            for name, one in self._parameters.items():
                stamp, earlier = before.get(name, (None, None))
                # A pass within a pass, as of a checkpoint, ends by itself.
                if one.reduced and stamp_of_gradient(one.parameter) != stamp:
                    self._guard(name, "parameter", "its gradient", self._see_added, one, earlier)

    def _see_added(self, parameter: ParameterAccumulator, earlier: Tensor | None) -> None:
        if (gradient := _reduced(parameter.parameter)) is not None:
            self._see(parameter, gradient if earlier is None else gradient - earlier)


def _reduced(parameter: nn.Parameter) -> Tensor | None:
    """Return the gradient of the part that this rank holds; None without one, as where `no_sync` keeps the whole."""
    if parameter.grad is None:
        return None
    gradient = local_shard(parameter.grad.detach())
    return gradient if gradient.shape == local_shard(parameter.detach()).shape else None
