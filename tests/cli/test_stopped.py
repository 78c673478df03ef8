"""What a run that is stopped leaves, by Ctrl-C, SIGTERM or SIGKILL, and how the next one goes on from it."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from building.command_line import HANGS, files
from building.records import plain, small_profile, small_set

from propscope.cli import main
from propscope.experiments import profile_mlp
from propscope.store import atomic, load, save
from propscope.store.journal import Journal

TINY = ("--depth", 2, "--width", 4, "--batch", 4, "--init", "he_normal", "--plots", "none")
JOURNAL = ".run.h5.partial"
# A run of this module waits for the file `go` once some networks are in its journal.
WAITS = """
import os, time, torch
def fill(weight):
    torch.nn.init.normal_(weight)
    while not os.path.exists('go') and os.path.getsize('.run.h5.partial') > 20_000:
        time.sleep(0.01)
"""
WAITING = ("--depth", 2, "--width", 4, "--batch", 4, "--init", "waits:fill", "--workers", 1, "--plots", "none")


def started(*line):
    return subprocess.Popen(
        [sys.executable, "-m", "propscope", *map(str, line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A run in the background ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def forked(*line):
    """Start a command line in a child that has everything imported."""
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(main([*map(str, line)])))
    child.start()
    return child


def until(happened, alive):
    while not happened():
        assert alive()
        time.sleep(0.002)


def wait_while(condition):
    while condition():
        time.sleep(0.002)


def size(path):
    return path.stat().st_size if path.exists() else 0


def before_each(monkeypatch, act):
    """Call `act` before each network is profiled."""
    module = sys.modules["propscope.experiments.profiling"]
    measure = module._profile

    def acting(*arguments):
        act()
        return measure(*arguments)

    monkeypatch.setattr(module, "_profile", acting)


def stop_after(monkeypatch, number, error=KeyboardInterrupt):
    calls = []

    def count():
        calls.append(1)
        if len(calls) > number:
            raise error

    before_each(monkeypatch, count)
    return calls


def records(path):
    journal = Journal.open(path)
    journal.close()
    # The first one describes the run.
    return len(journal) - 1


def runs(place):
    """The files of runs, also unfinished ones."""
    return {name for name in files(place) if "run" in name}


def same(one, other):
    assert [dict(profile.labels) for profile in one] == [dict(profile.labels) for profile in other]
    for left, right in zip(one, other, strict=True):
        assert plain(left.sites) == plain(right.sites)
        assert plain(left.parameters) == plain(right.parameters)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_after_a_kill_at_any_moment_the_same_command_goes_on(command, place, monkeypatch):
    line = ("profile", *TINY, "--seeds", 60, "-o", "run.h5")
    journal, finished, draw = place / JOURNAL, 0, random.Random(0)
    with monkeypatch.context() as patch:
        # The last networks wait: no run ends before it is killed.
        before_each(patch, lambda: wait_while(lambda: size(journal) > 330_000))
        for _ in range(5):
            wanted = size(journal) + draw.randrange(1, 60_000)
            child = forked(*line)
            until(lambda wanted=wanted: size(journal) > wanted, child.is_alive)
            child.kill()
            child.join()
            assert child.exitcode == -signal.SIGKILL
            # Nothing half-written has the name of the result, and nothing that was finished is gone.
            assert set(files(place)) == {JOURNAL}
            assert records(journal) > finished
            finished = records(journal)
    outcome = command(*line)
    assert outcome.code == 0
    assert outcome.err == f"going on with run.h5: {finished} of 60 networks are finished\n"
    assert "60 networks in " in outcome.out
    assert set(files(place)) == {"run.h5"}
    same(load("run.h5"), profile_mlp(2, 4, initializer="he_normal", seeds=60, batch=4))


@pytest.mark.slow
def test_after_a_kill_at_any_moment_a_run_with_workers_goes_on(command, place):
    (place / "waits.py").write_text(WAITS.replace("20_000", "170_000"))
    line = ("profile", *WAITING, "--seeds", 40, "-o", "run.h5", "--workers", 2)
    journal, finished, draw = place / JOURNAL, 0, random.Random(1)
    for _ in range(3):
        wanted = size(journal) + draw.randrange(1, 50_000)
        with started(*line) as running:
            until(lambda wanted=wanted: size(journal) > wanted, lambda: running.poll() is None)
            running.kill()
            # The pipes end when the workers have ended too.
            running.communicate(timeout=HANGS)
        assert set(files(place)) == {JOURNAL, "waits.py"}
        assert records(journal) > finished
        finished = records(journal)
    (place / "go").touch()
    outcome = command(*line, "--resume", "run.h5")
    assert (outcome.code, outcome.err) == (0, f"going on with run.h5: {finished} of 40 networks are finished\n")
    assert runs(place) == {"run.h5"}
    same(load("run.h5"), profile_mlp(2, 4, initializer="waits:fill", seeds=40, batch=4, workers=1))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_prints_and_goes_on(place, command, number, code):
    line = ("profile", *WAITING, "--seeds", 30, "-o", "run.h5")
    (place / "waits.py").write_text(WAITS)
    with started(*line) as running:
        until(lambda: size(place / JOURNAL) > 20_000, lambda: running.poll() is None)
        running.send_signal(number)
        (place / "go").touch()
        out, err = running.communicate(timeout=HANGS)
    assert running.returncode == code
    kept = load("run.h5")
    assert 0 < len(kept) < 30
    assert [profile.labels["seed"] for profile in kept] == list(range(len(kept)))
    assert out.startswith("1 pair, initializer waits:fill, activation relu, depth 2, width 4, batch 4, ")
    assert f"{len(kept)} networks in " in out
    # Before it, a line every ten seconds on a busy machine.
    assert err.splitlines()[-1] == f"stopped after {len(kept)} of 30 networks; their results are saved"
    assert runs(place) == {"run.h5"}
    outcome = command(*line)
    assert outcome.code == 0
    assert outcome.err == f"going on with run.h5: {len(kept)} of 30 networks are finished\n"
    assert [profile.labels["seed"] for profile in load("run.h5")] == list(range(30))
    assert runs(place) == {"run.h5"}
    # A complete file is kept, as ever.
    assert command(*line).error == "run.h5 exists and is kept"


class Killed(BaseException):
    """Ends a command without anything that it does at its end."""


def killed(command, monkeypatch, *line, after=2):
    with monkeypatch.context() as patch:
        stop_after(patch, after, Killed)
        with pytest.raises(Killed):
            command(*line)


OTHERS = {
    ("--depth", 3): "depth 2 3",
    ("--width", "4,8"): "width 4 8",
    ("--init", "he_normal,zeros"): "initializer he_normal zeros",
    ("--act", "tanh"): "activation relu tanh",
    ("--seeds", 5): "seeds 0..3 0..4",
    ("--batch", 5): "batch 4 5",
    ("--loss", "mse"): "loss cotangent mse",
    ("--dtype", "float64"): "dtype float32 float64",
    ("--bias", 0.5): "bias null 0.5",
    ("--jacobian",): "jacobian 0 4",
    ("--input", "uniform"): "input normal uniform",
    ("--dropout", 0.5): "dropout 0.0 0.5",
}


@pytest.mark.slow
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "file"])
def test_another_grid_is_refused_by_its_difference(command, place, monkeypatch, journal):
    line = ("profile", *TINY, "--seeds", 4, "-o", "run.h5")
    if journal:
        killed(command, monkeypatch, *line)
    else:
        with monkeypatch.context() as patch:
            stop_after(patch, 2)
            assert command(*line).code == 130
    before = files(place)
    assert set(before) == ({JOURNAL} if journal else {"run.h5"})
    for options, words in OTHERS.items():
        assert not command("profile", *TINY, "--seeds", 4, *options, "--resume", "run.h5").missing(words)
    assert files(place) == before
    with monkeypatch.context() as patch:
        calls = stop_after(patch, 4)
        outcome = command("profile", *TINY, "--seeds", 4, "--resume", "run.h5")
    assert (outcome.code, len(calls)) == (0, 2)
    assert set(files(place)) == {"run.h5"}
    same(load("run.h5"), profile_mlp(2, 4, initializer="he_normal", seeds=4, batch=4))


def test_a_name_with_the_work_of_another_run_is_kept_unless_asked(command, place, monkeypatch):
    killed(command, monkeypatch, "profile", *TINY, "--seeds", 4, "-o", "run.h5")
    before = files(place)
    outcome = command("profile", *TINY, "--seeds", 3, "-o", "run.h5")
    assert not outcome.missing(f"{JOURNAL} run.h5 seeds 0..3 0..2")
    assert "--overwrite" in outcome.hint
    assert files(place) == before
    assert "3 networks in" in command.fine("profile", *TINY, "--seeds", 3, "-o", "run.h5", "--overwrite")
    assert set(files(place)) == {"run.h5"}


def test_a_journal_may_be_named_and_a_name_without_one_is_an_error(command, place, monkeypatch):
    line = ("profile", *TINY, "--seeds", 3)
    outcome = command(*line, "--resume", "run.h5")
    assert not outcome.missing("run.h5 journal")
    assert files(place) == {}
    killed(command, monkeypatch, *line, "-o", "run.h5")
    assert not command(*line, "--resume", "run.h5", "-o", "other.h5").missing("--resume run.h5 --output other.h5")
    assert command(*line, "--resume", JOURNAL).code == 0
    assert set(files(place)) == {"run.h5"}
    # A run that was complete already computes nothing.
    calls = stop_after(monkeypatch, 0)
    outcome = command(*line, "--resume", "run.h5")
    assert (outcome.code, len(calls)) == (0, 0)
    assert "3 of 3" in outcome.err


def test_the_default_name_goes_on_and_another_grid_takes_the_next(command, place, monkeypatch):
    line = ("profile", *TINY, "--seeds", 3)
    command.fine(*line)
    killed(command, monkeypatch, *line, after=1)
    assert set(files(place)) == {"outputs", "outputs/mlp-relu-d2.h5", "outputs/.mlp-relu-d2-2.h5.partial"}
    assert "outputs/mlp-relu-d2-3.h5" in command.fine("profile", *TINY, "--seeds", 2)
    outcome = command(*line)
    assert outcome.err == "going on with outputs/mlp-relu-d2-2.h5: 1 of 3 networks are finished\n"
    assert len(load("outputs/mlp-relu-d2-2.h5")) == 3


def test_a_default_name_is_replaced_when_asked(command, place):
    for seeds in (2, 1):
        command.fine("profile", *TINY, "--seeds", seeds, "--overwrite")
    assert set(files(place)) == {"outputs", "outputs/mlp-relu-d2.h5"}
    assert len(load("outputs/mlp-relu-d2.h5")) == 1


def test_the_loser_of_two_writers_keeps_its_work(command, place, monkeypatch):
    before_each(monkeypatch, lambda: (place / "run.h5").write_text("of another"))
    outcome = command("profile", *TINY, "--seeds", 2, "-o", "run.h5")
    assert outcome.code == 0
    assert "run-2.h5" in outcome.err
    assert "file      run-2.h5" in outcome.out
    assert (place / "run.h5").read_text() == "of another"
    assert len(load("run-2.h5")) == 2
    assert set(files(place)) == {"run.h5", "run-2.h5"}


@pytest.mark.slow
def test_two_runs_at_once_keep_both(place, command):
    (place / "waits.py").write_text(WAITS)
    with started("profile", *WAITING, "--seeds", 20, "-o", "run.h5") as first:
        until(lambda: size(place / JOURNAL) > 20_000, lambda: first.poll() is None)
        assert "another process" in command("profile", *TINY, "--seeds", 3, "--resume", "run.h5").error
        command.fine("profile", *TINY, "--seeds", 3, "-o", "run.h5")
        (place / "go").touch()
        _, err = first.communicate(timeout=HANGS)
    assert first.returncode == 0
    assert "run-2.h5" in err
    assert (len(load("run.h5")), len(load("run-2.h5"))) == (3, 20)
    assert runs(place) == {"run.h5", "run-2.h5"}


def test_what_a_killed_process_left_is_removed_at_the_next_start(command, place):
    (place / ".propscope-0123456789abcdef.tmp").write_bytes(b"half a file")
    command.fine("profile", *TINY, "--seeds", 1, "-o", "run.h5")
    assert set(files(place)) == {"run.h5"}


@pytest.mark.parametrize("name", ["profile", "train"])
def test_a_name_that_cannot_be_written_is_known_before_the_work(command, place, monkeypatch, name):
    monkeypatch.setattr(sys.modules["propscope.experiments.profiling"], "_profile", None)
    (place / "dangling.h5").symlink_to("nowhere/run.h5")
    (place / "dangling").symlink_to("nowhere")
    os.mkfifo(place / "fifo.h5")
    line = (name, "--depth", 1, "--width", 4, "--seeds", 1, "--init", "he_normal", "--plots", "none")
    before = files_but_pipes(place)
    assert not command(*line, "-o", "missing/run.h5").missing("missing/run.h5 directory missing")
    assert not command(*line, "-o", "missing/deep/run.h5").missing("missing/deep/run.h5 directory")
    assert not command(*line, "-o", "dangling.h5").missing("dangling.h5 link nowhere/run.h5")
    assert not command(*line, "-o", "dangling/run.h5").missing("dangling/run.h5 link nowhere")
    assert not command(*line, "-o", "fifo.h5", "--overwrite").missing("fifo.h5 FIFO")
    assert files_but_pipes(place) == before


def files_but_pipes(place: Path):
    return sorted(str(path) for path in place.rglob("*"))


def raising(number):
    """Return what sends this process a signal, whatever is called."""

    def stop(*arguments, **options):
        # A test that runs in the background ignores interrupts.
        if signal.getsignal(number) is signal.SIG_IGN:
            raise KeyboardInterrupt
        assert signal.getsignal(number) is not signal.SIG_DFL
        signal.raise_signal(number)
        time.sleep(HANGS)

    return stop


MODEL = "import torch\nbuild = lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())\n"
DRAWING = {
    "profile": ("profile", *TINY[:-2], "--seeds", 2, "-o", "run.h5"),
    "train": ("train", "--depth", 1, "--width", 4, "--init", "zeros", "--seeds", 1, "--epochs", 1, "-o", "run.h5"),
    "inspect": ("inspect", "net.py:build", "--input-shape", "2,4", "--output", "run.h5", "--plots", "all"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("where", ["matplotlib.figure.Figure.savefig", "propscope.plots.gallery.os.replace"])
@pytest.mark.parametrize("name", DRAWING)
def test_a_signal_while_pictures_are_drawn_loses_nothing(command, place, monkeypatch, name, where, number, code):
    (place / "net.py").write_text(MODEL)
    if where.endswith("os.replace"):
        # The file itself is renamed, too.
        replace, stop = os.replace, raising(number)
        monkeypatch.setattr(where, lambda old, new: replace(old, new) if str(new).endswith(".h5") else stop())
    else:
        monkeypatch.setattr(where, raising(number))
    outcome = command(*DRAWING[name])
    assert outcome.code == code, outcome
    assert "file      run.h5" in outcome.out
    assert outcome.out.index("\n") < outcome.out.index("file      run.h5")
    assert len(load("run.h5")) > 0
    assert runs(place) == {"run.h5"}
    assert not [name for name in files(place) if name.startswith(".")]


def test_inspect_says_what_it_has_when_pictures_fail(command, place, monkeypatch):
    (place / "net.py").write_text(MODEL)

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("propscope.plots.gallery.write_figure", fail)
    outcome = command(*DRAWING["inspect"])
    assert (outcome.code, "file      run.h5" in outcome.out) == (2, True)
    assert outcome.out.startswith("net.py:build: Sequential, input 2,4")
    outcome = command(*DRAWING["inspect"], "--json", "--overwrite")
    assert outcome.code == 2
    assert json.loads(outcome.out)["file"] == "run.h5"


RATES = ("train", "--depth", 1, "--width", 4, "--init", "he_normal", "--seeds", 2, "--epochs", 1, "--data", "moons")
RATES += ("--rows", 40, "--lr", "0.1,0.01", "--workers", 1, "--plots", "none", "-o", "run.h5")


@pytest.mark.slow
@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
@pytest.mark.parametrize("finished", [1, 3])
def test_a_training_of_several_learning_rates_goes_on(command, place, monkeypatch, finished, error):
    module = sys.modules["propscope.experiments.training.trainings"]
    train, calls = module.train, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) > finished:
            raise error
        return train(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", stopping)
        if error is Killed:
            with pytest.raises(Killed):
                command(*RATES)
            assert runs(place) == {JOURNAL}
        else:
            assert command(*RATES).code == 130
            # The best rate is known where a network has both.
            assert runs(place) == ({JOURNAL, "run.h5"} if finished > 1 else {JOURNAL})
    assert records(place / JOURNAL) == finished
    outcome = command(*RATES)
    assert (outcome.code, outcome.err) == (0, f"going on with run.h5: {finished} of 4 runs are finished\n")
    assert runs(place) == {"run.h5"}
    goes_on = load("run.h5")
    command.fine(*RATES, "--overwrite")
    for one, other in zip(goes_on, load("run.h5"), strict=True):
        assert one.learning_rates_tried == other.learning_rates_tried == (0.1, 0.01)
        assert dict(one.labels) == dict(other.labels)
        assert one.train_loss.tolist() == other.train_loss.tolist()


def killed_in(step, *line):
    """Run a command line in a child that is killed when it calls a step of writing a file."""

    def run():
        setattr(atomic, step, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        os._exit(main([*map(str, line)]))

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join(HANGS)
    assert child.exitcode == -signal.SIGKILL


WRITING = {
    "profile": ("profile", *TINY, "--seeds", 2, "-o", "run.h5"),
    "train": RATES,
    "merge": ("merge", "one.h5", "two.h5", "-o", "run.h5"),
    "inspect": ("inspect", "net.py:build", "--input-shape", "2,4", "--output", "run.h5"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("there", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("step", ["seal_of", "_publish"])
@pytest.mark.parametrize("name", WRITING)
def test_a_kill_while_the_file_is_written_leaves_the_one_before(command, place, name, step, there):
    (place / "net.py").write_text(MODEL)
    save("one.h5", small_set())
    save("two.h5", small_profile(seed=7))
    if there:
        (place / "run.h5").write_bytes((place / "one.h5").read_bytes())
    before = files(place)
    line = (*WRITING[name], *["--overwrite"] * there)
    killed_in(step, *line)
    left = files(place)
    new = left.keys() - before.keys()
    assert {path: left[path] for path in before} == before
    assert {path.partition("-")[0] for path in new} <= {".propscope", JOURNAL}
    outcome = command(*line)
    assert outcome.code == 0, outcome
    assert outcome.err.startswith("going on with run.h5: ") == (name in ("profile", "train"))
    assert files(place).keys() == before.keys() | {"run.h5"}
    assert len(load("run.h5")) > 0
