"""Curves over the steps: which numbers get a panel, what is thinned, marked or broken, and which sites are shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
from building.records import monitored, sampled_at

from propscope.plots.run_view import RunView
from propscope.plots.step_curves import (
    SITES_AT_MOST,
    STEP_QUANTITIES,
    SiteCurves,
    StepCurves,
    draw_site_curves,
    draw_steps,
    prepare_site_curves,
    prepare_step_panel,
    prepare_steps,
)
from propscope.plots.style import styled
from propscope.records import Alarm, MonitoredRun

NAN = math.nan


def steps(run: MonitoredRun) -> StepCurves:
    found = prepare_steps(RunView(run))
    assert found is not None
    return found


def sites(run: MonitoredRun, pattern: str | None = None) -> SiteCurves:
    found = prepare_site_curves(RunView(run, pattern))
    assert found is not None
    return found


def test_each_number_of_a_step_has_a_panel_where_it_tells_something() -> None:
    usual = [panel.label for panel in steps(monitored([3.0, 2.0])).panels]
    assert usual == [quantity.label for quantity in STEP_QUANTITIES[:3]]
    every = steps(monitored([3.0, 2.0], clip_factor=[0.5, 1.0], loss_scale=[1024.0, 512.0]))
    assert [panel.label for panel in every.panels] == [quantity.label for quantity in STEP_QUANTITIES]
    # A factor of 1 at each step is a run without clipping; so is the scale that never changes no news.
    assert len(steps(monitored([3.0, 2.0], clip_factor=1.0, loss_scale=1024.0)).panels) == 3
    assert prepare_steps(RunView(MonitoredRun(()))) is None


def test_a_loss_is_drawn_over_its_steps() -> None:
    (loss, *_) = steps(monitored([3.0, 2.0, 2.5], first=10)).panels
    assert (loss.at.tolist(), loss.middle.tolist()) == ([10.5, 11.5, 12.5], [3.0, 2.0, 2.5])
    assert (loss.scale.kind, len(loss.nonfinite)) == ("linear", 0)
    assert steps(monitored([100.0, 1.0])).panels[0].scale.kind == "log"
    assert steps(monitored([-5.0, 5.0])).panels[0].scale.low < -5


def test_numbers_that_are_not_finite_are_marked_and_a_loss_that_was_not_given_is_not() -> None:
    found = steps(monitored([2.0, math.inf, NAN, NAN], nonfinite_gradients=[0, 2, 2, 0]))
    assert found.panels[0].nonfinite.tolist() == [1, 2]
    assert "Red: NaN or Inf" in found.header.reading
    with styled():
        axes = draw_steps(found).axes[0]
    assert len(axes.patches) == 1
    assert axes.patches[0].get_extents().width > 0
    alone = prepare_step_panel(RunView(monitored([NAN, NAN])), STEP_QUANTITIES[0])
    assert alone is None
    assert prepare_step_panel(RunView(monitored([math.inf])), STEP_QUANTITIES[0]) is not None


def test_a_long_run_is_thinned_and_says_so() -> None:
    losses = [1.0] * 5000
    losses[4321] = 77.0
    found = steps(monitored(losses))
    loss = found.panels[0]
    assert len(loss.at) <= 1000
    assert float(loss.high.max()) == 77.0
    with styled():
        assert len(draw_steps(found).axes[0].collections) == 1
    assert "Line: median of each 5 steps" in found.header.reading
    assert "median" not in steps(monitored([1.0] * 900)).header.reading


def test_steps_that_were_skipped_or_failed_are_said() -> None:
    found = steps(monitored([1.0, 1.0, 1.0], skipped=[0, 1, 1], error=["", "", "ValueError: x"]))
    assert found.header.facts.endswith("the optimizer took no step at 2 of 3 · 1 raised an error")


def test_samples_and_alarms_are_marked_on_the_steps() -> None:
    run = monitored([1.0] * 6, alarms=[Alarm(4, 3, "loss spike")]) + sampled_at([0, 2, 4], sites=1)
    with styled():
        axes = draw_steps(steps(run)).axes
    marks = {line.get_marker(): np.asarray(line.get_xdata()).tolist() for line in axes[0].lines}
    assert (marks["|"], marks["v"]) == ([0.5, 2.5, 4.5], [4.5])
    hollow = [line for line in axes[1].lines if line.get_marker() == "v" and len(line.get_xdata())]
    assert [line.get_markerfacecolor() for line in hollow] == ["white"]
    assert [text.get_text() for text in axes[-1].get_xticklabels()][:2] == ["0", "1"]
    assert axes[-1].get_xlabel() == "step"


def test_the_sites_that_change_most_are_shown_in_the_order_of_the_network() -> None:
    run = sampled_at([0, 1], sites=9, rms=lambda step, place: float(1 + place) ** (step * (-1) ** place))
    (forward, *_) = sites(run).panels
    assert [line.name for line in forward.lines] == [f"fc.{place}" for place in range(3, 9)]
    assert len(forward.lines) == SITES_AT_MOST


def test_what_is_not_finite_changes_most_then_what_became_zero() -> None:
    values = {7: NAN, 8: 0.0}
    run = sampled_at([0, 1], sites=9, rms=lambda step, place: values.get(place, 1e9) if step else 1.0)
    (forward, *_) = sites(run).panels
    assert [line.name for line in forward.lines] == ["fc.0", "fc.1", "fc.2", "fc.3", "fc.7", "fc.8"]
    notes = {label.names[0]: label.note for label in forward.labels}
    assert (notes["fc.7"], notes["fc.8"], notes["fc.0"]) == ("not finite from 1", "zero at the end", "")
    assert forward.lines[4].nonfinite.tolist() == [1.5]


def test_a_pattern_chooses_sites_and_the_parameters_of_these() -> None:
    found = sites(sampled_at([0, 1], sites=9), "[12]$")
    assert [[line.name for line in panel.lines] for panel in found.panels] == [
        ["fc.1", "fc.2"],
        ["fc.1", "fc.2"],
        ["fc.1.weight", "fc.2.weight"],
    ]
    assert "Shown: what --include asks for" in found.header.reading


def test_a_line_breaks_where_no_sample_was_taken_for_long() -> None:
    (forward, *_) = sites(sampled_at([0, 10, 20, 90, 100], sites=1)).panels
    assert np.isnan(forward.lines[0].at).tolist() == [False] * 3 + [True] + [False] * 2


def test_many_samples_become_a_line_with_a_band() -> None:
    run = sampled_at(range(900), sites=1, rms=lambda step, _: 9.0 if step == 500 else 1.0)
    found = sites(run)
    line = found.panels[0].lines[0]
    assert (len(line.at), float(np.nanmax(line.values)), float(np.nanmax(line.high))) == (300, 1.0, 9.0)
    assert "Line: median of each 3 steps" in found.header.reading


def test_what_is_drawn() -> None:
    run = sampled_at([0, 1, 2], sites=2, alarms=[Alarm(1, 1, "collapse", "fc.1", severity="broken")])
    with styled():
        figure = draw_site_curves(sites(run))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Forward: values",
        "Backward: gradient",
        "Updates: step over parameter",
    ]
    assert "1  step 1: collapse at fc.1" in [text.get_text() for text in figure.texts]
    assert prepare_site_curves(RunView(monitored([1.0]))) is None


@pytest.mark.parametrize("losses", [[1e-300, 1.0], [0.0, 0.0], [1e300, -1e300], [2.0], [5.0] * 3])
def test_every_loss_can_be_drawn(losses: list[float]) -> None:
    with styled():
        figure = draw_steps(steps(monitored(losses)))
        figure.canvas.draw()
    low, high = figure.axes[0].get_ylim()
    shown = [loss for loss in losses if 1e-9 < abs(loss) < 1e100]
    assert low < min(shown, default=high) <= max(shown, default=high) <= high
