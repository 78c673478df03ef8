"""`propscope show`, `plot` and `merge` of a file that holds trainings."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from propscope.plots import TRAINING_PLOTS
from propscope.records import TrainingRun, TrainingSet
from propscope.store import load, save


@pytest.fixture
def trained_file(run_file):
    """Trainings around the profiles of `run_file`: zeros stays where it is, he_normal learns."""

    def around(profile):
        curve = np.full(3, 2.3) if profile.labels["initializer"] == "zeros" else np.array([2.3, 1.0, 0.5])
        return TrainingRun(
            labels={**profile.labels, "optimizer": "sgd"},
            task="classification",
            learning_rate=0.1,
            learning_rates_tried=(0.1, 0.01),
            train_loss=curve,
            train_accuracy=1 - curve / 2.5,
            validation_loss=curve,
            validation_accuracy=1 - curve / 2.5,
            update_ratio=np.full(2, 0.01),
            steps_per_epoch=4,
            stability="stalled" if curve[1] == 2.3 else "converged",
            profiles=tuple((epoch, profile) for epoch in range(3)),
            provenance=profile.provenance,
        )

    save("trained.h5", TrainingSet.of(map(around, load(run_file))))
    return "trained.h5"


def test_the_table_of_trainings(command, trained_file):
    out = command.fine("show", trained_file)
    assert out == str(load(trained_file)) + "\n"
    assert out.splitlines()[0] == "4 trained pairs, depth 3, width 8, batch 8, optimizer sgd, 2 seeds, 2 epochs"
    rows = [line.split() for line in out.splitlines()[5:9]]
    assert [row[:2] for row in rows] == [
        ["relu", "he_normal"],
        ["relu", "zeros"],
        ["tanh", "he_normal"],
        ["tanh", "zeros"],
    ]
    assert [row[-2] for row in rows] == ["converged", "stalled", "converged", "stalled"]
    assert command.fine("show", trained_file, "--act", "relu", "--seed", "1").startswith(
        "2 trained pairs, activation relu"
    )


def test_json_of_trainings(command, trained_file):
    pairs = command("show", trained_file, "--json").document
    assert [pair["stability"] for pair in pairs] == [{"converged": 2}, {"stalled": 2}] * 2
    assert pairs[0]["final_accuracy"] == {
        "center": pytest.approx(0.8),
        "low": pytest.approx(0.8),
        "high": 0.8,
        "count": 2,
    }
    assert pairs[0]["steps_to_target"] is None


@pytest.mark.slow
def test_a_narrow_terminal_drops_the_intervals(command, trained_file, monkeypatch):
    (first, *others) = load(trained_file)
    wider = dataclasses.replace(first, validation_accuracy=np.array([0.0, 0.0, 0.75]))
    save(trained_file, TrainingSet((wider, *others)), overwrite=True)
    for width, limits in ((200, True), (70, False)):
        monkeypatch.setattr("propscope.report.terminal.terminal_width", lambda width=width: width)
        assert ("%, " in command.fine("show", trained_file)) is limits


@pytest.mark.slow
def test_the_pictures_of_trainings(command, trained_file, place):
    listed = command.fine("plot", trained_file, "--act", "relu").splitlines()
    names = [plot.name for plot in TRAINING_PLOTS]
    # Nothing that is a number differs among these networks, over which their final losses could be drawn.
    assert listed == [f"trained-{name}.png" for name in names if name != "final-loss"]
    assert all((place / name).read_bytes().startswith(b"\x89PNG") for name in listed)
    assert f"valid are {', '.join(names)}" in command("plot", trained_file, "--plots", "weights").error


@pytest.mark.slow
def test_merging_counts_both_kinds(command, run_file, trained_file):
    outcome = command("merge", trained_file, trained_file, "-o", "two.h5")
    assert outcome.out == "8 training runs in two.h5\n"
    assert outcome.err.startswith(f"left out 8 training runs of {trained_file}: ")
    out = command.fine("merge", trained_file, run_file, "-o", "mixed.h5")
    assert out == "8 training runs and 8 profiles in mixed.h5\n"
    assert Path("mixed.h5").exists()
