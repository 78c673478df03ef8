"""Which initializer suits which activation, computed: what 20 layers gain or lose, against the usual table.

A signal is judged by the worse of its two ways: decades (powers of ten) gained or lost, by the activations forward or
by the gradient backward. The usual table is right about rectifiers and SELU, but for tanh He's weights keep more than
Xavier's, for SiLU its entry loses a factor of 200, and for sigmoid none of its entries helps.
"""

import math

from setting import OUTPUTS, QUICK, SEEDS

import propscope
from propscope.plots import draw_all
from propscope.report.table import Table

usual = dict.fromkeys(("relu", "leaky_relu", "prelu", "elu", "gelu", "silu"), "he_normal")
usual |= {"selu": "lecun_normal", "tanh": "xavier_normal", "sigmoid": "xavier_normal"}
# On equal widths Xavier's and LeCun's formulas are one; critical is what theory computes for the activation.
initializers = ["he_normal", "xavier_normal", "lecun_normal", "default", "critical"]
size = {"width": 128, "batch": 32, "seeds": 1} if QUICK else {"seeds": SEEDS}
profiles = propscope.profile_mlp(20, activation=list(usual), initializer=initializers, **size)

lost = {activation: {} for activation in usual}
for pair in profiles.pairs():
    factors = pair.forward_factor.center, pair.backward_factor.center
    worse = max(abs(math.log10(factor)) for factor in factors)
    lost[pair.labels["activation"]][pair.labels["initializer"]] = worse

rows = []
for activation, row in lost.items():
    best = min(row, key=row.get)
    rows.append((activation, usual[activation], *(f"{row[name]:.2f}" for name in initializers), best))
headings = ("activation", "usual table", *initializers, "least")
print(
    Table(
        "decades gained or lost over 20 layers, the worse way", headings, tuple(rows), left=frozenset(headings[:2])
    ).to_text()
)
print()
for path in draw_all(profiles, OUTPUTS, stem="example-recommendations", only=["overview"], overwrite=True):
    print(f"picture {path}")

# One network strays by 0.14 decades at width 256 (0.19 at 128): differences of half a decade are no accident.
for activation in ("relu", "leaky_relu", "prelu", "gelu"):
    assert lost[activation]["he_normal"] + 1 < min(lost[activation][name] for name in ("xavier_normal", "default"))
assert lost["elu"]["he_normal"] < lost["elu"]["xavier_normal"] < lost["elu"]["default"]
assert lost["selu"]["lecun_normal"] < 0.5 < lost["selu"]["he_normal"]
# tanh: He's weights keep more of the signal than Xavier's.
assert lost["tanh"]["he_normal"] + 0.3 < lost["tanh"]["xavier_normal"]
# SiLU loses more than a factor of ten with He's weights, sigmoid ten billion with any of the three; theory mends both.
assert lost["silu"]["he_normal"] > 1 > lost["silu"]["critical"]
assert min(lost["sigmoid"][name] for name in initializers[:4]) > 8
assert lost["sigmoid"]["critical"] < 1
# PyTorch's default loses the gradient of every rectifier.
assert all(lost[activation]["default"] > 4 for activation in ("relu", "leaky_relu", "elu", "gelu", "silu"))
