"""A monitored run on a page: every step thinned, figures of sites and parameters over the samples, the alarms."""

from __future__ import annotations

from typing import Any

import numpy as np

from propscope.diagnosis import diagnose
from propscope.records.figures import STEP_FIELDS, TABLES, EntryTable
from propscope.records.monitored import MonitoredRun
from propscope.records.network import Floats
from propscope.records.numerals import counted
from propscope.records.over_steps import OverSteps
from propscope.records.profile_set import ProfileSet
from propscope.report.documents import run_document
from propscope.report.findings import verdict_lines
from propscope.report.page.networks import grid_parts
from propscope.report.page.thinning import evenly, listed, with_extremes

# What is drawn over the samples, most telling first; columns of the file's tables.
QUANTITIES: tuple[tuple[str, EntryTable], ...] = (
    ("forward_rms", "site"),
    ("backward_rms", "site"),
    ("flat_fraction", "site"),
    ("dead_units", "site"),
    ("mean_cosine", "site"),
    ("effective_rank", "site"),
    ("largest_logit", "site"),
    ("attention_entropy", "site"),
    ("update_ratio", "parameter"),
    ("gradient_norm", "parameter"),
    ("value_norm", "parameter"),
)
_NONFINITE = tuple(f"{part}_{kind}_count" for part in ("forward", "backward") for kind in ("nan", "posinf", "neginf"))
# Numbers in all maps together, samples at most, parts of the curves over all steps, significant digits.
NUMBERS, SAMPLES, PARTS, DIGITS = 350_000, 250, 400, 4


def run_parts(run: MonitoredRun) -> dict[str, Any]:
    """Return the `run` itself, three samples in full as `networks`, and what is `thinned`."""
    maps, said = _maps(run)
    steps, more = _steps(run)
    samples = ProfileSet(tuple(_in_full(run)))
    parts = grid_parts(list(samples.groups("seed").values())) if len(samples) else {"networks": [], "thinned": []}
    diagnosis = diagnose(run)
    lines = list(verdict_lines(samples[-1], diagnosis)) if len(samples) else [diagnosis.verdict]
    if not run.standing_alarms and not diagnosis.unmeasured:
        lines = ["healthy: no alarm was raised"]
    return {
        "run": run_document(run) | {"lines": lines, "step_table": steps, "maps": maps},
        "networks": parts["networks"],
        "no_theory": [],
        "thinned": [*said, *more, *parts["thinned"], *_left_out(run, samples)],
    }


def _steps(run: MonitoredRun) -> tuple[dict[str, list[Any]], list[str]]:
    steps = run.steps
    kept = np.flatnonzero(steps.superseded == 0)
    drawn = [getattr(steps, name)[kept].astype(np.float64) for name in ("loss", "gradient_norm", "skipped")]
    order = kept[with_extremes(drawn, PARTS)]
    table: dict[str, list[Any]] = {}
    for each in STEP_FIELDS:
        values = getattr(steps, each.name)[order]
        table[each.name] = listed(values, 6) if each.dtype == "float64" else values.tolist()
    said = []
    if len(order) < len(kept):
        said.append(
            f"of {len(kept)} steps {len(order)} are drawn: those at which a curve is smallest or largest nearby"
        )
    if again := len(steps) - len(kept):
        said.append(f"{counted(again, 'step')} that {'was' if again == 1 else 'were'} taken again: left out")
    return table, said


def _maps(run: MonitoredRun) -> tuple[dict[str, Any], list[str]]:
    if not len(run):
        return {"steps": [], "quantities": []}, []
    found = [(name, table, run.over_steps(name, table=table)) for name, table in QUANTITIES]
    counts = [run.over_steps(name) for name in _NONFINITE]
    lost = np.nansum([each.values for each in counts], axis=0)
    known = [each for each in found if not np.isnan(each[2].values).all()]
    if lost.any():
        known.append(("nonfinite", "site", OverSteps("nonfinite", counts[0].steps, counts[0].names, lost)))
    if not known:
        return {"steps": [], "quantities": []}, []
    order = known[0][2].steps.argsort(kind="stable")
    steps = known[0][2].steps[order]
    width = sum(len(each.names) for _, _, each in known)
    at_most = max(min(SAMPLES, NUMBERS // max(width, 1)), 2)
    alarmed = {step for alarm in run.standing_alarms[:SAMPLES] for step in (alarm.since, alarm.step)}
    kept = evenly(len(steps), at_most, np.flatnonzero(np.isin(steps, list(alarmed)))[:at_most])
    document = {
        "steps": steps[kept].tolist(),
        "quantities": [_map(name, table, each, each.values[order][kept]) for name, table, each in known],
    }
    said = f"of {len(steps)} samples {len(kept)} are in the maps, evenly spread, and those of alarms"
    return document, [said] * (len(kept) < len(steps)) + [f"numbers in the maps have {DIGITS} significant digits"]


def _map(name: str, table: EntryTable, over: OverSteps, values: Floats) -> dict[str, Any]:
    labels = {each.name: each.label for each in TABLES[table]} | {"nonfinite": "values and gradients not finite"}
    return {
        "quantity": name,
        "label": labels[name],
        "of": table,
        "names": list(over.names),
        # A row for each name.
        "values": listed(values.T, DIGITS),
    }


def _in_full(run: MonitoredRun) -> list[Any]:
    """Return the first sample, the one where the first alarm shows, and the last."""
    if not len(run):
        return []
    steps = np.unique(run.over_steps("forward_rms").steps)
    if not len(steps):
        return [run[0]]
    chosen = {int(steps[0]), int(steps[-1])}
    if run.standing_alarms:
        first = min(alarm.step for alarm in run.standing_alarms)
        chosen.add(int(steps[max(int(np.searchsorted(steps, first, side="right")) - 1, 0)]))
    return [next(iter(run.subset(step=step))) for step in sorted(chosen)]


def _left_out(run: MonitoredRun, samples: ProfileSet) -> list[str]:
    rest = len(run) - len(samples)
    said = f"{len(samples)} of {len(run)} samples are shown in full: the first, that of the first alarm, the last"
    return [said] if rest > 0 else []
