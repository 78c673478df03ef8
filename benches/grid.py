"""The cost of profiling a grid, relative to running its networks, and the cost of storing it.

    python benches/grid.py [--rounds 6] [--only in-process|process|grid|store]

bare: build the same networks with the same initializers, draw the same input, run one forward and one backward pass,
and record nothing.

in-process: 16 initializers, ReLU, 20 x 256, batch 256, one seed, by `profile_mlp`; both with one thread of torch's,
    in CPU seconds.
process: `propscope profile --depth 20 --act relu` as a user types it, with its file, table and pictures; 80 networks.
    bare is a process too, imports torch, and has two threads. Wall seconds, on two cores that do nothing else: two
    threads that wait for each other take many times as long where a third wants to run.
grid: the same for 10 activations x 12 initializers x 5 seeds, 600 networks, by a third of the rounds.
store: `save` of 132 networks of this size, relative to the time of measuring them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from timing import Timing, interleave, lines, write

import propscope
from propscope.networks import ACTIVATIONS, SQUARE_DEFAULTS, MLPSpec, make_input
from propscope.records import ProfileSet

ALL = [entry.name for entry in ACTIVATIONS]
# All that have parameters, and those that carry no signal, are left out.
TWELVE = [name for name in SQUARE_DEFAULTS if name not in ("zeros", "ones", "constant", "identity")]
BARE = """
import sys, torch
from propscope.networks import MLPSpec, make_input
torch.set_num_threads(2)
activations, initializers = (text.split(",") for text in sys.argv[1:])
for activation in activations:
    for initializer in initializers:
        for seed in range(5):
            net = MLPSpec(20, width=256, activation=activation, initializer=initializer).build(seed=seed)
            output = net(make_input("normal", batch=256, features=256, seed=seed).values)
            output.backward(torch.randn(output.shape))
"""


def bare() -> None:
    """Run every network of the grid and record nothing."""
    for initializer in SQUARE_DEFAULTS:
        net = MLPSpec(20, width=256, activation="relu", initializer=initializer).build(seed=0)
        output = net(make_input("normal", batch=256, features=256, seed=0).values)
        output.backward(torch.randn(output.shape))


def measured() -> ProfileSet:
    """Profile the grid in this process."""
    return propscope.profile_mlp(
        depth=20, width=256, activation="relu", initializer=SQUARE_DEFAULTS, seeds=1, workers=1
    )


def in_process(rounds: int) -> dict[str, Any]:
    """Compare the two in this process, one thread each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    timings = interleave({"bare": bare, "propscope": measured}, rounds=rounds, clock=time.process_time)
    torch.set_num_threads(threads)
    print("\n".join(lines("in one process, one thread, CPU time: 16 initializers, ReLU, 20 x 256", timings)))
    return {"timings": timings}


def process(rounds: int) -> dict[str, Any]:
    """Compare a user's first command with a bare process."""
    return _processes("propscope profile --depth 20 --act relu, 80 networks", [], ["relu"], SQUARE_DEFAULTS, rounds)


def grid(rounds: int) -> dict[str, Any]:
    """Compare a grid of 120 pairs with a bare process."""
    activations = ALL[:10]
    options = ["--init", ",".join(TWELVE)]
    return _processes(
        "10 activations x 12 initializers, 600 networks", options, activations, TWELVE, max(2, rounds // 3)
    )


def _processes(
    title: str, options: Sequence[str], activations: Sequence[str], initializers: Sequence[str], rounds: int
) -> dict[str, Any]:
    command = ["-m", "propscope", "profile", "--depth", "20", "--act", ",".join(activations), *options]

    def runs(arguments: Sequence[str]) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as directory:
                subprocess.run([sys.executable, *arguments], cwd=directory, check=True, capture_output=True)

        return run

    contenders = {
        "bare": runs(["-c", BARE, ",".join(activations), ",".join(initializers)]),
        "propscope": runs(command),
    }
    timings: dict[str, Timing] = interleave(contenders, rounds=rounds, warm=False)
    print("\n".join(lines(f"whole processes: {title}", timings)))
    return {"timings": timings}


def store(rounds: int) -> dict[str, Any]:
    """Compare the time of saving with that of measuring."""
    start = time.perf_counter()
    profiles = propscope.profile_mlp(depth=20, width=256, activation=ALL[:11], initializer=TWELVE, seeds=1)
    run = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "grid.h5"
        start = time.perf_counter()
        propscope.save(path, profiles)
        seconds = time.perf_counter() - start
        megabytes = path.stat().st_size / 1e6
    share = seconds / (run + seconds)
    print(f"storing {1e3 * seconds:.0f} ms, {100 * share:.1f}% of the run; {megabytes:.1f} MB for {len(profiles)} nets")
    return {"seconds": seconds, "share": share, "megabytes": megabytes}


PARTS = {"in-process": in_process, "process": process, "grid": grid, "store": store}


def main() -> None:
    """Measure, print, write outputs/grid.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", choices=PARTS, help="measure this part alone, and write no file")
    arguments = parser.parse_args()
    if arguments.only is not None:
        PARTS[arguments.only](arguments.rounds)
        return
    print(write("grid", {name.replace("-", "_"): part(arguments.rounds) for name, part in PARTS.items()}))


if __name__ == "__main__":
    main()
