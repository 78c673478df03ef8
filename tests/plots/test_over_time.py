from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from building.records import course, layered
from matplotlib.colors import to_hex

from propscope.plots import draw_all
from propscope.plots.over_time import COURSES_AT_MOST, OverTime, draw_over_time, prepare_over_time
from propscope.plots.style import styled
from propscope.records import NetworkProfile, ProfileSet, TimeCourse
from propscope.records.time_course import StateCourse


def network(*courses: TimeCourse, seed: int = 0) -> NetworkProfile:
    return replace(layered([1.0, 2.0], [1.0, 1.0], seed=seed), time_courses=courses)


def prepared(*courses: TimeCourse) -> OverTime:
    found = prepare_over_time(ProfileSet((network(*courses),)))
    assert found is not None
    return found


def test_states_and_gradients_with_their_fitted_lines() -> None:
    ((states, gates),) = prepared(course()).rows
    assert states is not None
    assert gates is not None
    assert (states.title, states.steps.tolist()) == ("rnn layer 2 reverse · LSTM", [1, 2, 11, 21])
    c, gradient, h, of_h = states.lines
    assert [line.name for line in states.lines] == ["c", "dL/dc", "h", "dL/dh"]
    assert c.values.tolist() == pytest.approx([0.9**step for step in (1, 2, 11, 21)])
    # The states of this record change by one factor, so that the fitted line is the curve itself.
    assert c.fit.tolist() == pytest.approx(c.values.tolist())
    assert gradient.fit.tolist() == pytest.approx([0.5 ** (21 - step) for step in (1, 2, 11, 21)])
    assert np.isnan(h.fit).all()
    assert np.isnan(of_h.values[0])
    notes = {name: label.note for label in states.labels for name in label.names}
    assert notes["c"] == "x0.900 a step"
    assert notes["dL/dc"] == "x0.500 a step back"
    assert [line.name for line in gates.lines] == ["i", "i flat", "f", "f flat", "g", "g flat", "o", "o flat"]


def test_seeds_are_pooled_and_a_network_without_courses_has_no_picture() -> None:
    seeds = ProfileSet((network(course(0)), network(course(1), seed=1)))
    found = prepare_over_time(seeds)
    assert found is not None
    (states, _) = found.rows[0]
    assert states is not None
    assert states.lines[0].values[0] == pytest.approx(0.9 * math.sqrt(2))
    assert prepare_over_time(ProfileSet((network(),))) is None
    assert prepare_over_time(ProfileSet(())) is None
    assert prepare_over_time(ProfileSet((network(TimeCourse("rnn", "GRU", reason="not asked")),))) is None


def test_a_vanished_and_an_overflowed_state_are_said() -> None:
    hidden = StateCourse((1.0, 2.0, math.inf), (0.0, 0.0, 1.0))
    found = prepared(TimeCourse("cell", "RNNCell", length=3, steps=(1, 2, 3), hidden=hidden))
    ((states,),) = found.rows
    assert states is not None
    assert [line.nonfinite for line in states.lines] == [(3,), ()]
    assert [label.note for label in states.labels] == ["", "zero at 2 steps"]
    assert "▲" in found.header.reading
    assert "gate" not in found.header.reading
    with styled():
        (axes,) = draw_over_time(found).axes
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "^"] == [3]


def test_more_courses_than_a_picture_holds_are_counted() -> None:
    found = prepared(*(course(module=f"rnn.{at}") for at in range(COURSES_AT_MOST + 3)))
    assert len(found.rows) == COURSES_AT_MOST
    assert f"the first {COURSES_AT_MOST} of {COURSES_AT_MOST + 3} recurrent layers" in found.header.facts


def test_a_flat_share_is_dotted_in_its_gates_colour() -> None:
    with styled():
        _, gates = draw_over_time(prepared(course())).axes
    drawn = [line for line in gates.lines if len(line.get_xdata()) == 4]
    assert [to_hex(line.get_color()) for line in drawn[::2]] == [to_hex(line.get_color()) for line in drawn[1::2]]
    assert [line.get_linestyle() for line in drawn[:2]] == ["-", "--"]


@pytest.mark.slow
def test_the_gallery_draws_it(tmp_path: Path) -> None:
    paths = draw_all(ProfileSet((network(course()),)), tmp_path, stem="run", only=["over-time"])
    assert [path.name for path in paths] == ["run-over-time.png"]
