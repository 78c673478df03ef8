"""A place of its own for each test, and a small result file to read."""

import math
import os
import sys
from pathlib import Path

import pytest
from building.command_line import Command
from building.records import grid, monitored, sampled_at

from propscope.experiments import profile_mlp
from propscope.plots import PLOTS
from propscope.records import Alarm
from propscope.store import MonitoredFile, save


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory of the test, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(capsys, place, monkeypatch):
    """Run a command line in this process, in a working directory of its own; it says nothing of its progress."""
    monkeypatch.setattr("propscope.cli.progress.EVERY", math.inf)
    yield Command(capsys)
    # The next test may have another module of the same name.
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{place}{os.sep}"):
            del sys.modules[name]


@pytest.fixture
def monitored_file(place):
    """net.h5, a monitored run that was stopped before its end, with one alarm."""
    alarm = Alarm(2, 2, "loss spike", value=9.0, baseline=2.0, message="the loss rose to 9. Look at the data")
    file = MonitoredFile(place / "net.h5")
    file.add(monitored([3.0, 2.5, 2.0], alarms=(alarm,)) + sampled_at([0, 2], sites=3))
    # What writes it is gone.
    del file
    return Path("net.h5")


@pytest.fixture(scope="session")
def mlp_plots():
    """The names of the plots that show what `profile` records of MLPs."""
    profiles = grid(("he_normal",), depths=(2,), seeds=2, width=8, batch=4)
    return tuple(plot.name for plot in PLOTS if plot.prepare(profiles) is not None)


@pytest.fixture(scope="session")
def _written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "run.h5"
    pairs = {"activation": ["relu", "tanh"], "initializer": ["he_normal", "zeros"]}
    save(path, profile_mlp(3, 8, **pairs, seeds=2, batch=8, histogram_limit=64))
    return path.read_bytes()


@pytest.fixture
def run_file(place, _written):
    """A result file of two activations by two initializers by two seeds, depth 3, width 8, batch 8."""
    path = Path("run.h5")
    path.write_bytes(_written)
    return path
