"""`Cadence`: which steps are sampled, so that the measured cost stays within a share of the run."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Any

from propscope.checks import count, number
from propscope.errors import InputError

# Alarms make their baselines of so many samples; these are taken whatever they cost.
WARM_UP = 10
# One sample in so many is full, and behind so many samples one in so many.
_FULL, _MANY, _FULL_OF_MANY = 10, 1000, 100
# The seconds that samples may cost in any run, so that a short one has some.
_FREE = 2.0
# The share of the budget that samples get, however much the other steps cost.
_LEAST = 0.25
# How many steps in a row are sampled after one that looked wrong.
_DENSE = 8
# The cost of a sample as a share of its time, as long as no other step has been timed.
_SHARE = 0.5


class Cadence:
    """Says which steps are sampled: the first, and each whose number is a multiple of `every` from `start` to `stop`.

    A sample that would raise the cost above `budget`, a share of the time of the run, is put off until it fits; None
    for no limit. What every step costs counts too, but a quarter of the budget always goes to samples, however short
    the steps are.
    `hurry()` asks for the next steps to be sampled, within the same budget.
    """

    def __init__(self, every: int, *, start: int, stop: int | None, budget: float | None) -> None:
        self.every = count("every", every)
        self.start = count("start", start, least=0)
        self.stop = None if stop is None else count("stop", stop)
        if self.stop is not None and self.stop <= self.start:
            raise InputError(f"stop must be above start, {self.start}, got {self.stop}")
        self.budget = None if budget is None else number("budget", budget, above=True, high=1.0)
        self.on = True
        self.samples = 0
        # Seconds of the run, and those that the monitor cost.
        self.elapsed = 0.0
        self.cost = 0.0
        # Seconds that the samples cost.
        self._sampling = 0.0
        self._bare: deque[float] = deque(maxlen=32)
        # Samples before any other step was timed: what they cost as far as is known, at least, and with their step.
        self._guesses: list[tuple[float, float, float]] = []
        self._last_cost = 0.0
        self._dense = 0
        self._owed = True
        self._requested = False
        # Whether the sample of the step that runs is to be full: with its histograms, which are most of its bytes.
        self.full = False

    def due(self, step: int) -> bool:
        """Return whether the step is to be sampled."""
        if step < self.start or (self.stop is not None and step >= self.stop):
            return False
        self._owed |= self.on and step % self.every == 0
        dense, self._dense = self._dense > 0, max(self._dense - 1, 0)
        taken = (self._owed or dense) and self._affordable
        if taken:
            self.full = self._next_is_full()
            self._requested = False
        return taken

    def _next_is_full(self) -> bool:
        return self._requested or self.samples % (_FULL if self.samples < _MANY else _FULL_OF_MANY) == 0

    @property
    def _affordable(self) -> bool:
        if self.budget is None or self.samples < WARM_UP:
            return True
        # Until another step has been timed, the cost of a sample is a guess.
        if not self._bare and self.cost > _FREE / 2:
            return False
        whole = self.budget * self.elapsed
        left = max(whole - (self.cost - self._sampling), whole * _LEAST, _FREE)
        return self._sampling + self._last_cost <= left

    def hurry(self, steps: int = _DENSE) -> None:
        """Sample the next steps."""
        self._dense = max(self._dense, steps) if self.on else 0

    def switch(self, *, on: bool) -> None:
        """Turn sampling on or off; while it is off, only steps that are asked for are sampled."""
        self.on = on
        if not on:
            self._owed, self._requested, self._dense = False, False, 0

    def request(self) -> None:
        """Sample the next step, in full."""
        self._owed = self._requested = True

    def end(self, *, seconds: float, own: float, sampled: bool) -> None:
        """Note that a step took so many seconds, of which `own` in the monitor itself."""
        self.elapsed += seconds
        if not sampled:
            self._bare.append(seconds - own)
            self.cost += own
            for guess, least, whole in self._guesses:
                self.charge(max(whole - self._bare[0], least) - guess)
            self._guesses.clear()
            return
        bare = statistics.median(self._bare) if self._bare else (1 - _SHARE) * seconds
        self._last_cost = max(seconds - bare, own)
        if not self._bare:
            self._guesses.append((self._last_cost, own, seconds))
        self.charge(self._last_cost)
        self.samples += 1
        # What was requested while the step ran is about the next one.
        self._owed = self._requested

    def charge(self, seconds: float) -> None:
        """Add seconds that samples cost."""
        self.cost += seconds
        self._sampling += seconds

    @property
    def share(self) -> float:
        """The cost as a share of the time of the run."""
        return self.cost / self.elapsed if self.elapsed else 0.0

    @property
    def free_for(self) -> float | None:
        """The seconds for which a run may cost more than its budget, None where it does not, or no more."""
        if self.budget is None or self.share <= self.budget or self.budget * self.elapsed >= _FREE:
            return None
        return _FREE / self.budget

    def state(self) -> dict[str, Any]:
        """Return what a resumed run goes on from."""
        return {
            "samples": self.samples,
            "elapsed": self.elapsed,
            "cost": self.cost,
            "sampling": self._sampling,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        samples = count("samples", state["samples"], least=0)
        elapsed, cost, sampling = (number(name, state[name]) for name in ("elapsed", "cost", "sampling"))
        self.samples, self.elapsed, self.cost, self._sampling = samples, elapsed, cost, sampling
        self._owed = False
