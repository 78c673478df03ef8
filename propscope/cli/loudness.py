"""How much a command says: with -q only what was asked for, with -v also what it does, on stderr."""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, get_type_hints

import typer

from propscope.printable import printable

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only what was asked for: the path of the result, or the verdict.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say on stderr what is done, by what, how long it takes and what fails.")
]

_VERSIONS = ("torch", "numpy", "h5py", "matplotlib")
_quiet = ContextVar("quiet", default=False)
# When the command began; None where it says nothing of what it does.
_began: ContextVar[float | None] = ContextVar("began", default=None)


def quiet() -> bool:
    """Return whether the command prints only what was asked for."""
    return _quiet.get()


def note(text: str) -> None:
    """Print a line on stderr about what goes well, unless the command is quiet."""
    if not quiet():
        print(printable(text), file=sys.stderr, flush=True)


def detail(text: str) -> None:
    """Print a line on stderr with the seconds since the command began, where -v asks for it."""
    if (began := _began.get()) is not None:
        print(f"[{time.perf_counter() - began:7.2f} s] {printable(text)}", file=sys.stderr, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what is done, and how long it took when it is done, where -v asks for it."""
    started = time.perf_counter()
    detail(what)
    yield
    detail(f"{what}: done in {time.perf_counter() - started:.2f} s")


@contextmanager
def loudness(*, quiet: bool, verbose: bool, command: str) -> Iterator[None]:
    """Run a command as quiet or as verbose as asked; an error is told in full with -v."""
    said = _quiet.set(quiet), _began.set(time.perf_counter() if verbose else None)
    try:
        detail(f"{command} in {os.getcwd()}")
        if verbose:
            detail(_versions())
        yield
        detail("finished")
    except Exception as error:
        # An exit is no error.
        if verbose and not isinstance(error, (typer.Exit, BrokenPipeError)):
            print(printable("".join(traceback.format_exception(error)).rstrip(), lines=True), file=sys.stderr)
        raise
    finally:
        _quiet.reset(said[0])
        _began.reset(said[1])


def loud_as_asked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function of a command with the options -q and -v, which every command has."""
    hints = {**get_type_hints(function, include_extras=True), "quiet": Quiet, "verbose": Verbose}

    @wraps(function)
    def run(*, quiet: bool, verbose: bool, **values: Any) -> Any:
        with loudness(quiet=quiet, verbose=verbose, command=name):
            return function(**values)

    own = signature(function)
    more = [Parameter(each, Parameter.KEYWORD_ONLY, default=False) for each in ("quiet", "verbose")]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    run.__annotations__ = hints
    return run


def _versions() -> str:
    # It takes 30 ms to import.
    from importlib.metadata import PackageNotFoundError, version

    from propscope import __version__

    parts = [f"propscope {__version__}", f"python {platform.python_version()}"]
    for package in _VERSIONS:
        with suppress(PackageNotFoundError):
            parts.append(f"{package} {version(package)}")
    return ", ".join([*parts, f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"])
