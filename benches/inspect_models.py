"""The overhead of recording an MLP, a ResNet and a GPT-2, compared with tutorial hooks, delve and torchlens.

    python benches/inspect_models.py [--rounds 15] [--large-only]

A step is forward and backward in float32. "propscope" is a step in an open `track` block; it records the output of
every module and functional operation and every parameter, forward and backward. "moments" does so with stats="moments".
delve and torchlens take part where they are installed (pip install delve torchlens). torchlens has no backward
statistics, so its step is its forward pass and a bare step. It runs last, since importing it wraps every function of
torch.

Large networks come first: the CPU seconds and the peak memory of a process that profiles one and prints it, importing
torch included. The file is not called inspect.py, because that name would hide Python's own module.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import Within, interleave, lines, peak_resident, write
from torch import Tensor, nn

import propscope
from propscope.measure.sites import Options, SiteAccumulator

Step = Callable[[], object]


def mlp() -> tuple[nn.Module, Tensor]:
    """Return 20 layers of 512 units with ReLU, batch 256."""
    layers = [layer for _ in range(20) for layer in (nn.Linear(512, 512), nn.ReLU())]
    return nn.Sequential(*layers), torch.randn(256, 512)


def resnet() -> tuple[nn.Module, Tensor]:
    """Return the examples' residual network, in-place ReLU and batch norm, on 3 x 64 x 64 images, batch 16."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    import models  # type: ignore[import-not-found]

    return models.resnet(width=64, blocks=2), torch.randn(16, 3, 64, 64)


def gpt2() -> tuple[nn.Module, Tensor]:
    """Return a GPT-2 of width 384, 6 layers, on 8 sequences of 128 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=6, n_embd=384, n_head=6, vocab_size=1000, n_positions=128)
    config.bos_token_id = config.eos_token_id = 0
    return GPT2LMHeadModel(config), torch.randint(1000, (8, 128))


FAMILIES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "MLP 20 x 512, batch 256": mlp,
    "ResNet on 3 x 64 x 64, batch 16": resnet,
    "GPT-2, width 384, sequence 128, batch 8": gpt2,
}


def contenders(model: nn.Module, batch: Tensor) -> dict[str, Step]:
    """Return every way to run the step, the bare one first."""

    def loss(output: Any) -> Tensor:
        tensor = output if isinstance(output, Tensor) else output[0]
        return tensor.square().mean()

    def bare() -> None:
        model.zero_grad(set_to_none=True)
        loss(model(batch)).backward()

    def first() -> None:
        with propscope.track(model):
            bare()

    def tutorial() -> None:
        def see(tensor: Tensor) -> None:
            tensor = tensor.detach()
            _ = tensor.mean().item(), tensor.std().item(), tensor.min().item(), tensor.max().item(), tensor.histc(64)

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                see(output)
                if output.requires_grad:
                    output.register_hook(lambda gradient: see(gradient))

        leaves = [module for module in model.modules() if not list(module.children())]
        handles = [module.register_forward_hook(hook) for module in leaves]
        bare()
        for handle in handles:
            handle.remove()
        for parameter in model.parameters():
            see(parameter)
            if parameter.grad is not None:
                see(parameter.grad)

    found: dict[str, Step] = {
        "bare": bare,
        "propscope": Within(lambda: propscope.track(model), bare),
        "propscope, moments": Within(lambda: propscope.track(model, stats="moments"), bare),
        "propscope, a first step with entering and leaving": first,
        "tutorial: mean, std, min, max, histc": tutorial,
    }
    if importlib.util.find_spec("delve") and isinstance(model, nn.Sequential):
        found["delve"] = _delve(model, batch)
    return found


def with_torchlens(bare: Step, model: nn.Module, batch: Tensor) -> dict[str, Step]:
    """Return the bare step and torchlens's forward pass with a bare step, in a process where it is imported."""
    import torchlens

    def run() -> None:
        torchlens.trace(model, batch)
        bare()

    return {"bare, torchlens imported": bare, "torchlens": run}


def _delve(model: nn.Module, batch: Tensor) -> Step:
    from delve import SaturationTracker

    # delve never takes its hooks off, so it watches a copy of the model.
    twin = copy.deepcopy(model)
    tracker = SaturationTracker(f"{tempfile.mkdtemp()}/run", save_to="csv", modules=twin, stats=["lsat"], device="cpu")

    def run() -> None:
        twin.zero_grad(set_to_none=True)
        twin(batch).square().mean().backward()
        tracker.add_saturations()

    return run


class Residual(nn.Module):
    """A norm, two layers and an activation, beside the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value plus what the branch adds."""
        branch: Tensor = self.down(self.act(self.up(self.norm(value))))
        return value + branch


class Nested(nn.Module):
    """Layers in a binary tree of modules, `levels` deep."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Nested(levels - 1) if levels > 1 else nn.Linear(8, 8) for _ in range(2))

    def forward(self, value: Tensor) -> Tensor:
        """Return the value behind both parts."""
        for part in self.parts:
            value = part(value)
        return value


class Functional(nn.Module):
    """Two layers with functions for activations and sum."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value plus what the branch adds."""
        return value + nn.functional.gelu(self.down(torch.relu(self.up(value))))


LARGE: dict[str, Callable[[], object]] = {
    "5,000 layers in one Sequential": lambda: _profiled(*(nn.Linear(8, 8) for _ in range(5000))),
    "1,000 residual blocks of 5 modules": lambda: _profiled(*(Residual() for _ in range(1000))),
    "4,096 layers, nested 12 deep": lambda: _profiled(Nested(12)),
    "1,650 blocks of 3 modules and 3 functions": lambda: _profiled(*(Functional() for _ in range(1650))),
    "profile_mlp, depth 1000, width and batch 32": lambda: propscope.profile_mlp(
        depth=1000, width=32, batch=32, workers=1
    ),
}


def _profiled(*parts: nn.Module) -> object:
    return propscope.profile(nn.Sequential(*parts), torch.randn(4, 8))


# Each matrix stands before feature maps with the same number of elements.
SHAPES = (
    (1024, 1024),
    (16, 64, 32, 32),
    (16, 256, 16, 16),
    (784, 1024),
    (32, 128, 14, 14),
    (784, 512),
    (16, 512, 7, 7),
    (128, 512),
    (8, 512, 4, 4),
    (196, 512),
    (4, 512, 7, 7),
)


def per_element(rounds: int) -> dict[str, float]:
    """Return the nanoseconds per element of a site's forward statistics, for matrices and feature maps."""
    sites = []
    for shape in SHAPES:
        value = torch.randn(shape)
        axis = 1 if len(shape) > 2 else -1
        kind = SiteAccumulator(
            value, name="x", kind="", role="other", unit_axis=axis, has_units=True, options=Options()
        )
        sites.append((kind, value))
    timings = interleave(
        {str(tuple(value.shape)): partial(_ten_times, site, value) for site, value in sites}, rounds=rounds
    )
    return {
        name: 1e8 * timing.median / value.numel()
        for (_, value), (name, timing) in zip(sites, timings.items(), strict=True)
    }


def _ten_times(site: SiteAccumulator, value: Tensor) -> None:
    for _ in range(10):
        site.see_forward(value)


def peak(family: str, contender: str) -> float:
    """Return the peak resident set in MB of a process that runs one contender five times."""
    return _measured("--peak", family, contender)[1]


def _measured(*arguments: str) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MB that this file prints last, run with these arguments."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    seconds, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return float(seconds), float(megabytes)


def main() -> None:
    """Measure, print, write outputs/inspect.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--large", help=argparse.SUPPRESS)
    parser.add_argument("--large-only", action="store_true", help="stop after the large networks")
    arguments = parser.parse_args()
    if arguments.large:
        print(LARGE[arguments.large]())
        print(time.process_time(), peak_resident())
        return
    if arguments.peak:
        run = contenders(*FAMILIES[arguments.peak[0]]())[arguments.peak[1]]
        with run.block() if isinstance(run, Within) else nullcontext():
            for _ in range(5):
                run()
        print(time.process_time(), peak_resident())
        return
    sizes = {}
    print("large networks, profiled and printed: CPU seconds, peak memory in MB")
    for name in LARGE:
        sizes[name] = seconds, megabytes = _measured("--large", name)
        print(f"  {name:44} {seconds:5.1f} {megabytes:5.0f}", flush=True)
    if arguments.large_only:
        print(write("inspect-large", {"large": sizes}))
        return
    found, memory = {}, {}
    elements = per_element(20 * arguments.rounds)
    print("a site's forward statistics, ns per element")
    for shape, cost in elements.items():
        print(f"  {shape:20} {cost:6.3f}")
    for family, build in FAMILIES.items():
        torch.manual_seed(0)
        found[family] = interleave(contenders(*build()), rounds=arguments.rounds)
        print("\n".join(lines(family, found[family])))
        memory[family] = {name: peak(family, name) for name in ("bare", "propscope")}
        ratio = memory[family]["propscope"] / memory[family]["bare"]
        print(f"  peak memory {memory[family]['bare']:.0f} MB bare, ratio {ratio:.3f}", flush=True)
    # Last, because importing it wraps every function of torch for good.
    for family, build in FAMILIES.items() if importlib.util.find_spec("torchlens") else ():
        torch.manual_seed(0)
        model, batch = build()
        compared = with_torchlens(contenders(model, batch)["bare"], model, batch)
        found[family] |= interleave(compared, rounds=max(arguments.rounds // 3, 3))
        print("\n".join(lines(family, {name: found[family][name] for name in compared})), flush=True)
    print(
        write(
            "inspect", {"timings": found, "peak_megabytes": memory, "large": sizes, "nanoseconds_per_element": elements}
        )
    )


if __name__ == "__main__":
    main()
