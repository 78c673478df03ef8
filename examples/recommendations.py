"""Which initializer suits which activation: the signal that 20 layers gain or lose, beside the usual table.

An initializer is judged by the worse of two numbers: the decades (powers of ten) that the activations gain or lose
forward, and those of the gradient backward. The usual table is right about rectifiers and SELU. But with tanh He's
weights keep more than Xavier's, with SiLU the table's entry loses a factor of 200, and with sigmoid no entry helps.
"""

import math

from setting import OUTPUTS, QUICK, SEEDS

import propscope
from propscope.plots import draw_all
from propscope.report.table import Table

usual = dict.fromkeys(("relu", "leaky_relu", "prelu", "elu", "gelu", "silu"), "he_normal")
usual |= {"selu": "lecun_normal", "tanh": "xavier_normal", "sigmoid": "xavier_normal"}
# For equal widths Xavier's and LeCun's formulas agree; theory computes critical for each activation.
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
        "decades gained or lost over 20 layers, the worse direction",
        headings,
        tuple(rows),
        left=frozenset(headings[:2]),
    ).to_text()
)
print()
for path in draw_all(profiles, OUTPUTS, stem="example-recommendations", only=["overview"], overwrite=True):
    print(f"picture {path}")

# Networks of width 256 differ by 0.14 decades (width 128: 0.19), so half a decade is a real difference.
for activation in ("relu", "leaky_relu", "prelu", "gelu"):
    assert lost[activation]["he_normal"] + 1 < min(lost[activation][name] for name in ("xavier_normal", "default"))
assert lost["elu"]["he_normal"] < lost["elu"]["xavier_normal"] < lost["elu"]["default"]
assert lost["selu"]["lecun_normal"] < 0.5 < lost["selu"]["he_normal"]
# tanh: He's weights keep more of the signal than Xavier's.
assert lost["tanh"]["he_normal"] + 0.3 < lost["tanh"]["xavier_normal"]
# With He's weights SiLU loses more than a factor of 10, and sigmoid 10^8 with all four; critical keeps both.
assert lost["silu"]["he_normal"] > 1 > lost["silu"]["critical"]
assert min(lost["sigmoid"][name] for name in initializers[:4]) > 8
assert lost["sigmoid"]["critical"] < 1
# PyTorch's default loses the gradient of every rectifier.
assert all(lost[activation]["default"] > 4 for activation in ("relu", "leaky_relu", "elu", "gelu", "silu"))
