"""The rule that tells how a training went, on curves made by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propscope.errors import InputError
from propscope.records.stability import stability_of

CURVES = {
    "falls": ([2.3, 1.0, 0.5, 0.3, 0.2, 0.1], "converged"),
    "still falling": ([2.3, 2.2, 2.0, 1.8, 1.6, 1.4], "converged"),
    "falls, with the noise of batches": ([2.3, 1.0, 0.40, 0.45, 0.38, 0.43, 0.36, 0.41], "converged"),
    "one bump that it recovers from": ([2.3, 1.0, 0.5, 0.3, 0.9, 0.3, 0.2, 0.2], "converged"),
    "stays": ([2.3] * 6, "stalled"),
    "starts far above a constant and gets to it": ([40.0, 2.5, 2.32, 2.31, 2.3, 2.3], "stalled"),
    "gains too little": ([2.3, 2.25, 2.2, 2.2, 2.15, 2.12], "stalled"),
    "up and down": ([2.3, 1.0, 2.0, 0.5, 1.5, 0.4, 1.6, 0.5], "oscillating"),
    "in two steps up each": ([2.3, 0.4, 0.4, 0.4, 0.7, 1.0, 0.4, 0.7, 1.0, 0.4], "oscillating"),
    "comes back up at the end": ([2.3, 1.0, 0.4, 0.3, 0.2, 0.6], "oscillating"),
    "NaN": ([2.3, 1.0, math.nan, math.nan], "diverged"),
    "Inf": ([2.3, math.inf, 1.0, 0.5], "diverged"),
    "ends far above its start": ([2.3, 9.0, 9.5, 9.0, 8.0], "diverged"),
    "a spike early on": ([2.3, 60.0, 1.0, 0.5, 0.4, 0.3, 0.3], "converged"),
    "one epoch": ([2.3, 1.0], "converged"),
    "no epoch": ([2.3], "stalled"),
    "nothing to learn": ([0.0, 0.0, 0.0], "converged"),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_by_hand(name):
    loss, expected = CURVES[name]
    assert stability_of(loss, constant_loss=0.0 if name == "nothing to learn" else 2.3) == expected


def test_without_a_constant_the_start_stands_in_for_it():
    assert stability_of([40.0, 2.5, 2.3, 2.3]) == "converged"
    assert stability_of([2.3, 2.3, 2.2, 2.2]) == "stalled"
    assert stability_of([2.3, 2.3, 2.2, 2.2], constant_loss=math.nan) == "stalled"


def test_a_step_that_diverged_is_enough():
    assert stability_of([2.3, 1.0, 0.5], diverged_at=3) == "diverged"


@given(
    # A power of two times a number is exact, save below the normal ones.
    st.lists(st.just(0.0) | st.floats(1e-290, 100), min_size=1, max_size=12),
    st.floats(0.01, 10) | st.none(),
    st.integers(-40, 40),
)
def test_other_units_of_loss_change_nothing(loss, constant, power):
    scale = 2.0**power
    scaled = None if constant is None else constant * scale
    expected = stability_of(loss, constant_loss=constant)
    assert stability_of(np.array(loss) * scale, constant_loss=scaled) == expected


@pytest.mark.parametrize("loss", [[], [[1.0, 0.5]], 1.0])
def test_what_is_no_curve_is_refused(loss):
    with pytest.raises(InputError, match=r"train_loss must have shape \(epochs \+ 1,\), got"):
        stability_of(loss)
