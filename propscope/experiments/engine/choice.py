"""`engine_for`: where the networks of a run are run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from typing import Any, Protocol

from propscope.checks import count, shown
from propscope.errors import InputError
from propscope.experiments.engine.work import (
    Failure,
    Outcome,
    Recipe,
    Work,
    answer,
    as_in_a_worker,
    left,
    torch_is_here,
)

JOBLIB, DASK = "joblib", "dask"
# What starting workers costs at most, in seconds: less work than this is done here.
WORTH_WORKERS = 3.0


class Outcomes(Protocol):
    """An iterator that can be closed before its end, which ends what is running."""

    def __iter__(self) -> Iterator[Outcome]: ...

    def __next__(self) -> Outcome: ...

    def close(self) -> None: ...  # noqa: D102


class Engine(Protocol):
    """A context manager that runs the networks of one recipe; its end ends every worker."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...

    def ask(self, question: str, *arguments: Any) -> Any:
        """Return what the method or property `question` of the work returns."""
        ...

    def outcomes(self, *, leave_out: Collection[int] = ()) -> Outcomes:
        """Yield the number of each network, and its result or a `Failure`, as it is finished, in any order."""
        ...


class Here:
    """The engine of this process: one network after the other."""

    def __init__(self, recipe: Recipe, work: Work) -> None:
        self._recipe, self._work = recipe, work

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, question: str, *arguments: Any) -> Any:
        """Return what the method or property `question` of the work returns."""
        with as_in_a_worker():
            return answer(self._work, question, arguments)

    def outcomes(self, *, leave_out: Collection[int] = ()) -> Generator[Outcome, None, None]:
        """Yield the number of each network, and its result or a `Failure`, in order."""
        for number in left(self._work.extent.networks, leave_out):
            found = self._recipe.attempt(self._work, number)
            yield number, self._recipe.attempt(self._work, number) if isinstance(found, Failure) else found


def engine_for(recipe: Recipe, *, engine: str = JOBLIB, workers: int | None = None) -> Engine:
    """Return the engine of this name: "joblib" for processes on this machine, or "dask:ADDRESS" for a cluster.

    `workers`: how many networks run at the same time, one thread each; None for as many as cores help. With "joblib"
    the networks run in this process where none can be forked. They do so too where this process has imported torch
    and there is one worker, a recipe that cannot be pickled, or less work than workers take to start. Raises
    `InputError` for another name, for `workers` below 1, and for what the recipe refuses.
    """
    workers = None if workers is None else count("workers", workers)
    name, _, address = str(engine).partition(":")
    if name == DASK and address:
        from propscope.experiments.engine.cluster import Cluster

        return Cluster(recipe, address, workers)
    if engine != JOBLIB:
        raise InputError(f'engine must be "{JOBLIB}" or "{DASK}:ADDRESS", got {shown(engine)}')
    if torch_is_here() or not can_fork():
        work = recipe.make()
        with as_in_a_worker():
            extent = work.extent
        worth = extent.parallel and extent.seconds > WORTH_WORKERS if workers is None else workers > 1
        if not worth or extent.networks < 2 or not can_fork() or not _can_be_sent(recipe):
            return Here(recipe, work)
    from propscope.experiments.engine.processes import Processes

    return Processes(recipe, workers)


def can_fork() -> bool:
    """Return whether this process can fork workers: not on Windows, nor in a daemon; networks then run here."""
    return "forkserver" in multiprocessing.get_all_start_methods() and not multiprocessing.current_process().daemon


def _can_be_sent(recipe: Recipe) -> bool:
    """Return whether another process can have the recipe: an object of the user's may refuse to be pickled."""
    import cloudpickle

    try:
        cloudpickle.dumps(recipe)
    except Exception:  # Whatever the object makes of it.
        return False
    return True


def outcomes(engine: Engine, *, leave_out: Collection[int] = ()) -> Generator[Outcome, None, None]:
    """Yield the outcomes of an engine, which ends with the iterator."""
    with engine, closing(engine.outcomes(leave_out=leave_out)) as found:
        yield from found
