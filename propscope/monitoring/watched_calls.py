"""The calls of a monitored model: they end the recording of a step, and show what is trained since it began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from propscope.measure import calls
from propscope.measure.hooks import in_backward
from propscope.measure.module_info import ModuleInfo
from propscope.measure.wrappers import unwrapped, unwrapped_modules
from propscope.monitoring.gradients import AccumulatedGradients


class WatchedCalls:
    """Watches the calls of the model: takes the recorder away when so many passes are recorded and it is called again.

    After each call it watches the gradients of what is trained only since the step began.
    """

    def __init__(self, micro_batches: int, gradients: AccumulatedGradients, stop: Callable[[], None]) -> None:
        self._micro_batches = micro_batches
        self._gradients = gradients
        self._stop = stop
        self._root: nn.Module | None = None
        self._inside = False
        # Passes of the model that were recorded, and the backward passes until then: of one there may be several.
        self._passes = self._before = 0

    def watch(self, model: nn.Module) -> None:
        """Begin to watch."""
        self._root, self._inside = unwrapped(model), False
        self._passes, self._before = 0, self._gradients.passes
        modules = unwrapped_modules(self._root) if self._gradients.waiting else [("", self._root)]
        calls.watch(
            self, [ModuleInfo("", module, "other", opaque=False, units=False, atomic=False) for _, module in modules]
        )

    def unwatch(self) -> None:
        """Stop watching."""
        if self._root is not None:
            self._root = None
            calls.unwatch(self)

    def call(
        self, info: ModuleInfo, run: calls.Run, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a module of the model, and the model without the recorder when that is due."""
        if self._inside or in_backward():
            return run(module, *args, **kwargs)
        if module is self._root and self._gradients.passes > self._before:
            self._passes, self._before = self._passes + 1, self._gradients.passes
            if self._passes >= self._micro_batches:
                self._stop()
                self.unwatch()
                return module._call_impl(*args, **kwargs)
        self._inside = True
        try:
            return run(module, *args, **kwargs)
        finally:
            self._inside = False
            self._gradients.watch_waiting()
