"""What Weights & Biases keeps of a run offline, read back from the file that it would send."""

import json
import math
import struct
import threading

import pytest
import wandb
from building.trainings import steps_of, training
from wandb.proto import wandb_internal_pb2

import propscope
from propscope.monitoring.sinks import WandbSink
from propscope.monitoring.sinks.wandb import STEP

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Let W&B write to a directory of the test, and to nowhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    yield
    # It keeps its settings, and with them the directory, until it is told to end.
    wandb.teardown()


# A file of W&B is a log as LevelDB keeps it: after a head, blocks of records, each with a checksum, a length and
# whether it is whole (1), or the first, a middle or the last part (2, 3, 4) of one.
_HEAD, _BLOCK, _RECORD = 7, 32768, struct.Struct("<IHB")
_WHOLE, _LAST = 1, 4


def records(place):
    # Until then the file may be empty.
    wandb.teardown()
    (path,) = place.glob("wandb/offline-run-*/*.wandb")
    data, at, parts, found = path.read_bytes(), _HEAD, b"", []
    while at < len(data):
        if (left := _BLOCK - at % _BLOCK) < _RECORD.size:
            at += left
            continue
        _, length, kind = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        parts += data[at : at + length]
        at += length
        if kind in (_WHOLE, _LAST):
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def history(place):
    """The rows of the history that hold more than what W&B adds itself."""
    rows = [record.history for record in records(place) if record.WhichOneof("record_type") == "history"]
    read = [{(".".join(one.nested_key) or one.key): json.loads(one.value_json) for one in row.item} for row in rows]
    return [row for row in read if any(not key.startswith("_") for key in row)]


@pytest.mark.usefixtures("every_write_is_taken")
def test_the_samples_and_alarms_of_a_run_are_read_back(tmp_path):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=["wandb:mine/first"]) as monitor:
        steps_of(run, monitor, 5, broken=[4])
    assert wandb.run is None
    rows = history(tmp_path)
    assert [row[STEP] for row in rows] == [0, 2, 4]
    assert [row["loss"] for row in rows] == monitor.steps.loss[::2].tolist()
    assert rows[2]["gradient_norm"] == math.inf
    kept = records(tmp_path)
    (about,) = [record.run for record in kept if record.WhichOneof("record_type") == "run"]
    assert (about.project, about.display_name) == ("mine", "first")
    (alert,) = [record.alert for record in kept if record.WhichOneof("record_type") == "alert"]
    assert (alert.title, alert.level) == ("step 4: non-finite gradient", "ERROR")
    assert "the gradient of tokens.weight is not finite" in alert.text
    metrics = [record.metric for record in kept if record.WhichOneof("record_type") == "metric"]
    over = {one.name or one.glob_name for one in metrics if one.step_metric == STEP}
    assert {"loss", "gradient_norm", "activation/*", "gradient/*", "update_ratio/*"} <= over


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    sink = WandbSink.opened("mine")
    for step, value in enumerate((math.nan, math.inf, -math.inf)):
        sink.write(step, {"loss": value})
    sink.close()
    values = [row["loss"] for row in history(tmp_path)]
    assert values == [pytest.approx(math.nan, nan_ok=True), math.inf, -math.inf]


def test_steps_that_a_resumed_run_takes_again_are_kept(tmp_path):
    sink = WandbSink.opened("mine")
    for step in (5, 3, 4):
        sink.write(step, {"loss": 1.0})
    sink.close()
    assert [row[STEP] for row in history(tmp_path)] == [5, 3, 4]


@pytest.mark.usefixtures("every_write_is_taken")
def test_an_open_run_is_joined_and_keeps_its_own_rows_and_metrics(tmp_path, monkeypatch):
    def write(sink, step, values):
        usual(sink, step, values)
        written.set()

    usual, written = WandbSink.write, threading.Event()
    monkeypatch.setattr(WandbSink, "write", write)
    run = training("lstm")
    theirs = wandb.init(project="theirs")
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=["wandb:mine:sites=all"]) as monitor:
        for step in range(5):
            with monitor.step(step) as one:
                one.loss(run.update())
            # Their row comes after the sample of the same step, in whose row the sample is.
            if step % 2 == 0:
                assert written.wait(60)
                written.clear()
            theirs.log({"accuracy": step / 10}, step=step)
    assert wandb.run is theirs
    theirs.log({"accuracy": 1.0}, step=5)
    theirs.finish()
    rows = history(tmp_path)
    accuracies = [row["accuracy"] for row in rows if "accuracy" in row]
    assert accuracies == [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
    assert [row[STEP] for row in rows if STEP in row] == [0, 2, 4]
    assert all("activation/head/rms" in row for row in rows if STEP in row)
    metrics = [record.metric.name for record in records(tmp_path) if record.WhichOneof("record_type") == "metric"]
    assert "loss" not in metrics


@pytest.mark.usefixtures("every_write_is_taken")
@pytest.mark.parametrize("by_text", [True, False])
def test_no_sample_is_lost_where_the_open_run_logs_nothing_itself(tmp_path, by_text):
    run = training("lstm")
    theirs = wandb.init(project="theirs")
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=["wandb:mine" if by_text else theirs]) as monitor:
        steps_of(run, monitor, 3)
    theirs.finish()
    assert [row[STEP] for row in history(tmp_path)] == [0, 1, 2]


def test_a_run_that_was_finished_is_one_warning(tmp_path, caplog):
    run = training("lstm")
    theirs = wandb.init(project="theirs")
    with propscope.monitor(run.model, run.optimizer, every=1, sinks=[theirs]) as monitor:
        theirs.finish()
        steps_of(run, monitor, 3)
    said = [record.message for record in caplog.records if "sink" in record.message]
    assert len(said) == 1
    assert said[0].startswith("the sink Run failed: ")
