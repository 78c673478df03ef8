"""How tables and JSON reach the terminal."""

from __future__ import annotations

import json
import math
import shutil
import sys
from typing import Any

from propscope.diagnosis import Diagnosis, Finding, Remedy, diagnose
from propscope.records import NetworkProfile, ProfileSet, TrainingSet
from propscope.records.expectations import Deviation, SecondMomentRatio, deviation, second_moment_ratios
from propscope.records.interval import Interval
from propscope.records.network import DIRECTIONS
from propscope.records.pair_summary import summarize_pairs
from propscope.records.rows import Row, parameter_row, profile_row, site_row
from propscope.records.training_summary import DistinctRows, summarize_training
from propscope.report.profile_tables import grid_table
from propscope.report.table import Table
from propscope.report.training_tables import training_table
from propscope.report.verdict import by_labels

_NESTED = ("labels", "spec", "shape", "coverage")


def print_table(table: Table) -> None:
    """Print a table to the width of the terminal, and at full width where stdout is none."""
    print(table.to_text(width=terminal_width()))


def terminal_width() -> int | None:
    """Return the terminal's width in characters; None where stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_grid(profiles: ProfileSet) -> None:
    """Print the table of pairs; where the terminal is too narrow for it, without the intervals, then without theory."""
    width = terminal_width()
    diagnosis = diagnose(profiles, notes=False) if len(profiles) else None
    table = grid_table(profiles, diagnosis)
    for theory in (True, False):
        # The first line is the title, which may wrap.
        if width is None or max(map(len, table.to_text().splitlines()[1 : len(table.rows) + 5])) <= width:
            break
        table = grid_table(profiles, diagnosis, intervals=False, theory=theory)
    print(table.to_text(width=width))


def print_training(runs: TrainingSet) -> None:
    """Print the table of trained pairs; where the terminal is too narrow for it, without the intervals."""
    width = terminal_width()
    table = training_table(runs)
    if width is not None and max(map(len, table.to_text().splitlines()[1 : len(table.rows) + 5])) > width:
        table = training_table(runs, intervals=False)
    print(table.to_text(width=width))


def print_json(document: Any) -> None:
    """Print one JSON document; NaN, which JSON has not, becomes null, and infinities become "inf" and "-inf"."""
    print(json.dumps(_plain(document), indent=2))


def grid_document(profiles: ProfileSet) -> list[dict[str, Any]]:
    """Return one object a pair, with the figures of its table row, its verdict and its findings."""
    if not len(profiles):
        return []
    found = by_labels(diagnose(profiles, notes=False))
    return [
        {name: getattr(pair, name) for name in pair.__dataclass_fields__}
        | diagnosis_document(found[frozenset(pair.labels.items())])
        for pair in summarize_pairs(profiles)
    ]


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the verdict on one network and its findings, the worst first, as one object."""
    return {"verdict": diagnosis.verdict, "findings": [finding_document(finding) for finding in diagnosis.findings]}


def finding_document(finding: Finding) -> dict[str, Any]:
    """Return a finding as one object, its remedy in words."""
    names = ("kind", "severity", "direction", "first", "last", "message", "cause")
    return {
        **{name: getattr(finding, name) for name in names},
        "remedy": None if finding.remedy is None else finding.remedy.text,
        "confidence": finding.confidence,
        "evidence": dict(finding.evidence),
    }


def remedy_document(remedy: Remedy | None) -> dict[str, Any] | None:
    """Return all of a remedy as one object, None where there is none."""
    return None if remedy is None else {name: getattr(remedy, name) for name in remedy.__dataclass_fields__}


def training_document(runs: TrainingSet) -> list[dict[str, Any]]:
    """Return one object a trained pair, with the figures of its table row."""
    return [{name: getattr(pair, name) for name in pair.__dataclass_fields__} for pair in summarize_training(runs)]


def profile_document(profile: NetworkProfile) -> dict[str, Any]:
    """Return a profile as one object: its row, its sites, each with how it compares with theory, its parameters."""
    ratios = second_moment_ratios(profile)
    sites = [
        site_row(site, index)
        | {f"{direction}_deviation": deviation(site, direction) for direction in DIRECTIONS}
        | {"second_moment_ratio": ratios.get(index)}
        for index, site in enumerate(profile.sites)
    ]
    parameters = [parameter_row(parameter, index) for index, parameter in enumerate(profile.parameters)]
    return {
        "profile": _unpacked(profile_row(profile)),
        "sites": [_unpacked(row) for row in sites],
        "parameters": [_unpacked(row) for row in parameters],
    }


def _unpacked(row: Row) -> Row:
    """Return a row without what only a flat table needs: -1 for a missing whole number, and JSON within text."""
    return {
        name: json.loads(value) if name in _NESTED else None if isinstance(value, int) and value == -1 else value
        for name, value in row.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (Interval, Deviation, SecondMomentRatio, DistinctRows)):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
