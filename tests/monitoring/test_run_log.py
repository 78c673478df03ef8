"""What a run keeps of its samples and steps, in its file and in memory."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest
from building.trainings import training

import propscope
from propscope.monitoring.cadence import Cadence
from propscope.records import MonitoredRun


def full(run: MonitoredRun) -> list[int]:
    """The steps whose samples kept their histograms, of every site and parameter or of none."""
    found = []
    for profile in run:
        summaries = [site.forward for site in profile.sites] + [each.value for each in profile.parameters]
        kept = {summary.histogram is not None for summary in summaries if summary is not None}
        assert len(kept) == 1
        found += [profile.labels["step"]] * kept.pop()
    return found


def test_each_tenth_sample_is_full_and_one_that_was_requested(tmp_path: Path) -> None:
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=2, budget=1.0, file=tmp_path / "run.propscope") as monitor:
        for step in range(24):
            if step in (5, 8):
                monitor.request()
            with monitor.step(step):
                run.update()
                if step == 13:
                    monitor.request()
    found = propscope.load(tmp_path / "run.propscope")
    assert isinstance(found, MonitoredRun)
    steps = [one.labels["step"] for one in found]
    assert steps == [0, 2, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22]
    assert full(found) == [0, 5, 8, 14, 18], "the tenth sample behind the first is that of step 18"
    kept = found.histograms_over_steps("head")
    assert (kept.steps.tolist(), len(kept.histograms)) == ([0, 5, 8, 14, 18], 5)


def test_behind_a_thousand_samples_each_hundredth_is_full() -> None:
    cadence, found = Cadence(1, start=0, stop=None, budget=1.0), []
    for step in range(1500):
        assert cadence.due(step)
        found += [step] * cadence.full
        cadence.end(seconds=1e-6, own=0.0, sampled=True)
    assert found == [*range(0, 1000, 10), *range(1000, 1500, 100)]


@pytest.mark.parametrize("sampled", [True, False])
def test_the_first_sample_at_or_behind_an_alarm_is_full(tmp_path: Path, sampled: bool) -> None:
    run, raised = training(), []
    options = {"every": 1 if sampled else 4, "budget": 1.0, "on_alarm": raised.append}
    with propscope.monitor(run.model, run.optimizer, file=tmp_path / "run.propscope", **options) as monitor:
        for step in range(24):
            with monitor.step(step) as one:
                loss = run.update()
                # Not a number: an alarm of the step, whether it is sampled or not.
                one.loss(loss * float("nan") if step == 17 else loss)
    found = propscope.load(tmp_path / "run.propscope")
    assert isinstance(found, MonitoredRun)
    assert [alarm.step for alarm in raised] == [17]
    steps = [one.labels["step"] for one in found]
    first = min(step for step in steps if step >= 17)
    assert [step for step in full(found) if step > 10 and steps.index(step) % 10] == [first]
    assert sampled == (first == 17)


def test_the_steps_of_a_run_with_a_file_are_in_the_file_alone(tmp_path: Path) -> None:
    run = training()
    monitor = propscope.monitor(run.model, run.optimizer, every=10**6, file=tmp_path / "run.propscope")

    def steps(count: int) -> int:
        for _ in range(count):
            with monitor.step() as one:
                one.loss(1.0)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        # Up to a thousand steps wait to be written.
        before = steps(1001)
        after = steps(4000)
    finally:
        tracemalloc.stop()
    # Each step has more than a hundred bytes.
    assert after - before < 4000 * 20
    assert monitor.steps.number.tolist() == [*range(5001)]
    steps(1500)
    assert len(monitor.steps) == 6501
    monitor.close()
    assert monitor.steps.number.tolist() == [*range(6501)]


def test_the_steps_of_a_run_without_a_file_are_kept(tmp_path: Path) -> None:
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=3, alarms=False) as monitor:
        for _ in range(300):
            with monitor.step():
                run.optimizer.step()
        assert monitor.steps.number.tolist() == [*range(300)]
