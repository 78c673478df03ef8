"""How far each part has come: what was seen of it, what it was scaled by, and whether that is enough."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from propscope.errors import InputError
from propscope.records.calibration import ScaledWeight, SkippedWeight
from propscope.remedies.calibration.parts import Part
from propscope.remedies.calibration.spread import Spread
from propscope.remedies.calibration.weights import Ledger


@dataclass(frozen=True, slots=True)
class Goal:
    """The standard deviation wanted: of the first pattern that is found in a part's name, else 1; and how closely."""

    targets: tuple[tuple[re.Pattern[str], float], ...]
    tolerance: float
    steps: int
    orthogonal_seed: int | None = None

    def of(self, name: str) -> float:
        """Return the standard deviation wanted at a part."""
        return next((std for pattern, std in self.targets if pattern.search(name)), 1.0)


class PartProgress:
    """One part on its way to the goal: `settled` once it is there, `reason` why it is left alone after all."""

    def __init__(self, part: Part, goal: Goal, ledger: Ledger) -> None:
        self.part, self.target = part, goal.of(part.name)
        self.reason = ""
        self.settled = False
        self.calls = 0
        self._begun = False
        self._goal, self._ledger = goal, ledger
        self._factor, self._steps = 1.0, 0
        self._before: float | None = None
        self._seen = Spread()

    def begin(self) -> bool:
        """Give the part its orthogonal start, where that is wanted and was not given; return whether it changed."""
        seed = self._goal.orthogonal_seed
        if self._begun or seed is None or not self.part.matrices:
            return False
        self._begun = True
        self._ledger.keep(self.part.name, self.part.parameter)
        self.part.orthogonalize(seed)
        return True

    @property
    def open(self) -> bool:
        """Whether there is something left to do."""
        return not self.settled and not self.reason

    def judge(self, seen: Spread, peers: Sequence[PartProgress]) -> bool:
        """Settle the part, or scale it and return that it changed; raises `InputError` for what cannot be scaled."""
        self._refuse(seen, peers)
        if self._before is None:
            self._before = seen.std
        if abs(seen.std / self.target - 1) <= self._goal.tolerance:
            self.settled, self._seen = True, seen
            return False
        if self._steps == self._goal.steps:
            raise self._error(f"has a standard deviation of {seen.std:.4g} after {self._steps} steps", self._way_out())
        factor = self.target / seen.std
        self._ledger.keep(self.part.name, self.part.parameter)
        with torch.no_grad():
            self.part.weight.mul_(factor)
        self._factor *= factor
        self._steps += 1
        return True

    def scaled(self) -> ScaledWeight:
        """Return the record of a part that is settled."""
        seen, before = self._seen, self._seen.std if self._before is None else self._before
        return ScaledWeight(
            name=self.part.name,
            kind=self.part.kind,
            factor=self._factor,
            std_before=before,
            std_after=seen.std,
            target=self.target,
            steps=self._steps,
            calls=self.calls,
            sample_fraction=seen.sample_fraction,
        )

    def left(self) -> SkippedWeight:
        """Return the record of a part that was not reached."""
        ran = "no element of the batch came to it" if self.calls else "it did not run, or not as a module"
        return SkippedWeight(self.part.name, self.part.kind, self.reason or ran)

    def _refuse(self, seen: Spread, peers: Sequence[PartProgress]) -> None:
        if not seen.finite:
            raise self._error("holds NaN or Inf", "propscope.profile(model, batch) shows where the first of them is")
        if seen.rows < 2:
            raise self._error(
                "has one row: a standard deviation needs a batch of several samples",
                "pass a larger batch, or exclude the layer",
            )
        if not seen.std:
            zero = [other.part.name for other in peers if not other.part.weight.any()]
            if not self.part.weight.any():
                also = f" (zero as well: {', '.join(zero[:4])})" if zero[1:] else ""
                raise self._error(f"is constant: its weight is zero{also}", "initialize the layer, or exclude it")
            raise self._error(
                f"is constant, {seen.mean:.4g} everywhere: no scale of its weight changes that",
                "its input is zero or constant; mend the layer before it, or the batch, or exclude it",
            )

    def _way_out(self) -> str:
        bias = self.part.bias
        alone = 0.0 if bias is None else float(bias.detach().float().std(correction=0))
        if alone > self.target / 2:
            return f"its bias alone has {alone:.4g}: set that to zero, allow more steps, or exclude the layer"
        return "its output does not follow the scale of its weight: exclude it, or allow more steps"

    def _error(self, what: str, hint: str) -> InputError:
        name = f"{self.part.name!r} ({self.part.kind})" if self.part.name else f"the model itself ({self.part.kind})"
        return InputError(f"the output of {name} {what}; the model was left as it was", hint=hint)
