"""What a notebook shows of each record: verdict in colour, table with sparklines, curves, notes folded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from propscope.diagnosis.diagnose import diagnose
from propscope.printable import shortened, shown
from propscope.records.comparison import Comparison
from propscope.records.finding import Diagnosis, Finding
from propscope.records.interval import geometric_interval
from propscope.records.monitored import MonitoredRun
from propscope.records.network import DIRECTIONS, Direction, Floats, NetworkProfile
from propscope.records.numerals import counted
from propscope.records.pooling import pooled_seeds
from propscope.records.profile_set import ProfileSet
from propscope.records.remedy_trials import RemedyTrials
from propscope.records.run_summary import summarize_run
from propscope.records.time_course import TimeCourse
from propscope.records.training import TrainingRun, TrainingSet
from propscope.records.width_check import QUANTITIES, SITE_QUANTITIES, Fit, Quantity, WidthCheck
from propscope.report.comparison import comparison_blocks, head_lines, of_network
from propscope.report.diagnosis import GROUPS, diagnosis_blocks, fault_groups, group_explained, parts_of
from propscope.report.elements import (
    CURVE,
    blocks_html,
    box,
    definitions,
    folded,
    lines_html,
    paragraphs,
    pictures,
    severity_of,
    table_html,
    together,
)
from propscope.report.findings import (
    expects_sentence,
    fault,
    faults,
    network_name,
    note,
    stage_sentence,
    verdict_line,
)
from propscope.report.monitored import run_blocks
from propscope.report.page.networks import signal_columns, site_severities
from propscope.report.page.thinning import evenly, with_extremes
from propscope.report.profile_tables import judged_table, profile_table
from propscope.report.remedies import trials_text
from propscope.report.sparkline import sparkline, trend
from propscope.report.svg import COLORS, QUIET, SEVERITY, Curve, Panel
from propscope.report.table import Table
from propscope.report.time_courses import time_table
from propscope.report.training_tables import run_table, training_table
from propscope.report.width_check import width_blocks

# More curves than these cannot be told apart; of more steps or epochs, the extremes of so many parts are drawn.
_CURVES, _PARTS, _COURSES = 16, 120, 4
# With more curves, theory's would hide them.
_WITH_THEORY = 4
_ALARMS, _ROWS = 12, 100
_MEASURED = {"forward": "Forward: rms of the values", "backward": "Backward: rms of the gradient"}


def _profile(profile: NetworkProfile) -> str:
    diagnosis = diagnose(profile, notes=False)
    table = profile_table(profile, diagnosis)
    *said, title = table.title.split("\n")
    verdict = next((at for at, line in enumerate(said) if line.startswith(diagnosis.verdict)), 0)
    # The inputs stand above the verdict where it is read line by line.
    lines = [*said[verdict:], *said[:verdict]]
    sites = profile.without_inputs.sites
    columns = {
        "values": [sparkline(None if site.forward is None else site.forward.histogram) for site in sites],
        "gradients": [sparkline(None if site.backward is None else site.backward.histogram) for site in sites],
    }
    marked = (at for at, severity in enumerate(site_severities(profile.without_inputs, diagnosis)) if severity)
    table = _thinned(_with_columns(replace(table, title=title), "site", columns), "sites", marked)
    time, courses = time_table(profile), shown(profile.time_courses)[:_COURSES]
    return together([
        box(diagnosis.verdict, lines),
        table_html(table),
        pictures(*_along_depth([(ProfileSet((profile,)), profile, diagnosis)])),
        "" if time is None else table_html(time),
        pictures(
            [_over_time(course) for course in courses], ["solid: rms of the state; dashes: of its gradient"]
        ),
    ])  # fmt: skip


def _profiles(profiles: ProfileSet) -> str:
    groups = list(profiles.groups("seed").values())
    table = judged_table(groups)
    found = [(members, pooled_seeds(members), Diagnosis()) for members in groups]
    drawn = found[:_CURVES]
    columns: dict[str, list[str]] = {CURVE: _keys(len(found))} if len(found) > 1 else {}
    columns |= {
        f"{direction}\nalong depth": [trend(one.signal_rms(direction)) for _, one, _ in found]
        for direction in DIRECTIONS
    }
    panels, says = _along_depth(drawn)
    if len(drawn) < len(found):
        says.append(f"the first {len(drawn)} of {len(found)} networks are drawn")
    behind = "verdict" if "verdict" in table.columns else table.columns[0]
    return together([table_html(_with_columns(table, behind, columns)), pictures(panels, says)])


def _run(run: MonitoredRun) -> str:
    if not len(run.steps):
        # The samples of a run that are chosen one by one are networks.
        return _profiles(ProfileSet(tuple(run)))
    diagnosis = diagnose(run)
    head, *others = run_blocks(run)
    if others and isinstance(others[-1], Table) and others[-1].columns[0] == "site":
        sites = summarize_run(run).sites[: len(others[-1].rows)]
        over = {name: run.over_steps(f"{name}_rms") for name in DIRECTIONS}
        courses = {
            f"{name}\nover samples": [
                trend(each.of(site.name)) if site.name in each.names else "" for site in sites
            ]
            for name, each in over.items()
        }  # fmt: skip
        others[-1] = _with_columns(others[-1], "site", courses)
    said = next(map(fault, faults(diagnosis)), diagnosis.unmeasured or "no alarm was raised")
    lines = [f"{diagnosis.verdict}: {said}", *str(head).split("\n")]
    if others and isinstance(others[0], str):
        lines.append(others[0].replace("\n  ", " "))
        others = others[1:]
    return together([
        box(diagnosis.verdict, lines),
        blocks_html(others),
        pictures(_every_step(run), ["✕ ▲: an alarm, broken or strained"] if run.standing_alarms else []),
        pictures(*_now(run)),
    ])  # fmt: skip


def _training(run: TrainingRun) -> str:
    table = run_table(run)
    ended, _, labels = table.title.partition("\n")
    return together([
        box(severity_of(ended), [ended, labels]),
        table_html(_thinned(replace(table, title=""), "epochs"))
        + pictures(_learning([run], [0]), ["solid: training data; dashes: validation data"]),
    ])  # fmt: skip


def _trainings(runs: TrainingSet) -> str:
    table, groups = training_table(runs), list(runs.groups("seed").values())
    columns: dict[str, list[str]] = {CURVE: _keys(len(groups))} if len(groups) > 1 else {}
    columns["loss by epoch\n(first seed)"] = [trend(members[0].train_loss) for members in groups]
    drawn = [(run, at) for at, members in enumerate(groups[:_CURVES]) for run in members]
    panels = _learning([run for run, _ in drawn], [at for _, at in drawn])
    says = ["a curve is a run"] if len(drawn) > len(groups) else []
    if len(groups) > _CURVES:
        says.append(f"the first {_CURVES} of {len(groups)} pairs are drawn")
    behind = "stability" if "stability" in table.columns else table.columns[0]
    return together([table_html(_with_columns(table, behind, columns)), pictures(panels, says)])


def _finding(finding: Finding) -> str:
    finding = shown(finding)
    if finding.severity == "note":
        return together(paragraphs([note(finding, numbered=True)]))
    return together(
        [box(finding.severity, [f"{finding.severity}: {fault(finding)}"], definitions(parts_of(finding).items()))]
    )


def _diagnosis(diagnosis: Diagnosis) -> str:
    diagnosis = shown(diagnosis)
    if diagnosis.networks:
        table, *told = diagnosis_blocks(diagnosis)
        among = [network.labels for network in diagnosis.networks]
        groups = fault_groups(diagnosis.networks)[:GROUPS]
        explained_groups = (group_explained(members, among) for members in groups)
        boxes = (box(severity_of(head[0]), head, definitions(parts)) for head, parts in explained_groups)
        return together([blocks_html([table]), *boxes, blocks_html(told[len(groups) :])])
    said = [network_name(diagnosis.labels)] if diagnosis.labels else []
    said += filter(None, [expects_sentence(diagnosis), stage_sentence(diagnosis)])
    notes = [note(each, numbered=True) for each in diagnosis.findings if each.severity == "note"]
    return together([
        box(diagnosis.verdict, [verdict_line(diagnosis), *said]),
        *(_finding(each) for each in faults(diagnosis)),
        folded(counted(len(notes), "note"), paragraphs(notes)),
    ])  # fmt: skip


def _comparison(comparison: Comparison) -> str:
    _, *others = comparison_blocks(comparison)
    return together([
        box("healthy" if comparison.same else "strained", head_lines(comparison)),
        blocks_html(others),
        pictures(*_both(comparison)),
    ])  # fmt: skip


def _both(comparison: Comparison) -> tuple[list[Panel], list[str]]:
    """Return the signals of both along the depth, of the first network that differs."""
    sizes = comparison.drawn
    panels = []
    for direction, title in _MEASURED.items():
        sides = zip(*(getattr(each, direction) for each in sizes), strict=True)
        curves = [
            Curve([float(each.place) for each in sizes], side, color=COLORS[at], key=str(at + 1))
            for at, side in enumerate(sides)
        ]
        if any(not math.isnan(value) for curve in curves for value in curve.y):
            panels.append(Panel(title, "site, in execution order", tuple(curves)))
    network = of_network(sizes[0].labels or {}, comparison.axes) if sizes else ""
    return panels, [f"{network}1: the first, 2: the second; where only 2 is seen, both agree"] * bool(panels)


def _trials(trials: RemedyTrials) -> str:
    first, _, rest = trials_text(trials).partition("\n")
    chosen = trials.trial
    after = trials.before if chosen is None or chosen.after is None else chosen.after
    return together([box(after.diagnosis.verdict, [first], lines_html(rest))])


_FITS: dict[Fit, str] = {
    "as expected": SEVERITY["healthy"],
    "unclear": SEVERITY["strained"],
    "not as expected": SEVERITY["broken"],
    "not judged": QUIET,
}


def _width_check(check: WidthCheck) -> str:
    sites, parameters, said = width_blocks(check)
    assert isinstance(sites, Table)
    assert isinstance(parameters, Table)
    *unlike, conclusion = str(said).split("\n")
    verdict = "not measured" if not check.expect else "healthy" if check.passed else "broken"
    used = [name for name in SITE_QUANTITIES if any(row.quantity == name for row in check.rows if not row.parameter)]
    says = ["over that of the smallest network; a curve is a site"]
    says += ["green: as expected, amber: unclear, red: not as expected, grey: not judged"] * bool(check.expect)
    return together([
        box(verdict, [conclusion, *unlike]),
        table_html(sites, colour=_fit_colour),
        pictures([_over_width(check, name) for name in used], says, width=300),
        folded(parameters.title, table_html(replace(parameters, title=""), colour=_fit_colour)),
    ])  # fmt: skip


def _fit_colour(column: str, cell: str) -> str:
    return {"!": SEVERITY["broken"], "?": SEVERITY["strained"]}.get(cell[-1:], "")


NOTEBOOK: dict[type, Callable[[Any], str]] = {
    NetworkProfile: _profile,
    ProfileSet: _profiles,
    MonitoredRun: _run,
    TrainingRun: _training,
    TrainingSet: _trainings,
    Finding: _finding,
    Diagnosis: _diagnosis,
    RemedyTrials: _trials,
    WidthCheck: _width_check,
    Comparison: _comparison,
}


def _with_columns(table: Table, behind: str, columns: dict[str, list[str]]) -> Table:
    """Return the table with more columns, headed as given, behind the one of a name."""
    at = table.columns.index(behind) + 1
    rows = (
        (*row[:at], *(cells[place] for cells in columns.values()), *row[at:]) for place, row in enumerate(table.rows)
    )
    return replace(
        table,
        columns=(*table.columns[:at], *columns, *table.columns[at:]),
        rows=tuple(rows),
        left=table.left | set(columns),
        narrow=None,
    )


def _thinned(table: Table, what: str, also: Iterable[int] = ()) -> Table:
    """Return a table of at most some 100 rows, evenly spread, and as many of those in `also`, with its title saying so.

    A notebook keeps each output that it shows.
    """
    if len(table.rows) <= _ROWS:
        return table
    kept = evenly(len(table.rows), _ROWS, list(also)[:_ROWS]).tolist()
    said = f"of {len(table.rows)} {what} {len(kept)} are here; print() shows all"
    rows = tuple(table.rows[at] for at in kept)
    return replace(table, title="\n".join(filter(None, [table.title, said])), rows=rows)


def _keys(count: int) -> list[str]:
    return [str(at + 1) if at < _CURVES else "" for at in range(count)]


Network = tuple[ProfileSet, NetworkProfile, Diagnosis]


def _along_depth(networks: Sequence[Network]) -> tuple[list[Panel], list[str]]:
    """Return the two panels of the signal along the depth, and what to know of how they are drawn."""
    panels, expected = [], False
    for direction in DIRECTIONS:
        curves = tuple(_signal(network, direction, at, len(networks)) for at, network in enumerate(networks))
        expected |= any(curve.expected for curve in curves)
        if any(not math.isnan(value) for curve in curves for value in curve.y):
            layered = all(_is_layered(one) for _, one, _ in networks)
            panels.append(Panel(_MEASURED[direction], "layer" if layered else "site, in execution order", curves))
    if not panels:
        return [], []
    says = ["logarithmic axis; a flat curve is healthy"]
    if expected:
        band = ", grey: where it expects 95% of networks of this width" if len(networks) == 1 else ""
        says.append(f"dashes: infinite-width theory{band}")
    if len(networks) == 1 and len(networks[0][0]) > 1:
        says.append("band: 95% interval of the mean over seeds")
    if any(curve.marks for panel in panels for curve in panel.curves):
        says.append("✕ ▲: where it is broken or strained from")
    return panels, says


def _is_layered(one: NetworkProfile) -> bool:
    layers = [one.sites[at].layer for at in one.signal_places]
    return all(layer is not None for layer in layers) and layers == sorted(set(layers), key=lambda layer: layer or 0)


def _signal(network: Network, direction: Direction, at: int, count: int) -> Curve:
    members, one, diagnosis = network
    columns, places = signal_columns(members, one, direction), one.signal_places
    found = {name: [column[place] for place in places] for name, column in columns.items()}
    layered = _is_layered(one)
    x = [float(one.sites[place].layer or 0) if layered else float(place) for place in places]
    expected = [getattr(one.sites[place].expected, f"{direction}_rms", math.nan) for place in places]
    theory = count <= _WITH_THEORY and not all(map(math.isnan, expected))
    of_sites = site_severities(one, diagnosis)
    severities = [of_sites[place] for place in places]
    marks = [
        (here, severity)
        for here, (before, severity) in enumerate(zip(["", *severities], severities, strict=False))
        if severity and severity != before
    ]
    alone = count == 1
    return Curve(
        x,
        found[f"{direction}_center"],
        low=found[f"{direction}_low"] if alone and len(members) > 1 else (),
        high=found[f"{direction}_high"] if alone and len(members) > 1 else (),
        expected=expected if theory else (),
        expected_low=found[f"{direction}_expected_low"] if theory and alone else (),
        expected_high=found[f"{direction}_expected_high"] if theory and alone else (),
        color=COLORS[at % len(COLORS)],
        key="" if alone else str(at + 1),
        marks=tuple(marks),
    )


def _over_time(course: TimeCourse) -> Panel:
    state, steps = course.state, [float(step) for step in course.steps]
    what = "hidden state" if course.cell is None else "cell state"
    title = f"{shortened(course.label, 40)}: {what}"
    curves = [] if state is None else [Curve(steps, state.forward)]
    if state is not None and state.backward is not None:
        curves.append(Curve(steps, state.backward, color=COLORS[1], dashed=True))
    return Panel(title, "step", tuple(curves))


def _every_step(run: MonitoredRun) -> list[Panel]:
    steps = run.steps
    kept = np.flatnonzero(steps.superseded == 0)
    series = {"Loss": steps.loss[kept], "Norm of all gradients": steps.gradient_norm[kept]}
    order = with_extremes(list(series.values()), _PARTS)
    numbers = steps.number[kept][order]
    alarms = {
        int(np.searchsorted(numbers, alarm.step)): alarm.severity for alarm in reversed(run.standing_alarms[:_ALARMS])
    }
    marks = tuple((at, severity) for at, severity in alarms.items() if at < len(numbers))
    return [
        Panel(title, "step", (Curve(numbers.tolist(), values[order].tolist(), marks=marks),), log=_positive(values))
        for title, values in series.items()
        if not np.isnan(values).all()
    ]


def _now(run: MonitoredRun) -> tuple[list[Panel], list[str]]:
    """Return the signal at all sites at the last sample, above that at the first."""
    panels = []
    for direction in DIRECTIONS:
        over = run.over_steps(f"{direction}_rms")
        if len(over.steps) > 1 and not np.isnan(over.values).all():
            order = over.steps.argsort(kind="stable")
            first, last = (over.values[order[at]].tolist() for at in (0, -1))
            x = [float(at) for at in range(len(over.names))]
            title = f"{_MEASURED[direction]} at step {over.steps[order[-1]]}"
            panels.append(Panel(title, "site, in execution order", (Curve(x, last, expected=first),)))
    return panels, ["dashes: at the first sample"] * bool(panels)


_LEARNED = (
    ("train_loss", "validation_loss", "Loss"),
    ("train_accuracy", "validation_accuracy", "Accuracy"),
)


def _learning(runs: Sequence[TrainingRun], places: Sequence[int]) -> list[Panel]:
    """Return loss and accuracy by epoch; `places`: which pair of a set each run is of. One run shows both its data."""
    panels = []
    for train, validation, title in _LEARNED:
        curves: list[Curve] = []
        named: set[int] = set()
        for run, at in zip(runs, places, strict=True):
            key = "" if len(set(places)) == 1 or at in named else str(at + 1)
            color = COLORS[at % len(COLORS)]
            curves += _by_epoch(getattr(run, train), color=color, key=key)
            named.add(at)
            if len(runs) == 1:
                curves += _by_epoch(getattr(run, validation), color=COLORS[1], dashed=True)
        if curves:
            log = title == "Loss" and all(_positive(np.asarray(curve.y)) for curve in curves)
            panels.append(
                Panel(title if len(runs) == 1 else f"{title}, training data", "epoch", tuple(curves), log=log)
            )
    return panels


def _by_epoch(values: Floats, **drawn: Any) -> list[Curve]:
    if np.isnan(values).all():
        return []
    kept = with_extremes([values], _PARTS)
    return [Curve(kept.tolist(), values[kept].tolist(), **drawn)]


def _over_width(check: WidthCheck, quantity: Quantity) -> Panel:
    """Return the rms of a quantity at every site against the width, over that at the smallest width."""
    places = [math.log2(width) for width in check.widths]
    curves = []
    for row in check.rows:
        if row.quantity == quantity and not row.parameter:
            sizes = [geometric_interval(seeds).center for seeds in row.sizes[:, :, row.judged].T]
            if sizes[0] > 0:
                grown = [size / sizes[0] for size in sizes]
                curves.append(Curve(places, grown, color=_FITS[row.fit(check.tolerance)]))
    ticks = tuple((place, str(width)) for place, width in zip(places, check.widths, strict=True))
    return Panel(f"{QUANTITIES[quantity].label}, {QUANTITIES[quantity].symbol}", "width", tuple(curves), ticks=ticks)


def _positive(values: Floats) -> bool:
    seen = values[~np.isnan(values)]
    return bool((seen > 0).all())
