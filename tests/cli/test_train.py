"""`propscope train`: file, table, pictures and JSON; everything that may be wrong; what an interrupt leaves."""

import os
import sys

import pytest
from building.command_line import files

from propscope.errors import InputError
from propscope.experiments.training import train_mlp, trainings
from propscope.store import load

TINY = ("--data", "moons", "--rows", 60, "--depth", 1, "--width", 4, "--epochs", 2, "--seeds", 2, "--workers", 1)
BARE = (*TINY, "--init", "he_normal,zeros", "--plots", "none")


@pytest.mark.slow
def test_a_file_a_table_and_pictures(command, place):
    out = command.fine("train", *TINY, "--init", "he_normal", "--act", "tanh").splitlines()
    assert out[0].startswith("1 trained pair, ")
    assert "file      outputs/train-moons-tanh-d1.h5" in out
    assert "plots     outputs/train-moons-tanh-d1-learning.png" in out
    assert out[-1].startswith("2 runs in ")
    assert "outputs/train-moons-tanh-d1-learning.png" in files(place)
    assert command.fine("show", "outputs/train-moons-tanh-d1.h5").splitlines()[:5] == out[:5]


@pytest.mark.slow
def test_the_file_holds_what_python_trains(command):
    command.fine("train", *BARE, "--lr", "1e-3,1e-2", "--profile-every", 1, "-o", "run.h5")
    stored = load("run.h5")
    trained = train_mlp(
        1, 4, initializer="he_normal,zeros", data="moons", rows=60, epochs=2, seeds=2, learning_rate=[1e-3, 1e-2],
        profile_every=1, workers=1,
    )  # fmt: skip
    assert [dict(run.labels) for run in stored] == [dict(run.labels) for run in trained]
    for one, other in zip(stored, trained, strict=True):
        assert one.train_loss.tobytes() == other.train_loss.tobytes()
        assert (one.learning_rate, one.learning_rates_tried) == (other.learning_rate, (1e-3, 1e-2))
        assert [epoch for epoch, _ in one.profiles] == [0, 1, 2]


def test_json_is_one_document_and_nothing_else(command):
    document = command("train", *BARE, "--json").document
    assert document["file"] == "outputs/train-moons-relu-d1.h5"
    assert [pair["labels"]["initializer"] for pair in document["pairs"]] == ["he_normal", "zeros"]
    assert document["pictures"] == []
    assert document["seconds"] > 0
    # Another run takes another name.
    assert command("train", *BARE, "--json").document["file"] == "outputs/train-moons-relu-d1-2.h5"


@pytest.mark.slow
def test_axes_of_a_training(command):
    command.fine(
        "train", *TINY, "--init", "normal", "--weight-variance", "1..2:2", "--bias-variance", 0.1, "--norm", "none,rms",
        "--residual-scale", "none,1/sqrt(L)", "--batch", "8..16:8", "--dtype", "float32,float64", "--plots", "none",
        "--seeds", 1, "-o", "axes.h5",
    )  # fmt: skip
    axes = load("axes.h5").axes
    assert len(load("axes.h5")) == 32
    names = ("weight_variance", "bias_variance", "norm", "residual", "batch", "dtype")
    assert {name: axes[name] for name in names} == {
        "weight_variance": (1.0, 2.0), "bias_variance": (0.1,), "norm": ("none", "rms"),
        "residual": ("False", "1/sqrt(L)"), "batch": (8, 16), "dtype": ("float32", "float64"),
    }  # fmt: skip


def test_weight_variance_scales_normal_weights_by_default(command):
    command.fine("train", *TINY, "--weight-variance", 1, "--plots", "none", "-o", "run.h5")
    assert load("run.h5").axes["initializer"] == ("normal",)


def test_every_option_reaches_the_training(command):
    command.fine(
        "train", *BARE, "--depth", 2, "--width", "8-4", "--act", "elu:alpha=2", "--optimizer", "momentum:momentum=0.5",
        "--lr", 0.25, "--batch", 8, "--weight-decay", 0.125, "--target", 0.5, "--scale", "minmax", "--validation", 0.5,
        "--profile-every", 0, "--bias", 0.5, "--norm", "layer", "--dropout", 0.25, "--dtype", "float64", "--epochs", 3,
        "--threads", 1, "--device", "cpu", "-o", "all.h5",
    )  # fmt: skip
    run = load("all.h5", initializer="he_normal")[0]
    assert dict(run.labels) == {
        "initializer": "he_normal",
        "activation": "elu:alpha=2",
        "depth": 2,
        "width": "8-4",
        "bias": 0.5,
        "norm": "layer",
        "dropout": 0.25,
        "dtype": "float64",
        "data": "moons",
        "optimizer": "momentum:momentum=0.5",
        "learning_rate": 0.25,
        "epochs": 3,
        "batch": 8,
        "weight_decay": 0.125,
        "scale": "minmax",
        "rows": 60,
        "validation": 0.5,
        "seed": 0,
    }
    assert (run.target, run.steps_per_epoch, run.profiles) == (0.5, 4, ())
    command.fine("train", *BARE, "--residual", "--alpha-dropout", 0.125, "-o", "residual.h5")
    assert load("residual.h5")[0].labels["residual"] == "True"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", "0.1,fast"), "--lr fast"),
        (("--lr", "-1"), "learning_rate -1 0"),
        (("--depth", "two"), "--depth two"),
        (("--epochs", 0), "epochs 0 1"),
        (("--optimizer", "adan"), "optimizer adan sgd momentum sgd_momentum adam adamw"),
        (("--optimizer", "sgd:momentum=0.9"), "optimizer sgd momentum"),
        (("--data", "mnist:path=nowhere"), "folder nowhere"),
        (("--data", "mnist"), "data mnist folder files"),
        (("--validation", 0.001), "validation 0.001 60 0"),
        (("--workers", 0), "workers 0 1"),
        (("--init", "he"), "initializer he he_normal"),
    ],
    ids=str,
)  # fmt: skip
def test_refusals_are_one_line_and_leave_nothing(command, place, options, message):
    outcome = command("train", *BARE, *options)
    assert not outcome.missing(message)
    assert files(place) == {}


def test_existing_files_are_replaced_only_when_asked(command, place):
    (place / "run.h5").write_text("precious")
    outcome = command("train", *BARE, "--epochs", 100_000, "-o", "run.h5")
    assert outcome.error == "run.h5 exists and is kept"
    assert (place / "run.h5").read_text() == "precious"
    command.fine("train", *BARE, "-o", "run.h5", "--overwrite")
    assert len(load("run.h5")) == 4


def test_a_divergence_is_a_row_of_the_table(command):
    out = command.fine(
        "train",
        *BARE,
        "--data",
        "linear",
        "--init",
        "he_normal,ones",
        "--optimizer",
        "sgd",
        "--lr",
        "1e12",
        "-o",
        "x.h5",
    )
    assert "diverged (step " in out
    assert {run.stability for run in load("x.h5")} == {"diverged"}


def stop_after(monkeypatch, number, error):
    train, made = trainings.train, []

    def stopping(plan, job, data):
        if len(made) == number:
            raise error
        made.append(job)
        return train(plan, job, data)

    monkeypatch.setattr(trainings, "train", stopping)


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [(KeyboardInterrupt(), 130, "saved"), (InputError("no room", hint="make some"), 2, "hint: make some")],
    ids=["interrupt", "error"],
)
def test_what_is_finished_is_stored(command, monkeypatch, error, code, last):
    stop_after(monkeypatch, 3, error)
    outcome = command("train", *BARE)
    assert outcome.code == code
    said = outcome.err.splitlines()
    assert said[0] == "stopped after 3 of 4 networks; their results are saved"
    assert said[-1].endswith(last)
    assert outcome.out.startswith("2 trained pairs")
    found = load("outputs/train-moons-relu-d1.h5")
    assert [(run.labels["initializer"], run.labels["seed"]) for run in found] == [
        ("he_normal", 0), ("he_normal", 1), ("zeros", 0),
    ]  # fmt: skip


def test_an_interrupt_before_the_first_leaves_nothing(command, monkeypatch, place):
    stop_after(monkeypatch, 0, KeyboardInterrupt())
    outcome = command("train", *BARE)
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "stopped after 0 of 4 networks\n")
    assert set(files(place)) <= {"outputs"}


def test_progress_goes_to_a_terminal(command, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    outcome = command("train", *BARE)
    assert outcome.code == 0
    assert "/4 [" in outcome.err
    assert os.listdir("outputs") == ["train-moons-relu-d1.h5"]
    assert command("train", *BARE, "--json").err == ""
