"""Measure your own training loop: hooks on the model, no edit to it, and the same results as without them."""

import torch
from models import mlp
from torch import nn

import propscope

torch.manual_seed(0)
model = mlp(depth=6, width=64)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
inputs, labels = torch.randn(256, 64), torch.randint(10, (256,))


def epoch() -> float:
    order = torch.randperm(len(inputs)).split(64)
    for rows in order:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
        loss.backward()
        optimizer.step()
    return loss.item()


seen = []
for number in range(1, 11):
    if number in (1, 10):
        # One profile holds the four batches of the epoch.
        with propscope.track(model, include=nn.Linear) as recorder:
            loss = epoch()
        seen.append((number, loss, recorder.profile()))
    else:
        epoch()

for number, loss, profile in seen:
    dead = sum(site.dead_units or 0 for site in profile.sites)
    units = sum(site.units or 0 for site in profile.sites if site.dead_units is not None)
    print(f"epoch {number}: loss {loss:.2f}, {profile.provenance.samples} samples, {dead} of {units} units dead")
    for site in profile.sites:
        assert site.forward
        assert site.backward
        print(f"  layer {site.name:>3}: forward rms {site.forward.rms:5.2f}, gradient rms {site.backward.rms:.1e}")
