"""Networks on a page: the verdict, the signal along the depth with its bands, each site, parameter and histogram."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from propscope.diagnosis import diagnose
from propscope.printable import shown
from propscope.records.expectations import reason_without_theory, seed_band, without_theory
from propscope.records.figures import SUMMARIES
from propscope.records.finding import SEVERITIES, Diagnosis
from propscope.records.gains import site_gains
from propscope.records.histogram import LogHistogram
from propscope.records.interval import geometric_interval
from propscope.records.network import DIRECTIONS, Direction, Label, NetworkProfile, Parameter, Site, signal_of
from propscope.records.numerals import counted
from propscope.records.pair_summary import summarize_pairs
from propscope.records.pooling import pooled_seeds
from propscope.records.profile_set import ProfileSet
from propscope.records.rows import parameter_row, profile_row, site_row
from propscope.records.time_course import TimeCourse, course_document
from propscope.report.documents import diagnosis_document, unpacked
from propscope.report.findings import faults, mark_legend, network_name, site_marks, verdict_lines
from propscope.report.inputs import input_lines
from propscope.report.page.thinning import evenly, rounded

# Of all networks of a page together; a site takes some 1 kB, its two histograms some 600 bytes more.
SITES, HISTOGRAMS = 2000, 800
# Bars of a histogram, and significant digits of the figures of several networks.
BARS, DIGITS = 40, 6
# A bar that a few stray values lie beyond says nothing of the others.
_TAIL = 0.0005
_SEEDS = ("center", "low", "high")
Columns = dict[str, list[Any]]


def grid_parts(networks: Sequence[ProfileSet]) -> dict[str, Any]:
    """Return `networks`, each from the profiles of its seeds, `pairs` where there are several, and what is `thinned`.

    Where not all sites fit, the networks with the worst verdicts keep theirs.
    """
    found = [diagnose(members) for members in networks]
    ones = [pooled_seeds(members) for members in networks]
    full = _in_full(ones, found)
    several = len(networks) > 1
    among = [each.labels for each in found] if several else []
    each_has = HISTOGRAMS // max(len(full), 1)
    documents, kept = [], 0
    for place, (members, one, diagnosis) in enumerate(zip(networks, ones, found, strict=True)):
        document = _head(members, one, diagnosis, among)
        if place in full:
            document |= _inside(members, one, diagnosis, histograms=each_has, digits=DIGITS if several else None)
            kept += sum(each is not None for each in document["sites"]["histograms"]["forward"])
        documents.append(document)
    sites = sum(len(ones[place].sites) for place in full)
    thinned = [f"figures are rounded to {DIGITS} significant digits"] if several else []
    if len(full) < len(networks):
        rest = counted(len(networks) - len(full), "network")
        thinned.append(f"of {rest} only the verdict and the row of the grid are here; select fewer networks to see all")
    if each_has < max((len(ones[place].sites) for place in full), default=0):
        thinned.append(f"histograms are kept for {kept} of {sites} sites: those that carry a mark, others evenly")
    if each_has < (most := max((len(ones[place].parameters) for place in full), default=0)):
        thinned.append(f"histograms are kept for {each_has} of {most} parameters of a network, evenly")
    thinned.append(f"a histogram has {BARS} bars; bars beyond the outermost {100 * _TAIL:g}% of values are left out")
    parts: dict[str, Any] = {"networks": documents, "thinned": thinned}
    if several:
        parts["pairs"] = [_pair(members) for members in networks]
    parts["no_theory"] = list(without_theory((one.labels, reason_without_theory(one)) for one in ones))
    return parts


def _in_full(ones: Sequence[NetworkProfile], found: Sequence[Diagnosis]) -> frozenset[int]:
    """Return the places of the networks whose sites are kept: the worst first, and one in any case."""
    order = ("broken", "strained", "not measured", "healthy")
    ranked = sorted(range(len(ones)), key=lambda place: order.index(found[place].verdict))
    room = SITES
    full: set[int] = set()
    for place in ranked:
        if not full or len(ones[place].sites) <= room:
            room -= len(ones[place].sites)
            full.add(place)
    return frozenset(full)


def _pair(members: ProfileSet) -> dict[str, Any]:
    (pair,) = summarize_pairs(members)
    return {name: getattr(pair, name) for name in pair.__dataclass_fields__ if name != "labels"}


def _head(
    members: ProfileSet, one: NetworkProfile, diagnosis: Diagnosis, among: Sequence[Mapping[str, Label]]
) -> dict[str, Any]:
    # A finding's fields are printed as they are; a name in it may hold anything.
    worst = next(iter(faults(diagnosis)), None)
    return {
        "name": network_name(diagnosis.labels, among),
        "labels": dict(diagnosis.labels),
        "seeds": len(members),
        "first_bad": diagnosis.first_bad,
        "worst": None if worst is None else list(worst.sites),
        "lines": list(verdict_lines(one, shown(diagnosis))),
        "inputs": list(input_lines(one)),
        **diagnosis_document(diagnosis),
    }


def _inside(
    members: ProfileSet, one: NetworkProfile, diagnosis: Diagnosis, *, histograms: int, digits: int | None
) -> dict[str, Any]:
    marks = site_marks(one, diagnosis)
    row = unpacked(profile_row(one))
    return {
        "sites": {
            "columns": _rounded(_site_columns(members, one, diagnosis, marks), digits),
            "histograms": _histograms(one.sites, DIRECTIONS, evenly(len(one.sites), max(histograms, 2), marks)),
        },
        "mark_legend": list(mark_legend(word for words in marks.values() for word in words)),
        "parameters": _rounded(_columns(unpacked(parameter_row(p, at)) for at, p in enumerate(one.parameters)), digits),
        "parameter_histograms": _histograms(
            one.parameters, SUMMARIES["parameter"], evenly(len(one.parameters), max(histograms, 2))
        ),
        "coverage": [[note.name, note.what, note.reason] for note in one.coverage],
        "provenance": {name: row[name] for name in one.provenance.__dataclass_fields__},
        "loss_fault": [one.loss_fault, one.loss_operation],
        "time_courses": [_course(course) for course in one.time_courses],
    }


def _site_columns(
    members: ProfileSet, one: NetworkProfile, diagnosis: Diagnosis, marks: Mapping[int, tuple[str, ...]]
) -> Columns:
    rows = (
        unpacked(site_row(site, at))
        | {
            # An edge that no gradient passes is a mask, or the angles of positions.
            "parents": None if site.parents is None else [[p.name, p.operations, p.gradient] for p in site.parents],
            "parameters": list(site.parameters),
        }
        for at, site in enumerate(one.sites)
    )
    places = set(one.signal_places)
    gains = site_gains(one)
    columns = _columns(rows) | {
        "signal": [at in places for at in range(len(one.sites))],
        "marks": [list(marks.get(at, ())) for at in range(len(one.sites))],
        "severity": site_severities(one, diagnosis),
        "forward_gain": [each.forward for each in gains],
        "backward_gain": [each.backward for each in gains],
    }
    for direction in DIRECTIONS:
        columns |= signal_columns(members, one, direction)
    return columns


def signal_columns(members: ProfileSet, one: NetworkProfile, direction: Direction) -> Columns:
    """Return the curve of a direction: its mean and interval over seeds, and between which limits theory expects it."""
    names = [site.name for site in one.sites]
    alike = [profile for profile in members if [site.name for site in profile.sites] == names]
    over_seeds = [
        geometric_interval(signal_of(getattr(profile.sites[at], direction)) for profile in alike)
        for at in range(len(names))
    ]
    low, high = seed_band(
        *(
            np.array([getattr(site.expected, f"{direction}_{name}", math.nan) for site in one.sites], np.float64)
            for name in ("rms", "log_std", "log_drift")
        )
    )
    found: Columns = {f"{direction}_{name}": [getattr(each, name) for each in over_seeds] for name in _SEEDS}
    return found | {f"{direction}_expected_low": low.tolist(), f"{direction}_expected_high": high.tolist()}


def site_severities(one: NetworkProfile, diagnosis: Diagnosis) -> list[str]:
    """Return the worst severity of what is wrong at each site, "" for none."""
    found = [""] * len(one.sites)
    for severity in reversed(SEVERITIES[:-1]):
        alike = tuple(finding for finding in faults(diagnosis) if finding.severity == severity)
        for at in site_marks(one, Diagnosis(alike)):
            found[at] = severity
    return found


def _columns(rows: Iterable[Mapping[str, Any]]) -> Columns:
    """Return the columns of a table of rows, without those that hold nothing."""
    columns: Columns = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: values for name, values in columns.items() if any(map(_is_known, values))}


def _is_known(value: Any) -> bool:
    # A number of numpy's is not to be held against an empty list.
    return bool(value) if isinstance(value, (str, list, tuple)) else value is not None and value == value


def _rounded(columns: Columns, digits: int | None) -> Columns:
    if digits is None:
        return columns
    return {name: [rounded(value, digits) for value in values] for name, values in columns.items()}


def _histograms(
    entries: Sequence[Site] | Sequence[Parameter], parts: Iterable[str], kept: Iterable[int]
) -> dict[str, list[Any]]:
    chosen = set(kept)
    return {
        part: [
            _bars(summary.histogram) if at in chosen and (summary := getattr(entry, part)) is not None else None
            for at, entry in enumerate(entries)
        ]
        for part in parts
    }


def _course(course: TimeCourse) -> dict[str, Any]:
    """Return a recurrent layer over time with its label and its factors a step."""
    return course_document(course) | {
        "label": course.label,
        "forward_gain": course.forward_gain.gain,
        "backward_gain": course.backward_gain.gain,
        "step_gain": course.step_gain,
    }


def _bars(histogram: LogHistogram | None) -> dict[str, Any] | None:
    """Return bars of equal width over all but the outermost values, as shares, and the shares that lie beyond."""
    if histogram is None or not (finite := histogram.finite).total:
        return None
    low, high = finite.quantile(_TAIL), finite.quantile(1 - _TAIL)
    if not low < high:
        low, high = float(finite.lower.min()), float(finite.upper.max())
    if not low < high:
        return {"low": low, "high": high, "shares": [1.0], "below": 0.0, "above": 0.0}
    inside = finite.mass(np.linspace(low, high, BARS + 1)) / finite.total
    below, above = finite.mass(np.array([-math.inf, low])), finite.mass(np.array([high, math.inf]))
    return {
        "low": rounded(low, 4),
        "high": rounded(high, 4),
        "shares": [rounded(share, 3) for share in inside.tolist()],
        "below": rounded(float(below[0] / finite.total), 3),
        "above": rounded(float(above[0] / finite.total), 3),
    }
