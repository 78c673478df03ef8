"""`Work`: the networks of a run, by number; `Recipe`: how a worker makes it; `Failure`: what is left of one that fails.

Nothing here imports torch: the process that hands out the networks needs none.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from propscope.errors import InputError, OutOfMemoryError, PropscopeError, error_line
from propscope.records.network import Label
from propscope.records.numerals import counted


@dataclass(frozen=True, slots=True)
class Extent:
    """How much work there is: `networks`, and about how many `seconds` all of them take on one core.

    `threads`: the threads of one network. `parallel`: whether several at the same time are quicker than one after the
    other, as on the cores of a CPU.
    """

    networks: int
    seconds: float
    threads: int = 1
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Outline:
    """What a command has to know of a run: how much it is, and what its result file is called and compared by.

    `networks`: how many are run, every seed and learning rate of a pair counted. `names` and `depths` name the file.
    `description`: all that tells the run from another, in values that JSON has.
    """

    networks: int
    pairs: int
    names: tuple[str, ...]
    depths: tuple[int, ...]
    description: dict[str, Any]
    learning_rates: tuple[float, ...] = ()

    @property
    def noun(self) -> str:
        """What one of them is called."""
        return "run" if self.learning_rates else "network"


class Work(Protocol):
    """The networks of a run, by number from 0; it may hold caches, on which no network's result depends."""

    @property
    def extent(self) -> Extent:
        """How much work there is."""
        ...

    def labels(self, number: int) -> Mapping[str, Label]:
        """Return what tells a network from the others."""
        ...

    def run(self, number: int) -> Any:
        """Return the profile or the training run of a network."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """The factory of a work, written `module:callable`, and its keyword arguments.

    `finish`, written alike: what a worker does with the result of a network before it is sent; None for nothing.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    finish: str | None = None

    def make(self) -> Work:
        """Return the work; raises `InputError` for arguments that are not valid."""
        with as_in_a_worker():
            work: Work = _named(self.factory)(**self.arguments)
        return work

    def attempt(self, work: Work, number: int) -> Any:
        """Return the result of a network, or a `Failure`; a mistake of the user is raised, as `InputError`."""
        try:
            with as_in_a_worker():
                found = work.run(number)
                return found if self.finish is None else _named(self.finish)(found)
        except (Exception, SystemExit) as error:
            if isinstance(error, InputError) and not isinstance(error, OutOfMemoryError):
                raise
            # The message of propscope's own errors says it all.
            reason = str(error) if isinstance(error, PropscopeError) else error_line(error)
            return Failure(reason, None if isinstance(error, SystemExit) else error)

    def attempt_elsewhere(self, work: Work, number: int) -> Any:
        """Do what `attempt` does, in a worker: a failure has no error, whose class another process may not have."""
        found = self.attempt(work, number)
        return Failure(found.reason) if isinstance(found, Failure) else found


def answer(work: Work, question: str, arguments: tuple[Any, ...]) -> Any:
    """Return what the method or property `question` of the work returns."""
    found = getattr(work, question)
    return found(*arguments) if callable(found) else found


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


@dataclass(frozen=True, slots=True)
class Failure:
    """A network that failed twice: `reason` in one line; `error` where it was raised in this process."""

    reason: str
    error: Exception | None = field(default=None, compare=False)


Outcome = tuple[int, Any]
DIED = "its process was killed; memory may have run out"


class SecondChances:
    """Remembers which networks failed once; they are run again at the end, when there may be more memory."""

    def __init__(self) -> None:
        self._failed: set[int] = set()

    def again(self, number: int, found: Any) -> bool:
        """Return whether a network that gave `found` is to be run once more."""
        if not isinstance(found, Failure) or number in self._failed:
            return False
        self._failed.add(number)
        return True


@contextmanager
def as_in_a_worker() -> Iterator[None]:
    """Give torch what it has in every worker, whatever the caller has set, and the caller's afterwards.

    That is one thread, as sums in several end in other bits; float32 on the CPU by default; and no autocast.
    """
    if not torch_is_here():
        yield
        return
    import torch

    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)


def left(networks: int, leave_out: Collection[int]) -> Iterator[int]:
    """Yield the numbers of the networks that are not left out."""
    return (number for number in range(networks) if number not in leave_out)


def without_failures(found: Mapping[int, Any], make: Callable[[], Work]) -> dict[int, Any]:
    """Return the results in the order of their numbers, and warn of networks that failed; `make` returns their work.

    Raises the reason where nothing else is left.
    """
    failures = {number: each for number, each in found.items() if isinstance(each, Failure)}
    if failures and len(failures) == len(found):
        first = next(iter(failures.values()))
        raise first.error or PropscopeError(first.reason)
    if failures:
        warnings.warn("\n".join(failure_lines(failures, make().labels)), stacklevel=4)
    return {number: found[number] for number in sorted(found) if number not in failures}


MOST_LISTED = 12


def failure_lines(failures: Mapping[int, Failure], labels: Callable[[int], Mapping[str, Label]]) -> list[str]:
    """Return what to print of networks that failed; `labels` names a network."""
    lines = [f"{counted(len(failures), 'network')} failed, twice each:"]
    for number in sorted(failures)[:MOST_LISTED]:
        named = ", ".join(f"{name} {value}" for name, value in labels(number).items())
        lines.append(f"  {named}: {failures[number].reason}")
    if len(failures) > MOST_LISTED:
        lines.append(f"  and {len(failures) - MOST_LISTED} more")
    return lines


def torch_is_here() -> bool:
    """Return whether this process has paid for the import of torch."""
    return "torch" in sys.modules
