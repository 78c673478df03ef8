"""What MLflow keeps of a run, read back from a local store by its own client."""

import math

import mlflow
import pytest
from building.trainings import steps_of, training

import propscope
from propscope.monitoring.sinks import MlflowSink

pytestmark = pytest.mark.usefixtures("every_write_is_taken")


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of a store of files, which the newest versions allow where they are told to, and sqlite needs more."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def runs_of(client, name):
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])


def points(client, run, key):
    return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, key)]


def test_the_samples_and_alarms_of_a_run_are_read_back(client):
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=["mlflow:mine:sites=all"]) as monitor:
        steps_of(run, monitor, 5, broken=[4])
        sample = monitor.profile
    (kept,) = runs_of(client, "mine")
    assert kept.info.status == "FINISHED"
    assert points(client, kept, "loss") == [(step, monitor.steps.loss[step]) for step in (0, 2, 4)]
    assert points(client, kept, "gradient_norm")[2] == (4, math.inf)
    # MLflow takes no "#" in a name.
    name = "blocks.0.add#1"
    assert points(client, kept, "activation/blocks.0.add_1/rms")[2] == (4, sample[name].forward.rms)
    alarms = {key: text for key, text in kept.data.tags.items() if "alarm" in key}
    assert [*alarms] == ["propscope.alarm.4.non-finite gradient"]
    assert "the gradient of tokens.weight is not finite" in alarms["propscope.alarm.4.non-finite gradient"]
    assert mlflow.active_run() is None


def test_numbers_that_are_not_finite_are_kept(client):
    sink = MlflowSink.opened("mine")
    for step, value in enumerate((math.nan, math.inf, -math.inf)):
        sink.write(step, {"loss": value})
    sink.close()
    (kept,) = runs_of(client, "mine")
    assert points(client, kept, "loss") == [(0, pytest.approx(math.nan, nan_ok=True)), (1, math.inf), (2, -math.inf)]


@pytest.mark.parametrize("by_text", [True, False])
def test_an_active_run_is_joined_and_stays_active(client, by_text):
    run = training("lstm")
    mlflow.set_experiment("theirs")
    with mlflow.start_run() as active:
        sinks = ["mlflow:mine" if by_text else active]
        with propscope.monitor(run.model, run.optimizer, every=1, sinks=sinks) as monitor:
            steps_of(run, monitor, 2)
        assert mlflow.active_run().info.run_id == active.info.run_id
        mlflow.log_metric("accuracy", 0.5, step=2)
    (kept,) = runs_of(client, "theirs")
    assert [step for step, _ in points(client, kept, "loss")] == [0, 1]
    assert points(client, kept, "accuracy") == [(2, 0.5)]
    assert client.get_experiment_by_name("mine") is None


def test_more_metrics_than_one_call_may_bring_are_all_logged(client):
    sink = MlflowSink.opened("mine")
    sink.write(0, {f"activation/{at}/rms": float(at) for at in range(1100)})
    sink.close()
    (kept,) = runs_of(client, "mine")
    assert kept.data.metrics == {f"activation/{at}/rms": float(at) for at in range(1100)}
