"""What was done about a fault, in words: remedies that were tried on a network, and what `calibrate` scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from propscope.printable import shown
from propscope.records.calibration import ALIKE, Calibration
from propscope.records.finding import Remedy
from propscope.records.network import Label
from propscope.records.numerals import number, percent
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.report.diagnosis import line_width
from propscope.report.findings import faults, network_name, verdict_word
from propscope.report.table import Table, paragraph

_NAMES = 4


def trials_text(trials: RemedyTrials, among: Sequence[Mapping[str, Label]] = (), *, width: int | None = None) -> str:
    """Return a network's state before, each remedy with what came of it, and the lines of Python that apply it.

    `among`: the labels of several networks that are printed together; only the labels that differ are said. `width`: of
    the terminal; None: there is none.
    """
    trials, among, width = shown(trials), shown(among), line_width(width)
    name = f"{network_name(trials.labels, among)}: " if trials.labels else ""
    lines = [f"{name}{outcome(trials)}"]
    if trials.before.diagnosis.verdict == "healthy":
        return lines[0]
    lines.append(paragraph("before", state_text(trials.before), width))
    if trials.reason:
        lines.append(paragraph("not tried", trials.reason, width))
    chosen = trials.trial
    lines += [_rejected(trial, width) for trial in trials.trials if trial is not chosen]
    if chosen is not None:
        lines += _chosen(chosen, width)
    elif (advice := _untried(trials)) is not None:
        lines.append(paragraph("advice", advice.text, width))
    return "\n".join(lines)


def _untried(trials: RemedyTrials) -> Remedy | None:
    """Return the first remedy of the findings that was not tried, None where each of them was."""
    tried = {trial.remedy.action for trial in trials.trials}
    carried_out = {name for trial in trials.trials for name in (*trial.remedy.factors, *trial.remedy.inputs)}
    for finding in faults(trials.before.diagnosis):
        remedy = finding.remedy
        if remedy is None or remedy.action in tried & {"calibrate", "centre"}:
            continue
        if not {*remedy.factors, *remedy.inputs} & carried_out:
            return remedy
    return None


def outcome(trials: RemedyTrials) -> str:
    """Return the verdict before and after: "broken -> healthy"."""
    before = trials.before.diagnosis.verdict
    if before == "healthy":
        return "healthy: nothing to fix"
    found = trials.trial
    if found is None or found.after is None:
        return f"still {before}: no remedy helped" if trials.trials else before
    return f"{before} -> {found.after.diagnosis.verdict}"


def state_text(state: State) -> str:
    """Return a verdict with its fault, and the factors over the depth."""
    factors = [
        f"{name} x{number(value, 2)}"
        for name, value in (("forward", state.forward), ("backward", state.backward))
        if not math.isnan(value)
    ]
    return "; ".join([verdict_word(state.diagnosis), *filter(None, [", ".join(factors)])])


def calibration_table(calibration: Calibration) -> Table:
    """Return the calibrated weights, one a row; the notes name the weights that were left unchanged, and why."""
    columns = ("layer", "kind", "std before", "std after", "factor", "steps", "samples")
    rows = tuple(
        (
            layer.name or "(model)",
            layer.kind,
            number(layer.std_before),
            number(layer.std_after),
            number(layer.factor),
            str(layer.steps),
            percent(layer.sample_fraction),
        )
        for layer in calibration.layers
    )
    title = (
        f"Calibration: {len(rows)} weights, {calibration.passes} forward pass{'es' if calibration.passes > 1 else ''}"
    )
    return Table(title, columns, rows, frozenset(columns[:2]), _notes(calibration))


def _notes(calibration: Calibration) -> tuple[str, ...]:
    notes = ["samples: share of the variance that lies between samples and positions, not between units."]
    alike = [layer.name for layer in calibration.layers if layer.sample_fraction < ALIKE]
    if alike:
        notes.append(
            f"almost the same for every sample, at any scale: {_listed(alike)}; "
            "a centred activation or a norm keeps samples apart"
        )
    several = [layer.name for layer in calibration.layers if layer.calls > 1]
    if several:
        notes.append(f"run several times in a pass, calibrated on the first run: {_listed(several)}")
    reasons: dict[str, list[str]] = {}
    for entry in calibration.skipped:
        reasons.setdefault(entry.reason, []).append(entry.name or "(model)")
    notes += [f"left unchanged, {reason}: {_listed(names)}" for reason, names in reasons.items()]
    return tuple(notes)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _rejected(trial: Trial, width: int) -> str:
    if trial.after is None:
        return paragraph("withdrawn", f"{trial.remedy.text}: cannot be applied: {trial.reason}", width)
    heading, change = ("set aside", "better, but still") if trial.helped else ("withdrawn", "still")
    return paragraph(heading, f"{trial.remedy.text}: {change} {state_text(trial.after)}", width)


def _chosen(trial: Trial, width: int) -> list[str]:
    assert trial.after is not None
    lines = [paragraph("remedy", trial.remedy.text, width), paragraph("after", state_text(trial.after), width)]
    # Lines of Python are to be pasted, and stay whole.
    return [*lines, *(f"{'' if index else '  as Python':13}{line}" for index, line in enumerate(trial.lines))]
