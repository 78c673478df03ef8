"""How many faults the diagnosis finds: they are planted one at a time into a ResNet, a GPT-2 and an LSTM.

    python benches/planted.py [--model resnet] [--fault "no norm"] [--held-out]

prints one row per fault and writes outputs/planted.json, within a minute and a half. A diagnosis is right if its worst
finding names the planted place and has one of the kinds that follow from the fault; `faults.py` states them and why.
The untouched models must be healthy. Every network is profiled with three seeds of its initializer. `--held-out` uses
models, sizes and randomly drawn places that the rules were not made on (`held_out.py`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from faults import (
    FAINT,
    FAULTS,
    FROZEN,
    LOUD,
    LOUD_GATE,
    LOUD_NORMED,
    MODELS,
    NOT_A_NUMBER,
    SIGMOID,
    TWICE,
    UNHELD,
    UNRAISED,
    ZERO,
    Build,
    Planted,
    module_of,
)
from timing import write

import propscope
from propscope.records import ProfileSet

SEEDS = (0, 1, 2)

H = "transformer.h"
PLANTED: tuple[Planted, ...] = (
    Planted("resnet", "weights x100", "stem.0", LOUD_NORMED, ("stem.0",)),
    Planted("resnet", "weights x100", "stage2.0.conv1", LOUD_NORMED, ("stage2.0.conv1",)),
    Planted("resnet", "weights x100", "fc", LOUD, ("fc",)),
    Planted("resnet", "weights x0.01", "stage1.0.conv2", FAINT, ("stage1.0.conv2",)),
    Planted("resnet", "weights x0.01", "stage2.1.conv1", FAINT, ("stage2.1.conv1",)),
    Planted("resnet", "weights x0.01", "stage3.1.bn1", FAINT, ("stage3.1.bn1",)),
    Planted("resnet", "zero weights", "stage1.0.conv1", ZERO, ("stage1.0.conv1",)),
    Planted("resnet", "zero weights", "stage3.0.conv2", ZERO, ("stage3.0.conv2",)),
    Planted("resnet", "NaN weight", "stem.0", NOT_A_NUMBER, ("stem.0",)),
    Planted("resnet", "NaN weight", "stage3.0.bn2", NOT_A_NUMBER, ("stage3.0.bn2",)),
    Planted("resnet", "frozen", "stage1.1", FROZEN, ("stage1.1.conv1",)),
    Planted("resnet", "frozen", "stage3.0", FROZEN, ("stage3.0.conv1",)),
    Planted("resnet", "sigmoid", "stage1.1.relu", SIGMOID, ("stage1.1.relu", "stage1.1.bn1", "stage1.1.add")),
    Planted("resnet", "sigmoid", "stage3.0.relu", SIGMOID, ("stage3.0.relu", "stage3.0.bn1", "stage3.0.add")),
    # The convolution's output enters the ReLU or the sum in place of its norm's output.
    Planted("resnet", "no norm", "stem.1", UNHELD, ("stem.0", "stem.2")),
    Planted("resnet", "no norm", "stage2.0.bn1", UNHELD, ("stage2.0.conv1", "stage2.0.relu#0")),
    Planted("resnet", "no norm", "stage3.1.bn2", UNHELD, ("stage3.1.conv2", "stage3.1.add")),
    Planted("resnet", "stream twice", "stage1.0", TWICE, ("stage1.0.add#1",)),
    Planted("resnet", "branch twice", "stage2.1", TWICE, ("stage2.1.add#1",)),
    Planted("gpt2", "weights x100", f"{H}.0.attn.c_attn", LOUD, (f"{H}.0.attn.c_attn",)),
    Planted("gpt2", "weights x100", f"{H}.2.mlp.c_fc", LOUD, (f"{H}.2.mlp.c_fc",)),
    Planted("gpt2", "weights x100", f"{H}.3.mlp.c_proj", LOUD, (f"{H}.3.mlp.c_proj",)),
    Planted("gpt2", "weights x0.01", f"{H}.0.mlp.c_fc", FAINT, (f"{H}.0.mlp.c_fc",)),
    Planted("gpt2", "weights x0.01", f"{H}.1.attn.c_proj", FAINT, (f"{H}.1.attn.c_proj",)),
    Planted("gpt2", "weights x0.01", f"{H}.3.attn.c_attn", FAINT, (f"{H}.3.attn.c_attn",)),
    Planted("gpt2", "zero weights", f"{H}.0.mlp.c_proj", ZERO, (f"{H}.0.mlp.c_proj",)),
    Planted("gpt2", "zero weights", f"{H}.2.attn.c_attn", ZERO, (f"{H}.2.attn.c_attn",)),
    Planted("gpt2", "NaN weight", f"{H}.1.mlp.c_fc", NOT_A_NUMBER, (f"{H}.1.mlp.c_fc",)),
    Planted("gpt2", "NaN weight", f"{H}.3.ln_2", NOT_A_NUMBER, (f"{H}.3.ln_2",)),
    Planted("gpt2", "frozen", f"{H}.0", FROZEN, (f"{H}.0.ln_1",)),
    Planted("gpt2", "frozen", f"{H}.2", FROZEN, (f"{H}.2.ln_1",)),
    Planted("gpt2", "sigmoid", f"{H}.1.mlp.act", SIGMOID, (f"{H}.1.mlp.act", f"{H}.1.mlp.c_fc")),
    Planted("gpt2", "sigmoid", f"{H}.3.mlp.act", SIGMOID, (f"{H}.3.mlp.act", f"{H}.3.mlp.c_fc")),
    Planted("gpt2", "no norm", f"{H}.0.ln_1", UNRAISED, (f"{H}.0.attn.c_attn",)),
    Planted("gpt2", "no norm", f"{H}.2.ln_2", UNRAISED, (f"{H}.2.mlp.c_fc",)),
    Planted("gpt2", "no norm", "transformer.ln_f", UNRAISED, ("transformer", "lm_head")),
    Planted("gpt2", "stream twice", f"{H}.1", TWICE, (f"{H}.1.add#2",)),
    Planted("gpt2", "branch twice", f"{H}.2", TWICE, (f"{H}.2.add#2",)),
    Planted("lstm", "weights x100", "layers.0.candidate", LOUD_GATE, ("layers.0.candidate",)),
    Planted("lstm", "weights x100", "layers.1.output", LOUD_GATE, ("layers.1.output",)),
    Planted("lstm", "weights x100", "readout", LOUD, ("readout",)),
    Planted("lstm", "weights x0.01", "layers.0.candidate", FAINT, ("layers.0.candidate",)),
    Planted("lstm", "weights x0.01", "layers.2.candidate", FAINT, ("layers.2.candidate",)),
    Planted("lstm", "zero weights", "layers.0.candidate", ZERO, ("layers.0.candidate",)),
    Planted("lstm", "zero weights", "layers.2.output", ZERO, ("layers.2.output",)),
    Planted("lstm", "NaN weight", "layers.0.input", NOT_A_NUMBER, ("layers.0.input",)),
    Planted("lstm", "NaN weight", "readout", NOT_A_NUMBER, ("readout",)),
    Planted("lstm", "frozen", "layers.0", FROZEN, ("layers.0.input",)),
    Planted("lstm", "frozen", "layers.2", FROZEN, ("layers.2.input",)),
    Planted("lstm", "sigmoid", "layers.1.squash", SIGMOID, ("layers.1.squash", "layers.1.candidate")),
    Planted("lstm", "sigmoid", "layers.2.read", SIGMOID, ("layers.2.read", "layers.2.add")),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What the diagnosis says: its verdict, and the kind, direction and first site of its worst finding or note."""

    verdict: str
    kind: str
    direction: str | None
    first: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; `fault` is "untouched" where nothing was planted and a healthy verdict is right."""

    model: str
    fault: str
    place: str
    expected: tuple[str, ...]
    why: str
    found: Found
    right: bool


def profiles(model: str, planted: Planted | None = None, *, known: Mapping[str, Build] = MODELS) -> ProfileSet:
    """Return one profile per seed of the model, with the fault or without one."""
    taken = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        net, batch, loss = known[model](torch.Generator().manual_seed(seed))
        if planted is not None:
            FAULTS[planted.fault](net, at=planted.place)
        taken.append(replace(propscope.profile(net, batch, loss, seed=seed), labels={"seed": seed}))
    return ProfileSet.of(taken)


def diagnosed(taken: ProfileSet) -> Found:
    from propscope.diagnosis import diagnose

    diagnosis = diagnose(taken)
    if diagnosis.worst is None:
        return Found(diagnosis.verdict, "", None, "")
    worst = diagnosis.worst
    return Found(diagnosis.verdict, worst.kind, worst.direction, worst.first)


def is_right(planted: Planted, found: Found) -> bool:
    named = found.first in planted.sites or module_of(found.first) in planted.sites
    grave = found.verdict != "healthy" or planted.right.note
    return grave and named and found.kind in planted.right.kinds


def untouched(model: str, *, known: Mapping[str, Build] = MODELS) -> Row:
    found = diagnosed(profiles(model, known=known))
    return Row(model, "untouched", "", ("healthy",), "nothing is wrong", found, found.verdict == "healthy")


def judged(planted: Planted, *, known: Mapping[str, Build] = MODELS) -> Row:
    found = diagnosed(profiles(planted.model, planted, known=known))
    kinds = tuple(sorted(planted.right.kinds))
    return Row(planted.model, planted.fault, planted.place, kinds, planted.right.why, found, is_right(planted, found))


def lines(rows: list[Row]) -> list[str]:
    said = [f"{'model':7} {'fault':14} {'place':27} {'expected':31} {'found':40} right"]
    for row in rows:
        kind = " ".join(filter(None, (row.found.kind, row.found.direction, row.found.first))) or row.found.verdict
        expected = ", ".join(row.expected)
        said.append(
            f"{row.model:7} {row.fault:14} {row.place:27} {expected:31} {kind:40} {'yes' if row.right else 'NO'}"
        )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="only this model")
    parser.add_argument("--fault", choices=FAULTS, help="only this fault")
    parser.add_argument("--held-out", action="store_true", help="faults that the rules were not made on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    known, table, name = MODELS, PLANTED, "planted"
    if asked.held_out:
        import held_out

        known, table, name = held_out.MODELS, held_out.drawn(), "planted-held-out"
    if asked.model not in (None, *known):
        parser.error(f"--model {asked.model}: choose from {', '.join(known)}")
    chosen = [asked.model] if asked.model else list(known)
    faults = [asked.fault] if asked.fault else list(FAULTS)
    sound = [untouched(model, known=known) for model in chosen]
    broken = [judged(planted, known=known) for planted in table if planted.model in chosen and planted.fault in faults]
    print("\n".join(lines([*sound, *broken])))
    seconds = time.perf_counter() - start
    score = f"{sum(row.right for row in broken)} of {len(broken)}"
    print(f"{score} faults found; {sum(row.right for row in sound)} of {len(sound)} untouched models healthy")
    if asked.model is None and asked.fault is None:
        path = write(name, {"score": score, "seconds": seconds, "rows": [*sound, *broken]})
        print(f"{seconds:.0f} s; written to {path}")


if __name__ == "__main__":
    main()
