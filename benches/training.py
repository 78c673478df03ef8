"""The overhead of `train_mlp` over a plain training loop, and the gain of training in several processes.

    python benches/training.py [--rounds 5]

bare: a tutorial's training loop on the same network, data and batches. It reads the loss of each step, and after each
epoch the loss and accuracy on training and validation rows; "steps only" leaves the latter out. propscope: the same
with profiling off. Both use one thread, digits, ReLU and batch 32. Side by side: 2 initializers with 6 seeds each, in
one process and in one process per core, including the start of the processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timing import interleave, lines, write
from torch.nn.functional import cross_entropy

from propscope.experiments.training import TrainingData, TrainingPlan, collect, make_plan, run
from propscope.experiments.training.loop import train

EPOCHS = 8


def plan_of(depth: int, width: int, optimizer: str) -> TrainingPlan:
    return make_plan(
        depth=depth, width=width, activation="relu", initializer="he_normal", seeds=1, data="digits", scale="zscore",
        optimizer=optimizer, epochs=EPOCHS, profile_every=0,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bare:
    """The training loop of a tutorial."""

    plan: TrainingPlan
    data: TrainingData
    optimizer: Callable[..., torch.optim.Optimizer]
    evaluated: bool = True

    def __call__(self) -> float:
        """Train, and return the sum of all losses and accuracies that were read."""
        net = self.plan.jobs()[0].cell.network.build(seed=0)
        optimizer = self.optimizer(net.parameters())
        (x, y), loss_sum = self.data.train, 0.0
        for _ in range(EPOCHS):
            net.train()
            for rows in torch.randperm(len(x)).split(32):
                loss = cross_entropy(net(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss_sum += loss.item()
            if self.evaluated:
                net.eval()
                with torch.no_grad():
                    for inputs, labels in (self.data.train, self.data.validation):
                        output = net(inputs)
                        loss_sum += cross_entropy(output, labels).item()
                        loss_sum += (output.argmax(1) == labels).float().mean().item()
        return loss_sum


def recording(depth: int, width: int, rounds: int) -> dict[str, object]:
    """Compare one training run with the bare loop, for each optimizer."""
    found: dict[str, object] = {}
    makers: dict[str, dict[str, Callable[..., torch.optim.Optimizer]]] = {
        "sgd": {"bare": lambda p: torch.optim.SGD(p, lr=0.01)},
        "adam": {
            "bare": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
            "bare, Adam not fused": lambda p: torch.optim.Adam(p, lr=1e-3),
        },
    }
    for optimizer, bare in makers.items():
        plan = plan_of(depth, width, optimizer)
        data, job = plan.data_of(0), plan.jobs()[0]
        contenders: dict[str, Callable[[], object]] = {name: Bare(plan, data, maker) for name, maker in bare.items()}
        contenders["bare, steps only"] = Bare(plan, data, bare["bare"], evaluated=False)
        contenders["propscope"] = lambda plan=plan, job=job, data=data: train(plan, job, data)  # type: ignore[misc]
        timings = interleave(contenders, rounds=rounds)
        print("\n".join(lines(f"{depth} x {width}, {optimizer}, {EPOCHS} epochs of digits", timings)))
        found[f"{depth}x{width} {optimizer}"] = timings
    return found


def side_by_side(rounds: int, epochs: int) -> dict[str, float]:
    """Compare runs one after another with runs side by side."""
    plan = make_plan(
        depth=10, width=64, activation="relu", initializer="he_normal,xavier_normal", seeds=6, data="digits",
        scale="zscore", epochs=epochs, profile_every=0,
    )  # fmt: skip
    seconds: dict[int, list[float]] = {1: [], os.cpu_count() or 1: []}
    for _ in range(rounds):
        for workers, taken in seconds.items():
            start = time.perf_counter()
            collect(plan, run(plan, workers=workers))
            taken.append(time.perf_counter() - start)
    alone, together = seconds.values()
    gains = [one / other for one, other in zip(alone, together, strict=True)]
    found = {"one": statistics.median(alone), "all": statistics.median(together), "gain": statistics.median(gains)}
    print(
        f"{len(plan)} runs of {epochs} epochs: {found['one']:.1f} s one after another, {found['all']:.1f} s side by "
        f"side; {found['gain']:.2f} times faster ({min(gains):.2f} to {max(gains):.2f})"
    )
    return {**found, "low": min(gains), "high": max(gains)}


def main() -> None:
    """Measure, print, write outputs/training.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, object] = {}
    for depth, width in ((2, 64), (10, 64), (10, 256)):
        figures |= recording(depth, width, arguments.rounds)
    figures["side by side"] = side_by_side(max(3, arguments.rounds // 2), arguments.epochs)
    print(write("training", figures))


if __name__ == "__main__":
    main()
