"""`Progress`: how far a run is, on stderr: a bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time

EVERY = 10.0


class Progress:
    """The progress of a run of `total` networks, `done` of which were finished before; `noun` is what one is called.

    With `quiet` there is neither.
    """

    def __init__(self, total: int, *, done: int, noun: str, quiet: bool) -> None:
        from tqdm import tqdm

        self._total, self._noun = total, noun
        self._done = self._before = done
        self._started = self._said = time.monotonic()
        terminal = sys.stderr.isatty()
        self._lines = not terminal and not quiet
        silent = quiet or not terminal
        self._bar = tqdm(total=total, initial=done, unit=noun, disable=silent, leave=False, file=sys.stderr)

    def step(self) -> None:
        """Count one more network."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._lines and now - self._said >= EVERY:
            self._said = now
            rate = (self._done - self._before) / (now - self._started)
            print(
                f"{self._done} of {self._total} {self._noun}s, {rate:.2g} a second, "
                f"{(self._total - self._done) / rate:.0f} s left",
                file=sys.stderr,
            )

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
