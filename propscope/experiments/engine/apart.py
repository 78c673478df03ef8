"""`apart`: what an iterator yields, found in a thread of its own.

An interrupt is raised in the main thread wherever it is, in the middle of taking a lock too, which would then stay
locked for ever. Pools and clusters are full of locks; so the main thread only takes what another one finds.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

# So many results may wait to be taken.
AHEAD = 64

T = TypeVar("T")


def apart(function: Callable[[threading.Event], Iterator[T]], *, stop: Callable[[], None]) -> Generator[T, None, None]:
    """Yield what the iterator that `function` returns yields in a thread, a little ahead.

    `function` is given an event that is set when nobody takes results any more; `stop` is called after that, to end
    what the thread waits for. An error in the thread is raised here.
    """
    found: queue.SimpleQueue[tuple[T, ...] | BaseException] = queue.SimpleQueue()
    ahead: queue.SimpleQueue[bool] = queue.SimpleQueue()
    for _ in range(AHEAD):
        ahead.put(True)
    stopped = threading.Event()

    def find() -> None:
        try:
            for each in function(stopped):
                found.put((each,))
                if not ahead.get():
                    break
            found.put(())
        except BaseException as error:
            found.put(error)

    thread = threading.Thread(target=find, daemon=True)
    thread.start()
    try:
        while got := found.get():
            if isinstance(got, BaseException):
                raise got
            yield got[0]
            ahead.put(True)
    finally:
        if thread.is_alive():
            stopped.set()
            ahead.put(False)
            stop()
        thread.join()
