"""`SignalMonitor`: the monitor in a loop of Accelerate, in two lines around `accelerator.backward`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from propscope.errors import MissingDependencyError
from propscope.integrations.updates import Updates
from propscope.monitoring import Monitor

try:
    from accelerate import Accelerator
except ImportError as error:
    raise MissingDependencyError(
        "accelerate", extra="accelerate", purpose="propscope.integrations.accelerate"
    ) from error


class SignalMonitor:
    """Monitors a training by an `Accelerator`, and shows numbers and alarms where it tracks them.

    `model` and `optimizer`: those that `accelerator.prepare` returned; of several optimizers, a list. `every` and
    `arguments`: those of `propscope.monitor`. Each `batch` wraps one batch; a step is one update, with all the batches
    that `accelerator.accumulate` gathers for it. A context manager, which ends the run.
    `accelerator.register_for_checkpointing` takes it. Raises `InputError` for an invalid argument.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        every: int = 50,
        **arguments: Any,
    ) -> None:
        self._accelerator = accelerator
        self._updates = Updates("SignalMonitor", {"every": every, **arguments})
        # What other trackers show, no sink writes to.
        trackers = [one.tracker for one in accelerator.trackers if one.name in ("tensorboard", "wandb", "mlflow")]
        self._updates.open(
            model,
            optimizer,
            step=0,
            loss_scale=accelerator.scaler,
            sinks=trackers if accelerator.is_main_process else (),
            first=accelerator.is_main_process,
        )

    def __enter__(self) -> SignalMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the training; without a group, None on a process that is not the main one."""
        return self._updates.monitor

    @contextmanager
    def batch(self) -> Iterator[SignalMonitor]:
        """Wrap one batch; put it inside `accelerator.accumulate`, around the model's run and `optimizer.step`."""
        self._updates.begin()
        try:
            yield self
        except BaseException as error:
            self._updates.end(error)
            raise
        if self._accelerator.sync_gradients:
            self._updates.end()
        else:
            self._updates.end_batch()

    def loss(self, value: Any) -> None:
        """Note the loss of a batch, a number or a tensor, as it is passed to `accelerator.backward`."""
        self._updates.see_loss(value)

    def close(self) -> None:
        """End the run."""
        self._updates.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training goes on from."""
        return self._updates.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self._updates.restore(state)
