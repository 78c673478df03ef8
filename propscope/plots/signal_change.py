"""The signal along the depth before and after training, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from propscope.plots.curve_panels import Curves, prepare_curves
from propscope.plots.pages import COLUMN, facts
from propscope.plots.quantities import QUANTITIES, Quantity
from propscope.plots.style import Header
from propscope.records import NetworkProfile, ProfileSet, TrainingRun, TrainingSet

BEFORE, AFTER = "Before training", "After training"
_SHOWN = tuple(quantity for quantity in QUANTITIES if quantity.reads in ("std", "rms"))
_MISSING = " A run that diverged has no curve after training."


def prepare_signal_change(runs: TrainingSet, *, quantities: Sequence[Quantity] = _SHOWN) -> Curves | None:
    """Return the std of the activations and the rms of dL/dz, before the first step and after the last one.

    Return None if no run was profiled at both.
    """
    ends = [(run, run.profile(0), run.profile(run.epochs)) for run in runs]
    both = [(run, early, late) for run, early, late in ends if early is not None and run.epochs]
    if not any(late is not None for _, _, late in both):
        return None
    profiles = [_at(BEFORE, run, early) for run, early, _ in both]
    profiles += [_at(AFTER, run, late) for run, _, late in both if late is not None]
    prepared = prepare_curves(ProfileSet.of(profiles), quantities=quantities)
    if prepared is None:
        return None
    missing = _MISSING if any(late is None and run.stability == "diverged" for run, _, late in both) else ""
    header = Header("Signal before and after training", facts(runs), prepared.header.reading + missing)
    return replace(prepared, header=header)


def _at(moment: str, run: TrainingRun, profile: NetworkProfile) -> NetworkProfile:
    # Pictures of curves have one column per activation; here the column is the moment of the profile.
    return replace(profile, labels={**run.labels, COLUMN: moment})
