"""A run that is killed at any moment, and read by others while it is written."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import warnings
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

from propscope.records import MonitoredRun, NetworkProfile, Site, TensorSummary
from propscope.records.figures import STEP_FIELDS
from propscope.records.monitored import Steps
from propscope.store import FollowedRun, MonitoredFile, compact, load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]


def write(path: Path, samples: int, said: TextIO) -> None:
    """Write a run of so many samples, some 12 kB each, so that many a kill comes while one is written."""
    draw = np.random.default_rng(0)
    file = MonitoredFile(path)
    row = {field.name: "" if field.dtype == "text" else 0 for field in STEP_FIELDS}
    for step in range(samples):
        found = map(TensorSummary.of, draw.standard_normal((100, 64)))
        sites = (Site(f"site.{at}", "Linear", "other", (64,), forward=one) for at, one in enumerate(found))
        profile = NetworkProfile(tuple(sites), (), {"step": step})
        file.add(MonitoredRun((profile,), Steps.of([row | {"number": step}])))
        print(step, file=said, flush=True)
    file.save()


@contextlib.contextmanager
def writing(path: Path, samples: int) -> Iterator[tuple[BaseProcess, TextIO]]:
    """Give a child that writes a run, and what it says: the number of each sample that is in its file.

    It is forked: a process of its own would import for a second before it writes.
    """
    there, here = os.pipe()

    def run() -> None:
        os.close(there)
        with os.fdopen(here, "w") as said:
            write(path, samples, said)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    os.close(here)
    try:
        with os.fdopen(there) as heard:
            yield child, heard
    finally:
        child.kill()
        child.join()


def steps_of(run: object) -> list[object]:
    assert isinstance(run, MonitoredRun)
    found: list[object] = [*run.axes.get("step", ())]
    assert run.steps.number.tolist() == found
    return found


def test_twenty_kills_cost_at_most_the_sample_that_was_being_written(tmp_path: Path) -> None:
    draw = random.Random(0)
    for number in range(20):
        path = tmp_path / str(number) / "run.h5"
        path.parent.mkdir()
        with writing(path, 100_000) as (child, heard):
            taken = -1
            for _ in range(draw.randrange(1, 40)):
                taken = int(heard.readline())
            child.kill()
            # What it said before the kill, and was not read yet.
            taken = max([taken, *map(int, heard.read().split())])
        assert child.exitcode == -signal.SIGKILL
        with pytest.warns(UserWarning, match="unfinished"):
            found = steps_of(load(path))
        assert found == [*range(len(found))]
        assert len(found) in (taken + 1, taken + 2)
        assert compact(path) == path
        assert steps_of(load(path)) == found
        assert [one.name for one in path.parent.iterdir()] == ["run.h5"]


def test_a_run_is_read_by_others_from_its_first_sample_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    followed: list[list[object]] = [[], []]
    loaded, ended = [0], [False, False]
    with writing(path, 60) as (_, heard):
        heard.readline()
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
