"""`RunLog`: what a monitored run has shown so far; numbers wait on their device until they are read together."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from propscope.errors import PropscopeError
from propscope.measure.ranks import Origin, Share
from propscope.monitoring.alarms import Judge
from propscope.monitoring.cadence import Cadence
from propscope.monitoring.norms import NamedNorms
from propscope.monitoring.optimizer_steps import OptimizerStep
from propscope.monitoring.rank_group import Numbers, RankGroup, StepNumbers
from propscope.monitoring.sinks import Delivery, Sink
from propscope.monitoring.unread_steps import UnreadStep, norms_by_name, numbers_of, row_of, step_numbers
from propscope.records.kept_sample import kept_sample
from propscope.records.monitored import Alarm, MonitoredRun, Steps, joined_steps, no_steps
from propscope.records.network import NetworkProfile
from propscope.records.numerals import counted
from propscope.store import MonitoredFile

logger = logging.getLogger("propscope")

# At most so many steps wait to be read from their device, or to be written.
_MOST_WAITING = 1000
# Steps are kept in at most so many pieces, of which each takes more memory than a step.
_PIECES = 64


class Together(NamedTuple):
    """Steps that the ranks put together.

    `numbers`: the first `own` are those of the `steps`, the others those of what optimizers did in the last one.
    `share`: what this rank brings.
    """

    steps: Sequence[UnreadStep]
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
        self._waiting: list[UnreadStep] = []
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

    def add(self, step: UnreadStep) -> None:
        """Add a step; what waits on the CPU is read at once, which costs nothing there, and else by `read`."""
        self._waiting.append(step)
        if self._group is not None and len(self._waiting) < _MOST_WAITING:
            return
        if all(one is None or _costs_no_wait(one) for one in step.tensors) or len(self._waiting) >= _MOST_WAITING:
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
        norms, sizes = norms_by_name(found, numbers), norms_by_name(now, now.values.tolist())
        if alarms := self.judge.gradients(step, norms, sizes):
            self._raise(alarms)
            self.tell()

    def read(self) -> None:
        """Read and judge the steps that wait."""
        steps = self._taken()
        self._see(steps, numbers_of([tensor for step in steps for tensor in step.tensors]), {})

    def _taken(self) -> list[UnreadStep]:
        taken, self._waiting = self._waiting, []
        return taken

    def _see(
        self, steps: Sequence[UnreadStep], numbers: Sequence[Numbers | None], origins: Mapping[int, Origin]
    ) -> None:
        values = iter(numbers)
        for step in steps:
            row, stepped, self.accumulated = row_of(step, values)
            row["judged"] = int(self._judges)
            self._rows.append(row)
            self._row = row
            if self._judges:
                alarms = self.judge.step(row, stepped, step.moments_left)
                self._raise([_with_origin(one, "non-finite loss", origins.get(row["number"])) for one in alarms])
        if len(self._rows) >= _MOST_WAITING:
            self._write_piece(())

    def share(self, stepped: Sequence[OptimizerStep]) -> Together:
        """Take the steps that wait, and what optimizers did in the last one, so that the ranks put them together."""
        assert self._group is not None
        steps = self._taken()
        numbers = step_numbers(steps, stepped)
        return Together(steps, sum(len(step.tensors) for step in steps), numbers, self._group.share(numbers))

    def see(self, together: Together, found: Any) -> list[Numbers | None]:
        """Judge the steps that were put together, and return the numbers of the last one's norms.

        `found`: what came of the share, None where the ranks had nothing in common.
        """
        values, origins = (together.numbers.values, {}) if found is None else found
        self._see(together.steps, values[: together.own], origins)
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
        self.alarms = [alarm.superseded_from(step) for alarm in self.alarms]
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
            free = self.cadence.free_for
            short = "" if free is None else f"; a run of less than {free:.0f} s may go over its budget"
            _print(
                f"propscope: {counted(self.cadence.samples, 'sample')}{alarms}; the monitor took "
                f"{self.cadence.cost:.1f} s of {self.cadence.elapsed:.1f} s ({self.cadence.share:.1%}{short})"
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


def _costs_no_wait(tensor: Tensor) -> bool:
    return tensor.is_cpu


def _with_origin(alarm: Alarm, kind: str, origin: Origin | None) -> Alarm:
    """Return an alarm with where it came up first, if it is of that kind."""
    if origin is None or alarm.kind != kind:
        return alarm
    return replace(alarm, message=f"{alarm.message}. It came up first {origin}")
