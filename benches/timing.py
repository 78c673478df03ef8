"""Interleaved timing: every contender runs once per round, so that other load on the machine affects all alike."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OUTPUTS = Path(__file__).resolve().parents[1] / "outputs"


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of one contender and its ratio to the bare one: median and quartiles over the rounds."""

    median: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, slots=True)
class Within:
    """A step inside a block that stays open, as in a training loop; entering and leaving the block are not timed."""

    block: Callable[[], AbstractContextManager[object]]
    step: Callable[[], object]

    def __call__(self) -> object:
        """Run the step."""
        return self.step()


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Return the timing of each contender; the ratios are relative to the first one.

    In each round a contender runs twice and its second run counts, so that it finds its own data in the caches; and the
    first round does not count. With `warm` False, as for processes that begin anew each time, every run counts.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm + rounds):
        for name, contender in contenders.items():
            with contender.block() if isinstance(contender, Within) else nullcontext():
                if warm:
                    contender()
                start = clock()
                contender()
                taken = clock() - start
            if turn >= warm:
                seconds[name].append(taken)
    bare = next(iter(seconds.values()))
    return {name: _timing(taken, [a / b for a, b in zip(taken, bare, strict=True)]) for name, taken in seconds.items()}


def _timing(seconds: list[float], ratios: list[float]) -> Timing:
    low, median, high = statistics.quantiles(seconds, n=4)
    ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4)
    return Timing(median, low, high, ratio, ratio_low, ratio_high)


def lines(title: str, timings: Mapping[str, Timing]) -> list[str]:
    """Return the rows of a table: milliseconds and ratio, each with its quartiles."""
    found = [title, f"  {'':42} {'ms':>9} {'quartiles':>17}   {'ratio':>6} {'quartiles':>13}"]
    for name, timing in timings.items():
        spread = f"{1e3 * timing.low:.2f} to {1e3 * timing.high:.2f}"
        ratios = f"{timing.ratio_low:.2f} to {timing.ratio_high:.2f}"
        found.append(f"  {name:42} {1e3 * timing.median:9.2f} {spread:>17}   {timing.ratio:6.2f} {ratios:>13}")
    return found


def peak_resident() -> float:
    """Return the peak resident set of this process in MB, as Linux counts it.

    `resource.getrusage` would include the peak of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return float(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def write(name: str, figures: Mapping[str, Any]) -> Path:
    """Write a bench's figures to outputs/NAME.json, with the versions and threads that they come from."""
    import torch

    OUTPUTS.mkdir(exist_ok=True)
    path = OUTPUTS / f"{name}.json"
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    path.write_text(json.dumps({"machine": machine, **figures}, indent=2, default=asdict) + "\n")
    return path
