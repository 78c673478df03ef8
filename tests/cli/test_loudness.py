"""-q and -v mean the same in every command: less on stdout, more on stderr."""

import re

import pytest
from building.command_line import RIGHT
from building.records import monitored, sampled_at

from propscope.records import Alarm
from propscope.store import MonitoredFile

ALARM = Alarm(2, 2, "loss spike", value=9.0, baseline=2.0, message="the loss rose to 9. Look at the data")

# The whole of stdout of a quiet command, where it is not one path.
VERDICTS = {
    "inspect": r"healthy: .+",
    "check": r"passed: healthy.*",
    "compare": r"the same.*",
    "diagnose": r"4 networks: .+",
    "width-check": r".+",
    "control": r"",
    "watch": r"step 2: loss spike .+",
}
PATHS = {"profile", "train", "plot", "report", "phase", "merge", "compact"}
TABLES = {"show", "theory", "list", "example"}


@pytest.fixture
def surroundings(run_file, place, request):
    (place / "net.py").write_text(
        "import torch\nbuild = lambda size=8: torch.nn.Linear(4, int(size))\n"
        "widening = lambda width: torch.nn.Linear(4, width)\n"
    )
    file = MonitoredFile(place / "net.h5")
    file.add(monitored([3.0, 2.5, 2.0], alarms=(ALARM,)) + sampled_at([0, 2], sites=3))
    # Only a run that goes on can be controlled, and only one that does not can be completed.
    going_on = file if "control" in request.node.name else None
    del file
    yield place
    del going_on


def test_every_command_is_tried():
    assert RIGHT.keys() == VERDICTS.keys() | PATHS | TABLES


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_quiet_command_says_what_was_asked_for(command, surroundings, name):
    line = RIGHT[name]
    outcome = command(name, *line, "-q")
    assert outcome.code == 0, outcome
    assert outcome.err == ""
    said = outcome.out.splitlines()
    if name in PATHS:
        (path,) = said
        assert (surroundings / path).is_file()
    elif name in VERDICTS:
        assert re.fullmatch(VERDICTS[name], "\n".join(said)), said
    else:
        again = [] if name in ("profile", "train") else command(name, *line).out.splitlines()
        assert set(said) <= set(again)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_verbose_command_says_what_it_does_on_stderr(command, surroundings, name):
    outcome = command(name, *RIGHT[name], "-v")
    assert outcome.code == 0, outcome
    said = outcome.err.splitlines()
    assert re.fullmatch(rf"\[ *\d+\.\d\d s\] {name} in .+", said[0])
    assert re.search(r"propscope \S+, python \S+, torch \S+, numpy", said[1])
    assert re.fullmatch(r"\[ *\d+\.\d\d s\] finished", said[-1])
    assert "s] " not in outcome.out


def test_an_error_is_told_in_full_when_asked(command, place):
    plain, full = command("show", "missing.h5"), command("show", "missing.h5", "-v")
    assert (plain.code, full.code) == (2, 2)
    assert "Traceback" not in plain.err
    assert "FileNotFoundError" in full.err
    assert full.err.endswith(plain.err)
    # The next command says as little as usual.
    assert command("show", "missing.h5").err == plain.err


def test_a_quiet_command_says_its_errors(command, place):
    assert command("show", "missing.h5", "-q").err == command("show", "missing.h5").err


def test_a_failed_check_is_its_last_line(command, run_file):
    outcome = command("check", run_file, "-q")
    assert outcome.code == 1
    assert re.fullmatch(r'failed: \d+ findings? of severity "broken"\n', outcome.out)


def test_only_alarms_of_a_run_are_said(command, surroundings):
    assert command("watch", "net.h5", "--once", "-q").out.startswith("step 2: loss spike")


def test_quiet_tables_have_no_notes(command, run_file):
    table = command.fine("show", run_file, "-q")
    assert "he_normal" in table
    assert len(table) < len(command.fine("show", run_file))
