"""`propscope plot`: which pictures go where, and what is refused before any is drawn."""

import pytest
from building.command_line import files


@pytest.mark.slow
def test_the_pictures_of_a_file(command, run_file, place, mlp_plots):
    listed = command.fine("plot", run_file, "--act", "relu").splitlines()
    assert listed == [f"run-{name}.png" for name in mlp_plots]
    assert set(files(place)) == {"run.h5", *listed}
    assert all((place / name).read_bytes().startswith(b"\x89PNG") for name in listed)


@pytest.mark.slow
def test_some_of_them_in_other_formats_elsewhere(command, run_file, place):
    out = command.fine("plot", run_file, "--plots", "overview, curves", "--format", "svg,pdf", "-o", "pictures/new")
    assert sorted(out.split()) == sorted(
        f"pictures/new/run-{name}.{ending}" for name in ("curves", "overview") for ending in ("svg", "pdf")
    )
    assert (place / "pictures/new/run-curves.svg").read_text().startswith("<?xml")


def test_pictures_that_exist_are_kept(command, run_file, place):
    (place / "run-overview.png").write_text("precious")
    before = files(place)
    outcome = command("plot", run_file, "--plots", "overview")
    assert outcome.error == "run-overview.png exists"
    assert "--overwrite" in outcome.hint
    assert files(place) == before
    command.fine("plot", run_file, "--plots", "overview", "--overwrite")
    assert (place / "run-overview.png").read_bytes() != b"precious"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plots", "curvs"], "plot curvs curves activations"),
        (["--plots", ""], "plot ''"),
        (["--format", "gif"], "format gif png pdf svg"),
        (["--act", "elu"], "activation elu relu tanh"),
        (["-o", "run.h5/sub"], "run.h5/sub"),
    ],
    ids=str,
)
def test_what_is_refused(command, run_file, place, options, message):
    before = files(place)
    assert not command("plot", run_file, *options).missing(message)
    assert files(place) == before
