"""A tapering ReLU network, 256-128-64, on handwritten digits: He against Glorot, training and validation curves.

He's network is ahead after the first epoch. At the end no difference is left: three layers are not deep enough for the
initializer to decide, as long as it is one of the two.
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
# The same seed has the same examples, in the same order.
ahead = [a.train_loss[1] < b.train_loss[1] for a, b in zip(he, glorot, strict=True)]
assert sum(ahead) >= 0.8 * len(ahead)
assert all(run.stability == "converged" for run in runs)
assert min(run.final_accuracy for run in runs) > 0.93
apart = mean(run.final_accuracy for run in he) - mean(run.final_accuracy for run in glorot)
print(f"\nHe's accuracy is {100 * apart:+.1f} points from Glorot's")
assert abs(apart) < 0.02
