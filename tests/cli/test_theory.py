"""`propscope theory`: the figures of THEORY, as tables and as JSON, and every refusal."""

import math

import pytest
from building.command_line import missing, process

OWN = """
import torch
def heavy(x): return torch.exp(x * x)
def softmax(x): return torch.softmax(x, -1)
def root(x): return torch.sqrt(x)
def square(x): return x * x
"""


def test_an_activation_at_its_critical_point(command):
    (gelu,) = command("theory", "--act", "gelu", "--json").document
    assert gelu["gain"] == pytest.approx(1.5335304412)
    assert gelu["torch_gain"] is None
    point = gelu["critical_point"]
    expected = [1.983058257438, 0.172922390756, (3 + math.sqrt(17)) / 2]
    assert [point[name] for name in ("weight_variance", "bias_variance", "q")] == pytest.approx(expected)
    (network,) = gelu["networks"]
    assert network["network"] == "critical"
    # The first layer brings q to the half-stable point, below which there is another.
    below, reached = network["fixed_points"]
    assert [below["reached"], reached["reached"]] == [False, True]
    assert reached["stability"] == "half-stable"
    assert reached["chi_1"] == pytest.approx(1)
    assert reached["depth_scales"]["correlation"] == "inf"


def test_given_variances(command):
    (tanh,) = command("theory", "--act", "tanh", "--weight-variance", 2.5, "--bias-variance", 0.05, "--json").document
    (point,) = tanh["networks"][0]["fixed_points"]
    assert point["q"] == pytest.approx(1.0639583774)
    assert point["chi_1"] == pytest.approx(1.1335156987)
    assert point["depth_scales"]["variance"] == pytest.approx(1.17987, rel=1e-5)
    assert point["depth_scales"]["trainable_depth"] == pytest.approx(6 * point["depth_scales"]["correlation"])
    assert tanh["torch_gain"] == pytest.approx(5 / 3)


def test_a_bias_variance_alone_picks_the_critical_point(command):
    (tanh,) = command("theory", "--act", "tanh", "--bias-variance", 0.05, "--json").document
    assert tanh["networks"][0]["weight_variance"] == pytest.approx(1.7609546396)
    assert tanh["networks"][0]["fixed_points"][0]["q"] == pytest.approx(0.5700478816)


def test_initializers_each_with_its_fixed_points_or_the_reason_why_not(command):
    (selu,) = command(
        "theory", "--act", "selu", "--init", "lecun_normal,zeros,normal:std=0.1,critical", "--json"
    ).document
    lecun, zeros, normal, critical = selu["networks"]
    (reached,) = [point for point in lecun["fixed_points"] if point["reached"]]
    assert [reached[name] for name in ("q", "chi_1", "chi_parallel")] == pytest.approx([1, 1.0715749925, 0.7826478832])
    assert zeros["weight_variance"] is None
    assert zeros["fixed_points"] == []
    assert '"zeros"' in zeros["no_mean_field"]
    assert normal["weight_variance"] == pytest.approx(2.56)
    assert critical["weight_variance"] == pytest.approx(selu["critical_point"]["weight_variance"])
    wide = command("theory", "--act", "selu", "--init", "normal:std=0.1", "--width", 100, "--json").document
    assert wide[0]["networks"][0]["weight_variance"] == pytest.approx(1)


def test_the_tables(command):
    out = command.fine("theory", "--act", "relu,softplus,sigmoid,leaky_relu:negative_slope=0.2,relu")
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith(" ")}
    assert out.count(" relu ") == 2
    assert rows["softplus"].split()[:4] == ["softplus", "1.0418668", "-", "none"]
    assert "softplus has no point with chi_1 = chi_parallel = 1" in out
    assert "without biases" in out
    # sqrt(2 / 1.04), a convention that agrees with the gain.
    assert out.count("1.3867505") == 2
    assert "\ngain: " in out
    assert "Every column: propscope theory --explain" in out
    explained = command.fine("theory", "--act", "relu", "--explain")
    for meaning in ("gain:", "critical:", "q*:", "chi_1:", "chi_par:", "xi_q, xi_c:", "trainable:"):
        assert f"\n{meaning}" in explained
    assert max(map(len, command.fine("theory", "--act", "tanh").splitlines())) < 150


def test_one_activation_shows_every_fixed_point_and_several_what_is_reached(command):
    alone = command.fine("theory", "--act", "gelu", "--weight-variance", 2.3533)
    assert [word in alone for word in ("unstable", "divergence, exp", "decay, exp")] == [True] * 3
    several = command.fine("theory", "--act", "gelu,tanh", "--weight-variance", 2.3533)
    assert "divergence, exp" in several
    assert "decay, exp" not in several
    assert 'mean field does not apply to initializer "ones"' in command.fine(
        "theory", "--act", "tanh", "--init", "ones"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--act", "tnh"], "activation tnh"),
        (["--act", "tanh,"], "'tanh,'"),
        ([], "--act"),
        (["--act", "tanh", "--weight-variance", "-1"], "weight_variance -1 0"),
        (["--act", "tanh", "--weight-variance", "0"], "weight_variance 0"),
        (["--act", "tanh", "--weight-variance", "nan"], "weight_variance nan"),
        (["--act", "tanh", "--weight-variance", "1", "--bias-variance", "-0.1"], "bias_variance -0.1"),
        (["--act", "tanh", "--bias-variance", "inf"], "bias_variance inf"),
        (["--act", "tanh", "--bias-variance", "x"], "--bias-variance"),
        (["--act", "tanh", "--init", "he_normal", "--bias-variance", "1"], "--init variances"),
        (["--act", "tanh", "--init", "he_norml"], "initializer he_norml"),
        (["--act", "tanh", "--width", "0"], "width 0 1"),
        (["--act", "own.py:heavy"], "activation own.py:heavy second moment q 1"),
        (["--act", "own.py:softmax"], "activation own.py:softmax elementwise"),
        (["--act", "own.py:root"], "activation own.py:root NaN -9.3"),
        (["--act", "torch:zeros_like"], "torch:zeros_like 0"),
        (["--act", "torch:sort"], "torch:sort (2 3)"),
    ],
    ids=str,
)
def test_what_is_refused(command, place, options, message):
    (place / "own.py").write_text(OWN)
    assert not command("theory", *options, "--json").missing(message)


def test_a_function_of_the_users_own(command, place):
    (place / "own.py").write_text(OWN)
    # E[z^4] = 3.
    (square,) = command("theory", "--act", "own.py:square", "--json").document
    assert square["gain"] == pytest.approx(1 / math.sqrt(3))


@pytest.mark.slow
def test_in_a_process_of_its_own_it_says_nothing_else():
    done = process("theory", "--act", "numpy:log")
    assert (done.returncode, done.stdout) == (2, "")
    assert not missing(done.stderr, "error: activation numpy:log NaN -9.3")
    assert done.stderr.count("\n") == 2


def test_profile_initializes_at_the_critical_point_or_says_why_not(command):
    out = command.fine(
        "profile",
        "--act",
        "tanh,gelu",
        "--init",
        "critical",
        "--depth",
        3,
        "--width",
        16,
        "--seeds",
        1,
        "--plots",
        "none",
    )
    assert "2 pairs, initializer critical, depth 3" in out
    outcome = command("profile", "--act", "tanh,softplus", "--init", "critical", "--depth", 3, "--width", 16)
    assert outcome.error.startswith('initializer critical with activation "softplus" has no point')
    assert outcome.hint == "leave that pair out"
    error = command("profile", "--act", "tanh", "--init", "critical", "--depth", 0).error
    assert "depth" in error
    assert "0" in error
    error = command("profile", "--init", "critical:bias_variance=-1").error
    assert error.startswith("bias_variance of initializer critical")
    assert "-1" in error
