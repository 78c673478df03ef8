from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from propscope.plots.scales import Scale, exponents, log_scale, log_window, position_ticks, signed_scale

EVERY_KIND = pytest.mark.parametrize(
    "scale",
    [
        Scale("linear", -2.0, 5.0),
        Scale("log", 1e-6, 1e3),
        Scale("symlog", -3.0, 2e5, linear_below=0.1),
        Scale("asinh", -3.0, 2e5, linear_below=0.1),
    ],
    ids=lambda scale: scale.kind,
)


@EVERY_KIND
def test_a_fraction_is_where_matplotlib_draws_the_value(scale: Scale) -> None:
    axes = scale.apply(Figure().add_axes((0, 0, 1, 1)))
    values = np.array([0.03, 0.1, 0.5, 1.0, 4.9])
    drawn = axes.transAxes.inverted().transform(axes.transData.transform(np.column_stack([values, values])))[:, 1]
    assert scale.fraction(values) == pytest.approx(drawn, abs=1e-9)


@EVERY_KIND
def test_the_values_at_fractions_are_the_way_back(scale: Scale) -> None:
    fractions = np.linspace(0, 1, 21)
    assert scale.fraction(scale.at(fractions)) == pytest.approx(fractions, abs=1e-12)
    assert scale.at([0.0, 1.0]) == pytest.approx([scale.low, scale.high], rel=1e-12)


def test_what_is_off_the_axis_stands_at_its_edge() -> None:
    scale = Scale("log", 1e-3, 1e3)
    np.testing.assert_array_equal(scale.fraction([0.0, 1e-9, 1e9, np.inf, np.nan]), [0, 0, 1, 1, np.nan])


def test_the_window_shows_all_that_fits_and_else_keeps_the_healthy_in_sight() -> None:
    assert log_window([1e-3, 1e4, 0.0, np.inf, np.nan], anchors=[1.0]) == pytest.approx((-3, 4))
    assert log_window([1e-40, 1e38, 0.5], anchors=[0.5, 9.0]) == pytest.approx(
        (math.log10(0.5) - 9, math.log10(0.5) + 5)
    )
    assert log_window([1e-40, 2.0, 0.5], anchors=[0.5]) == pytest.approx((math.log10(2) - 14, math.log10(2)))
    assert log_window([2.0], anchors=[2.0]) == pytest.approx((math.log10(2) - 1, math.log10(2) + 1))
    assert log_window([0.0, np.nan, np.inf], anchors=[0.0]) == (-1, 1)


def test_a_logarithmic_scale_tells_whether_it_hides_something_and_leaves_room_for_intervals() -> None:
    assert not log_scale([1e-3, 1.0], anchors=[1.0]).clipped
    assert log_scale([1e-30, 1.0], anchors=[1.0]).clipped
    tight, roomy = log_scale([1e-3, 1.0], anchors=[1.0]), log_scale([1e-3, 1.0], anchors=[1.0], limits=[2.0, np.nan])
    assert roomy.high > 2.0 > tight.high
    wild = log_scale([1e-3, 1.0], anchors=[1.0], limits=[1e30, 0.0])
    assert 3 < wild.high < 5


@pytest.mark.parametrize("value", [1e300, 1.7e308, 1e-300, 5e-324])
def test_the_ends_of_float64_make_ordinary_axes(value: float) -> None:
    for scale in (log_scale([value, value], anchors=[value]), signed_scale([np.array([value, -value, 0.1])])):
        assert math.isfinite(scale.low)
        assert math.isfinite(scale.high)
        scale.apply(Figure().add_axes((0, 0, 1, 1)))


def test_means_of_one_size_are_drawn_on_a_linear_axis_around_zero() -> None:
    scale = signed_scale([np.array([0.5, 0.6]), np.array([0.1, np.nan])])
    assert scale.kind == "linear"
    assert scale.low < 0 < 0.6 < scale.high
    assert signed_scale([np.zeros(3)]) == signed_scale([]) == Scale("linear", -1.0, 1.0)


def test_a_mean_that_is_small_beside_the_spread_looks_small() -> None:
    scale = signed_scale([np.array([0.001, -0.002])], spread=0.8)
    assert (scale.low, scale.high) == pytest.approx((-0.432, 0.432))


def test_means_decades_apart_are_drawn_on_a_symlog_axis() -> None:
    scale = signed_scale([np.array([0.5, 0.5]), np.array([0.5, 1e30]), np.array([0.4, 0.3])])
    assert (scale.kind, scale.clipped) == ("symlog", True)
    assert scale.linear_below == 0.01
    assert scale.high == pytest.approx(1.5 * 0.5e6)
    assert 0.0 in scale.ticks
    assert len(scale.ticks) <= 8


def test_ticks_are_few_and_round() -> None:
    assert Scale("log", 1e-14, 2.0).ticks == pytest.approx((1e-12, 1e-9, 1e-6, 1e-3, 1.0))
    assert Scale("log", 0.09, 11.0).ticks == pytest.approx((0.1, 0.2, 0.5, 1, 2, 5, 10))
    assert exponents(-3, 3, 7) == [-3, -2, -1, 0, 1, 2, 3]
    assert exponents(0.2, 0.8, 4) == []


@pytest.mark.parametrize(
    ("scale", "texts"),
    [
        (Scale("log", 0.09, 2.1), ["0.1", "0.2", "0.5", "1", "2"]),
        (Scale("log", 90.0, 2100.0), ["100", "200", "500", "1000", "2000"]),
        (Scale("log", 0.0009, 0.025), ["10⁻³", "2·10⁻³", "5·10⁻³", "10⁻²", "2·10⁻²"]),
        (Scale("log", 1e-7, 10.0), ["10⁻⁶", "10⁻⁴", "10⁻²", "1"]),
        (Scale("symlog", -2e-4, 1e5, linear_below=1e-4), ["−10⁻⁴", "0", "10⁻⁴", "1", "10⁴"]),
    ],
)
def test_ticks_in_words(scale: Scale, texts: list[str]) -> None:
    axes = scale.apply(Figure().add_axes((0, 0, 1, 1)))
    assert [text.get_text() for text in axes.get_yticklabels()] == texts


def test_position_ticks_hold_the_first_and_round_numbers() -> None:
    assert position_ticks(1, 1) == [1]
    assert position_ticks(1, 2) == [1, 2]
    assert position_ticks(1, 20) == [1, 5, 10, 15, 20]
    assert position_ticks(4, 59) == [4, 10, 20, 30, 40, 50]
    assert position_ticks(1, 1000) == [1, 200, 400, 600, 800, 1000]
