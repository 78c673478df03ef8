"""`propscope watch`: a monitored run in the terminal, while another process runs it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from propscope.cli.loudness import quiet
from propscope.errors import StoreError
from propscope.printable import printable

if TYPE_CHECKING:
    from propscope.report.watch import Line
    from propscope.store import Added, FollowedRun

# The seconds between two looks at the run.
EVERY = 1.0
# No terminal has so many lines.
_ALL = 100_000


def watch(
    file: Annotated[Path, typer.Argument(metavar="RUN", help="The file of the run.", show_default=False)],
    once: Annotated[bool, typer.Option("--once", help="Print one view and end.")] = False,
) -> None:
    """Show a monitored run live, while another process trains: its loss, its worst sites, its last alarms.

    A run that has not begun is waited for, and the command ends with the run. Where stdout is no terminal, each sample
    and each alarm is one line.
    """
    from propscope.report.terminal import write
    from propscope.report.watch import texts
    from propscope.store import FollowedRun, check_output, target_of

    target = target_of(file)
    terminal = _is_terminal()
    with ExitStack() as stack:
        followed = stack.enter_context(FollowedRun(target))
        if once:
            added = followed.read()
            shown = _View(target)
            shown.add(added, _state(target, added))
            if quiet():
                _Lines(target).show(added, _RUNNING)
            elif terminal:
                shown.print()
            else:
                write(texts(shown.lines(_ALL)))
            return
        # A directory that is not there was mistyped, while the file may still come.
        check_output(target, overwrite=True)
        screen: _Screen = stack.enter_context(_Live(target)) if terminal else _Lines(target)
        while True:
            if (seen := _looked(followed, target)) is None:
                screen.wait()
            else:
                screen.show(*seen)
                if seen[1] != _RUNNING:
                    return
            time.sleep(EVERY)


_RUNNING, _ENDED = "running", "ended"
_STOPPED = "stopped before its end; `propscope compact` writes its file"


def _state(target: Path, added: Added) -> str:
    from propscope.store import is_written

    return _ENDED if added.ended else _RUNNING if is_written(target) else _STOPPED


def _looked(followed: FollowedRun, target: Path) -> tuple[Added, str] | None:
    """Return what was added to the run, and what becomes of it; None where it has not begun."""
    from propscope.store import Added

    try:
        added = followed.read()
        if (state := _state(target, added)) != _STOPPED:
            return added, state
        # It may have written its file between the two looks.
        more = followed.read()
        run = more.run if more.anew else added.run + more.run
        both = Added(run, anew=added.anew or more.anew, ended=more.ended)
        return both, _ENDED if more.ended else _STOPPED
    except StoreError:
        if _is_there(target):
            raise
        return None


def _is_there(target: Path) -> bool:
    from propscope.store import journals_of

    return os.path.lexists(target) or any(journals_of(target))


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class _Screen(Protocol):
    """Where a run is shown."""

    def wait(self) -> None:
        """Say that the run has not begun."""

    def show(self, added: Added, state: str) -> None:
        """Show what was added to it."""


class _View:
    """The view of a run, as large as the terminal."""

    def __init__(self, target: Path) -> None:
        from propscope.report.watch import WatchedRun

        self._name = target.name
        self._watched = WatchedRun()
        self._state = ""

    def add(self, added: Added, state: str) -> None:
        """Take what was added to the run."""
        self._watched.add(added.run, anew=added.anew)
        self._state = state

    def lines(self, height: int) -> list[Line]:
        """Return the view in at most so many lines."""
        from propscope.report.watch import view

        width = shutil.get_terminal_size().columns
        return view(self._watched, name=self._name, state=self._state, width=width, height=height)

    def text(self) -> object:
        """Return the view as rich shows it; one line stays free for the cursor."""
        from rich.text import Text

        from propscope.report.terminal import encodable

        lines = self.lines(max(shutil.get_terminal_size().lines - 1, 1))
        parts = [Text(encodable(line.text, sys.stdout), style=line.style) for line in lines]
        return Text("\n", no_wrap=True, overflow="crop").join(parts)

    def print(self) -> None:
        """Print the view to a terminal."""
        from rich.console import Console

        Console().print(self.text())


class _Live(_View):
    """The view of a run that is drawn again and again in its place; the last one stays."""

    def __init__(self, target: Path) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(target)
        self._live = Live(console=Console(), auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> _Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def wait(self) -> None:
        """Say that the run has not begun."""
        self._live.update(f"waiting for {printable(self._name)}", refresh=True)

    def show(self, added: Added, state: str) -> None:
        """Draw the view anew."""
        self.add(added, state)
        self._live.update(self.text(), refresh=True)  # type: ignore[arg-type]


class _Lines:
    """A line a sample, for a pipe or a log."""

    def __init__(self, target: Path) -> None:
        self._name = printable(target.name)
        self._waits = False

    def wait(self) -> None:
        """Say once that the run has not begun."""
        if not self._waits:
            self._waits = True
            print(f"waiting for {self._name}", file=sys.stderr)

    def show(self, added: Added, state: str) -> None:
        """Write the lines of what was added."""
        from propscope.report.terminal import write
        from propscope.report.watch import sample_lines

        for line in map(str, added.run.standing_alarms) if quiet() else sample_lines(added.run):
            write(line)
        sys.stdout.flush()
        if state != _RUNNING:
            print(f"{self._name}: {state}", file=sys.stderr)
