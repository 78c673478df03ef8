"""What looking costs: the CPU time of recorded steps over that of the bare step, with propscope and by hand.

    python benches/overhead.py [--rounds 5] [--against CHECKOUT] [--only NAME]

A step zeroes the gradients and runs forward and backward in float32, on one thread. Everything is recorded: every site,
every parameter, values and gradients. The columns, each the median over rounds of the ratio to the bare step that the
same process ran in the same round:

- step: a later step in an open `track` block; second: the second step of a block, which prepares the later ones.
- first: entering a block, the first step and leaving it, with a model that was never watched; again: the same with that
  model once more.
- profile(): one call of `propscope.profile`, which also leaves the model as it was.
- torch: a step with empty hooks at the same places and an empty function mode: what torch takes to call anybody.
- unread: a later step in which no element is read, only all else is done.
- by hand: a step with hooks as in tutorials (mean, std, min, max, histc) on the same values and gradients.
- memory: the peak resident set of a process that steps in an open block, over that of one that takes bare steps.

`--against`: another checkout of propscope, whose processes take turns with those of this one, so that the load of the
machine meets both alike. Writes outputs/overhead.json and outputs/overhead.png.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from networks import NETWORKS
from timing import OUTPUTS, peak_resident, write

HERE = Path(__file__).resolve()
COLUMNS = ("step", "second", "first", "again", "profile()", "torch", "unread", "by hand")
# The step that counts as a later one.
_LATER = 4
_WIDTH = 11
# Memory that a step frees stays with the process: else the bare step takes up to half as long again for new pages, in
# one process and not in the next.
_KEPT = str(1 << 30)
_SETTINGS = {"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": _KEPT, "MALLOC_MMAP_THRESHOLD_": _KEPT}
Ratios = dict[str, list[float]]


class Workload:
    """One network and the ways to watch it."""

    def __init__(self, name: str) -> None:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model, self.batch = NETWORKS[name]()

    @staticmethod
    def loss(output: Any) -> Any:
        """Return a loss that every element of the first output enters."""
        return (output if hasattr(output, "square") else output[0]).square().mean()

    def step(self, model: Any = None) -> None:
        """Run the bare step."""
        model = model or self.model
        model.zero_grad(set_to_none=True)
        self.loss(model(self.batch)).backward()

    def by_hand(self) -> None:
        """Run a step with hooks as tutorials write them on everything that propscope records."""

        def see(tensor: Any) -> None:
            tensor = tensor.detach()
            _ = tensor.mean().item(), tensor.std().item(), tensor.min().item(), tensor.max().item(), tensor.histc(64)

        with self._hooked(see):
            self.step()
        for parameter in self.model.parameters():
            see(parameter)
            if parameter.grad is not None:
                see(parameter.grad)

    def torch_alone(self) -> float:
        """Return the CPU seconds of a step with empty hooks on every output, gradient and parameter, and a mode."""
        from torch.overrides import TorchFunctionMode

        class Mode(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                return func(*args, **(kwargs or {}))

        def see(tensor: Any) -> None:
            pass

        handles = [parameter.register_hook(see) for parameter in self.model.parameters() if parameter.requires_grad]
        with self._hooked(see), Mode():
            taken = _second(self.step)
        for handle in handles:
            handle.remove()
        return taken

    def unread(self) -> float:
        """Return the CPU seconds of a later step in an open block in which the kernel reads nothing."""
        import propscope
        from propscope.measure import _kernel

        class Blind:
            def __getattr__(self, name: str) -> Any:
                return getattr(_kernel, name)

            def run(self, plan: Any, data: int) -> float:
                return 1.0

        with propscope.track(self.model):
            for _ in range(_LATER - 1):
                self.step()
            with mock.patch("propscope.measure.kernel._kernel", Blind()):
                return _second(self.step)

    @contextmanager
    def _hooked(self, see: Callable[[Any], None]) -> Iterator[None]:
        """Have `see` called with the outputs of all leaves, and with their gradients."""

        def hook(module: Any, inputs: Any, output: Any) -> None:
            if hasattr(output, "is_floating_point") and output.is_floating_point():
                see(output)
                if output.requires_grad:
                    output.register_hook(see)

        handles = [m.register_forward_hook(hook) for m in self.model.modules() if not m._modules]
        yield
        for handle in handles:
            handle.remove()

    def round(self, *, every: bool) -> dict[str, float]:
        """Return the CPU seconds of the bare step and of each column."""
        import propscope

        def watched(model: Any) -> None:
            with propscope.track(model):
                self.step(model)

        found = {"bare": _second(self.step)}
        with propscope.track(self.model):
            taken = [_seconds(self.step) for _ in range(_LATER)]
        found["second"], found["step"] = taken[1], taken[-1]
        fresh = copy.deepcopy(self.model)
        self.step(fresh)
        found["first"], found["again"] = (_seconds(lambda: watched(fresh)) for _ in range(2))
        self.step()
        found["profile()"] = _second(lambda: propscope.profile(self.model, self.batch, self.loss))
        if every:
            found["torch"], found["unread"] = self.torch_alone(), self.unread()
            found["by hand"] = _second(self.by_hand)
        return found


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _second(run: Callable[[], object]) -> float:
    """Return the CPU seconds of the second of two runs, which finds its data in the caches."""
    run()
    return _seconds(run)


def serve(name: str, *, every: bool) -> None:
    """Measure one round for each line of stdin, and print it as JSON; the first round does not count."""
    workload = Workload(name)
    workload.round(every=every)
    for _ in sys.stdin:
        print(json.dumps(workload.round(every=every)), flush=True)


class Process:
    """A process that measures a network with the propscope of a checkout."""

    def __init__(self, name: str, checkout: Path, *options: str) -> None:
        command = [sys.executable, str(HERE), "--serve", name, *options]
        environment = os.environ | _SETTINGS | {"PYTHONPATH": str(checkout)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.ratios: Ratios = {}
        self.bare: list[float] = []

    def measure(self) -> None:
        """Have one round measured."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        found = json.loads(self._process.stdout.readline())
        bare = found.pop("bare")
        self.bare.append(bare)
        for column, seconds in found.items():
            self.ratios.setdefault(column, []).append(seconds / bare)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measured(name: str, checkouts: dict[str, Path], rounds: int) -> dict[str, Process]:
    """Return the processes of the checkouts, which took turns."""
    found = {
        label: Process(name, checkout, *(["--every"] if label == "now" else []))
        for label, checkout in checkouts.items()
    }
    for _ in range(rounds):
        for process in found.values():
            process.measure()
    for process in found.values():
        process.close()
    return found


def peak(name: str, contender: str) -> float:
    """Return the peak resident set in MB of a process that takes steps, bare or watched."""
    command = [sys.executable, str(HERE), "--peak", name, contender]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def _peak_here(name: str, contender: str) -> float:
    import propscope

    # The bare process loads the same code, so that the ratio compares what the runs take.
    assert callable(propscope.track)
    workload = Workload(name)
    with propscope.track(workload.model) if contender == "watched" else nullcontext():
        for _ in range(5):
            workload.step()
    return peak_resident()


def rows(name: str, processes: dict[str, Process], memory: float) -> Iterator[str]:
    """Yield a line of the table for each checkout: medians, and quartiles below."""
    for label, process in processes.items():
        cells, spread = [], []
        for column in COLUMNS:
            ratios = process.ratios.get(column)
            if ratios is None:
                cells.append("")
                spread.append("")
                continue
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells.append(f"{middle:.2f}")
            spread.append(f"{low:.2f}-{high:.2f}")
        said = f"{memory:.3f}" if label == "now" else ""
        bare = f"{1e3 * statistics.median(process.bare):.1f} ms"
        yield f"{name:24}{label:8}{bare:>10}" + "".join(f"{cell:>{_WIDTH}}" for cell in (*cells, said))
        yield f"{'':42}" + "".join(f"{cell:>{_WIDTH}}" for cell in spread)


def draw(found: dict[str, dict[str, Process]]) -> Path:
    """Draw the ratios of this checkout as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained", dpi=150)
    axes = figure.subplots()
    shown = ("step", "first", "profile()", "by hand")
    labels = ("step in an open block", "first step, with entering and leaving", "profile()", "hooks as in tutorials")
    colors = ("#1f4e79", "#5b9bd5", "#9dc3e6", "#c9c9c9")
    for number, (column, label, color) in enumerate(zip(shown, labels, colors, strict=True)):
        at = np.arange(len(found)) + 0.21 * (number - 1.5)
        ratios = [statistics.median(processes["now"].ratios[column]) for processes in found.values()]
        bars = axes.barh(at, ratios, 0.2, label=label, color=color)
        axes.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3, fontsize=7)
    axes.set_yticks(np.arange(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlabel("CPU time relative to the bare step (forward and backward)")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Overhead of recording every activation, gradient and parameter", loc="left")
    axes.legend(loc="upper right", frameon=False)
    path = OUTPUTS / "overhead.png"
    figure.savefig(path)
    return path


def main() -> None:
    """Measure, print, write outputs/overhead.json and outputs/overhead.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--only", action="append", choices=NETWORKS, help="measure this network; draws nothing")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--every", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, every=arguments.every)
        return
    if arguments.peak:
        print(_peak_here(*arguments.peak))
        return
    checkouts = {"before": arguments.against.resolve()} if arguments.against else {}
    checkouts["now"] = HERE.parents[1]
    print(f"{'':34}{'bare':>8}" + "".join(f"{column:>{_WIDTH}}" for column in (*COLUMNS, "memory")))
    found, memory = {}, {}
    for name in arguments.only or NETWORKS:
        found[name] = measured(name, checkouts, arguments.rounds)
        memory[name] = peak(name, "watched") / peak(name, "bare")
        print("\n".join(rows(name, found[name], memory[name])), flush=True)
    if arguments.only:
        return
    ratios = {name: {label: one.ratios for label, one in processes.items()} for name, processes in found.items()}
    print(write("overhead", {"ratios": ratios, "peak_memory": memory}))
    print(draw(found))


if __name__ == "__main__":
    main()
