"""Whether a planted fault is named: every kind of fault in one small architecture of each family.

    python benches/foreign.py [--name vit] [--fault "no norm"] [--draw 0]

plants each fault of `planting.py` at a place that is drawn with a seed into each of these architectures, and prints
what the diagnosis says of it first. It is right if its kind and its place are. A draw without an effect on any gradient
is drawn again; where no place has an effect, the fault is left out of that architecture.
"""

from __future__ import annotations

import argparse
import copy
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from planting import FAULTS, answer, has_effect, profiled
from published import ARCHITECTURES, Architecture
from torch import Tensor, nn

import propscope
from propscope.records import Diagnosis

FAMILIES = (
    "transformers resnet", "torchvision densenet121", "torchvision mobilenet_v2", "torchvision vgg13",
    "transformers regnet", "transformers convnext", "transformers vit", "transformers swin", "transformers gpt2",
    "transformers bert", "transformers t5", "transformers llama", "diffusers UNet2DModel", "torch_geometric GIN",
    "torch_geometric TransformerConv x3",
)  # fmt: skip
TRIES = 4


class Recurrent(nn.Module):
    """Two LSTM layers of torch on a sequence, and a readout of the last state through a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(16, 64, num_layers=2, batch_first=True)
        self.drop, self.hidden, self.head = nn.Dropout(0.1), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each sequence."""
        logits: Tensor = self.head(self.hidden(self.drop(self.rnn(x)[0][:, -1])).relu())
        return logits


def encoder() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return nn.Sequential(nn.Linear(16, 64), nn.TransformerEncoder(layer, 4), nn.Linear(64, 10)), torch.randn(16, 12, 16)


OTHERS = (
    Architecture("LSTM", "torch", lambda: (Recurrent(), torch.randn(32, 10, 16))),
    Architecture("TransformerEncoder", "torch", encoder),
)
CHOSEN = [a for a in ARCHITECTURES if f"{a.library} {a.name}" in FAMILIES] + [*OTHERS]


@dataclass(frozen=True, slots=True)
class Row:
    """One fault at one place of an architecture, and what the diagnosis says of it."""

    architecture: Architecture
    fault: str
    place: str
    found: Diagnosis
    answer: str


def rows(architecture: Architecture, *, draw: int, only: str | None = None) -> Iterator[Row]:
    torch.manual_seed(0)
    model, batch = architecture.build()
    sound = profiled(copy.deepcopy(model), batch)
    for name, fault in FAULTS.items():
        if only not in (None, name):
            continue
        places = [*fault.places(model, sound)]
        source = random.Random(f"{architecture.name} {name} {draw}")
        source.shuffle(places)
        for place in places[:TRIES]:
            planted = copy.deepcopy(model)
            try:
                given = fault.plant(planted, batch, sound, place)
                profile = profiled(planted, given)
            except (RuntimeError, AttributeError, TypeError) as error:
                print(f"    {name} at {place}: {type(error).__name__}: {error}"[:150])
                continue
            note = fault.note(sound, place)
            if not note and not has_effect(sound, profile, place):
                print(f"    {architecture.name}: {name} at {place} has no effect")
                continue
            found = propscope.diagnose(profile)
            yield Row(architecture, name, place, found, answer(found, fault.kinds, fault.right(sound, place), note))
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="only the architecture of this name")
    parser.add_argument("--fault", choices=FAULTS, help="only this fault")
    parser.add_argument("--draw", type=int, default=0, help="another draw of the places")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers: dict[str, Counter[str]] = {name: Counter() for name in FAULTS}
    for architecture in CHOSEN:
        if asked.name not in (None, architecture.name):
            continue
        for row in rows(architecture, draw=asked.draw, only=asked.fault):
            answers[row.fault][row.answer] += 1
            worst = row.found.worst
            said = "" if worst is None else f"{worst.severity} {worst.kind} {worst.first}: {worst.message[:110]}"
            print(f"{row.answer:8} {row.architecture.name:18} {row.fault:15} {row.place:45} {said}", flush=True)
    words = ("right", "listed", "kind", "place", "wrong", "accused", "not said", "missed")
    print(f"{'fault':15} " + " ".join(f"{word:>8}" for word in words))
    for name, counts in answers.items():
        print(f"{name:15} " + " ".join(f"{counts[word] or '':>8}" for word in words))
    total = sum((counts for counts in answers.values()), Counter())
    print(f"{total['right']} of {total.total()} right")


if __name__ == "__main__":
    main()
