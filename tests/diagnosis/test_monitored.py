"""A monitored run is judged by its alarms, the first one first, and not by what an initialization must meet."""

from __future__ import annotations

import math

import pytest
from building.records import monitored, network, sampled_at

from propscope import diagnose
from propscope.diagnosis.check import check
from propscope.errors import InputError
from propscope.records import Alarm, MonitoredRun, ProfileSet
from propscope.report.display import text_of

SPIKE = Alarm(4, 3, "loss spike", value=9.0, baseline=2.0, message="the loss rose to 9. Look at the data")
UPDATE = Alarm(
    9, 9, "large update", parameter="fc.weight", value=0.8, baseline=0.01, severity="broken",
    message="the optimizer changed fc.weight by 0.8; the learning rate is too large. Lower it, and go on",
)  # fmt: skip
COLLAPSE = Alarm(9, 7, "collapse", "head", value=1.0, severity="broken", message="alike")


def run(*alarms: Alarm, samples: int = 9) -> MonitoredRun:
    return monitored([1.0] * 10, alarms=alarms) + sampled_at(range(samples), sites=2)


def test_each_alarm_is_a_finding_and_the_first_one_comes_first() -> None:
    found = diagnose(run(UPDATE, COLLAPSE, SPIKE))
    assert [finding.kind for finding in found.findings] == ["loss spike", "large update", "collapse"]
    assert (found.verdict, found.stage, found.expects) == ("broken", "training", {})
    assert found.worst is found.findings[0]
    spike, update, collapse = found.findings
    assert (spike.severity, spike.message, spike.cause) == (
        "strained",
        "at step 4, since step 3: the loss rose to 9",
        "",
    )
    assert update.cause == "the learning rate is too large"
    assert update.remedy is not None
    assert update.remedy.text == "lower it, and go on"
    assert update.evidence == {"value": 0.8, "baseline": 0.01}
    assert math.isnan(update.confidence)
    assert (collapse.sites, collapse.remedy, collapse.evidence) == (("head",), None, {"value": 1.0})


def test_a_run_without_alarms_is_healthy_whatever_its_samples_show() -> None:
    # As an initialization, a signal that vanishes like this is broken.
    vanishing = network([10.0**-n for n in range(12)])
    assert diagnose(vanishing).verdict == "broken"
    found = diagnose(monitored([1.0]) + MonitoredRun((vanishing,) * 9))
    assert (found.verdict, found.findings) == ("healthy", ())
    assert text_of(found) == "healthy: no alarm was raised\njudged by the rules of training"


def test_a_run_whose_alarms_are_off_or_were_taken_back_is_judged_by_what_stands() -> None:
    whole = monitored([1.0] * 10, judged=0) + sampled_at(range(9), sites=2)
    assert diagnose(whole).verdict == "not measured"
    assert "no alarms were asked for: the monitor had alarms=False" in text_of(diagnose(whole))
    assert check(whole, "run").exit_code == 2
    again = run(UPDATE, SPIKE).superseded_from(5)
    assert [finding.kind for finding in diagnose(again).findings] == ["loss spike"]
    assert diagnose(run(UPDATE).superseded_from(5)).verdict == "healthy"


def test_a_run_that_is_too_short_is_not_measured() -> None:
    found = diagnose(run(samples=3))
    assert found.verdict == "not measured"
    assert "a run of 3 samples is too short to judge" in text_of(found)
    assert diagnose(run(samples=4)).verdict == "healthy"
    assert diagnose(run(SPIKE, samples=1)).verdict == "strained"
    assert diagnose(MonitoredRun(())).verdict == "not measured"


def test_a_sample_after_the_first_step_is_judged_as_a_trained_network() -> None:
    samples = sampled_at([0, 200], sites=2)
    assert diagnose(samples.select(step=200)).stage == "trained"
    assert diagnose(samples.select(step=0)).stage != "trained"
    assert diagnose(samples.select(step=200), stage="initialized").stage == "initialized"


def test_a_run_has_no_stage_to_choose() -> None:
    with pytest.raises(InputError, match="a monitored run is judged by its alarms"):
        diagnose(run(), stage="trained")


def test_what_is_printed_says_step_cause_and_change_of_the_first_alarms() -> None:
    text = text_of(diagnose(run(*[UPDATE] * 8)))
    assert text.startswith("broken: large update: at step 9: the optimizer changed fc.weight by 0.8")
    assert "  why        the learning rate is too large" in text
    assert "  change     lower it, and go on" in text
    assert "confidence" not in text
    assert "6. large update (broken)" in text
    assert "2 later alarms; --json lists all" in text


@pytest.mark.parametrize(("alarms", "code"), [((), 0), ((SPIKE,), 0), ((SPIKE, COLLAPSE), 1)])
def test_a_check_fails_by_an_alarm_that_is_broken(alarms: tuple[Alarm, ...], code: int) -> None:
    outcome = check(run(*alarms), "run")
    assert (outcome.exit_code, outcome.networks, outcome.axes) == (code, 1, ())
    assert check(run(*alarms), "run", fail_on="strained").exit_code == bool(alarms)
    assert check(run(samples=1), "run").exit_code == 2


def test_a_run_cannot_be_compared_with_a_baseline() -> None:
    one = ProfileSet((network([1.0, 1.0]),))
    for profiles, baseline in ((run(), run()), (run(), one), (one, run())):
        with pytest.raises(InputError, match="a monitored run cannot be compared with a baseline"):
            check(profiles, "run", baseline=baseline)
