"""`FollowedRun`: reads a monitored run bit by bit while another process writes it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from propscope.checks import file_path
from propscope.errors import InputError
from propscope.records.monitored import MonitoredRun
from propscope.store.journal import Journal, is_at
from propscope.store.read import load, monitored_run
from propscope.store.run_journal import header_in, rows_in_journal
from propscope.store.stored_samples import OpenTables
from propscope.store.table_reader import TableReader, journal_of, reading


@dataclass(frozen=True, slots=True)
class Added:
    """What was written of a run since it was last looked at.

    `run`: the samples, steps and alarms that were added. `anew`: whether it is all of the run from its beginning, as at
    the first look, and after a resumed run has marked what it takes again. `ended`: whether the run has written its
    file, so that nothing more will come unless it is resumed.
    """

    run: MonitoredRun
    anew: bool
    ended: bool


class FollowedRun:
    """A run that may still be written, by the name of its file or journal; `read` returns what was added.

    Only what was added is read, however long the run is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(file_path("path", path))
        self._journal: Journal | None = None
        # The journal's records that were read.
        self._read = 0
        # The file that holds what was read.
        self._file: tuple[int, int] | None = None

    def read(self) -> Added:
        """Return what was added since the last call, and at the first one all that is there.

        Raises `StoreError` where there is neither file nor journal, and `InputError` for another kind of file.
        """
        if self._journal is None:
            self._journal, self._read = journal_of(self.path), 0
            if self._journal is None:
                return self._from_file()
        anew = self._read == 0
        # Whoever removes the journal has written all of it, so it is looked for before the last records are read.
        ended = not is_at(self._journal.path, self._journal.descriptor)
        self._journal.look_again()
        run = self._from_journal(self._journal)
        if ended:
            self.close()
            self._file = self._stamp()
        return Added(run, anew, ended)

    def close(self) -> None:
        """Let go of the journal; the next `read` begins again."""
        self._journal = None

    def __enter__(self) -> FollowedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _from_file(self) -> Added:
        stamp = self._stamp()
        if stamp is not None and stamp == self._file:
            return Added(MonitoredRun(()), anew=False, ended=True)
        run = load(self.path)
        if not isinstance(run, MonitoredRun):
            raise InputError(f"{self.path} is not the file of a monitored run", hint="propscope show prints it")
        self._file = stamp
        return Added(run, anew=True, ended=True)

    def _from_journal(self, journal: Journal) -> MonitoredRun:
        with reading(journal.path):
            header = header_in(journal[0]) if len(journal) else None
            if header is None:
                return MonitoredRun(())
            if header.has_end:
                raise InputError(f"{journal.path} is not of a monitored run", hint="propscope show prints it")
            added = range(max(self._read, 1), len(journal))
            # What is read later needs the journal, which is closed with the last one that refers to it.
            tables = TableReader(journal.path, rows_in_journal(journal, added).tables(monitored=True))
        run = monitored_run(OpenTables(tables, ExitStack()), {}) if added else MonitoredRun(())
        self._read = len(journal)
        return run

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns
