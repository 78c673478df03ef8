"""Faults planted one at a time into a ResNet, a GPT-2 and an LSTM, and what the diagnosis makes of each.

    python benches/planted.py [--model resnet] [--fault "no norm"]

prints a row a fault and writes outputs/planted.json, within a minute and a half. A diagnosis is right when it names the
planted place first and gives one of the kinds that were settled on beforehand, from what the fault is: the reason is in
the table. The untouched models must come out healthy. Every network is profiled from three seeds of its initializer.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from timing import write
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

import propscope
from propscope.results import ProfileSet

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import models  # type: ignore[import-not-found]

SEEDS = (0, 1, 2)
CLASSES, VOCABULARY, LENGTH = 10, 200, 24
STEPS, LETTERS = 8, 50

Loss = Callable[[Any], Tensor]
Forward = Callable[..., Tensor]


class LSTMLayer(nn.Module):
    """An LSTM over a sequence, written out (Gers et al. 2000): each gate is a layer and a nonlinearity of its own."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.input, self.forget, self.candidate, self.output = (nn.Linear(channels + width, width) for _ in range(4))
        self.input_gate, self.forget_gate, self.output_gate = nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid()
        self.squash, self.read = nn.Tanh(), nn.Tanh()
        for layer in (self.input, self.forget, self.candidate, self.output):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.ones_(self.forget.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden state at each step, shape (batch, steps, width)."""
        hidden = cell = x.new_zeros(x.shape[0], self.width)
        outputs = []
        for step in x.unbind(1):
            both = torch.cat([step, hidden], dim=1)
            new = self.input_gate(self.input(both)) * self.squash(self.candidate(both))
            cell = self.forget_gate(self.forget(both)) * cell + new
            hidden = self.output_gate(self.output(both)) * self.read(cell)
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)


class LSTM(nn.Module):
    """A language model: embedding, three layers, a readout."""

    def __init__(self, letters: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.layers = nn.Sequential(*(LSTMLayer(width, width) for _ in range(depth)))
        self.readout = nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next letter at each step."""
        logits: Tensor = self.readout(self.layers(self.embed(tokens)))
        return logits


def resnet(source: torch.Generator) -> tuple[nn.Module, Tensor, Loss]:
    """Return the examples' residual network, batch norm, six blocks, on 8 images of noise."""
    labels = torch.randint(CLASSES, (8,), generator=source)
    images = torch.randn(8, 3, 32, 32, generator=source)
    return models.resnet(width=16, blocks=2, classes=CLASSES), images, lambda out: F.cross_entropy(out, labels)


def gpt2(source: torch.Generator) -> tuple[nn.Module, Tensor, Loss]:
    """Return a GPT-2 of 4 layers and 128 units as transformers initializes it, on 8 sequences."""
    config = GPT2Config(n_layer=4, n_embd=128, n_head=4, vocab_size=VOCABULARY, n_positions=LENGTH)
    config.bos_token_id = config.eos_token_id = 0
    config.use_cache = False
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(config, name, 0.0)
    tokens = torch.randint(VOCABULARY, (8, LENGTH + 1), generator=source)
    following = tokens[:, 1:].flatten()
    return GPT2LMHeadModel(config), tokens[:, :-1], lambda out: F.cross_entropy(out.logits.flatten(0, 1), following)


def lstm(source: torch.Generator) -> tuple[nn.Module, Tensor, Loss]:
    """Return an LSTM of 3 layers and 64 units whose gates are modules, on 16 sequences of 8 steps."""
    letters = torch.randint(LETTERS, (16, STEPS + 1), generator=source)
    following = letters[:, 1:].flatten()
    return LSTM(LETTERS, 64, 3), letters[:, :-1], lambda out: F.cross_entropy(out.flatten(0, 1), following)


MODELS: dict[str, Callable[[torch.Generator], tuple[nn.Module, Tensor, Loss]]] = {
    "resnet": resnet,
    "gpt2": gpt2,
    "lstm": lstm,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The kinds of finding that are right for a fault, and why."""

    kinds: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class Planted:
    """One fault in one model, and what a right diagnosis of it says.

    `fault`: a key of `FAULTS`, planted at `place`. `first_bad` must be one of `sites`, at any call of a site that is
    named without one, and the worst finding of one of the `right` kinds.
    """

    model: str
    fault: str
    place: str
    right: Answer
    sites: tuple[str, ...]


@torch.no_grad()
def scale(model: nn.Module, *, at: str, by: float) -> None:
    model.get_parameter(f"{at}.weight").mul_(by)


@torch.no_grad()
def not_a_number(model: nn.Module, *, at: str) -> None:
    model.get_parameter(f"{at}.weight").view(-1)[0] = math.nan


def freeze(model: nn.Module, *, at: str) -> None:
    model.get_submodule(at).requires_grad_(False)


def put(model: nn.Module, *, at: str, kind: type[nn.Module]) -> None:
    model.set_submodule(at, kind())


def recast(model: nn.Module, *, at: str, forwards: Mapping[type[nn.Module], Forward]) -> None:
    """Give a block another forward pass; its modules and their names stay."""
    block = model.get_submodule(at)
    block.forward = MethodType(forwards[type(block)], block)


def two_streams(block: Any, x: Tensor) -> Tensor:
    """Pass through the ResNet's block, with its stream added twice."""
    stream = block.shortcut(x)
    out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    out += stream
    twice: Tensor = block.relu(out + stream)
    return twice


def two_branches(block: Any, x: Tensor) -> Tensor:
    """Pass through the ResNet's block, with its branch added twice."""
    stream = block.shortcut(x)
    branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    out = stream + branch
    twice: Tensor = block.relu(out + branch)
    return twice


def two_streams_gpt2(block: Any, x: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Pass through GPT-2's block, with its stream added once more at the end."""
    through: Tensor = type(block).forward(block, x, *rest, **options)
    return through + x


def two_branches_gpt2(block: Any, x: Tensor, *_: Any, attention_mask: Any = None, **__: Any) -> Tensor:
    """Pass through GPT-2's block, with its MLP added twice."""
    stream = x + block.attn(block.ln_1(x), attention_mask=attention_mask)[0]
    branch = block.mlp(block.ln_2(stream))
    twice: Tensor = stream + branch + branch
    return twice


STREAMS: dict[type[nn.Module], Forward] = {models.Block: two_streams, GPT2Block: two_streams_gpt2}
BRANCHES: dict[type[nn.Module], Forward] = {models.Block: two_branches, GPT2Block: two_branches_gpt2}
FAULTS: dict[str, Callable[..., None]] = {
    "weights x100": partial(scale, by=100.0),
    "weights x0.01": partial(scale, by=0.01),
    "zero weights": partial(scale, by=0.0),
    "NaN weight": not_a_number,
    "frozen": freeze,
    "sigmoid": partial(put, kind=nn.Sigmoid),
    "no norm": partial(put, kind=nn.Identity),
    "stream twice": partial(recast, forwards=STREAMS),
    "branch twice": partial(recast, forwards=BRANCHES),
}

LOUD = Answer(frozenset({"exploding"}), "what it gives is 100 times as large as before")
LOUD_NORMED = Answer(
    frozenset({"exploding", "stagnant"}),
    "what it gives is 100 times as large; the norm behind it takes that back, and leaves a gradient 1/10,000 of the"
    " usual against the weight",
)
LOUD_GATE = Answer(
    frozenset({"exploding", "saturated"}), "what it gives is 100 times as large, far into where the gate is flat"
)
FAINT = Answer(frozenset({"vanishing"}), "what it gives is 1/100 of what it was")
ZERO = Answer(frozenset({"vanishing", "symmetric"}), "it gives zeros, with which all its units are equal")
NOT_A_NUMBER = Answer(frozenset({"non-finite"}), "every value that the weight enters is NaN")
FROZEN = Answer(frozenset({"stagnant"}), "its parameters have no gradient, and stay as they are")
SIGMOID = Answer(
    frozenset({"vanishing", "collapse", "saturated"}),
    "a slope of 1/4 at most takes the gradient, and values about 1/2 hide how samples differ",
)
UNHELD = Answer(frozenset({"exploding", "vanishing"}), "nothing brings the signal to rms 1: what comes in sets it")
UNRAISED = Answer(frozenset({"vanishing"}), "the stream is fainter than rms 1, and nothing raises it any more")
TWICE = Answer(frozenset({"exploding"}), "the sum adds what is in it already: it grows by more than a branch")

H = "transformer.h"
PLANTED = (
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
    # A convolution's output takes its norm's place in front of the ReLU, or of the sum.
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
    """What the diagnosis says: its verdict, and its worst finding's kind, direction and first site."""

    verdict: str
    kind: str
    direction: str | None
    first: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `fault` is "untouched" where nothing was planted, and a healthy verdict is right then."""

    model: str
    fault: str
    place: str
    expected: tuple[str, ...]
    why: str
    found: Found
    right: bool


def profiles(model: str, planted: Planted | None = None) -> ProfileSet:
    """Return a profile for each seed of the initializer, of the model with the fault or without one."""
    taken = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        net, batch, loss = MODELS[model](torch.Generator().manual_seed(seed))
        if planted is not None:
            FAULTS[planted.fault](net, at=planted.place)
        taken.append(replace(propscope.profile(net, batch, loss, seed=seed), labels={"seed": seed}))
    return ProfileSet.of(taken)


def diagnosed(taken: ProfileSet) -> Found:
    from propscope.diagnosis import diagnose

    diagnosis = diagnose(taken)
    if diagnosis.first_bad is None or diagnosis.worst is None:
        return Found(diagnosis.verdict, "", None, "")
    worst = diagnosis.worst
    return Found(diagnosis.verdict, worst.kind, worst.direction, diagnosis.first_bad)


def is_right(planted: Planted, found: Found) -> bool:
    named = found.first in planted.sites or module_of(found.first) in planted.sites
    return found.verdict != "healthy" and named and found.kind in planted.right.kinds


def module_of(name: str) -> str:
    """Return the name of a site without its call and the key in its output."""
    return name.partition("[")[0].partition("#")[0]


def untouched(model: str) -> Row:
    found = diagnosed(profiles(model))
    return Row(model, "untouched", "", ("healthy",), "nothing is wrong", found, found.verdict == "healthy")


def judged(planted: Planted) -> Row:
    found = diagnosed(profiles(planted.model, planted))
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
    parser.add_argument("--model", choices=MODELS, help="this model alone")
    parser.add_argument("--fault", choices=FAULTS, help="this fault alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    chosen = [asked.model] if asked.model else list(MODELS)
    faults = [asked.fault] if asked.fault else list(FAULTS)
    sound = [untouched(model) for model in chosen]
    broken = [judged(planted) for planted in PLANTED if planted.model in chosen and planted.fault in faults]
    print("\n".join(lines([*sound, *broken])))
    seconds = time.perf_counter() - start
    score = f"{sum(row.right for row in broken)} of {len(broken)}"
    print(f"{score} faults found; {sum(row.right for row in sound)} of {len(sound)} untouched models healthy")
    if asked.model is None and asked.fault is None:
        path = write("planted", {"score": score, "seconds": seconds, "rows": [*sound, *broken]})
        print(f"{seconds:.0f} s; written to {path}")


if __name__ == "__main__":
    main()
