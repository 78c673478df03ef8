"""What is said of a monitored run first: on one screen of 80 columns, the first alarm in full."""

from __future__ import annotations

import math

from building.records import monitored, sampled_at

from propscope.records import Alarm, MonitoredRun
from propscope.report.display import html_of, text_of
from propscope.report.monitored import ALARMS, SITES

LONG = "blocks.0.attention.scaled_dot_product_attention"
ALARMED = [
    Alarm(20 + at, 19 + at, "attention logits", LONG, value=83.2, baseline=1.76, severity="broken",
          message="the largest logit is 83.2; hardly any gradient passes. " + "Lower the learning rate. " * 6)
    for at in range(9)
]  # fmt: skip


def run(sites: int = 40) -> MonitoredRun:
    return monitored([4.0] * 9 + [1.5] + [3.0] * 20, alarms=ALARMED) + sampled_at(
        range(0, 30, 5),
        names=[LONG, *(f"blocks.{at}.up" for at in range(sites))],
        rms=lambda step, place: 1.0 + step * place,
        dead_units=2,
        largest_logit=83.2,
        effective_rank=3.0,
    )


def test_a_run_fits_on_a_screen() -> None:
    lines = text_of(run()).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 28


def test_what_is_said() -> None:
    text = text_of(run())
    assert text.startswith(
        "30 steps (0 to 29), 0.10 s each; 6 samples, last at step 25\nloss 4.00 to 3.00, lowest 1.50 at step 9"
    )
    assert "! step 20: attention logits (broken, since step 19): the largest logit is" in text
    assert f"the first {ALARMS} of 9 alarms; propscope diagnose RUN explains them" in text
    assert f"the worst {SITES} of 41 sites at step 25; propscope show RUN --step 25 shows all" in text
    assert " ! blocks.0.attention.sca… " in text


def test_sites_are_marked_by_their_worst_alarm() -> None:
    alarms = [Alarm(0, 0, "dead units", "fc.0"), Alarm(0, 0, "collapse", "fc.1", severity="broken")]
    text = text_of(sampled_at([0, 1], sites=3, alarms=alarms))
    assert [line.split()[:2] for line in text.splitlines()[-3:]] == [["!", "fc.1"], ["~", "fc.0"], ["fc.2", "1.00"]]


def test_alarms_that_were_off_or_taken_back_are_told_from_none() -> None:
    assert "no alarm\n" in text_of(monitored([1.0, 2.0])) + "\n"
    assert "no alarms were asked for" in text_of(monitored([1.0, 2.0], judged=0))
    samples = sampled_at([0], sites=2)
    text = text_of(monitored([1.0, 2.0], alarms=[Alarm(1, 1, "collapse", "fc.1")]).superseded_from(1) + samples)
    assert "no alarm\n" in text
    assert "collapse" not in text
    assert "~" not in text


def test_columns_without_numbers_are_left_out() -> None:
    text = text_of(monitored([1.0]) + sampled_at([0], sites=2, back=None, units=None))
    assert "gradient" not in text
    assert "logit" not in text
    assert "2 sites at step 0" in text


def test_a_healthy_run_a_single_alarm_and_nothing() -> None:
    assert text_of(monitored([2.0, 1.0])).splitlines() == [
        "2 steps (0 to 1), 0.10 s each; 0 samples",
        "loss 2.00 to 1.00  █▁",
        "no alarm",
    ]
    alone = text_of(monitored([2.0, 1.0], alarms=[Alarm(1, 1, "loss spike", message="it rose")]))
    assert "step 1: loss spike (strained): it rose" in alone
    assert "baseline" not in alone
    assert text_of(MonitoredRun(())) == "0 steps; 0 samples\nno alarm"


def test_steps_that_were_skipped_taken_again_or_failed_are_counted() -> None:
    first = monitored([1.0, 1.0, 1.0], skipped=[1, 0, 0], error=["", "ValueError: x", ""]).superseded_from(2)
    assert "1 step skipped by the optimizer; 1 step taken again; 1 step raised an error" in text_of(first)


def test_values_that_are_not_finite_are_marked() -> None:
    lost = monitored([1.0, math.inf]) + sampled_at([0, 1], sites=2, rms=lambda step, _: math.nan if step else 1.0)
    text = text_of(lost)
    assert " ∞ fc.0" in text
    assert "∞: some values are NaN or infinite" in text
    assert "loss 1.00 to inf" in text


def test_names_are_shown_without_control_characters_also_in_a_notebook() -> None:
    alarm = Alarm(0, 0, "x\x1b[31m", "a\x1b[31m", message="<b>\x1b[2J")
    made = monitored([1.0], alarms=[alarm, alarm]) + sampled_at([0], names=["a\x1b[31m"])
    assert "\x1b" not in text_of(made)
    assert "<b>" not in html_of(made)


def test_the_course_of_the_loss_is_drawn_where_a_logarithm_can_show_it() -> None:
    lines = text_of(monitored([100.0 / (1 + at) for at in range(500)])).splitlines()
    assert len(lines[1]) == 79
    assert lines[1].endswith("▁")
    assert "loss -1.00 to 1.00" in text_of(monitored([-1.0, 1.0])).splitlines()
    assert "loss 1.00 to 1.00" in text_of(monitored([1.0])).splitlines()
