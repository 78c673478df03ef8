"""`PassEnds`: the beginning and the end of each backward pass, as they come before and after what DDP and FSDP do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from propscope.measure import calls
from propscope.measure.hooks import Guard, Hook
from propscope.measure.module_info import ModuleInfo, module_info
from propscope.measure.outputs import tensors_of
from propscope.measure.shards import local_shard
from propscope.measure.tensor_identity import version_of

# What torch's own DDP and FSDP use; it has no public name.
_queue: Callable[[Callable[[], None]], None] | None = getattr(
    getattr(torch.autograd.Variable, "_execution_engine", None), "queue_callback", None
)


class PassEnds:
    """Calls `began` when it is told that a backward pass runs, and `ended` once when that pass is over.

    The autograd engine runs the callbacks that are queued with it when the pass has ended. DDP and FSDP wait for their
    reduction in such a callback, so a first callback queues the one that calls `ended`, which then runs after theirs.
    Without such callbacks nothing is called.
    """

    def __init__(self, guard: Guard, ended: Callable[[], None], *, began: Callable[[], None] | None = None) -> None:
        self._guard = guard
        self._ended = ended
        self._began = began
        self._pass = -1
        self._handles: list[RemovableHandle] = []

    def watch(self, model: nn.Module) -> None:
        """Take the gradients of what a model returns as a sign that a pass runs.

        FSDP puts the gradients of parameters in place without calling their hooks.
        """
        calls.watch(self, [module_info("", model, ())])

    def call(
        self, info: ModuleInfo, run: calls.Run, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the model, and watch what it returns."""
        output = run(module, *args, **kwargs)
        self._guard("", "parameter", "the end of a backward pass", self._see_output, output)
        return output

    def _see_output(self, output: Any) -> None:
        # A handle refers to its tensor's hooks weakly: a dead reference belongs to a graph that is gone.
        self._handles = [handle for handle in self._handles if handle.hooks_dict_ref() is not None]
        hook = Hook(self._guard, "", "parameter", "the end of a backward pass", self._see_gradient)
        self._handles += [one.register_hook(hook) for one in tensors_of(output) if one.requires_grad]

    def _see_gradient(self, gradient: Tensor) -> None:
        self.note()

    def unwatch(self) -> None:
        """Take the hooks away."""
        calls.unwatch(self)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._pass = -1

    def note(self) -> None:
        """Note that a backward pass runs; call it from a hook of the pass."""
        if _queue is None or (current := torch._C._current_graph_task_id()) == self._pass:
            return
        queue, self._pass = _queue, current
        if self._began is not None:
            self._began()
        queue(lambda: queue(lambda: self._guard("", "parameter", "the end of a backward pass", self._ended)))


def stamp_of_gradient(parameter: Tensor) -> tuple[int, int] | None:
    """Return what changes when the gradient of a parameter does, as long as this one is there; None without one."""
    if (gradient := parameter.grad) is None:
        return None
    # FSDP adds to the local part of a distributed tensor, which is a tensor of its own where a graph is recorded.
    with torch.no_grad():
        return id(gradient), version_of(local_shard(gradient))
