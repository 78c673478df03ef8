"""Workers on this machine: one process each, forked from one that has imported torch.

A fork takes milliseconds, where each new process would import torch for seconds. Forking is safe because the process
that is forked has a single thread and computes nothing. Unlike the workers of `multiprocessing`, these never run the
caller's script: functions of the script are pickled by value.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import context, forkserver, popen_forkserver, queues, reduction, resource_tracker, spawn, util
from typing import Any

from propscope.checks import count
from propscope.errors import InputError, MissingDependencyError, PropscopeError, error_line
from propscope.experiments.engine.apart import Apart
from propscope.experiments.engine.work import DIED, Extent, Failure, Outcome, Recipe, SecondChances, Work, answer, left

# A worker has the next network when it is done with one.
_AT_ONCE = 2

# What workers are forked from, by what it has imported.
NETWORKS, PICTURES = "networks", "pictures"
_PRELOADED = {NETWORKS: [f"{__package__}.preload"], PICTURES: ["propscope.plots.gallery", "propscope.store"]}
_SERVERS: dict[str, forkserver.ForkServer] = {}


def _own_servers() -> None:
    for origin, preloaded in _PRELOADED.items():
        _SERVERS[origin] = forkserver.ForkServer()
        _SERVERS[origin].set_forkserver_preload([f"{__package__}.single_thread", *preloaded])


_own_servers()
if hasattr(os, "register_at_fork"):
    # What a process has started, one that is forked from it can neither wait for nor end.
    os.register_at_fork(after_in_child=_own_servers)


def start(origin: str = NETWORKS) -> None:
    """Begin to import what the workers need in the process that they are forked from; returns at once."""
    _fill_standard_streams()
    # What it starts itself on the first call, it starts with interrupts let through, and leaves them so.
    resource_tracker.ensure_running()
    # An interrupt is for the process that hands out the networks, which then ends the others.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        _SERVERS[origin].ensure_running()
    except OSError as error:
        if "AF_UNIX path too long" not in str(error):
            raise
        raise InputError(
            f"the folder for temporary files has too long a name for a socket: {tempfile.gettempdir()}",
            hint="set TMPDIR to a shorter one, such as /tmp",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _fill_standard_streams() -> None:
    """Open what the caller has closed of stdin, stdout and stderr, or a socket would be taken for it in a worker."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # noqa: PERF203  there are three rounds
            # The lowest that is free is opened.
            os.open(os.devnull, os.O_RDWR)


class _Start(popen_forkserver.Popen):
    """The start of a worker: as `multiprocessing` does it, but from our own server and without the caller's script."""

    def _launch(self, process: Any) -> None:
        prepared = spawn.get_preparation_data(process.name)
        prepared = {name: value for name, value in prepared.items() if not name.startswith("init_main")}
        sent = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(prepared, sent)
            reduction.dump(process, sent)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, written = _SERVERS[process.origin].connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        # The worker sees by it that this process has ended.
        alive = os.dup(written)
        self.finalizer = util.Finalize(self, util.close_fds, (alive, self.sentinel))  # type: ignore[attr-defined]
        with open(written, "wb") as pipe:
            pipe.write(sent.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


class _Process(context.ForkServerProcess):
    origin = NETWORKS

    @staticmethod
    def _Popen(process: Any) -> Any:
        return _Start(process)


class _Context(context.ForkServerContext):
    """The context of one worker: it notes the process, to end it, and where the results come from."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.processes: list[_Process] = []
        self.results: list[Any] = []

    def Process(self, *arguments: Any, **options: Any) -> _Process:  # type: ignore[override]
        process = _Process(*arguments, **options)
        process.origin = self._origin
        self.processes.append(process)
        return process

    def SimpleQueue(self) -> Any:
        self.results.append(queues.SimpleQueue(ctx=self))
        return self.results[-1]


class _Worker:
    """One process, and the networks that it has been given, in their order."""

    def __init__(self, recipe: bytes, origin: str) -> None:
        self._recipe, self._origin = recipe, origin
        self.given: dict[int, Future[Any]] = {}
        self._start()

    def _start(self) -> None:
        self._context = _Context(self._origin)
        self._executor = ProcessPoolExecutor(
            1, self._context, initializer=_begin, initargs=(self._recipe, dict(os.environ))
        )

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = self._executor.submit(function, *arguments)
        # Otherwise a process that ends in the middle of a result would be waited for, for ever.
        for results in self._context.results:
            results._writer.close()
        return future

    def give(self, number: int) -> Future[Any] | None:
        """Hand over a network; None where the process has ended with another one, of which that is not yet known."""
        try:
            future = self.submit(_perform, number)
        except BrokenProcessPool:
            if self.given:
                return None
            self.restart()
            future = self.submit(_perform, number)
        self.given[number] = future
        return future

    def restart(self) -> None:
        """Replace a process that has ended."""
        self.end()
        self.given = {}
        self._start()

    def kill(self) -> None:
        """Kill the process; its networks then end with `BrokenProcessPool`."""
        for process in self._context.processes:
            if process.pid is not None:
                process.kill()

    def end(self) -> None:
        """End the process at once."""
        self.kill()
        self._executor.shutdown(cancel_futures=True)


class Processes:
    """The engine of this machine's cores; a context manager, whose end ends every worker at once.

    `workers`: how many processes; None for as many as there are cores that this process may use. More than there are
    networks are never started. `origin`: what they are forked from. Raises `InputError`.
    """

    def __init__(self, recipe: Recipe, workers: int | None = None, *, origin: str = NETWORKS) -> None:
        import cloudpickle

        self._asked = None if workers is None else count("workers", workers)
        self._recipe: bytes = cloudpickle.dumps(recipe)
        self._workers: list[_Worker] = []
        self._origin = origin
        start(origin)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, question: str, *arguments: Any) -> Any:
        """Return what the method or property `question` of the work returns, in a worker."""
        (found,) = Apart(lambda stopped: iter([self._ask(stopped, question, *arguments)]), stop=self._kill)
        return found

    def outcomes(self, *, leave_out: Collection[int] = ()) -> Apart[Outcome]:
        """Yield the number of each network, and its result or a `Failure`, as it is finished.

        Closing the iterator ends what is running.
        """
        return Apart(lambda stopped: self._outcomes(leave_out, stopped), stop=self._kill)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _ask(self, stopped: threading.Event, question: str, *arguments: Any) -> Any:
        if not self._workers:
            self._workers.append(_Worker(self._recipe, self._origin))
        for _ in range(2):
            try:
                return self._workers[0].submit(_answer, question, arguments).result()
            except BrokenProcessPool:  # noqa: PERF203  there are two rounds
                self._workers[0].restart()
                if stopped.is_set():
                    break
            except MissingDependencyError:
                raise
            except ImportError as error:
                raise PropscopeError(f"a worker cannot import what it needs: {error_line(error)}") from error
        raise PropscopeError(f"a worker could not prepare the networks: {DIED}")

    def _outcomes(self, leave_out: Collection[int], stopped: threading.Event) -> Iterator[Outcome]:
        extent: Extent = self._ask(stopped, "extent")
        waiting = deque(left(extent.networks, leave_out))
        workers = min(_number_of_workers(extent, self._asked), len(waiting))
        chances = SecondChances()
        given: dict[Future[Any], _Worker] = {}
        while waiting or given:
            while len(self._workers) < workers and len(self._workers) < len(waiting):
                self._workers.append(_Worker(self._recipe, self._origin))
            for share in range(1, _AT_ONCE + 1):
                for worker in self._workers:
                    # The last networks are left for workers that have none.
                    if len(worker.given) >= share or len(waiting) <= (share > 1) * len(self._workers):
                        continue
                    if (future := worker.give(waiting[0])) is not None:
                        waiting.popleft()
                        given[future] = worker
            if stopped.is_set():
                return
            for future in wait(given, return_when=FIRST_COMPLETED).done:
                if stopped.is_set():
                    return
                if future not in given:
                    continue
                worker = given.pop(future)
                number = next(number for number, each in worker.given.items() if each is future)
                if isinstance(future.exception(), BrokenProcessPool):
                    # The networks of a worker are done in their order: the first that is left has ended it.
                    (number, *others) = worker.given
                    for each in worker.given.values():
                        given.pop(each, None)
                    waiting.extendleft(reversed(others))
                    worker.restart()
                    found: Any = Failure(DIED)
                else:
                    del worker.given[number]
                    found = future.result()
                if chances.again(number, found):
                    waiting.append(number)
                else:
                    yield number, found


def _number_of_workers(extent: Extent, asked: int | None) -> int:
    if asked is None and not extent.parallel:
        return 1
    return asked or max(1, cores() // extent.threads)


@lru_cache(maxsize=1)
def cores() -> int:
    """Return how many cores this process may use, by its affinity and the limits of its container."""
    import joblib

    return int(joblib.cpu_count())


# What runs in the worker

_sent: bytes | None = None


def _begin(recipe: bytes, environment: dict[str, str]) -> None:
    """Prepare this process to be a worker."""
    global _sent
    _sent = recipe
    # The process that it is forked from has had the caller's since it was started.
    threads = {name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")}
    os.environ.clear()
    os.environ.update(environment | threads)
    # What a user's function prints must not come between results.
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # In the middle of a network too, whose result nobody would read.
    os._exit(1)


@lru_cache(maxsize=1)
def _job() -> tuple[Recipe, Work]:
    import cloudpickle

    assert _sent is not None
    recipe: Recipe = cloudpickle.loads(_sent)
    return recipe, recipe.make()


def _answer(question: str, arguments: tuple[Any, ...]) -> Any:
    return answer(_job()[1], question, arguments)


def _perform(number: int) -> Any:
    recipe, work = _job()
    return recipe.attempt_elsewhere(work, number)
