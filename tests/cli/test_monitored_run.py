"""What the commands say of a monitored run, finished or still running: `plot`."""

import shutil

import pytest
from building.command_line import files
from building.records import monitored, sampled_at

from propscope.records import Alarm
from propscope.store import MonitoredFile
from propscope.store.journal import journal_name

ALARMS = (
    Alarm(2, 2, "large update", parameter="fc.1.weight", value=0.8, baseline=0.01, severity="broken",
          message="the optimizer changed fc.1.weight by 0.8. Lower the learning rate"),
    Alarm(4, 3, "loss spike", value=9.0, baseline=2.0, message="the loss rose to 9. Look at the data"),
)  # fmt: skip


def written(path, run):
    """Write a run as its monitor does."""
    file = MonitoredFile(path)
    file.add(run)
    file.save()
    return path


@pytest.fixture
def run(place):
    made = monitored([3.0, 2.5, 2.0, 9.0, 9.0], alarms=ALARMS) + sampled_at([0, 2, 4], sites=3)
    return written(place / "run.propscope", made).name


@pytest.fixture
def running(run, place):
    """The same run while it goes on: it has a journal, and no file yet."""
    other = MonitoredFile(place / "other.propscope")
    other.add(monitored([3.0, 2.5], alarms=()) + sampled_at([0], sites=3))
    shutil.copy(journal_name(place / "other.propscope", 1), journal_name(place / "running.propscope", 1))
    other.save()
    return "running.propscope"


@pytest.mark.slow
def test_a_run_is_drawn_beside_its_file(command, run, place):
    listed = command.fine("plot", run).splitlines()
    assert listed[:2] == ["run-overview.png", "run-steps.png"]
    assert {"run-forward.png", "run-backward.png", "run-updates.png", "run-sites.png"} <= set(listed)
    assert all((place / name).read_bytes().startswith(b"\x89PNG") for name in listed)


def test_the_main_plots_of_a_run_or_none_elsewhere(command, run, place):
    assert command.fine("plot", run, "--plots", "none") == ""
    listed = command.fine("plot", run, "--plots", "main", "-o", "pictures", "--format", "svg").splitlines()
    assert listed == ["pictures/run-overview.svg", "pictures/run-steps.svg"]
    assert "step 2: large update at fc.1.weight" in (place / listed[0]).read_text()


def test_chosen_sites_of_a_run(command, run, place):
    listed = command.fine("plot", run, "--only", "forward", "--site", "fc.1", "--format", "svg").splitlines()
    text = (place / listed[0]).read_text()
    assert "<!-- fc.1 -->" in text
    assert "<!-- fc.0 -->" not in text


def test_a_run_that_goes_on_is_drawn(command, running):
    outcome = command("plot", running, "--only", "steps")
    assert (outcome.code, outcome.out) == (0, "running-steps.png\n")
    assert "unfinished" in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "curves"], "plot curves overview steps"),
        (["--only", "steps", "--plots", "main"], "--only --plots"),
        (["--plots", "some"], "--plots main all none some"),
        (["--site", "("], "--site ("),
        (["--site", "nothing"], "nothing"),
    ],
    ids=str,
)
def test_what_is_refused(command, run, place, options, message):
    before = files(place)
    assert not command("plot", run, *options).missing(message)
    assert files(place) == before
