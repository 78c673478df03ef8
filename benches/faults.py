"""The untouched models of `planted.py`, the faults that are planted into them, and the right answers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import models  # type: ignore[import-not-found]

CLASSES, VOCABULARY, LENGTH = 10, 200, 24
STEPS, LETTERS = 8, 50

Loss = Callable[[Any], Tensor]
Forward = Callable[..., Tensor]
Build = Callable[[torch.Generator], tuple[nn.Module, Tensor, Loss]]


class LSTMLayer(nn.Module):
    """An LSTM layer written out (Gers et al. 2000): each gate has its own linear layer and nonlinearity."""

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


def resnet(source: torch.Generator, *, width: int = 16, blocks: int = 2) -> tuple[nn.Module, Tensor, Loss]:
    """Return the examples' residual network with batch norm, on 8 images of noise."""
    labels = torch.randint(CLASSES, (8,), generator=source)
    images = torch.randn(8, 3, 32, 32, generator=source)
    return models.resnet(width=width, blocks=blocks, classes=CLASSES), images, lambda out: F.cross_entropy(out, labels)


def gpt2(source: torch.Generator, *, layers: int = 4, width: int = 128) -> tuple[nn.Module, Tensor, Loss]:
    """Return a GPT-2 as transformers initializes it, on 8 sequences."""
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=4, vocab_size=VOCABULARY, n_positions=LENGTH)
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


MODELS: dict[str, Build] = {
    "resnet": resnet,
    "gpt2": gpt2,
    "lstm": lstm,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The kinds of finding that are right for a fault, and why; with `note`, a note is enough, as it may be meant."""

    kinds: frozenset[str]
    why: str
    note: bool = False


@dataclass(frozen=True, slots=True)
class Planted:
    """One fault in one model, and what a right diagnosis says of it.

    `fault` is a key of `FAULTS` and is planted at `place`. In a right diagnosis, the worst finding has one of the
    `right` kinds and its first site is one of `sites`; a site that is named without a call stands for all its calls.
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
    """Give a block another forward pass and keep its modules and their names."""
    block = model.get_submodule(at)
    block.forward = MethodType(forwards[type(block)], block)


def two_streams(block: Any, x: Tensor) -> Tensor:
    """Run the ResNet's block with its stream added twice."""
    stream = block.shortcut(x)
    out = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    out += stream
    twice: Tensor = block.relu(out + stream)
    return twice


def two_branches(block: Any, x: Tensor) -> Tensor:
    """Run the ResNet's block with its branch added twice."""
    stream = block.shortcut(x)
    branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
    out = stream + branch
    twice: Tensor = block.relu(out + branch)
    return twice


def two_streams_gpt2(block: Any, x: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Run GPT-2's block and add its stream once more at the end."""
    through: Tensor = type(block).forward(block, x, *rest, **options)
    return through + x


def two_branches_gpt2(block: Any, x: Tensor, *_: Any, attention_mask: Any = None, **__: Any) -> Tensor:
    """Run GPT-2's block with its MLP branch added twice."""
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

LOUD = Answer(frozenset({"exploding"}), "its output is 100 times as large as before")
LOUD_NORMED = Answer(
    frozenset({"exploding", "stagnant"}),
    "its output is 100 times as large; the norm behind it undoes that, and the gradient relative to the weight is"
    " 1/10,000 of the usual one",
)
LOUD_GATE = Answer(
    frozenset({"exploding", "saturated"}), "its output is 100 times as large, far into the flat range of the gate"
)
FAINT = Answer(frozenset({"vanishing"}), "its output is 1/100 of what it was")
ZERO = Answer(frozenset({"vanishing", "symmetric"}), "its output is zero, so all its units are equal")
NOT_A_NUMBER = Answer(frozenset({"non-finite"}), "every value computed from the weight is NaN")
FROZEN = Answer(frozenset({"stagnant"}), "its parameters have no gradient and do not change", note=True)
SIGMOID = Answer(
    frozenset({"vanishing", "collapse", "saturated"}),
    "its slope of at most 1/4 shrinks the gradient, and values around 1/2 hide how samples differ",
)
UNHELD = Answer(
    frozenset({"exploding", "vanishing"}), "nothing brings the signal to rms 1, so its size is that of the input"
)
UNRAISED = Answer(frozenset({"vanishing"}), "the rms of the stream is below 1, and nothing raises it")
TWICE = Answer(frozenset({"exploding"}), "the sum contains one term twice, so it grows by more than a branch")


def module_of(name: str) -> str:
    """Return the name of a site without its call and the key in its output."""
    return name.partition("[")[0].partition("#")[0]
