"""The overhead of recording an MLP's training step, with propscope and with hooks that people write by hand.

    python benches/overhead.py [--rounds 40]

A step zeroes the gradients and runs forward and backward in float32. Recorded are the output of every module, every
parameter, and the gradients of both. "propscope, step" is a step inside an open `track` block; "propscope, whole" is
entering the block, the step, leaving it, and `profile()`. Peak memory is the resident set of a separate process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import OUTPUTS, Timing, Within, interleave, lines, peak_resident, write
from torch import Tensor, nn

import propscope

WORKLOADS = {"20 x 512, batch 256": (512, 256), "20 x 256, batch 200": (256, 200)}
Step = Callable[[], object]


class Workload:
    """One MLP and the ways to watch it."""

    def __init__(self, width: int, batch: int) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(width, width), nn.ReLU())])
        self.x, self.cotangent = torch.randn(batch, width), torch.randn(batch, width)
        self.writer: Any = None

    def step(self) -> None:
        """Run the bare step."""
        self.model.zero_grad(set_to_none=True)
        self.model(self.x).backward(self.cotangent)

    def by_hand(self, statistic: Callable[[str, Tensor], object]) -> None:
        """Run a step with hooks as tutorials write them, calling `statistic` for everything that propscope records."""

        def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def see(module: nn.Module, inputs: Any, output: Tensor) -> None:
                statistic(f"{name}.forward", output.detach())
                output.register_hook(lambda gradient: (statistic(f"{name}.backward", gradient), None)[1])

            return see

        handles = [layer.register_forward_hook(hook(name)) for name, layer in self.model.named_children()]
        self.step()
        for handle in handles:
            handle.remove()
        for name, parameter in self.model.named_parameters():
            statistic(f"{name}.value", parameter.detach())
            if parameter.grad is not None:
                statistic(f"{name}.gradient", parameter.grad)

    def contenders(self) -> dict[str, Step]:
        """Return every way to run the step, the bare one first."""
        return {
            "bare": self.step,
            "propscope, step": Within(lambda: propscope.track(self.model), self.step),
            "propscope, step, moments only": Within(lambda: propscope.track(self.model, stats="moments"), self.step),
            "propscope, whole": self.whole,
            "propscope, entering and leaving": lambda: _enter(self),
            "tutorial: mean, std, min, max, histc": lambda: self.by_hand(tutorial),
            "numpy histograms": lambda: self.by_hand(numpy_histogram),
        }

    def tensorboard(self) -> None:
        """Write histograms of everything before the step ends: the writer's thread must not disturb the next step."""
        self.by_hand(lambda name, tensor: self.writer.add_histogram(name, tensor))
        self.writer.flush()

    def whole(self) -> None:
        """Enter a block, run a step, leave the block and make the profile."""
        with propscope.track(self.model) as recorder:
            self.step()
        recorder.profile()


def tutorial(name: str, tensor: Tensor) -> tuple[float, float, float, float, Tensor]:
    """Return the statistics of a tutorial's hook."""
    return tensor.mean().item(), tensor.std().item(), tensor.min().item(), tensor.max().item(), tensor.histc(64)


def numpy_histogram(name: str, tensor: Tensor) -> object:
    """Return numpy's histogram of a tensor."""
    return np.histogram(tensor.numpy(), bins=64)


def measure(workload: Workload, rounds: int) -> dict[str, Timing]:
    """Return the timings of every contender."""
    contenders = workload.contenders()
    found = interleave(contenders, rounds=rounds)
    if workload.writer is not None:
        # It runs apart from the others, since a second of its work changes the state of caches and clock.
        alone = interleave({"TensorBoard histograms": workload.tensorboard}, rounds=5)
        slow, bare = alone["TensorBoard histograms"], found["bare"].median
        found["TensorBoard histograms"] = replace(
            slow, ratio=slow.median / bare, ratio_low=slow.low / bare, ratio_high=slow.high / bare
        )
    return found


def _enter(workload: Workload) -> None:
    with propscope.track(workload.model):
        pass


def peak(workload_name: str, contender: str) -> float:
    """Return the peak resident set in MB of a process that runs one contender ten times."""
    command = [sys.executable, str(Path(__file__).resolve()), "--peak", workload_name, contender]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _peak_here(workload_name: str, contender: str) -> float:
    # The bare step loads the same code, so that the ratio compares what the runs take.
    assert callable(propscope.track)
    workload = Workload(*WORKLOADS[workload_name])
    run = {"bare": workload.step, "propscope": workload.whole}[contender]
    for _ in range(10):
        run()
    return peak_resident()


def draw(found: dict[str, dict[str, Timing]]) -> Path:
    """Draw the ratios as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots()
    names = [name for name in next(iter(found.values())) if name != "propscope, entering and leaving"]
    for offset, (workload, timings) in enumerate(found.items()):
        at = np.arange(len(names)) + 0.38 * (offset - 0.5)
        ratios = [timings[name].ratio for name in names]
        bars = axes.barh(at, ratios, 0.36, label=f"MLP {workload}", color=("#1f4e79", "#9dc3e6")[offset])
        axes.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3)
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("time of a step (forward and backward), relative to the bare step")
    axes.set_xscale("log")
    axes.set_xlim(0.9, 1.6 * max(timing.ratio for timings in found.values() for timing in timings.values()))
    ticks = [1, 2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Overhead of recording every activation, gradient and parameter", loc="left")
    axes.legend(loc="upper right", frameon=False)
    path = OUTPUTS / "overhead.png"
    figure.savefig(path)
    return path


def main() -> None:
    """Measure, print, write outputs/overhead.json and outputs/overhead.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--peak", nargs=2, metavar=("WORKLOAD", "CONTENDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(_peak_here(*arguments.peak))
        return
    found, memory = {}, {}
    for name, (width, batch) in WORKLOADS.items():
        workload = Workload(width, batch)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("TensorBoard is left out because it is not installed; pip install tensorboard")
        else:
            import tempfile

            workload.writer = SummaryWriter(tempfile.mkdtemp())
        found[name] = measure(workload, arguments.rounds)
        print("\n".join(lines(f"MLP {name}", found[name])))
        memory[name] = {contender: peak(name, contender) for contender in ("bare", "propscope")}
        ratio = memory[name]["propscope"] / memory[name]["bare"]
        print(
            f"  peak memory {memory[name]['bare']:.0f} MB bare, {memory[name]['propscope']:.0f} MB, ratio {ratio:.3f}"
        )
    print(write("overhead", {"timings": found, "peak_megabytes": memory}))
    print(draw(found))


if __name__ == "__main__":
    main()
