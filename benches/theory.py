"""The cost of theory: `python benches/theory.py` prints a table and writes outputs/theory.json, within a minute.

The first run with an activation computes its pieces and moments, and later runs reuse them: the first one has a column
of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from timing import write

from propscope.networks import MLPSpec
from propscope.theory import MeanField, critical_point, gain, phase_diagram, predict
from propscope.theory.critical import _scan
from propscope.theory.elementwise import _of_spec
from propscope.theory.mlp_bands import mlp_bands
from propscope.theory.moment_tables import moment_table

NETWORKS = {
    "tanh": (2.5, 0.05),
    "tanh, critical": (1.0, 0.0),
    "relu": (2.0, 0.0),
    "gelu": (1.983058257438, 0.172922390756),
    "selu": (1.0, 0.0),
    "sigmoid": (1.0, 0.0),
}
PROMISES = {"propagate 10,000": 0.05, "phase diagram 200 x 200": 3.0}


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of the first run in the process, and the median and quartiles of the runs after it."""

    what: str
    activation: str
    first: float
    median: float
    low: float
    high: float


def forget() -> None:
    """Clear the caches that earlier runs filled."""
    for cache in (_of_spec, moment_table, _scan):
        cache.cache_clear()


def measured(what: str, activation: str, run: Callable[[], object], rounds: int) -> Measured:
    forget()
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(taken[1:], n=4)
    return Measured(what, activation, taken[0], median, low, high)


def runs(name: str, weight: float, bias: float) -> dict[str, Callable[[], object]]:
    def field() -> MeanField:
        return MeanField(name, weight_variance=weight, bias_variance=bias)

    return {
        "gain": lambda: gain(name),
        "fixed points": lambda: field().fixed_points(),
        "depth scales": lambda: field().depth_scales(),
        "propagate 10,000": lambda: field().propagate(1.0, depth=10_000),
    }


def diagram(name: str) -> object:
    return phase_diagram(name, weight_variance=np.linspace(0.02, 4, 200), bias_variance=np.linspace(0, 1, 200))


def deep() -> object:
    """Predict a deep network, with the bands of a finite width worked out afresh."""
    mlp_bands.cache_clear()
    return predict(MLPSpec(50, width=256, activation="tanh"))


def figures() -> list[Measured]:
    found = []
    for label, (weight, bias) in NETWORKS.items():
        for what, run in runs(label.partition(",")[0], weight, bias).items():
            found.append(measured(what, label, run, 15))
    names = ("tanh", "relu", "gelu", "selu", "hardtanh")
    found += [measured("phase diagram 200 x 200", name, partial(diagram, name), 3) for name in names]
    found.append(measured("critical point", "gelu", partial(critical_point, "gelu"), 11))
    found.append(measured("prediction, 50 layers", "tanh", deep, 11))
    return found


def main() -> None:
    import torch

    torch.set_num_threads(1)
    # The first call of all loads what torch and scipy load lazily.
    MeanField("erf", weight_variance=2.0).depth_scales()
    found = figures()
    print(f"{'milliseconds':28} {'activation':15} {'first':>8} {'median':>8} {'quartiles':>18} {'promise':>8}")
    for one in found:
        promise = PROMISES.get(one.what)
        spread = f"{1e3 * one.low:.2f} to {1e3 * one.high:.2f}"
        shown = f"{1e3 * promise:g}" if promise else ""
        print(
            f"{one.what:28} {one.activation:15} {1e3 * one.first:8.2f} {1e3 * one.median:8.2f} {spread:>18} {shown:>8}"
        )
    kept = all(one.median <= PROMISES.get(one.what, np.inf) for one in found)
    path = write("theory", {"figures": found, "promises": PROMISES})
    print(f"{'every promise kept' if kept else 'A PROMISE IS BROKEN'}; written to {path}")


if __name__ == "__main__":
    main()
