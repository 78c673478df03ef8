"""The sink `wandb:PROJECT[/NAME]`: history and alerts of a run of Weights & Biases."""

from __future__ import annotations

from typing import Any

from propscope.errors import MissingDependencyError
from propscope.monitoring.sinks.series import KEYS, STEP_SERIES
from propscope.monitoring.sinks.sink import Sites
from propscope.records.monitored import Alarm

# The step of the training. W&B's own counts the rows of its history, and never goes back, as a resumed training does.
STEP = "propscope/step"
GROUPS = tuple(dict.fromkeys(f"{key.partition('/')[0]}/*" for key in KEYS))


class WandbSink:
    """Adds each sample to the history of a run of W&B, over `propscope/step`, and sends each alarm as an alert.

    `run`: a run that is open, which stays so. The numbers join the row that it writes next, and W&B's own count of rows
    goes on only where a whole sample would be lost otherwise, since a row that is logged with a lower one is dropped.
    NaN and infinities are kept, as W&B shows them.
    """

    def __init__(self, run: Any, *, sites: Sites = "worst", _own: bool = False) -> None:
        self.sites = sites
        self._run, self._own = run, _own
        self._joined: int | None = None
        run.define_metric(STEP, hidden=True)
        # The program whose run it is may log a loss of its own, over a step of its own.
        for name in (*GROUPS, *(STEP_SERIES if _own else ())):
            run.define_metric(name, step_metric=STEP)

    @classmethod
    def opened(cls, target: str, *, sites: Sites = "worst") -> WandbSink:
        """Return the sink of the run that is open by now, else of a new one in the project and of the name `target`.

        Raises `MissingDependencyError` without wandb.
        """
        try:
            import wandb
        except ImportError as error:
            raise MissingDependencyError("wandb", extra="wandb", purpose=f"the sink wandb:{target}") from error
        if wandb.run is not None:
            return cls(wandb.run, sites=sites)
        project, _, name = target.partition("/")
        return cls(wandb.init(project=project, name=name or None), sites=sites, _own=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a sample to the history."""
        row = {STEP: step, **values}
        if self._own:
            self._run.log(row)
            return
        # It raises where the run is finished; to ask such a run for its step would wait for long.
        self._run.log({}, commit=False)
        if self._joined == self._run.step:
            # The user's program has logged nothing since, and the next sample would replace the last one.
            self._run.log({}, commit=True)
        self._run.log(row, commit=False)
        self._joined = self._run.step

    def alarm(self, alarm: Alarm) -> None:
        """Send an alert."""
        level = "ERROR" if alarm.severity == "broken" else "WARN"
        self._run.alert(title=f"step {alarm.step}: {alarm.kind}", text=str(alarm), level=level)

    def close(self) -> None:
        """End the run where it was begun here."""
        if self._own:
            self._run.finish()
