"""Workers on this machine: what each failure costs, that nothing is left running, and what a worker is."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver, resource_tracker, util

import pytest
from building.command_line import HANGS
from building.works import attempts

from propscope.errors import InputError, MissingDependencyError, PropscopeError
from propscope.experiments import engine
from propscope.experiments.engine import Failure, Recipe, processes
from propscope.experiments.engine.processes import DIED, Processes, cores

pytestmark = pytest.mark.slow


def squares(networks, **arguments):
    return Recipe("building.works:Squares", {"networks": networks, **arguments})


def outcomes(recipe, workers=2, **options):
    with Processes(recipe, workers) as team:
        return dict(team.outcomes(**options))


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(happened):
    start = time.monotonic()
    while not happened():
        assert time.monotonic() - start < HANGS
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2, None])
def test_every_network_once_whatever_the_workers(tmp_path, workers):
    assert outcomes(squares(9, place=tmp_path), workers, leave_out={2, 5}) == {
        number: number**2 for number in range(9) if number not in (2, 5)
    }
    assert sorted(attempts(tmp_path)[0]) == [0, 1, 3, 4, 6, 7, 8]


def test_no_more_workers_than_networks(tmp_path):
    assert outcomes(squares(2, place=tmp_path, seconds=0.05), 9) == {0: 0, 1: 1}
    assert len(attempts(tmp_path)[1]) <= 2
    assert outcomes(squares(3), 2, leave_out=range(3)) == {}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("how", "reason"),
    [("die", DIED), ("fill_memory", "MemoryError"), ("fail", "Own: this and that"), ("leave", "SystemExit: 0")],
)
def test_a_network_that_fails_costs_itself(tmp_path, how, reason, workers):
    found = outcomes(squares(8, place=tmp_path, misbehave={3: how}), workers)
    assert found == {number: number**2 for number in range(8)} | {3: Failure(reason)}
    # It is tried twice, the second time at the end; no other one is blamed for it.
    tried = attempts(tmp_path)[0]
    assert tried.count(3) == 2
    assert tried[-1] == 3
    assert sorted(set(tried)) == list(range(8))
    assert len(tried) == 9


def test_several_that_end_their_processes_are_told_apart(tmp_path):
    deadly = dict.fromkeys((0, 3, 4, 9), "die")
    found = outcomes(squares(10, place=tmp_path, misbehave=deadly))
    assert {number for number, each in found.items() if each == Failure(DIED)} == set(deadly)
    assert len(found) == 10


def test_a_second_attempt_may_succeed(tmp_path):
    once = dict.fromkeys(range(0, 6, 2), "die_once")
    assert outcomes(squares(6, place=tmp_path, misbehave=once)) == {number: number**2 for number in range(6)}


def test_a_mistake_of_the_user_ends_the_run(tmp_path):
    with (
        pytest.raises(InputError, match="the user's mistake") as caught,
        Processes(squares(50, place=tmp_path, misbehave={4: "mistake"}), 2) as engine,
    ):
        list(engine.outcomes())
    assert caught.value.hint == "mend it"
    assert len(attempts(tmp_path)[0]) < 50
    with pytest.raises(TypeError, match="unexpected keyword"), Processes(squares(3, lots=2)) as engine:
        engine.ask("extent")


def test_workers_killed_at_random_moments(tmp_path):
    draw, over = random.Random(0), threading.Event()

    def kill():
        for _ in range(12):
            time.sleep(draw.uniform(0.01, 0.06))
            if over.is_set():
                return
            processes = [process for worker in list(engine._workers) for process in worker._context.processes[-1:]]
            chosen = draw.choice(processes) if processes else None
            if chosen is not None and chosen.pid is not None and chosen.is_alive():
                os.kill(chosen.pid, signal.SIGKILL)

    with Processes(squares(60, seconds=0.01), 2) as engine:
        engine.ask("extent")
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            found = dict(engine.outcomes())
        finally:
            over.set()
            killer.join()
    assert sorted(found) == list(range(60))
    right = {number for number, each in found.items() if each == number**2}
    # One that was killed twice is listed.
    assert all(each == Failure(DIED) for number, each in found.items() if number not in right)
    assert len(right) >= 54


def test_what_a_user_leaves_early_ends_at_once(tmp_path):
    with Processes(squares(50, place=tmp_path, seconds=0.05), 2) as engine:
        found = engine.outcomes()
        assert next(found)[0] in (0, 1)
        found.close()
        processes = attempts(tmp_path)[1]
        until(lambda: not any(map(alive, processes)))
        # The engine still answers, as for the labels of networks that failed.
        assert engine.ask("labels", 7) == {"number": 7}
    assert len(attempts(tmp_path)[0]) < 50


def test_after_an_interrupt_nothing_is_left_running(tmp_path):
    def interrupt():
        until(lambda: (tmp_path / "attempts").exists() and len(attempts(tmp_path)[1]) == 2)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, signal.default_int_handler), set(threading.enumerate())
    try:
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            dict(engine.outcomes(Processes(squares(5000, place=tmp_path, seconds=0.02), 2)))
        interrupting.join()
    finally:
        signal.signal(signal.SIGUSR1, before[0])
    # Nor is anything that could start other workers.
    assert set(threading.enumerate()) <= before[1]
    assert not any(map(alive, attempts(tmp_path)[1]))


def test_what_a_worker_cannot_import_is_said():
    with Processes(Recipe("no_such_module:Work")) as team, pytest.raises(PropscopeError, match="no_such_module"):
        team.ask("extent")


def test_a_package_that_a_worker_lacks_is_named_with_the_line_that_installs_it():
    with Processes(squares(1)) as team, pytest.raises(MissingDependencyError, match="needs mlxtend") as caught:
        team.ask("missing")
    assert caught.value.hint == "pip install 'propscope[data]'"


def test_a_folder_for_temporary_files_whose_name_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setitem(processes._SERVERS, processes.NETWORKS, forkserver.ForkServer())
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: str(tmp_path / ("a" * 110)))
    with pytest.raises(InputError, match="too long a name for a socket") as caught:
        Processes(squares(3))
    assert "TMPDIR" in caught.value.hint


def test_a_worker_has_the_environment_of_its_run(monkeypatch):
    for value in ("1", "2"):
        monkeypatch.setenv("SCALE_OF_THE_USER", value)
        with Processes(squares(1)) as team:
            assert team.ask("about_the_worker")["environment"]["SCALE_OF_THE_USER"] == value


def test_a_worker_is_forked_from_one_thread_and_has_one_thread():
    with Processes(squares(1)) as engine:
        about = engine.ask("about_the_worker")
    assert (about["threads_of_server"], about["torch"]) == (1, 1)
    assert about["parent"] != os.getpid()
    # The next one is forked from the same process.
    with Processes(squares(1)) as engine:
        assert engine.ask("about_the_worker")["parent"] == about["parent"]


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    cores.cache_clear()
    assert cores() == 1
    monkeypatch.undo()
    cores.cache_clear()
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
    cores.cache_clear()


SCRIPT = """
import propscope
with open("runs", "a") as file:
    print("run", file=file)
scale = 1.5
def own(z):
    return z.tanh() * scale
axes = {"activation": [own, lambda z: z * scale], "initializer": "he_normal", "seeds": 2, "batch": 4}
found = [propscope.profile_mlp(2, 4, **axes, workers=workers) for workers in (1, 2)]
assert len(found[1]) == 4 and all(one.sites == other.sites for one, other in zip(*found))

import multiprocessing
def again():
    assert len(propscope.profile_mlp(2, 4, **axes, workers=2)) == 4
for daemon in (False, True):
    child = multiprocessing.get_context("fork").Process(target=again, daemon=daemon)
    child.start()
    child.join()
    assert child.exitcode == 0
"""


def test_a_script_is_never_run_again_and_its_own_functions_reach_the_workers(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    # A process with several threads is forked.
    line = [sys.executable, "-W", "ignore::DeprecationWarning", "script.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "runs").read_text() == "run\n"


def test_no_worker_outlives_a_process_that_is_killed_nor_prints_on_its_stdout(tmp_path):
    arguments = {"networks": 99, "place": str(tmp_path), "seconds": 0.1, "misbehave": {0: "say", 1: "say"}}
    code = (
        "from propscope.experiments.engine import Recipe\n"
        "from propscope.experiments.engine.processes import Processes\n"
        f"recipe = Recipe('building.works:Squares', {arguments})\n"
        "with Processes(recipe, 2) as engine:\n    list(engine.outcomes())\n"
    )
    path = os.pathsep.join(sys.path)
    line = [sys.executable, "-c", code]
    running = subprocess.Popen(line, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)
    try:
        noted = tmp_path / "attempts"
        until(lambda: noted.exists() and len(attempts(tmp_path)[1]) == 2)
    finally:
        running.kill()
        running.wait()
    processes = attempts(tmp_path)[1]
    until(lambda: not any(map(alive, processes)))
    assert len(attempts(tmp_path)[0]) < 99
    with running.stdout as stdout:
        assert stdout.read() == b""


def test_what_workers_are_forked_from_starts_with_interrupts_held_back(monkeypatch):
    blocked = []
    start = util.spawnv_passfds

    def starting(*arguments):
        blocked.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return start(*arguments)

    # As in a new process, which has no tracker of resources yet: its start lets interrupts through.
    tracker = resource_tracker.ResourceTracker()
    monkeypatch.setattr(resource_tracker, "ensure_running", tracker.ensure_running)
    monkeypatch.setitem(processes._SERVERS, processes.PICTURES, server := forkserver.ForkServer())
    monkeypatch.setattr(util, "spawnv_passfds", starting)
    try:
        processes.start(processes.PICTURES)
    finally:
        server._stop()
        tracker._stop()
    # The first is the tracker.
    assert blocked[1:] == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
