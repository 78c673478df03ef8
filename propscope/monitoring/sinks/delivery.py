"""`Delivery`: hands the numbers and alarms of a run to its sinks, each on a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from propscope.errors import error_line
from propscope.monitoring.sinks.series import series_of
from propscope.monitoring.sinks.sink import Sink, Sites
from propscope.records.monitored import Alarm
from propscope.records.network import NetworkProfile

# So many numbers or alarms wait for a sink that is slow; later ones are left out.
_WAITING = 256
# The seconds that the end of a run waits for all its sinks.
PATIENCE = 30.0

# Says something once; the first text tells what it is about.
Warn = Callable[[str, str], None]


class Delivery:
    """Hands the numbers and alarms of a run to `sinks`, each by its name in messages; a sink that fails disturbs none.

    `warn` is called, also from other threads, where one fails or is too slow.
    """

    def __init__(self, sinks: Mapping[str, Sink], warn: Warn) -> None:
        self._couriers = [_Courier(name, sink, warn) for name, sink in sinks.items()]
        self._told = 0.0

    def write(self, step: int, profile: NetworkProfile, row: Mapping[str, Any]) -> None:
        """Hand on the numbers of a sample and of its step, a row of `STEP_FIELDS`."""
        found = {sites: series_of(profile, row, sites) for sites in {each.sites for each in self._couriers}}
        for each in self._couriers:
            # A sink of the user's may change what it gets.
            each.send("write", step, dict(found[each.sites]))

    def alarms(self, alarms: Sequence[Alarm]) -> None:
        """Hand on alarms."""
        for each in self._couriers:
            for alarm in alarms:
                each.send("alarm", alarm)

    def resume(self, step: int) -> None:
        """Say that the run takes the steps from this one on again."""
        for each in self._couriers:
            each.send("resume", step)

    def spent(self) -> float:
        """Return the seconds of computing that the sinks took since this was asked last; waiting costs the run none."""
        before, self._told = self._told, sum(each.seconds for each in self._couriers)
        return self._told - before

    def close(self) -> None:
        """Let all sinks take what waits for them, and close them; one that does not end in time is left behind."""
        until = time.monotonic() + PATIENCE
        for each in self._couriers:
            each.end(until)
        for each in self._couriers:
            each.wait(until)


class _Courier:
    """Calls one sink on a thread of its own."""

    def __init__(self, name: str, sink: Sink, warn: Warn) -> None:
        self.sites: Sites = getattr(sink, "sites", "worst")
        # Seconds of computing so far; only the thread changes them.
        self.seconds = 0.0
        self._name, self._sink, self._warn = name, sink, warn
        self._jobs: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(_WAITING)
        # A process that was told to end does not wait for a server.
        self._thread = threading.Thread(target=self._run, name=f"propscope {name}", daemon=True)
        self._thread.start()

    def send(self, method: str, *arguments: Any) -> None:
        """Let the sink take something as soon as it is free; this never waits."""
        try:
            self._jobs.put_nowait((method, arguments))
        except queue.Full:
            self._warn(f"slow {self._name}", f"the sink {self._name} is too slow; what it cannot take is left out")

    def end(self, until: float) -> None:
        """Close the sink behind what waits."""
        try:
            self._jobs.put(("close", ()), timeout=max(until - time.monotonic(), 0.0))
        except queue.Full:
            return

    def wait(self, until: float) -> None:
        """Wait until the sink is closed."""
        self._thread.join(max(until - time.monotonic(), 0.0))
        if self._thread.is_alive():
            waiting = f"{self._jobs.qsize() + 1} calls are left out"
            self._warn(f"left {self._name}", f"the sink {self._name} did not end within {PATIENCE:g} s; {waiting}")

    def _run(self) -> None:
        method = ""
        while method != "close":
            method, arguments = self._jobs.get()
            try:
                # A sink needs neither `resume` nor `close`.
                if (call := getattr(self._sink, method, None)) is not None:
                    call(*arguments)
            except BaseException as error:  # Nothing ends the thread before its sink is closed.
                self._warn(f"failed {self._name}", f"the sink {self._name} failed: {error_line(error)}")
            self.seconds = time.thread_time()
