"""The result file of a monitored run: a journal while the run goes on, of one piece a sample, and a file at its end."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from propscope.errors import StoreError
from propscope.printable import printable
from propscope.records.monitored import MonitoredRun, Steps, joined_steps, no_steps, superseded
from propscope.store.atomic import check_output
from propscope.store.followed_run import FollowedRun
from propscope.store.packed import RunPacker
from propscope.store.read import load
from propscope.store.run_file import RunFile, begin, compact, run_of
from propscope.store.run_journal import MONITOR


class MonitoredFile:
    """The file of a run that goes on: `add` keeps a piece of the run, which survives the process; `save` ends the file.

    Where the file or the journal of another run has the name `path`, a free number is added to the name. `identity`
    tells the runs apart. Raises `StoreError` for a directory that is missing.
    """

    def __init__(self, path: Path) -> None:
        check_output(path, overwrite=True)
        self.path = path
        self.identity = uuid.uuid4().hex
        self._resumes = False
        self._file: RunFile | None = None
        self._pieces = 0
        self._packer = RunPacker()
        # The steps of an earlier part of the run, which another monitor wrote.
        self._earlier = 0
        self._own = False
        # Those that were asked for.
        self._reader: FollowedRun | None = None
        self._steps = no_steps()
        # Those of pieces that the disk did not take, by the number of the piece.
        self._unwritten: dict[int, Steps] = {}

    def resume(self, path: Path, identity: str) -> None:
        """Go on with the file of an earlier part of the run; it is looked for when the first piece is added."""
        self.path, self.identity, self._resumes = path, identity, True

    def rewind(self) -> None:
        """Go on with what was added as an earlier part, since steps of it are taken again; the file is written for it.

        Raises `StoreError` where it cannot be written.
        """
        if self._file is not None:
            self._all_steps()
            self.save()
            self._file, self._reader, self._resumes, self._own = None, None, True, True

    def add(self, piece: MonitoredRun) -> None:
        """Keep a piece of the run; raises `StoreError` where no file can be made."""
        if self._file is None:
            self._file = self._continued(piece) if self._resumes else None
        if self._file is None:
            self._file = self._begun()
        self._append(self._file, piece)

    def _append(self, file: RunFile, piece: MonitoredRun) -> None:
        number, self._pieces = self._pieces, self._pieces + 1
        try:
            file.add(number, self._packer.pack(number, piece))
        except BaseException:
            # Later pieces must not be like one that may not be there.
            self._packer = RunPacker()
            raise
        pieces = self._unwritten | {number: piece.steps}
        self._unwritten = {at: steps for at, steps in pieces.items() if at in file.waiting}

    @property
    def begun(self) -> bool:
        """Whether anything was written, so that the file has its name."""
        return self._file is not None

    @property
    def steps(self) -> Steps:
        """The steps that were added, without those of an earlier part of the run; they are read from the file."""
        return self._all_steps()[self._earlier :]

    def _all_steps(self) -> Steps:
        if self._file is not None:
            self._reader = self._reader or FollowedRun(self.path)
            added = self._reader.read()
            self._steps = added.run.steps if added.anew else self._steps + added.run.steps
        return joined_steps([self._steps, *self._unwritten.values()])

    def save(self) -> None:
        """Write the file, where anything was added; raises `StoreError` where it cannot be written."""
        if self._file is not None:
            with self._file:
                self.path = self._file.save(unfinished=False)
            if self._unwritten:
                # The file has what the journal lacked.
                self._unwritten, self._reader = {}, None

    def _begun(self) -> RunFile:
        later = (self.path.with_name(f"{self.path.stem}-{at}{self.path.suffix}") for at in count(2))
        file = begin(
            chain((self.path,), later),
            self._description,
            lambda _: None,
            networks=0,
            overwrite=False,
            resume=False,
            named=False,
        )
        if file.path != self.path:
            taken, free = printable(str(self.path)), printable(str(file.path))
            print(f"{taken} is there already; this run is written to {free}", file=sys.stderr)
        self.path = file.path
        return file

    def _continued(self, piece: MonitoredRun) -> RunFile | None:
        """Return the file with the earlier part as its first pieces; None where there is no earlier part."""
        if not os.path.lexists(self.path):
            # The process was killed, and only the journal is there.
            with suppress(StoreError):
                compact(self.path)
        if run_of(self.path) is None or (run_of(self.path) or {}).get("run") != self.identity:
            return None
        earlier = load(self.path)
        if not isinstance(earlier, MonitoredRun):
            return None
        file = begin(
            (self.path,), self._description, lambda _: None, networks=0, overwrite=False, resume=True, named=True
        )
        taken_again = [*piece.steps.number.tolist(), *(one.labels["step"] for one in piece.profiles)]
        if not self._own:
            self._earlier = len(earlier.steps)
        again = min(taken_again)
        self._pieces, self._packer = 0, RunPacker()
        self._append(file, MonitoredRun((), earlier.steps, earlier.alarms).superseded_from(again))
        for sample in earlier:
            self._append(file, MonitoredRun((superseded(sample, again),)))
        # The journal holds all of it now, and who asks for the file shall see what comes.
        self.path.unlink()
        return file

    @property
    def _description(self) -> Mapping[str, Any]:
        return {"command": MONITOR, "run": self.identity}
