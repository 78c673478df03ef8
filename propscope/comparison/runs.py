"""Two monitored runs: the first step and site where they part, and the alarms that one of them lacks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.comparison.inputs import beginning
from propscope.comparison.networks import Match
from propscope.comparison.signal import difference, structure
from propscope.comparison.sites import all_sites, paired_sites, weights_of
from propscope.comparison.tolerance import tolerance_of
from propscope.errors import InputError
from propscope.records.comparison import Comparison, Difference, Quantity, SiteSizes
from propscope.records.monitored import Alarm, MonitoredRun, Steps
from propscope.records.network import DIRECTIONS, Direction, Floats, NetworkProfile
from propscope.records.numerals import counted, listed, number
from propscope.records.over_steps import Integers

_CURVES: dict[Quantity, str] = {
    "loss": "loss",
    "gradient norm": "gradient_norm",
    "learning rate": "learning_rate",
}
_NONFINITE = ("nan_count", "posinf_count", "neginf_count")


def compare_runs(before: MonitoredRun, after: MonitoredRun, tolerance: float | None) -> Comparison:
    """Return where two trainings part, by the numbers of their steps; steps that were taken again count once.

    Raises `InputError` where no step, and no sampled step, is in both.
    """
    steps, rows = _common_steps(before.steps, after.steps)
    sampled = [_sampled(run) for run in (before, after)]
    both = np.intersect1d(sampled[0], sampled[1])
    samples = [one for run in (before, after) if (one := _sample(run, both)) is not None]
    share, of_type = tolerance_of(samples, tolerance)
    if not len(steps) and not len(both):
        raise InputError(
            f"no step is in both: the first has {_said(before)}, the second has {_said(after)}",
            hint="give two runs whose numbers of steps overlap",
        )
    found = [*_curves(before.steps, after.steps, steps, rows, share)]
    facts: dict[str, Any] = {}
    notes = [*_lengths(before, after, steps)]
    if len(sampled[0]) and len(sampled[1]) and not len(both):
        notes.append("no step was sampled in both, so no site is compared")
    if len(samples) == 2:
        pairs = paired_sites(
            all_sites(samples[:1]), all_sites(samples[1:]), (weights_of(samples[0]), weights_of(samples[1]))
        )
        match = Match((samples[0],), (samples[1],), paired=True, method="", labels={}, pairs=pairs)
        found += [*structure(match), *_sites(before, after, match, both, share)]
        began = beginning((match,))
        moved = _weights(before, after, both)
        facts = {
            "same_batch": began.same_batch,
            "same_weights": began.same_weights,
            "inputs": (*began.lines, *moved),
            "parameters": began.parameters,
            "renamed": tuple((pair.renamed, pair.site.name) for pair in pairs if pair.renamed),
            "sizes": tuple(_last_sizes(before, after, match, both)),
            "sites": match.common_sites,
        }
    losses = [run.loss[at] for run, at in zip((before.steps, after.steps), rows, strict=True)]
    unequal = np.flatnonzero(~((losses[0] == losses[1]) | (np.isnan(losses[0]) & np.isnan(losses[1]))))
    return Comparison(
        tuple(found),
        steps=len(steps) or len(both),
        method=f"{counted(len(steps), 'step')} and {counted(len(both), 'sample')} of both",
        tolerance=share,
        tolerance_of=of_type,
        only_first=_lacking(before, after),
        only_second=_lacking(after, before),
        equal_until=int(steps[unequal[0]]) if len(unequal) else None,
        notes=tuple(notes),
        **facts,
    )


def _sampled(run: MonitoredRun) -> Integers:
    return np.unique(run.over_steps("forward_rms").steps) if len(run) else np.array([], np.int64)


def _sample(run: MonitoredRun, both: Integers) -> NetworkProfile | None:
    """Return the sample of the first step that both have sampled, else the run's first; None without any."""
    steps = both if len(both) else _sampled(run)
    return next(iter(run.subset(step=int(steps[0]))), None) if len(steps) else None


def _common_steps(before: Steps, after: Steps) -> tuple[Integers, tuple[Integers, Integers]]:
    """Return the numbers of the steps of both, ascending, and the rows that they have in each."""
    kept = [np.flatnonzero(steps.superseded != 1) for steps in (before, after)]
    numbers = [steps.number[rows] for steps, rows in zip((before, after), kept, strict=True)]
    common, first, second = np.intersect1d(numbers[0], numbers[1], return_indices=True)
    return common.astype(np.int64), (kept[0][first], kept[1][second])


def _said(run: MonitoredRun) -> str:
    steps = run.steps.number if len(run.steps) else run.over_steps("forward_rms").steps if len(run) else ()
    return f"steps {min(steps)} to {max(steps)}" if len(steps) else "no steps"


def _lengths(before: MonitoredRun, after: MonitoredRun, common: Integers) -> Iterator[str]:
    for run, which in ((before, "first"), (after, "second")):
        own = np.unique(run.steps.number[run.steps.superseded != 1])
        if len(alone := np.setdiff1d(own, common)):
            ends = f"step {alone[0]}" if len(alone) == 1 else f"steps {alone[0]} to {alone[-1]}"
            yield f"{counted(len(alone), 'step')} only in the {which}, not compared: {ends}"


def _part(before: Floats, after: Floats, tolerance: float) -> NDArray[np.bool_]:
    """Return where two arrays differ by more than the share `tolerance`, or only one is finite; NaN equals NaN."""
    with np.errstate(invalid="ignore"):
        near = np.abs(after - before) <= tolerance * np.maximum(np.abs(before), np.abs(after))
        near &= np.isfinite(before) & np.isfinite(after)
        same = (before == after) | (np.isnan(before) & np.isnan(after)) | near
    part: NDArray[np.bool_] = ~same
    return part


def _curves(
    before: Steps, after: Steps, steps: Integers, rows: tuple[Integers, Integers], tolerance: float
) -> Iterator[Difference]:
    """Yield for each curve over all steps the first one at which it parts."""
    for quantity, name in _CURVES.items():
        then, now = (getattr(side, name)[at] for side, at in zip((before, after), rows, strict=True))
        part = np.flatnonzero(_part(then, now, tolerance))
        if len(part):
            old, new = float(then[part[0]]), float(now[part[0]])
            many = f", in {counted(len(part), 'step')} of {len(steps)}"
            message = f"{_change(old, new)}{many}"
            yield Difference("", None, quantity, message, old, new, _ratio(old, new), step=int(steps[part[0]]))
    errors = [side.error[at] for side, at in zip((before, after), rows, strict=True)]
    part = np.flatnonzero(errors[0] != errors[1])
    if len(part):
        said = " -> ".join(str(side[part[0]] or "none") for side in errors)
        yield Difference("", None, "error", said, step=int(steps[part[0]]))


def _change(old: float, new: float) -> str:
    ratio = _ratio(old, new)
    factor = f"x{number(ratio)}, " if math.isfinite(ratio) else ""
    return f"{factor}from {_number(old)} to {_number(new)}"


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else number(value)


def _ratio(old: float, new: float) -> float:
    return new / old if old and math.isfinite(old) and math.isfinite(new) else math.nan


def _sites(
    before: MonitoredRun, after: MonitoredRun, match: Match, steps: Integers, tolerance: float
) -> Iterator[Difference]:
    """Yield for each site and direction the first sampled step at which its rms parts."""
    if not len(steps):
        return
    places = match.common
    for direction in DIRECTIONS:
        then, now = _both_sizes(before, after, match, direction, steps)
        part = _part(then, now, tolerance)
        for column, place in enumerate(places):
            rows = np.flatnonzero(part[:, column])
            if len(rows):
                old, new = float(then[rows[0], column]), float(now[rows[0], column])
                yield _parted(match, place, direction, old, new, int(steps[rows[0]]), len(rows), len(steps))


def _last_sizes(before: MonitoredRun, after: MonitoredRun, match: Match, steps: Integers) -> Iterator[SiteSizes]:
    """Yield the rms at each site that both have, at the last step that both have sampled."""
    if not len(steps):
        return
    found = [_both_sizes(before, after, match, direction, steps[-1:]) for direction in DIRECTIONS]
    for at, place in enumerate(match.common):
        forward, backward = ((float(then[0, at]), float(now[0, at])) for then, now in found)
        pair = match.pairs[place]
        yield SiteSizes(pair.site.name, forward, backward, {}, place, pair.renamed)


def _parted(
    match: Match, place: int, direction: Direction, old: float, new: float, step: int, count: int, among: int
) -> Difference:
    seen = [math.isnan(each) for each in (old, new)]
    sizes = [math.isinf(each) for each in (old, new)]
    if any(seen):
        state, message = True, "no longer seen" if seen[1] else "seen, and not before"
    elif any(sizes):
        state, message = True, "NaN or Inf" if sizes[1] else "not NaN or Inf any more"
    else:
        state, message = False, f"{_change(old, new)}, in {counted(count, 'sample')} of {among}"
    found = difference(match, place, direction, "state" if state else "rms", message, (old, new, _ratio(old, new)))
    return replace(found, step=step)


def _both_sizes(
    before: MonitoredRun, after: MonitoredRun, match: Match, direction: Direction, steps: Integers
) -> tuple[Floats, Floats]:
    """Return the rms of the sites that both have at these steps, in the first and in the second run, as `_sizes`."""
    then, now = zip(*(match.pairs[place].names for place in match.common), strict=True) if match.common else ((), ())
    return _sizes(before, direction, then, steps), _sizes(after, direction, now, steps)


def _sizes(run: MonitoredRun, direction: Direction, names: Sequence[str], steps: Integers) -> Floats:
    """Return the rms of these sites at these steps, shape (steps, names): Inf if not finite, NaN if not seen."""
    sizes = run.over_steps(f"{direction}_rms")
    lost = sum(np.nan_to_num(run.over_steps(f"{direction}_{kind}").values) for kind in _NONFINITE)
    values = np.where(np.asarray(lost) > 0, np.inf, sizes.values)
    columns = {name: at for at, name in enumerate(sizes.names)}
    rows = _rows(sizes.steps, steps)
    found = np.full((len(steps), len(names)), np.nan)
    for column, name in enumerate(names):
        if name in columns:
            found[:, column] = values[rows, columns[name]]
    return found


def _rows(own: Integers, steps: Integers) -> Integers:
    """Return the row of each step among samples; of several of one step the last."""
    at = {step: row for row, step in enumerate(own.tolist())}
    return np.array([at[step] for step in steps.tolist()], np.int64)


def _weights(before: MonitoredRun, after: MonitoredRun, steps: Integers) -> Iterator[str]:
    """Yield the first sampled step at which the norm of a weight is another one, and which weights those are."""
    if not len(steps):
        return
    sides = [run.over_steps("value_norm", table="parameter") for run in (before, after)]
    names = [name for name in sides[1].names if name in sides[0].names]
    if not names:
        return
    then, now = (side.values[_rows(side.steps, steps)][:, [side.names.index(name) for name in names]] for side in sides)
    # A file keeps 24 bits of them.
    part = _part(then, now, 2.0**-22)
    first = np.flatnonzero(part.any(axis=1))
    if not len(first):
        yield f"weights: norms equal at all {counted(len(steps), 'sample')} of both"
        return
    which = [name for name, differs in zip(names, part[first[0]].tolist(), strict=True) if differs]
    said = f"{len(which)} of {len(names)} parameters ({listed(which, 3)})"
    yield f"weights: norms first unequal at step {steps[first[0]]}, {said}"


def _lacking(run: MonitoredRun, other: MonitoredRun) -> tuple[Alarm, ...]:
    """Return the standing alarms of a run of which the other has none of the kind at the place; the first of each."""
    there = {(alarm.kind, alarm.place) for alarm in other.standing_alarms}
    found = {(alarm.kind, alarm.place): alarm for alarm in reversed(run.standing_alarms)}
    return tuple(sorted((one for key, one in found.items() if key not in there), key=lambda one: one.step))
