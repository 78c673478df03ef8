"""`Updates`: the monitor of a training that a trainer runs, whose updates may take several batches each."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from propscope.checks import unknown_argument
from propscope.errors import PropscopeError, error_line
from propscope.monitoring import Monitor, monitor
from propscope.records.monitored import Alarm
from propscope.records.network import NetworkProfile

logger = logging.getLogger("propscope")

_ARGUMENTS = tuple(name for name in inspect.signature(monitor).parameters if name not in ("model", "optimizer"))
# These open something, which only a training may do.
_OPENING = ("file", "sinks", "group")


class Updates:
    """Keeps the monitor of a training that a trainer runs; a step of it is one update, with all of its batches.

    `arguments`: those of `monitor`, but for the model and the optimizer; `name` is what they were passed to. They are
    checked at once, while the monitor is made by `open`. `monitor`: the one of the training that runs or ran last, None
    before the first. A copy, also a pickled one, has no monitor, but goes on where this one was. Raises `InputError`
    for an invalid argument.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        for given in arguments:
            if given not in _ARGUMENTS:
                raise unknown_argument(name, given, _ARGUMENTS)
        self.arguments = dict(arguments)
        self.monitor: Monitor | None = None
        self.running = False
        self._open = False
        self._state: dict[str, Any] = {}
        self._batches = 0
        self._shown: NetworkProfile | None = None
        self._told = 0
        self._failed = False
        model = nn.ParameterList([nn.Parameter(torch.zeros(1))])
        checked = {given: value for given, value in arguments.items() if given not in _OPENING}
        monitor(model, torch.optim.SGD(model.parameters(), lr=0.1), **checked).close()

    def open(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        step: int,
        loss_scale: Any = None,
        sinks: Sequence[Any] = (),
        first: bool = True,
        writes: bool = True,
    ) -> None:
        """Make the monitor, which goes on from the last one, or from `restore`, where `step`, the first, is above 0.

        `loss_scale`: for where the user named none. `sinks`: beside those of the user. `first`: whether this is the
        first of several processes; without a group of them, the others have no monitor. `writes`: whether there may be
        a file and sinks.
        """
        self.close()
        arguments = {"loss_scale": loss_scale, "group": "world" if _are_several() else None, **self.arguments}
        if arguments["group"] is None and not first:
            return
        if sinks:
            own = arguments.get("sinks", ())
            arguments["sinks"] = [*sinks, *(own if isinstance(own, (list, tuple)) else [own])]
        if not writes:
            arguments = {name: value for name, value in arguments.items() if name not in ("file", "sinks")}
        self.monitor = made = monitor(model, optimizer, **arguments)
        self._open, self._shown, self._told = True, None, 0
        if self._state and step:
            try:
                made.load_state_dict(self._state)
            except PropscopeError as error:
                # A checkpoint of another version should not keep anybody from going on.
                logger.warning("the monitor begins anew: %s", error)

    def begin(self, number: int | None = None) -> None:
        """Begin a batch: the first of an update, which has this number, or a further one of the one that runs."""
        if self.monitor is not None and self._open and not self.running:
            self.monitor.begin(self.monitor.step(number).number)
            self.running, self._batches = True, 0

    def end_batch(self) -> None:
        """End a batch behind which the update goes on."""
        self._batches += 1
        if self._batches >= self.arguments.get("micro_batches", 1):
            self.pause()

    def pause(self) -> None:
        """End the recording of the model for this update, since what comes is not for it."""
        if self.monitor is not None:
            self.monitor.pause()

    def see_loss(self, loss: Any) -> None:
        """Note a loss of the running update."""
        if self.monitor is not None and self.running:
            self.monitor.see_loss(loss)

    def see_gradients(self) -> None:
        """Take the gradients as they are now, unscaled, for those before clipping."""
        if self.monitor is not None and self.running:
            self.monitor.see_gradients()

    def end(self, error: BaseException | None = None) -> None:
        """End the update that runs, which raised `error` where that is not None; then no other is raised."""
        if self.monitor is not None and self.running:
            self.running = False
            with suppress(*([] if error is None else [Exception])):
                self.monitor.end(error)

    def stop(self, error: BaseException) -> None:
        """End the update that runs, and the run, with the error that stopped it; no other is raised."""
        self.end(error)
        with suppress(Exception):
            self.close()

    def close(self) -> None:
        """End the run; what is not ended of an update is not recorded."""
        if self.monitor is not None and self._open:
            self._state = self.monitor.state_dict()
            self.running = self._open = False
            self.monitor.close()

    def show(self, loggers: Iterable[Any], write: Callable[[Any, dict[str, float], Sequence[Alarm]], None]) -> None:
        """Write what is new to each logger: the numbers of a sample, by the keys of sinks, and alarms, 1 for each kind.

        The loss and the learning rate are not among them, since trainers show their own. What `write` raises is said
        once.
        """
        if self.monitor is None:
            return
        sampled, alarms = self.monitor.profile, self.monitor.alarms[self._told :]
        numbers = {} if sampled is self._shown else self.monitor.series
        numbers = {key: value for key, value in numbers.items() if key not in ("loss", "learning_rate")}
        numbers |= {f"alarm/{alarm.kind.replace(' ', '_')}": 1.0 for alarm in alarms}
        self._shown, self._told = sampled, self._told + len(alarms)
        for one in loggers if numbers else ():
            self._attempt(write, one, dict(numbers), alarms)

    def _attempt(self, write: Callable[..., None], place: Any, *arguments: Any) -> None:
        try:
            write(place, *arguments)
        except Exception as error:
            if not self._failed:
                logger.warning("%s failed: %s; the run goes on", type(place).__name__, error_line(error))
            self._failed = True

    def state(self) -> dict[str, Any]:
        """Return what a resumed training goes on from; empty before the first."""
        return self.monitor.state_dict() if self.monitor is not None and self._open else self._state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, in the next training where none is open."""
        self._state = dict(state)
        if self.monitor is not None and self._open:
            self.monitor.load_state_dict(self._state)

    def __getstate__(self) -> dict[str, Any]:
        alone = {"monitor": None, "running": False, "_open": False, "_shown": None, "_told": 0}
        return {**vars(self), **alone, "_state": self.state()}


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def show_alarms(alarms: Sequence[Alarm], place: Any, step: int) -> None:
    """Show what alarms say in a place that takes text, a SummaryWriter of TensorBoard or a run of W&B."""
    for alarm in alarms:
        if callable(getattr(place, "add_text", None)):
            place.add_text("alarm", str(alarm), step)
        elif callable(getattr(place, "alert", None)):
            place.alert(title=f"step {alarm.step}: {alarm.kind}", text=str(alarm))
