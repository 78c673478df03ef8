"""What a monitor costs a training: CPU time of the first, a sampled and any other step, against the bare step.

    python benches/monitor.py [--rounds 20]

A round runs one step of each kind, one after the other. Entering the step, recording it and writing its sample count.
First steps are those of new models, each against the first step of a bare one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from timing import write
from torch import Tensor, nn

import propscope
from propscope.monitoring import Monitor

EVERY = 50


class Block(nn.Module):
    """A block of a GPT-2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.behind = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        heads = self.mix(self.before(stream)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        stream = stream + self.project(attended.transpose(1, 2).flatten(2))
        changed: Tensor = self.down(self.act(self.up(self.behind(stream))))
        return stream + changed


class Language(nn.Module):
    """A GPT-2 of six blocks of width 256."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(512, 256), nn.Embedding(64, 256)
        self.blocks, self.norm = nn.Sequential(*(Block(256, 4) for _ in range(6))), nn.LayerNorm(256)
        self.head = nn.Linear(256, 512, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.places.weight)))
        return logits


class Residual(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Conv2d(before, channels, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.inner(image) + self.shortcut(image))


class Recurrent(nn.Module):
    """An LSTM of two layers of width 128."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.cells = nn.Embedding(512, 128), nn.LSTM(128, 128, 2, batch_first=True)
        self.head = nn.Linear(128, 512)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cells(self.tokens(tokens))[0])
        return logits


def resnet() -> nn.Module:
    """Return a ResNet of three stages."""
    stages = [Residual(32, 32, 1), Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 128, 2)]
    return nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def sentences() -> tuple[Tensor, Tensor]:
    """Return a batch of sentences, and the tokens that follow."""
    text = torch.randint(512, (16, 65))
    return text[:, :-1], text[:, 1:].flatten()


def images() -> tuple[Tensor, Tensor]:
    """Return a batch of images and their classes."""
    return torch.randn(16, 3, 32, 32), torch.randint(10, (16,))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "GPT-2, 6 x 256": (Language, sentences),
    "ResNet, 32 x 32": (resnet, images),
    "LSTM, 2 x 128": (Recurrent, sentences),
}


class Training:
    """A model, its batch and its optimizer; `step` is one update."""

    def __init__(self, name: str) -> None:
        make, batch = MODELS[name]
        torch.manual_seed(0)
        self.model = make()
        self.given, self.wanted = batch()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def step(self) -> Tensor:
        """Update the model, and return its loss."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.given).flatten(0, -2), self.wanted)
        loss.backward()
        self.optimizer.step()
        return loss

    def monitor(self, file: Path) -> Monitor:
        """Return a monitor that samples the first step and those that are asked for."""
        return propscope.monitor(self.model, self.optimizer, every=10**9, budget=None, file=file)


def watched(monitor: Monitor, step: Callable[[], Tensor]) -> float:
    """Return the seconds of CPU time that a step takes with a monitor."""
    started = time.process_time()
    with monitor.step() as one:
        one.loss(step())
    return time.process_time() - started


def bare(run: Training) -> float:
    """Return the seconds of CPU time that a step takes without what a monitor leaves with the optimizer."""
    hooks: list[Any] = [run.optimizer._optimizer_step_pre_hooks, run.optimizer._optimizer_step_post_hooks]
    kept = [dict(each) for each in hooks]
    for each in hooks:
        each.clear()
    started = time.process_time()
    run.step()
    taken = time.process_time() - started
    for each, before in zip(hooks, kept, strict=True):
        each.update(before)
    return taken


def measure(name: str, rounds: int, directory: Path) -> dict[str, float]:
    """Return the seconds of CPU time of a bare step, and the ratios to it."""
    taken: dict[str, list[float]] = {kind: [] for kind in ("bare", "sampled", "other", "bare first", "first")}
    run = Training(name)
    with run.monitor(directory / "run.propscope") as monitor:
        for _ in range(1 + rounds):
            taken["bare"].append(bare(run))
            monitor.request()
            taken["sampled"].append(watched(monitor, run.step))
            taken["bare"].append(bare(run))
            taken["other"].append(watched(monitor, run.step))
    for at in range(max(rounds // 2, 1)):
        taken["bare first"].append(bare(Training(name)))
        new = Training(name)
        with new.monitor(directory / f"first-{at}.propscope") as monitor:
            taken["first"].append(watched(monitor, new.step))
    alone = statistics.median(taken["bare"][2:])
    sampled, other = (statistics.median(taken[kind][1:]) / alone for kind in ("sampled", "other"))
    return {
        "bare": alone,
        "first": statistics.median(taken["first"]) / statistics.median(taken["bare first"]),
        "sampled": sampled,
        "other": other,
        "every": (sampled + (EVERY - 1) * other) / EVERY,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    found = {}
    print(f"{'':18} {'bare, ms':>9} {'first':>6} {'sampled':>8} {'other':>6} {f'every={EVERY}':>9}")
    for name in MODELS:
        with TemporaryDirectory() as directory:
            one = found[name] = measure(name, rounds, Path(directory))
        ratios = f"{one['first']:6.2f} {one['sampled']:8.2f} {one['other']:6.3f} {one['every']:9.3f}"
        print(f"{name:18} {1e3 * one['bare']:9.1f} {ratios}")
    print(write("monitor", found))


if __name__ == "__main__":
    main()
