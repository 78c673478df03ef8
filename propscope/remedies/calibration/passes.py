"""The two ways through a model: one pass that scales each layer as it runs, and a pass a layer over many batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from torch import nn

from propscope.errors import InputError
from propscope.measure.profiler import call_model
from propscope.measure.undisturbed import undisturbed
from propscope.measure.wrappers import unwrapped
from propscope.remedies.calibration.parts import Call, Part
from propscope.remedies.calibration.progress import PartProgress
from propscope.remedies.calibration.spread import Spread

Hook = Callable[[Call, tuple[PartProgress, ...]], None]


class StopForward(BaseException):
    """Ends a forward pass behind the last layer that is of interest; no `except Exception` of a model stops it."""


class CalibrationPass:
    """Follows the parts of a model through its forward passes, in the order in which their modules run."""

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
        """Calibrate every part within one forward pass: a layer is run again until it gives what is wanted."""
        with undisturbed(self._model, batch), self._hooked(self._settle):
            self._run(batch)

    def many_passes(self, batches: Callable[[], Iterable[Any]]) -> None:
        """Calibrate over batches, which are asked for anew for each pass over them all.

        Such a pass ends behind the first layer that is not calibrated yet. It sees that layer, and whether the one
        before it is now as wanted: when it is not, that one is scaled again, and the new layer waits.
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

    def _look(self, scaled: PartProgress | None, batches: Callable[[], Iterable[Any]]) -> _Look:
        look = _Look(scaled)
        before = self.passes
        # Random numbers are the same in each pass, those of a shuffled loader included.
        with undisturbed(self._model), self._hooked(look.see):
            for batch in batches():
                look.met.clear()
                with suppress(StopForward):
                    self._run(batch)
        if self.passes == before:
            raise InputError(f"batches holds no batch{' the second time' if before else ''}")
        if scaled is not None and not look.again.count:
            raise InputError(
                f"{scaled.part.name!r} ran in one pass over the batches and not in the next",
                hint="a function that returns batches must return the same ones each time",
            )
        return look

    def _run(self, batch: Any) -> None:
        self.passes += 1
        self._calls.clear()
        call_model(self._inner, batch)
        # A model may catch what is raised inside it and go on.
        if self._error is not None:
            raise self._error

    def _all(self) -> list[PartProgress]:
        return [progress for own in self.parts.values() for progress in own]

    def _settle(self, call: Call, own: tuple[PartProgress, ...]) -> None:
        for progress in own:
            while progress.open:
                seen = _observed(progress, call)
                if not seen.count:
                    break
                if progress.judge(seen, self._all()):
                    call.changed()

    @contextmanager
    def _hooked(self, react: Hook) -> Iterator[None]:
        handles = []
        try:
            for module, own in self.parts.items():
                hook = partial(self._seen, react, own)
                # First of all hooks: the user's own see what the calibrated layer gives.
                handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _seen(
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
                self._meet(progress)
            react(call, own)
            return call.output if call.stale or call.reruns else None
        except InputError as error:
            self._error = error
            raise
        finally:
            self._inside = False
            self.reruns += call.reruns

    def _meet(self, progress: PartProgress) -> None:
        """Count the call; a weight that several modules share belongs to the first of them that runs."""
        if not progress.calls:
            self.order.append(progress)
            owner = self._owners.setdefault(progress.part.key, progress.part)
            if owner is not progress.part:
                progress.reason = f"its weight is also that of {owner.name}, with which it is scaled"
        self._calls[progress] += 1
        progress.calls = max(progress.calls, self._calls[progress])


class _Look:
    """What one pass over all batches sees of the layer that was scaled last, and of the next one."""

    def __init__(self, scaled: PartProgress | None) -> None:
        self.new: PartProgress | None = None
        self.again, self.first = Spread(), Spread()
        self.met: set[PartProgress] = set()
        self._scaled = scaled

    def see(self, call: Call, own: tuple[PartProgress, ...]) -> None:
        for progress in own:
            # The first call in each forward pass counts.
            if progress in self.met or not progress.open:
                continue
            self.met.add(progress)
            if progress is self._scaled:
                _observed(progress, call, self.again)
            elif self.new in (None, progress) and _observed(progress, call, self.first).count:
                self.new = progress
                raise StopForward


def _observed(progress: PartProgress, call: Call, into: Spread | None = None) -> Spread:
    """Return the spread of a part's output, added to what `into` holds."""
    seen = Spread() if into is None else into
    found = progress.part.observe(call)
    if found is not None and found[0].numel() and progress.begin():
        call.changed()
        found = progress.part.observe(call)
    if found is None:
        progress.reason = "its output is no dense floating tensor"
    else:
        seen.add(*found)
    return seen
