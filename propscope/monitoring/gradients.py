"""`AccumulatedGradients`: the gradient as a backward pass leaves it, before anything clips or unscales it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from propscope.measure.hooks import Guard, Hook
from propscope.monitoring.norms import NamedNorms, norms

# What torch's own DDP and FSDP use; it has no public name.
_queue: Callable[[Callable[[], None]], None] | None = getattr(
    getattr(torch.autograd.Variable, "_execution_engine", None), "queue_callback", None
)


class AccumulatedGradients:
    """Takes the norms of the gradients at the end of each backward pass, when they are accumulated and reduced.

    The autograd engine runs the callbacks that are queued with it when the pass has ended. DDP and FSDP wait for their
    reduction in such a callback, so a first callback queues the one that reads the gradients, which then runs after
    theirs. The first callback is queued by the hook of whichever parameter accumulates a gradient first; a pass that
    accumulates none, as `torch.autograd.grad` makes it, is none. `scale` returns the scale of the loss, which may
    change when the optimizer has stepped. `passes` counts them. Without such callbacks nothing is seen.
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
        self._pass = -1

    def watch(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Watch the passes from now on, for the gradients of these parameters."""
        self._parameters = self._waiting = dict(parameters)
        self.watch_waiting()

    def watch_waiting(self) -> None:
        """Watch the parameters that are trained, or have a shape, only since they were named."""
        if not self._waiting or _queue is None:
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
        self._handles, self._parameters, self._waiting = {}, {}, {}
        self._pass = -1

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

    def _arm(self, name: str, parameter: Tensor) -> None:
        # It grows, or it is a new one after the optimizer's step: what was seen of it before holds no more.
        self._whole.discard(name)
        self._running.add(name)
        if (current := torch._C._current_graph_task_id()) != self._pass and _queue is not None:
            queue, self._pass = _queue, current
            queue(lambda: queue(lambda: self._guard("", "parameter", "the accumulated gradient", self._see)))

    def _see(self) -> None:
        with torch.no_grad():
            values = norms([parameter.grad for parameter in self._parameters.values()])
        self._found = NamedNorms([*self._parameters], values, None, self._scale())
        self._whole |= self._running
        self._running.clear()
        self.passes += 1
