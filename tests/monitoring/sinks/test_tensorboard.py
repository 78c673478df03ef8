"""What TensorBoard shows of a run, read back from its event files by its own reader."""

import math

import pytest
from building.trainings import steps_of, training
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import propscope
from propscope.monitoring.sinks import TensorBoardSink

pytestmark = pytest.mark.usefixtures("every_write_is_taken")


def shown(directory):
    found = EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def points(directory, key):
    return [(one.step, one.value) for one in shown(directory).Scalars(key)]


def test_the_samples_and_alarms_of_a_run_are_read_back(tmp_path):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=[f"tensorboard:{tmp_path / 'x'}"]) as monitor:
        steps_of(run, monitor, 5, broken=[4])
    losses = [(step, pytest.approx(monitor.steps.loss[step])) for step in (0, 2, 4)]
    assert points(tmp_path / "x", "loss") == losses
    assert points(tmp_path / "x", "gradient_norm")[2] == (4, math.inf)
    tags = shown(tmp_path / "x").Tags()
    assert {"activation/max_rms", "gradient/min_rms", "update_ratio/max"} <= set(tags["scalars"])
    assert 10 <= len(tags["scalars"]) <= 16
    (alarm,) = shown(tmp_path / "x").Tensors("alarm/text_summary")
    assert alarm.step == 4
    assert b"the gradient of tokens.weight is not finite" in alarm.tensor_proto.string_val[0]


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    sink = TensorBoardSink(tmp_path)
    for step, value in enumerate((math.nan, math.inf, -math.inf, 1.0, 1e300)):
        sink.write(step, {"loss": value})
    sink.close()
    assert points(tmp_path, "loss") == [
        (0, pytest.approx(math.nan, nan_ok=True)),
        (1, math.inf),
        (2, -math.inf),
        (3, 1.0),
        # TensorBoard has four bytes for a number.
        (4, math.inf),
    ]


def test_each_sample_is_there_to_be_read_at_once(tmp_path):
    sink = TensorBoardSink(tmp_path)
    sink.write(3, {"loss": 2.0})
    assert points(tmp_path, "loss") == [(3, 2.0)]
    sink.close()


def test_a_resumed_run_hides_the_steps_that_it_takes_again(tmp_path):
    run = training("lstm")
    sinks = [f"tensorboard:{tmp_path}"]
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=sinks) as monitor:
        for step in range(6):
            if step == 3:
                state = monitor.state_dict()
            with monitor.step(step) as one:
                run.update()
                one.loss(1.0)
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=sinks) as monitor:
        monitor.load_state_dict(state)
        with monitor.step() as one:
            run.update()
            one.loss(2.0)
    assert points(tmp_path, "loss") == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]


def test_a_run_that_goes_back_with_its_own_monitor_hides_the_steps_that_it_takes_again(tmp_path):
    run = training("lstm")
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=[f"tensorboard:{tmp_path}"]) as monitor:
        before = monitor.state_dict()
        for loss in (1.0, 2.0, 3.0):
            with monitor.step() as one:
                run.update()
                one.loss(loss)
        monitor.load_state_dict(before)
        with monitor.step() as one:
            run.update()
            one.loss(4.0)
    assert points(tmp_path, "loss") == [(0, 4.0)]


def test_another_run_in_the_directory_hides_nothing(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("mine", 1.0, 5)
    sink = TensorBoardSink(tmp_path)
    sink.write(0, {"loss": 2.0})
    sink.close()
    assert points(tmp_path, "mine") == [(5, 1.0)]


def test_a_writer_of_the_users_is_written_to_and_stays_open(tmp_path):
    run = training("lstm")
    with SummaryWriter(tmp_path) as writer:
        with propscope.monitor(run.model, run.optimizer, every=1, sinks=[writer]) as monitor:
            steps_of(run, monitor, 2)
        assert [step for step, _ in points(tmp_path, "loss")] == [0, 1]
        writer.add_scalar("mine", 1.0, 2)
    assert points(tmp_path, "mine") == [(2, 1.0)]


def test_the_sites_of_a_writer_of_the_users_are_asked_for_by_its_sink(tmp_path):
    run = training("lstm")
    with SummaryWriter(tmp_path) as writer:
        sink = TensorBoardSink(writer, sites="all")
        with propscope.monitor(run.model, run.optimizer, every=1, sinks=[sink]) as monitor:
            steps_of(run, monitor, 1)
            sample = monitor.profile
    assert points(tmp_path, "activation/head/rms") == [(0, pytest.approx(sample["head"].forward.rms))]
