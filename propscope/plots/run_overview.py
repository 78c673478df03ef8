"""One page of a monitored run: loss, gradient norm and learning rate beside the maps of its sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from propscope.plots.fast_text import width_of
from propscope.plots.run_view import (
    STRIP,
    RunView,
    StepAxis,
    draw_alarms,
    draw_step_axis,
    listed,
)
from propscope.plots.step_curves import STEP_QUANTITIES, StepPanel, draw_step_panel, lost_note, prepare_step_panel
from propscope.plots.step_maps import (
    BACKWARD,
    DEAD,
    ENTROPY,
    FORWARD,
    LOGITS,
    RANK,
    UPDATES,
    MapQuantity,
    StepMap,
    draw_key,
    draw_map,
    notes,
    prepare_map,
    row_labels,
)
from propscope.plots.style import DPI, Header, TextFigure, framed, units_of

ROWS = 3
# The map that shows what an alarm is about.
MAP_OF_ALARM: Mapping[str, MapQuantity] = {
    "large update": UPDATES,
    "attention logits": LOGITS,
    "attention entropy": ENTROPY,
    "dead units": DEAD,
    "collapse": RANK,
}
_STEPS, _MAPS = "Left: every step. ", "Right: sites from input to output, against the step. "
_COLOURS = "Grey: as at the first sample; yellow: larger; blue: smaller."
_ALARMED = " Look at the first alarm first."


@dataclass(frozen=True, slots=True, eq=False)
class RunOverview:
    """A picture of at most three panels of every step, and beside them at most three maps."""

    header: Header
    axis: StepAxis
    panels: tuple[StepPanel, ...]
    maps: tuple[StepMap, ...]


def prepare_run_overview(view: RunView) -> RunOverview | None:
    """Return the numbers of every step and the maps of a run; None where it has neither.

    The last map is that of the first alarm that has one of its own, else that of the updates.
    """
    steps = (prepare_step_panel(view, quantity) for quantity in STEP_QUANTITIES)
    panels = tuple(panel for panel in steps if panel is not None)[:ROWS]
    named = (MAP_OF_ALARM[alarm.kind] for alarm in view.run.standing_alarms if alarm.kind in MAP_OF_ALARM)
    wanted = (FORWARD, BACKWARD, next(named, UPDATES))
    maps = tuple(found for quantity in wanted if (found := prepare_map(view, quantity)) is not None)
    if not (panels or maps):
        return None
    sides = _STEPS + _MAPS if panels and maps else ""
    reading = sides + _COLOURS * bool(maps) + "".join(notes(maps) if maps else (view.axis.reading,))
    reading += lost_note(panels, reading) + _ALARMED * bool(view.axis.marks)
    return RunOverview(Header("The run at a glance", view.facts, reading.strip()), view.axis, panels, maps)


_PANEL, _MAP, _HEIGHT = 4.9, 5.5, 2.1
_LEFT, _RIGHT, _BETWEEN = 0.95, 0.3, 0.45
_TITLE, _BELOW = 0.92, 0.58
_NAMES, _KEY = 28, 0.9


def draw_run_overview(prepared: RunOverview, figure: Figure | None = None) -> Figure:
    """Draw the panels into a figure and set its size; without `figure`, a new one is made."""
    figure = figure or TextFigure(dpi=DPI)
    axis = prepared.axis
    labels = [row_labels(each, _HEIGHT / len(each.names), _NAMES) for each in prepared.maps]
    names = max((width_of(text) for each in labels for _, text in each), default=0.0) + 0.2
    left = _LEFT + (_PANEL + _BETWEEN if prepared.panels else -_LEFT + 0.2) + names
    width = (left + _MAP if prepared.maps else _LEFT + _PANEL) + _RIGHT
    rows = max(len(prepared.panels), len(prepared.maps))
    top = framed(figure, prepared.header, width, rows * (_TITLE + _HEIGHT) + _BELOW, notes=listed(axis))
    height = units_of(figure)[1]

    def bottom(row: int) -> float:
        return top - (row + 1) * (_TITLE + _HEIGHT)

    for row, panel in enumerate(prepared.panels):
        axes = figure.add_axes((_LEFT / width, bottom(row) / height, _PANEL / width, _HEIGHT / height))
        draw_step_panel(axes, panel, axis)
        axes.set_title("")
        _title(figure, panel.label, _LEFT, bottom(row) - 0.2)
        draw_alarms(axes, axis, numbers=row == 0)
        draw_step_axis(axes, axis, labelled=row + 1 == len(prepared.panels))
    for row, (each, named) in enumerate(zip(prepared.maps, labels, strict=True)):
        axes = figure.add_axes((left / width, bottom(row) / height, _MAP / width, _HEIGHT / height))
        draw_map(axes, each, named)
        draw_alarms(axes, axis, numbers=row == 0)
        draw_step_axis(axes, axis, labelled=row + 1 == len(prepared.maps))
        _title(figure, each.title, left, bottom(row))
        draw_key(figure, each, left, bottom(row) + _HEIGHT + STRIP + 0.1, wide=_KEY)
    return figure


def _title(figure: Figure, text: str, left: float, bottom: float) -> None:
    width, height = figure.get_size_inches()
    figure.text(left / width, (bottom + _HEIGHT + STRIP + 0.25) / height, text, weight="bold", size=11)
