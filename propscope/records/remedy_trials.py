"""The outcome of remedies, as records: a `Trial` of one remedy, and the `RemedyTrials` of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from propscope.records.display import as_html, as_text
from propscope.records.finding import Diagnosis, Remedy, Verdict
from propscope.records.network import Label

RANK: dict[Verdict, int] = {"not measured": 0, "broken": 1, "strained": 2, "healthy": 3}


@dataclass(frozen=True, slots=True)
class State:
    """The diagnosis of a network, and its factors over the depth: geometric means over seeds, `forward`, `backward`."""

    diagnosis: Diagnosis
    forward: float
    backward: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One remedy that was tried: the network's state `before` and `after`.

    `after` is None where the remedy could not be applied, and `reason` says why. `lines`: the lines of Python that
    apply the remedy to an existing model.
    """

    remedy: Remedy
    before: State
    after: State | None
    reason: str = ""
    lines: tuple[str, ...] = ()

    @property
    def healed(self) -> bool:
        """Whether the network is healthy afterwards."""
        return self.after is not None and self.after.diagnosis.verdict == "healthy"

    @property
    def helped(self) -> bool:
        """Whether the verdict is better than before."""
        if self.after is None:
            return False
        return RANK[self.after.diagnosis.verdict] > RANK[self.before.diagnosis.verdict]


@dataclass(frozen=True, slots=True)
class RemedyTrials:
    """The remedies that were tried for one network, in order, up to the first that made it healthy.

    `reason`: why nothing was tried; "" where something was tried, or where the network was healthy already.
    """

    before: State
    trials: tuple[Trial, ...] = ()
    labels: Mapping[str, Label] = field(default_factory=dict)
    reason: str = ""

    @property
    def trial(self) -> Trial | None:
        """The first trial that made the network healthy, else the first that helped most; None where none helped."""
        helped = [trial for trial in self.trials if trial.helped and trial.after is not None]
        return max(helped, key=lambda trial: RANK[trial.after.diagnosis.verdict] if trial.after else -1, default=None)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)
