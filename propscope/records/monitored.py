"""`MonitoredRun`: what `propscope.monitor` recorded of one training: its samples, every step, and the alarms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from propscope.records.figures import STEP_FIELDS, EntryTable
from propscope.records.labelled import LabelledSet
from propscope.records.network import Floats, Label, NetworkProfile
from propscope.records.over_steps import HistogramsOverSteps, Integers, OverSteps, histograms_over_steps, over_steps
from propscope.records.profile_set import ProfileSet
from propscope.records.samples import Samples

if TYPE_CHECKING:
    import pandas

    from propscope.records.rows import TableName

MonitoredTable = Literal["step", "alarm"]
AlarmSeverity = Literal["strained", "broken"]
_NAMES = tuple(each.name for each in STEP_FIELDS)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that went wrong during a training: at which `step` it was raised, and `since` which it shows.

    `kind`: the rule. `site` or `parameter`: where, "" for the whole step. `value`: the number that raised it, and
    `baseline`: what it is held against, NaN where the rule has none. `message`: what was seen, why, and what to do.
    `superseded`: 1 where a resumed run took the step again.
    """

    step: int
    since: int
    kind: str
    site: str = ""
    parameter: str = ""
    value: float = float("nan")
    baseline: float = float("nan")
    severity: AlarmSeverity = "strained"
    message: str = ""
    superseded: int = 0

    def superseded_from(self, step: int) -> Alarm:
        """Return the same alarm, marked as superseded where its step is this one or a later one."""
        return replace(self, superseded=1) if self.step >= step else self

    @property
    def place(self) -> str:
        """The name of the site or parameter that it is about, "" for the whole step."""
        return self.site or self.parameter

    @property
    def since_text(self) -> str:
        """Since when it shows, to stand behind its step: ", since step 40"; "" where that is the step itself."""
        return f", since step {self.since}" if self.since < self.step else ""

    def __str__(self) -> str:
        return f"step {self.step}: {self.kind} ({self.severity}{self.since_text}): {self.message}"


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Every step of a monitored run, one entry a step in each array, in the order in which they were taken.

    `number`: of the step in its run. `loss`: NaN where none was given. `gradient_norm`: L2 norm of all gradients
    that the optimizer stepped with; Inf where one is not finite, NaN where there was none. `clip_factor`: that norm
    over the one before clipping, on sampled steps. `loss_scale`: of a GradScaler. `learning_rate`: the largest of
    the optimizer's groups. `nonfinite_gradients`: the number of parameters whose gradient was not finite.
    `skipped`: 1 where the optimizer took no step. `superseded`: 1 where a resumed run took the step again.
    `seconds`: time that the step took. `error`: what the step raised, "" for nothing. `monitor_share`: the share of
    the run's time that the monitor had taken before the step ended; NaN in files before schema 6. `judged`: 1 where
    the rules judged the step, 0 where the run asked for no alarms, -1 in files before schema 6.
    """

    number: Integers
    loss: Floats
    gradient_norm: Floats
    clip_factor: Floats
    loss_scale: Floats
    learning_rate: Floats
    nonfinite_gradients: Integers
    skipped: Integers
    superseded: Integers
    seconds: Floats
    error: NDArray[np.object_]
    monitor_share: Floats
    judged: Integers

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Steps:
        """Return the steps that these rows of `STEP_FIELDS` are, each as a mapping."""
        given = list(rows)
        kinds = {"int64": np.int64, "float64": np.float64, "text": object}
        return cls(*(np.array([row[each.name] for row in given], kinds[each.dtype]) for each in STEP_FIELDS))

    def __len__(self) -> int:
        return len(self.number)

    def rows(self) -> list[dict[str, Any]]:
        """Return each step as one row of `STEP_FIELDS`."""
        columns = [getattr(self, name).tolist() for name in _NAMES]
        return [dict(zip(_NAMES, values, strict=True)) for values in zip(*columns, strict=True)]

    def __add__(self, other: Steps) -> Steps:
        """Return the steps of both, one after the other."""
        return joined_steps((self, other))

    def __getitem__(self, part: slice) -> Steps:
        """Return some of the steps."""
        return Steps(*(getattr(self, name)[part] for name in _NAMES))

    @property
    def were_judged(self) -> bool:
        """Whether the rules judged any of them, as far as is known."""
        return not len(self) or bool((self.judged != 0).any())

    def superseded_from(self, step: int) -> Steps:
        """Return the same steps, with those from this one on marked as superseded, since they are taken again."""
        return replace(self, superseded=self.superseded | (self.number >= step))

    def __repr__(self) -> str:
        ends = f" from {self.number[0]} to {self.number[-1]}" if len(self) else ""
        return f"Steps({len(self)} steps{ends})"


def no_steps() -> Steps:
    """Return the steps of no step."""
    return Steps.of(())


def joined_steps(parts: Sequence[Steps]) -> Steps:
    """Return the steps of all parts, one after the other."""
    return Steps(*(np.concatenate([getattr(part, name) for part in parts]) for name in _NAMES))


@dataclass(frozen=True, slots=True, repr=False)
class MonitoredRun(ProfileSet):
    """The samples of a training, each a profile with the label `step`, and what was seen of all its `steps`.

    `a + b` appends what was recorded later. Where a resumed run took steps again, the earlier samples of these steps
    have the label `superseded_step` in place of `step`. `alarms` are all of them, `standing_alarms` those of steps that
    were not taken again.
    """

    steps: Steps = field(default_factory=no_steps)
    alarms: tuple[Alarm, ...] = ()
    _noun = "sample"

    def _every_label(self) -> Sequence[Mapping[str, Label]]:
        # A class with slots has no super() of its own.
        return self.profiles.labels if isinstance(self.profiles, Samples) else ProfileSet._every_label(self)

    def _at(self, positions: Sequence[int]) -> Sequence[NetworkProfile]:
        return self.profiles.at(positions) if isinstance(self.profiles, Samples) else ProfileSet._at(self, positions)

    def __add__(self, other: LabelledSet[NetworkProfile]) -> MonitoredRun:
        later = other if isinstance(other, MonitoredRun) else MonitoredRun(tuple(other))
        return MonitoredRun((*self.profiles, *later.profiles), self.steps + later.steps, (*self.alarms, *later.alarms))

    @property
    def standing_alarms(self) -> tuple[Alarm, ...]:
        """The alarms of steps that were not taken again."""
        return tuple(alarm for alarm in self.alarms if alarm.superseded != 1)

    def superseded_from(self, step: int) -> MonitoredRun:
        """Return the same run, with the steps from this one on marked as superseded, since they are taken again."""
        samples = tuple(superseded(one, step) for one in self.profiles)
        alarms = tuple(alarm.superseded_from(step) for alarm in self.alarms)
        return MonitoredRun(samples, self.steps.superseded_from(step), alarms)

    def over_steps(self, quantity: str, *, table: EntryTable | None = None) -> OverSteps:
        """Return a quantity such as "forward_rms" of every site, or "update_ratio" of every parameter, by sample.

        `quantity`: a column of numbers of the file's table `site` or `parameter`; `table` says which of the two, where
        both have it. Samples that were superseded are left out. Raises `InputError` for an unknown quantity.
        """
        if isinstance(self.profiles, Samples):
            return self.profiles.over_steps(quantity, table)
        return over_steps(self.profiles, quantity, table)

    def histograms_over_steps(self, name: str, part: str = "forward") -> HistogramsOverSteps:
        """Return the histograms of one site or parameter, of the samples that kept one.

        `part`: "forward" or "backward" of a site, "value" or "gradient" of a parameter. Raises `InputError` for an
        unknown name.
        """
        if isinstance(self.profiles, Samples):
            return self.profiles.histograms_over_steps(name, part)
        return histograms_over_steps(self.profiles, name, part)

    def to_frame(self, table: TableName | MonitoredTable = "site") -> pandas.DataFrame:
        """Return a pandas frame of the `site`, `parameter`, `profile`, `step` or `alarm` table, one row for each.

        Columns are those of the file's table of that name. Raises `MissingDependencyError` without pandas.
        """
        from propscope.records.frames import monitored_frame, to_frame

        if table == "step" or table == "alarm":
            return monitored_frame(self, table)
        return to_frame(self.profiles, table)


def superseded(profile: NetworkProfile, first: int) -> NetworkProfile:
    """Return a sample of a step from `first` on under the label that such a sample has."""
    step = profile.labels.get("step")
    if not isinstance(step, int) or step < first:
        return profile
    others = {name: value for name, value in profile.labels.items() if name != "step"}
    return replace(profile, labels={"superseded_step": step, **others})
