"""A grid of trainings: the same runs however they are made, the best learning rate, and what an interrupt leaves."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from building.command_line import HANGS
from building.training_plans import plan_of, seen

import propscope
from propscope.errors import InputError
from propscope.experiments.engine import Failure
from propscope.experiments.training import collect, finish, run, trainings
from propscope.experiments.training.loop import train

pytestmark = pytest.mark.slow

SMALL = {"data": "moons", "rows": 100, "epochs": 2, "batch": 16, "profile_every": None}


def test_the_grid_in_its_order():
    found = propscope.train_mlp(
        2, [4, 8], activation="relu,tanh", initializer="zeros", seeds=[5, 2], workers=1, **SMALL
    )
    assert found.axes["width"] == (4, 8)
    labels = [(run.labels["activation"], run.labels["width"], run.labels["seed"]) for run in found]
    assert labels == [(act, width, seed) for act in ("relu", "tanh") for width in (4, 8) for seed in (5, 2)]
    assert found.select(activation="tanh", width=8, seed=2).labels["depth"] == 2


def test_other_processes_give_the_same_bits():
    options = {"initializer": "he_normal,zeros", "seeds": 2, "dropout": 0.3, "learning_rate": [0.1, 0.01]}
    plan = plan_of(**options, profile_every=None)
    alone = collect(plan, run(plan, workers=1))
    beside = collect(plan, run(plan, workers=2))
    assert [seen(each) for each in beside] == [seen(each) for each in alone]
    assert len(alone) == 4


def test_a_run_does_not_depend_on_those_before():
    plan = plan_of(seeds=3, dropout=0.3)
    jobs = plan.jobs()
    forwards = [train(plan, job, plan.data_of(job.cell.seed)) for job in jobs]
    backwards = [train(plan, job, plan.data_of(job.cell.seed)) for job in reversed(jobs)]
    assert [seen(each) for each in forwards] == [seen(each) for each in reversed(backwards)]


def test_networks_of_one_shape_and_other_rows_or_dtypes_are_apart():
    plan = plan_of(batch=[8, 32], dtype=["float32", "float64"], gain=[0.5, 1.0], seeds=2, learning_rate=[0.01, 0.1])
    found = collect(plan, run(plan, workers=1))
    names = ("gain", "dtype", "batch", "seed")
    assert [tuple(each.labels[name] for name in names) for each in found] == list(
        itertools.product([0.5, 1.0], ["float32", "float64"], [8, 32], [0, 1])
    )
    for each in found:
        alone = plan_of(
            batch=each.labels["batch"], dtype=each.labels["dtype"], gain=each.labels["gain"],
            seeds=[each.labels["seed"]], learning_rate=each.learning_rate,
        )  # fmt: skip
        (same,) = collect(alone, run(alone, workers=1))
        assert same.train_loss.tobytes() == each.train_loss.tobytes()
        assert same.provenance.dtype == each.labels["dtype"]


def test_the_best_learning_rate_is_chosen_for_each_network():
    rates = [1e-6, 1e-2, 1e6]
    tried = {"initializer": "he_normal,zeros", "seeds": 2, "optimizer": "sgd", "data": "linear", "validation": 0.3}
    plan = plan_of(**tried, learning_rate=rates)
    runs = list(run(plan, workers=1))
    assert len(runs) == 12
    chosen = collect(plan, reversed(runs))
    assert [each.learning_rate for each in chosen] == [1e-2] * 4
    assert [each.labels["seed"] for each in chosen] == [0, 1] * 2
    assert all(each.learning_rates_tried == tuple(rates) for each in chosen)
    assert "learning_rate" not in chosen[0].labels
    for each in chosen:
        alone = plan_of(**{**tried, "initializer": each.labels["initializer"]}, learning_rate=1e-2)
        found = next(made for _, made in run(alone, workers=1) if made.labels["seed"] == each.labels["seed"])
        assert found.train_loss.tobytes() == each.train_loss.tobytes()


def test_one_seed_that_diverges_outweighs_a_better_mean():
    plan = plan_of(seeds=2, learning_rate=[0.1, 0.2], epochs=1)
    runs = list(run(plan, workers=1))
    losses = {0.1: [0.9, 0.9], 0.2: [0.1, math.nan]}
    jobs = plan.jobs()

    def with_loss(number, each):
        from dataclasses import replace

        loss = losses[each.learning_rate][jobs[number].cell.seed]
        curve = each.validation_loss.copy()
        curve[-1] = loss
        bad = math.isnan(loss)
        return number, replace(each, validation_loss=curve, stability="diverged" if bad else "converged")

    assert {each.learning_rate for each in collect(plan, [with_loss(*pair) for pair in runs])} == {0.1}
    losses[0.2][1] = 1.5
    assert {each.learning_rate for each in collect(plan, [with_loss(*pair) for pair in runs])} == {0.2}
    losses[0.2][1] = 1.9
    assert {each.learning_rate for each in collect(plan, [with_loss(*pair) for pair in runs])} == {0.1}


def test_where_every_rate_diverges_the_runs_are_kept():
    plan = plan_of(data="linear", optimizer="sgd", learning_rate=[1e20, 1e10], seeds=2)
    chosen = collect(plan, run(plan, workers=1))
    assert [each.stability for each in chosen] == ["diverged"] * 2
    assert {each.learning_rate for each in chosen} == {1e20}


def test_a_divergence_does_not_stop_the_grid():
    found = propscope.train_mlp(
        12, 8, activation="relu", initializer="normal:std=1e10,he_normal", seeds=1, workers=1, **SMALL
    )
    assert [each.stability == "diverged" for each in found] == [True, False]


# Stopped before the end


def stopping(monkeypatch, after, error):
    made = []

    def stop(plan, job, data):
        if len(made) == after:
            raise error
        made.append(job)
        return train(plan, job, data)

    monkeypatch.setattr(trainings, "train", stop)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("no such file")], ids=repr)
def test_what_is_finished_is_kept(monkeypatch, error):
    stopping(monkeypatch, 2, error)
    plan = plan_of(initializer="zeros,ones", seeds=2)
    done, stopped = finish(plan, run(plan, workers=1))
    assert stopped is error
    # The seeds are outermost: both networks have their first.
    assert [(each.labels["initializer"], each.labels["seed"]) for each in done] == [("zeros", 0), ("ones", 0)]
    stopping(monkeypatch, 2, error)
    with pytest.warns(UserWarning, match=r"training stopped .*; 2 finished runs are returned"):
        assert len(propscope.train_mlp(2, 4, initializer="zeros,ones", seeds=2, workers=1, **SMALL)) == 2
    stopping(monkeypatch, 0, error)
    with pytest.raises(type(error)):
        propscope.train_mlp(2, 4, seeds=1, workers=1, **SMALL)


def test_seeds_without_every_learning_rate_do_not_decide(monkeypatch):
    stopping(monkeypatch, 3, KeyboardInterrupt())
    plan = plan_of(seeds=2, learning_rate=[1e-9, 0.01], epochs=10)
    done, _ = finish(plan, run(plan, workers=1))
    assert [(each.labels["seed"], each.learning_rate) for each in done] == [(0, 0.01)]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("no")], ids=repr)
def test_a_training_that_fails_twice_is_left_out_with_its_reason(monkeypatch, error):
    tried = []

    def fail(plan, job, data):
        tried.append(job.cell.seed)
        if job.cell.seed == 1:
            raise error
        return train(plan, job, data)

    monkeypatch.setattr(trainings, "train", fail)
    plan = plan_of(seeds=3)
    outcomes = dict(run(plan, workers=1))
    assert tried == [0, 1, 1, 2]
    assert isinstance(outcomes[1], Failure)
    with pytest.warns(UserWarning, match=rf"1 network failed.*\n.*seed 1.*: {type(error).__name__}"):
        done, stopped = finish(plan, iter(outcomes.items()))
    assert stopped is None
    assert [each.labels["seed"] for each in done] == [0, 2]
    with pytest.raises(type(error)):
        propscope.train_mlp(2, 4, seeds=[1], workers=1, **SMALL)


def test_an_interrupt_of_a_script_leaves_no_process(tmp_path):
    # No `if __name__ == "__main__"`: the script must not be run again by the processes beside it.
    script, own, progress = tmp_path / "script.py", tmp_path / "own.py", tmp_path / "progress"
    # A process that has begun waits for the other, however long that one takes to start.
    own.write_text(
        "import os, time\nsteps = 0\ndef act(z):\n    global steps\n    if len(z) == 16:\n        steps += 1\n"
        f"        with open({str(progress)!r}, 'a+') as file:\n            print(os.getpid(), file=file, flush=True)\n"
        "            while steps > 20 and file.seek(0) == 0 and len(set(file.read().split())) < 2:\n"
        "                time.sleep(0.01)\n"
        "    return z.relu()\n"
    )
    progress.touch()
    script.write_text(
        "import warnings, propscope\nwarnings.simplefilter('ignore')\n"
        "options = {'data': 'moons', 'rows': 50, 'epochs': 2, 'batch': 16, 'profile_every': 0}\n"
        f"found = propscope.train_mlp(1, 4, activation={str(own) + ':act'!r}, seeds=5000, workers=2, **options)\n"
        "print(0 < len(found) < 5000)\n"
    )
    line = [sys.executable, str(script)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def heed_interrupts():
        # Tests run in the background ignore them, and so would their children.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(line, **pipes, start_new_session=True, preexec_fn=heed_interrupts) as process:
        try:
            # Until both have finished networks, of four steps each.
            steps = Counter()
            while len(steps) < 2 or min(steps.values()) < 20:
                assert process.poll() is None
                time.sleep(0.01)
                steps = Counter(progress.read_text().split())
            # As a terminal does it: to every process of the group.
            os.killpg(process.pid, signal.SIGINT)
            # A process that is left would keep the pipes open.
            out, err = process.communicate(timeout=HANGS)
        finally:
            process.kill()
    assert (out, err, process.returncode) == ("True\n", "", 0)


# How many at a time


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_workers_that_are_not_valid(workers):
    with pytest.raises(InputError, match=r"workers must .* got .*"):
        propscope.train_mlp(1, 4, data="moons", workers=workers)


def test_nothing_is_said_where_stderr_is_no_terminal(capsys):
    propscope.train_mlp(1, 4, seeds=1, **SMALL)
    assert capsys.readouterr() == ("", "")
