"""Ten ReLU layers on handwritten digits: He against PyTorch's default, with zeros, uniform [-1, 1] and Xavier.

A table of accuracy, steps to 90% and stability. He's network is there first, Xavier's takes about twice the steps, and
PyTorch's default, through whose ten layers the gradient loses a factor of ten thousand, has not arrived at the end.
`mnist:path=DIR` in place of `digits` trains on the files of MNIST.
"""

import sys
from statistics import median

from setting import QUICK, SEEDS, WORKERS, draw_training

import propscope

initializers = ["zeros", "uniform:low=-1:high=1", "default", "xavier_normal", "he_normal"]
runs = propscope.train_mlp(
    10,
    64,
    initializer=initializers,
    data=sys.argv[1] if len(sys.argv) > 1 else "digits",
    scale="minmax",
    epochs=6 if QUICK else 15,
    seeds=1 if QUICK else SEEDS,
    workers=WORKERS,
)
print(runs)
draw_training("ten-layers", runs)
before = runs.profiles()
print()
print(before)

found = {name: runs.subset(initializer=name) for name in initializers}
accuracy = {name: median(run.final_accuracy for run in found[name]) for name in initializers}
never = 10**9
steps = {name: median(run.steps_to_target or never for run in found[name]) for name in initializers}
assert all(run.stability == "stalled" and run.final_accuracy < 0.2 for run in found["zeros"])
# Much better than the 10% of guessing, and yet its loss is far above guessing's: sure where it is wrong.
assert accuracy["uniform:low=-1:high=1"] > 0.4
assert all(run.final_loss > 10 * run.constant_loss for run in found["uniform:low=-1:high=1"])
assert steps["he_normal"] < 0.8 * steps["xavier_normal"]
assert steps["xavier_normal"] < never
assert min(accuracy["he_normal"], accuracy["xavier_normal"]) > 0.9
# The end is the same for He and Xavier, and not for the default.
assert abs(accuracy["he_normal"] - accuracy["xavier_normal"]) < 0.04
assert accuracy["default"] < accuracy["he_normal"] - 0.02
# What was to be seen before the first step.
lost = {pair.labels["initializer"]: pair.backward_factor.center for pair in before.pairs()}
assert lost["default"] < 1e-3 < 0.02 < lost["xavier_normal"] < 0.3 < lost["he_normal"] < 3
