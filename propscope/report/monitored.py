"""A monitored run on one screen: its steps and losses, the alarms with the first one first, and its worst sites now."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

import numpy as np

from propscope.printable import printable, shortened
from propscope.records.monitored import Alarm, MonitoredRun
from propscope.records.numerals import counted, number, percent
from propscope.records.run_summary import RunSummary, SiteNow, alarms_in_words, summarize_run
from propscope.report.sparkline import trend
from propscope.report.table import Block, Table

WIDTH = 79
ALARMS, SITES = 4, 4
_PLACE, _SITE = 24, 25
_ALARM_COLUMNS = ("step", "alarm", "where", "value", "before", "severity")


def run_blocks(run: MonitoredRun) -> list[Block]:
    """Return what is to be said of a run first: some 24 lines of 79 characters."""
    summary = summarize_run(run)
    blocks: list[Block] = ["\n".join(textwrap.fill(line, WIDTH) for line in _head(run, summary))]
    if alarms := run.standing_alarms:
        blocks += [_first(alarms[0]), alarm_table(alarms)] if len(alarms) > 1 else [_first(alarms[0])]
    return [*blocks, _site_table(summary)] if summary.sites else blocks


def _head(run: MonitoredRun, summary: RunSummary) -> list[str]:
    ends = f" ({summary.first_step} to {summary.last_step})" if summary.steps else ""
    pace = f", {number(summary.seconds / summary.steps, 2)} s each" if summary.steps and summary.seconds > 0 else ""
    sampled = f", last at step {summary.last_sample}" if summary.samples else ""
    lines = [f"{counted(summary.steps, 'step')}{ends}{pace}; {counted(summary.samples, 'sample')}{sampled}"]
    if not math.isnan(summary.first_loss):
        lowest = ""
        if summary.lowest_loss_step is not None and summary.lowest_loss < min(summary.first_loss, summary.last_loss):
            lowest = f", lowest {number(summary.lowest_loss)} at step {summary.lowest_loss_step}"
        line = f"loss {_number(summary.first_loss)} to {_number(summary.last_loss)}{lowest}  "
        losses = run.steps.loss[(run.steps.superseded == 0) & ~np.isnan(run.steps.loss)]
        # The axis of a trend is logarithmic.
        course = trend(losses, width=WIDTH - len(line)) if len(losses) > 1 and losses.min() > 0 else ""
        lines.append((line + course).rstrip())
    again, skipped = int(run.steps.superseded.sum()), int((run.steps.skipped > 0).sum())
    failed = sum(map(bool, run.steps.error.tolist()))
    odd = [
        f"{counted(skipped, 'step')} skipped by the optimizer" if skipped else "",
        f"{counted(again, 'step')} taken again" if again else "",
        f"{counted(failed, 'step')} raised an error" if failed else "",
    ]
    if any(odd):
        lines.append("; ".join(filter(None, odd)))
    alarms = run.standing_alarms
    return lines if alarms else [*lines, alarms_in_words(alarms, run.steps)]


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else number(value)


def _first(alarm: Alarm) -> str:
    text = printable(str(alarm))
    return textwrap.fill(f"! {text}" if alarm.severity == "broken" else text, WIDTH, subsequent_indent="  ")


def alarm_table(alarms: tuple[Alarm, ...]) -> Table:
    """Return the table of the first alarms, a row each."""
    title = counted(len(alarms), "alarm")
    return Table(
        title if len(alarms) <= ALARMS else f"the first {ALARMS} of {title}; propscope diagnose RUN explains them",
        _ALARM_COLUMNS,
        tuple(
            (
                str(alarm.step),
                alarm.kind,
                shortened(alarm.place, _PLACE),
                number(alarm.value),
                number(alarm.baseline),
                alarm.severity,
            )
            for alarm in alarms[:ALARMS]
        ),
        left=frozenset(("alarm", "where", "severity")),
    )


# Heading, and what stands below it; "" where nothing was recorded.
_COLUMNS: tuple[tuple[str, Callable[[SiteNow], str]], ...] = (
    ("rms", lambda site: number(site.forward_rms)),
    ("x first", lambda site: number(site.forward_change, 2)),
    ("gradient", lambda site: number(site.backward_rms)),
    ("x first", lambda site: number(site.backward_change, 2)),
    ("dead", lambda site: percent(site.dead_share)),
    ("logit", lambda site: number(site.largest_logit)),
    ("rank", lambda site: number(site.effective_rank, 2)),
)


def _site_table(summary: RunSummary) -> Table:
    shown = summary.sites[:SITES]
    columns = [each for each in _COLUMNS if any(each[1](site) != "-" for site in summary.sites)]
    count, at = len(summary.sites), summary.last_sample
    lost = "∞: some values are NaN or infinite; the numbers are those of the others"
    return Table(
        f"{counted(count, 'site')} at step {at}"
        if count <= SITES
        else f"the worst {SITES} of {count} sites at step {at}; propscope show RUN --step {at} shows all",
        ("site", *(heading for heading, _ in columns)),
        tuple((_named(site), *(read(site) for _, read in columns)) for site in shown),
        left=frozenset(("site",)),
        notes=(lost,) if any(site.nonfinite for site in shown) else (),
    )


def _named(site: SiteNow) -> str:
    mark = "∞ " if site.nonfinite else {"broken": "! ", "strained": "~ ", "": ""}[site.alarm]
    return mark + shortened(site.name or "(model)", _SITE - len(mark))
