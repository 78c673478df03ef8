"""Runs the application so that every error of the user ends in one line, a hint and the right exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from propscope.cli import COMMANDS
from propscope.cli.completion import typer_ended
from propscope.errors import PropscopeError, error_line
from propscope.printable import printable

WRONG_USE = 2
STOPPED = 130
TERMINATED = 143
_LONGEST = 1500
_NO_SPACE = "free some space, or write to another disk"


def guarded(app: Callable[..., Any], arguments: list[str]) -> int:
    """Run `app`, a click command, on `arguments` and return the exit code.

    An error of the user goes to stderr as one line and a hint. SIGTERM stops the command as Ctrl-C does, and then the
    program that runs it, by `SystemExit` with the code 143.
    """
    for name in ("stdout", "stderr"):
        # A caller may have closed it.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  it stays
    received: list[int] = []
    code = STOPPED
    try:
        with _terminable(received):
            code = _guarded(app, arguments)
    except KeyboardInterrupt:
        # It may come when the command is at its end.
        if not received:
            raise
    if received:
        raise SystemExit(TERMINATED)
    return code


@contextmanager
def _terminable(received: list[int]) -> Iterator[None]:
    """Make SIGTERM a KeyboardInterrupt, and note in `received` that it came."""

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    # Only the main thread may handle signals. What the caller had decided about them stays decided.
    usual = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if usual:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _guarded(app: Callable[..., Any], arguments: list[str]) -> int:
    try:
        result = app(arguments, standalone_mode=False, prog_name="propscope")
        sys.stdout.flush()
    except PropscopeError as error:
        return report(str(error), error.hint or _where_help_is(arguments))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:
        # The reader of stdout (head, less) has closed it.
        _drop_output()
        return 0
    except SystemExit as ended:
        # Typer turns a closed stdout into an exit with 1.
        if isinstance(ended.__context__, BrokenPipeError):
            _drop_output()
            return 0
        # The completion of shells ends so.
        if typer_ended(ended):
            return ended.code if isinstance(ended.code, int) else 0
        # A model that ends the program has passed no check, whatever code it ends with.
        return report(
            f"code of yours ended the program: {error_line(ended)}", "raise an error there, or leave the exit out"
        )
    except OSError as error:
        if error.filename is None:
            _drop_output()
        where = f" {error.filename}" if error.filename else ""
        hint = "give it a shorter name" if error.errno == errno.ENAMETOOLONG else _NO_SPACE
        return report(f"cannot read or write{where}: {error.strerror or error}", hint)
    except Exception as error:
        from propscope.cli.wrong_use import said_of

        # Older typers raise this for an interrupt.
        if type(error).__name__ == "Abort":
            return STOPPED
        if not hasattr(error, "format_message"):
            raise
        message, guess = said_of(error)
        return report(_value_error(error) or message, " ".join(filter(None, (guess, _where_help_is(arguments)))))
    return result if isinstance(result, int) else 0


def _where_help_is(arguments: list[str]) -> str:
    if arguments and arguments[0] in {command.name for command in COMMANDS}:
        return f"propscope {arguments[0]} --help lists its options"
    return "propscope --help lists the commands"


def _value_error(error: Exception) -> str:
    """Return what is wrong with the text of a number; "" for other errors.

    Newer typers let pydantic word it, in which neither the option nor the text is named.
    """
    from propscope.checks import shown

    problems: list[Any] = getattr(error.__cause__, "errors", list)()
    if not problems:
        return ""
    names = getattr(getattr(error, "param", None), "opts", None) or ["the value"]
    valid = "a whole number" if str(problems[0].get("type", "")).startswith("int") else "a number"
    return f"{names[0]} must be {valid}, got {shown(problems[0]['input'])}"


def _drop_output() -> None:
    # Python would fail again when it flushes stdout at exit. What replaces stdout may have no descriptor.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(message: str, hint: str) -> int:
    """Print an error and its hint to stderr, one line each, long ones cut; return the exit code of wrong use."""
    for what, text in (("error", message), ("hint", hint)):
        print(f"{what}: {_cut(printable(text))}", file=sys.stderr)
    return WRONG_USE


def _cut(text: str) -> str:
    """Return a text without its middle where it is long, such as a name of thousands of letters that was typed."""
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
