"""A monitored run in few numbers: its losses, and its sites now with the worst one first."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from building.records import monitored, sampled_at

from propscope.records import Alarm, MonitoredRun
from propscope.records.run_summary import SiteNow, summarize_run, worst_severities

NAN = math.nan


def order(run: MonitoredRun) -> list[str]:
    return [site.name for site in summarize_run(run).sites]


def site(run: MonitoredRun, name: str = "fc.0") -> SiteNow:
    (found,) = (each for each in summarize_run(run).sites if each.name == name)
    return found


def test_steps_samples_and_losses() -> None:
    run = monitored([NAN, 4.0, 1.0, math.inf, 2.0], first=3) + sampled_at([3, 6], sites=1)
    found = summarize_run(run)
    assert (found.steps, found.first_step, found.last_step, found.samples, found.last_sample) == (5, 3, 7, 2, 6)
    assert (found.first_loss, found.last_loss, found.lowest_loss, found.lowest_loss_step) == (4.0, 2.0, 1.0, 5)
    assert found.seconds == pytest.approx(0.5)


def test_a_run_of_nothing() -> None:
    found = summarize_run(MonitoredRun(()))
    assert found == replace(found, sites=())
    assert (found.steps, found.first_step, found.last_sample) == (0, None, None)
    assert math.isnan(found.first_loss)


def test_steps_that_were_taken_again_are_left_out() -> None:
    earlier = monitored([9.0, 0.1, 0.2]) + sampled_at([0, 2], sites=1)
    found = summarize_run(earlier.superseded_from(1) + monitored([5.0, 4.0], first=1))
    assert (found.steps, found.lowest_loss, found.samples) == (3, 4.0, 1)


def test_a_site_is_held_against_its_first_sample() -> None:
    run = sampled_at(
        [0, 10],
        sites=1,
        rms=lambda step, _: 2.0 + step,
        back=lambda step, _: 0.5 * bool(step),
        dead_units=3,
        units=4,
        effective_rank=7.0,
    )
    found = site(run)
    assert (found.forward_rms, found.forward_change) == (12.0, 6.0)
    assert (found.backward_rms, found.backward_change) == (0.5, 1.0)
    assert (found.dead_share, found.effective_rank, found.nonfinite, found.alarm) == (0.75, 7.0, 0, "")
    assert math.isnan(found.largest_logit)


def test_the_last_sample_is_that_of_the_last_step() -> None:
    run = sampled_at([10], sites=1, rms=9.0) + sampled_at([0], sites=1, rms=3.0)
    assert (site(run).forward_rms, site(run).forward_change) == (9.0, 3.0)


def test_a_site_that_ran_no_more_shows_its_last_numbers() -> None:
    run = sampled_at([0, 1], names=["a", "b"], rms=2.0) + sampled_at([2], names=["a"], rms=3.0)
    assert (site(run, "b").forward_rms, site(run, "a").forward_rms) == (2.0, 3.0)


def test_the_worst_site_comes_first() -> None:
    run = sampled_at([0, 1], sites=5, rms=lambda step, place: 1.0 + step * place)
    assert order(run) == ["fc.4", "fc.3", "fc.2", "fc.1", "fc.0"]
    alarms = [Alarm(1, 1, "dead units", "fc.1"), Alarm(1, 1, "collapse", "fc.2", severity="broken")]
    alarmed = sampled_at([0, 1], sites=5, alarms=alarms)
    assert order(alarmed) == ["fc.2", "fc.1", "fc.0", "fc.3", "fc.4"]
    assert [each.alarm for each in summarize_run(alarmed).sites][:3] == ["broken", "strained", ""]
    lost = sampled_at([0, 1], sites=5, rms=lambda step, place: NAN if step and place == 3 else 1.0, alarms=alarms)
    assert order(lost)[0] == "fc.3"
    assert summarize_run(lost).sites[0].nonfinite == 1


def test_gradients_that_fall_together_are_no_fault() -> None:
    falls = [1e-3, 1e-3, 2e-1, 1e-3]
    run = sampled_at([0, 1], sites=4, back=lambda step, place: falls[place] if step else 1.0)
    assert order(run)[0] == "fc.2"


def test_a_signal_that_became_zero_is_as_far_away_as_it_can_be() -> None:
    run = sampled_at([0, 1], sites=3, rms=lambda step, place: [1e9, 0.0, 1.0][place] if step else 1.0)
    assert order(run) == ["fc.1", "fc.0", "fc.2"]


def test_of_several_alarms_about_a_site_the_worst_counts() -> None:
    severities = ("strained", "broken", "strained")
    alarms = [Alarm(step, step, "collapse", "fc.0", severity=each) for step, each in enumerate(severities)]
    assert worst_severities([*alarms, Alarm(3, 3, "loss spike", "")]) == {"fc.0": "broken"}
