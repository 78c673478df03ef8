"""The step axis of a monitored run: which sample each cell shows, what is left blank, and where the alarms are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from building.records import monitored, sampled_at
from matplotlib.figure import Figure

from propscope.errors import InputError
from propscope.plots.run_view import CELLS, RunView, StepAxis, draw_alarms, draw_step_axis, held, label_of
from propscope.plots.table import MONITORED_PLOTS
from propscope.records import Alarm, MonitoredRun, OverSteps, Steps


def axis(first: int, last: int, cells: int | None = None) -> StepAxis:
    return StepAxis(np.linspace(first, last + 1, (cells or last + 1 - first) + 1), ())


def shown(axis: StepAxis, steps: list[int], badness: list[float] | None = None) -> list[int]:
    given = np.zeros((len(steps), 1)) if badness is None else np.array(badness)[:, None]
    return axis.samples(np.array(steps), given)[0].tolist()


def test_a_sample_holds_until_the_next_one() -> None:
    assert shown(axis(0, 7), [0, 3, 6]) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_long_stretch_without_a_sample_is_blank() -> None:
    assert held(np.array([0, 10, 20, 90, 100])).tolist() == [10, 20, 30, 100, 110]
    assert shown(axis(0, 11), [0, 1, 10, 11]) == [0, 1, *[-1] * 8, 2, 3]


def test_sampling_that_becomes_denser_or_sparser_is_no_gap() -> None:
    assert held(np.array([0, 50, 100, 101, 102, 103])).tolist() == [50, 100, 101, 102, 103, 104]
    assert held(np.array([0, 1, 2, 52, 102])).tolist() == [1, 2, 52, 102, 152]


def test_before_the_first_sample_is_blank() -> None:
    assert shown(axis(0, 3), [2]) == [-1, -1, 0, -1]


def test_of_the_samples_in_a_cell_the_worst_is_shown() -> None:
    assert shown(axis(0, 9, cells=2), [0, 1, 2, 5, 6], [0.0, 7.0, math.nan, 1.0, math.inf]) == [1, 4]


def test_a_long_run_has_a_limited_number_of_cells() -> None:
    view = RunView(sampled_at(range(0, 10_000, 100), sites=1))
    assert (len(view.axis.edges), view.axis.limits) == (CELLS + 1, (0.0, 9901.0))
    assert len(RunView(sampled_at([0], sites=1)).axis.edges) == 2


def test_a_thinned_line_has_the_median_and_the_ends_of_each_cell() -> None:
    at, middle, low, high = axis(0, 9, cells=2).thinned(
        np.arange(10), np.array([1.0, 9, 2, math.inf, 3, *[math.nan] * 5]), axis(0, 9, cells=2).edges
    )
    assert (at.tolist(), middle.tolist(), low.tolist(), high.tolist()) == ([2.5], [2.0], [1.0], [9.0])


def test_steps_that_were_taken_again_are_left_out() -> None:
    earlier, later = monitored([1.0, 2.0, 3.0, 4.0]), monitored([7.0, 8.0], first=2)
    view = RunView(earlier.superseded_from(2) + later)
    assert view.steps.number.tolist() == [0, 1, 2, 3]
    assert view.steps.loss.tolist() == [1.0, 2.0, 7.0, 8.0]
    again = RunView(sampled_at([0, 2], sites=1).superseded_from(2) + sampled_at([2], sites=1, rms=5.0))
    series = again.series("forward_rms", summary="forward")
    assert series is not None
    assert (series.steps.tolist(), series.values[:, 0].tolist()) == ([0, 2], [1.0, 5.0])


def test_alarms_are_numbered_in_the_order_of_their_steps() -> None:
    alarms = [Alarm(9 - n, 8 - n, "loss spike", severity="broken" if n else "strained") for n in range(7)]
    marks = RunView(MonitoredRun((), monitored([1.0] * 12).steps, tuple(alarms))).axis.marks
    assert [mark.step for mark in marks] == [3, 4, 5, 6, 7, 8, 9]
    assert [mark.number for mark in marks] == [1, 2, 3, 4, 5, 0, 0]
    assert [mark.broken for mark in marks] == [True] * 6 + [False]
    assert marks[0].text == "step 3: loss spike, since step 2"


def test_alarms_that_were_off_or_of_steps_taken_again_are_told_from_none() -> None:
    steps = monitored([1.0] * 4).steps
    again = MonitoredRun((), steps, (Alarm(3, 3, "loss spike", superseded=1), Alarm(1, 1, "loss spike")))
    assert [mark.step for mark in RunView(again).axis.marks] == [1]
    assert "1 alarm" in RunView(again).facts
    assert "no alarm ·" in RunView(MonitoredRun((), steps, again.alarms[:1])).facts + " ·"
    assert "no alarms were asked for" in RunView(monitored([1.0], judged=0)).facts


def test_sites_are_chosen_by_a_pattern_and_parameters_by_their_module() -> None:
    run = sampled_at([0], sites=3)
    view = RunView(run, "1$")
    found = [view.series(name) for name in ("mean_cosine", "update_ratio")]
    assert [series and series.names for series in found] == [("fc.1",), ("fc.1.weight",)]
    with pytest.raises(InputError, match='no site matches "x"') as caught:
        RunView(run, "x").check()
    assert "fc.0, fc.1, fc.2" in caught.value.hint
    with pytest.raises(InputError, match=r"sites \(--include\) must be a regular expression"):
        RunView(run, "(")


def test_facts_name_what_a_reader_asks_first() -> None:
    run = monitored([4.0, 1.0, 2.0]) + sampled_at([0, 1], sites=1)
    assert RunView(run).facts == "steps 0 to 2 · 2 samples · loss 4 to 2, lowest 1 · no alarm"
    losses = replace(run.steps, loss=np.array([math.nan, 3.0, math.inf]))
    alarmed = MonitoredRun(run.profiles, losses, (Alarm(1, 1, "loss spike"),))
    assert RunView(alarmed).facts == "steps 0 to 2 · 2 samples · loss 3 to ∞ · 1 alarm"
    assert RunView(MonitoredRun(())).facts == "0 samples · no alarm"


def test_a_name_is_shortened_and_is_no_formula() -> None:
    assert label_of("blocks.0.attention.out", 20) == "blocks.0.attent….out"
    assert label_of("a$b$\x1b[31m", 40) == r"a\$b\$\x1b[31m"


def test_no_steps_are_no_run() -> None:
    view = RunView(MonitoredRun((), Steps.of(())))
    assert (view.series("forward_rms"), view.axis.limits) == (None, (0.0, 1.0))


def test_a_quantity_that_several_pictures_show_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    over_steps = MonitoredRun.over_steps

    def counted(run: MonitoredRun, quantity: str) -> OverSteps:
        read.append(quantity)
        return over_steps(run, quantity)

    monkeypatch.setattr(MonitoredRun, "over_steps", counted)
    view = RunView(monitored([1.0, 2.0]) + sampled_at([0, 1], sites=2))
    for plot in MONITORED_PLOTS:
        plot.prepare(view)
    assert len(read) == len(set(read))
    assert {"forward_rms", "backward_rms", "update_ratio"} <= set(read)


def test_numbers_of_alarms_that_are_near_share_one_text() -> None:
    alarms = [Alarm(step, step, "loss spike") for step in (10, 11, 12, 80, 81, 90)]
    axis = RunView(monitored([1.0] * 100, alarms=alarms)).axis
    figure = Figure(figsize=(4, 2), dpi=100)
    axes = draw_alarms(draw_step_axis(figure.add_axes((0, 0, 1, 0.8)), axis), axis)
    assert [text.get_text() for text in axes.texts] == ["1–3", "4–5"]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "None"] == [10, 80]
    assert len(draw_alarms(figure.add_axes((0, 0, 1, 0.8)), axis, numbers=False).texts) == 0


def test_a_loss_that_is_lowest_at_its_end_is_not_said_twice() -> None:
    assert "lowest" not in RunView(monitored([4.0, 2.0, 1.0])).facts
    assert "lowest" not in RunView(monitored([4.0, 0.99, 1.0])).facts
    assert "lowest 0.5" in RunView(monitored([4.0, 0.5, 1.0])).facts
