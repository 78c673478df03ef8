"""`RunLog`: what a monitored run has shown so far; numbers wait on their device until they are read together."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from propscope.errors import PropscopeError
from propscope.measure.ranks import Origin, Share
from propscope.measure.sums import widest
from propscope.monitoring.alarms import Judge
from propscope.monitoring.cadence import Cadence
from propscope.monitoring.norms import NamedNorms
from propscope.monitoring.optimizer_steps import OptimizerStep
from propscope.monitoring.rank_group import RankGroup, StepNumbers
from propscope.monitoring.sinks import Delivery, Sink
from propscope.records.kept_sample import kept_sample
from propscope.records.monitored import Alarm, MonitoredRun, Steps, joined_steps, no_steps
from propscope.records.network import CoverageNote, NetworkProfile
from propscope.records.numerals import counted
from propscope.store import MonitoredFile

Numbers = list[float]

logger = logging.getLogger("propscope")

# At most so many steps wait to be read from their device, or to be written.
_MOST_WAITING = 1000
# Steps are kept in at most so many pieces, of which each takes more memory than a step.
_PIECES = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """What one step left on its device: each number as a 0-d tensor.

    `broken`: the number of the first micro-batch whose loss is not finite, from 1, 0 where all are.
    `gradients`: of what each optimizer stepped with. `accumulated`: of what the backward passes left, on sampled
    steps; of two norms of one parameter the last one counts. `scale`: of the loss. `found_inf`: above 0 where a fused
    optimizer skipped its step.
    """

    number: int
    seconds: float
    loss: Tensor | None = None
    broken: Tensor | None = None
    gradients: Sequence[NamedNorms] = ()
    accumulated: Sequence[NamedNorms] = ()
    scale: Tensor | None = None
    found_inf: Sequence[Tensor] = ()
    learning_rate: float | None = None
    skipped: bool = False
    error: str = ""
    monitor_share: float = math.nan

    @property
    def tensors(self) -> list[Tensor | None]:
        """All that waits on a device."""
        norms = (*self.gradients, *self.accumulated)
        return [
            self.loss,
            self.scale,
            self.broken,
            *self.found_inf,
            *(part for one in norms for part in (one.values, one.scale)),
        ]


class Together(NamedTuple):
    """Steps that the ranks put together: `own` of the numbers are those of the readings. `share`: what is brought."""

    readings: Sequence[Reading]
    own: int
    numbers: StepNumbers
    share: Share


class RunLog:
    """Keeps what is not written yet, judges it, and writes it to `file`, None for a run without one."""

    def __init__(
        self,
        cadence: Cadence,
        *,
        alarms: bool,
        on_alarm: Callable[[Alarm], object] | None,
        file: MonitoredFile | None,
        sinks: Mapping[str, Sink],
        group: RankGroup | None = None,
    ) -> None:
        self.cadence = cadence
        # The ranks that put their numbers together at each sample; then no step is read before.
        self._group = group
        self.judge = Judge()
        self.alarms: list[Alarm] = []
        self._judges = alarms
        self._on_alarm = on_alarm
        self._file = file
        self._waiting: list[Reading] = []
        # The file that holds the earlier steps, and those that none holds.
        self._begun: MonitoredFile | None = None
        self._steps: list[Steps] = []
        # Whether the next step is taken again, and others after it.
        self._rewound = False
        self._rows: list[dict[str, Any]] = []
        self._unwritten: list[Alarm] = []
        self._untold: list[Alarm] = []
        # Whether an alarm was raised since the last sample.
        self._alarmed = False
        self._row: dict[str, Any] = {}
        # The row of the step that was sampled last.
        self.sampled: dict[str, Any] = {}
        # The norms of the last step's accumulated gradients, by parameter; what no backward pass made has none.
        self.accumulated: dict[str, float] = {}
        self._warned: set[str] = set()
        self._closed = False
        self._delivery = Delivery(sinks, self.warn_once)

    def add(self, reading: Reading) -> None:
        """Add a step; what waits on the CPU is read at once, which costs nothing there, and else by `read`."""
        self._waiting.append(reading)
        if self._group is not None and len(self._waiting) < _MOST_WAITING:
            return
        if all(one is None or _costs_no_wait(one) for one in reading.tensors) or len(self._waiting) >= _MOST_WAITING:
            self.read()

    def see_gradients(self, step: int, found: NamedNorms, values: Callable[[], NamedNorms]) -> None:
        """Judge what an optimizer is about to step with, where reading it costs no wait; `on_alarm` may stop it.

        `values`: returns the norms of the parameters that it steps.
        """
        if not self._judges or self._group is not None or not _costs_no_wait(found.values):
            return
        numbers = found.values.tolist()
        if math.isfinite(sum(numbers)):
            return
        now = values()
        norms, sizes = _norms(found, numbers, None), _norms(now, now.values.tolist(), None)
        if alarms := self.judge.gradients(step, norms, sizes):
            self._raise(alarms)
            self.tell()

    def read(self) -> None:
        """Read and judge the steps that wait."""
        readings = self._taken()
        self._see(readings, _on_cpu([tensor for reading in readings for tensor in reading.tensors]), {})

    def _taken(self) -> list[Reading]:
        taken, self._waiting = self._waiting, []
        return taken

    def _see(
        self, readings: Sequence[Reading], numbers: Sequence[Numbers | None], origins: Mapping[int, Origin]
    ) -> None:
        values = iter(numbers)
        for reading in readings:
            row, stepped, self.accumulated = _row(reading, values)
            self._rows.append(row)
            self._row = row
            if self._judges:
                alarms = self.judge.step(row, stepped)
                self._raise([_with_origin(one, "non-finite loss", origins.get(row["number"])) for one in alarms])
        if len(self._rows) >= _MOST_WAITING:
            self._write_piece(())

    def share(self, steps: Sequence[OptimizerStep]) -> Together:
        """Take the steps that wait, and the norms of the last one, so that the ranks put them together."""
        assert self._group is not None
        readings = self._taken()
        parts = _parts_of(steps)
        tensors = [tensor for reading in readings for tensor in reading.tensors]
        mine = len(tensors)
        tensors += [tensor for part in parts for one in part for tensor in (one.values, one.scale)]
        losses, norms, at = [], [], 0
        values = _on_cpu(tensors)
        for reading in readings:
            broken = values[at + 2]
            losses.append((at, 0 if broken is None else int(broken[0])))
            at += 3 + len(reading.found_inf)
            for one in (*reading.gradients, *reading.accumulated):
                norms.append((at, one.names))
                at += 2
        for one in (one for part in parts for one in part):
            norms.append((at, one.names))
            at += 2
        numbers = StepNumbers(values, losses, norms, [reading.number for reading in readings])
        return Together(readings, mine, numbers, self._group.share(numbers))

    def see(self, together: Together, found: Any) -> list[Numbers | None]:
        """Judge the steps that were put together, and return the numbers of the last one's norms.

        `found`: what came of the share, None where the ranks had nothing in common.
        """
        values, origins = (together.numbers.values, {}) if found is None else found
        self._see(together.readings, values[: together.own], origins)
        return list(values[together.own :])

    @property
    def steps(self) -> Steps:
        """The steps that were read by now."""
        written = no_steps() if self._begun is None else self._begun.steps
        return joined_steps([written, *self._steps, Steps.of(self._rows)])

    def sample(
        self, step: int, profile: NetworkProfile, origins: Mapping[str, Origin] = MappingProxyType({})
    ) -> NetworkProfile:
        """Judge the sample of a step, write what is kept of it with all steps that were read before, and return that.

        The first sample at or behind an alarm keeps its histograms. `origins`: where values that are not finite came up
        first, by site.
        """
        if self._judges:
            alarms = self.judge.sample(step, profile)
            self._raise([_with_origin(one, "non-finite values", origins.get(one.site)) for one in alarms])
        kept = kept_sample(profile, histograms=self.cadence.full or self._alarmed)
        self._alarmed = False
        self._write_piece((kept,))
        self.sampled = self._row
        self._delivery.write(step, kept, self.sampled)
        return kept

    @property
    def _tells(self) -> bool:
        """Whether this process writes and says what happens; of several ranks, the first one."""
        return self._group is None or self._group.is_first

    def leave(self) -> None:
        """Go on with the numbers of this process alone."""
        if self._group is not None and not self._group.is_first:
            self._file = None
        self._group = None

    def resume(self, step: int) -> None:
        """Say that the run takes the steps from this one on again."""
        self._delivery.resume(step)

    def rewind(self) -> None:
        """End what was seen so far as an earlier part of the run: steps of it are taken again."""
        self.read()
        self._write_piece(())
        self._rewound = True
        if self._file is not None:
            self._attempt(self._file.rewind)

    def _raise(self, alarms: Sequence[Alarm]) -> None:
        self._unwritten += alarms
        self._untold += alarms
        self._alarmed |= bool(alarms)
        if self.judge.suspicious:
            self.cadence.hurry()
        elif self.judge.curious:
            self.cadence.hurry(1)

    def tell(self) -> None:
        """Pass the new alarms on, and count what the sinks cost; what `on_alarm` raises passes through."""
        self.cadence.charge(self._delivery.spent())
        untold, self._untold = self._untold, []
        self.alarms += untold
        for alarm in untold if self._tells else ():
            _warn(str(alarm))
        self._delivery.alarms(untold)
        if self._on_alarm is not None:
            for alarm in untold:
                self._on_alarm(alarm)

    def _write_piece(self, profiles: tuple[NetworkProfile, ...]) -> None:
        piece = MonitoredRun(profiles, Steps.of(self._rows), tuple(self._unwritten))
        self._rows, self._unwritten = [], []
        if self._file is not None and (profiles or len(piece.steps) or piece.alarms):
            self._begun = self._file
            self._attempt(self._file.add, piece)
        if self._file is None:
            if self._rewound and len(piece.steps):
                earlier = MonitoredRun((), joined_steps(self._steps)).superseded_from(min(piece.steps.number))
                self._steps, self._rewound = [earlier.steps], False
            self._steps.append(piece.steps)
            if len(self._steps) >= _PIECES:
                self._steps = [joined_steps(self._steps)]

    def _attempt(self, write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except (PropscopeError, OSError) as error:
            self._file = None
            self.warn_once("write", f"the run is not written any more: {error}")

    def warn_once(self, about: str, text: str) -> None:
        """Say something once."""
        if about not in self._warned:
            self._warned.add(about)
            _warn(f"{text}; the run goes on")

    def close(self) -> None:
        """Read, judge and write what is left, end the file, and print what the monitor cost."""
        if self._closed:
            return
        self._closed = True
        started = time.perf_counter()
        self.read()
        self._write_piece(())
        if self._file is not None:
            try:
                self._file.save()
            except (PropscopeError, OSError) as error:
                hint = getattr(error, "hint", "")
                self.warn_once("finish", f"{error}{hint and f'; {hint}'}")
        taken = time.perf_counter() - started
        if self.cadence.elapsed and self._tells:
            self.cadence.cost += taken
            self.cadence.elapsed += taken
            raised = len(self.alarms) + len(self._untold)
            alarms = f", {counted(raised, 'alarm')}" if self._judges else ""
            _print(
                f"propscope: {counted(self.cadence.samples, 'sample')}{alarms}; the monitor took "
                f"{self.cadence.cost:.1f} s of {self.cadence.elapsed:.1f} s ({self.cadence.share:.1%})"
            )
        try:
            self.tell()
        finally:
            self._delivery.close()


def _print(text: str) -> None:
    """Print a line on stderr, above the progress bars that tqdm draws there."""
    if (bars := sys.modules.get("tqdm")) is not None:
        bars.tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr)


def _warn(text: str) -> None:
    """Log a warning; where no handler takes it, print it, since logging would write into the line of a progress bar."""
    if logger.hasHandlers() or logging.lastResort is None:
        logger.warning("%s", text)
    elif logger.isEnabledFor(logging.WARNING):
        _print(text)


def _row(
    reading: Reading, values: Iterator[Numbers | None]
) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Return a step as a row of `STEP_FIELDS`, and the norms of its gradients by parameter, both kinds.

    `values`: the numbers of the reading's tensors.
    """
    loss, scale, _ = next(values), next(values), next(values)
    left_out = [next(values) for _ in reading.found_inf]
    stepped = _joined(reading.gradients, values)
    before = _joined(reading.accumulated, values)
    norm = _length(stepped)
    both = stepped.keys() & before.keys()
    whole, clipped = (_length({name: norms[name] for name in both}) for norms in (before, stepped))
    row = {
        "number": reading.number,
        "loss": math.nan if loss is None else float(loss[0]),
        "loss_given": loss is not None,
        "gradient_norm": norm,
        "clip_factor": clipped / whole if 0 < whole < math.inf and clipped < math.inf else math.nan,
        "loss_scale": math.nan if scale is None else float(scale[0]),
        "learning_rate": math.nan if reading.learning_rate is None else float(reading.learning_rate),
        "nonfinite_gradients": sum(not math.isfinite(one) for one in stepped.values()) if stepped else -1,
        "skipped": int(reading.skipped or any(one is not None and one[0] > 0 for one in left_out)),
        "superseded": 0,
        "seconds": reading.seconds,
        "error": reading.error,
        "monitor_share": reading.monitor_share,
    }
    return row, stepped, before


def _joined(found: Sequence[NamedNorms], values: Iterator[Numbers | None]) -> dict[str, float]:
    joined: dict[str, float] = {}
    for one in found:
        numbers, scale = next(values), next(values)
        joined |= _norms(one, numbers or [], scale)
    return joined


def _norms(found: NamedNorms, values: Numbers, scale: Numbers | None) -> dict[str, float]:
    factor = scale[0] if scale is not None and scale[0] > 0 else 1.0
    pairs = zip(found.names, values, strict=True)
    return {
        name: value / factor if math.isfinite(value) else math.inf
        for name, value in pairs
        if not value < 0 and (found.only is None or name in found.only)
    }


def _length(norms: Mapping[str, float]) -> float:
    return math.hypot(*norms.values()) if norms else math.nan


def _costs_no_wait(tensor: Tensor) -> bool:
    return tensor.is_cpu


def _on_cpu(tensors: Sequence[Tensor | None]) -> list[Numbers | None]:
    """Return the numbers of each tensor, after waiting once for each device."""
    found: list[Numbers | None] = [None] * len(tensors)
    groups: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for at, tensor in enumerate(tensors):
        if tensor is not None and tensor.is_cpu:
            found[at] = tensor.reshape(-1).tolist()
        elif tensor is not None:
            groups.setdefault(tensor.device, []).append((at, tensor.reshape(-1)))
    for entries in groups.values():
        flat = torch.cat([one.to(widest(one)) for _, one in entries]).tolist()
        for at, tensor in entries:
            found[at], flat = flat[: len(tensor)], flat[len(tensor) :]
    return found


def _parts_of(steps: Sequence[OptimizerStep]) -> list[list[NamedNorms]]:
    """Return the norms of the gradients, values, updates and both means of Adam that the optimizers' steps showed."""
    parts: list[list[NamedNorms | None]] = [
        [one.gradients for one in steps],
        [one.before for one in steps],
        [one.updates for one in steps],
        [one.moments[0] for one in steps if one.moments],
        [one.moments[1] for one in steps if one.moments],
    ]
    return [[one for one in part if one is not None] for part in parts]


def _with_origin(alarm: Alarm, kind: str, origin: Origin | None) -> Alarm:
    """Return an alarm with where it came up first, if it is of that kind."""
    if origin is None or alarm.kind != kind:
        return alarm
    return replace(alarm, message=f"{alarm.message}. It came up first {origin}")


def with_step(
    profile: NetworkProfile,
    steps: Sequence[OptimizerStep],
    *,
    gradients: Mapping[str, float],
    numbers: Sequence[Numbers | None] | None = None,
) -> NetworkProfile:
    """Return a sample whose parameters have what the optimizers' steps showed.

    `gradients`: the norms before clipping; what is not among them was put in place without a backward pass. `numbers`:
    of the steps' norms, where they were read from their device.
    """
    found = _parts_of(steps)
    if numbers is None:
        numbers = _on_cpu([tensor for part in found for one in part for tensor in (one.values, one.scale)])
    values = iter(numbers)
    stepped, sizes, changes, first, second = (_joined(part, values) for part in found)

    def ratio(name: str) -> float | None:
        size, change = sizes.get(name, 0.0), changes.get(name)
        return None if change is None or not 0 < size < math.inf else change / size

    late = stepped.keys() - gradients.keys()
    return replace(
        profile,
        parameters=tuple(
            replace(
                parameter,
                step_gradient_norm=gradients.get(parameter.name, stepped.get(parameter.name)),
                update_norm=changes.get(parameter.name),
                update_ratio=ratio(parameter.name),
                first_moment_norm=first.get(parameter.name),
                second_moment_norm=second.get(parameter.name),
            )
            for parameter in profile.parameters
        ),
        coverage=(
            *profile.coverage,
            *_late([one.name for one in profile.parameters if one.name in late]),
        ),
    )


def _late(names: Sequence[str]) -> list[CoverageNote]:
    """Return a note of the parameters whose gradients were not seen before clipping."""
    if not names:
        return []
    others = f" and {counted(len(names) - 1, 'other parameter')}" if len(names) > 1 else ""
    reason = (
        f"step_gradient_norm of it{others} is that of what the optimizer got, after clipping: no backward pass was "
        "seen to end"
    )
    return [CoverageNote(names[0], "parameter", reason)]
