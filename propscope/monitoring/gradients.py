"""`AccumulatedGradients`: the gradient as a backward pass leaves it, before anything clips or unscales it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from propscope.measure.hooks import Guard, Hook
from propscope.monitoring.norms import NONE, norms

# What torch's own DDP and FSDP use.
_queue = torch.autograd.Variable._execution_engine.queue_callback


class AccumulatedGradients:
    """Takes the norms of the gradients at the end of each backward pass, when they are accumulated and reduced.

    The autograd engine runs the callbacks that are queued with it when the pass has ended. DDP and FSDP wait for their
    reduction in such a callback, so a first callback queues the one that reads the gradients, which then runs after
    theirs. The first callback is queued by the hook of whichever parameter gets a gradient first. `norms`: L2 norms
    after the last pass before each parameter's step, shape (parameters,); None before the first pass. `ended` is called
    after each pass.
    """

    def __init__(self, guard: Guard, ended: Callable[[], None]) -> None:
        self._latest: Tensor | None = None
        self._kept: Tensor | None = None
        self._guard = guard
        self._ended = ended
        self._parameters: list[nn.Parameter] = []
        self._handles: list[RemovableHandle] = []
        self._pass = -1

    def watch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Watch the passes from now on, for the gradients of these parameters."""
        self._parameters = list(parameters)
        hook = Hook(self._guard, "", "parameter", "the accumulated gradient", self._arm)
        self._handles = [one.register_hook(hook) for one in self._parameters if one.requires_grad]

    def unwatch(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._parameters = []
        self._pass = -1

    def forget(self) -> None:
        """Forget what was seen."""
        self._latest = self._kept = None

    @property
    def norms(self) -> Tensor | None:
        """The norms that were kept, and the latest of the other parameters."""
        if self._kept is None or self._latest is None:
            return self._latest
        return torch.where(self._kept < 0, self._latest, self._kept)

    def keep(self, mask: Tensor | None) -> None:
        """Keep what was seen of the parameters in `mask`, None for all, since they are stepped with now."""
        if self._latest is None:
            return
        if mask is None:
            self._kept = self._latest
        else:
            before = torch.full_like(self._latest, NONE) if self._kept is None else self._kept
            self._kept = torch.where(mask, self._latest, before)

    def _arm(self, gradient: Tensor) -> None:
        if (current := torch._C._current_graph_task_id()) != self._pass:
            self._pass = current
            _queue(lambda: _queue(lambda: self._guard("", "parameter", "the accumulated gradient", self._see)))

    def _see(self) -> None:
        with torch.no_grad():
            self._latest = norms([parameter.grad for parameter in self._parameters])
        self._ended()
