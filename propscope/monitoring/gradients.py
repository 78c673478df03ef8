"""`AccumulatedGradients`: the gradient as a backward pass leaves it, before anything clips or unscales it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from propscope.measure.hooks import Guard, Hook
from propscope.measure.pass_ends import PassEnds, stamp_of_gradient
from propscope.measure.shards import data_groups, local_shard, reduced_in_place
from propscope.monitoring.norms import NamedNorms, norms


class AccumulatedGradients:
    """Takes the norms of the gradients at the end of each backward pass, when they are accumulated and reduced.

    A pass that accumulates none, as `torch.autograd.grad` makes it, is none. `scale` returns the scale of the loss,
    which may change when the optimizer has stepped. `passes` counts them.
    """

    def __init__(self, guard: Guard, scale: Callable[[], Tensor | None]) -> None:
        self._guard = guard
        self._scale = scale
        self.passes = 0
        self._parameters: dict[str, nn.Parameter] = {}
        self._handles: dict[str, RemovableHandle] = {}
        # Parameters that cannot have a hook yet.
        self._waiting: dict[str, nn.Parameter] = {}
        # What accumulated a gradient in the pass that runs, and in those that have ended.
        self._running: set[str] = set()
        self._whole: set[str] = set()
        self._found: NamedNorms | None = None
        self._ends = PassEnds(guard, self._see, began=self._begin)
        # The parameters whose gradients may be put in place past their hooks, and what was there when the pass began.
        self._placed: dict[str, nn.Parameter] = {}
        self._before: dict[str, tuple[int, int] | None] = {}

    def watch(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        """Watch the passes of a model from now on, for the gradients of these parameters."""
        reduced = reduced_in_place(model)
        self._parameters = dict(parameters)
        # DDP does so with what other ranks alone have a gradient of.
        self._placed = dict(parameters) if reduced or data_groups(model) else {}
        self._waiting = {name: one for name, one in parameters.items() if id(one) not in reduced}
        if reduced:
            self._ends.watch(model)
        self.watch_waiting()

    def watch_waiting(self) -> None:
        """Watch the parameters that are trained, or have a shape, only since they were named."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        for name, parameter in waiting.items():
            if not parameter.requires_grad or is_lazy(parameter):
                self._waiting[name] = parameter
                continue
            hook = Hook(self._guard, name, "parameter", "the accumulated gradient", self._arm, name)
            self._handles[name] = parameter.register_post_accumulate_grad_hook(hook)

    @property
    def waiting(self) -> bool:
        """Whether there are any of these."""
        return bool(self._waiting)

    def unwatch(self) -> None:
        """Take the hooks away."""
        for handle in self._handles.values():
            handle.remove()
        self._handles, self._parameters, self._waiting, self._placed = {}, {}, {}, {}
        self._ends.unwatch()

    def forget(self) -> None:
        """Forget what was seen."""
        self._running.clear()
        self._whole.clear()
        self._found = None

    def norms(self, names: Collection[str] | None = None) -> NamedNorms | None:
        """Return the norms after the last pass of what accumulated a gradient, of these parameters or of all."""
        whole = self._whole if names is None else self._whole.intersection(names)
        if self._found is None or not whole:
            return None
        return NamedNorms(self._found.names, self._found.values, frozenset(whole), self._found.scale)

    def see_unscaled(self) -> None:
        """Take the gradients as they are now, without the scale of the loss, for those of the last pass."""
        if self._parameters:
            self._take(None)

    def _arm(self, name: str, parameter: Tensor) -> None:
        # It grows, or it is a new one after the optimizer's step: what was seen of it before holds no more.
        self._whole.discard(name)
        self._running.add(name)
        self._ends.note()

    def _begin(self) -> None:
        self._before = {name: stamp_of_gradient(one) for name, one in self._placed.items()}

    def _take(self, scale: Tensor | None) -> None:
        with torch.no_grad():
            values = norms([parameter.grad for parameter in self._parameters.values()])
        self._found = NamedNorms([*self._parameters], values, None, scale)

    def _see(self) -> None:
        self._running.update(
            name for name, one in self._placed.items() if stamp_of_gradient(one) != self._before.get(name)
        )
        if not self._running:
            return
        # Where this rank holds none of its elements, others may have a gradient of it.
        self._running.update(name for name, one in self._placed.items() if not local_shard(one.detach()).numel())
        self._take(self._scale())
        self._whole |= self._running
        self._running.clear()
        self.passes += 1
