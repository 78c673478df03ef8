"""Two moons, a 2-64-64-2 ReLU network and Adam: the loss curves of five initializers.

Only zeros fail. Weights that are too small or too large for a deep network still train a network of two hidden layers:
the small ones after a slow start, the large ones from a loss many times that of guessing.
"""

from statistics import median

from setting import QUICK, SEEDS, WORKERS, draw_training

import propscope

initializers = ["zeros", "normal", "normal:std=1", "xavier_normal", "he_normal"]
runs = propscope.train_mlp(
    2,
    64,
    initializer=initializers,
    data="moons",
    learning_rate=0.01,
    epochs=120 if QUICK else 200,
    batch=500,
    validation=0,
    seeds=SEEDS,
    workers=WORKERS,
)
print(runs)
draw_training("moons", runs)

found = {name: runs.subset(initializer=name) for name in initializers}
accuracy = {name: [run.final_accuracy for run in found[name]] for name in initializers}
# ln 2 is the loss of guessing.
assert all(0.69 < run.final_loss < 0.70 for run in found["zeros"])
assert max(accuracy["zeros"]) <= 0.6
for name in ("normal:std=1", "xavier_normal", "he_normal"):
    assert min(accuracy[name]) > 0.95
assert min(accuracy["normal"]) > 0.8
# After 20 steps Xavier and He are ahead of the small weights; the large ones start with a high loss.
early = {name: median(run.train_loss[20] for run in found[name]) for name in initializers}
assert max(early["xavier_normal"], early["he_normal"]) < 0.8 * early["normal"]
assert median(run.train_loss[0] for run in found["normal:std=1"]) > 4
