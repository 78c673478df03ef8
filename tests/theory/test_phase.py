import numpy as np
import pytest

from propscope.errors import InputError
from propscope.theory import MeanField, critical_line, phase_diagram


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "selu", "gelu", "hardtanh", "relu"])
def test_each_point_is_what_the_mean_field_says(name):
    weights, biases = np.array([0.4, 1.0, 1.7, 2.4, 3.6]), np.array([0.0, 0.04, 0.6])
    diagram = phase_diagram(name, weight_variance=weights, bias_variance=biases)
    assert diagram.q.shape == diagram.chi.shape == diagram.correlation_depth.shape == diagram.phase.shape == (3, 5)
    for row, bias in enumerate(biases):
        for column, weight in enumerate(weights):
            field = MeanField(name, weight_variance=weight, bias_variance=bias)
            point, scales = field.fixed_point(), field.depth_scales()
            assert diagram.q[row, column] == pytest.approx(point.q, rel=1e-9), (weight, bias)
            assert diagram.chi[row, column] == pytest.approx(point.chi, rel=2e-7), (weight, bias)
            if 0 < point.q < np.inf:
                assert diagram.correlation_depth[row, column] == pytest.approx(scales.correlation, rel=1e-6)
                assert diagram.phase[row, column] == scales.phase
            else:
                assert diagram.correlation_depth[row, column] == np.inf


def test_the_critical_line_parts_the_phases():
    weights = np.linspace(1.02, 3, 60)
    line = critical_line("tanh", np.linspace(0.01, 3, 400))
    diagram = phase_diagram("tanh", weight_variance=weights, bias_variance=np.linspace(0.002, 0.6, 50))
    critical = np.interp(weights, line.weight_variance, line.bias_variance)
    above = diagram.bias_variance[:, None] > critical + 1e-4
    below = diagram.bias_variance[:, None] < critical - 1e-4
    assert (diagram.phase[above] == "ordered").all()
    assert (diagram.phase[below] == "chaotic").all()
    assert above.any()
    assert below.any()


def test_the_start_chooses_among_fixed_points():
    points = {"weight_variance": [2.3517], "bias_variance": [0.0]}
    assert phase_diagram("gelu", **points, q0=0.9).q[0, 0] == 0
    assert phase_diagram("gelu", **points, q0=1.1).q[0, 0] == np.inf


@pytest.mark.parametrize(
    "weights, biases, message",
    [
        ([1, -1], [0], "weight_variance must .* got -1"),
        ([1, 0], [0], "weight_variance must .* got 0"),
        ([1], [np.nan], "bias_variance must .* got nan"),
        ([], [0], "must be one or more numbers"),
        ([[1.0]], [0], "must be one or more numbers"),
        (["x"], [0], "weight_variance must"),
        (np.ones(10**5), np.ones(10**5), r"a diagram of 100000 x 100000 points needs 10,240\.0 GB"),
    ],
)
def test_planes_that_are_none(weights, biases, message):
    with pytest.raises(InputError, match=message):
        phase_diagram("tanh", weight_variance=weights, bias_variance=biases)
