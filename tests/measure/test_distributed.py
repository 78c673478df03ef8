"""Distributed tensors are summarized by the shard that this process holds, and labelled so."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from building.processes import on_ranks
from torch import nn

import propscope

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture
def mesh():
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def step(model, x):
    model(x).square().sum().backward()


def shards(profile):
    return {note.name for note in profile.coverage if note.reason.startswith(("local part of a", "whole tensor"))}


def same(a, b):
    return (a.count, a.histogram) == (b.count, b.histogram) and a.std == pytest.approx(b.std, rel=1e-6)


def test_parameters_and_values_of_tensor_parallel_layers(mesh):
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    x, model = torch.randn(6, 4), net()
    with propscope.track(model) as recorder:
        step(model, x), step(model, x)
    expected = recorder.profile()
    model = parallelize_module(
        net(), mesh, {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel(use_local_output=False)}
    )
    assert isinstance(model[0].weight, DTensor)
    with propscope.track(model) as recorder:
        step(model, x), step(model, x)
    found = recorder.profile()
    for one in expected.without_inputs.sites:
        assert same(found[one.name].forward, one.forward)
        assert same(found[one.name].backward, one.backward)
    for a, b in zip(found.parameters, expected.parameters, strict=True):
        assert (a.name, a.shape) == (b.name, b.shape)
        assert same(a.value, b.value)
        assert same(a.gradient, b.gradient)
    assert {"0", "1", "2", "0.weight", "2.weight"} <= shards(found)
    assert not shards(expected)


def test_a_model_under_fsdp(mesh):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    x, plain, model = torch.randn(6, 4), net(), net()
    fsdp.fully_shard(model, mesh=mesh)
    with propscope.track(model) as recorder:
        step(model, x)
    step(plain, x)
    found = recorder.profile()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad.to_local(), b.grad)
    assert [site.forward.count for site in found.without_inputs.sites] == [48, 48, 24]
    assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= shards(found)
    verdict = propscope.diagnose(found)
    assert not [finding for finding in verdict.findings if finding.kind == "stagnant"]
    # FSDP puts the gradient in place itself.
    assert all(p.gradient is not None or "FSDP" in reasons(found, p.name) for p in found.parameters)


def reasons(profile, name):
    return " ".join(note.reason for note in profile.coverage if note.name == name)


def said(profile):
    def figures(one):
        return one and [one.count, one.mean, one.std, one.min, one.max]

    return {
        "sites": {one.name: [figures(one.forward), figures(one.backward)] for one in profile.without_inputs.sites},
        "parameters": {p.name: [list(p.shape), figures(p.value), figures(p.gradient)] for p in profile.parameters},
        "notes": {note.name: note.reason for note in profile.coverage},
    }


def tracked(model, x):
    with propscope.track(model) as recorder:
        step(model, x), step(model, x)
    return recorder.profile()


def on_one_of_two():
    """Track two steps of the same network, sharded over both ranks, and of its own plain copy."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    rank, mesh = dist.get_rank(), init_device_mesh("cpu", (2,))
    torch.manual_seed(7)
    whole = torch.randn(6, 4)
    x = whole[3 * rank : 3 * rank + 3]
    sharded, untracked = net(), net()
    fully_shard(sharded, mesh=mesh)
    fully_shard(untracked, mesh=mesh)
    fsdp = tracked(sharded, x)
    step(untracked, x), step(untracked, x)
    pairs = zip(sharded.parameters(), untracked.parameters(), strict=True)
    plan = {"0": ColwiseParallel(use_local_output=False), "2": RowwiseParallel(use_local_output=False)}
    return {
        "same": all(torch.equal(a.grad.to_local(), b.grad.to_local()) for a, b in pairs),
        "fsdp": said(fsdp),
        "local": {name: p.to_local().tolist() for name, p in sharded.named_parameters()},
        "plain": said(tracked(net(), x)),
        "whole": said(tracked(net(), whole)),
        "tensor_parallel": said(tracked(parallelize_module(net(), mesh, plan), whole)),
    }


@pytest.mark.slow
def test_two_processes_each_summarize_their_own_shard():
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    for found in on_ranks(on_one_of_two):
        # The user's own gradients are those of an untracked step.
        assert found["same"]
        fsdp, plain, local = found["fsdp"], found["plain"], found["local"]
        # Activations belong to this process alone: what its own rows give.
        assert fsdp["sites"].keys() == plain["sites"].keys()
        for name, (forward, backward) in fsdp["sites"].items():
            assert forward == pytest.approx(plain["sites"][name][0], rel=1e-5)
            assert backward == pytest.approx(plain["sites"][name][1], rel=1e-5)
        for name, (shape, value, gradient) in fsdp["parameters"].items():
            held = np.array(local[name])
            assert shape == list(held.shape)
            assert value == pytest.approx([held.size, held.mean(), held.std(), held.min(), held.max()], rel=1e-5)
            assert fsdp["notes"][name].startswith("local part of a tensor") or gradient is None
            # FSDP puts the gradient in place itself.
            assert gradient is not None or "FSDP" in fsdp["notes"][name]
        split, whole = found["tensor_parallel"], found["whole"]
        # Half of the units are here.
        assert [split["sites"]["0"][0][0], split["sites"]["1"][0][0]] == [48, 48]
        assert split["parameters"]["0.weight"][1][0] == 16
        assert whole["parameters"]["0.weight"][1][0] == 32
        assert split["notes"]["0.weight"].startswith("local part of a tensor")
        assert split["notes"]["1"].startswith("local part of a tensor")
