"""What `check` prints: lines for a log, the last of which says whether the check passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from propscope.diagnosis.check import CheckOutcome
from propscope.printable import printable
from propscope.records.comparison import Comparison
from propscope.records.finding import Finding
from propscope.records.numerals import counted, number
from propscope.report.comparison import difference_rows, of_network
from propscope.report.findings import message, remedy
from propscope.report.table import filled

_SHOWN = 20


def check_text(outcome: CheckOutcome, *, width: int | None = None) -> str:
    """Return the findings, worst first, what moved from the baseline, and the conclusion.

    Each is a line, or a paragraph of lines of at most `width` characters.
    """
    lines = (printable(line) for line in (*_lines(outcome), conclusion(outcome)))
    return "\n".join(line if width is None else filled(line, width, indent=4) for line in lines)


def _lines(outcome: CheckOutcome) -> Iterator[str]:
    yield outcome.headline
    # Of the notes only those that limit the verdict belong in a log.
    shown = [f for f in outcome.diagnosis.findings if f.severity != "note" or f.kind == "insufficient evidence"]
    yield from _first([line for finding in shown for line in _finding_lines(finding, outcome.axes)], 2)
    if outcome.comparison is not None:
        yield from (f"note: {note}" for note in outcome.comparison.notes)
        yield from _first(
            [f"moved: {where}: {said}" for where, said in difference_rows(outcome.moves, outcome.axes)], 1
        )


def _finding_lines(finding: Finding, axes: tuple[str, ...]) -> list[str]:
    return [
        f"{finding.severity}: {of_network(finding.labels, axes)}{message(finding)}",
        f"  remedy: {remedy(finding) or 'none known'}",
    ]


def _first(lines: Sequence[str], each: int) -> Iterator[str]:
    """Yield the lines of the first entries, each so many lines long, and how many are left."""
    yield from lines[: _SHOWN * each]
    if len(lines) > _SHOWN * each:
        yield f"and {len(lines) // each - _SHOWN} more; --json lists all"


def conclusion(outcome: CheckOutcome) -> str:
    """Return whether the check passed, and why."""
    reasons = []
    if outcome.failing:
        severities = '"broken"' if outcome.fail_on == "broken" else '"strained" or "broken"'
        reasons.append(f"{counted(len(outcome.failing), 'finding')} of severity {severities}")
    if outcome.comparison is not None:
        reasons.append(_compared(outcome.comparison, str(outcome.baseline)))
    if outcome.exit_code == 1:
        return f"failed: {'; '.join(reasons)}"
    if outcome.exit_code:
        return "; ".join([f"not measured: {outcome.diagnosis.unmeasured}", *reasons])
    said = outcome.diagnosis.verdict
    allowed = "" if said == "healthy" else f' (only "{outcome.fail_on}" fails this check)'
    return "; ".join([f"passed: {said}{allowed}", *reasons])


def _compared(comparison: Comparison, baseline: str) -> str:
    how = f"{counted(comparison.comparisons, 'comparison')}, {comparison.method}"
    if comparison.differences:
        return f"{counted(len(comparison.differences), 'figure')} moved from {baseline} ({how})"
    visible = f"; half of them would show a change of x{number(comparison.visible)}" if comparison.comparisons else ""
    return f"nothing moved from {baseline} ({how}{visible})"
