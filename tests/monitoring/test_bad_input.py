"""What a monitor does with what it cannot use: an error that names it, or one warning while the run goes on."""

import gc
import importlib
import logging
import math
import os
import threading
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from building.trainings import training
from torch import nn

import propscope
from propscope.measure import calls, checkpoints


def warnings(caplog):
    return [one.message for one in caplog.records if one.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 5, "stop": 5}, "stop must be above start, 5, got 5"),
        ({"start": -1}, "start must be a whole number of at least 0, got -1"),
        ({"stop": "x"}, 'stop must be a whole number of at least 1, got "x"'),
        ({"every": True}, "every must be a whole number of at least 1, got True"),
        ({"micro_batches": 1.5}, "micro_batches must be a whole number of at least 1, got 1[.]5"),
        ({"budget": 1.5}, "budget must be a finite number above 0 and at most 1, got 1[.]5"),
        ({"budget": math.nan}, "budget must be a finite number above 0 and at most 1, got nan"),
        ({"loss_scale": "x"}, 'loss_scale must be a GradScaler or a finite number above 0, got "x"'),
        ({"alarms": print}, "alarms must be True or False, got <built-in function print>"),
        ({"on_alarm": lambda: None}, "on_alarm must be a function of an Alarm or None, got <function <lambda>"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(arguments, message):
    run = training()
    with pytest.raises(propscope.PropscopeError, match=message):
        propscope.monitor(run.model, run.optimizer, **arguments)
    assert not run.optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("model", [None, "model", [nn.Linear(2, 2)], nn.Linear])
def test_a_model_that_is_none_is_refused(model):
    with pytest.raises(propscope.PropscopeError, match=r"model must be a torch[.]nn[.]Module, got a \w+"):
        propscope.monitor(model, training().optimizer)


def test_a_model_whose_parameters_cannot_be_trained_is_refused():
    run = training()
    run.model.requires_grad_(False)
    with pytest.raises(propscope.PropscopeError, match="that are trained, got a Language with frozen ones alone"):
        propscope.monitor(run.model, run.optimizer)
    model = nn.Linear(2, 2, device="meta")
    with pytest.raises(propscope.PropscopeError, match="got a Linear on the meta device"):
        propscope.monitor(model, torch.optim.SGD(model.parameters(), 0.1))


@pytest.mark.parametrize("given", [None, "Adam", nn.ReLU(), {}, [0.1], [None]])
def test_what_is_no_optimizer_is_refused(given):
    with pytest.raises(propscope.PropscopeError, match=r"optimizer must be a torch[.]optim[.]Optimizer or several"):
        propscope.monitor(training().model, given)


def test_optimizers_may_be_any_iterable_and_one_that_comes_twice_is_one():
    run = training()
    by_name = {"all": run.optimizer, "again": run.optimizer}
    with propscope.monitor(run.model, by_name.values(), every=1) as monitor, monitor.step():
        run.update()
        assert monitor._steps.taken == 1
    assert monitor.steps.skipped.tolist() == [0]


@pytest.mark.parametrize(
    ("loss", "read"),
    [
        (math.nan, math.nan),
        (torch.tensor([1.0, 2.0]), 1.5),
        (torch.tensor([[1, 2]]), 1.5),
        (torch.ones(2, requires_grad=True), 1.0),
        (torch.tensor(5.0, dtype=torch.bfloat16), 5.0),
        (torch.tensor([0.0, 3.0]).to_sparse(), 1.5),
        (np.float32(2), 2.0),
        (7, 7.0),
    ],
)
def test_a_loss_may_be_any_number_or_tensor_of_numbers(loss, read, caplog):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1, alarms=False) as monitor, monitor.step() as one:
        run.update()
        one.loss(loss)
    assert monitor.steps.loss.tolist() == pytest.approx([read], nan_ok=True)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "loss",
    [
        {"loss": torch.ones(())},
        "1.5",
        [1.0],
        1j,
        10**400,
        object(),
        torch.tensor([]),
        torch.tensor(1j),
        torch.ones((), device="meta"),
    ],
)
def test_what_is_no_loss_is_said_once_and_is_no_alarm(loss, caplog):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        for _ in range(2):
            with monitor.step() as one:
                run.update()
                one.loss(loss)
    assert monitor.alarms == ()
    assert np.isnan(monitor.steps.loss).all()
    assert warnings(caplog) == [
        f"a loss could not be read: loss must be a number or a tensor of numbers, got a {type(loss).__name__}; the run "
        "goes on"
    ]


def test_a_loss_that_comes_too_late_is_left_out_of_the_next_step(caplog):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        with monitor.step() as late:
            run.update()
        late.loss(3.0)
        with monitor.step() as one:
            late.loss(3.0)
            one.loss(run.update())
    assert monitor.steps.loss[1] < 3
    assert np.isnan(monitor.steps.loss[0])
    assert warnings(caplog) == [
        "the loss of step 0 came outside of its `with` block, so it is left out; the run goes on"
    ]


def test_steps_within_steps_are_refused_and_the_run_can_go_on():
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        with monitor.step():
            with pytest.raises(propscope.PropscopeError, match="step 0 is still running"), monitor.step():
                pass
            with pytest.raises(propscope.PropscopeError, match=r"step 0 is a `with` block, which advance\(\) cannot"):
                monitor.advance()
            run.update()
        monitor.advance()
        with pytest.raises(propscope.PropscopeError, match="step 1 is still running"), monitor.step():
            pass
        run.update()
        monitor.advance()
    assert monitor.steps.number.tolist() == [0, 1]


def test_a_context_that_is_entered_again_is_the_next_step():
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        again, early = monitor.step(), monitor.step(7)
        for context in (again, again, early, again):
            with context:
                run.update()
    assert monitor.steps.number.tolist() == [0, 1, 7, 8]
    assert again.number == 8


def test_a_monitor_that_is_closed_twice_or_within_a_step_is_closed():
    run = training()
    monitor = propscope.monitor(run.model, run.optimizer, every=1)
    with monitor.step() as one:
        run.update()
        monitor.close()
        one.loss(1.0)
        run.update()
    monitor.close()
    with pytest.raises(propscope.PropscopeError, match="the monitor is closed"):
        monitor.advance()
    assert len(monitor.steps) == 0
    assert nothing_left(run)


def test_on_alarm_may_close_the_monitor_in_the_middle_of_the_step_of_an_optimizer():
    run = training()
    monitor = propscope.monitor(run.model, run.optimizer, every=1, on_alarm=lambda alarm: monitor.close())
    # torch goes through the hooks when the monitor takes its own away.
    later = run.optimizer.register_step_pre_hook(lambda *_: None)
    with monitor.step():
        (run.loss() * math.nan).backward()
        run.optimizer.step()
    later.remove()
    assert [one.kind for one in monitor.alarms] == ["non-finite gradient"]
    assert nothing_left(run)


def test_a_step_number_that_no_file_can_hold_is_refused():
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        with pytest.raises(propscope.PropscopeError, match=r"step must be below 2\^63, got 9223372036854775808"):
            monitor.step(2**63)
        with monitor.step(2**63 - 1):
            run.update()
    assert monitor.steps.number.tolist() == [2**63 - 1]


def test_numbers_stay_on_the_cpu_where_another_device_is_the_default():
    run = training()
    monitor = propscope.monitor(run.model, run.optimizer, every=1, loss_scale=1.0)
    with monitor, torch.device("meta"), monitor.step() as one:
        one.loss(3.0)
    assert monitor.steps.loss.tolist() == [3.0]
    assert monitor.steps.loss_scale.tolist() == [1.0]


@pytest.mark.parametrize("broken", ["step", "cadence", "judge"])
def test_a_state_that_is_half_nonsense_changes_nothing(broken):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        with monitor.step() as one:
            one.loss(run.update())
        state = monitor.state_dict()
    nonsense = {"step": "seven", "cadence": state["cadence"] | {"cost": "much"}, "judge": state["judge"]}
    nonsense["judge"] = nonsense["judge"] | {"losses": ["low"]}
    with propscope.monitor(run.model, run.optimizer) as monitor:
        before = monitor.state_dict()
        with pytest.raises(propscope.PropscopeError, match="state must be what"):
            monitor.load_state_dict(state | {broken: nonsense[broken]})
        assert monitor.state_dict() == before
        with monitor.step():
            run.update()


def test_an_optimizer_that_was_made_in_the_middle_is_said_once(caplog):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:
        for step in range(4):
            if step == 1:
                run.optimizer = torch.optim.SGD(run.model.parameters(), 0.1)
            with monitor.step():
                run.update()
        with monitor.step():
            run.loss().backward()
    assert monitor.steps.skipped.tolist() == [0, 1, 1, 1, 1]
    assert warnings(caplog) == [
        "step 1 changed the weights, but by no optimizer that the monitor was given; was another one made in its "
        "place?; the run goes on"
    ]


def test_a_part_and_a_type_that_change_in_the_middle_are_recorded():
    run = training("resnet", "SGD")
    batch = run.batch
    with propscope.monitor(run.model, run.optimizer, every=2) as monitor:
        for step in range(6):
            if step == 1:
                run.model.head = nn.Linear(4, 16)
                run.optimizer.add_param_group({"params": list(run.model.head.parameters())})
            if step == 3:
                run.model.double()
                run.batch = lambda: batch().double()
            with monitor.step():
                run.update()
                norm = torch.stack([one.grad.norm() for one in run.model.parameters()]).norm()
            assert monitor.steps.gradient_norm[-1] == pytest.approx(float(norm), rel=1e-5)
    head = next(one for one in monitor.profile.parameters if one.name == "head.weight")
    assert head.dtype == "float64"
    assert head.update_norm == pytest.approx(1e-2 * head.step_gradient_norm, rel=1e-5)


def test_a_monitor_may_be_used_from_another_thread():
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor:

        def work():
            with monitor.step():
                run.update()

        for _ in range(2):
            work()
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert monitor.profile["head"].backward is not None
    assert monitor.steps.number.tolist() == [0, 1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("within", [False, True])
def test_a_process_that_is_forked_leaves_the_file_to_the_first_one(within, tmp_path):
    run = training()

    def fork():
        if (child := os.fork()) == 0:
            failed = True
            try:
                with nullcontext() if within else monitor.step():
                    run.update()
                monitor.advance()
                run.update()
                monitor.close()
                failed = False
            finally:
                os._exit(failed)
        assert os.waitpid(child, 0)[1] == 0

    with propscope.monitor(run.model, run.optimizer, every=1, file=tmp_path / "run.propscope") as monitor:
        for _ in range(2):
            with monitor.step():
                if within:
                    fork()
                run.update()
            if not within:
                fork()
    assert propscope.load(tmp_path / "run.propscope").steps.number.tolist() == [0, 1]
    assert [one.name for one in tmp_path.iterdir()] == ["run.propscope"]


def nothing_left(run):
    held = [found for module in run.model.modules() for name, found in vars(module).items() if name.endswith("_hooks")]
    for one in run.model.parameters():
        held += [one._backward_hooks, one._post_accumulate_grad_hooks]
    held += [run.optimizer._optimizer_step_pre_hooks, run.optimizer._optimizer_step_post_hooks]
    return not any((*held, calls._watched, checkpoints._watchers))


def test_a_monitor_that_is_forgotten_within_a_sampled_step_leaves_nothing():
    run = training()
    monitor = propscope.monitor(run.model, run.optimizer, every=1)
    monitor.advance()
    run.loss().backward()
    assert calls._watched
    del monitor
    gc.collect()
    assert nothing_left(run)


PLACES = ("begin", "forward", "backward", "optimizer", "end")


@pytest.mark.parametrize("place", PLACES)
def test_an_interruption_anywhere_leaves_no_hook_and_the_next_step_is_recorded(place, monkeypatch):
    run = training()
    stop = iter([True])

    def interrupt(*arguments):
        if next(stop, False):
            raise KeyboardInterrupt

    def update():
        run.optimizer.zero_grad()
        loss = run.loss()
        loss.backward()
        run.optimizer.step()

    handle = {
        "forward": lambda: run.model.norm.register_forward_hook(interrupt),
        "backward": lambda: run.model.norm.weight.register_hook(interrupt),
        "optimizer": lambda: run.optimizer.register_step_pre_hook(interrupt),
    }.get(place, lambda: None)()
    parts = {"begin": ("recording", "without_shortcuts"), "end": ("monitor", "with_step")}
    if place in parts:
        name, part = parts[place]
        module = importlib.import_module(f"propscope.monitoring.{name}")
        before = getattr(module, part)
        monkeypatch.setattr(module, part, lambda *a, **b: (interrupt(), before(*a, **b))[1])
    monitor = propscope.monitor(run.model, run.optimizer, every=1)
    with pytest.raises(KeyboardInterrupt), monitor.step():
        update()
    if handle is not None:
        handle.remove()
    tensors = [one for one in run.model.parameters() if one._backward_hooks or one._post_accumulate_grad_hooks]
    assert not tensors
    assert not calls._watched
    with monitor.step():
        update()
    assert monitor.profile.labels == {"step": 1}
    assert monitor.profile["head"].backward is not None
    monitor.close()
    assert nothing_left(run)


def test_a_monitor_keeps_no_tensor_of_a_step_and_counts_the_same_objects_after_many_steps():
    run = training("resnet")

    def live():
        gc.collect()
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    seen = []
    with propscope.monitor(run.model, run.optimizer, every=1, budget=None) as monitor:
        counts = []
        for step in range(30):
            with monitor.step() as one:
                loss = run.update()
                one.loss(loss)
                seen.append(weakref.ref(loss))
                del loss
            if step % 10 == 9:
                counts.append(live())
    assert not [one for one in seen if one() is not None]
    assert len(set(counts)) == 1
