"""`Control`: changes which steps of a run are sampled, as another process asks by the run's control file."""

from __future__ import annotations

import time
from contextlib import suppress

from propscope.errors import InputError, StoreError
from propscope.monitoring.cadence import Cadence
from propscope.monitoring.sinks.delivery import Warn
from propscope.store import MonitoredFile
from propscope.store.control_file import ControlFile, change_of, control_name

# The seconds between two looks at the file.
_SECONDS = 1.0


class Control:
    """Looks at the control file beside `file` at most once a second, and changes the cadence as its new lines say."""

    def __init__(self, file: MonitoredFile, cadence: Cadence, warn: Warn) -> None:
        self._run, self._cadence, self._warn = file, cadence, warn
        self._file: ControlFile | None = None
        self._next = 0.0

    def look(self) -> None:
        """Do what the file asks for, where it is time; a line that says nothing is said once."""
        # Until then the name may belong to another run.
        if not self._run.begun or (now := time.monotonic()) < self._next:
            return
        self._next = now + _SECONDS
        name = control_name(self._run.path)
        try:
            if self._file is None or self._file.path != name:
                self._file = ControlFile(name)
            added = self._file.added()
        except (StoreError, OSError) as error:
            self._warn("the control file", f"the control file cannot be read: {error}")
            return
        for number, line in added:
            self._obey(line, f"line {number} of {name}")

    def _obey(self, line: str, where: str) -> None:
        try:
            change = change_of(line)
        except InputError as error:
            self._warn(f"control {line}", f"{where} is left out: {error}")
            return
        if change.name == "sample":
            self._cadence.request()
        elif change.name in ("on", "off"):
            self._cadence.switch(on=change.name == "on")
        else:
            setattr(self._cadence, change.name, change.value)

    def close(self) -> None:
        """Remove the file, which nobody reads any more."""
        if self._file is not None:
            with suppress(OSError):
                self._file.remove()
