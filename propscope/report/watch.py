"""A monitored run at one look: its numbers over steps, its worst sites and its last alarms, as lines of a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from propscope.printable import printable, shortened
from propscope.records.monitored import Alarm, AlarmSeverity, MonitoredRun, no_steps
from propscope.records.network import Floats, NetworkProfile, Site
from propscope.records.numerals import counted, number, percent
from propscope.records.over_steps import OverSteps
from propscope.records.run_summary import alarms_in_words, change_since_first, worst_first, worst_severities
from propscope.records.summary import TensorSummary
from propscope.report.sparkline import trend
from propscope.report.table import cells

Style = Literal["", "bold", "dim", "red", "yellow"]
_STYLES: Mapping[AlarmSeverity | Literal[""], Style] = {"broken": "red", "strained": "yellow", "": ""}
# The time of a step is the mean of so many of the last ones.
_STEPS = 100
_ALARMS = 4
# The widths of the narrowest column of names, of a number, and of the widest and narrowest picture over the steps.
_NAMES, _NUMBER, _WIDEST, _NARROWEST = 16, 8, 40, 8


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text without control characters, and how it is emphasized."""

    text: str
    style: Style = ""


class WatchedRun:
    """What is shown of a run that grows: `add` takes what was added to it.

    `forward`, `backward` and `updates`: the rms of each site and its gradient, and the update ratio of each parameter,
    over the samples. `last`: the last sample.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.steps = no_steps()
        self.alarms: tuple[Alarm, ...] = ()
        self.samples = 0
        self.forward: OverSteps | None = None
        self.backward: OverSteps | None = None
        self.updates: OverSteps | None = None
        self.last: NetworkProfile | None = None

    def add(self, added: MonitoredRun, *, anew: bool) -> None:
        """Add what was written of the run since the last call; `anew`: in place of all before."""
        if anew:
            self._clear()
        self.steps += added.steps
        self.alarms += added.standing_alarms
        self.samples += len(added)
        forward = added.over_steps("forward_rms")
        if not len(forward.steps):
            return
        self.forward = _joined(self.forward, forward)
        self.backward = _joined(self.backward, added.over_steps("backward_rms"))
        self.updates = _joined(self.updates, added.over_steps("update_ratio"))
        self.last = _sample(added, int(forward.steps[-1]))


def _sample(run: MonitoredRun, step: int) -> NetworkProfile:
    """Return the sample of a step, the last one where two runs were merged."""
    found = run.select(step=step)
    return found if isinstance(found, NetworkProfile) else found[-1]


def _joined(before: OverSteps | None, later: OverSteps) -> OverSteps:
    if before is None:
        return later
    places = {name: at for at, name in enumerate(dict.fromkeys((*before.names, *later.names)))}
    values = np.full((len(before.steps) + len(later.steps), len(places)), np.nan)
    for one, rows in ((before, slice(None, len(before.steps))), (later, slice(len(before.steps), None))):
        values[rows, [places[name] for name in one.names]] = one.values
    return OverSteps(before.quantity, np.concatenate([before.steps, later.steps]), tuple(places), values)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the table of sites: a site of the last sample, its course, and the worst alarm that was raised there."""

    site: Site
    forward: Floats
    backward: Floats
    alarm: AlarmSeverity | Literal[""]

    @property
    def nonfinite(self) -> bool:
        """Whether its values or gradients have NaN or infinities."""
        return _is_nonfinite(self.site.forward) or _is_nonfinite(self.site.backward)

    @property
    def style(self) -> Style:
        """How the row is emphasized."""
        return "red" if self.nonfinite else _STYLES[self.alarm]


def _is_nonfinite(summary: TensorSummary | None) -> bool:
    return summary is not None and summary.nonfinite_count > 0


def _rows(watched: WatchedRun) -> list[_Row]:
    """Return the rows of the table of sites, the worst first."""
    if watched.last is None or watched.forward is None or watched.backward is None:
        return []
    both = (watched.forward, watched.backward)
    forward, backward = (dict(zip(one.names, one.values.T, strict=True)) for one in both)
    forward_changes, backward_changes = (
        dict(zip(one.names, change_since_first(one.values, one.values[-1]).tolist(), strict=True)) for one in both
    )
    alarms = worst_severities(watched.alarms)
    rows = [
        _Row(site, forward[site.name], backward[site.name], alarms.get(site.name, "")) for site in watched.last.sites
    ]
    order = worst_first(
        nonfinite=[row.nonfinite for row in rows],
        alarms=[row.alarm for row in rows],
        forward_changes=[forward_changes[row.site.name] for row in rows],
        backward_changes=[backward_changes[row.site.name] for row in rows],
    )
    return [rows[at] for at in order]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table of sites: its heading, its width, and what `read` puts there, at its left or right."""

    heading: str
    width: int
    read: Callable[[_Row], str]
    left: bool = False

    def cell(self, text: str) -> str:
        """Return a text as wide as the column."""
        text = text[: self.width]
        return text.ljust(self.width) if self.left else text.rjust(self.width)


def _columns(width: int, names: Sequence[str]) -> tuple[list[_Column], list[str]]:
    """Return the columns behind the names that fit into a width, and the names as long as the rest of it.

    The last numbers are left out first, then the courses, until no two names read the same.
    """
    for picture, numbers in (*((_NARROWEST, _NUMBERS[:count]) for count in (3, 2, 1, 0)), (0, ())):
        room = max(width - 2 * (2 + _NUMBER + picture) - sum(one.width + 1 for one in numbers), 0)
        # Half of what is left over goes to the courses, where the names can do without.
        wider = min(max(room - _NAMES, 0) // 4, _WIDEST - picture) if picture else 0
        for more in (wider, 0):
            short = [_cut(shortened(name, room - 2 * more), room - 2 * more) for name in names]
            if room >= _NAMES and len(set(short)) == len(set(names)):
                return [*_courses(picture + more), *numbers], short
    return _courses(0), short


def _courses(picture: int) -> list[_Column]:
    wide = _NUMBER + 1 + picture
    return [
        _Column("forward rms", wide, lambda row: _course(row.forward, picture, row.site.forward), left=True),
        _Column("backward rms", wide, lambda row: _course(row.backward, picture, row.site.backward), left=True),
    ]


_NUMBERS = (
    _Column("dead", 5, lambda row: percent(row.site.dead_share)),
    _Column("logit", 7, lambda row: number(row.site.largest_logit)),
    _Column("rank", 6, lambda row: number(row.site.effective_rank)),
)


def _course(values: Floats, picture: int, summary: TensorSummary | None) -> str:
    # The rms is that of the finite elements.
    last = "NaN/Inf" if _is_nonfinite(summary) else number(float(values[-1]))
    return f"{last:>{_NUMBER}} {trend(values[~np.isnan(values)], width=picture)}"


def view(watched: WatchedRun, *, name: str, state: str, width: int = 80, height: int = 24) -> list[Line]:
    """Return the view of a run in at most `height` lines of at most `width` characters.

    `name`: of its file. `state`: what becomes of it, in words, such as "running".
    """
    steps, alarms = watched.steps, watched.alarms
    head = [Line(f"{name}   {state}", "bold")]
    parts = [f"step {steps.number[-1]:,}" if len(steps) else "no step yet"]
    if len(steps):
        parts.append(f"{number(float(np.mean(steps.seconds[-_STEPS:])))} s a step")
    parts.append(counted(watched.samples, "sample"))
    if len(steps) and not math.isnan(share := float(steps.monitor_share[-1])):
        parts.append(f"monitor {share:.1%}")
    parts.append(alarms_in_words(alarms, steps))
    head.append(Line("   ".join(parts)))
    # What a resumed run took again is told by the later steps.
    kept = steps.superseded == 0
    courses = [("loss", steps.loss[kept]), ("gradient norm", steps.gradient_norm[kept])]
    if watched.updates is not None and watched.updates.values.size:
        largest = np.where(np.isnan(watched.updates.values), -1.0, watched.updates.values).max(axis=1)
        courses.append(("largest update", np.where(largest < 0, np.nan, largest)))
    for label, course in courses:
        seen = course[~np.isnan(course)] if label != "loss" else course
        last = number(float(seen[-1])) if len(seen) else "-"
        head.append(Line(f"{label:<15}{last:>9}  {trend(seen, width=max(width - 27, 0))}"))
    foot = [Line("")] if alarms else []
    # The first one names the cause, the last ones what it led to.
    told = alarms if len(alarms) <= _ALARMS else (alarms[0], *alarms[1 - _ALARMS :])
    foot += [Line(_short(one), _STYLES[one.severity]) for one in told]
    room = height - len(head) - len(foot) - 1
    lines = [*head, Line(""), *_table(watched, width, room), *foot]
    return [Line(_cut(printable(line.text), width), line.style) for line in lines[:height]]


def _short(alarm: Alarm) -> str:
    """Return an alarm with what matters most at its beginning: a line may be cut."""
    at = f" at {alarm.place}" if alarm.place else ""
    before = "" if math.isnan(alarm.baseline) else f", before {number(alarm.baseline)}"
    return f"step {alarm.step}  {alarm.kind}{at}{alarm.since_text}: {number(alarm.value)}{before}; {alarm.message}"


def _table(watched: WatchedRun, width: int, room: int) -> list[Line]:
    rows = _rows(watched)
    if not rows or room < 2:
        return []
    fits = len(rows) if len(rows) < room else room - 2
    columns, names = _columns(width, [row.site.name or "the model" for row in rows[:fits]])
    rest = max(width - sum(one.width + 1 for one in columns), 0)
    heads = " ".join(["site, worst first".ljust(rest)[:rest], *(one.cell(one.heading) for one in columns)])
    lines = [Line(heads, "dim")]
    for name, row in zip(names, rows[:fits], strict=True):
        cell_texts = [name + " " * (rest - cells(name)), *(one.cell(one.read(row)) for one in columns)]
        lines.append(Line(" ".join(cell_texts).rstrip(), row.style))
    if fits < len(rows):
        lines.append(Line(f"and {counted(len(rows) - fits, 'more site')}", "dim"))
    return lines


def _cut(text: str, width: int) -> str:
    """Return a text that takes at most `width` cells of a terminal, without its end where it is longer."""
    kept = text[:width]
    while cells(kept) > width or (kept != text and cells(kept) == width):
        kept = kept[:-1]
    return kept if kept == text else f"{kept}…"[: max(width, 0)]


def sample_lines(added: MonitoredRun) -> list[str]:
    """Return what was added to a run as plain lines: one a sample, and one an alarm, in the order of their steps."""
    lines: list[tuple[int, int, str]] = []
    rows = {int(step): at for at, step in enumerate(added.steps.number)}
    forward = added.over_steps("forward_rms") if len(added) else None
    backward = added.over_steps("backward_rms") if len(added) else None
    for at, step in enumerate(() if forward is None else forward.steps.tolist()):
        parts = [f"step {step}"]
        if (row := rows.get(step)) is not None:
            parts.append(f"loss {number(float(added.steps.loss[row]))}")
            parts.append(f"gradient norm {number(float(added.steps.gradient_norm[row]))}")
        for label, found in (("forward", forward), ("backward", backward)):
            assert found is not None
            seen = found.values[at][~np.isnan(found.values[at])]
            if len(seen):
                parts.append(f"{label} rms {number(float(seen.min()))} to {number(float(seen.max()))}")
        lines.append((step, 0, "  ".join(parts)))
    lines += [(alarm.step, 1, str(alarm)) for alarm in added.standing_alarms]
    return [printable(text) for _, _, text in sorted(lines)]


def texts(lines: Sequence[Line]) -> str:
    """Return the lines as plain text."""
    return "\n".join(line.text for line in lines)
