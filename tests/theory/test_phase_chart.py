import numpy as np
import pytest

from propscope.errors import InputError
from propscope.theory.phase import phase_chart


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "right", "critical"),
    [("tanh", 3, (1, 0)), ("relu", 4, (2, 0)), ("identity", 3, (1, 0)), ("gelu", 4, (1.983058257438, 0.172922390756))],
)
def test_the_axes_hold_the_critical_point(activation, right, critical):
    found = phase_chart(activation)
    assert found.weight_limits == pytest.approx((0, right))
    assert (found.critical.weight_variance, found.critical.bias_variance) == pytest.approx(critical)
    assert found.bias_limits[0] == 0
    assert found.bias_limits[1] > critical[1]
    assert found.no_line == ""


def test_the_line_parts_order_from_chaos():
    found = phase_chart("tanh", weight_variance=(0.5, 3.0), bias_variance=(0.0, 0.3))
    where = np.interp(found.bias_variance, found.line_bias, found.line_weight)
    assert ((found.chi > 1) == (found.weight_variance > where[:, None])).mean() > 0.995
    # THEORY's point lies on it.
    assert np.interp(0.05, found.line_bias, found.line_weight) == pytest.approx(1.7609546396, rel=1e-4)
    assert found.line_stable.all()
    assert found.weight_limits == pytest.approx((0.5, 3.0))


@pytest.mark.slow
def test_gelus_line_holds_only_above_its_half_stable_point():
    found = phase_chart("gelu", weight_variance=(1.0, 3.0))
    assert not found.line_stable[found.line_bias < 0.17].any()
    assert found.line_stable[(found.line_bias > 0.18) & (found.line_bias < 1)].all()


def test_without_a_critical_line():
    found = phase_chart("softplus")
    assert found.critical is None
    assert found.line_weight.size == 0
    assert found.no_line.startswith("chi_1 = 1 needs a negative bias variance")


def test_initializers_stand_where_they_fill_or_have_a_reason():
    names = ("normal:std=0.1", "kaiming_normal", "he_normal", "zeros", "critical:bias_variance=0.05")
    found = phase_chart("tanh", initializers=names, width=100)
    places = {one.name: (one.weight_variance, one.bias_variance) for one in found.initializers}
    assert list(places) == ["normal:std=0.1", "he_normal", "critical:bias_variance=0.05"]
    assert places["normal:std=0.1"] == pytest.approx((1, 0))
    assert places["critical:bias_variance=0.05"] == pytest.approx((1.7609546396, 0.05))
    assert found.without_point == (
        ("zeros", "every weight has the same value, so the units of a layer are copies of one another"),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_variance": (2, 1)}, "weight_variance must .* got 2:1"),
        ({"bias_variance": (-1, 1)}, "bias_variance must .* got -1"),
        ({"weight_variance": (0, float("inf"))}, "weight_variance must .* got inf"),
        ({"width": 0}, "width must .* got 0"),
        ({"initializers": ["he"]}, "unknown initializer"),
    ],
    ids=str,
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        phase_chart("tanh", **options)
