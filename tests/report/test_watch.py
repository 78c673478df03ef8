"""The view of a run that grows: it fits the terminal, its worst sites come first, and it needs no model."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from building.records import small_monitored
from rich.cells import cell_len

from propscope.records import NetworkProfile, TensorSummary
from propscope.records.monitored import Alarm, MonitoredRun, Steps
from propscope.records.network import Site
from propscope.records.run_summary import summarize_run
from propscope.report.sparkline import trend
from propscope.report.watch import Line, WatchedRun, sample_lines, view


def summary(rms, nans=0):
    return TensorSummary(100, 0.0, rms, -rms, rms, 0.0, nans)


def sites(sample, count):
    """Sites whose rms stays, but for number 3, whose forward rms doubles each sample, and 5, which fades backward."""
    return tuple(
        Site(
            f"blocks.{at}.feed.forward.relu",
            "ReLU",
            "activation",
            (4, 8),
            forward=summary(2.0**sample if at == 3 else 1.0 + at),
            backward=summary(0.2**sample if at == 5 else 0.01),
            units=8,
            dead_units=2,
        )
        for at in range(count)
    )


def run_of(samples, *, count=8, alarms=()):
    rows = [
        {
            "number": step,
            "loss": 3.0 - step / samples,
            "gradient_norm": 0.5,
            "clip_factor": 1.0,
            "loss_scale": math.nan,
            "learning_rate": 0.1,
            "nonfinite_gradients": 0,
            "skipped": 0,
            "superseded": 0,
            "seconds": 0.25,
            "error": "",
            "monitor_share": 0.0134,
            "judged": 1,
        }
        for step in range(samples)
    ]
    profiles = tuple(NetworkProfile(sites(step, count), labels={"step": step}) for step in range(samples))
    return MonitoredRun(profiles, Steps.of(rows), tuple(alarms))


def watched(*runs):
    found = WatchedRun()
    for at, run in enumerate(runs):
        found.add(run, anew=not at)
    return found


def shown(run, **size):
    return view(watched(run), name="run.propscope", state="running", **size)


def rows(lines):
    return [line.text for line in lines if re.match(r"\S+\.\d+\.\S+ ", line.text)]


ALARM = Alarm(9, 7, "collapse", "blocks.6.feed.forward.relu", "", 1.07, 6.22, "broken", "the samples became alike")


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 140, 300])
@pytest.mark.parametrize("height", [1, 5, 10, 24, 60])
def test_it_fits_every_terminal(width, height):
    for run in (run_of(12, count=40, alarms=[ALARM] * 7), run_of(1, count=1), run_of(0), small_monitored()):
        lines = shown(run, width=width, height=height)
        assert len(lines) <= height
        assert max(cell_len(line.text) for line in lines) <= width
        assert all("\n" not in line.text for line in lines)


def test_the_worst_sites_come_first_with_their_course():
    lines = shown(run_of(12), width=100)
    assert [row.split()[0].split(".")[1] for row in rows(lines)[:2]] == ["5", "3"]
    five, three = rows(lines)[:2]
    name, forward, grows, backward, stays, dead, *_ = three.split()
    assert (forward, grows[0], grows[-1], backward) == ("2048", "▁", "█", "0.0100")
    assert set(stays) == {"▅"}
    name, forward, stays, backward, fades, dead, *_ = five.split()
    assert (forward, backward, fades[0], fades[-1]) == ("6.00", "2.0e-8", "█", "▁")
    assert (name[-5:], dead) == (".relu", "25%")
    assert [row.split()[0].split(".")[1] for row in rows(lines)[2:]] == ["0", "1", "2", "4", "6", "7"]


def test_alarms_and_values_that_are_not_finite_come_before_all_others():
    run = run_of(12, alarms=[ALARM, Alarm(10, 10, "dead units", "blocks.0.feed.forward.relu", severity="strained")])
    broken = replace(run.profiles[-1].sites[2], forward=summary(1.0, nans=3))
    last = run.profiles[-1]
    last = replace(last, sites=(*last.sites[:2], broken, *last.sites[3:]))
    lines = shown(MonitoredRun((*run.profiles[:-1], last), run.steps, run.alarms), width=100)
    order = [(line.text.split(".")[1], line.style) for line in lines if line.text.startswith("blocks.")]
    assert order[:4] == [("2", "red"), ("6", "red"), ("0", "yellow"), ("5", "")]
    assert "NaN/Inf" in rows(lines)[0]
    assert sum("NaN/Inf" in line.text for line in lines) == 1


def test_gradients_that_are_not_finite_are_said_and_come_first():
    run = run_of(12, alarms=[ALARM])
    last = run.profiles[-1]
    broken = replace(last.sites[2], backward=summary(0.01, nans=1))
    last = replace(last, sites=(*last.sites[:2], broken, *last.sites[3:]))
    lines = shown(replace(run, profiles=(*run.profiles[:-1], last)), width=100)
    first = next(line for line in lines if "NaN" in line.text)
    name, forward, _, backward, *_ = first.text.split()
    assert (name.split(".")[1], forward, backward, first.style) == ("2", "3.00", "NaN/Inf", "red")
    assert rows(lines)[0] == first.text


def test_the_sites_are_in_the_order_in_which_show_has_them():
    run = run_of(12, alarms=[ALARM])
    silent = replace(run.profiles[-1].sites[4], forward=summary(0.0))
    last = run.profiles[-1]
    last = replace(last, sites=(*last.sites[:4], silent, *last.sites[5:]))
    run = replace(run, profiles=(*run.profiles[:-1], last))
    order = [site.name.split(".")[1] for site in summarize_run(run).sites]
    assert [row.split(".")[1] for row in rows(shown(run, width=100))] == order
    # A signal that became zero is farther away than any other.
    assert order[:3] == ["6", "4", "5"]


def test_the_head_says_how_far_the_run_is():
    lines = [line.text for line in shown(run_of(12, alarms=[ALARM]), width=100)]
    assert lines[0] == "run.propscope   running"
    assert lines[1].startswith("step 11   0.250 s a step   12 samples   monitor 1.3%   1 alarm")
    assert lines[2].split()[:2] == ["loss", "2.08"]
    assert lines[3].split()[:3] == ["gradient", "norm", "0.500"]
    assert lines[-1].startswith(
        "step 9  collapse at blocks.6.feed.forward.relu, since step 7: 1.07, before 6.22; the sa"
    )


def test_alarms_that_were_off_or_of_steps_taken_again_are_told_from_none():
    run = run_of(12, alarms=[ALARM])
    again = replace(run, alarms=(replace(ALARM, superseded=1),))
    off = replace(again, steps=replace(run.steps, judged=0 * run.steps.judged))
    heads = [shown(each)[1].text.split("   ")[-1] for each in (run, again, off)]
    assert heads == ["1 alarm", "no alarm", "no alarms were asked for"]
    assert not any("collapse" in line.text for line in shown(again))
    assert [sum("collapse" in line for line in sample_lines(each)) for each in (run, again)] == [1, 0]


def test_the_first_alarm_stays_and_the_last_ones_follow():
    alarms = [replace(ALARM, step=step, since=step) for step in range(9)]
    lines = [line.text for line in shown(run_of(12, alarms=alarms), width=80)]
    assert [line[:6] for line in lines if " collapse " in line] == ["step 0", "step 6", "step 7", "step 8"]
    lines = [line.text for line in shown(run_of(12, alarms=alarms[:4]), width=80)]
    assert [line[:6] for line in lines if " collapse " in line] == ["step 0", "step 1", "step 2", "step 3"]


def test_as_many_sites_as_fit_are_shown_and_the_others_counted():
    lines = shown(run_of(3, count=40), width=80, height=24)
    assert len(lines) == 24
    said = [line for line in lines if line.text.endswith("more sites")]
    assert said == [Line(f"and {40 - len(rows(lines))} more sites", "dim")]
    assert not [line for line in shown(run_of(3, count=40), height=60) if "more site" in line.text]


def test_names_that_end_alike_are_told_apart_where_they_are_cut():
    names = {row.split()[0] for row in rows(shown(run_of(2), width=60))}
    assert len(names) == 8


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize(
    "names",
    [
        [f"transformer.h.{n}.attn.{part}" for n in range(12) for part in ("c_attn", "c_proj")],
        [f"bert.encoder.layer.{n}.attention.self.{part}" for n in range(12) for part in ("query", "key", "value")],
        [
            f"{end}.block.{n}.layer.0.SelfAttention.{part}"
            for end in ("encoder", "decoder")
            for n in (0, 1)
            for part in "qk"
        ],
        [f"net.long_name_of_a_branch_{n}" for n in range(9)],
    ],
)
def test_no_two_names_read_the_same(names, width):
    run = run_of(2, count=len(names))
    renamed = tuple(
        replace(one, sites=tuple(replace(site, name=name) for site, name in zip(one.sites, names, strict=True)))
        for one in run.profiles
    )
    lines = shown(MonitoredRun(renamed, run.steps, ()), width=width, height=60)
    seen = {line.text.split()[0] for line in lines[-len(names) :]}
    assert len(seen) == len(names), seen


def test_what_was_added_bit_by_bit_is_shown_as_the_whole():
    whole = run_of(12, alarms=[ALARM])
    parts = [
        MonitoredRun(
            whole.profiles[at : at + 3],
            Steps(*(getattr(whole.steps, name)[at : at + 3] for name in Steps.__slots__)),
            whole.alarms if at == 9 else (),
        )
        for at in range(0, 12, 3)
    ]
    size = {"name": "x", "state": "running", "width": 90, "height": 30}
    assert view(watched(*parts), **size) == view(watched(whole), **size)
    again = watched(*parts)
    again.add(whole, anew=True)
    assert view(again, **size) == view(watched(whole), **size)


def test_a_step_that_stands_twice_in_a_merged_run_is_shown_as_it_was_last():
    twice = run_of(3) + run_of(4)
    assert next(line.text for line in shown(twice, width=100) if "blocks.3" in line.text).split()[1] == "8.00"


def test_a_site_that_comes_later_or_stays_away_has_its_own_course():
    early, late = run_of(3, count=2), run_of(5, count=4)
    later = MonitoredRun(late.profiles[3:], no_more(late.steps), ())
    found = watched(early, later)
    assert found.forward.of("blocks.3.feed.forward.relu").tolist()[3:] == [8.0, 16.0]
    assert np.isnan(found.forward.of("blocks.3.feed.forward.relu")[:3]).all()
    text = "\n".join(line.text for line in view(found, name="x", state="running", width=80))
    assert "N" not in text.replace("NaN/Inf", "")


def no_more(steps):
    return Steps(*(getattr(steps, name)[3:] for name in Steps.__slots__))


def test_names_and_messages_of_strangers_write_no_control_characters():
    run = run_of(2, alarms=[replace(ALARM, message="\x1b[2J\n\x07", site="a\x1b")])
    last = run.profiles[-1]
    named = replace(last, sites=(replace(last.sites[0], name="\x1b]0;x\x07" + "y" * 100_000),))
    run = MonitoredRun((named,), run.steps, run.alarms)
    for line in shown(run, width=80):
        assert line.text.isprintable() or line.text == ""
    assert all(line.isprintable() for line in sample_lines(run))


def test_the_lines_of_a_pipe_are_samples_and_alarms_in_the_order_of_their_steps():
    lines = sample_lines(run_of(3, alarms=[replace(ALARM, step=1, since=1)]))
    assert lines == [
        "step 0  loss 3.00  gradient norm 0.500  forward rms 1.00 to 8.00  backward rms 0.0100 to 1.00",
        "step 1  loss 2.67  gradient norm 0.500  forward rms 1.00 to 8.00  backward rms 0.0100 to 0.200",
        "step 1: collapse (broken): the samples became alike",
        "step 2  loss 2.33  gradient norm 0.500  forward rms 1.00 to 8.00  backward rms 0.0100 to 0.0400",
    ]
    assert sample_lines(run_of(0)) == []


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([], 5, ""),
        ([1.0], 5, "▅"),
        ([1.0, 1.01, 0.99], 5, "▅▅▄"),
        ([1.0, 10.0, 100.0], 5, "▁▅█"),
        ([1.0, 10.0, 100.0, 100.0, 100.0, 100.0], 3, "▁██"),
        ([0.0, 1.0, math.nan, math.inf, 4.0], 5, "▁▁N∞█"),
        ([0.0, 0.0], 5, "▁▁"),
        ([-1.0, 0.0, 3.0, 7.0], 5, "▁▂▅█"),
        ([-8.0, -8.1, -8.0], 5, "▅▄▅"),
        ([-math.inf, 1e-300, 1e300], 5, "∞▁█"),
        ([1.0, 2.0], 0, ""),
    ],
)
def test_numbers_over_steps_are_drawn_by_their_logarithm(values, width, drawn):
    assert trend(values, width=width) == drawn
