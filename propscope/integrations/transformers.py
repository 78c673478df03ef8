"""`SignalCallback`: the monitor as a callback of the Trainer of Transformers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import update_wrapper
from types import FrameType
from typing import Any

from propscope.errors import InputError, MissingDependencyError
from propscope.integrations.updates import Updates, show_alarms
from propscope.monitoring import Monitor
from propscope.records.monitored import Alarm

try:
    from transformers import Trainer, TrainerCallback
    from transformers.integrations import INTEGRATION_TO_CALLBACK
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise MissingDependencyError(
        "transformers", extra="transformers", purpose="propscope.integrations.transformers"
    ) from error


class SignalCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Monitors what `Trainer.train` trains, and shows numbers and alarms where the Trainer reports to.

    `every` and `arguments`: those of `propscope.monitor`. A step is one update, with all of its micro-batches; its
    number is the Trainer's `global_step` before it. The loss is that of `training_step`, also where it is NaN and the
    Trainer leaves it out. `monitor`: the one of the training that runs or ran last, None before the first. Its state
    goes into checkpoints, so that a training that resumes one goes on in its file. Raises `InputError` for an invalid
    argument.
    """

    def __init__(self, every: int = 50, **arguments: Any) -> None:
        self._updates = Updates("SignalCallback", {"every": every, **arguments})
        self._losses: list[Any] = []
        self._trainer: Any = None
        self._watched: list[_Watched] = []

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the training that runs, or ran last."""
        return self._updates.monitor

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the monitor."""
        self.close()
        self._trainer = trainer = _trainer()
        stored = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step and isinstance(stored, Mapping):
            self._updates.restore(stored["attributes"]["resumed"])
        self._updates.open(
            trainer.model_wrapped,
            trainer.optimizer,
            step=state.global_step,
            loss_scale=trainer.accelerator.scaler,
            first=state.is_world_process_zero,
        )
        self._watched = [
            _Watched(trainer, "training_step", self._losses.append, self._stop),
            _Watched(trainer.optimizer, "step", _ignore, self._stop),
        ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin an update."""
        self._losses.clear()
        self._updates.begin(state.global_step)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a micro-batch behind which the update goes on."""
        self._updates.end_batch()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the update."""
        if self._losses:
            # Each is divided so that their sum is the loss of the update; a method of the user's may return anything.
            with suppress(TypeError, RuntimeError):
                self._updates.see_loss(sum(self._losses))
        try:
            self._updates.end()
        except BaseException as error:
            self._stop(error)
            raise
        self._show(args, state, control, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the run."""
        self.close()

    def _stop(self, error: BaseException) -> None:
        """End the run with the error that stopped it; a Trainer does not tell its callbacks."""
        self._updates.stop(error)
        self.close()

    def close(self) -> None:
        """End the run, where a training was stopped without telling its callbacks; a further call does nothing."""
        for one in self._watched:
            one.restore()
        self._watched.clear()
        self._losses.clear()
        self._trainer = None
        self._updates.close()

    def _show(self, args: Any, state: Any, control: Any, model: Any) -> None:
        def write(logger: Any, numbers: dict[str, float], alarms: Sequence[Alarm]) -> None:
            logger.on_log(args, state, control, model=model, logs=numbers)
            run = getattr(getattr(logger, "_wandb", None), "run", None)
            show_alarms(alarms, getattr(logger, "tb_writer", None) or run, state.global_step)

        # `Trainer.log` would print them in the progress bar, and keep them in its history.
        kinds, every = tuple(INTEGRATION_TO_CALLBACK.values()), self._trainer.callback_handler.callbacks
        self._updates.show([one for one in every if isinstance(one, kinds)], write)

    def state(self) -> dict[str, Any]:
        """Return what the Trainer keeps in a checkpoint: those arguments that JSON has, and the monitor's state."""
        simple = (str, int, float, bool, type(None))
        arguments = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in self._updates.arguments.items()
            if isinstance(value, (*simple, os.PathLike))
            or (isinstance(value, (list, tuple)) and all(isinstance(one, simple) for one in value))
        }
        return {"args": arguments, "attributes": {"resumed": self._updates.state()}}

    @property
    def resumed(self) -> dict[str, Any]:
        """The state of the monitor, which a Trainer that restores its callbacks sets."""
        return self._updates.state()

    @resumed.setter
    def resumed(self, state: Mapping[str, Any]) -> None:
        self._updates.restore(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_losses": [], "_trainer": None, "_watched": []}


class _Watched:
    """Stands for a method of an object until `restore`: passes its results to `see`, and what it raises to `stop`."""

    def __init__(
        self, owner: Any, name: str, see: Callable[[Any], None], stop: Callable[[BaseException], None]
    ) -> None:
        method = getattr(owner, name)
        # A schedule marks the step of its optimizer, and looks for the mark.
        update_wrapper(self, method)
        self._owner, self._name, self._see, self._stop = owner, name, see, stop
        self._before, self._method = vars(owner).get(name), method
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            found = self._method(*args, **kwargs)
        except BaseException as error:
            self._stop(error)
            raise
        self._see(found)
        return found

    def restore(self) -> None:
        """Give the object its own method back, where nothing else stands there by now."""
        if vars(self._owner).get(self._name) is not self:
            return
        if self._before is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


def _ignore(found: Any) -> None:
    pass


def _trainer() -> Any:
    """Return the Trainer that calls its callbacks; it passes them all but itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if isinstance(found := frame.f_locals.get("self"), Trainer):
            return found
        frame = frame.f_back
    raise InputError("SignalCallback must be called by a Trainer", hint="Trainer(..., callbacks=[SignalCallback()])")
