"""`profile` and `train` with workers: what is listed, what goes on, what is said on the way, and what is imported."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from building.command_line import HANGS, files

from propscope.cli import progress
from propscope.store import load

SMALL = ("profile", "--depth", 2, "--width", 4, "--batch", 4, "--plots", "none", "-o", "run.h5")
TINY = (*SMALL, "--init", "he_normal")
OWN = """
import os, signal, time, torch
def deadly(weight):
    if os.path.exists("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    torch.nn.init.normal_(weight)
def waits(weight):
    while os.path.exists("wait") and os.path.getsize(".run.h5.partial") > 20_000:
        time.sleep(0.01)
    torch.nn.init.normal_(weight)
"""


@pytest.mark.slow
def test_a_network_whose_worker_is_killed_is_listed_and_run_by_the_next(command, place):
    (place / "own.py").write_text(OWN)
    (place / "deadly").touch()
    line = (*SMALL, "--init", "he_normal,own.py:deadly,zeros", "--seeds", 2, "--workers", 2)
    outcome = command(*line)
    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        "2 networks failed, twice each:",
        *(
            f"  initializer own.py:deadly, activation relu, depth 2, width 4, batch 4, seed {seed}: "
            "its process was killed; memory may have run out"
            for seed in (0, 1)
        ),
    ]
    assert "4 networks in " in outcome.out
    assert {profile.labels["initializer"] for profile in load("run.h5")} == {"he_normal", "zeros"}
    (place / "deadly").unlink()
    outcome = command(*line, "--resume", "run.h5")
    assert (outcome.code, outcome.err) == (0, "going on with run.h5: 4 of 6 networks are finished\n")
    found = load("run.h5")
    order = [(profile.labels["initializer"], profile.labels["seed"]) for profile in found]
    assert order == [(name, seed) for name in ("he_normal", "own.py:deadly", "zeros") for seed in (0, 1)]
    assert set(files(place)) == {"own.py", "run.h5"}


@pytest.mark.slow
def test_where_every_network_fails_there_is_no_file(command, place):
    (place / "own.py").write_text(OWN)
    (place / "deadly").touch()
    outcome = command(*SMALL, "--init", "own.py:deadly", "--seeds", 20, "--workers", 2)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[0] == "20 networks failed, twice each:"
    assert outcome.err.splitlines()[-1] == "  and 8 more"
    assert set(files(place)) == {"own.py", "deadly"}


def test_code_that_ends_the_program_is_refused(command, place):
    code = "import sys\ndef leaves(*_, **__): sys.exit(0)\ndef act(z): return z\n"
    (place / "own.py").write_text(code)
    (place / "script.py").write_text(code + "sys.exit()\n")
    for line in (
        ("profile", "--act", "own.py:leaves"),
        ("profile", "--init", "own.py:leaves", "-o", "run.h5"),
        ("profile", "--act", "script.py:act"),
        ("inspect", "own.py:leaves", "--input-shape", "2,4"),
    ):
        assert not command(*line).missing("SystemExit")
    assert set(files(place)) == {"own.py", "script.py"}


@pytest.mark.slow
def test_a_run_without_stdout(place):
    line = [sys.executable, "-m", "propscope", *map(str, TINY), "--seeds", "3", "--workers", "2"]
    assert subprocess.run(line, preexec_fn=lambda: os.close(1), timeout=HANGS).returncode == 0
    assert len(load("run.h5")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", 0), "workers 0 1"),
        (("--workers", -2), "workers -2 1"),
        (("--engine", "dask"), "engine joblib dask:ADDRESS dask"),
        (("--engine", "threads"), "engine joblib dask:ADDRESS threads"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["profile", "train"])
def test_what_is_refused(command, place, name, options, message):
    assert not command(name, *options).missing(message)
    assert files(place) == {}


def test_a_line_of_progress_where_stderr_is_no_terminal(command, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    lines = command(*TINY, "--seeds", 3).err.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(rf"{number} of 3 networks, \S+ a second, \d+ s left", line)
    assert lines[-1].endswith(" 0 s left")
    # What is already there counts for no rate, and one JSON document stays alone.
    assert command(*TINY, "--seeds", 3, "--overwrite", "--json").err == ""


@pytest.mark.slow
def test_the_process_of_a_command_imports_no_torch_and_draws_in_another(place):
    code = (
        "import sys, propscope.cli\n"
        "line = 'profile --depth 2 --width 4 --batch 4 --init he_normal --seeds 2 --plots main'\n"
        "print('code', propscope.cli.main(line.split()))\n"
        "print('imported', *sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'matplotlib', 'h5py'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS)
    out = done.stdout.splitlines()
    assert out[-2:] == ["code 0", "imported h5py"], done
    assert [line.split()[-1] for line in out if line.endswith(".png")] == [
        f"outputs/mlp-relu-d2-{name}.png" for name in ("curves", "overview")
    ]
    assert all((place / "outputs" / f"mlp-relu-d2-{name}.png").exists() for name in ("curves", "overview"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_every_process_and_keeps_what_is_finished(place, command, number, code):
    (place / "own.py").write_text(OWN)
    (place / "wait").touch()
    line = [sys.executable, "-m", "propscope", *map(str, SMALL), "--init", "own.py:waits", "--seeds", "40"]
    # A run in the background ignores interrupts, and so would its children.
    with subprocess.Popen(
        [*line, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        journal = place / ".run.h5.partial"
        while not journal.exists() or journal.stat().st_size <= 20_000:
            assert running.poll() is None
            time.sleep(0.01)
        # As a terminal does it: to every process of the group.
        os.killpg(running.pid, number) if number == signal.SIGINT else running.terminate()
        # The pipes end when all of them have ended.
        _, err = running.communicate(timeout=HANGS)
    assert running.returncode == code
    kept = len(load("run.h5"))
    assert 0 < kept < 40
    assert err.splitlines()[-1] == f"stopped after {kept} of 40 networks; their results are saved"
    assert "Traceback" not in err
    (place / "wait").unlink()
    assert command(*SMALL, "--init", "own.py:waits", "--seeds", 40).code == 0
    assert [profile.labels["seed"] for profile in load("run.h5")] == list(range(40))
