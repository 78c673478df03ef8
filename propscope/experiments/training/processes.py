"""Trains the jobs of a plan in this process and in others beside it, one thread each.

A small network keeps one core busy with one thread, and Python's lock lets no second thread train beside it. The other
processes are plain ones that communicate through pipes: those of `multiprocessing` would run the caller's script again.
Starting one takes a second or two, during which this process trains already.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Collection, Generator
from contextlib import suppress
from functools import lru_cache
from typing import Any

from propscope.errors import PropscopeError
from propscope.experiments.training.loop import train
from propscope.experiments.training.plan import TrainingPlan
from propscope.records.training import TrainingRun

# Work of up to a second is not worth another process; so many steps take longer in any network.
START_AFTER = 1.0
MANY_STEPS = 5000

READY = "ready"

Numbered = tuple[int, TrainingRun]


def available_workers(plan: TrainingPlan) -> int:
    """Return the number of processes, this one included, that can train the plan's jobs at the same time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not _found_elsewhere(plan) or not plan.grid.device.startswith("cpu") or not sys.executable:
        return 1
    return max(1, min(cores // plan.threads, len(plan)))


def _found_elsewhere(plan: TrainingPlan) -> bool:
    """Return whether another process can unpickle the plan and import what it names."""
    # A function of the caller's script is pickled by a name that only this process has.
    named = [spec.name for spec in plan.grid.activation] + [spec.name for spec in plan.grid.initializer]
    if any(name.startswith("__main__:") for name in named):
        return False
    try:
        pickle.dumps(plan)
    except Exception:  # A lambda, or whatever a user's object makes of pickling.
        return False
    return True


def trained(plan: TrainingPlan, *, workers: int, leave_out: Collection[int] = ()) -> Generator[Numbered, None, None]:
    """Yield the number of each job with its run as it is finished, in any order; runs do not depend on `workers`.

    Closing the iterator, an interrupt and an error end the other processes. An error of a job is raised here.
    """
    jobs = plan.jobs()
    waiting = deque(number for number in range(len(jobs)) if number not in leave_out)
    finished: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    data_of = lru_cache(maxsize=1)(plan.data_of)
    left = len(waiting)
    steps = left * plan.epochs * (len(data_of(jobs[0].cell.seed).train[0]) // max(plan.batch))
    delay = 0 if steps >= MANY_STEPS else START_AFTER
    others = [_OtherProcess(plan, waiting, finished, delay) for _ in range(workers - 1)]
    try:
        while left:
            if (number := _next(waiting)) is not None:
                outcome: Any
                try:
                    outcome = train(plan, jobs[number], data_of(jobs[number].cell.seed, jobs[number].cell.dtype))
                except (KeyboardInterrupt, Exception) as error:
                    # Behind what the others finished meanwhile, which must not be lost.
                    outcome = error
                finished.put((number, outcome))
            # With nothing left to take, this process waits for what the others have taken.
            while left and (number is None or not finished.empty()):
                yield _run(*finished.get())
                left -= 1
    finally:
        for other in others:
            other.end()


def _run(number: int, outcome: Any) -> Numbered:
    if isinstance(outcome, BaseException):
        raise outcome
    return number, outcome


def _next(waiting: deque[int]) -> int | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


class _OtherProcess:
    """Another process, and the thread that starts it, hands it jobs and waits for its answers."""

    def __init__(
        self, plan: TrainingPlan, waiting: deque[int], finished: queue.SimpleQueue[tuple[int, Any]], delay: float
    ) -> None:
        self._plan, self._waiting, self._finished, self._delay = plan, waiting, finished, delay
        self._process: subprocess.Popen[bytes] | None = None
        self._ended, self._starting = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        number: int | None = None
        try:
            process = self._start()
            if process is None or _ask(process, self._plan) != READY:
                return
            # Only one that is ready takes a job, so that none waits for a process to start.
            while (number := _next(self._waiting)) is not None:
                self._finished.put((number, _ask(process, number)))
        except (OSError, EOFError, pickle.UnpicklingError):
            if number is not None:
                message = "a process that trained a network ended; memory may have run out"
                self._finished.put((number, PropscopeError(message, hint="use fewer --workers, or a smaller network")))

    def _start(self) -> subprocess.Popen[bytes] | None:
        self._ended.wait(self._delay)
        with self._starting:
            if self._ended.is_set() or not self._waiting:
                return None
            code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
            threads = str(self._plan.threads)
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # An interrupt is for this process, which then ends the other.
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )
            return self._process

    def end(self) -> None:
        """End the process at once."""
        self._ended.set()
        with self._starting:
            process = self._process
        if process is not None:
            process.kill()
            process.wait()
        self._thread.join()
        for stream in () if process is None else (process.stdin, process.stdout):
            # What was not sent to a process that has ended cannot be.
            with suppress(OSError):
                assert stream is not None
                stream.close()


def _ask(process: subprocess.Popen[bytes], question: Any) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump(question, process.stdin)
    process.stdin.flush()
    return pickle.load(process.stdout)


def serve() -> None:
    """Read a plan and then job numbers from stdin; write `READY` and then a run or an error for each to stdout."""
    # Output of a user's module must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    questions = _questions()

    def answer(value: Any) -> None:
        pickle.dump(value, answers)
        answers.flush()

    plan: TrainingPlan = questions.get()
    jobs = plan.jobs()
    data_of = lru_cache(maxsize=1)(plan.data_of)
    answer(READY)
    while True:
        job = jobs[questions.get()]
        try:
            answer(train(plan, job, data_of(job.cell.seed, job.cell.dtype)))
        except PropscopeError as error:
            answer(error)
        except Exception:
            answer(RuntimeError(traceback.format_exc()))


def _questions() -> queue.SimpleQueue[Any]:
    """Return what stdin brings; when it closes, the process that asks has ended, and this one ends at once."""
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        try:
            while True:
                found.put(pickle.load(sys.stdin.buffer))
        finally:
            # In the middle of a training too, whose result nobody would read.
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return found
