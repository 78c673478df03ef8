"""What the diagnosis says of published architectures: as their libraries initialize them, and with one planted fault.

    python benches/architectures.py [--library timm] [--name resnet18]

runs every architecture of `published.py` whose library is installed (`pip install -e '.[architectures]'`) and writes
the table of docs/architectures.md, within four minutes. An untouched one must be healthy: what is not is listed with
its finding. Then one fault of those in `planting.py`, drawn with a seed, is planted into it; the verdict must be
"strained" or "broken", and the first finding should be of its kind and at its place. What changes no gradient, and an
input whose size a norm takes away, is drawn again.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from planting import FAULTS, answer, has_effect, profiled
from published import ARCHITECTURES, Architecture
from torch import nn

import propscope
from propscope.records import Diagnosis

TABLE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
START, END = "<!-- table of benches/architectures.py -->", "<!-- end of the table -->"
# Draws of a fault and a place that has an effect.
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One architecture: the verdict on it untouched, and with a fault planted at a place.

    `answer`: how right the first finding is, as `planting.answer` has it.
    """

    architecture: Architecture
    untouched: Diagnosis
    fault: str
    place: str
    planted: Diagnosis
    answer: str

    @property
    def found(self) -> bool:
        """Whether the planted fault makes the verdict strained or broken."""
        return self.planted.verdict in ("strained", "broken")


def run(architecture: Architecture, *, seed: int = 0) -> Row:
    """Return the verdicts on an architecture, untouched and with one fault; `seed` draws weights, inputs and fault."""
    model, batch = built(architecture, seed)
    sound = profiled(copy.deepcopy(model), batch)
    untouched = propscope.diagnose(sound, notes=False)
    source = random.Random(f"{architecture.library} {architecture.name} {seed}")
    known = {name: places for name, fault in FAULTS.items() if (places := [*fault.places(model, sound)])}
    for _ in range(_TRIES):
        name = source.choice([*known])
        fault, place = FAULTS[name], source.choice(known[name])
        if fault.note(sound, place):
            continue
        planted = copy.deepcopy(model)
        profile = profiled(planted, fault.plant(planted, batch, sound, place))
        if has_effect(sound, profile, place):
            break
    found = propscope.diagnose(profile, notes=False)
    said = answer(found, fault.kinds, fault.right(sound, place), "")
    return Row(architecture, untouched, name, place, found, said)


def built(architecture: Architecture, seed: int) -> tuple[nn.Module, object]:
    torch.manual_seed(seed)
    return architecture.build()


def lines(rows: list[Row]) -> Iterator[str]:
    healthy, found = sum(row.untouched.verdict == "healthy" for row in rows), sum(row.found for row in rows)
    named = sum(row.answer == "right" for row in rows)
    yield (
        f"{healthy} of {len(rows)} are healthy untouched; {found} of {len(rows)} planted faults are found, and {named} "
        "are named first."
    )
    yield ""
    yield "| fault | planted | found | named first |"
    yield "|---|---|---|---|"
    for fault in FAULTS:
        of_kind = [row for row in rows if row.fault == fault]
        right = sum(row.answer == "right" for row in of_kind)
        yield f"| {fault} | {len(of_kind)} | {sum(row.found for row in of_kind)} | {right} |"
    yield ""
    yield "| library | architecture | untouched | finding | planted fault | place | verdict with the fault | named |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        worst = "" if row.untouched.worst is None else row.untouched.worst.message.replace("|", "/")
        verdict = row.planted.verdict if row.found else f"**{row.planted.verdict}**"
        name = f"{row.architecture.library} | {row.architecture.name}"
        yield f"| {name} | {row.untouched.verdict} | {worst} | {row.fault} | `{row.place}` | {verdict} | {row.answer} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", help="only architectures of this library")
    parser.add_argument("--name", help="only architectures whose name contains this")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [a for a in ARCHITECTURES if asked.library in (None, a.library) and (asked.name or "") in a.name]
    missing = {library for a in chosen if importlib.util.find_spec(library := a.library) is None}
    rows = []
    for architecture in chosen:
        if architecture.library not in missing:
            rows.append(run(architecture))
            print(*[*lines(rows[-1:])][-1:], flush=True)
    print(*[*lines(rows)][:1], *(f"not installed: {library}" for library in sorted(missing)), sep="\n")
    if len(rows) == len(ARCHITECTURES):
        before, _, rest = TABLE.read_text().partition(START)
        TABLE.write_text("\n".join([before + START, *lines(rows), END]) + rest.partition(END)[2])


if __name__ == "__main__":
    main()
