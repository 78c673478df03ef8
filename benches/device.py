"""What recording asks of an accelerator: counted on the CPU, and timed where there is a CUDA device.

    python benches/device.py [--rounds 10]

Counted: calls that would be launches, bytes read and written as multiples of the tensor's, and the largest new tensor
in bytes an element, on the path that an accelerator takes, with torch's own operations. Timed on CUDA, under 5 minutes:
steps over the bare step for the models of benches/networks.py, by events, medians with quartiles; and the bandwidth at
which a large tensor is read, beside that of a copy on the device. Writes outputs/device.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import NETWORKS
from timing import write

import propscope
from propscope.measure import Options, Recorder
from propscope.measure.device_accumulator import DeviceAccumulator
from propscope.measure.saturation import FlatRegion
from propscope.measure.units import DeviceUnits

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from building.device_calls import DeviceCalls  # type: ignore[import-not-found]

_MIB = 2**20
_COUNTED = ("launches", "over all elements", "read", "written", "largest new")


def counts(run: Callable[[], object], tensor: torch.Tensor) -> dict[str, float]:
    """Return what a second run asks for, when all memory is there."""
    run()
    with DeviceCalls() as calls:
        run()
    full = sum(call.elements >= tensor.numel() for call in calls.calls)
    figures = len(calls.calls), full, calls.reads(tensor), calls.writes(tensor), calls.largest_new(tensor)
    return dict(zip(_COUNTED, figures, strict=True))


def counted() -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the counts for a tensor of 2048 x 512, by dtype, and for what is asked of its units."""
    relu = FlatRegion(np.array([0.0]), True)
    for dtype in (torch.float32, torch.bfloat16):
        value, name = torch.randn(2048, 512).to(dtype), str(dtype).removeprefix("torch.")
        for what, run in (
            ("moments and histogram", partial(DeviceAccumulator(limit=8192).add, value)),
            ("units", partial(DeviceUnits(512).see, value, -1)),
            ("dead units", partial(DeviceUnits(512).mark_preactivation, value, -1, relu)),
        ):
            yield f"{what}, {name}", counts(run, value)


def launches_a_tensor() -> float:
    """Return the launches that a later step of an MLP adds, for each tensor that is recorded."""
    model, batch = NETWORKS["MLP 20x256, batch 200"]()

    def step() -> int:
        with DeviceCalls() as calls:
            model.zero_grad(set_to_none=True)
            model(batch).square().mean().backward()
        return len(calls.calls)

    bare = min(step() for _ in range(2))
    with Recorder(model, options=Options(look=False)) as recorder:
        step()
        watched = step()
    profile = recorder.profile()
    tensors = sum(side is not None for site in profile.sites for side in (site.forward, site.backward))
    tensors += sum(parameter.gradient is not None for parameter in profile.parameters)
    return (watched - bare) / tensors


def milliseconds(run: Callable[[], object]) -> float:
    """Return the time of a run between two events on the device."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def timed(name: str, rounds: int) -> dict[str, list[float]]:
    """Return the ratios over the bare step of a step in an open block, of a first step and of `profile`."""
    model, batch = NETWORKS[name]()
    model, batch = model.cuda(), batch.cuda()

    def loss(output: Any) -> torch.Tensor:
        return (output if torch.is_tensor(output) else output[0]).square().mean()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss(model(batch)).backward()

    def first() -> None:
        with propscope.track(model):
            step()

    found: dict[str, list[float]] = {"step": [], "first": [], "profile()": []}
    for round_ in range(rounds + 1):
        bare = statistics.median(milliseconds(step) for _ in range(3))
        with propscope.track(model):
            open_block = [milliseconds(step) for _ in range(4)][-1]
        taken = open_block, milliseconds(first), milliseconds(lambda: propscope.profile(model, batch, loss))
        if round_:
            for values, one in zip(found.values(), taken, strict=True):
                values.append(one / bare)
    return found


def bandwidth(rounds: int) -> tuple[float, float]:
    """Return the GB/s at which a tensor of 256 MiB is recorded, and at which it is copied on the device."""
    value, seen = torch.randn(64 * _MIB, device="cuda"), DeviceAccumulator(limit=8192)
    copy, size = torch.empty_like(value), value.numel() * value.element_size()
    seen.add(value)
    read = statistics.median(milliseconds(lambda: seen.add(value)) for _ in range(rounds))
    copied = statistics.median(milliseconds(lambda: copy.copy_(value)) for _ in range(rounds))
    # A copy reads and writes.
    return size / read / 1e6, 2 * size / copied / 1e6


def main() -> None:
    """Count, time where there is a device, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    found: dict[str, Any] = {"counted": dict(counted()), "launches a tensor": launches_a_tensor()}
    print(f"{'':34}" + "".join(f"{name:>19}" for name in _COUNTED))
    for name, figures in found["counted"].items():
        print(f"{name:34}" + "".join(f"{figures[each]:>19.3g}" for each in _COUNTED))
    print(f"launches a tensor, a step of an MLP 20x256, all included: {found['launches a tensor']:.1f}\n")
    if not torch.cuda.is_available():
        print("no CUDA device: nothing is timed")
    else:
        found["device"] = torch.cuda.get_device_name()
        found["ratios"] = {name: timed(name, rounds) for name in NETWORKS}
        for name, ratios in found["ratios"].items():
            cells = [np.quantile(values, (0.5, 0.25, 0.75)) for values in ratios.values()]
            print(f"{name:24}" + "".join(f"{c[0]:8.2f} ({c[1]:.2f} to {c[2]:.2f})" for c in cells))
        found["GB/s"] = bandwidth(rounds)
        print("a tensor of 256 MiB is recorded at {:.0f} GB/s, copied at {:.0f} GB/s".format(*found["GB/s"]))
    print(write("device", found))


if __name__ == "__main__":
    main()
