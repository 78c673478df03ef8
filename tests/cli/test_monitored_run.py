"""What `plot`, `show`, `diagnose` and `check` say of a monitored run, finished or still running."""

import shutil

import numpy as np
import pytest
from building.command_line import files
from building.records import monitored, sampled_at

from propscope.records import Alarm
from propscope.store import MonitoredFile, load
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
    listed = command.fine("plot", run, "--plots", "forward", "--include", "fc.1", "--format", "svg").splitlines()
    text = (place / listed[0]).read_text()
    assert ">fc.1<" in text
    assert ">fc.0<" not in text


def test_a_run_that_goes_on_is_drawn(command, running):
    outcome = command("plot", running, "--plots", "steps")
    assert (outcome.code, outcome.out) == (0, "running-steps.png\n")
    assert "unfinished" in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plots", "curves"], "plot curves overview steps"),
        (["--plots", "some"], "plot some main all none"),
        (["--include", "("], "--include ("),
        (["--include", "nothing"], "nothing"),
    ],
    ids=str,
)
def test_what_is_refused(command, run, place, options, message):
    before = files(place)
    assert not command("plot", run, *options).missing(message)
    assert files(place) == before


def test_a_run_is_shown_on_one_screen(command, run):
    out = command.fine("show", run)
    assert out == str(load(run)) + "\n"
    assert out.startswith("5 steps (0 to 4)")
    assert "! step 2: large update (broken): the optimizer changed fc.1.weight by 0.8." in out


def test_a_run_as_one_document(command, run):
    document = command("show", run, "--json").document
    assert (document["verdict"], document["stage"], document["steps"], document["samples"]) == (
        "broken",
        "training",
        5,
        3,
    )
    assert [alarm["kind"] for alarm in document["alarms"]] == ["large update", "loss spike"]
    assert [site["name"] for site in document["sites"]] == ["fc.0", "fc.1", "fc.2"]
    assert document["findings"][0]["confidence"] is None


def test_one_sample_of_a_run_is_shown_as_a_network(command, run):
    out = command.fine("show", run, "--step", "2")
    assert "step 2: 3 sites, 3 parameters" in out
    assert "judged as an initialization" not in out
    assert len(command("show", run, "--step", "2", "--json").document["sites"]) == 3
    assert [one["labels"] for one in command("show", run, "--step", "0,4", "--json").document] == [
        {"step": 0},
        {"step": 4},
    ]
    refused = command("show", run, "--step", "3")
    assert "there are step 2, 4, 0" in refused.error


def test_a_run_is_diagnosed_by_its_alarms(command, run):
    out = command.fine("diagnose", run)
    assert out.startswith("broken: large update: at step 2: the optimizer changed fc.1.weight by 0.8\n")
    assert out.index("1. large update (broken)") < out.index("2. loss spike (strained)")
    (document,) = command("diagnose", run, "--json").document
    assert [finding["kind"] for finding in document["findings"]] == ["large update", "loss spike"]


def test_a_check_of_a_run_fails_by_its_alarms(command, run, running):
    outcome = command("check", run)
    assert outcome.code == 1
    assert outcome.out.startswith("run.propscope: 5 steps, 3 samples\n")
    assert outcome.out.endswith('failed: 1 finding of severity "broken"\n')
    short = command("check", running)
    assert (short.code, "not measured" in short.out) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose", "--stage", "trained"], "monitored stage"),
        (["diagnose", "--fix"], "monitored run"),
        (["check", "--stage", "initialized"], "monitored stage"),
        (["check", "--baseline", "run.propscope"], "monitored run baseline"),
        (["show", "--step", "x"], "--step"),
        (["show", "--act", "relu"], "activation step"),
    ],
    ids=str,
)
def test_what_makes_no_sense_of_a_run_is_refused(command, run, arguments, message):
    name, *options = arguments
    assert not command(name, run, *options).missing(message)


def test_each_quantity_that_a_run_shows_can_be_read_alone(place, run):
    stored, made = load(run), sampled_at([0, 2, 4], sites=3)
    for quantity in ("units", "dead_units", "forward_rms", "forward_nan_count", "effective_rank", "update_ratio"):
        found, expected = stored.over_steps(quantity), made.over_steps(quantity)
        assert (found.steps.tolist(), found.names) == (expected.steps.tolist(), expected.names)
        assert np.allclose(found.values, expected.values, equal_nan=True)
