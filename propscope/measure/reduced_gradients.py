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

    A gradient that is there before a pass is copied until the pass is over.
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
            gradient = one.parameter.grad
            if one.reduced and gradient is not None and name not in self._before:
                self._before[name] = stamp_of_gradient(one.parameter), local_shard(gradient.detach()).clone()

    def _end(self) -> None:
        before, self._before = self._before, {}
        with torch.no_grad():
            for name, one in self._parameters.items():
                stamp, earlier = before.get(name, (None, None))
                # A pass within a pass, as of a checkpoint, ends by itself.
                if one.reduced and stamp_of_gradient(one.parameter) != stamp:
                    self._guard(name, "parameter", "its gradient", self._see_added, one, earlier)

    def _see_added(self, parameter: ParameterAccumulator, earlier: Tensor | None) -> None:
        if (gradient := parameter.parameter.grad) is not None:
            added = local_shard(gradient.detach())
            self._see(parameter, added if earlier is None else added - earlier)
