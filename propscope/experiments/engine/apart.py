"""`Apart`: what an iterator yields, found in a thread of its own.

An interrupt is raised in the main thread wherever it is, in the middle of taking a lock too, which would then stay
locked for ever. Pools and clusters are full of locks; so the main thread only takes what another one finds.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

# So many results may wait to be taken.
AHEAD = 64

T = TypeVar("T")


class Apart(Generic[T]):
    """An iterator over what the iterator that `function` returns yields in a thread, which begins at once.

    `function` is given an event that is set when nobody takes results any more; `stop` is called after that, to end
    what the thread waits for. An error in the thread is raised here. `close` ends the thread.
    """

    def __init__(self, function: Callable[[threading.Event], Iterator[T]], *, stop: Callable[[], None]) -> None:
        self._function, self._stop = function, stop
        self._found: queue.SimpleQueue[tuple[T, ...] | BaseException] = queue.SimpleQueue()
        self._ahead: queue.SimpleQueue[bool] = queue.SimpleQueue()
        for _ in range(AHEAD):
            self._ahead.put(True)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._find, daemon=True)
        self._thread.start()

    def __iter__(self) -> Apart[T]:
        return self

    def __next__(self) -> T:
        try:
            got = () if self._stopped.is_set() else self._found.get()
        except BaseException:
            # An interrupt: nobody asks for the others.
            self.close()
            raise
        if got == ():
            self.close()
            raise StopIteration
        if isinstance(got, BaseException):
            self.close()
            raise got
        self._ahead.put(True)
        return got[0]

    def close(self) -> None:
        """End the thread, and what it waits for."""
        self._stopped.set()
        if self._thread.is_alive():
            self._ahead.put(False)
            self._stop()
        self._thread.join()

    def _find(self) -> None:
        try:
            for each in self._function(self._stopped):
                self._found.put((each,))
                if not self._ahead.get():
                    break
            self._found.put(())
        except BaseException as error:
            self._found.put(error)
