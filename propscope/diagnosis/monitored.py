"""A monitored run judged by the alarms that the rules of its training raised, the first one first."""

from __future__ import annotations

import math
from collections.abc import Mapping

from propscope.records.finding import Diagnosis, Finding, Remedy
from propscope.records.monitored import Alarm, MonitoredRun
from propscope.records.network import Label
from propscope.records.numerals import counted

# Samples that the first baselines of the rules are made of.
_SAMPLES = 3


def diagnosis_of_run(run: MonitoredRun) -> Diagnosis:
    """Return the diagnosis of a run: one finding for each alarm that stands, in the order of their steps.

    The rules of a single network are not applied: what only an initialization must meet says nothing of a training.
    """
    alarms = sorted(run.standing_alarms, key=lambda alarm: alarm.step)
    return Diagnosis(tuple(map(_finding, alarms)), stage="training", not_measured=_unmeasured(run))


def _finding(alarm: Alarm) -> Finding:
    seen, _, advice = alarm.message.partition(". ")
    seen, _, cause = seen.partition("; ")
    numbers: Mapping[str, float] = {"value": alarm.value, "baseline": alarm.baseline}
    labels: Mapping[str, Label] = {"step": alarm.step, "since": alarm.since}
    return Finding(
        # The rules of training have kinds of their own.
        kind=alarm.kind,  # type: ignore[arg-type]
        severity=alarm.severity,
        sites=(alarm.site,) if alarm.site else (),
        message=f"at step {alarm.step}{alarm.since_text}: {seen}",
        cause=cause,
        evidence={name: value for name, value in numbers.items() if not math.isnan(value)},
        remedy=Remedy("training", advice[:1].lower() + advice[1:]) if advice else None,
        # It happened; nothing is known of another seed.
        confidence=math.nan,
        labels=labels,
    )


def _unmeasured(run: MonitoredRun) -> str:
    if run.standing_alarms:
        return ""
    if not run.steps.were_judged:
        return "no alarms were asked for: the monitor had alarms=False"
    if len(run) > _SAMPLES:
        return ""
    return f"a run of {counted(len(run), 'sample')} is too short to judge: the first baselines need {_SAMPLES} samples"
