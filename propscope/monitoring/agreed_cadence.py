"""`AgreedCadence`: which steps the ranks of a group sample, as the first of them decides."""

from __future__ import annotations

from typing import Any

from propscope.measure.parts import vector
from propscope.measure.ranks import Ranks
from propscope.monitoring.cadence import Cadence


class AgreedCadence(Cadence):
    """A `Cadence` that is the same on all ranks: by the number of the step alone, and never by a clock of their own.

    At the end of each sampled step, and of each step whose number is a multiple of `every`, the first rank says at
    which step all ranks meet again, and whether they sample it. What is asked of a monitor between, by `request` or by
    a new `every`, `start` or `stop`, counts on the first rank, from the next meeting on.
    """

    def __init__(
        self, every: int, *, start: int, stop: int | None, budget: float | None, ranks: Ranks | None = None
    ) -> None:
        super().__init__(every, start=start, stop=stop, budget=budget)
        self._ranks = ranks
        # The step of the next meeting, whether it is sampled, and whether that sample is full.
        self._next, self._taken, self._next_full = start, True, True
        # Whether the ranks meet at the end of the step that runs.
        self.meets = False

    def leave(self) -> None:
        """Decide alone from now on."""
        self._ranks, self.meets = None, False

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`: the ranks meet at the first step, and sample the next one that is due."""
        super().restore(state)
        self._taken = False

    def due(self, step: int) -> bool:
        """Return whether the step is to be sampled."""
        if self._ranks is None:
            return super().due(step)
        # `start` and `stop` may have changed on the first rank alone, which decides by them.
        self.meets = step >= self._next
        self.full = self.meets and self._next_full
        return self.meets and self._taken

    def agree(self, step: int) -> None:
        """Agree on the next meeting; all ranks enter it at the end of a step at which they meet."""
        if self._ranks is None:
            return
        self.meets = False
        mine = self._decide(step) if not self._ranks.rank else (0, False, False)
        found, taken, full = self._ranks.maximum(vector(mine)).tolist()
        self._next, self._taken, self._next_full = int(found), taken > 0, full > 0

    def _decide(self, step: int) -> tuple[int, bool, bool]:
        """Return the step of the next meeting, whether it is sampled, and whether in full."""
        after = step + 1
        regular = max(-(-after // self.every) * self.every, self.start)
        if self.stop is not None and after >= self.stop:
            return regular, False, False
        # What is owed is taken at the first step that the budget allows.
        if step % self.every == 0 and not self._taken:
            self._owed |= self.on
        if self._owed or self._requested or self._dense:
            self._dense = max(self._dense - 1, 0)
            at = after if self._affordable else regular
            taken = self._affordable
        else:
            at, taken = regular, self.on and self._affordable
        at = max(at, self.start)
        taken = taken and (self.stop is None or at < self.stop)
        full = taken and self._next_is_full()
        if taken:
            self._requested = False
        return at, taken, full
