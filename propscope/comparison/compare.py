"""`compare`: two profiles, two sets of them, or two monitored runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from propscope.checks import known_arguments
from propscope.comparison.inputs import beginning, chance
from propscope.comparison.networks import matched
from propscope.comparison.runs import compare_runs
from propscope.comparison.signal import FALSE_ALARMS, Series, judged, series, sizes, states, structure
from propscope.comparison.tolerance import tolerance_of
from propscope.errors import InputError
from propscope.records.comparison import Comparison, Difference
from propscope.records.monitored import MonitoredRun
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet

_WHAT = "a and b must be two profiles, sets of profiles or monitored runs"


@known_arguments
def compare(
    a: NetworkProfile | ProfileSet, b: NetworkProfile | ProfileSet, *, tolerance: float | None = None
) -> Comparison:
    """Return where the signal of `b` parts from that of `a`: two profiles, two sets of them, or two monitored runs.

    Networks of sets are matched by their labels other than the seed, without those that have one value in each set,
    as all have where both hold one network. Sites are matched by name, and where names are no help by their place in
    the graph, which `Comparison.renamed` lists. At each site the rms, and the rms divided by that of the site before
    (backward: after), are compared in logarithms. A difference counts if it exceeds the share `tolerance` and lies
    outside the interval over the seeds, all intervals of a call together being wrong in 5% of the calls on equal
    networks: Welch's for other seeds, also Student's of the differences for the same seeds, none for one profile on
    each side. Two MLPs of one seed each are held against the scatter that theory expects. `tolerance`: None for 0.01,
    for float16 0.02, for bfloat16 0.05.

    A site also differs if only one side has it, if its kind, width or parents differ, if NaN, Inf or zeros appear in
    any seed or disappear in all, or if one side alone sees its signal. Of monitored runs every step is compared, the
    sites at the steps that both have sampled, and the alarms.

    Raises `InputError` where nothing can be compared: no network, site or step in common, a profile and a run, or two
    seeds, one on each side, whose scatter is not known, without a tolerance.
    """
    if any(not isinstance(each, (NetworkProfile, ProfileSet)) for each in (a, b)):
        wrong = next(each for each in (a, b) if not isinstance(each, (NetworkProfile, ProfileSet)))
        raise InputError(
            f"{_WHAT}, got a {type(wrong).__name__}",
            hint="propscope.load(FILE) reads them, propscope.profile makes one",
        )
    runs = [isinstance(each, MonitoredRun) for each in (a, b)]
    if all(runs):
        return compare_runs(a, b, tolerance)  # type: ignore[arg-type]
    if any(runs):
        raise InputError(f"{_WHAT}, got one of each", hint="run.select(step=...) gives one sample of a run")
    first, second = (each if isinstance(each, ProfileSet) else ProfileSet((each,)) for each in (a, b))
    return compare_networks(first, second, tolerance=tolerance)


def compare_networks(
    before: ProfileSet, after: ProfileSet, *, tolerance: float | None = None, same_labels: bool = False
) -> Comparison:
    """Return where two sets of profiles part, as `compare` does; `same_labels`: single networks must have them too."""
    share, of_type = tolerance_of((*before, *after), tolerance)
    matches, notes = matched(before, after, same_labels=same_labels, alone=tolerance is not None and not same_labels)
    entries: list[list[Series]] = [list(series(match)) for match in matches]
    count = sum(map(len, entries))
    found: list[Difference] = []
    thresholds: list[float] = []
    for match, own in zip(matches, entries, strict=True):
        found += [*structure(match), *states(match)]
        verdicts = [judged(each, FALSE_ALARMS / count, math.log1p(share)) for each in own]
        thresholds += [threshold for _, threshold in verdicts]
        moved = [each for each, _ in verdicts if each is not None]
        found += sorted(moved, key=lambda each: each.quantity == "rms")
    methods = dict.fromkeys(match.method for match in matches)
    began = beginning(matches)
    facts: dict[str, Any] = {
        "networks": len(matches),
        "sites": sum(match.common_sites for match in matches),
        "comparisons": count,
        "method": "; ".join(methods),
        "tolerance": share,
        "tolerance_of": of_type,
        "visible": math.exp(min(float(np.median(thresholds)), 700.0)) if thresholds else math.nan,
        "same_batch": began.same_batch,
        "same_weights": began.same_weights,
        "inputs": began.lines,
        "parameters": began.parameters,
        "renamed": tuple(
            dict.fromkeys((pair.renamed, pair.site.name) for match in matches for pair in match.pairs if pair.renamed)
        ),
        "sizes": tuple(each for match in matches for each in sizes(match)),
        "notes": (*notes, *chance(matches, began)),
        "axes": tuple(name for name, values in after.axes.items() if name != "seed" and len(values) > 1),
    }
    return Comparison(tuple(found), **facts)
