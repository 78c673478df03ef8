"""What a monitored run shows at its last sample: each site now, against its first sample, the worst one first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from propscope.records.monitored import Alarm, AlarmSeverity, MonitoredRun, Steps
from propscope.records.network import Floats
from propscope.records.numerals import counted

_NONFINITE = ("nan", "posinf", "neginf")
_FIGURES = ("largest_logit", "attention_entropy", "effective_rank", "mean_cosine")


@dataclass(frozen=True, slots=True)
class SiteNow:
    """A site at the last sample of a run that recorded it; NaN stands for what was not recorded.

    `forward_rms` and `backward_rms`, and over those of the first sample in which they are positive, `forward_change`
    and `backward_change`. `dead_share`: of its units. `nonfinite`: values and gradients that are NaN or infinite.
    `alarm`: the severity of the worst alarm about it, "" for none.
    """

    name: str
    forward_rms: float
    forward_change: float
    backward_rms: float
    backward_change: float
    dead_share: float
    largest_logit: float
    attention_entropy: float
    effective_rank: float
    mean_cosine: float
    nonfinite: int
    alarm: AlarmSeverity | Literal[""]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in few numbers: its steps and samples, the loss at its ends and where it is lowest, its worst sites.

    `first_step`, `last_step` and `last_sample` are None where there is none, the losses NaN where none was given.
    Steps that a resumed run took again are left out. `sites`: worst first.
    """

    steps: int
    first_step: int | None
    last_step: int | None
    seconds: float
    samples: int
    last_sample: int | None
    first_loss: float
    last_loss: float
    lowest_loss: float
    lowest_loss_step: int | None
    sites: tuple[SiteNow, ...]


def summarize_run(run: MonitoredRun) -> RunSummary:
    """Return the summary of a run."""
    steps = run.steps
    kept = steps.superseded == 0
    numbers, losses = steps.number[kept], steps.loss[kept]
    given = np.flatnonzero(~np.isnan(losses))
    finite = np.flatnonzero(np.isfinite(losses))
    lowest = int(finite[losses[finite].argmin()]) if finite.size else None
    sampled = np.unique(run.over_steps("forward_rms").steps)
    return RunSummary(
        steps=len(numbers),
        first_step=int(numbers.min()) if len(numbers) else None,
        last_step=int(numbers.max()) if len(numbers) else None,
        seconds=float(np.nansum(steps.seconds[kept])),
        samples=len(sampled),
        last_sample=int(sampled[-1]) if len(sampled) else None,
        first_loss=float(losses[given[0]]) if given.size else math.nan,
        last_loss=float(losses[given[-1]]) if given.size else math.nan,
        lowest_loss=math.nan if lowest is None else float(losses[lowest]),
        lowest_loss_step=None if lowest is None else int(numbers[lowest]),
        sites=_sites(run),
    )


def worst_severities(alarms: Iterable[Alarm]) -> dict[str, AlarmSeverity]:
    """Return the severity of the worst alarm about each site that has one, by the site's name."""
    found: dict[str, AlarmSeverity] = {}
    for alarm in alarms:
        if alarm.site and found.get(alarm.site) != "broken":
            found[alarm.site] = alarm.severity
    return found


def alarms_in_words(alarms: Sequence[Alarm], steps: Steps) -> str:
    """Return how many alarms a run with these steps has."""
    if alarms:
        return counted(len(alarms), "alarm")
    return "no alarm" if steps.were_judged else "no alarms were asked for"


def _sites(run: MonitoredRun) -> tuple[SiteNow, ...]:
    if not len(run):
        return ()
    forward, backward = run.over_steps("forward_rms"), run.over_steps("backward_rms")
    counts = [run.over_steps(f"{part}_{kind}_count").values for part in ("forward", "backward") for kind in _NONFINITE]
    # A rms is that of the finite values, so that a site of only NaN has none.
    order = forward.steps.argsort(kind="stable")
    seen = (~np.isnan(forward.values) | (np.nansum(counts, axis=0) > 0))[order]
    last = len(seen) - 1 - seen[::-1].argmax(axis=0)
    columns = np.arange(len(forward.names))

    def now(values: Floats) -> Floats:
        return np.asarray(values[order][last, columns])

    with np.errstate(divide="ignore", invalid="ignore"):
        dead = now(run.over_steps("dead_units").values) / now(run.over_steps("units").values)
    numbers = {
        "forward_rms": now(forward.values),
        "forward_change": change_since_first(forward.values[order], now(forward.values)),
        "backward_rms": now(backward.values),
        "backward_change": change_since_first(backward.values[order], now(backward.values)),
        "dead_share": dead,
        **{name: now(run.over_steps(name).values) for name in _FIGURES},
    }
    lost = np.nansum([now(each) for each in counts], axis=0)
    alarms = worst_severities(run.standing_alarms)
    sites = [
        SiteNow(
            name=name,
            nonfinite=int(lost[at]),
            alarm=alarms.get(name, ""),
            **{figure: float(each[at]) for figure, each in numbers.items()},
        )
        for at, name in enumerate(forward.names)
        if seen[:, at].any()
    ]
    places = worst_first(
        nonfinite=[site.nonfinite > 0 for site in sites],
        alarms=[site.alarm for site in sites],
        forward_changes=[site.forward_change for site in sites],
        backward_changes=[site.backward_change for site in sites],
    )
    return tuple(sites[at] for at in places)


def change_since_first(values: Floats, now: Floats) -> Floats:
    """Return the values `now`, shape (names,), over the first ones that are positive and finite.

    `values`: by sample, shape (samples, names). NaN where there is none.
    """
    usable = np.isfinite(values) & (values > 0)
    first = values[usable.argmax(axis=0), np.arange(values.shape[1])]
    return np.where(usable.any(axis=0), now / np.where(first > 0, first, 1.0), np.nan)


def worst_first(
    *,
    nonfinite: Sequence[bool],
    alarms: Sequence[AlarmSeverity | Literal[""]],
    forward_changes: Sequence[float],
    backward_changes: Sequence[float],
) -> list[int]:
    """Return the positions of sites, the worst one first; each argument has one entry a site.

    First come sites with values that are not finite, then those with an alarm, "broken" before "strained", then those
    whose values or gradients changed by the largest factor, up or down; of gradients, that over the usual one counts. A
    change of NaN is unknown.
    """
    # All gradients rise and fall with the loss; what counts is a site that leaves the others.
    usual = float(np.median([each for each in backward_changes if each > 0] or [1.0]))

    def rank(at: int) -> tuple[bool, int, float]:
        changes = [each for each in (forward_changes[at], backward_changes[at] / usual) if not math.isnan(each)]
        far = max((abs(math.log(each)) if each > 0 else math.inf for each in changes), default=0.0)
        return not nonfinite[at], ("broken", "strained", "").index(alarms[at]), -far

    return sorted(range(len(nonfinite)), key=rank)
