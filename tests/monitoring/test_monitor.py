"""A monitored training is the training that it would be alone; what is recorded is what it did."""

import errno
import gc
import importlib
import io
import logging
import math
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from building.device_calls import DeviceCalls
from building.device_waits import NoWaits
from building.trainings import MODELS, training
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import propscope
from propscope.cli import main as cli
from propscope.measure import calls
from propscope.store.journal import Journal

TESTS = Path(__file__).parents[1]
STEPS = 6


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)


def plain(run):
    return run.update()


def accumulated_and_clipped(run):
    run.optimizer.zero_grad()
    for _ in range(2):
        loss = run.loss() / 2
        loss.backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), 0.1)
    run.optimizer.step()
    return loss


def with_a_closure(run):
    return run.optimizer.step(lambda: closure(run))


def closure(run):
    run.optimizer.zero_grad()
    loss = run.loss()
    loss.backward()
    return loss


UPDATES = {
    "plain": (plain, "AdamW", {}),
    "accumulated and clipped": (accumulated_and_clipped, "SGD", {"momentum": 0.9}),
    "with a closure": (with_a_closure, "LBFGS", {"max_iter": 3}),
}


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("name", MODELS)
def test_a_training_is_bit_for_bit_the_one_without_a_monitor(name, kind):
    update, optimizer, options = UPDATES[kind]
    alone, watched = training(name, optimizer, **options), training(name, optimizer, **options)
    torch.manual_seed(2)
    expected = [update(alone) for _ in range(STEPS)]
    left = alone.state()
    torch.manual_seed(2)
    found = []
    with propscope.monitor(watched.model, watched.optimizer, every=2) as monitor:
        for step in range(STEPS):
            with monitor.step(step) as one:
                found.append(update(watched))
                one.loss(found[-1])
        assert monitor.profile.labels == {"step": 4}
        assert {"head", "head.weight"} <= {one.name for one in (*monitor.profile.sites, *monitor.profile.parameters)}
    same(found, expected)
    same(watched.state(), left)


@pytest.mark.skipif(not hasattr(torch, "amp") or not hasattr(torch.amp, "GradScaler"), reason="this torch has none")
def test_a_scaled_loss_is_bit_for_bit_the_same_and_its_gradients_are_unscaled(caplog):
    def update(run, scaler):
        run.optimizer.zero_grad()
        loss = run.loss()
        scaler.scale(loss).backward()
        scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), 0.1)
        scaler.step(run.optimizer)
        scaler.update()
        return loss

    alone, watched, bare = training(), training(), training()
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2)]
    expected = [update(alone, scalers[0]) for _ in range(STEPS)]
    with propscope.monitor(watched.model, watched.optimizer, every=1, loss_scale=scalers[1]) as monitor:
        found = []
        for step in range(STEPS):
            with monitor.step(step) as one:
                found.append(update(watched, scalers[1]))
                one.loss(found[-1])
            if not step:
                first = monitor.profile
    same(found, expected)
    same(watched.state(), alone.state())
    bare.loss().backward()
    for name, parameter in bare.model.named_parameters():
        seen = next(one for one in first.parameters if one.name == name)
        assert seen.step_gradient_norm == pytest.approx(float(parameter.grad.norm()), rel=1e-5)
        assert seen.gradient_norm == pytest.approx(float(parameter.grad.norm()), rel=1e-5)


def test_a_step_that_raises_passes_its_error_on_and_leaves_nothing():
    run = training()
    monitor = propscope.monitor(run.model, run.optimizer, every=1)
    stopped = RuntimeError("out of data")

    def stop():
        with monitor.step(0):
            run.loss()
            raise stopped

    with pytest.raises(RuntimeError) as caught:
        stop()
    assert caught.value is stopped
    assert untouched(run.model)
    assert monitor.profile["head"].forward is not None
    with monitor.step(1) as one:
        one.loss(run.update())
    monitor.close()
    assert monitor.profile.labels == {"step": 1}


def untouched(model):
    hooks = [
        len(found) for module in model.modules() for name, found in vars(module).items() if name.endswith("_hooks")
    ]
    on_tensors = [bool(parameter._backward_hooks) for parameter in model.parameters()]
    watched = {id(module) for module in model.modules()} & calls._watched.keys()
    return not any((*hooks, *on_tensors, watched, _get_current_function_mode_stack()))


def test_between_samples_the_model_has_no_hook_and_no_mode(monkeypatch):
    run = training("resnet")
    seen = []
    with propscope.monitor(run.model, run.optimizer, every=3) as monitor:
        for step in range(7):
            with monitor.step(step):
                seen.append(untouched(run.model))
                run.update()
            assert untouched(run.model)
    assert seen == [False, True, True, False, True, True, False]
    assert not run.optimizer._optimizer_step_pre_hooks
    assert not run.optimizer._optimizer_step_post_hooks


def test_a_sample_holds_what_the_optimizer_did_with_the_whole_gradient():
    run, other = training(optimizer="SGD"), training(optimizer="SGD")
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        before = {name: one.detach().clone() for name, one in run.model.named_parameters()}
        with monitor.step(0):
            accumulated_and_clipped(run)
    for _ in range(2):
        (other.loss() / 2).backward()
    whole = {name: float(one.grad.norm()) for name, one in other.model.named_parameters()}
    for one in monitor.profile.parameters:
        assert one.step_gradient_norm == pytest.approx(whole[one.name], rel=1e-5, abs=1e-9)
        change = dict(run.model.named_parameters())[one.name].detach() - before[one.name]
        assert one.update_norm == pytest.approx(float(change.norm()), rel=1e-5, abs=1e-9)
        size = float(before[one.name].norm())
        assert one.update_ratio == (pytest.approx(float(change.norm()) / size, rel=1e-5) if size else None)
        assert one.first_moment_norm is None
    total = float(torch.tensor(list(whole.values())).norm())
    (row,) = monitor.steps.rows()
    assert row["gradient_norm"] == pytest.approx(0.1, rel=1e-4)
    assert row["clip_factor"] == pytest.approx(0.1 / total, rel=1e-4)


def test_the_moments_of_adam_are_seen_and_a_gradient_that_a_closure_makes():
    run = training(optimizer="Adam")
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor, monitor.step(0):
        run.optimizer.step(lambda: closure(run))
    state = run.optimizer.state[run.model.head.weight]
    seen = next(one for one in monitor.profile.parameters if one.name == "head.weight")
    assert seen.first_moment_norm == pytest.approx(float(state["exp_avg"].norm()), rel=1e-5)
    assert seen.second_moment_norm == pytest.approx(float(state["exp_avg_sq"].norm()), rel=1e-5)
    assert seen.step_gradient_norm == pytest.approx(float(run.model.head.weight.grad.norm()), rel=1e-5)
    whole = torch.stack([one.grad.norm() for one in run.model.parameters()]).norm()
    assert monitor.steps.gradient_norm == pytest.approx([float(whole)], rel=1e-5)


def stop(monitor):
    with monitor.step() as one:
        one.loss(torch.tensor([1.0, 2.0]))
        raise ValueError("no more")


def test_every_step_is_recorded_with_its_loss_and_what_became_of_it():
    run = training()
    monitor = propscope.monitor(run.model, run.optimizer, every=100)
    losses = []
    for step in range(3):
        with monitor.step(step) as one:
            losses.append(float(run.update().detach()))
            one.loss(losses[-1])
    with monitor.step():
        run.loss().backward()
    with pytest.raises(ValueError, match="no more"):
        stop(monitor)
    monitor.close()
    steps = monitor.steps
    assert steps.number.tolist() == [0, 1, 2, 3, 4]
    assert steps.loss[:3] == pytest.approx(losses)
    assert steps.loss[4] == 1.5
    assert steps.learning_rate[:3].tolist() == [1e-2] * 3
    assert steps.skipped.tolist() == [0, 0, 0, 1, 1]
    assert steps.error.tolist() == ["", "", "", "", "ValueError: no more"]
    assert (steps.gradient_norm[:3] > 0).all()
    assert (steps.seconds > 0).all()
    assert math.isnan(steps.monitor_share[0])
    assert ((steps.monitor_share[1:] > 0) & (steps.monitor_share[1:] < 1)).all()
    assert steps.nonfinite_gradients.tolist() == [0, 0, 0, -1, -1]


def test_a_loop_that_is_not_wrapped_calls_advance():
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=2) as monitor:
        for _ in range(4):
            monitor.advance(run.update())
        run.update()
    assert monitor.steps.number.tolist() == [1, 2, 3]
    assert monitor.profile.labels == {"step": 2}
    assert untouched(run.model)


@pytest.mark.parametrize(("looked_at", "samples"), [(1, 8), (2, 16), (5, 24)])
def test_so_many_micro_batches_are_looked_at_and_the_whole_gradient_is_seen(looked_at, samples):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1, micro_batches=looked_at) as monitor, monitor.step(0):
        for _ in range(3):
            run.loss().backward()
        run.optimizer.step()
    assert monitor.profile["head"].samples == samples
    seen = next(one for one in monitor.profile.parameters if one.name == "head.weight")
    assert seen.step_gradient_norm == pytest.approx(float(run.model.head.weight.grad.norm()), rel=1e-5)


def test_two_calls_of_the_model_before_one_backward_pass_are_both_recorded():
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor, monitor.step(0):
        (run.loss() + run.loss()).backward()
        run.optimizer.step()
    assert monitor.profile["head"].samples == 16


def test_every_may_be_set_and_a_sample_be_asked_for():
    run = training()
    sampled = []
    with propscope.monitor(run.model, run.optimizer, every=10, start=1, stop=9) as monitor:
        for step in range(12):
            if step == 4:
                monitor.request()
            if step == 6:
                monitor.every = 2
            with monitor.step(step):
                run.update()
            if monitor.profile is not None:
                sampled.append(monitor.profile.labels["step"])
    assert list(dict.fromkeys(sampled)) == [1, 4, 6, 8]
    assert monitor.every == 2
    with pytest.raises(propscope.PropscopeError, match="every must be a whole number of at least 1, got 0"):
        monitor.every = 0


def test_step_numbers_that_begin_again_in_each_epoch_are_counted_on_which_is_said_once(caplog):
    run = training()
    counted = []
    with propscope.monitor(run.model, run.optimizer, every=4) as monitor:
        for steps in (3, 1, 4):
            for step in range(0, 2 * steps, 2):
                with monitor.step(step) as one:
                    run.update()
                counted.append(one.number)
        assert monitor.profile.labels == {"step": 12}
    # The numbers keep their distances, whatever an epoch's length.
    assert counted == [0, 2, 4, 5, 6, 8, 10, 12]
    assert monitor.steps.number.tolist() == counted
    assert [record.message for record in caplog.records] == [
        "step 0 comes after step 4: it is counted as step 5, and so on; the run goes on"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be a whole number of at least 1, got 0"),
        ({"every": 1.5}, "every must be a whole number of at least 1, got 1.5"),
        ({"budget": 0}, "budget must be a finite number above 0 and at most 1, got 0"),
        ({"stop": 0}, "stop must be a whole number of at least 1, got 0"),
        ({"micro_batches": 0}, "micro_batches must be a whole number of at least 1, got 0"),
        ({"stats": "some"}, 'stats must be "all" or "moments", got "some"'),
        ({"loss_scale": -1}, "loss_scale must be a GradScaler or a finite number above 0, got -1"),
        ({"file": 3}, "file must be the path of a file, got a int"),
        ({"on_alarm": 3}, "on_alarm must be a function of an Alarm or None, got 3"),
        ({"evry": 3}, 'monitor\\(\\) has no argument "evry"'),
    ],
)
def test_invalid_arguments_are_refused_by_name(arguments, message):
    run = training()
    with pytest.raises(propscope.PropscopeError, match=message):
        propscope.monitor(run.model, run.optimizer, **arguments)


def test_models_and_optimizers_that_do_not_belong_together_are_refused():
    run, other = training(), training("lstm")
    with pytest.raises(propscope.PropscopeError, match="model must have parameters that are trained, got a ReLU"):
        propscope.monitor(nn.ReLU(), run.optimizer)
    with pytest.raises(propscope.PropscopeError, match="AdamW with none of this Language"):
        propscope.monitor(run.model, other.optimizer)
    with pytest.raises(propscope.PropscopeError, match="AdamW with none of this Language"):
        propscope.monitor(run.model, [run.optimizer, other.optimizer])
    with pytest.raises(propscope.PropscopeError, match="optimizer must be an optimizer or a list of some"):
        propscope.monitor(run.model, [])
    with pytest.raises(propscope.PropscopeError, match=r"optimizer must be a torch[.]optim[.]Optimizer or several"):
        propscope.monitor(run.model, 0.1)
    monitor = propscope.monitor(run.model, run.optimizer)
    with pytest.raises(propscope.PropscopeError, match="this Language has a monitor already"):
        propscope.monitor(run.model, run.optimizer)
    monitor.close()
    propscope.monitor(run.model, run.optimizer).close()
    with pytest.raises(propscope.PropscopeError, match="the monitor is closed"):
        monitor.step(0)


def test_a_model_that_was_replaced_is_said_once(caplog):
    run, other = training(), training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        for step in range(3):
            with monitor.step(step):
                other.update()
    assert [record.message for record in caplog.records] == [
        "the monitored model did not run in step 0; was another one made in its place?; the run goes on"
    ]


def test_a_monitor_that_is_forgotten_is_closed(capsys):
    run = training()
    monitor = propscope.monitor(run.model, run.optimizer)
    with monitor.step(0):
        run.update()
    assert run.optimizer._optimizer_step_pre_hooks
    del monitor
    gc.collect()
    assert not run.optimizer._optimizer_step_pre_hooks
    assert "propscope: 1 sample, 0 alarms; the monitor took" in capsys.readouterr().err


@pytest.mark.parametrize(("budget", "said"), [(1e-3, True), (None, False)])
def test_a_short_run_says_that_it_may_go_over_its_budget(capsys, budget, said):
    run = training()
    with propscope.monitor(run.model, run.optimizer, budget=budget) as monitor, monitor.step(0):
        run.update()
    assert ("%; a run of less than 2000 s may go over its budget)" in capsys.readouterr().err) == said


def break_the_gradient(run, monitor):
    with monitor.step(1) as one:
        loss = run.loss()
        (loss * float("nan")).backward()
        run.optimizer.step()
        one.loss(loss)


def test_an_alarm_is_logged_and_handed_on_and_what_the_callback_raises_ends_the_step(caplog):
    run = training()
    raised = []

    def stop(alarm):
        raised.append(alarm)
        raise KeyboardInterrupt

    monitor = propscope.monitor(run.model, run.optimizer, every=10, on_alarm=stop)
    with monitor.step(0):
        run.update()
    with pytest.raises(KeyboardInterrupt):
        break_the_gradient(run, monitor)
    (alarm,) = monitor.alarms
    assert raised == [alarm]
    assert (alarm.step, alarm.since, alarm.kind, alarm.severity) == (1, 1, "non-finite gradient", "broken")
    assert alarm.parameter == "tokens.weight"
    assert "step 1: non-finite gradient (broken): the gradient of tokens.weight is not finite" in caplog.text
    with monitor.step(2):
        pass
    assert monitor.profile.labels == {"step": 2}, "the step behind a suspicious one is sampled"
    monitor.close()


def test_an_alarm_about_a_gradient_comes_before_the_optimizer_spreads_it():
    run = training()

    def stop(alarm):
        raise ArithmeticError(alarm.message)

    with propscope.monitor(run.model, run.optimizer, every=10, on_alarm=stop) as monitor:
        with monitor.step(0):
            run.update()
        before = [one.detach().clone() for one in run.model.parameters()]
        with pytest.raises(ArithmeticError, match=r"the gradient of tokens[.]weight is not finite"):
            break_the_gradient(run, monitor)
        same(list(run.model.parameters()), before)
        with monitor.step(2):
            run.update()
    assert monitor.steps.skipped.tolist() == [0, 1, 0]
    assert monitor.steps.nonfinite_gradients.tolist() == [0, len(before), 0]
    assert [(one.step, one.kind) for one in monitor.alarms] == [(1, "non-finite gradient")]


def refuse(alarm):
    raise ArithmeticError(alarm.kind)


def a_step_that_fails(run, monitor):
    with monitor.step(0) as one:
        run.update()
        one.loss(math.nan)
        raise LookupError("no batch")


def test_what_on_alarm_raises_does_not_hide_what_a_step_raised(caplog):
    run = training()
    with propscope.monitor(run.model, run.optimizer, on_alarm=refuse) as monitor:
        with pytest.raises(LookupError, match="no batch"):
            a_step_that_fails(run, monitor)
        assert [alarm.kind for alarm in monitor.alarms] == ["non-finite loss"]
        assert monitor.steps.error.tolist() == ["LookupError: no batch"]
    assert "on_alarm raised ArithmeticError: non-finite loss after the run had raised its own" in caplog.text


def a_run_that_fails(run):
    with propscope.monitor(run.model, run.optimizer, on_alarm=refuse) as monitor:
        with monitor.step(0) as one:
            run.update()
            one.loss(1.0)
        with monitor.step(1) as one:
            one.loss(math.nan)
        raise LookupError("no batch")


def test_what_on_alarm_raises_on_close_does_not_hide_what_the_run_raised(caplog, monkeypatch):
    # As on another device: the number waits, and is judged on close.
    monkeypatch.setattr("propscope.monitoring.run_log._costs_no_wait", lambda tensor: False)
    with pytest.raises(LookupError, match="no batch"):
        a_run_that_fails(training())
    assert "on_alarm raised ArithmeticError: non-finite loss after the run had raised its own" in caplog.text


def test_what_is_pending_is_judged_on_close_and_alarms_can_be_off(caplog):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=10, alarms=False) as monitor, monitor.step(0) as one:
        run.update()
        one.loss(float("nan"))
    assert monitor.alarms == ()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_resumed_run_goes_on_from_the_state_of_the_first():
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        for step in range(3):
            with monitor.step(step) as one:
                one.loss(run.update())
        state = monitor.state_dict()
    resumed = propscope.monitor(run.model, run.optimizer, every=100)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    with resumed.step() as one:
        run.update()
    assert one.number == 3
    resumed.close()
    with pytest.raises(propscope.PropscopeError, match=r"state must be what Monitor[.]state_dict returned, got \{\}"):
        propscope.monitor(run.model, run.optimizer).load_state_dict({})


def test_the_file_holds_samples_steps_and_alarms_and_a_resumed_run_goes_on_in_it(tmp_path):
    run, path = training(), tmp_path / "run.propscope"
    with propscope.monitor(run.model, run.optimizer, every=2, file=path) as monitor:
        for step in range(5):
            with monitor.step(step) as one:
                one.loss(run.update())
            if step == 2:
                state, sample = monitor.state_dict(), monitor.profile
    found = propscope.load(path)
    assert [one.labels for one in found] == [{"step": 0}, {"step": 2}, {"step": 4}]
    assert found.steps.loss.tolist() == monitor.steps.loss.tolist()
    read = found.select(step=2)
    assert read.parameters == sample.parameters
    assert read["head"] == sample["head"]
    weight = next(one for one in read.parameters if one.name == "head.weight")
    assert min(weight.value_norm, weight.gradient_norm, weight.step_gradient_norm, weight.update_norm) > 0
    assert propscope.diagnose(read).verdict == "healthy"
    with propscope.monitor(run.model, run.optimizer, every=2, file=path) as resumed:
        resumed.load_state_dict(state)
        with resumed.step():
            (run.loss() * math.nan).backward()
            run.optimizer.step()
    again = propscope.load(path)
    assert again.steps.number.tolist() == [0, 1, 2, 3, 4, 3]
    assert again.steps.superseded.tolist() == [0, 0, 0, 1, 1, 0]
    assert [one.labels for one in again] == [{"step": 0}, {"step": 2}, {"superseded_step": 4}]
    assert [(one.step, one.kind, one.superseded) for one in again.alarms] == [(3, "non-finite gradient", 0)]


@pytest.mark.parametrize("way", ["file", "no file", "another process"])
def test_an_alarm_of_a_step_that_was_taken_again_does_not_stand(way, tmp_path):
    run, path = training(), None if way == "no file" else tmp_path / "run.propscope"

    def train(monitor, steps, broken):
        for number in steps:
            with monitor.step(number) as step:
                run.update()
                step.loss(math.nan if number in broken else 2.0)

    monitor = propscope.monitor(run.model, run.optimizer, every=2, budget=None, file=path)
    train(monitor, range(4), [1])
    state = monitor.state_dict()
    train(monitor, range(4, 7), [5])
    if way == "another process":
        monitor.close()
        monitor = propscope.monitor(run.model, run.optimizer, every=2, budget=None, file=path)
    monitor.load_state_dict(state)
    train(monitor, range(4, 8), [6])
    monitor.close()
    alarms = monitor.alarms if path is None else propscope.load(path).alarms
    assert [(one.step, one.superseded) for one in alarms] == [(1, 0), (5, 1), (6, 0)]
    if path is not None:
        found = propscope.load(path)
        assert [one.step for one in found.standing_alarms] == [1, 6]
        assert found.to_frame("alarm")["superseded"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("way", ["file", "no file", "advance"])
def test_a_run_that_goes_back_to_a_checkpoint_goes_on_and_marks_what_it_takes_again(way, tmp_path):
    run, path = training(), tmp_path / "run.propscope" if way != "no file" else None

    def train(steps):
        for step in steps:
            if way == "advance":
                run.update()
                monitor.advance()
            else:
                with monitor.step(step):
                    run.update()

    with propscope.monitor(run.model, run.optimizer, every=2, budget=None, file=path) as monitor:
        train(range(4))
        state, baselines = monitor.state_dict(), monitor.state_dict()["judge"]
        train(range(4, 7))
        for _ in range(2):
            monitor.load_state_dict(state)
            assert monitor.state_dict()["judge"] == baselines
            assert untouched(run.model)
            train(range(4, 6))
        if way == "advance":
            monitor.advance()
        # A loop that is not wrapped does not see its first step, nor what it does to go back.
        taken = [1, 2, 3, 4, 5, 6, 5, 5, 6] if way == "advance" else [0, 1, 2, 3, 4, 5, 6, 4, 5, 4, 5]
        assert monitor.steps.number.tolist() == taken
    last = {number: at for at, number in enumerate(taken)}
    again = [int(at != last[number] and number >= 4) for at, number in enumerate(taken)]
    if way != "advance":
        again = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0]
        assert monitor.steps.superseded.tolist() == again
    if way == "file":
        found = propscope.load(path)
        assert found.steps.number.tolist() == taken
        assert found.steps.superseded.tolist() == again
        labels = [one.labels for one in found]
        assert labels == [{"step": 0}, {"step": 2}, *[{"superseded_step": at} for at in (4, 6, 4)], {"step": 4}]
        assert [one.name for one in tmp_path.iterdir()] == ["run.propscope"]


def test_a_disk_that_is_full_is_said_once_and_the_run_goes_on(tmp_path, capfd, monkeypatch):
    run, path = training(), tmp_path / "run.propscope"
    with propscope.monitor(run.model, run.optimizer, every=1, file=path) as monitor:
        for step in range(4):
            if step == 2:
                monkeypatch.setattr(Journal, "append", full)
            with monitor.step(step):
                run.update()
    said = capfd.readouterr().err
    assert said.count("No space left on device; the run goes on") == 1
    assert [one.labels["step"] for one in propscope.load(path)] == [0, 1, 2, 3]


def full(journal, payload):
    raise OSError(errno.ENOSPC, "No space left on device")


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import propscope
from building.trainings import training
run = training()
monitor = propscope.monitor(run.model, run.optimizer, every=1, file="run.propscope")
for step in range(1_000_000):
    with monitor.step(step) as one:
        one.loss(run.update())
    if step >= 3:
        {end}
"""


def test_a_monitor_that_is_forgotten_is_closed_at_the_end_of_the_process(tmp_path):
    code = PROGRAM.format(tests=str(TESTS), end="break")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "propscope: 4 samples, 0 alarms" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["run.propscope"]
    assert len(propscope.load(tmp_path / "run.propscope")) == 4


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_process_that_is_killed_leaves_every_sample_but_the_one_being_written(tmp_path):
    code = PROGRAM.format(tests=str(TESTS), end="print(step, flush=True)")
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(5):
            taken = int(process.stdout.readline())
        process.kill()
    with pytest.warns(UserWarning, match="unfinished"):
        found = propscope.load(tmp_path / "run.propscope")
    steps = [one.labels["step"] for one in found]
    assert steps == [*range(len(steps))]
    assert len(steps) > taken
    assert cli(["compact", str(tmp_path / "run.propscope")]) == 0
    assert len(propscope.load(tmp_path / "run.propscope")) == len(steps)


def test_a_step_whose_learning_rate_was_raised_at_once_is_sampled_and_its_update_named():
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=4) as monitor:
        for step in range(20):
            if step == 14:
                run.optimizer.param_groups[0]["lr"] *= 100
            with monitor.step(step):
                run.update()
    (alarm, *_) = monitor.alarms
    assert (alarm.step, alarm.since, alarm.kind) == (14, 14, "large update")
    assert monitor.steps.learning_rate[13:15].tolist() == [1e-2, 1.0]


def test_a_warm_up_of_the_learning_rate_asks_for_no_samples():
    run = training(lr=0.0)
    with propscope.monitor(run.model, run.optimizer, every=100) as monitor:
        for step in range(30):
            run.optimizer.param_groups[0]["lr"] = step * 1e-4
            with monitor.step(step):
                run.update()
    assert monitor.profile.labels == {"step": 0}
    assert monitor.alarms == ()


def test_an_alarm_is_a_line_of_its_own_above_a_progress_bar(monkeypatch):
    from tqdm import tqdm

    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    # A program that sets up no logging has no handler.
    monkeypatch.setattr(logging.getLogger("propscope"), "propagate", False)
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        for step in tqdm(range(3), file=shown, mininterval=0):
            with monitor.step(step) as one:
                run.update()
                one.loss(math.nan)
    lines = [line.rpartition("\r")[2] for line in shown.getvalue().split("\n")]
    assert [line[:27] for line in lines if "non-finite" in line] == ["step 0: non-finite loss (br"]
    assert [line[:27] for line in lines if "monitor took" in line] == ["propscope: 3 samples, 1 ala"]


def test_a_step_between_samples_launches_next_to_nothing(monkeypatch):
    monitoring, run_log = (importlib.import_module(f"propscope.monitoring.{name}") for name in ("monitor", "run_log"))
    monkeypatch.setattr(monitoring, "Options", partial(monitoring.Options, look=False))
    monkeypatch.setattr(run_log, "_costs_no_wait", lambda tensor: False)
    run = training(optimizer="SGD", momentum=0.9)
    run.update()
    with DeviceCalls() as bare:
        run.update()
    counts = []
    with propscope.monitor(run.model, run.optimizer, every=100) as monitor:
        for step in range(6):
            context = monitor.step(step)
            with DeviceCalls() if step else nullcontext() as calls:
                one = context.__enter__()
                one.loss(run.update())
                context.__exit__(None, None, None)
            counts += [len(calls.calls)] if step else []
    assert max(counts) - len(bare.calls) <= 5


def test_no_step_waits_for_the_device(monkeypatch):
    monitoring, run_log = (importlib.import_module(f"propscope.monitoring.{name}") for name in ("monitor", "run_log"))
    # As on a device: nothing is read before the next sample.
    monkeypatch.setattr(monitoring, "Options", partial(monitoring.Options, look=False))
    monkeypatch.setattr(run_log, "_costs_no_wait", lambda tensor: False)
    run = training(optimizer="SGD", momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    with propscope.monitor(run.model, run.optimizer, every=3, loss_scale=scaler) as monitor:
        for step in range(6):
            context = monitor.step(step)
            with NoWaits():
                one = context.__enter__()
                run.optimizer.zero_grad()
                loss = run.loss()
                scaler.scale(loss).backward()
                for parameter in run.model.parameters():
                    parameter.grad /= 4.0
                nn.utils.clip_grad_norm_(run.model.parameters(), 0.1)
                run.optimizer.step()
                one.loss(loss)
            with NoWaits() if step % 3 else nullcontext():
                context.__exit__(None, None, None)
            assert monitor.steps.number.tolist() == [*range(step - step % 3 + 1)]
    assert monitor.profile.labels == {"step": 3}
    assert monitor.profile["head"].backward is not None
    assert (monitor.steps.gradient_norm > 0).all()
