"""`propscope phase`: a picture under its name, and every refusal before anything is drawn."""

import pytest
from building.command_line import files


@pytest.mark.slow
def test_a_picture_under_a_new_name(command, place):
    assert command.fine("phase", "--act", "tanh").strip() == "outputs/phase-tanh.png"
    assert command.fine("phase", "--act", "tanh", "--init", "critical,zeros").strip() == "outputs/phase-tanh-2.png"
    assert (place / "outputs/phase-tanh.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("act", ["relu", "identity", "gelu", "softplus", "sigmoid", "leaky_relu:negative_slope=0.2"])
def test_every_kind_of_diagram_is_drawn(command, place, act):
    command.fine("phase", "--act", act, "-o", "it.svg")
    assert (place / "it.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_the_axes_that_were_asked_for(command, place):
    ranges = ("--weight-variance", "0.5..2", "--bias-variance", "0..0.1")
    command.fine("phase", "--act", "tanh", *ranges, "--init", "he_normal,normal:std=1", "-o", "it.svg")
    assert files(place).keys() == {"it.svg"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--act", "tnh"], "activation tnh"),
        (["--act", "tanh,relu"], "activation tanh,relu"),
        (["--act", "tanh", "--weight-variance", "4..1"], "--weight-variance 4..1 LOW..HIGH"),
        (["--act", "tanh", "--weight-variance", "1"], "--weight-variance '1'"),
        (["--act", "tanh", "--weight-variance", "a:b"], "--weight-variance a:b"),
        (["--act", "tanh", "--bias-variance", "-1:1"], "--bias-variance -1:1"),
        (["--act", "tanh", "--bias-variance", "nan:1"], "--bias-variance nan:1"),
        (["--act", "tanh", "--bias-variance", "0..inf"], "--bias-variance 0..inf"),
        (["--act", "tanh", "--bias-variance", "1..1"], "--bias-variance 1..1"),
        (["--act", "tanh", "--init", "he"], "initializer he"),
        (["--act", "tanh", "--width", "0"], "width 0"),
        (["--act", "tanh", "-o", "it.gif"], "--output it.gif .png .pdf .svg"),
        (["--act", "torch:cumsum"], "activation torch:cumsum"),
    ],
    ids=str,
)
def test_what_is_refused(command, place, options, message):
    assert not command("phase", *options).missing(message)
    assert files(place) == {}


def test_a_picture_that_exists_is_kept(command, place):
    (place / "it.png").write_text("precious")
    outcome = command("phase", "--act", "relu", "-o", "it.png")
    assert outcome.error == "it.png exists"
    assert "--overwrite" in outcome.hint
    assert (place / "it.png").read_text() == "precious"
    command.fine("phase", "--act", "relu", "-o", "it.png", "--overwrite")
    assert (place / "it.png").read_bytes() != b"precious"
