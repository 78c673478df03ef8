"""A run that is killed at any moment, and read by others while it is written."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from propscope.records import MonitoredRun
from propscope.store import FollowedRun, compact, load

# Some 12 kB a sample, so that many a kill comes while one is written.
PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from propscope.records import MonitoredRun, NetworkProfile, Site, TensorSummary
from propscope.records.monitored import Steps
from propscope.records.figures import STEP_FIELDS
from propscope.store import MonitoredFile
random = np.random.default_rng(0)
file = MonitoredFile(Path("run.h5"))
row = {field.name: "" if field.dtype == "text" else 0 for field in STEP_FIELDS}
for step in range(int(sys.argv[1])):
    found = map(TensorSummary.of, random.standard_normal((100, 64)))
    sites = (Site(f"site.{at}", "Linear", "other", (64,), forward=one) for at, one in enumerate(found))
    profile = NetworkProfile(tuple(sites), (), {"step": step})
    file.add(MonitoredRun((profile,), Steps.of([row | {"number": step}])))
    print(step, flush=True)
file.save()
"""


def steps_of(run: object) -> list[object]:
    assert isinstance(run, MonitoredRun)
    found = [*run.axes.get("step", ())]
    assert run.steps.number.tolist() == found
    return found


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_twenty_kills_cost_at_most_the_sample_that_was_being_written(tmp_path: Path) -> None:
    draw, processes = random.Random(0), []
    for number in range(20):
        place = tmp_path / str(number)
        place.mkdir()
        command = [sys.executable, "-c", PROGRAM, "100000"]
        processes.append(subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True))
        if len(processes) < 4 and number < 19:
            continue
        for at, process in enumerate(processes, number + 1 - len(processes)):
            assert process.stdout is not None
            taken = -1
            for _ in range(draw.randrange(1, 40)):
                taken = int(process.stdout.readline())
            process.kill()
            # What it said before the kill, and was not read yet.
            taken = max([taken, *map(int, process.stdout.read().split())])
            process.stdout.close()
            process.wait()
            path = tmp_path / str(at) / "run.h5"
            with pytest.warns(UserWarning, match="unfinished"):
                found = steps_of(load(path))
            assert found == [*range(len(found))]
            assert len(found) in (taken + 1, taken + 2)
            assert compact(path) == path
            assert steps_of(load(path)) == found
            assert [one.name for one in path.parent.iterdir()] == ["run.h5"]
        processes.clear()


@pytest.mark.slow
def test_a_run_is_read_by_others_from_its_first_sample_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    followed: list[list[object]] = [[], []]
    loaded, ended = [0], [False, False]
    command = [sys.executable, "-c", PROGRAM, "60"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with FollowedRun(path) as one, FollowedRun(path) as other, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            while not all(ended):
                for at, run in enumerate((one, other)):
                    added = run.read()
                    followed[at] += steps_of(added.run)
                    ended[at] = added.ended
                found = steps_of(load(path))
                assert found == [*range(len(found))]
                loaded.append(len(found))
    assert followed == [[*range(60)]] * 2
    assert loaded == sorted(loaded)
    assert loaded[-1] == 60
