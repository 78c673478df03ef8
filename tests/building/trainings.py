"""Small trainings, each a model, its optimizer and what one update does, so that two of them run alike."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKENS, LENGTH = 16, 6


class Attention(nn.Module):
    """A block of a GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.behind = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, stream: Tensor) -> Tensor:
        batch, length, width = stream.shape
        mixed = self.mix(self.before(stream)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*mixed, is_causal=True)
        stream = stream + self.project(attended.transpose(1, 2).reshape(batch, length, width))
        return stream + self.feed(self.behind(stream))


class Language(nn.Module):
    """A small GPT-2."""

    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Attention(width, 2) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places.weight)))


class Residual(nn.Module):
    """A small ResNet with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.drop = nn.Conv2d(2, 4, 3, padding=1), nn.Dropout(0.1)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, TOKENS)

    def forward(self, image: Tensor) -> Tensor:
        value = self.stem(image)
        value = F.relu(value + self.drop(self.inner(value)))
        return self.head(value.mean((2, 3)))


class Recurrent(nn.Module):
    """A small LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.cells = nn.Embedding(TOKENS, 8), nn.LSTM(8, 8, 2, batch_first=True)
        self.head = nn.Linear(8, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cells(self.tokens(tokens))[0])


def _images(generator: torch.Generator) -> Tensor:
    return torch.randn(8, 2, 5, 5, generator=generator)


def _sentences(generator: torch.Generator) -> Tensor:
    return torch.randint(TOKENS, (8, LENGTH), generator=generator)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Tensor]]] = {
    "gpt2": (Language, _sentences),
    "resnet": (Residual, _images),
    "lstm": (Recurrent, _sentences),
}


@dataclass
class Training:
    """A training from fixed seeds; `update()` is one update of the model, and returns its loss."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Callable[[], Tensor]

    def loss(self) -> Tensor:
        batch = self.batch()
        logits = self.model(batch)
        targets = batch if batch.dtype == torch.int64 else torch.arange(len(batch))
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten())

    def update(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss

    def state(self) -> list[Any]:
        """Return everything that a training leaves: weights, buffers, the optimizer's state, the random numbers."""
        found: list[Any] = [torch.random.get_rng_state(), *self.model.state_dict().values()]
        found += [parameter.grad for parameter in self.model.parameters()]
        for state in self.optimizer.state_dict()["state"].values():
            found += [value for value in state.values() if isinstance(value, Tensor)]
        return found


def training(name: str = "gpt2", optimizer: str = "AdamW", **options: Any) -> Training:
    """Return the training of a model of `MODELS` by an optimizer of torch."""
    make, batch = MODELS[name]
    torch.manual_seed(0)
    model = make()
    options = {"lr": 1e-2} | options
    generator = torch.Generator().manual_seed(1)
    return Training(model, getattr(torch.optim, optimizer)(model.parameters(), **options), lambda: batch(generator))


def steps_of(run: Training, monitor: Any, count: int, broken: Container[int] = ()) -> None:
    """Take the first `count` steps of a monitored training, with a gradient of NaN in the steps `broken`."""
    for step in range(count):
        with monitor.step(step) as one:
            run.optimizer.zero_grad()
            loss = run.loss()
            (loss * float("nan") if step in broken else loss).backward()
            run.optimizer.step()
            one.loss(loss)
