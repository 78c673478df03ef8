"""The cost of profiling a grid, relative to running its networks, and the cost of storing it.

    python benches/grid.py [--rounds 5]

bare: build the same networks with the same initializers, draw the same input, run one forward and one backward pass,
and record nothing. propscope: `profile_mlp`. Both use 16 initializers, ReLU, depth 20, width 256, batch 256, one seed.
Storing: `save` of 132 networks of this size, relative to the time of measuring them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from timing import interleave, lines, write

import propscope
from propscope.networks import ACTIVATIONS, SQUARE_DEFAULTS, MLPSpec, make_input
from propscope.records import ProfileSet


def bare() -> None:
    """Run every network of the grid and record nothing."""
    for initializer in SQUARE_DEFAULTS:
        net = MLPSpec(20, width=256, activation="relu", initializer=initializer).build(seed=0)
        output = net(make_input("normal", batch=256, features=256, seed=0).values)
        output.backward(torch.randn(output.shape))


def measured() -> ProfileSet:
    """Run the grid as a user does."""
    return propscope.profile_mlp(depth=20, width=256, activation="relu", initializer=SQUARE_DEFAULTS, seeds=1)


def main() -> None:
    """Measure, print, write outputs/grid.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    timings = interleave({"bare": bare, "propscope": measured}, rounds=arguments.rounds)
    print("\n".join(lines("16 initializers, ReLU, 20 x 256, batch 256", timings)))
    start = time.perf_counter()
    activations, initializers = [entry.name for entry in ACTIVATIONS[:11]], SQUARE_DEFAULTS[3:15]
    profiles = propscope.profile_mlp(depth=20, width=256, activation=activations, initializer=initializers, seeds=1)
    run = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "grid.h5"
        start = time.perf_counter()
        propscope.save(path, profiles)
        seconds = time.perf_counter() - start
        megabytes = path.stat().st_size / 1e6
    share = seconds / (run + seconds)
    print(
        f"  storing {1e3 * seconds:.0f} ms, {100 * share:.1f}% of the run; "
        f"{megabytes:.1f} MB for {len(profiles)} networks"
    )
    print(write("grid", {"timings": timings, "store_seconds": seconds, "store_share": share, "megabytes": megabytes}))


if __name__ == "__main__":
    main()
