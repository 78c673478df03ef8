"""The table of all plots. It imports nothing heavy, so that the help of the command line can list them.

A new plot is one file of this package and one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

FORMATS = ("png", "pdf", "svg")
Choice = Literal["main", "all", "none"]
CHOICES = ("main", "all", "none")
# More pairs than this make more pictures than anybody looks at.
_ALL_UP_TO = 24


@dataclass(frozen=True, slots=True)
class Plot:
    """A kind of picture: its `name` in file names and options, and the `module.function` of the two steps that make it.

    Step one turns the profiles (or trainings) of one picture, or the `RunView` of a monitored run, into a record, or
    returns None where what the picture shows was not recorded. Step two turns the record into a figure. One picture
    holds at most `lines_at_most` lines and `columns_at_most` activations. Everything else makes further pictures. A
    `main` plot shows the whole of a grid. One that `sweeps` draws lines along the longest axis of three numbers or
    more, one line for each of all other labels.
    """

    name: str
    preparing: str
    drawing: str
    lines_at_most: int = 24
    columns_at_most: int = 1
    main: bool = False
    sweeps: bool = False

    @property
    def prepare(self) -> Callable[[Any], Any]:
        """The first step."""
        return _function(self.preparing)

    @property
    def draw(self) -> Callable[[Any], Any]:
        """The second step."""
        return _function(self.drawing)


def _function(dotted: str) -> Callable[[Any], Any]:
    module, _, name = dotted.partition(".")
    function: Callable[[Any], Any] = getattr(import_module(f"propscope.plots.{module}"), name)
    return function


PLOTS = (
    Plot("curves", "curve_panels.prepare_curves", "curve_panels.draw_curves", columns_at_most=2, main=True),
    Plot("activations", "histogram_grid.prepare_activations", "histogram_grid.draw_histograms"),
    Plot("gradients", "histogram_grid.prepare_gradients", "histogram_grid.draw_histograms"),
    Plot("weights", "histogram_grid.prepare_weights", "histogram_grid.draw_histograms"),
    Plot("weight-gradients", "histogram_grid.prepare_weight_gradients", "histogram_grid.draw_histograms"),
    Plot("overview", "overview_map.prepare_overview", "overview_map.draw_overview", 48, 12, main=True),
    Plot("jacobian", "jacobian.prepare_jacobian", "jacobian.draw_jacobian", columns_at_most=4),
    Plot("sweep", "sweep.prepare_sweep", "sweep.draw_sweep", main=True, sweeps=True),
    Plot("over-time", "over_time.prepare_over_time", "over_time.draw_over_time", lines_at_most=1),
)

TRAINING_PLOTS = (
    Plot("learning", "learning_panels.prepare_learning", "learning_panels.draw_learning", columns_at_most=2, main=True),
    Plot("signal", "signal_change.prepare_signal_change", "curve_panels.draw_curves"),
    Plot("activation-map", "training_map.prepare_training_map", "training_map.draw_training_map", 6, main=True),
    Plot("final-loss", "sweep.prepare_final_losses", "sweep.draw_sweep", main=True, sweeps=True),
)

MONITORED_PLOTS = (
    Plot("overview", "run_overview.prepare_run_overview", "run_overview.draw_run_overview", main=True),
    Plot("steps", "step_curves.prepare_steps", "step_curves.draw_steps", main=True),
    Plot("sites", "step_curves.prepare_site_curves", "step_curves.draw_site_curves"),
    Plot("forward", "step_maps.prepare_forward", "step_maps.draw_step_maps"),
    Plot("backward", "step_maps.prepare_backward", "step_maps.draw_step_maps"),
    Plot("updates", "step_maps.prepare_updates", "step_maps.draw_step_maps"),
    Plot("dead-units", "step_maps.prepare_dead_units", "step_maps.draw_step_maps"),
    Plot("attention", "step_maps.prepare_attention", "step_maps.draw_step_maps"),
    Plot("geometry", "step_maps.prepare_geometry", "step_maps.draw_step_maps"),
    Plot("histograms", "training_map.prepare_step_histograms", "training_map.draw_training_map"),
)


def plots_of(profiles: object) -> tuple[Plot, ...]:
    """Return the plots that there are of profiles, of trainings, or of a monitored run."""
    from propscope.records import MonitoredRun, TrainingSet

    if isinstance(profiles, MonitoredRun):
        return MONITORED_PLOTS
    return TRAINING_PLOTS if isinstance(profiles, TrainingSet) else PLOTS


def chosen(plots: Sequence[Plot], choice: Choice | list[str] | None, *, pairs: int) -> list[str]:
    """Return the names of the plots to draw of a grid of so many pairs (networks without their seeds).

    `choice`: names, all plots, the main ones, or none; None: all of up to 24 pairs, the main ones of more.
    """
    if isinstance(choice, list):
        return choice
    choice = choice or ("all" if pairs <= _ALL_UP_TO else "main")
    return [plot.name for plot in plots if choice == "all" or (choice == "main" and plot.main)]
