"""Ten ReLU layers on handwritten digits: He, Xavier, PyTorch's default, uniform [-1, 1] and zeros.

The table gives accuracy, steps to 90% and stability. He's network is the first to reach 90%, Xavier's takes about twice
as many steps, and PyTorch's default, in which the gradient shrinks by a factor of ten thousand, does not reach it.
`propscope example ten_layers mnist:path=DIR` trains on the files of MNIST.
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
# Much better than the 10% of guessing, but with a far higher loss: wrong answers have a high probability.
assert accuracy["uniform:low=-1:high=1"] > 0.4
assert all(run.final_loss > 10 * run.constant_loss for run in found["uniform:low=-1:high=1"])
assert steps["he_normal"] < 0.8 * steps["xavier_normal"]
assert steps["xavier_normal"] < never
assert min(accuracy["he_normal"], accuracy["xavier_normal"]) > 0.9
# He and Xavier end with the same accuracy, the default with less.
assert abs(accuracy["he_normal"] - accuracy["xavier_normal"]) < 0.04
assert accuracy["default"] < accuracy["he_normal"] - 0.02
# The gradient before the first step already shows it.
lost = {pair.labels["initializer"]: pair.backward_factor.center for pair in before.pairs()}
assert lost["default"] < 1e-3 < 0.02 < lost["xavier_normal"] < 0.3 < lost["he_normal"] < 3
