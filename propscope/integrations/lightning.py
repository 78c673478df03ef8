"""`SignalMonitor`: the monitor as a callback of Lightning's Trainer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from propscope.errors import MissingDependencyError
from propscope.integrations.updates import Updates, show_alarms
from propscope.monitoring import Monitor
from propscope.records.monitored import Alarm


def _package() -> Any:
    """Return the package whose Trainer is used: the one that is loaded, else the one that is installed."""
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in sorted(names, key=lambda name: name not in sys.modules):
        with suppress(ImportError):
            return importlib.import_module(name)
    raise MissingDependencyError("lightning", extra="lightning", purpose="propscope.integrations.lightning")


if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    Callback = _package().Callback


class SignalMonitor(Callback):  # type: ignore[misc]
    """Monitors what `Trainer.fit` trains, and shows numbers and alarms in the trainer's loggers.

    `every` and `arguments`: those of `propscope.monitor`. A step is one update, with all of its micro-batches; its
    number is the trainer's `global_step` before it, and in manual optimization the number of updates before it.
    `monitor`: the one of the fit that runs or ran last, None before the first. Its state goes into checkpoints, so a
    fit that resumes one goes on in its file. Under `fast_dev_run` nothing is written. Raises `InputError` for an
    invalid argument.
    """

    def __init__(self, every: int = 50, **arguments: Any) -> None:
        super().__init__()
        self._updates = Updates("SignalMonitor", {"every": every, **arguments})
        self._stepped = 0

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the fit that runs, or ran last."""
        return self._updates.monitor

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the monitor."""
        self._updates.open(
            trainer.model,
            trainer.optimizers,
            step=trainer.global_step,
            loss_scale=getattr(trainer.precision_plugin, "scaler", None),
            first=trainer.is_global_zero,
            writes=not trainer.fast_dev_run,
        )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin an update, where none runs."""
        if not self._updates.running:
            self._stepped = trainer.global_step
            # With several optimizers an update makes several steps.
            self._updates.begin(trainer.global_step if pl_module.automatic_optimization else None)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """See the gradients, which are accumulated, reduced, unscaled and not clipped."""
        # A fused optimizer unscales them itself.
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            self._updates.see_gradients()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End the update, where an optimizer stepped."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            # Lightning divides it.
            self._updates.see_loss(loss * trainer.accumulate_grad_batches)
        if trainer.global_step > self._stepped:
            self._updates.end()
            self._show(trainer)
        else:
            self._updates.end_batch()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Look away from the model, since a validation may come in the middle of an update."""
        self._updates.pause()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Record what stopped the update, and end the run."""
        self._updates.stop(exception)
        self._show(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the run."""
        self._updates.close()
        self._show(trainer)

    def _show(self, trainer: Any) -> None:
        # What the trainer's own metrics are shown over: how many batches stepped.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped

        def write(logger: Any, numbers: dict[str, float], alarms: Sequence[Alarm]) -> None:
            logger.log_metrics(numbers, step=step)
            show_alarms(alarms, logger.experiment, step)

        self._updates.show(trainer.loggers, write)

    def __getstate__(self) -> dict[str, Any]:
        # Lightning hangs methods of its module on a callback.
        return {"_updates": self._updates, "_stepped": self._stepped}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the monitor."""
        return self._updates.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._updates.restore(state_dict)
