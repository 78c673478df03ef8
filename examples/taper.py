"""A tapering ReLU network, 256-128-64, on handwritten digits: the learning curves of He and Glorot.

He's network is ahead after the first epoch. At the end there is no difference: in three layers either initializer is
good enough.
"""

import sys
from statistics import mean

from setting import QUICK, SEEDS, WORKERS, draw_training

import propscope

initializers = ["he_normal", "xavier_uniform"]
runs = propscope.train_mlp(
    3,
    [(256, 128, 64)],
    initializer=initializers,
    data=sys.argv[1] if len(sys.argv) > 1 else "digits",
    scale="minmax",
    epochs=6 if QUICK else 10,
    seeds=SEEDS,
    workers=WORKERS,
)
print(runs)
draw_training("taper", runs)

he, glorot = (runs.subset(initializer=name) for name in initializers)
# Runs with the same seed see the same examples in the same order.
ahead = [a.train_loss[1] < b.train_loss[1] for a, b in zip(he, glorot, strict=True)]
assert sum(ahead) >= 0.8 * len(ahead)
assert all(run.stability == "converged" for run in runs)
assert min(run.final_accuracy for run in runs) > 0.93
apart = mean(run.final_accuracy for run in he) - mean(run.final_accuracy for run in glorot)
print(f"\naccuracy of He minus accuracy of Glorot: {100 * apart:+.1f} percentage points")
assert abs(apart) < 0.02
