"""Watch a training of several processes as one: torchrun --nproc-per-node 2 examples/distributed.py, on the CPU."""

import os

import torch
import torch.distributed as dist
from setting import OUTPUTS, QUICK
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import propscope

STEPS = 40 if QUICK else 120
# Without torchrun this is the only process of its group.
if "RANK" in os.environ:
    dist.init_process_group("gloo")
else:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
rank, ranks = dist.get_rank(), dist.get_world_size()

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
model = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
OUTPUTS.mkdir(parents=True, exist_ok=True)
torch.manual_seed(1 + rank)  # each rank has samples of its own
file = OUTPUTS / f"distributed-{ranks}.propscope"
# Every rank makes a monitor and takes the same steps; the first one writes.
with propscope.monitor(model, optimizer, every=20, file=file, group="world") as monitor:
    for number in range(STEPS):
        with monitor.step(number) as step:
            batch = torch.randn(32, 16)
            loss = nn.functional.cross_entropy(model(batch), batch[:, :4].argmax(1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step.loss(loss)

if rank == 0:
    assert monitor.file is not None
    run = propscope.load(monitor.file)
    first, last = run.select(step=0), run.select(step=STEPS - 20)
    print(f"{ranks} ranks, {len(run)} samples of {last.provenance.samples} rows each in {monitor.file.name}")
    for site, later in zip(first.signal_sites, last.signal_sites, strict=True):
        print(f"{site.name}: rms {site.forward.rms:.3f} -> {later.forward.rms:.3f} over {later.samples} rows")
    print(f"the mean loss of the ranks: {run.steps.loss[0]:.3f} -> {run.steps.loss[-1]:.3f}")
    assert last.provenance.samples == 32 * ranks, "the rows of all ranks"
    assert run.steps.loss[-1] < run.steps.loss[0]
dist.destroy_process_group()
