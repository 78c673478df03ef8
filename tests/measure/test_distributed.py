"""Distributed tensors are summarized by the shard that this process holds, and labelled so."""

import pytest
import torch
import torch.distributed as dist
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
    return {note.name for note in profile.coverage if note.reason.startswith("local shard of a DTensor")}


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
    # FSDP puts the gradient in place itself.
    assert all(p.gradient is not None or "FSDP" in reasons(found, p.name) for p in found.parameters)


def reasons(profile, name):
    return " ".join(note.reason for note in profile.coverage if note.name == name)
