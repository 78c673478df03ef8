"""Which initializers meet the two necessary conditions and Glorot's two, for each activation.

Necessary: no layer is saturated (over 60% of its values flat; half is normal for a rectifier), and no layer is all
zeros. Glorot's: the variance of the activations and that of dL/dz stay the same from layer to layer, here within a
factor of 2/3 to 3/2 per layer, averaged over ten layers. The thresholds are printed and stand above the picture.
"""

from statistics import median

from setting import QUICK, SEEDS, picture

import propscope
from propscope.plots import Header
from propscope.records.numerals import number, percent
from propscope.report.table import Table

FLAT, ZERO, LOW, HIGH = 0.6, 1.0, 2 / 3, 3 / 2
THRESHOLDS = (
    f"Saturated: over {FLAT:.0%} of a layer's values have a slope below 7% of the largest.\n"
    "Zero: all values are. Kept: the variance changes by 2/3 to 3/2 per layer."
)

activations = ["relu", "gelu", "selu", "tanh", "softsign", "sigmoid"]
initializers = ["zeros", "normal", "normal:std=1", "default", "xavier_normal", "he_normal"]
width, batch = (128, 32) if QUICK else (256, 128)
profiles = propscope.profile_mlp(10, width, activation=activations, initializer=initializers, seeds=SEEDS, batch=batch)


def step(sites, direction):
    """Return the factor by which the variance changes per layer, averaged over the depth."""
    variances = [getattr(site, direction).std ** 2 for site in sites]
    return (variances[-1] / variances[0]) ** (1 / (len(sites) - 1)) if min(variances) > 0 else 0.0


names = ("not saturated", "not zero", "Var[h] kept", "Var[dL/dz] kept")
found = {}
for key, seeds in profiles.groups().items():
    pair = dict(key)["activation"], dict(key)["initializer"]
    states = [profile.with_role("pre-activation") for profile in seeds]
    activated = [profile.with_role("activation") for profile in seeds]
    flat = max(site.flat_fraction for sites in states for site in sites)
    zero = max(site.forward.zero_fraction for sites in activated for site in sites)
    forward = median(step(sites, "forward") for sites in activated)
    backward = median(step(sites[::-1], "backward") for sites in states)
    held = (flat < FLAT, zero < ZERO, LOW < forward < HIGH, LOW < backward < HIGH)
    found[pair] = held, (percent(flat), percent(zero), number(forward), number(backward))

rows = [(*pair, *(f"{'yes' if a else 'no'} {b}" for a, b in zip(*found[pair], strict=True))) for pair in found]
title = "flat and zero share of the worst layer; factor of the variance per layer"
print(
    Table(
        title, ("activation", "initializer", *names), tuple(rows), left=frozenset(("activation", "initializer"))
    ).to_text()
)

print(f"\n{THRESHOLDS}")

shown = (
    "Blue: the condition holds. Numbers: shares in the worst layer (top), factor of the variance per layer (bottom)."
)
reading = f"{THRESHOLDS}\n{shown}"
header = Header("Conditions on an initialization", f"10 layers of {width} units", reading)
with picture("conditions", header, rows=2, columns=2, width=5.2, height=1.8, left=1.2) as panels:
    for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
        cells = [[found[one, other][0][index] for other in initializers] for one in activations]
        axes.imshow(cells, cmap="RdBu", vmin=-0.6, vmax=1.6, aspect="auto")
        axes.set_xticks(
            range(len(initializers)), [name.replace(":", ":\n").replace("_", "_\n") for name in initializers]
        )
        axes.set_yticks(range(len(activations)), activations)
        axes.set_title(name)
        for row, one in enumerate(activations):
            for column, other in enumerate(initializers):
                axes.text(column, row, found[one, other][1][index], ha="center", va="center")

everything = {pair for pair, (held, _) in found.items() if all(held)}
assert {
    ("relu", "he_normal"),
    ("gelu", "he_normal"),
    ("selu", "xavier_normal"),
    ("tanh", "xavier_normal"),
    ("softsign", "he_normal"),
} <= everything
# tanh does not need Xavier: at this depth He's weights meet all four as well. Softsign, odd like tanh, needs them.
assert ("tanh", "he_normal") in everything
assert found["softsign", "xavier_normal"][0] == (True, True, False, False)
assert not any(initializer in ("zeros", "normal", "normal:std=1", "default") for _, initializer in everything)
assert not any(activation == "sigmoid" for activation, _ in everything)
# The two necessary conditions are not sufficient: zeros with sigmoid meet both, but no gradient passes.
assert found["sigmoid", "zeros"][0] == (True, True, False, False)
