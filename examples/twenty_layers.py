"""Twenty ReLU layers under zeros, Xavier and He: mean and deviation of every layer's activations.

Zeros pass nothing on, Xavier halves the mean square in every layer, He keeps it. Each initializer's seeds stray, and
He's most of all: one network of this width is no verdict.
"""

from setting import OUTPUTS, SEEDS

import propscope
from propscope.plots import draw_all
from propscope.records.numerals import number
from propscope.report.table import Table

initializers = ["zeros", "xavier_normal", "he_normal"]
profiles = propscope.profile_mlp(depth=20, width=256, activation="relu", initializer=initializers, seeds=SEEDS)

rows = []
columns = (profiles.select(initializer=name, seed=0).with_role("activation") for name in initializers)
for sites in zip(*columns, strict=True):
    shown = [number(value) for site in sites for value in (site.forward.mean, site.forward.std)]
    rows.append((str(sites[0].layer), *shown))
headings = [f"{name} {what}" for name in initializers for what in ("mean", "std")]
print(Table("seed 0, activations", ("layer", *headings), tuple(rows)).to_text())
print()
print(profiles)
print()
for path in draw_all(profiles, OUTPUTS, stem="example-twenty-layers", only=["curves"], overwrite=True):
    print(f"picture {path}")

zeros, xavier, he = profiles.pairs()
# Not one activation is anything but zero, nor is any gradient above the first layer from the top.
assert all(
    site.forward.zero_fraction == 1 for profile in profiles.subset(initializer="zeros") for site in profile.sites
)
assert zeros.last_std == 0
# sqrt(1/2) a layer, 1/724 over the 19 steps, and a bit less for a finite width.
assert 0.69 < xavier.forward_gain.center < 0.72
assert 0.0008 < xavier.forward_factor.center < 0.002
assert 0.69 < xavier.backward_gain.center < 0.72
# Theory: ln(rms) falls by 5/4 * 19 / 256 = 0.09 and strays by sqrt(5 * 19 / 256) / 2 = 0.3 from seed to seed.
assert 0.96 < he.forward_gain.center < 1.02
assert 0.96 < he.backward_gain.center < 1.02
assert 0.4 < he.last_std < 1.2
