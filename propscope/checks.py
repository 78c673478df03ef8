"""The checks of arguments: each error names the parameter, what it must be, and what it got.

A number of Python's or numpy's own types passes; True, False and text do not, even where they would convert.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import operator
import os
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError, UnknownArgumentError

F = TypeVar("F", bound=Callable[..., Any])
_SEEDS = 2**63


def number(
    name: str,
    value: Any,
    *,
    low: float = 0.0,
    above: bool = False,
    high: float = math.inf,
    below: bool = False,
    what: str = "a finite number",
) -> float:
    """Return a finite float of at least `low` and at most `high`; `above` and `below` exclude these ends.

    `what` is the noun of the error. Raises `InputError`.
    """
    try:
        found = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    inside = (low < found if above else low <= found) and (found < high if below else found <= high)
    if not (math.isfinite(found) and inside):
        lower = f"{'above' if above else 'of at least'} {low:g}" if math.isfinite(low) else ""
        upper = f"{'below' if below else 'at most'} {high:g}" if math.isfinite(high) else ""
        bounds = " and ".join(filter(None, (lower, upper)))
        raise InputError(f"{name} must be {f'{what} {bounds}'.strip()}, got {shown(value)}")
    return found


def numbers(name: str, values: Any) -> NDArray[np.float64]:
    """Return an array of finite numbers of at least 0; raises `InputError` with the first that is not."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be finite numbers of at least 0, got {shown(values)}") from None
    bad = ~(np.isfinite(found) & (found >= 0))
    if bad.any():
        raise InputError(f"{name} must be finite numbers of at least 0, got {found[bad].flat[0]:g}")
    return found


def count(name: str, value: Any, *, least: int = 1, also: str = "", hint: str = "") -> int:
    """Return a whole number of at least `least`; `also` adds to the error what else is valid. Raises `InputError`."""
    found = _whole(value)
    if found is None or found < least:
        raise InputError(f"{name} must be a whole number of at least {least}{also}, got {shown(value)}", hint=hint)
    return found


def _whole(value: Any) -> int | None:
    """Return a whole number as Python's own, None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def seed_number(value: Any, *, least: int = -_SEEDS) -> int:
    """Return a seed, a whole number of 64 bits: what generators take and files hold. Raises `InputError`."""
    found = _whole(value)
    if found is None or not least <= found < _SEEDS:
        lowest = "-2^63" if least == -_SEEDS else least
        raise InputError(f"seed must be a whole number from {lowest} to 2^63 - 1, got {shown(value)}")
    return found


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """Return `value` where it is one of `choices`; raises `InputError` with all of them otherwise."""
    if not isinstance(value, str) or value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        valid = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"{name} must be {valid}, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """Return a value as an error quotes it, text in double quotes."""
    if isinstance(value, str):
        return f'"{value}"'
    text = repr(float(value)) if isinstance(value, float) else repr(value)
    # An array or a model takes lines of its own.
    return text if len(text) <= 200 and "\n" not in text else f"a {type(value).__name__}"


def counts(name: str, values: Iterable[Any]) -> tuple[int, ...]:
    """Return one or more whole numbers of at least 1; raises `InputError`."""
    try:
        given = tuple(values)
    except TypeError:
        given = ()
    if not given or isinstance(values, (str, bytes)):
        raise InputError(f"{name} must be one or more whole numbers of at least 1, got {shown(values)}")
    return tuple(count(name, value) for value in given)


def regular_file(name: str, path: Path, *, hint: str) -> Path:
    """Return the path where it is a file; raises `InputError` that says what else stands there, without opening it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"the {name} {path} does not exist", hint=hint) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"the {name} {path} cannot be opened ({reason})", hint=hint) from None
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS_OF_FILE if is_kind(mode)), "is not a file")
        raise InputError(f"the {name} {path} {kind}", hint=hint)
    return path


_KINDS_OF_FILE = (
    (stat.S_ISDIR, "is a directory"),
    (stat.S_ISFIFO, "is a FIFO, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)


def machine_memory() -> float:
    """Return the memory of this machine in bytes; Inf where the system does not tell.

    What needs more is refused before it is allocated: Linux grants memory that it does not have, and ends the process
    at first use.
    """
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def fits_memory(name: str, size: float, *, hint: str) -> None:
    """Raise `InputError` where `size` bytes are more than this machine has; `name` begins the message."""
    if size > (most := machine_memory()):
        raise InputError(f"{name} needs {bytes_text(size)}; this machine has {bytes_text(most)}", hint=hint)


def bytes_text(size: float) -> str:
    """Return a number of bytes as messages write it: "192 bytes", "1.0 MB", "2.1 GB"."""
    if size < 1e5:
        return f"{size:,.0f} bytes"
    # A hostile file may ask for more than a float holds.
    size = min(size, 1e30)
    return f"{size / 1e6:,.1f} MB" if size < 1e8 else f"{size / 1e9:,.1f} GB"


def file_path(name: str, value: Any) -> str | os.PathLike[str]:
    """Return `value` where it is a path, text or `os.PathLike`; raises `InputError`."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        got = '""' if value == "" else f"a {type(value).__name__}"
        raise InputError(f"{name} must be the path of a file, got {got}", hint='for example "outputs/run.h5"')
    return value


def unknown_argument(function: str, name: str, valid: Iterable[str]) -> UnknownArgumentError:
    """Return the error for a keyword that a function does not take, with the nearest one as its hint."""
    names = tuple(dict.fromkeys(valid))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return UnknownArgumentError(
        f'{function}() has no argument "{name}"; valid are {", ".join(names)}',
        hint=f'did you mean "{near[0]}"?' if near else "leave it out",
    )


def known_arguments(function: F) -> F:
    """Make a function refuse a keyword that it does not take by `unknown_argument`, which names the nearest one."""
    valid = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in valid:
                raise unknown_argument(function.__name__, name, valid)
        return function(*args, **kwargs)

    return cast(F, checked)
