"""`Sink`: what takes the numbers and the alarms of a run."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from propscope.records.monitored import Alarm

# Which numbers a sink gets: totals and the worst sites, or those of every site and parameter too.
Sites = Literal["worst", "all"]


@runtime_checkable
class Sink(Protocol):
    """Takes the numbers of each sample, and each alarm.

    It is called on a thread of its own, in the order of the run, so that no step waits for it. What it raises is said
    once, and it gets what comes later. Where it has them, these are used too: `close()`, called once at the end;
    `resume(step)`, called before the first number where the run goes on from a `state_dict` and takes the steps from
    this one on again; and `sites`, "worst" or "all", which numbers it gets.
    """

    def write(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of the sample of a step, by their keys; they may be NaN or infinite."""

    def alarm(self, alarm: Alarm) -> None:
        """Take an alarm."""
