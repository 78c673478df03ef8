"""What `--json` prints: each record as one JSON object. docs/json.md states the objects that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from propscope.diagnosis import diagnose
from propscope.diagnosis.check import CheckOutcome
from propscope.records.comparison import Comparison
from propscope.records.expectations import Deviation, SecondMomentRatio, deviation, second_moment_ratios
from propscope.records.figures import TABLES
from propscope.records.finding import Diagnosis, Finding, Remedy
from propscope.records.interval import Interval
from propscope.records.monitored import MonitoredRun
from propscope.records.network import DIRECTIONS, NetworkProfile
from propscope.records.precision import FORMATS, recommended_loss_scale, summary_headroom
from propscope.records.profile_set import ProfileSet
from propscope.records.remedy_trials import RemedyTrials, State
from propscope.records.rows import Row, parameter_row, profile_row, site_row
from propscope.records.run_summary import summarize_run
from propscope.records.summary import TensorSummary
from propscope.records.training import TrainingSet
from propscope.records.training_summary import DistinctRows, summarize_training
from propscope.report.profile_tables import judged

# The columns of text that hold JSON; the spec is kept as text, since a file may hold anything there.
_NESTED = {"spec"} | {field.name for fields in TABLES.values() for field in fields if field.dtype == "json"}


def json_text(document: Any) -> str:
    """Return a document as JSON; NaN, which JSON does not have, becomes null, and infinities become "inf", "-inf"."""
    return json.dumps(plain(document), indent=2)


def finding_document(finding: Finding) -> dict[str, Any]:
    """Return a finding, with the same keys in every command."""
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "direction": finding.direction,
        "sites": list(finding.sites),
        "first": finding.first,
        "last": finding.last,
        "message": finding.message,
        "cause": finding.cause,
        "effects": list(finding.effects),
        "remedy": None if finding.remedy is None else remedy_document(finding.remedy),
        "confidence": finding.confidence,
        "labels": dict(finding.labels),
        "marks": dict(finding.marks),
        "evidence": dict(finding.evidence),
    }


def remedy_document(remedy: Remedy) -> dict[str, Any]:
    """Return a remedy: the action, in words, and the options, factors or inputs that carry it out."""
    return {
        "action": remedy.action,
        "text": remedy.text,
        "options": dict(remedy.options),
        "factors": dict(remedy.factors),
        "inputs": dict(remedy.inputs),
    }


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the verdict on one network, why it was not measured, and its findings, worst first."""
    return {
        "verdict": diagnosis.verdict,
        "stage": diagnosis.stage,
        "expects": dict(diagnosis.expects),
        "loads": dict(diagnosis.loads),
        "not_measured": diagnosis.unmeasured,
        "findings": [finding_document(finding) for finding in diagnosis.findings],
    }


def network_documents(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """Return the labels, verdict and findings of each network."""
    return [
        {"labels": dict(network.labels), **diagnosis_document(network)}
        for network in diagnosis.networks or (diagnosis,)
    ]


def trials_document(trials: RemedyTrials) -> dict[str, Any]:
    """Return the state of a network before, and every remedy that was tried, in order."""
    return {
        "reason": trials.reason,
        "before": _state(trials.before),
        "trials": [
            {
                "remedy": remedy_document(trial.remedy),
                "helped": trial.helped,
                "chosen": trial is trials.trial,
                "after": None if trial.after is None else _state(trial.after),
                "reason": trial.reason,
                "lines": list(trial.lines),
            }
            for trial in trials.trials
        ],
    }


def check_document(outcome: CheckOutcome) -> dict[str, Any]:
    """Return what `check` concludes: verdict, findings, and what has moved from the baseline."""
    comparison = outcome.comparison
    return {
        "checked": outcome.headline,
        "networks": outcome.networks,
        "profiles": outcome.profiles,
        "verdict": outcome.diagnosis.verdict,
        "stage": outcome.diagnosis.stage,
        "expects": dict(outcome.diagnosis.expects),
        "loads": dict(outcome.diagnosis.loads),
        "not_measured": outcome.diagnosis.unmeasured,
        "fail_on": outcome.fail_on,
        "failed": outcome.exit_code == 1,
        "exit_code": outcome.exit_code,
        "findings": [finding_document(finding) for finding in outcome.diagnosis.findings],
        "baseline": None
        if comparison is None
        else {
            name: value
            for name, value in comparison_document(comparison).items()
            if name not in ("differences", "sizes")
        }
        | {"file": str(outcome.baseline)},
        "moved": [fields(move) for move in outcome.moves],
    }


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as one object, with where the two part first, and every difference."""
    nested = ("differences", "parameters", "only_first", "only_second", "sizes")
    document: dict[str, Any] = plain(
        {
            "same": comparison.same,
            "exit_code": comparison.exit_code,
            "first": {
                direction: None if (one := comparison.first(direction)) is None else fields(one)
                for direction in DIRECTIONS
            },
            **{name: value for name, value in fields(comparison).items() if name not in nested},
            **{name: [fields(each) for each in getattr(comparison, name)] for name in nested},
        }
    )
    return document


def grid_document(networks: Iterable[ProfileSet]) -> list[dict[str, Any]]:
    """Return one object a pair, with the figures of its table row, its verdict and its findings."""
    return [fields(pair) | diagnosis_document(diagnosis) for pair, diagnosis in judged(networks)]


def training_document(runs: TrainingSet) -> list[dict[str, Any]]:
    """Return one object a trained pair, with the figures of its table row."""
    return [fields(pair) for pair in summarize_training(runs)]


def run_document(run: MonitoredRun) -> dict[str, Any]:
    """Return the verdict on a monitored run, its few numbers with the worst sites first, and all its alarms."""
    summary = summarize_run(run)
    return {
        **diagnosis_document(diagnose(run)),
        **fields(summary, leave="sites"),
        "sites": [fields(site) for site in summary.sites],
        "alarms": [fields(alarm) for alarm in run.alarms],
    }


def profile_document(profile: NetworkProfile) -> dict[str, Any]:
    """Return a profile: its row, its sites, each with how it compares with theory, its parameters."""
    ratios = second_moment_ratios(profile)
    sites = [
        unpacked(site_row(site, index))
        | {"parents": site.parents and [fields(parent) for parent in site.parents], "parameters": site.parameters}
        | {f"{direction}_deviation": deviation(site, direction) for direction in DIRECTIONS}
        | {"second_moment_ratio": ratios.get(index)}
        for index, site in enumerate(profile.sites)
    ]
    parameters = [parameter_row(parameter, index) for index, parameter in enumerate(profile.parameters)]
    return {
        "profile": unpacked(profile_row(profile)),
        "sites": sites,
        "parameters": [unpacked(row) for row in parameters],
    }


def inspection_document(profile: NetworkProfile, diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what `inspect` shows: verdict and findings, the precision of each site, the profile."""
    return {
        **diagnosis_document(diagnosis),
        "precision": {
            "recommended_loss_scale": recommended_loss_scale(profile),
            "sites": [
                {"name": site.name, "forward": _headroom(site.forward), "backward": _headroom(site.backward)}
                for site in profile.sites
            ],
        },
        **profile_document(profile),
    }


def _state(state: State) -> dict[str, Any]:
    worst = state.diagnosis.worst
    return {
        "verdict": state.diagnosis.verdict,
        "worst": None if worst is None else finding_document(worst),
        "forward": state.forward,
        "backward": state.backward,
    }


def _headroom(summary: TensorSummary | None) -> dict[str, Any] | None:
    shares = {entry.name: summary_headroom(summary, entry) for entry in FORMATS}
    if None in shares.values():
        return None
    return {
        name: {"overflow": part.overflow, "subnormal": part.subnormal, "zero": part.zero}
        for name, part in shares.items()
        if part is not None
    }


def fields(record: Any, *, leave: str = "") -> dict[str, Any]:
    """Return the fields of a record by name, without the one to `leave`."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__ if name != leave}


def unpacked(row: Row) -> Row:
    """Return a row without what only a flat table needs: -1 for a missing whole number, and JSON within text."""
    found: Row = {}
    for name, value in row.items():
        if name in _NESTED:
            found[name] = json.loads(value) if value else None
        else:
            found[name] = None if isinstance(value, int) and value == -1 else value
    return found


def plain(value: Any) -> Any:
    """Return a document of what JSON has: NaN becomes None, infinities become "inf", "-inf"."""
    if isinstance(value, (Interval, Deviation, SecondMomentRatio, DistinctRows)):
        return plain(fields(value))
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
