"""What `check` concludes, and how it is printed: lines for a log, or one JSON document."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from propscope.diagnosis import Diagnosis, Finding, diagnose
from propscope.diagnosis.compare import Comparison, Move, compare
from propscope.records import ProfileSet
from propscope.records.finding import SEVERITIES
from propscope.records.network import Label
from propscope.records.numerals import number
from propscope.report.documents import remedy_document

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was checked (`headline`), its diagnosis, how it compares with `baseline`, and what is failed on.

    `axes`: the labels that tell its networks apart. `comparison` is None without a baseline.
    """

    headline: str
    networks: int
    profiles: int
    axes: tuple[str, ...]
    fail_on: str
    diagnosis: Diagnosis
    baseline: Path | None = None
    comparison: Comparison | None = None

    @classmethod
    def of(
        cls,
        profiles: ProfileSet,
        headline: str,
        held: ProfileSet | None,
        baseline: Path | None,
        *,
        fail_on: str,
        tolerance: float,
    ) -> Verdict:
        """Return the verdict on profiles, with `held`, the profiles of the file `baseline`, to compare them with."""
        comparison = None if held is None else compare(profiles, held, tolerance=tolerance)
        axes = tuple(name for name, values in profiles.axes.items() if name != "seed" and len(values) > 1)
        networks = len(profiles.groups("seed"))
        found = diagnose(profiles)
        return cls(headline, networks, len(profiles), axes, fail_on, found, baseline, comparison)

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The findings that are as grave as is failed on, or graver."""
        grave = SEVERITIES[: SEVERITIES.index(self.fail_on) + 1]
        return tuple(finding for finding in self.diagnosis.findings if finding.severity in grave)

    @property
    def moves(self) -> tuple[Move, ...]:
        """What has moved from the baseline."""
        return () if self.comparison is None else self.comparison.moves

    @property
    def exit_code(self) -> int:
        """1 where the check failed, else 0."""
        return 1 if self.failing or self.moves else 0


def print_verdict(verdict: Verdict, *, json: bool) -> None:
    """Print what was found and, on the last line, whether it passed; with `json` one document and nothing else."""
    from propscope.report.documents import print_json
    from propscope.report.terminal import write

    if json:
        print_json(_document(verdict))
        return
    for line in (*_lines(verdict), _conclusion(verdict)):
        write(line, sys.stdout)


def _lines(verdict: Verdict) -> Iterator[str]:
    yield verdict.headline
    # Of notes only those that limit the verdict belong into a log.
    shown = [f for f in verdict.diagnosis.findings if f.severity != "note" or f.kind == "insufficient evidence"]
    yield from _first([line for finding in shown for line in _finding_lines(finding, verdict.axes)], 2)
    if verdict.comparison is not None:
        yield from (f"note: {note}" for note in verdict.comparison.notes)
        yield from _first(_move_lines(verdict.moves, verdict.axes), 1)


def _finding_lines(finding: Finding, axes: tuple[str, ...]) -> list[str]:
    first = finding.first or "(model)"
    place = f" at {first}" if finding.sites else ""
    remedy = finding.remedy.text if finding.remedy is not None else "none known"
    message = finding.message.removeprefix(f"{first}: ")
    return [
        f"{finding.severity}: {finding.kind}{place}{_whose(finding.labels, axes)}: {message}",
        f"  remedy: {remedy}",
    ]


def _move_lines(moves: Sequence[Move], axes: tuple[str, ...]) -> list[str]:
    """Return a line a move, one for all that say the same of several sites of a network."""
    alike: dict[tuple[Any, ...], list[Move]] = {}
    for move in moves:
        whose = _whose(move.labels or {}, axes)
        alike.setdefault((move.direction, move.quantity, move.message, whose), []).append(move)
    lines = []
    for (direction, quantity, message, whose), same in alike.items():
        signal = "" if direction is None else f"{direction} "
        places = f"{same[0].site or '(model)'}"
        if len(same) > 1:
            places += f" to {same[-1].site or '(model)'} ({len(same)} sites)"
        lines.append(f"moved: {signal}{quantity} at {places}{whose}: {message}")
    return lines


def _whose(labels: Mapping[str, Label], axes: tuple[str, ...]) -> str:
    said = ", ".join(f"{name} {labels[name]}" for name in axes if name in labels)
    return f" ({said})" if said else ""


def _first(lines: Sequence[str], each: int) -> Iterator[str]:
    """Yield the lines of the first entries, each so many lines long, and how many are left."""
    yield from lines[: _SHOWN * each]
    if len(lines) > _SHOWN * each:
        yield f"and {len(lines) // each - _SHOWN} more; --json lists all"


def _conclusion(verdict: Verdict) -> str:
    reasons = []
    if verdict.failing:
        reasons.append(f"{counted(len(verdict.failing), 'finding')} at or above {verdict.fail_on}")
    if verdict.comparison is not None:
        reasons.append(_compared(verdict.comparison, verdict.baseline))
    if verdict.exit_code:
        return f"failed: {'; '.join(reasons)}"
    said = verdict.diagnosis.verdict
    allowed = "" if said == "healthy" else f", failing on {verdict.fail_on} alone"
    return "; ".join([f"passed: {said}{allowed}", *reasons])


def _compared(comparison: Comparison, baseline: Path | None) -> str:
    how = f"{counted(comparison.comparisons, 'comparison')}, {comparison.method}"
    if comparison.moves:
        return f"{counted(len(comparison.moves), 'figure')} moved from {baseline} ({how})"
    visible = f"; half would show a change of x{number(comparison.visible)}" if comparison.comparisons else ""
    return f"nothing moved from {baseline} ({how}{visible})"


def counted(count: int, noun: str) -> str:
    """Return a number of things in words, such as 1 profile or 2 profiles."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _document(verdict: Verdict) -> dict[str, Any]:
    comparison = verdict.comparison
    return {
        "checked": verdict.headline,
        "networks": verdict.networks,
        "profiles": verdict.profiles,
        "verdict": verdict.diagnosis.verdict,
        "fail_on": verdict.fail_on,
        "failed": bool(verdict.exit_code),
        "exit_code": verdict.exit_code,
        "findings": [_finding_document(finding) for finding in verdict.diagnosis.findings],
        "baseline": None
        if comparison is None
        else _fields(comparison, leave="moves") | {"file": str(verdict.baseline)},
        "moved": [_fields(move) for move in verdict.moves],
    }


def _finding_document(finding: Finding) -> dict[str, Any]:
    return _fields(finding) | {"first": finding.first, "remedy": remedy_document(finding.remedy)}


def _fields(record: Any, *, leave: str = "") -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__ if name != leave}
