"""What `check` prints: lines for a log, the last of which says whether the check passed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from propscope.diagnosis.check import CheckOutcome
from propscope.diagnosis.compare import Comparison, Move
from propscope.printable import printable
from propscope.records.finding import Finding
from propscope.records.network import Label
from propscope.records.numerals import counted, number
from propscope.report.findings import message, remedy

_SHOWN = 20


def check_text(outcome: CheckOutcome) -> str:
    """Return the findings, worst first, what moved from the baseline, and the conclusion, a line each."""
    return "\n".join(printable(line) for line in (*_lines(outcome), _conclusion(outcome)))


def _lines(outcome: CheckOutcome) -> Iterator[str]:
    yield outcome.headline
    # Of the notes only those that limit the verdict belong in a log.
    shown = [f for f in outcome.diagnosis.findings if f.severity != "note" or f.kind == "insufficient evidence"]
    yield from _first([line for finding in shown for line in _finding_lines(finding, outcome.axes)], 2)
    if outcome.comparison is not None:
        yield from (f"note: {note}" for note in outcome.comparison.notes)
        yield from _first(_move_lines(outcome.moves, outcome.axes), 1)


def _finding_lines(finding: Finding, axes: tuple[str, ...]) -> list[str]:
    return [
        f"{finding.severity}: {_of_network(finding.labels, axes)}{message(finding)}",
        f"  remedy: {remedy(finding) or 'none known'}",
    ]


def _move_lines(moves: Sequence[Move], axes: tuple[str, ...]) -> list[str]:
    """Return a line for each move; moves of several sites that say the same share one."""
    alike: dict[tuple[Any, ...], list[Move]] = {}
    for move in moves:
        network = _of_network(move.labels or {}, axes)
        alike.setdefault((move.direction, move.quantity, move.message, network), []).append(move)
    lines = []
    for (direction, quantity, said, network), same in alike.items():
        signal = "" if direction is None else f"{direction} "
        places = f"{same[0].site or '(model)'}"
        if len(same) > 1:
            places += f" to {same[-1].site or '(model)'} ({len(same)} sites)"
        lines.append(f"moved: {network}{signal}{quantity} at {places}: {said}")
    return lines


def _of_network(labels: Mapping[str, Label], axes: tuple[str, ...]) -> str:
    said = ", ".join(f"{name} {labels[name]}" for name in axes if name in labels)
    return f"{said}: " if said else ""


def _first(lines: Sequence[str], each: int) -> Iterator[str]:
    """Yield the lines of the first entries, each so many lines long, and how many are left."""
    yield from lines[: _SHOWN * each]
    if len(lines) > _SHOWN * each:
        yield f"and {len(lines) // each - _SHOWN} more; --json lists all"


def _conclusion(outcome: CheckOutcome) -> str:
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
    if comparison.moves:
        return f"{counted(len(comparison.moves), 'figure')} moved from {baseline} ({how})"
    visible = f"; half of them would show a change of x{number(comparison.visible)}" if comparison.comparisons else ""
    return f"nothing moved from {baseline} ({how}{visible})"
