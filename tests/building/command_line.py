"""How the tests of the command line run it, and what they expect of every refusal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from propscope.cli import main

# No result depends on how long a process takes; one that takes this many seconds will not end.
HANGS = 900

# A command line of each command that is right, where run.h5 has profiles, net.h5 a monitored run and net.py a model.
RIGHT = {
    "profile": ["--depth", "1", "--width", "2", "--init", "zeros", "--seeds", "1", "--batch", "2", "--plots", "none"],
    "train": ["--depth", "1", "--width", "2", "--init", "zeros", "--seeds", "1", "--epochs", "1", "--plots", "none"],
    "inspect": ["net.py:build", "--input-shape", "2,4"],
    "check": ["net.py:build", "--input-shape", "2,4"],
    "compare": ["net.py:build", "net.py:build", "--input-shape", "2,4"],
    "show": ["run.h5"],
    "diagnose": ["run.h5"],
    "plot": ["run.h5", "--plots", "curves"],
    "report": ["run.h5"],
    "width-check": ["net.py:widening", "--width", "2,3", "--input-shape", "2,4", "--steps", "1", "--seeds", "1"],
    "theory": ["--act", "relu"],
    "phase": ["--act", "relu", "--init", "zeros"],
    "list": [],
    "merge": ["run.h5", "-o", "merged.h5"],
    "example": [],
    "compact": ["net.h5"],
    "control": ["net.h5", "every=10"],
    "watch": ["net.h5", "--once"],
}


def missing(text: str, words: str) -> list[str]:
    """Return the words, numbers and names that a text does not have as such; quotes of either kind are alike."""
    text = text.replace('"', "'")
    return [word for word in words.split() if not re.search(rf"(?<![\w-]){re.escape(word)}(?!\w)", text)]


@dataclass(frozen=True)
class Outcome:
    """What a command line did: its exit code and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message of a refusal. It and a hint must be all that was printed: no traceback, nothing on stdout."""
        lines = self.err.splitlines()
        assert self.code == 2, self
        assert self.out == "", self
        assert [line.partition(": ")[0] for line in lines] == ["error", "hint"], self
        return lines[0].removeprefix("error: ")

    def missing(self, words: str) -> list[str]:
        """The words that the message of a refusal does not have: names, values and numbers, not sentences."""
        return missing(self.error, words)

    @property
    def hint(self) -> str:
        """The hint of a refusal."""
        assert self.error
        return self.err.splitlines()[1].removeprefix("hint: ")

    @property
    def document(self) -> Any:
        """The one JSON document that stdout is."""
        assert (self.code, self.err) == (0, ""), self
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


class Command:
    """Runs command lines in this process: `command("show", "run.h5")`."""

    def __init__(self, capsys: Any) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Outcome:
        self._capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            # SIGTERM ends the program that runs the command.
            code = int(str(ended.code))
        return Outcome(code, *self._capsys.readouterr())

    def fine(self, *arguments: object) -> str:
        """Run a command line that must succeed and say nothing on stderr, and return its stdout."""
        outcome = self(*arguments)
        assert (outcome.code, outcome.err) == (0, ""), outcome
        return outcome.out


def files(place: Path) -> dict[str, bytes]:
    """Return every file below a directory with what it holds, and empty directories too, but no bytecode."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else b""
        for path in sorted(place.rglob("*"))
        if "__pycache__" not in path.parts
    }


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m propscope` in a process of its own."""
    line = [sys.executable, "-m", "propscope", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, capture_output=True, text=True, timeout=HANGS, env=environment, **options)
