"""What the diagnosis says of published architectures: as their libraries initialize them, and with one planted fault.

    python benches/architectures.py [--library timm] [--name resnet18]

runs every architecture of `published.py` whose library is installed (`pip install -e '.[architectures]'`) and writes
the table of docs/architectures.md, within four minutes. An untouched one must be healthy: what is not is listed with
its finding. Then one fault, drawn with a seed, is planted into it (weights x100, weights x0.01, biases of 10, a norm
that is removed); the verdict must be "strained" or "broken".
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from published import ARCHITECTURES, Architecture
from torch import nn

import propscope
from propscope.records import Diagnosis

TABLE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
START, END = "<!-- table of benches/architectures.py -->", "<!-- end of the table -->"
Fault = Callable[[nn.Module, str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One architecture: the verdict on it untouched, with its finding, and with a fault planted at a place."""

    architecture: Architecture
    untouched: Diagnosis
    fault: str
    place: str
    planted: Diagnosis

    @property
    def found(self) -> bool:
        """Whether the planted fault makes the verdict strained or broken."""
        return self.planted.verdict in ("strained", "broken")


def scale(model: nn.Module, at: str, *, by: float) -> None:
    with torch.no_grad():
        model.get_parameter(f"{at}.weight").mul_(by)


def shift(model: nn.Module, at: str) -> None:
    with torch.no_grad():
        model.get_parameter(f"{at}.bias").fill_(10.0)


def remove(model: nn.Module, at: str) -> None:
    model.set_submodule(at, nn.Identity())


FAULTS: dict[str, Fault] = {
    "weights x100": lambda model, at: scale(model, at, by=100.0),
    "weights x0.01": lambda model, at: scale(model, at, by=0.01),
    "biases of 10": shift,
    "no norm": remove,
}

MEANT_AT_THE_END = ("weights x0.01", "biases of 10")


def places(model: nn.Module, fault: str) -> list[str]:
    """Return where a fault can be planted: norms, layers with biases, or layers with weight matrices."""
    found = []
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        kind = type(module).__name__.lower()
        if fault == "no norm":
            # A class that fuses a norm with what follows it is not replaced by nothing.
            fits = "norm" in kind and weight is not None and "act" not in kind and not any(module.children())
        else:
            learns = isinstance(weight, nn.Parameter) and weight.requires_grad and weight.ndim > 1
            fits = learns and "embedding" not in kind and (fault != "biases of 10" or isinstance(bias, nn.Parameter))
        if name and fits:
            found.append(name)
    return found


def run(architecture: Architecture, *, seed: int = 0) -> Row:
    """Return the verdicts on an architecture, untouched and with one fault; `seed` draws weights, inputs and fault."""
    untouched = diagnosed(*built(architecture, seed))
    source = random.Random(f"{architecture.library} {architecture.name} {seed}")
    model, batch = built(architecture, seed)
    fault = source.choice([fault for fault in FAULTS if places(model, fault)])
    place = source.choice(fitting := places(model, fault))
    # A small last layer, and one bias for all logits, are no fault: cross-entropy does not see a common shift.
    if fault in MEANT_AT_THE_END and place == fitting[-1]:
        place = source.choice(fitting[:-1] or fitting)
    FAULTS[fault](model, place)
    return Row(architecture, untouched, fault, place, diagnosed(model, batch))


def built(architecture: Architecture, seed: int) -> tuple[nn.Module, object]:
    torch.manual_seed(seed)
    return architecture.build()


def diagnosed(model: nn.Module, batch: object) -> Diagnosis:
    return propscope.diagnose(propscope.profile(model.train(), batch), notes=False)


def lines(rows: list[Row]) -> Iterator[str]:
    healthy, found = sum(row.untouched.verdict == "healthy" for row in rows), sum(row.found for row in rows)
    yield f"{healthy} of {len(rows)} are healthy untouched; {found} of {len(rows)} planted faults are found."
    yield ""
    yield "| library | architecture | untouched | finding | planted fault | place | verdict with the fault |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        worst = "" if row.untouched.worst is None else row.untouched.worst.message.replace("|", "/")
        verdict = row.planted.verdict if row.found else f"**{row.planted.verdict}**"
        name = f"{row.architecture.library} | {row.architecture.name}"
        yield f"| {name} | {row.untouched.verdict} | {worst} | {row.fault} | `{row.place}` | {verdict} |"


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
