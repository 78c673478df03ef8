"""The passes of a calibration: one that scales each layer as it runs, or one for each layer over many batches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from propscope.errors import InputError
from propscope.measure.batches import call_model
from propscope.measure.undisturbed import undisturbed
from propscope.measure.wrappers import unwrapped
from propscope.records.calibration import ScaledWeight, SkippedWeight
from propscope.remedies.calibration.backup import WeightBackup
from propscope.remedies.calibration.parts import Call, Part
from propscope.remedies.calibration.spread import Spread


@dataclass(frozen=True, slots=True)
class Goal:
    """The wanted standard deviation of each part, the relative tolerance, and the largest number of steps.

    The first pattern of `targets` that is found in the name of a part decides; without one it is 1.
    """

    targets: tuple[tuple[re.Pattern[str], float], ...]
    tolerance: float
    steps: int
    orthogonal_seed: int | None = None

    def of(self, name: str) -> float:
        """Return the wanted standard deviation of a part."""
        return next((std for pattern, std in self.targets if pattern.search(name)), 1.0)


class PartProgress:
    """How far one part is calibrated: `settled` once it has reached the goal; `reason`: why it is left alone."""

    def __init__(self, part: Part, goal: Goal, backup: WeightBackup) -> None:
        self.part, self.target = part, goal.of(part.name)
        self.reason = ""
        self.settled = False
        self.calls = 0
        self._begun = False
        self._goal, self._backup = goal, backup
        self._factor, self._steps = 1.0, 0
        self._before: float | None = None
        self._spread = Spread()

    def begin(self) -> bool:
        """Fill the part with orthogonal matrices, if the goal asks for it, once; return whether it changed."""
        seed = self._goal.orthogonal_seed
        if self._begun or seed is None or not self.part.matrices:
            return False
        self._begun = True
        self._backup.keep(self.part.name, self.part.parameter)
        self.part.orthogonalize(seed)
        return True

    @property
    def open(self) -> bool:
        """Whether the part still has to be calibrated."""
        return not self.settled and not self.reason

    def judge(self, spread: Spread, peers: Sequence[PartProgress]) -> bool:
        """Settle the part, or scale it; return whether it was scaled. Raises `InputError` where no scale helps."""
        self._refuse(spread, peers)
        if self._before is None:
            self._before = spread.std
        if abs(spread.std / self.target - 1) <= self._goal.tolerance:
            self.settled, self._spread = True, spread
            return False
        if self._steps == self._goal.steps:
            raise self._error(f"has a standard deviation of {spread.std:.4g} after {self._steps} steps", self._hint())
        factor = self.target / spread.std
        self._backup.keep(self.part.name, self.part.parameter)
        with torch.no_grad():
            self.part.weight.mul_(factor)
        self._factor *= factor
        self._steps += 1
        return True

    def scaled(self) -> ScaledWeight:
        """Return the record of a settled part."""
        spread, before = self._spread, self._spread.std if self._before is None else self._before
        return ScaledWeight(
            name=self.part.name,
            kind=self.part.kind,
            factor=self._factor,
            std_before=before,
            std_after=spread.std,
            target=self.target,
            steps=self._steps,
            calls=self.calls,
            sample_fraction=spread.sample_fraction,
        )

    def skipped(self) -> SkippedWeight:
        """Return the record of a part that was not reached."""
        ran = "no element of the batch reached it" if self.calls else "it did not run as a module"
        return SkippedWeight(self.part.name, self.part.kind, self.reason or ran)

    def _refuse(self, spread: Spread, peers: Sequence[PartProgress]) -> None:
        if not spread.finite:
            raise self._error("holds NaN or Inf", "propscope.profile(model, batch) shows where they start")
        if spread.rows < 2:
            raise self._error(
                "has one row: a standard deviation needs a batch of several samples",
                "pass a larger batch, or exclude the layer",
            )
        if not spread.std:
            zero = [other.part.name for other in peers if not other.part.weight.any()]
            if not self.part.weight.any():
                also = f" (zero as well: {', '.join(zero[:4])})" if zero[1:] else ""
                raise self._error(f"is constant: its weight is zero{also}", "initialize the layer, or exclude it")
            raise self._error(
                f"is {spread.mean:.4g} everywhere, which scaling its weight does not change",
                "its input is zero or constant: repair the layer before it or the batch, or exclude the layer",
            )

    def _hint(self) -> str:
        bias = self.part.bias
        of_bias = 0.0 if bias is None else float(bias.detach().float().std(correction=0))
        if of_bias > self.target / 2:
            return f"its bias has a std of {of_bias:.4g}: set it to zero, allow more steps, or exclude the layer"
        return "its output does not follow the scale of its weight: exclude the layer, or allow more steps"

    def _error(self, what: str, hint: str) -> InputError:
        name = f'"{self.part.name}" ({self.part.kind})' if self.part.name else f"the model itself ({self.part.kind})"
        return InputError(f"the output of {name} {what}; the model was not changed", hint=hint)


Hook = Callable[[Call, tuple[PartProgress, ...]], None]


class StopForward(BaseException):
    """Ends a forward pass after the last layer of interest; an `except Exception` in the model does not catch it."""


class CalibrationRun:
    """One run of `calibrate`: follows the parts of a model through forward passes, in execution order."""

    def __init__(self, model: nn.Module, parts: dict[nn.Module, tuple[PartProgress, ...]]) -> None:
        self.parts = parts
        self.order: list[PartProgress] = []
        self.passes = self.reruns = 0
        self._model, self._inner = model, unwrapped(model)
        self._owners: dict[object, Part] = {}
        self._calls: Counter[PartProgress] = Counter()
        self._inside = False
        self._error: InputError | None = None

    def one_pass(self, batch: Any) -> None:
        """Calibrate every part within one forward pass; each layer runs again until its output reaches the goal."""
        with undisturbed(self._model, batch), self._hooked(self._settle):
            self._run(batch)

    def many_passes(self, batches: Callable[[], Iterable[Any]]) -> None:
        """Calibrate over several batches, with one or more passes over all of them for each layer.

        `batches` is called for each pass. A pass ends after the first layer that is not calibrated yet. It observes
        this layer, and checks the layer that was scaled last: if that has not reached the goal, it is scaled again and
        the new layer waits.
        """
        scaled: PartProgress | None = None
        while True:
            look = self._look(scaled, batches)
            if scaled is not None and scaled.judge(look.again, self._all()):
                continue
            scaled = None
            if look.new is None:
                return
            if look.new.judge(look.first, self._all()):
                scaled = look.new

    def _look(self, scaled: PartProgress | None, batches: Callable[[], Iterable[Any]]) -> _PassOverBatches:
        look = _PassOverBatches(scaled)
        before = self.passes
        # Each pass draws the same random numbers, also in a loader that shuffles.
        with undisturbed(self._model), self._hooked(look.observe):
            for batch in batches():
                look.called.clear()
                with suppress(StopForward):
                    self._run(batch)
        if self.passes == before:
            raise InputError(f"batches gave no batch{' the second time' if before else ''}")
        if scaled is not None and not look.again.count:
            raise InputError(
                f'"{scaled.part.name}" ran in one pass over the batches and not in the next',
                hint="a function that returns batches must return the same ones each time",
            )
        return look

    def _run(self, batch: Any) -> None:
        self.passes += 1
        self._calls.clear()
        call_model(self._inner, batch)
        # A model may catch an exception that is raised inside it and continue.
        if self._error is not None:
            raise self._error

    def _all(self) -> list[PartProgress]:
        return [progress for own in self.parts.values() for progress in own]

    def _settle(self, call: Call, own: tuple[PartProgress, ...]) -> None:
        for progress in own:
            while progress.open:
                spread = _observed(progress, call)
                if not spread.count:
                    break
                if progress.judge(spread, self._all()):
                    call.changed()

    @contextmanager
    def _hooked(self, react: Hook) -> Iterator[None]:
        handles = []
        try:
            for module, own in self.parts.items():
                hook = partial(self._on_call, react, own)
                # Before all other hooks, so that the user's own see the output of the calibrated layer.
                handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _on_call(
        self,
        react: Hook,
        own: tuple[PartProgress, ...],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Any:
        if self._inside:
            return None
        call = Call(module, args, kwargs, output)
        self._inside = True
        try:
            for progress in own:
                self._count_call(progress)
            react(call, own)
            return call.output if call.stale or call.reruns else None
        except InputError as error:
            self._error = error
            raise
        finally:
            self._inside = False
            self.reruns += call.reruns

    def _count_call(self, progress: PartProgress) -> None:
        """Count the call; a weight that several modules share belongs to the one that runs first."""
        if not progress.calls:
            self.order.append(progress)
            owner = self._owners.setdefault(progress.part.key, progress.part)
            if owner is not progress.part:
                progress.reason = f"it shares its weight with {owner.name}, which was scaled"
        self._calls[progress] += 1
        progress.calls = max(progress.calls, self._calls[progress])


class _PassOverBatches:
    """What one pass over all batches observes: the layer that was scaled last (`again`), and the next one (`first`)."""

    def __init__(self, scaled: PartProgress | None) -> None:
        self.new: PartProgress | None = None
        self.again, self.first = Spread(), Spread()
        self.called: set[PartProgress] = set()
        self._scaled = scaled

    def observe(self, call: Call, own: tuple[PartProgress, ...]) -> None:
        for progress in own:
            # Only the first call in each forward pass counts.
            if progress in self.called or not progress.open:
                continue
            self.called.add(progress)
            if progress is self._scaled:
                _observed(progress, call, self.again)
            elif self.new in (None, progress) and _observed(progress, call, self.first).count:
                self.new = progress
                raise StopForward


def _observed(progress: PartProgress, call: Call, into: Spread | None = None) -> Spread:
    """Return the spread of a part's output, together with what `into` holds already."""
    spread = Spread() if into is None else into
    found = progress.part.observe(call)
    if found is not None and found[0].numel() and progress.begin():
        call.changed()
        found = progress.part.observe(call)
    if found is None:
        progress.reason = "its output is not a dense floating tensor"
    else:
        spread.add(*found)
    return spread
