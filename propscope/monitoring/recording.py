"""`Recording`: what watches the model on a sampled step; between samples nothing of it is there."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

from propscope.measure.filters import Filter
from propscope.measure.hooks import Guard
from propscope.measure.loss_scale import scale_of
from propscope.measure.recorder import Recorder
from propscope.measure.signal_graph import Traced
from propscope.measure.sites import Options
from propscope.measure.wrappers import unwrapped_parameters, without_shortcuts
from propscope.monitoring.gradients import AccumulatedGradients
from propscope.monitoring.watched_calls import WatchedCalls


class Recording:
    """Watches a sampled step: a `Recorder` its first passes, `gradients` what all its passes accumulate.

    It ends by itself once `micro_batches` passes are recorded and the model is called again.
    """

    def __init__(self, model: nn.Module, *, kept: Filter, loss_scale: Any, micro_batches: int, guard: Guard) -> None:
        self._model = model
        self._kept = kept
        self._loss_scale = loss_scale
        self.gradients = AccumulatedGradients(guard, partial(scale_of, loss_scale))
        self._calls = WatchedCalls(micro_batches, self.gradients, self.stop)
        self._shortcuts = ExitStack()
        self._traced: Traced | None = None
        self._recorder: Recorder | None = None
        self._running = False
        # Whether anything of a sampled step may be there, which takes time to look for.
        self._armed = False
        self._versions: dict[str, int] = {}

    def begin(self, options: Options) -> None:
        """Begin to watch a step."""
        self._armed = True
        recorder = self.recorder(options)
        self.gradients.watch(self._model, parameters_with_values(self._model))
        # It must see a call before the recorder does, since it may take the recorder away.
        self._calls.watch(self._model)
        # Compiled code would raise where the compiler comes back within its call, as the recorder may go within one.
        self._shortcuts.enter_context(without_shortcuts(self._model))
        recorder.__enter__()
        self._recorder, self._running = recorder, True
        self._versions = self._versions_now()

    def recorder(self, options: Options) -> Recorder:
        """Return a recorder of the model; raises `InputError` where an argument is none for it."""
        return Recorder(
            self._model,
            options=options,
            kept=self._kept,
            loss_scale=self._loss_scale,
            traced=self._traced,
            # Those of the first sample tell two runs apart.
            digests=self._traced is None,
        )

    def stop(self, error: BaseException | None = None) -> None:
        """Take the recorder away, and go on watching what the step accumulates."""
        if self._recorder is not None and self._running:
            self._running = False
            self._recorder.__exit__(type(error) if error is not None else None, error, None)

    def end(self, error: BaseException | None = None) -> Recorder | None:
        """Take everything away, and return the recorder of the step, None where it was not sampled."""
        if not self._armed:
            return None
        self.stop(error)
        self._calls.unwatch()
        self._shortcuts.close()
        self.gradients.unwatch()
        recorder, self._recorder, self._armed = self._recorder, None, False
        return recorder

    def trace_like(self, recorder: Recorder) -> None:
        """Let later recorders take the graph that this one traced."""
        if self._traced is None:
            self._traced = recorder.traced

    def changed(self, names: Collection[str]) -> bool:
        """Return whether each of these parameters was changed in place since the step began."""
        now = self._versions_now()
        return all(self._versions.get(name) != now.get(name) for name in names)

    def _versions_now(self) -> dict[str, int]:
        parameters = parameters_with_values(self._model)
        return {name: one._version for name, one in parameters.items() if one.requires_grad}


def parameters_with_values(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that have values, or will, by name."""
    return {name: parameter for name, parameter in unwrapped_parameters(model) if not parameter.is_meta}
