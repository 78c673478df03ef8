"""Every sink gets the numbers and the alarms of a run in its order, and none disturbs the run or another one."""

import logging
import math
import threading
from dataclasses import replace

import pytest
import torch
from building.trainings import MODELS, steps_of, training

import propscope
from propscope.monitoring.sinks import Delivery, Sink, delivery, series_of
from propscope.records.monitored import Alarm

ROW = {"loss": 2.0, "loss_given": True, "gradient_norm": 0.5, "clip_factor": 1.0, "learning_rate": 0.1}
ROW["loss_scale"] = math.nan


class Kept:
    """A sink of the user's own that keeps what it gets."""

    def __init__(self, sites="worst"):
        self.sites = sites
        self.got = []

    def write(self, step, values):
        self.got.append((step, values))

    def alarm(self, alarm):
        self.got.append(alarm)

    def close(self):
        self.got.append("closed")

    def resume(self, step):
        self.got.append(("resume", step))


class Bare:
    """A sink with nothing but what every sink needs."""

    def __init__(self):
        self.steps = []

    def write(self, step, values):
        self.steps.append(step)

    def alarm(self, alarm):
        self.steps.append(alarm.kind)


class Failing(Kept):
    """A sink that takes nothing."""

    def write(self, step, values):
        super().write(step, values)
        values.clear()
        raise OSError("No space left on device")

    def alarm(self, alarm):
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", MODELS)
def test_a_sink_gets_some_ten_numbers_a_sample_always_under_the_same_keys(name):
    run, sink = training(name), Kept()
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=[sink]) as monitor:
        steps_of(run, monitor, 5)
        last = monitor.profile
    *written, closed = sink.got
    assert closed == "closed"
    assert [step for step, _ in written] == [0, 2, 4]
    (keys,) = {tuple(values) for _, values in written}
    assert 10 <= len(keys) <= 16
    values = written[-1][1]
    assert values["loss"] == monitor.steps.loss[4]
    assert values["gradient_norm"] == monitor.steps.gradient_norm[4]
    assert values["learning_rate"] == 1e-2
    inner = last.without_inputs.sites
    assert values["activation/max_rms"] == max(site.forward.rms for site in inner)
    assert values["activation/min_rms"] == min(site.forward.rms for site in inner)
    assert values["gradient/max_rms"] == max(site.backward.rms for site in inner if site.backward is not None)
    ratios = [one.update_ratio for one in last.parameters if one.update_ratio is not None and one.value.count >= 8]
    assert values["update_ratio/max"] == max(ratios)
    assert values["activation/head/effective_rank"] == last["head"].effective_rank
    logits = [site.largest_logit for site in inner if site.largest_logit is not None]
    assert values.get("attention/largest_logit") == (max(logits) if logits else None)


def test_the_numbers_of_every_site_and_parameter_are_there_on_request():
    run, sink, other = training(), Kept("all"), Kept()
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=[sink, other]) as monitor:
        steps_of(run, monitor, 1)
        sample = monitor.profile
    (_, values), (_, fewer) = sink.got[0], other.got[0]
    assert {key: values[key] for key in fewer} == fewer
    for site in sample.without_inputs.sites:
        assert values[f"activation/{site.name}/rms"] == site.forward.rms
        assert values.get(f"gradient/{site.name}/rms") == (None if site.backward is None else site.backward.rms)
    attention = "blocks.1.scaled_dot_product_attention"
    assert values[f"attention/{attention}/entropy"] == sample[attention].attention_entropy
    for one in sample.parameters:
        assert values[f"weight/{one.name}/norm"] == one.value_norm
        assert values[f"gradient/{one.name}/norm"] == one.step_gradient_norm
        assert values.get(f"update_ratio/{one.name}") == one.update_ratio
    assert not [key for key in values if key.startswith("activation/input/")]
    # No key is a folder of another one, as MLflow keeps them.
    assert not [key for key in values if any(other.startswith(f"{key}/") for other in values)]


def test_a_site_without_a_finite_element_does_not_hide_the_others():
    run = training("resnet")
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor, monitor.step(0):
        run.update()
    first, *rest = monitor.profile.without_inputs.sites
    lost = replace(first, forward=replace(first.forward, mean=math.nan, std=math.nan))
    for sites in ((lost, *rest), (*rest, lost)):
        found = series_of(replace(monitor.profile, sites=sites), ROW, "worst")
        assert found["activation/max_rms"] == max(site.forward.rms for site in rest)


def test_a_number_that_was_not_seen_is_left_out_and_one_that_is_not_finite_stays():
    run = training("resnet")
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor, monitor.step(0):
        run.model(run.batch())
        sample = monitor.profile
    sample = monitor.profile
    row = ROW | {"loss": math.nan, "gradient_norm": math.inf, "clip_factor": math.nan}
    found = series_of(sample, row, "worst")
    assert math.isnan(found["loss"])
    assert found["gradient_norm"] == math.inf
    assert "clip_factor" not in found
    assert "loss" not in series_of(sample, row | {"loss_given": False}, "worst")
    assert not [key for key in found if key.startswith(("gradient/", "update_ratio/"))]


def test_alarms_come_in_the_order_of_the_run_and_before_the_callback_that_may_stop_it():
    run, sink = training(), Kept()

    def stop(alarm):
        raise KeyboardInterrupt

    monitor = propscope.monitor(run.model, run.optimizer, every=1, sinks=[sink], on_alarm=stop)
    with pytest.raises(KeyboardInterrupt):
        steps_of(run, monitor, 3, broken=[1])
    monitor.close()
    steps = [one.step if isinstance(one, Alarm) else one[0] for one in sink.got[:-1]]
    # On the CPU, a gradient is judged before the optimizer steps with it.
    assert steps == [0, 1, 1]
    assert sink.got[1] == monitor.alarms[0]
    assert sink.got[-1] == "closed"


def test_a_sink_needs_nothing_but_write_and_alarm():
    run, sink = training(), Bare()
    assert isinstance(sink, Sink)
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=sink) as monitor:
        monitor.load_state_dict(monitor.state_dict())
        steps_of(run, monitor, 2, broken=[1])
    assert sink.steps == [0, "non-finite gradient", 1]


def test_a_sink_that_fails_is_said_once_and_the_run_and_the_others_go_on(caplog):
    run, alone, failing, sink = training(), training(), Failing(), Kept()
    steps_of(alone, propscope.monitor(alone.model, alone.optimizer, alarms=False), 4, broken=[3])
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=[failing, sink]) as monitor:
        steps_of(run, monitor, 4, broken=[3])
    said = [record.message for record in caplog.records if "sink" in record.message]
    assert said == ["the sink Failing failed: OSError: No space left on device; the run goes on"]
    *got, closed = sink.got
    samples = [one for one in got if not isinstance(one, Alarm)]
    assert [step for step, _ in samples] == [0, 1, 2, 3]
    assert all(values for _, values in samples)
    assert tuple(one for one in got if isinstance(one, Alarm)) == monitor.alarms
    assert closed == "closed"
    # What comes later is offered again: a disk may have room then, a server be back.
    assert [step for step, _ in failing.got[:-1]] == [0, 1, 2, 3]
    assert failing.got[-1] == "closed"
    for one, other in zip(run.state(), alone.state(), strict=True):
        assert (one is None and other is None) or torch.equal(one.nan_to_num(), other.nan_to_num())


class Slow(Bare):
    """A sink that takes nothing until it may."""

    def __init__(self):
        super().__init__()
        self.may, self.begun = threading.Event(), threading.Event()

    def write(self, step, values):
        self.begun.set()
        self.may.wait()
        super().write(step, values)


def test_no_step_waits_for_a_sink_that_is_slow_and_what_it_cannot_take_is_left_out(caplog, monkeypatch):
    monkeypatch.setattr(delivery, "_WAITING", 2)
    run, slow, sink = training("lstm"), Slow(), Kept()
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=[slow, sink]) as monitor:
        steps_of(run, monitor, 1)
        slow.begun.wait()
        for step in range(1, 6):
            with monitor.step(step):
                run.update()
            # The other one has time for each.
            while len(sink.got) <= step:
                pass
        assert slow.steps == []
        slow.may.set()
    assert slow.steps == [0, 1, 2]
    assert [step for step, _ in sink.got[:-1]] == [0, 1, 2, 3, 4, 5]
    assert [record.message for record in caplog.records] == [
        "the sink Slow is too slow; what it cannot take is left out; the run goes on"
    ]


def test_a_sink_that_does_not_end_is_left_behind(caplog, monkeypatch):
    monkeypatch.setattr(delivery, "PATIENCE", 0.0)
    run, slow = training("lstm"), Slow()
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=[slow]) as monitor:
        steps_of(run, monitor, 2)
        slow.begun.wait()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("the sink Slow did not end within 0 s; ")
    slow.may.set()


def test_what_sinks_compute_counts_in_the_budget_and_what_they_wait_does_not():
    class Busy(Bare):
        def write(self, step, values):
            while sum(range(1000)) and threading.current_thread() and clock() < self.until:
                pass

    from time import thread_time as clock

    busy, told = Busy(), []
    busy.until = 0.05
    one = Delivery({"busy": busy, "slow": (slow := Slow())}, lambda *said: told.append(said))
    run = training("lstm")
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor, monitor.step(0):
        run.update()
    one.write(0, monitor.profile, ROW)
    slow.begun.wait()
    slow.may.set()
    one.close()
    spent = one.spent()
    assert spent >= 0.05
    assert one.spent() == 0.0
    assert told == []
    cadence = monitor._cadence
    before = cadence.cost, cadence._sampling
    cadence.charge(spent)
    assert (cadence.cost, cadence._sampling) == (before[0] + spent, before[1] + spent)


def test_a_monitor_charges_its_cadence_with_what_its_sinks_computed(monkeypatch):
    charged = []
    monkeypatch.setattr("propscope.monitoring.cadence.Cadence.charge", lambda self, seconds: charged.append(seconds))
    run = training("lstm")
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=[Kept()]) as monitor:
        steps_of(run, monitor, 3)
    assert sum(charged) > 0


def test_a_state_of_before_the_first_step_resumes_nothing(tmp_path):
    run = training("lstm")
    (tmp_path / "x.csv").write_text("of somebody else\n")
    state = propscope.monitor(run.model, run.optimizer).state_dict()
    run = training("lstm")
    with propscope.monitor(run.model, run.optimizer, sinks=[f"csv:{tmp_path / 'x.csv'}"]) as monitor:
        monitor.load_state_dict(state)
        steps_of(run, monitor, 1)
    assert (tmp_path / "x.csv").read_text() == "of somebody else\n"
    assert len((tmp_path / "x-2.csv").read_text().splitlines()) == 2


def test_a_resumed_run_says_from_which_step_on_it_takes_them_again():
    run, sink = training(), Kept()
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=[Kept()]) as monitor:
        steps_of(run, monitor, 3)
        state = monitor.state_dict()
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=[sink]) as monitor:
        monitor.load_state_dict(state)
        with monitor.step():
            pass
        with monitor.step():
            run.update()
    assert [one[:2] if one[0] == "resume" else one[0] for one in sink.got[:-1]] == [("resume", 3), 4]
