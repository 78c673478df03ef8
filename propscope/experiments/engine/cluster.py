"""Workers of a Dask cluster, which another program has started and whose scheduler is known by its address."""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Collection, Iterator
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from propscope._version import __version__
from propscope.checks import count
from propscope.errors import InputError, MissingDependencyError, PropscopeError, error_line
from propscope.experiments.engine.apart import Apart
from propscope.experiments.engine.work import DIED, Extent, Failure, Outcome, Recipe, SecondChances, Work, answer, left

ANSWERS_WITHIN = 10
# How often, in seconds, it is asked how many workers there are: they come and go.
_LOOK_AGAIN = 5.0
Versions = tuple[tuple[str, str], ...]


class Cluster:
    """The engine of a Dask cluster; a context manager, whose end takes back what is not yet run.

    `address`: of the scheduler, such as tcp://10.0.0.1:8786. `workers`: how many networks at the same time; None for as
    many as the cluster has threads. A process runs one network at a time, however many threads it has. Raises
    `InputError` for an address at which nothing answers, and where a worker has other versions of propscope or torch.
    """

    def __init__(self, recipe: Recipe, address: str, workers: int | None = None) -> None:
        import cloudpickle

        self._address = address
        self._asked = None if workers is None else count("workers", workers)
        self._recipe: bytes = cloudpickle.dumps(recipe)
        self._client: Any = None
        self._running: dict[Any, int] = {}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def ask(self, question: str, *arguments: Any) -> Any:
        """Return what the method or property `question` of the work returns, in a worker."""
        (found,) = Apart(lambda _: iter([self._ask(question, *arguments)]), stop=self._cancel)
        return found

    def outcomes(self, *, leave_out: Collection[int] = ()) -> Apart[Outcome]:
        """Yield the number of each network, and its result or a `Failure`, as it is finished.

        Closing the iterator takes back what is not yet run.
        """
        return Apart(lambda stopped: self._outcomes(leave_out, stopped), stop=self._cancel)

    def _cancel(self) -> None:
        if self._client is not None and self._running:
            self._client.cancel(list(self._running))

    def _connected(self) -> Any:
        if self._client is None:
            try:
                from distributed import Client
            except ImportError as error:
                raise MissingDependencyError("distributed", extra="cluster", purpose="a Dask cluster") from error
            try:
                self._client = Client(self._address, timeout=ANSWERS_WITHIN, set_as_default=False)
            except (OSError, ValueError, TypeError) as error:
                raise InputError(
                    f"no Dask scheduler answers at {self._address} within {ANSWERS_WITHIN} s",
                    hint="give the address that the scheduler prints when it starts, such as tcp://10.0.0.1:8786",
                ) from error
            try:
                # One that has died is started again within a few seconds.
                self._client.wait_for_workers(1, timeout=ANSWERS_WITHIN)
            except TimeoutError:
                warnings.warn(f"the scheduler at {self._address} has no worker yet; waiting for one", stacklevel=2)
        return self._client

    def _submit(self, function: Any, *arguments: Any) -> Any:
        return self._connected().submit(function, self._recipe, versions(), *arguments, pure=False)

    def _ask(self, question: str, *arguments: Any) -> Any:
        future = self._submit(_answer, question, arguments)
        self._running[future] = -1
        try:
            return self._result(future)
        finally:
            del self._running[future]

    def _result(self, future: Any) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker:
            return Failure(DIED)
        except PropscopeError:
            raise
        except ImportError as error:
            raise PropscopeError(
                f"a worker of {self._address} cannot import what it needs: {error_line(error)}",
                hint="install the same propscope and the modules of your own functions where the workers run",
            ) from error
        except Exception as error:
            return Failure(error_line(error))

    def _outcomes(self, leave_out: Collection[int], stopped: threading.Event) -> Iterator[Outcome]:
        from distributed import as_completed

        client = self._connected()
        extent: Extent = self._ask("extent")
        waiting, chances = deque(left(extent.networks, leave_out)), SecondChances()
        # Any network that a process had may have ended it, so each of them is run once more, alone.
        suspects: deque[int] = deque()
        finished: Any = as_completed(loop=client.loop)
        most, looked = 1, -_LOOK_AGAIN
        while (waiting or suspects or self._running) and not stopped.is_set():
            if time.monotonic() - looked >= _LOOK_AGAIN:
                looked = time.monotonic()
                # A worker that finishes a network has the next one already.
                most = self._asked or max(1, 2 * sum(client.nthreads().values()))
            while (waiting and len(self._running) < most) or (suspects and not waiting and not self._running):
                number = (waiting or suspects).popleft()
                future = self._submit(_perform, number)
                self._running[future] = number
                finished.add(future)
            future = next(finished)
            number, found = self._running.pop(future), self._result(future)
            # The scheduler forgets the result.
            future.release()
            if chances.again(number, found):
                (suspects if found == Failure(DIED) else waiting).append(number)
            else:
                yield number, found


def versions() -> Versions:
    """Return the versions of what results depend on; torch is not imported."""
    return (("propscope", __version__), ("torch", version("torch").partition("+")[0]))


# What runs in the worker

# A process has one generator of random numbers, and the threads of a worker share it.
_ONE_AT_A_TIME = threading.Lock()


@lru_cache(maxsize=1)
def _job(recipe: bytes, wanted: Versions) -> tuple[Recipe, Work]:
    import cloudpickle

    for (name, here), (_, there) in zip(versions(), wanted, strict=True):
        if here != there:
            raise InputError(
                f"{name} is {there} where the run was started, and {here} on a worker of the cluster",
                hint="install the same versions everywhere",
            )
    found: Recipe = cloudpickle.loads(recipe)
    return found, found.make()


def _answer(recipe: bytes, wanted: Versions, question: str, arguments: tuple[Any, ...]) -> Any:
    """Return what the method or property `question` of the work returns."""
    with _ONE_AT_A_TIME:
        return answer(_job(recipe, wanted)[1], question, arguments)


def _perform(recipe: bytes, wanted: Versions, number: int) -> Any:
    """Return the result of a network, or a `Failure`."""
    with _ONE_AT_A_TIME:
        made, work = _job(recipe, wanted)
        return made.attempt_elsewhere(work, number)
