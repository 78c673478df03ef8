"""Twenty ReLU layers with zeros, Xavier and He: mean and standard deviation of the activations at every layer.

Zeros pass nothing on, Xavier halves the mean square in every layer, He keeps it. Seeds differ, most of all with He, so
one network of this width does not settle which is best.
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
# Every activation is zero.
dead = profiles.subset(initializer="zeros")
assert all(site.forward.zero_fraction == 1 for profile in dead for site in profile.without_inputs.sites)
assert zeros.last_std == 0
# sqrt(1/2) per layer, 1/724 over the 19 steps, and a little less at finite width.
assert 0.69 < xavier.forward_gain.center < 0.72
assert 0.0008 < xavier.forward_factor.center < 0.002
assert 0.69 < xavier.backward_gain.center < 0.72
# Theory: ln(rms) falls by 5/4 * 19 / 256 = 0.09, with a standard deviation of sqrt(5 * 19 / 256) / 2 = 0.3.
assert 0.96 < he.forward_gain.center < 1.02
assert 0.96 < he.backward_gain.center < 1.02
assert 0.4 < he.last_std < 1.2
