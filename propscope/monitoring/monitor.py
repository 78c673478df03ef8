"""`monitor`: the record of a training, every so many steps, and its alarms; between samples the model is untouched."""

from __future__ import annotations

import atexit
import inspect
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from propscope.checks import count, file_path, known_arguments, one_of, shown
from propscope.errors import InputError, error_line
from propscope.measure.filters import Filter, Patterns
from propscope.measure.hooks import Guard
from propscope.measure.loss_scale import scale_of
from propscope.measure.rank_places import Places, numbers_of_one
from propscope.measure.ranks import ranks_of, refuse_differences
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options, Stats
from propscope.measure.wrappers import require_module, steps_unevenly, unwrapped
from propscope.monitoring.agreed_cadence import AgreedCadence
from propscope.monitoring.alarms import Judge
from propscope.monitoring.cadence import Cadence
from propscope.monitoring.control import Control
from propscope.monitoring.losses import first_broken, loss_of, mean_loss
from propscope.monitoring.optimizer_steps import OptimizerStep, OptimizerSteps, optimizers_in
from propscope.monitoring.rank_group import Numbers, RankGroup
from propscope.monitoring.recording import Recording, parameters_with_values
from propscope.monitoring.run_log import RunLog
from propscope.monitoring.sinks import series_of, sinks_of
from propscope.monitoring.unread_steps import UnreadStep, with_step
from propscope.records.monitored import Alarm, Steps
from propscope.records.network import Label, NetworkProfile
from propscope.store import MonitoredFile

# A file holds step numbers of 64 bits.
_LARGEST = 2**63
_monitored: weakref.WeakValueDictionary[int, Monitor] = weakref.WeakValueDictionary()


@known_arguments
def monitor(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer],
    *,
    every: int = 50,
    file: str | os.PathLike[str] | None = None,
    start: int = 0,
    stop: int | None = None,
    include: Patterns = None,
    exclude: Patterns = None,
    stats: Stats = "all",
    micro_batches: int = 1,
    loss_scale: Any = None,
    budget: float | None = 0.02,
    alarms: bool = True,
    on_alarm: Callable[[Alarm], object] | None = None,
    sinks: Any = (),
    group: Any = None,
) -> Monitor:
    """Return a `Monitor`, which samples the training of `model` by `optimizer` and says what goes wrong in it.

    `optimizer`: one, or a list of several that step parts of the model, as those of a GAN do. `every`: a sample is
    taken at each step whose number is a multiple of it, from `start` to before `stop`, and at the first step. `file`:
    the result file, None for none; where a file of that name exists, a number is added to the name. `include`,
    `exclude`, `stats`: as in `track`. `micro_batches`: how many backward passes of a sampled step are recorded; the
    gradients of parameters cover all of them. `loss_scale`: the factor of the loss, a number or a `GradScaler`.
    `budget`: the share of the run's time that the monitor may cost, above 0 and at most 1, None for any; the first 10
    samples, and 2 s, are free. `alarms`: whether to judge the run by the rules of docs/monitoring.md. `on_alarm` is
    called with each alarm; an exception that it raises ends the step, so it may stop the run. On the CPU, an alarm
    about a gradient that is not finite comes before the optimizer steps with it. `sinks`: where the numbers and alarms
    are shown beside the file: a list of text, `tensorboard:DIR`, `wandb:PROJECT[/NAME]`, `mlflow:EXPERIMENT`,
    `csv:PATH` or `jsonl:PATH`, each also with `:sites=all`; of SummaryWriters, runs of wandb or mlflow, objects with
    the methods of `propscope.monitoring.sinks.Sink`. `group`: a process group of torch.distributed, or "world": its
    ranks, each of which calls this and takes the same steps, put together what they see, so that the record is that of
    one process on the samples of all of them; the first one writes. docs/distributed.md says what each number means.
    None: the numbers of this process alone.

    Raises `InputError` for an invalid argument, a model without parameters, an optimizer that has none of them, and a
    model that has a monitor already; `MissingDependencyError` for a sink whose package is not installed.
    """
    if not isinstance(alarms, bool):
        raise InputError(f"alarms must be True or False, got {shown(alarms)}", hint="on_alarm takes a function")
    if on_alarm is not None and not _takes_one(on_alarm):
        raise InputError(f"on_alarm must be a function of an Alarm or None, got {shown(on_alarm)}")
    path = None if file is None else Path(file_path("file", file))
    options = Options(stats=one_of("stats", stats, ("all", "moments")))  # type: ignore[arg-type]
    cadence = Cadence(every, start=start, stop=stop, budget=budget)
    if (ranks := ranks_of(group)) is not None:
        require_module(model)
        settings = {"every": every, "start": start, "stop": stop, "stats": stats, "micro_batches": micro_batches}
        same = [f"{name}={value}" for name, value in settings.items()]
        refuse_differences("monitor must have the same every, start, stop, stats and micro_batches", same, ranks)
        options = replace(options, places=Places.of(model, ranks))
        cadence = AgreedCadence(every, start=start, stop=stop, budget=budget, ranks=ranks)
        if ranks.rank:
            path, sinks = None, ()
    return Monitor(
        model,
        optimizer,
        cadence,
        file=path,
        kept=Filter.of(include, exclude, None, None),
        options=options,
        micro_batches=count("micro_batches", micro_batches),
        loss_scale=loss_scale,
        alarms=alarms,
        on_alarm=on_alarm,
        sinks=sinks,
    )


class Monitor:
    """Watches a training: `step` wraps one update, or `advance` is called after each; `close` ends it.

    A context manager. On a sampled step a `Recorder` watches the model; between samples the model has no hook, and each
    optimizer has two. A monitor that is forgotten is closed when it is collected, or at the end of the process.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer],
        cadence: Cadence,
        *,
        file: Path | None,
        kept: Filter,
        options: Options,
        micro_batches: int,
        loss_scale: Any,
        alarms: bool,
        on_alarm: Callable[[Alarm], object] | None,
        sinks: Any,
    ) -> None:
        self._model = model
        self._options = options
        self._loss_scale = loss_scale
        self._cadence = cadence
        require_module(model)
        optimizers = optimizers_in(optimizer)
        _check(model, optimizers)
        self._guard = Guard()
        # It knows nothing of the monitor, which may be forgotten while a step is watched.
        self._recording = Recording(
            model, kept=kept, loss_scale=loss_scale, micro_batches=micro_batches, guard=self._guard
        )
        # Making a recorder checks the rest of the arguments.
        self._recording.recorder(options)
        self._file = None if file is None else MonitoredFile(file)
        self._group = None if options.places is None else RankGroup(model, options.places)
        self._log = RunLog(
            cadence, alarms=alarms, on_alarm=on_alarm, file=self._file, sinks=sinks_of(sinks), group=self._group
        )
        if self._group is None and (alone := numbers_of_one(model)):
            self._log.warn_once("rank", alone)
        self._control = None if self._file is None else Control(self._file, cadence, self._log.warn_once)
        # What a sink does at the end of the process, as wandb does, comes later then.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
        # Nor do these, while the optimizers hold their hooks.
        self._steps = OptimizerSteps(
            optimizers,
            self._guard,
            names=lambda: {id(one): name for name, one in parameters_with_values(model).items()},
            accumulated=self._recording.gradients.norms,
            seen=self._log.see_gradients,
        )
        self._losses: list[Tensor] = []
        self._last: int | None = None
        # Whether no step was begun since a state was loaded.
        self._resumed = False
        # What is added to the numbers of the steps since they began again.
        self._ahead = 0
        self._running: int | None = None
        # Whether the step that runs is a `with` block.
        self._wrapped = False
        self._started = 0.0
        self._own = 0.0
        self._profile: NetworkProfile | None = None
        self._scale: Tensor | None = None
        self._process = os.getpid()
        _monitored[id(unwrapped(model))] = self
        self._finalizer = weakref.finalize(
            self, _finish, self._recording, self._steps, self._log, self._control, os.getpid()
        )
        # By then h5py would be closed; `_close_all` comes earlier.
        self._finalizer.atexit = False

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self.yielding_to(error):
            self.close()

    @contextmanager
    def yielding_to(self, error: BaseException | None) -> Iterator[None]:
        """Let what `on_alarm` raises give way to the error that the program raised already, which it would hide."""
        try:
            yield
        except Exception as raised:
            if error is None:
                raise
            self._log.warn_once("on_alarm", f"on_alarm raised {error_line(raised)} after the run had raised its own")

    @property
    def every(self) -> int:
        """A sample is taken at each step whose number is a multiple of this; it may be set during the run."""
        return self._cadence.every

    @every.setter
    def every(self, value: int) -> None:
        self._cadence.every = count("every", value)

    @property
    def sampling(self) -> bool:
        """Whether steps are sampled; it may be set during the run. While it is False, `request` still samples one."""
        return self._cadence.on

    @sampling.setter
    def sampling(self, value: bool) -> None:
        self._cadence.switch(on=bool(value))

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """The alarms so far."""
        return tuple(self._log.alarms)

    @property
    def file(self) -> Path | None:
        """The result file; its name has a number where the one that was asked for is taken. None for none."""
        return None if self._file is None else self._file.path

    @property
    def steps(self) -> Steps:
        """The steps so far; on a device other than the CPU, those up to the last sample."""
        return self._log.steps

    @property
    def profile(self) -> NetworkProfile | None:
        """The last sample; None before the first."""
        return self._profile

    @property
    def series(self) -> dict[str, float]:
        """The numbers of the last sample that a sink gets, by their keys; empty before the first."""
        return {} if self._profile is None else series_of(self._profile, self._log.sampled, "worst")

    def request(self) -> None:
        """Sample the next step."""
        self._cadence.request()

    def step(self, number: int | None = None) -> Step:
        """Return the context of one whole update: its passes, the clipping, and the step of the optimizer.

        `number`: of the step in the whole run, None for the next one. Where the numbers begin again, as in each epoch
        of `enumerate(loader)`, they are counted on from the last step, which is said once. Raises `InputError` once
        the monitor is closed.
        """
        if not self._finalizer.alive:
            raise InputError("the monitor is closed", hint="make a new one with propscope.monitor")
        expected = 0 if self._last is None else self._last + 1
        if number is None:
            return Step(self, expected)
        counted = count("step", number, least=0) + self._ahead
        if counted >= _LARGEST:
            raise InputError(f"step must be below 2^63, got {shown(number)}")
        if counted < expected:
            self._ahead += expected - counted
            counted = expected
            text = f"step {number} comes after step {self._last}: it is counted as step {expected}, and so on"
            self._log.warn_once("step", text)
        return Step(self, counted)

    def advance(self, loss: Any = None) -> None:
        """End the step that runs and begin the next one; call it once after each step of the optimizer.

        `loss`: of the step that ended, a number or a tensor. The step before the first call is not seen.
        """
        if self._left_in_fork():
            return
        if self._running is None:
            self._last = 0 if self._last is None else self._last + self._resumed
        elif self._wrapped:
            raise InputError(
                f"step {self._running} is a `with` block, which advance() cannot end",
                hint="call advance() in a loop without `with monitor.step()`",
            )
        else:
            self.see_loss(loss)
            self.end(None)
        self.begin(self.step().number)

    def pause(self) -> None:
        """End the recording of the model on a sampled step, whose gradients and update are still followed.

        For a loop that runs the model for something else in the middle of a step, as for a validation.
        """
        self._recording.stop()

    def see_gradients(self) -> None:
        """Take the gradients as they are now for those of a sampled step; call it after unscaling and before clipping.

        Without it they are those at the end of the last backward pass, divided by the loss scale.
        """
        self._attempt("the gradients could not be read", self._recording.gradients.see_unscaled)

    def close(self) -> None:
        """End the run: judge what is pending, write the result file, remove all hooks; further calls do nothing.

        A step that still runs is not recorded.
        """
        self._abandon()
        _monitored.pop(id(unwrapped(self._model)), None)
        self._finalizer()

    def begin(self, number: int, *, wrapped: bool = False) -> int:
        """Begin a step, a `with` block where it is `wrapped`, and return its number; `Step` and `advance` call it."""
        if self._left_in_fork():
            return number
        if self._running is not None:
            raise InputError(
                f"step {self._running} is still running",
                hint="leave its `with` block first; a loop that calls advance() has none",
            )
        # A context may be entered twice, or long after it was made.
        number = number if self._last is None else max(number, self._last + 1)
        self._wrapped = wrapped
        self._started = time.perf_counter()
        try:
            self._begin(number)
        except BaseException:
            # Only what interrupts the program comes here, as Ctrl+C does.
            self._abandon()
            raise
        self._own = time.perf_counter() - self._started
        return number

    def _begin(self, number: int) -> None:
        self._running = self._last = number
        self._resumed = False
        self._losses.clear()
        self._scale = scale_of(self._loss_scale)
        if self._steps.settings_jump():
            self._cadence.hurry()
        if self._group is not None and steps_unevenly(self._model):
            # Who is left with more steps would wait for the others for ever. All ranks see this at the same step.
            self._log.warn_once("join", "ranks may take other numbers of steps in DDP's join(), so each goes on alone")
            self._leave_group()
        sampled = self._cadence.due(number)
        self._steps.begin(number, sampled=sampled)
        self._recording.gradients.forget()
        if sampled:
            self._attempt("a sample could not be begun", self._recording.begin, self._options)

    def _left_in_fork(self) -> bool:
        """In a process that was forked, leave the step that runs and return True: its copy must not write the file."""
        if os.getpid() == self._process:
            return False
        self._abandon()
        self._log.warn_once("process", "the monitor was made in another process, and does not watch this one")
        return True

    def _abandon(self) -> None:
        """Leave the step that runs, and record nothing of it."""
        self._recording.end()
        self._steps.end()
        self._running = None

    def see_loss(self, value: Any, number: int | None = None) -> None:
        """Note a loss of the step `number`, None for the one that runs; `Step.loss` calls it."""
        if number is not None and number != self._running:
            self._log.warn_once(
                "late loss", f"the loss of step {number} came outside of its `with` block, so it is left out"
            )
            return
        self._attempt("a loss could not be read", self._keep_loss, value)

    def _keep_loss(self, value: Any) -> None:
        if value is not None:
            with torch.no_grad():
                self._losses.append(loss_of(value))

    def end(self, error: BaseException | None) -> None:
        """End the step that runs, which raised `error` where that is not None; `Step` and `advance` call it."""
        if not self._finalizer.alive:
            # It was closed within the step, perhaps by `on_alarm` in a hook of the optimizer.
            self._steps.close()
        if self._running is None or self._left_in_fork():
            return
        ended = time.perf_counter()
        number, self._running = self._running, None
        recorder = self._recording.end(error)
        self._attempt("a step could not be recorded", self._keep, number, recorder, ended - self._started, error)
        now = time.perf_counter()
        own = self._own + self._steps.seconds + now - ended
        self._cadence.end(seconds=now - self._started, own=own, sampled=recorder is not None)
        self._steps.end()
        if isinstance(self._cadence, AgreedCadence) and self._cadence.meets and error is None:
            what = "the ranks could not agree on the next sample, each goes on alone"
            self._attempt(what, self._agree, self._cadence, number)
        if self._control is not None:
            self._attempt("the control file could not be read", self._control.look)
        self._log.tell()

    def _keep(self, number: int, recorder: Recorder | None, seconds: float, error: BaseException | None) -> None:
        self._steps.see_compiled()
        steps, accumulated = self._steps.found, self._recording.gradients.norms()
        self._log.add(
            UnreadStep(
                number,
                seconds,
                loss=mean_loss(self._losses),
                broken=None if self._group is None else first_broken(self._losses),
                gradients=[one.gradients for one in steps if one.gradients is not None],
                # What an optimizer stepped with counts, and not what came to it in a later pass.
                accumulated=[one for one in (accumulated, *(step.accumulated for step in steps)) if one is not None],
                scale=self._scale if self._scale is not None else scale_of(self._loss_scale),
                found_inf=[one.found_inf for one in steps if one.found_inf is not None],
                learning_rate=self._steps.learning_rate,
                moments_left=self._steps.moments_left,
                skipped=not self._steps.taken,
                error="" if error is None else error_line(error),
                # What sinks compute on other cores may come to more than the run.
                monitor_share=min(self._cadence.share, 1.0) if self._cadence.elapsed else math.nan,
            )
        )
        if recorder is None:
            return
        if self._group is not None and error is not None:
            # The other ranks failed too, or wait for this one until their framework ends that.
            return
        profile, norms = self._sampled(number, recorder, steps)
        if profile.sites:
            self._recording.trace_like(recorder)
        if error is None and not profile.sites:
            text = f"the monitored model did not run in step {number}; was another one made in its place?"
            self._log.warn_once("model", text)
        passed = () if accumulated is None else accumulated.only or ()
        if error is None and not self._steps.taken and passed and self._recording.changed(passed):
            text = f"step {number} changed the weights, but by no optimizer that the monitor was given"
            self._log.warn_once("optimizer", f"{text}; was another one made in its place?")
        profile = with_step(profile, steps, gradients=self._log.accumulated, numbers=norms)
        profile = replace(profile, coverage=(*profile.coverage, *self._guard.notes.values()))
        self._guard.notes.clear()
        self._profile = self._log.sample(number, profile, recorder.origins)

    def _sampled(
        self, number: int, recorder: Recorder, steps: Sequence[OptimizerStep]
    ) -> tuple[NetworkProfile, list[Numbers | None] | None]:
        """Return the record of a step, of all ranks where there are several, and the norms that they put together."""
        labels: dict[str, Label] = {"step": number}
        if self._group is None:
            self._log.read()
            return recorder.profile(labels=labels), None
        together = self._log.share(steps)
        try:
            profile = recorder.profile(labels=labels, moment=number, beside=lambda: {"steps": together.share})
        except BaseException:
            self._leave_group()
            self._log.see(together, None)
            raise
        return profile, self._log.see(together, recorder.beside.get("steps"))

    def _agree(self, cadence: AgreedCadence, number: int) -> None:
        try:
            cadence.agree(number)
        except BaseException:
            self._leave_group()
            raise

    def _leave_group(self) -> None:
        """Go on with the numbers of this process alone."""
        if isinstance(self._cadence, AgreedCadence):
            self._cadence.leave()
        self._options = replace(self._options, places=None)
        self._group = None
        self._log.leave()

    def _attempt(self, what: str, work: Callable[..., None], *arguments: Any) -> None:
        """Do propscope's own work; what it raises is said once, and the run goes on."""
        try:
            work(*arguments)
        except Exception as error:
            text = str(error) if isinstance(error, InputError) else error_line(error)
            self._log.warn_once(what, f"{what}: {text}")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as numbers and text alone: baselines, the cost so far, the file."""
        # A step that still runs is not recorded, and taken again.
        last = self._last if self._running is None else self._running - 1 if self._running else None
        state = {"step": last, "cadence": self._cadence.state(), "judge": self._log.judge.state()}
        if self._file is not None:
            state["file"] = {"path": str(self._file.path), "run": self._file.identity}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, in its file where this monitor has one and no step was taken yet.

        Steps that are taken again are marked: their earlier samples get the label `superseded_step`. A step that runs
        is not recorded. Raises `InputError` for a `state` that no `state_dict` returned, and changes nothing then.
        """
        try:
            judge, taken = Judge(), self._last is not None
            judge.restore(state["judge"])
            last = None if state["step"] is None else count("step", state["step"], least=0)
            file = None if (given := state.get("file")) is None else (Path(given["path"]), given["run"])
            if not taken:
                self._cadence.restore(state["cadence"])
        except (KeyError, TypeError, AttributeError, ValueError):
            raise InputError(
                f"state must be what Monitor.state_dict returned, got {shown(state)}",
                hint="keep monitor.state_dict() in the checkpoint",
            ) from None
        self._abandon()
        if taken:
            self._log.rewind()
        elif self._file is not None and file is not None:
            self._file.resume(*file)
        self._log.judge, self._last, self._resumed = judge, last, last is not None
        if taken or last is not None:
            self._log.resume(0 if last is None else last + 1)


class Step:
    """The context of one update, the step `number`; `loss` notes its loss."""

    def __init__(self, owner: Monitor, number: int) -> None:
        self.number = number
        self._owner = owner

    def __enter__(self) -> Step:
        self.number = self._owner.begin(self.number, wrapped=True)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._owner.yielding_to(error):
            self._owner.end(error)

    def loss(self, value: Any) -> None:
        """Note the loss, a number or a tensor; the loss of several micro-batches is their mean."""
        self._owner.see_loss(value, self.number)


def _finish(recording: Recording, steps: OptimizerSteps, log: RunLog, control: Control | None, process: int) -> None:
    recording.end()
    steps.close()
    # A process that was forked holds a copy of the monitor, which is not its to end.
    if os.getpid() == process:
        if control is not None:
            control.close()
        log.close()


@atexit.register
def _close_all() -> None:
    for one in list(_monitored.values()):
        one.close()


def _takes_one(function: Any) -> bool:
    """Return whether a function can be called with one argument, as far as it tells."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        return callable(function)
    return True


def _check(model: Any, optimizers: Sequence[Optimizer]) -> None:
    name = type(model).__name__
    parameters = parameters_with_values(model)
    if not any(one.requires_grad for one in parameters.values()):
        every = list(model.parameters())
        what = "without any" if not every else "with frozen ones alone" if parameters else "on the meta device"
        raise InputError(f"model must have parameters that are trained, got a {name} {what}")
    if not optimizers:
        raise InputError("optimizer must be an optimizer or a list of some, got an empty list")
    for one in optimizers:
        stepped = {id(parameter) for group in one.param_groups for parameter in group["params"]}
        if stepped.isdisjoint(map(id, parameters.values())):
            raise InputError(
                f"optimizer must have parameters of the model, got a {type(one).__name__} with none of this {name}",
                hint="make the optimizer from model.parameters()",
            )
    if id(unwrapped(model)) in _monitored:
        raise InputError(f"this {name} has a monitor already", hint="close the other one first")
