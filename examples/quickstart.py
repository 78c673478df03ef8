"""Compare initializers on a deep network, save the profiles in a file and query them."""

import tempfile
from pathlib import Path

import propscope

profiles = propscope.profile_mlp(
    depth=20,
    width=128,
    batch=128,
    activation=["relu", "tanh"],
    initializer=["normal:std=0.01", "xavier_normal", "he_normal"],
    seeds=2,
)
print(profiles)

# Each layer of one network: the signal keeps its size where gains are 1.
one = profiles.select(activation="relu", initializer="he_normal", seed=0)
print()
print("forward gains of relu with he_normal: ", one.forward_gains.round(2)[:6], "...")
print(f"over the whole depth: forward x{one.factor('forward'):.2f}, backward x{one.factor('backward'):.2f}")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "compare.h5"
    propscope.save(path, profiles)
    loaded = propscope.load(path, activation="relu")
    print(f"{len(loaded)} relu networks read back from {path.name} ({path.stat().st_size / 1e3:.0f} kB)")

frame = loaded.to_frame()
last = frame[(frame.role == "pre-activation") & (frame.layer == 20)]
print()
print("rms of the last layer's pre-activations, and of the gradient there:")
print(last.groupby("initializer")[["forward_rms", "backward_rms"]].mean().to_string(float_format="{:.2g}".format))
