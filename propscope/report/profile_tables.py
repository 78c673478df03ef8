"""The tables of profiles: of a grid one row for each pair, of a network one row for each site."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from propscope.diagnosis.diagnose import diagnose
from propscope.printable import printable, shown
from propscope.records.expectations import (
    Deviation,
    SecondMomentRatio,
    deviation,
    reason_without_theory,
    second_moment_ratios,
    without_theory,
)
from propscope.records.finding import Diagnosis
from propscope.records.gains import site_gains
from propscope.records.interval import Interval
from propscope.records.labelled import axes_of
from propscope.records.network import DIRECTIONS, NetworkProfile, Site
from propscope.records.numerals import counted, number, percent
from propscope.records.pair_summary import PairName, PairSummary, summarize_pairs
from propscope.records.profile_set import ProfileSet
from propscope.records.summary import TensorSummary
from propscope.report.findings import mark_legend, site_marks, verdict_lines, verdict_word
from propscope.report.inputs import input_lines
from propscope.report.table import Table

GRID_NOTE = (
    "verdict: strained if Adam is slow (over the depth the signal grows by 120 or shrinks to 2.5e-4), or if units do "
    "nothing; broken if no training repairs it (the condition number of learning exceeds 1/eps of float32). For "
    "causes and remedies: propscope show with --act and --init, or propscope.diagnose."
)
_GRID_LEGEND = (
    "forward: rms(z_last) / rms(z_first), z the pre-activations; backward: the same ratio of dL/dz, first to last. "
    "over depth: geometric mean over seeds with its 95% interval; a layer: its root for one layer. At 1 the signal "
    "keeps its size; below 1 it vanishes, above 1 it explodes. flat: share of z where the slope of the nonlinearity "
    "is below 7% of its largest (saturated, or inactive for a rectifier; half is normal for relu). dead: units that "
    "are flat on every sample. cosine: mean over pairs of samples at the last layer; near 1 the network no longer "
    "tells inputs apart. std: of the first and the last activation."
)
_GRID_BRIEF = (
    "over depth: factor between first and last layer, of signal and gradient;",
    "flat: share of inputs without slope. Every column: propscope show --explain FILE",
)
_GRID_THEORY = (
    "/ theory: rms of z at the last layer, and of dL/dz at the first, over the rms that infinite-width theory "
    "expects; mean over seeds. In brackets: ln(rms) minus its mean over networks of this width, in standard "
    "deviations; -2 to 2 is usual."
)
_SITE_LEGEND = (
    "gain: forward rms over that of the layer that feeds it; backward gain: backward rms over that of the layers that"
    " it feeds, both between pre-activations. flat: share of inputs where the slope of the nonlinearity is below 7% "
    "of its largest. dead: units that are flat on every sample. equal: units that equal another. cosine: mean over "
    "pairs of samples. rank: effective rank of the samples' values."
)
_SITE_BRIEF = (
    "gain: rms over that of the layer before it; backward gain: over that after it;",
    "flat: share of inputs without slope. Every column: propscope show --explain FILE",
)
_SITE_THEORY = (
    "/ theory: rms over the rms that infinite-width theory expects. In brackets: ln(rms) minus its mean over networks"
    " of this width, in standard deviations; -2 to 2 is usual."
)
# Columns that are shown only where a row has something in them.
_RARE = ("layer", "equal", "non-\nfinite", "marks")
_THEORY = ("forward\n/ theory", "backward\n/ theory")
# What a narrow terminal goes without, the first one first.
_GRID_SPARE = (
    "std\nfirst",
    "std\nlast",
    *_THEORY,
    "cosine",
    "forward\na layer",
    "backward\na layer",
    "non-\nfinite",
    "dead",
)
_SITE_SPARE = (
    "E[h²]/E[z²]\n(theory)", "forward\nmean", "forward\nstd", *_THEORY, "role", "equal", "rank", "cosine", "kind",
    "layer", "dead",
)  # fmt: skip


def judged(networks: Iterable[ProfileSet]) -> Iterator[tuple[PairSummary, Diagnosis]]:
    """Yield what the seeds of each network show together, and the diagnosis without notes.

    Each network is dropped before the next one is asked for: a file may hold more than there is memory for.
    """
    for members in networks:
        (pair,) = summarize_pairs(members)
        yield pair, diagnose(members, notes=False)


def judged_table(networks: Iterable[ProfileSet], more: Sequence[PairName] = ()) -> Table:
    """Return the table of a grid with its verdicts; a narrow place shows it without the intervals of its factors."""
    rows = [(pair, verdict_word(diagnosis)) for pair, diagnosis in judged(networks)]
    pairs, verdicts = [pair for pair, _ in rows], [word for _, word in rows]
    full, narrow = (grid_table(pairs, verdicts or None, intervals=each, more=more) for each in (True, False))
    return replace(full, narrow=narrow)


def grid_table(
    pairs: Sequence[PairSummary],
    verdicts: Sequence[str] | None = None,
    *,
    intervals: bool = True,
    more: Sequence[PairName] = (),
) -> Table:
    """Return the table with one row for each pair of initializer and activation (and of any other label but the seed).

    `verdicts`: the word on each pair, a column more. `intervals`: whether each factor over the depth is followed by its
    95% interval over seeds. `more`: the pairs that have no row; title and columns are those of all pairs.
    """
    everything: list[PairSummary | PairName] = [*pairs, *more]
    axes = axes_of(everything)
    # A label that some pairs lack tells them from the others as well as a different value.
    varied = [name for name in axes if len({pair.labels.get(name, "") for pair in everything}) > 1]
    leading = tuple(name for name in ("activation", "initializer") if name in varied)
    named = leading + tuple(name for name in varied if name not in leading)
    fixed = [printable(f"{name} {axes[name][0]}") for name in axes if name not in named]
    seeds = {pair.seeds for pair in everything}
    count = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(next(iter(seeds), 0))
    title = ", ".join([counted(len(everything), "pair"), *fixed, f"{count} seed{'s' * (count != '1')}"])
    verdict = ("verdict",) * (verdicts is not None)
    ratios = [each.ratio for pair in pairs for each in (pair.forward_deviation, pair.backward_deviation)]
    theory = not all(map(math.isnan, ratios))
    figures = (
        "forward\na layer",
        "forward\nover depth",
        "backward\na layer",
        "backward\nover depth",
        "std\nfirst",
        "std\nlast",
        *_THEORY * theory,
        "flat",
        "dead",
        "cosine",
        "non-\nfinite",
    )
    heads = (*map(printable, named), *verdict)
    rows = tuple(
        (
            *(str(pair.labels.get(name, "")) for name in named),
            *words,
            *_pair_cells(pair, intervals, theory),
        )
        for pair, *words in zip(pairs, *([verdicts] if verdicts is not None else []), strict=True)
    )
    unknown = without_theory((pair.labels, pair.no_theory) for pair in pairs)
    left = (f"and {len(more):,} more pairs: propscope show FILE prints all, some with --act, --init, --depth, --width",)
    legend = (*(GRID_NOTE,) * len(verdict), _GRID_LEGEND, *(_GRID_THEORY,) * theory)
    return _filled(
        Table(
            title,
            (*heads, *figures),
            rows,
            left=frozenset(heads),
            notes=(*left * bool(more), *unknown),
            legend=legend,
            brief=_GRID_BRIEF,
            spare=_GRID_SPARE,
        )
    )


def _pair_cells(pair: PairSummary, intervals: bool, theory: bool) -> tuple[str, ...]:
    deviations = (pair.forward_deviation, pair.backward_deviation) if theory else ()
    return (
        number(pair.forward_gain.center),
        _interval(pair.forward_factor, intervals),
        number(pair.backward_gain.center),
        _interval(pair.backward_factor, intervals),
        number(pair.first_std),
        number(pair.last_std),
        *map(_deviation, deviations),
        percent(pair.flat_fraction),
        percent(pair.dead_fraction),
        number(pair.mean_cosine, 2),
        str(pair.nonfinite_count),
    )


def _interval(interval: Interval, limits: bool) -> str:
    if not limits or math.isnan(interval.low) or interval.low == interval.high:
        return number(interval.center)
    return f"{number(interval.center)} [{number(interval.low, 2)}, {number(interval.high, 2)}]"


def _deviation(found: Deviation) -> str:
    ratio = number(found.ratio, 2)
    if math.isnan(found.sd):
        return ratio
    if abs(found.sd) >= 999.5:
        return f"{ratio} ({'>999' if found.sd > 0 else '<-999'})"
    # Rounded first: -0.0 would read as a deviation.
    sd = round(found.sd, 1 if abs(found.sd) < 9.95 else None)
    return f"{ratio} ({f'{sd:+}' if sd else '0.0'})"


def profile_table(profile: NetworkProfile, diagnosis: Diagnosis | None = None) -> Table:
    """Return the table with one row for each site of a network, in execution order, below a line for each input.

    `diagnosis`: of the network; adds the verdict above the table, and the column of marks where something is wrong.
    """
    profile, diagnosis = shown(profile), shown(diagnosis)
    labels = ", ".join(f"{name} {value}" for name, value in profile.labels.items())
    inputs, profile = input_lines(profile), profile.without_inputs
    title = f"{counted(len(profile.sites), 'site')}, {counted(len(profile.parameters), 'parameter')}"
    theory = any(site.expected is not None for site in profile.sites)
    moments = second_moment_ratios(profile)
    first = () if diagnosis is None else verdict_lines(profile, diagnosis)
    marks = {} if diagnosis is None else site_marks(profile, diagnosis)
    columns = (
        "layer",
        "site",
        "kind",
        "role",
        "forward\nmean",
        "forward\nstd",
        "forward\nrms",
        "gain",
        "backward\nrms",
        "backward\ngain",
        *_THEORY * theory,
        *("E[h²]/E[z²]\n(theory)",) * bool(moments),
        "flat",
        "dead",
        "equal",
        "cosine",
        "rank",
        "non-\nfinite",
        "marks",
    )
    gains = site_gains(profile)
    extra = [
        _theory_cells(site, theory) + _moment_cells(moments.get(index)) * bool(moments)
        for index, site in enumerate(profile.sites)
    ]
    rows = tuple(
        (*_site_cells(site, gains[index].forward, gains[index].backward, cells), ", ".join(marks.get(index, ())))
        for index, (site, cells) in enumerate(zip(profile.sites, extra, strict=True))
    )
    legend = (
        _SITE_LEGEND,
        *(_SITE_THEORY,) * theory,
        *("E[h²]/E[z²]: mean square of an activation over that of its pre-activation.",) * bool(moments),
    )
    notes = (
        *filter(None, ["; ".join(mark_legend(word for words in marks.values() for word in words))]),
        *without_theory([(profile.labels, reason_without_theory(profile))]),
    )
    said = [*inputs, *first, ": ".join(filter(None, [labels, title]))]
    return _filled(
        Table(
            "\n".join(said),
            columns,
            rows,
            frozenset((*columns[1:4], "marks")),
            notes,
            legend=legend,
            brief=_SITE_BRIEF,
            spare=_SITE_SPARE,
            dotted="site",
        )
    )


def _filled(table: Table) -> Table:
    """Return the table without the rare columns that are empty."""
    filled = [
        index
        for index, name in enumerate(table.columns)
        if name not in _RARE or any(row[index] not in ("", "0") for row in table.rows)
    ]
    columns = tuple(table.columns[index] for index in filled)
    rows = tuple(tuple(row[index] for index in filled) for row in table.rows)
    return replace(table, columns=columns, rows=rows)


def _theory_cells(site: Site, theory: bool) -> tuple[str, ...]:
    return tuple(_deviation(deviation(site, direction)) for direction in DIRECTIONS) if theory else ()


def _moment_cells(found: SecondMomentRatio | None) -> tuple[str, ...]:
    if found is None:
        return ("",)
    theory = "" if math.isnan(found.expected) else f" ({number(found.expected)})"
    return (number(found.measured) + theory,)


def _site_cells(site: Site, gain: float | None, backward_gain: float | None, extra: tuple[str, ...]) -> tuple[str, ...]:
    forward, backward = site.forward or TensorSummary.empty(), site.backward or TensorSummary.empty()
    return (
        "" if site.layer is None else str(site.layer),
        site.name or "(model)",
        site.kind,
        site.role,
        number(forward.mean),
        number(forward.std),
        number(forward.rms),
        "" if gain is None else number(gain),
        number(backward.rms),
        "" if backward_gain is None else number(backward_gain),
        *extra,
        "" if site.flat_fraction is None else percent(site.flat_fraction),
        "" if site.dead_units is None else f"{site.dead_units}/{site.units}",
        "" if not site.symmetric_units else f"{site.symmetric_units}/{site.units}",
        number(site.mean_cosine, 2),
        number(site.effective_rank),
        str(forward.nonfinite_count + backward.nonfinite_count),
    )
