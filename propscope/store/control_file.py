"""The control file of a monitored run that goes on: lines that change which steps are sampled."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from propscope.checks import count, number
from propscope.errors import InputError, StoreError
from propscope.store.journal import is_written, target_of

# A control file is a few lines that somebody typed.
_LARGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Setting:
    """What a line may say: `name`, or `name=value` where `read` turns the text of the value into what it means."""

    name: str
    usage: str
    read: Callable[[str], float | None] | None = None


def _whole(name: str, text: str, least: int) -> int:
    return count(name, int(text) if text.isdecimal() and len(text) < 20 else text, least=least)


def _share(text: str) -> float | None:
    if text == "none":
        return None
    try:
        value: float | str = float(text)
    except ValueError:
        value = text
    return number("budget", value, above=True, high=1.0)


SETTINGS = (
    Setting("every", "every=N", lambda text: _whole("every", text, 1)),
    Setting("start", "start=N", lambda text: _whole("start", text, 0)),
    Setting("stop", "stop=N or stop=none", lambda text: None if text == "none" else _whole("stop", text, 1)),
    Setting("budget", "budget=SHARE or budget=none", _share),
    Setting("sample", "sample"),
    Setting("off", "off"),
    Setting("on", "on"),
)
ALLOWED = ", ".join(each.usage for each in SETTINGS)


@dataclass(frozen=True, slots=True)
class Change:
    """One line that was understood: the name of its setting, and its value, None where it has none."""

    name: str
    value: float | None = None


def change_of(text: str) -> Change:
    """Return what a line says; raises `InputError` with what is allowed."""
    name, given, value = (part.strip() for part in text.partition("="))
    for setting in SETTINGS:
        if setting.name == name and bool(given) == (setting.read is not None):
            return Change(name, None if setting.read is None else setting.read(value))
    raise InputError(f'a setting must be one of {ALLOWED}, got "{text}"')


def control_name(path: Path) -> Path:
    """Return the name of the control file of a result file."""
    return path.with_name(f".{path.name}.control")


def change_run(path: Path, texts: Sequence[str]) -> Path:
    """Ask the run that writes the result file `path` for changes, each as a line of its control file; return the file.

    Raises `InputError` for text that is none, and `StoreError` where no run writes the file.
    """
    if not texts:
        raise InputError(f"a setting must be one of {ALLOWED}, got none", hint="for example every=10")
    for text in texts:
        change_of(text)
    target = target_of(path)
    if not is_written(target):
        raise StoreError(
            f"no run writes {target} now", hint="name the file of a run that goes on, from its first sample on"
        )
    line = "".join(f"{text.strip()}\n" for text in texts).encode()
    descriptor = os.open(control_name(target), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        # In one piece, so that who reads it sees whole lines.
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
    return target


class ControlFile:
    """The control file of one run; what it holds already is of another run, and is not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, ...] | None = None
        self._text: bytes | None = None
        self.added()

    def added(self) -> list[tuple[int, str]]:
        """Return the lines that were added since the last call, with their numbers.

        A file that was replaced is all new. Empty lines and comments behind # are left out. Raises `StoreError` for
        what is no small file.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._stamp = self._text = None
            return []
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if stamp == self._stamp:
            return []
        self._stamp = stamp
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
            raise StoreError(f"{self.path} is no file of a few lines", hint="remove it")
        before, text = self._text or b"", self.path.read_bytes()[:_LARGEST]
        self._text = text
        known = before.count(b"\n") if before.endswith(b"\n") and text.startswith(before) and text != before else 0
        lines = [line.partition("#")[0].strip() for line in text.decode("utf-8", "replace").split("\n")]
        return [(at, line) for at, line in enumerate(lines, 1) if line and at > known]

    def remove(self) -> None:
        """Remove the file, where there is one."""
        self.path.unlink(missing_ok=True)
