"""What it costs ranks to put their records together: CPU time of a sampled step, bytes and calls, and many ranks.

    python benches/ranks.py [--rounds 12]

Two gloo processes train the GPT-2 of benches/monitor.py, each with batch 8 x 64: the CPU time of a sampled and of any
other step of a monitor with `group="world"`, over that of the bare step. Bytes are counted where they are handed to the
reductions. The table of many ranks is computed, not measured: from these bytes, by the time of a ring all-reduce.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from monitor import Language
from timing import write
from torch import nn
from torch.multiprocessing.spawn import spawn

import propscope
from propscope.measure.parts import Vector
from propscope.measure.rank_places import Places
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options

SITES = (50, 500, 5000)
WIDTHS = (64, 1024)
RANKS = (2, 8, 64, 256, 1024)
# Of one link between two machines: 25 GB/s is InfiniBand of 200 Gbit/s, 10 us a message over it.
BANDWIDTH, LATENCY = 25e9, 10e-6


class CountingRanks:
    """The first of several ranks, whose others bring nothing; counts the calls and the bytes that it hands over."""

    def __init__(self, size: int) -> None:
        self.rank, self.size, self.members = 0, size, tuple(range(size))
        self.calls: list[int] = []

    def maximum(self, values: Vector) -> Vector:
        """Return the values, which are the largest."""
        self.calls.append(values.nbytes)
        return values

    def total(self, values: Vector) -> Vector:
        """Return the values, which are the sum."""
        self.calls.append(values.nbytes)
        return values

    def exchange(self, value: Any) -> list[Any]:
        """Never called: the ranks agree."""
        raise NotImplementedError


def counted(sites: int, width: int, ranks: int) -> list[int]:
    """Return the bytes of each call of a sampled step of a network of linear layers and ReLUs, with so many sites."""
    layers: list[nn.Module] = []
    for _ in range(sites // 2):
        layers += [nn.Linear(width, width, bias=False), nn.ReLU()]
    one = CountingRanks(ranks)
    options = Options(places=Places(one, data_size=ranks, losses=ranks))
    model = nn.Sequential(*layers)
    with Recorder(model, options=options) as recorder:
        model(torch.randn(32, width, requires_grad=True)).sum().backward()
    recorder.profile()
    return one.calls


def ring(bytes_of_calls: list[int], ranks: int) -> float:
    """Return the seconds of these all-reduces on a ring: Patarasuk and Yuan 2009 (JPDC 69), section 3.

    Each of 2 (ranks - 1) rounds sends a part of 1 / ranks of the bytes to the next rank.
    """
    rounds = 2 * (ranks - 1)
    return sum(rounds * (LATENCY + size / ranks / BANDWIDTH) for size in bytes_of_calls)


def model_of(kind: str) -> nn.Module:
    """Return the model, wrapped."""
    torch.manual_seed(0)
    model = Language()
    if kind == "DDP":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return model


def train(rank: int, kind: str, rounds: int, folder: str) -> None:
    """Train on one of two ranks; the first one writes the medians of the CPU times of its steps."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = model_of(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    text = torch.randint(512, (8, 64), generator=torch.Generator().manual_seed(rank))

    def step() -> None:
        F.cross_entropy(model(text).flatten(0, 1), text.roll(-1, 1).flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    def watched() -> None:
        with monitor.step():
            step()

    def taken(run: Callable[[], None]) -> float:
        dist.barrier()
        started = time.process_time()
        run()
        return time.process_time() - started

    times: dict[str, list[float]] = {"bare": [], "sampled": [], "other": []}
    with propscope.monitor(model, optimizer, every=2, group="world", budget=None) as monitor:
        for turn in range(2 + rounds):
            for name, run in (("bare", step), ("sampled", watched), ("other", watched)):
                found = taken(run)
                if turn > 1:
                    times[name].append(found)
    if not rank:
        Path(folder, "times").write_text(json.dumps([statistics.median(one) for one in times.values()]))
    dist.destroy_process_group()


def measured(kind: str, rounds: int) -> list[float]:
    """Return the median CPU seconds of a bare, a sampled and any other step."""
    with TemporaryDirectory() as folder:
        spawn(train, (kind, rounds, folder), nprocs=2)
        found: list[float] = json.loads(Path(folder, "times").read_text())
    return found


def main() -> None:
    """Measure, compute and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    figures: dict[str, Any] = {"steps": {}, "bytes": {}, "computed": {}}
    print(f"{'two gloo processes':20} {'bare, ms CPU':>12} {'sampled':>8} {'other':>6}")
    for kind in ("DDP", "FSDP2"):
        bare, sampled, other = measured(kind, rounds)
        figures["steps"][kind] = {"bare": bare, "sampled": sampled / bare, "other": other / bare}
        print(f"{kind:20} {1e3 * bare:12.1f} {sampled / bare:8.2f} {other / bare:6.3f}")
    print(f"\n{'bytes of a sampled step':24} {'calls':>6} {'maxima':>12} {'sums':>12} {'a site':>9}")
    for width in WIDTHS:
        for sites in SITES:
            if sites * width > 1_000_000:
                continue
            calls = counted(sites, width, 2)
            figures["bytes"][f"{sites} x {width}"] = calls
            row = f"{len(calls):6} {calls[1]:12,} {calls[2]:12,} {sum(calls) / sites:9,.0f}"
            print(f"{f'{sites} sites of width {width}':24} {row}")
    print(f"\ncomputed, not measured: ms of a ring of links of {BANDWIDTH / 1e9:.0f} GB/s and {LATENCY * 1e6:.0f} us")
    print(f"{'ranks':>24} " + " ".join(f"{ranks:>8,}" for ranks in RANKS))
    for sites in (50, 500):
        times = [1e3 * ring([*counted(sites, 1024, ranks), 24], ranks) for ranks in RANKS]
        figures["computed"][f"{sites} x 1024"] = dict(zip(RANKS, times, strict=True))
        print(f"{f'{sites} sites of width 1024':>24} " + " ".join(f"{one:8.1f}" for one in times))
    print(write("ranks", figures))


if __name__ == "__main__":
    main()
