"""What the pictures of a monitored run share: numbers by sample and place, the step axis, and the alarms on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from propscope.checks import shown
from propscope.errors import InputError
from propscope.plots.scales import Floats, Ints, position_ticks
from propscope.plots.style import ALARM, INK, QUIET, short
from propscope.printable import shortened
from propscope.records.monitored import MonitoredRun, Steps
from propscope.records.numerals import counted
from propscope.records.over_steps import OverSteps, table_of
from propscope.records.run_summary import alarms_in_words

Bools = NDArray[np.bool_]
_NONFINITE = ("nan", "posinf", "neginf")

# The most cells along the step axis, the most points of a line, and the alarms that a picture lists.
CELLS = 300
LINE_CELLS = 1000
LISTED = 5
# A stretch without samples is left blank where it is so many times as long as both stretches beside it.
_LONG = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A quantity over the samples of a run: `values[sample, place]`, NaN where it was not recorded.

    `steps` ascend. `names`: of the sites or parameters, in the order of the network. `nonfinite`, of the same shape as
    `values`: where something was NaN or infinite.
    """

    steps: Ints
    names: tuple[str, ...]
    values: Floats
    nonfinite: Bools

    def of(self, places: Sequence[int]) -> Series:
        """Return the same for some of the places."""
        rows = list(places)
        names = tuple(self.names[row] for row in rows)
        return Series(self.steps, names, self.values[:, rows], self.nonfinite[:, rows])

    @property
    def first(self) -> Floats:
        """The first positive and finite value of each place, NaN where there is none."""
        return self._usable(slice(None))

    @property
    def last(self) -> Floats:
        """The last positive and finite value of each place, NaN where there is none."""
        return self._usable(slice(None, None, -1))

    def _usable(self, order: slice) -> Floats:
        values = np.where(self.nonfinite | ~np.isfinite(self.values), 0.0, self.values)[order]
        found = np.asarray(values[(values > 0).argmax(axis=0), np.arange(values.shape[1])])
        return np.where(found > 0, found, np.nan)


@dataclass(frozen=True, slots=True)
class AlarmMark:
    """An alarm on the step axis; `number`: in the list of a picture's alarms, 0 where it is not in the list."""

    step: int
    number: int
    broken: bool
    place: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class StepAxis:
    """The axis of all pictures of a run: `edges` of its cells, shape (cells + 1,), and the alarms on it."""

    edges: Floats
    marks: tuple[AlarmMark, ...]

    @property
    def limits(self) -> tuple[float, float]:
        """Where the axis begins and ends; the step n takes the room from n to n + 1."""
        return float(self.edges[0]), float(self.edges[-1])

    @property
    def reading(self) -> str:
        """How the alarms of a picture read; "" without alarms."""
        if not self.marks:
            return ""
        strained = "" if all(mark.broken for mark in self.marks) else ", hollow where something is only strained"
        return f" ▼: an alarm{strained}."

    def samples(self, steps: Ints, badness: Floats, *, over_gaps: bool = False) -> Ints:
        """Return which sample each cell shows, shape (places, cells), -1 where it shows none.

        `steps`: of the samples, ascending. `badness`, shape (samples, places): of several samples within a cell, the
        worst one is shown. A sample holds until the next one, but not over a stretch that is far longer than those
        beside it, unless `over_gaps`.
        """
        ends = np.append(steps[1:], self.edges[-1]) if over_gaps else held(steps)
        lows, highs = (np.searchsorted(steps, edges) for edges in (self.edges[:-1], self.edges[1:]))
        rank = np.where(np.isnan(badness), -np.inf, badness)
        found = np.full((len(lows), rank.shape[1]), -1)
        for cell, (low, high) in enumerate(zip(lows.tolist(), highs.tolist(), strict=True)):
            if high > low:
                found[cell] = low + rank[low:high].argmax(axis=0)
            elif low and self.edges[cell] < ends[low - 1]:
                found[cell] = low - 1
        return np.asarray(found.T)

    @property
    def line_edges(self) -> Floats:
        """The edges of the cells that a line has a point in, which are finer."""
        first, last = self.limits
        return np.linspace(first, last, min(round(last - first), LINE_CELLS) + 1)

    def thinned(self, steps: Ints, values: Floats, edges: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the middles of the cells that have finite values, and the median, lowest and highest of each."""
        cells = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, len(edges) - 2)
        kept = np.isfinite(values)
        order = np.lexsort((values[kept], cells[kept]))
        cell, value = cells[kept][order], values[kept][order]
        present, start, count = np.unique(cell, return_index=True, return_counts=True)
        at = (edges[:-1] + edges[1:])[present] / 2
        return at, value[start + (count - 1) // 2], value[start], value[start + count - 1]


def steps_a_cell(edges: Floats) -> int:
    """Return how many steps a cell covers at most."""
    return int(np.ceil((edges[-1] - edges[0]) / (len(edges) - 1) - 1e-9))


def held(steps: Ints | Floats) -> Floats:
    """Return up to which step each sample holds: the next sample, unless the stretch is long for its neighbourhood."""
    at = np.asarray(steps, dtype=np.float64)
    if len(at) < 2:
        return at + 1.0
    gaps = np.diff(at)
    before, after = np.concatenate([[0.0], gaps[:-1]]), np.concatenate([gaps[1:], [0.0]])
    beside = np.maximum(before, after)
    lengths = np.where((gaps > _LONG * beside) & (beside > 0), beside, gaps)
    return np.asarray(at + np.concatenate([lengths, [max(float(lengths[-1]), 1.0)]]))


class RunView:
    """A monitored run as its pictures show it, without the steps that a resumed run took again.

    `sites`: a regular expression; the pictures show the sites that it matches, and the parameters of their modules.
    """

    def __init__(self, run: MonitoredRun, sites: str | None = None) -> None:
        self.run = run
        self._pattern = None if sites is None else _compiled(sites)
        self.pattern = sites
        self._read: dict[str, OverSteps] = {}

    @cached_property
    def steps(self) -> Steps:
        """The steps, of those that were taken twice the later ones."""
        steps = self.run.steps
        kept = steps.superseded == 0
        return Steps(*(getattr(steps, name)[kept] for name in Steps.__slots__))

    def series(self, quantity: str, *, over: str = "", summary: str = "") -> Series | None:
        """Return a quantity of `MonitoredRun.over_steps` at each place; None where it was recorded nowhere.

        `over`: another quantity that it is divided by. `summary`: the one that it is of, such as "forward", which says
        where a value is not finite; "" for a number that is itself not finite there.
        """
        found = self._over_steps(quantity)
        values = found.values
        if over:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = values / self._over_steps(over).values
        if summary:
            counts = [self._over_steps(f"{summary}_{kind}_count").values for kind in _NONFINITE]
            nonfinite = np.nansum(counts, axis=0) > 0
        else:
            nonfinite = np.isinf(values)
        recorded = (nonfinite | ~np.isnan(values)).any(axis=0)
        places = [at for at, name in enumerate(found.names) if recorded[at] and self._shows(found, name)]
        series = Series(found.steps, found.names, values, nonfinite).of(places)
        return series if places else None

    def _over_steps(self, quantity: str) -> OverSteps:
        # Several pictures show the same quantity, and each time all samples are read.
        if quantity not in self._read:
            found = self.run.over_steps(quantity)
            # Of a step that was sampled twice, the later sample counts.
            steps, last = np.unique(found.steps[::-1], return_index=True)
            self._read[quantity] = replace(found, steps=steps, values=found.values[::-1][last])
        return self._read[quantity]

    def _shows(self, found: OverSteps, name: str) -> bool:
        if self._pattern is None:
            return True
        return bool(
            self._pattern.search(name if table_of(found.quantity, None)[0] == "site" else name.rpartition(".")[0])
        )

    @cached_property
    def sampled(self) -> Ints:
        """The steps of the samples, ascending."""
        return self._over_steps("forward_rms").steps

    def check(self) -> None:
        """Raise `InputError` where sites were asked for and none is such a site."""
        found = self._over_steps("forward_rms")
        if self._pattern is not None and found.names and not any(self._shows(found, name) for name in found.names):
            raise InputError(
                f"no site matches {shown(self.pattern)}", hint=f"the sites are {', '.join(found.names[:20])}"
            )

    @cached_property
    def axis(self) -> StepAxis:
        """The step axis from the first step or sample to the last one."""
        numbers = [*self.steps.number.tolist(), *self.sampled.tolist()]
        first, last = min(numbers, default=0), max(numbers, default=0)
        edges = np.linspace(first, last + 1, min(last + 1 - first, CELLS) + 1)
        return StepAxis(edges, self._marks(first, last))

    def _marks(self, first: int, last: int) -> tuple[AlarmMark, ...]:
        alarms = sorted(self.run.standing_alarms, key=lambda alarm: alarm.step)
        return tuple(
            AlarmMark(
                step=min(max(alarm.step, first), last),
                number=number if number <= LISTED else 0,
                broken=alarm.severity == "broken",
                place=alarm.place,
                text=f"step {alarm.step}: {alarm.kind}"
                + (f" at {place}" if (place := label_of(alarm.place, 60)) else "")
                + alarm.since_text,
            )
            for number, alarm in enumerate(alarms, start=1)
        )

    @property
    def facts(self) -> str:
        """In one line what was run: its steps, samples, loss and alarms."""
        numbers = self.steps.number
        parts = [f"steps {numbers.min()} to {numbers.max()}"] if len(numbers) else []
        parts.append(counted(len(self.sampled), "sample"))
        losses = self.steps.loss[~np.isnan(self.steps.loss)]
        if len(losses):
            lowest = f", lowest {short(losses.min())}" if losses.min() < min(losses[0], 0.98 * losses[-1]) else ""
            parts.append(f"loss {short(losses[0])} to {short(losses[-1])}{lowest}")
        parts.append(alarms_in_words(self.run.standing_alarms, self.steps))
        if self.pattern is not None:
            parts.append(f"sites that match {label_of(self.pattern, 40)}")
        return " · ".join(parts)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"sites (--include) must be a regular expression, got {shown(pattern)}: {error}") from error


def label_of(name: str, characters: int) -> str:
    """Return a name as a picture shows it: shortened where it is longer, and nothing of it a formula."""
    return shortened(name, characters).replace("$", r"\$")


STRIP = 0.27
_CLUSTER = 0.17


def listed(axis: StepAxis) -> list[str]:
    """Return the list of a picture's alarms, which its marks have the numbers of."""
    rows = [f"{mark.number}  {mark.text}" for mark in axis.marks if mark.number]
    more = len(axis.marks) - len(rows)
    return [*rows, f"and {counted(more, 'later alarm')}"] if more else rows


def draw_alarms(axes: Axes, axis: StepAxis, *, numbers: bool = True) -> Axes:
    """Mark the alarms above an axes, filled where something is broken, and where the listed ones begin."""
    first, last = axis.limits
    edge = axes.get_xaxis_transform()
    for broken in (True, False):
        at = sorted({mark.step + 0.5 for mark in axis.marks if mark.broken is broken})
        face = ALARM if broken else "white"
        axes.plot(
            at,
            [1.0] * len(at),
            "v",
            color=ALARM,
            markerfacecolor=face,
            markersize=6,
            transform=edge,
            clip_on=False,
            zorder=6,
        )
    inches = axes.bbox.width / axes.figure.dpi
    for cluster in _clusters(axis.marks, _CLUSTER * (last - first) / inches):
        axes.axvline(cluster[0].step, color=ALARM, linewidth=0.9, linestyle=(0, (1, 2)), zorder=5)
        if numbers:
            named = [cluster[0].number, cluster[-1].number]
            text = "–".join(map(str, dict.fromkeys(named)))
            middle = (cluster[0].step + cluster[-1].step + 1) / 2
            shift = edge.transform((0, 1))[1] + 0.07 * axes.figure.dpi
            axes.text(
                middle,
                edge.inverted().transform((0, shift))[1],
                text,
                transform=edge,
                color=ALARM,
                ha="center",
                va="bottom",
                zorder=6,
            )
    return axes


def _clusters(marks: Sequence[AlarmMark], near: float) -> list[list[AlarmMark]]:
    """Return the listed alarms, those together whose numbers would overlap."""
    found: list[list[AlarmMark]] = []
    for mark in marks:
        if mark.number:
            if found and mark.step - found[-1][-1].step < near * (1 + len(found[-1]) / 2):
                found[-1].append(mark)
            else:
                found.append([mark])
    return found


def draw_sampled(axes: Axes, steps: Ints | None) -> Axes:
    """Mark steps along the lower edge of an axes."""
    if steps is not None:
        edge = axes.get_xaxis_transform()
        axes.plot(
            steps + 0.5, np.zeros(len(steps)), "|", color=INK, markersize=7, clip_on=False, transform=edge, zorder=2
        )
    return axes


def draw_step_axis(axes: Axes, axis: StepAxis, *, labelled: bool = True) -> Axes:
    """Give an axes the step axis of a run."""
    first, last = axis.limits
    axes.set_xlim(first, last)
    axes.set_xticks([tick + 0.5 for tick in position_ticks(int(first), int(last) - 1)])
    axes.set_xticklabels([f"{tick}" for tick in position_ticks(int(first), int(last) - 1)])
    axes.tick_params(labelbottom=labelled, bottom=labelled)
    if labelled:
        axes.set_xlabel("step", color=QUIET)
    return axes
