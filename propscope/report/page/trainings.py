"""Trainings on a page: how each run learned, what the seeds show together, and the signal before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from propscope.records.network import Label
from propscope.records.training import CURVES, TrainingRun, TrainingSet
from propscope.report.documents import training_document
from propscope.report.findings import network_name
from propscope.report.page.networks import grid_parts
from propscope.report.page.thinning import evenly, listed

# Points of all curves together, and of one of them at least.
POINTS, POINTS_OF_ONE = 100_000, 20


def training_parts(runs: TrainingSet) -> dict[str, Any]:
    """Return the `trainings`, a row for each pair, the networks before the first step, and what is `thinned`."""
    at_most = max(POINTS // (len(CURVES) * len(runs)), POINTS_OF_ONE)
    networks = list(runs.profiles(0).groups("seed").values())
    parts = grid_parts(networks) if networks else {"networks": [], "thinned": [], "no_theory": []}
    longest = max(len(run.train_loss) for run in runs)
    if longest > at_most:
        parts["thinned"] = [f"of {longest} epochs {at_most} are drawn, evenly spread", *parts["thinned"]]
    among = [run.labels for run in runs]
    pairs = [row | {"name": network_name(row["labels"], among)} for row in training_document(runs)]
    trainings = [_training(run, at_most, among) for run in runs]
    return parts | {"trainings": trainings, "trained_pairs": pairs}


def _training(run: TrainingRun, at_most: int, among: Sequence[Mapping[str, Label]]) -> dict[str, Any]:
    kept = evenly(len(run.train_loss), at_most)
    return {
        "labels": dict(run.labels),
        "name": network_name(run.labels, among),
        "stability": run.stability,
        "learning_rate": run.learning_rate,
        "diverged_at": run.diverged_at,
        "epochs": kept.tolist(),
        **{name: listed(getattr(run, name)[kept], 6) for name in CURVES},
    }
