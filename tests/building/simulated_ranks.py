"""Ranks that are threads of one process: what puts records together is tested without processes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np


class SimulatedRanks:
    """One rank of several that meet in the memory of one process; `calls` and `numbers` count what it sent."""

    def __init__(self, rank, size, meeting, table):
        self.rank, self.size, self.members = rank, size, tuple(range(size))
        self._meeting, self._table = meeting, table
        self.calls, self.numbers = [], 0

    def _everybody(self, name, value):
        self.calls.append(name)
        self._table[self.rank] = value
        self._meeting.wait(20)
        found = list(self._table)
        self._meeting.wait(20)
        return found

    def maximum(self, values):
        self.numbers += len(values)
        return np.max(self._everybody("maximum", values), axis=0)

    def total(self, values):
        self.numbers += len(values)
        return np.sum(self._everybody("total", values), axis=0)

    def exchange(self, value):
        return self._everybody("exchange", value)


def simulated(size):
    """Return so many ranks, each to be used in a thread of its own, see `on_threads`."""
    meeting, table = threading.Barrier(size), [None] * size
    return [SimulatedRanks(rank, size, meeting, table) for rank in range(size)]


def on_threads(*works):
    """Run functions at the same time, and return what each returns; where one raises, the others are let go."""
    with ThreadPoolExecutor(len(works)) as threads:
        return [one.result() for one in [threads.submit(work) for work in works]]
