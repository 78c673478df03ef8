"""Courses over time: which steps they hold, their gains, how they pool, and what of them a file may hold."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from building.records import course, plain
from hypothesis import given
from hypothesis import strategies as st

from propscope.records import TimeCourse
from propscope.records.time_course import (
    STEPS,
    StateCourse,
    course_document,
    course_from_document,
    fit_gain,
    pooled_courses,
    sampled_steps,
)


@given(st.integers(0, 10**6))
def test_steps_are_spread_evenly_with_the_first_and_the_last(length: int) -> None:
    steps = sampled_steps(length)
    assert len(steps) == min(length, STEPS)
    if length:
        assert (steps[0], steps[-1]) == (1, length)
        between = np.diff(steps)
        assert not between.size or between.min() >= max(1, between.max() - 1)


@given(st.floats(-0.5, 0.5), st.integers(3, 16), st.integers(0, 2**32 - 1))
def test_a_gain_is_the_least_squares_slope_of_ln_rms(slope: float, count: int, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, count)
    steps = np.cumsum(np.random.default_rng(seed + 1).integers(1, 5, count))
    fit = fit_gain(steps.tolist(), np.exp(slope * steps + noise).tolist())
    (right, _), (squares,), *_ = np.polyfit(steps, slope * steps + noise, 1, full=True)
    assert fit.gain == pytest.approx(math.exp(right))
    assert fit.residual == pytest.approx(math.sqrt(squares / (count - 2)))


def test_zeros_and_what_is_not_finite_are_left_out_of_a_fit() -> None:
    assert fit_gain([1, 2, 3, 4, 5], [1.0, 2.0, 4.0, 0.0, math.inf]).gain == pytest.approx(2)
    assert math.isnan(fit_gain([1, 2, 3], [1.0, 2.0, math.nan]).gain)
    assert math.isnan(fit_gain([], []).residual)


def test_the_cell_state_carries_the_memory() -> None:
    one = course(forward=0.8, backward=0.5)
    assert one.state is one.cell
    assert (one.forward_gain.gain, one.backward_gain.gain) == (pytest.approx(0.8), pytest.approx(0.5))
    assert one.step_gain == pytest.approx(0.5)
    plain = replace(one, cell=None)
    assert plain.state is one.hidden
    assert plain.step_gain == math.inf
    assert math.isnan(TimeCourse("rnn", "GRU").step_gain)
    vanished = replace(one, cell=StateCourse((1.0,) * 4, step_gains=(0.5, 0.0, math.nan, 0.5)))
    assert vanished.step_gain == 0


def test_a_course_comes_back_from_its_document() -> None:
    for one in (course(), TimeCourse("", "Cell", reason="none")):
        assert course_from_document(json.loads(json.dumps(course_document(one), allow_nan=False))) == one


def _set(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


WRONG = [
    _set("module", value=3),
    _set("reverse", value=1),
    _set("layer", value=-1),
    _set("layer", value=True),
    _set("length", value=2**70),
    _set("length", value=20),
    _set("steps", value=[1, 1, 2, 3]),
    _set("steps", value=[0, 1, 2, 3]),
    _set("steps", value=list(range(1, 18))),
    _set("steps", value="1234"),
    _set("hidden", "forward", value=[1.0]),
    _set("hidden", "forward", 0, value=-1.0),
    _set("hidden", "forward", 0, value="nan"),
    _set("hidden", "forward", 0, value=10**400),
    _set("hidden", "forward", 0, value=True),
    _set("hidden", "more", value=1),
    _set("cell", value=[]),
    _set("gates", 0, "flat", 0, value=1.5),
    _set("gates", value={}),
    _set("weights", 0, "recurrent_gain", value=-0.5),
    _set("weights", 0, "radius", value=-0.5),
    _set("unknown", value=0),
]


@pytest.mark.parametrize("change", WRONG)
def test_what_no_course_can_hold_is_refused(change: Callable[[Any], None]) -> None:
    document = course_document(course())
    change(document)
    with pytest.raises(ValueError, match=r"must be|must have"):
        course_from_document(document)


def test_any_value_in_any_place_is_a_course_or_a_value_error() -> None:
    # Every leaf and branch of a document, replaced by everything that JSON has.
    whole = course_document(course())

    def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [path, *(found for key, part in inside for found in places(part, (*path, key)))]

    for path in places(whole)[1:]:
        for value in (None, True, -1, 10**400, 1e308, "", "inf", [], [[]], {}, {"name": 1}):
            document = copy.deepcopy(whole)
            _set(*path, value=value)(document)
            try:
                found = course_from_document(document)
            except ValueError:
                continue
            # Python 3.13 compares records field by field, and NaN is not NaN.
            assert plain(course_from_document(json.loads(json.dumps(course_document(found))))) == plain(found)
            assert isinstance(found.forward_gain.gain, float)


def test_networks_pool_by_geometric_means_and_gates_by_means() -> None:
    (one,) = pooled_courses([(course(0),), (course(1),)])
    assert one.hidden is not None
    assert one.hidden.forward[0] == pytest.approx(0.9 * math.sqrt(2))
    assert one.gates == course().gates
    assert one.weights[2].radius == pytest.approx(1.25)
    other = replace(course(1), steps=(1, 2, 3, 21))
    assert pooled_courses([(course(0),), (other,)]) == (course(0),)
    assert pooled_courses([(), ()]) == ()
