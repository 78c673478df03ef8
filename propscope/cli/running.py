"""Runs the application so that whatever goes wrong ends in one line and the right exit code."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import typer

from propscope.errors import PropscopeError

WRONG_USE = 2
STOPPED = 130


def guarded(app: typer.Typer, arguments: list[str]) -> int:
    """Run `app` on `arguments` and return the exit code; errors that are the caller's go to stderr as one line."""
    try:
        result = app(arguments, standalone_mode=False, prog_name="propscope")
        sys.stdout.flush()
    except PropscopeError as error:
        return report(str(error), error.hint)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED
    except (BrokenPipeError, SystemExit):
        # The reader (head, less) has gone; typer makes an exit with 1 of it.
        _drop_output()
        return 0
    except OSError as error:
        if error.filename is None:
            _drop_output()
        where = f" {error.filename}" if error.filename else ""
        return report(f"cannot read or write{where}: {error.strerror or error}", "make room, or use another place")
    except Exception as error:
        # Older typers make this of an interrupt.
        if type(error).__name__ == "Abort":
            return STOPPED
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        return report(_named(usage(), error), "propscope --help lists commands, COMMAND --help its options")
    return result if isinstance(result, int) else 0


def _named(message: str, error: Exception) -> str:
    # Newer typers let pydantic say what is wrong with a value, and pydantic does not say which value.
    problems: list[Any] = getattr(error.__cause__, "errors", list)()
    came = f"; it is {problems[0]['input']!r}" if problems else ""
    return " ".join(message.split()) + came


def _drop_output() -> None:
    # Python would complain again when it flushes at exit. A stand-in for stdout may have no descriptor.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(message: str, hint: str) -> int:
    """Print one line, and a hint on a second where there is one, to stderr; return the exit code of wrong use."""
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return WRONG_USE
