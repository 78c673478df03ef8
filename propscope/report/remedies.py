"""What was tried, and what came of it, in words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from propscope.records.network import Label
from propscope.records.numerals import number
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.report.explanation import WIDTH, name_of
from propscope.report.verdict import verdict_word


def trials_text(mending: RemedyTrials, among: Sequence[Mapping[str, Label]] = ()) -> str:
    """Return a network's state before, each remedy with what came of it, and the lines that carry it out.

    `among`: the labels of the networks that stand beside it, of which only those that differ are said.
    """
    what = f"{name_of(mending.labels, among)}: " if mending.labels else ""
    lines = [f"{what}{outcome(mending)}"]
    if mending.before.diagnosis.verdict == "healthy":
        return lines[0]
    lines += _paragraph("before", state_text(mending.before))
    if mending.reason:
        lines += _paragraph("not tried", mending.reason)
    chosen = mending.trial
    for trial in mending.trials:
        lines += _set_aside(trial) if trial is not chosen else []
    if chosen is not None:
        lines += _chosen(chosen)
    elif (worst := mending.before.diagnosis.worst) is not None and worst.remedy is not None:
        lines += _paragraph("advice", worst.remedy.text)
    return "\n".join(lines)


def outcome(mending: RemedyTrials) -> str:
    """Return the verdict before and after: "broken -> healthy"."""
    before = mending.before.diagnosis.verdict
    if before == "healthy":
        return "healthy: nothing to mend"
    found = mending.trial
    if found is None or found.after is None:
        return f"{before}, and stays so: no remedy helped" if mending.trials else before
    return f"{before} -> {found.after.diagnosis.verdict}"


def state_text(state: State) -> str:
    """Return a verdict with its fault, and the factors over the depth."""
    factors = [
        f"{name} x{number(value, 2)}"
        for name, value in (("forward", state.forward), ("backward", state.backward))
        if not math.isnan(value)
    ]
    return "; ".join([verdict_word(state.diagnosis), *filter(None, [", ".join(factors)])])


def _set_aside(trial: Trial) -> list[str]:
    if trial.after is None:
        return _paragraph("withdrawn", f"{trial.remedy.text}: cannot be carried out: {trial.reason}")
    what, still = ("set aside", "only") if trial.helped else ("withdrawn", "still")
    return _paragraph(what, f"{trial.remedy.text}: {still} {state_text(trial.after)}")


def _chosen(trial: Trial) -> list[str]:
    assert trial.after is not None
    lines = [*_paragraph("remedy", trial.remedy.text), *_paragraph("after", state_text(trial.after))]
    # Lines of Python are to be pasted, and stay whole.
    return [*lines, *(f"{'  as Python' if not place else '':13}{line}" for place, line in enumerate(trial.lines))]


def _paragraph(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"  {name:11}{text}", WIDTH, subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False
    )
