"""What the ranks of a parallel model see together is what one process sees on the global batch."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from building.parallel import (
    LENGTH,
    WIDTH,
    Language,
    data_parallel,
    loss_of,
    sequence_parallel,
    tensor_parallel,
    tokens,
)
from building.processes import on_ranks
from torch import nn
from torch.distributed.fsdp import FSDPModule

import propscope
from propscope.errors import InputError
from propscope.records.summary import TensorSummary

pytestmark = pytest.mark.slow

ROWS = 4


def seen(model, batch, *, group=None, before=None):
    with propscope.track(model, group=group, histogram_limit=0) as recorder:
        if before is not None:
            before(model)
        loss_of(model, batch).backward()
    return recorder.profile()


def mesh_of(*sizes):
    from torch.distributed.device_mesh import init_device_mesh

    names = ("data", "model") if len(sizes) > 1 else ("data",)
    return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def of_data(kind):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    return seen(data_parallel(Language(), kind), tokens(rows=ROWS).chunk(ranks)[rank], group="world")


def of_tensors(local):
    return seen(tensor_parallel(Language(), mesh_of(2), local=local), tokens(rows=ROWS), group="world")


def of_sequences():
    from torch.distributed.device_mesh import init_device_mesh

    model = sequence_parallel(Language(), init_device_mesh("cpu", (2,), mesh_dim_names=("model",)))
    return seen(model, tokens(rows=ROWS), group="world")


def of_both():
    mesh = mesh_of(2, 2)
    model = data_parallel(tensor_parallel(Language(), mesh["model"]), "fsdp2", mesh=mesh["data"])
    return seen(model, tokens(rows=ROWS).chunk(2)[mesh.get_local_rank("data")], group="world")


@functools.cache
def alone():
    return seen(Language(), tokens(rows=ROWS))


def differences(found, expected, *, rel=1e-6):
    """What of two records is not the same: counts and extremes exactly, moments and others to `rel`."""
    told = []
    for one, other in zip(found, expected, strict=True):
        for field in dataclasses.fields(other):
            a, b = getattr(one, field.name), getattr(other, field.name)
            if isinstance(b, TensorSummary):
                told += [(other.name, field.name, what) for what in differing(a, b, rel)]
            elif isinstance(b, float) and a is not None:
                if not math.isclose(a, b, rel_tol=10 * rel, abs_tol=rel):
                    told.append((other.name, field.name, a, b))
            elif a != b:
                told.append((other.name, field.name, a, b))
    return told


def differing(a, b, rel):
    if a is None:
        return ["not there"]
    told = [name for name in ("count", "nan_count", "zero_fraction") if getattr(a, name) != getattr(b, name)]
    # What is computed in another order differs by its rounding.
    moments = [(name, getattr(a, name), getattr(b, name)) for name in ("mean", "std", "min", "max")]
    told += [f"{n} {x} {y}" for n, x, y in moments if not math.isclose(x, y, rel_tol=rel, abs_tol=rel * b.rms)]
    moved = np.abs(a.histogram.dense() - b.histogram.dense()).sum()
    return [*told, f"{moved} of {a.count} in other bins"] if moved > 0.1 * a.count else told


# Attention is looked at in a few heads and rows: one process sees others of the global batch.
LEAVE = {"attention_entropy", "largest_logit", "logit_spread", "parents"}


def assert_whole(profiles, *, leave=()):
    expected = alone()
    assert [one.name for one in profiles[0].sites] == [one.name for one in expected.sites]
    assert [one.name for one in profiles[0].parameters] == [one.name for one in expected.parameters]
    for found in profiles:
        told = differences(found.sites, expected.sites) + differences(found.parameters, expected.parameters)
        # The gradient of a key's bias is zero but for rounding.
        told = [one for one in told if not one[0].endswith("key.bias")]
        assert [one for one in told if not {*LEAVE, *leave} & set(one)] == []
        assert not [note for note in found.coverage if "part of" in note.reason or "not the same" in note.reason]
        assert (found.provenance.samples, found.provenance.batches) == (ROWS, 1)


def test_ddp():
    assert_whole(on_ranks(of_data, "ddp"))


# Which rows of a weight are equal is not known of rows that lie on several ranks.
SHARDED = ("symmetric_units",)


@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_fsdp(kind):
    assert_whole(on_ranks(of_data, kind), leave=SHARDED)


class Parts(nn.Module):
    """Uses parameters that no module of theirs is called for, a mask that is the same in all samples, and not `idle`.

    Inputs of shape (batch, LENGTH, WIDTH), and a mask of shape (batch, LENGTH, 1).
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = ()
        self.attention = nn.MultiheadAttention(WIDTH, 2, bias=False, batch_first=True)
        self.scale, self.gate = nn.Parameter(torch.ones(WIDTH)), nn.Linear(1, WIDTH)
        self.idle, self.head = nn.Linear(2, 2), nn.Linear(WIDTH, 1)

    def forward(self, stream, mask):
        stream = self.attention(stream, stream, stream, need_weights=False)[0] * self.scale
        return self.head(torch.tanh(stream) * torch.sigmoid(self.gate(mask)))


def of_parts(kind=""):
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if kind else (0, 1)
    stream = torch.randn(ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    batch = (each.chunk(ranks)[rank] for each in (stream, torch.linspace(0, 1, LENGTH).expand(ROWS, -1)[..., None]))
    options = {"find_unused_parameters": True} if kind == "ddp" else {}
    model = data_parallel(Parts(), kind, **options) if kind else Parts()
    with propscope.track(model, group="world" if kind else None, histogram_limit=0) as recorder:
        model(*batch).square().mean().backward()
    return recorder.profile()


@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_parameters_without_a_call_of_their_module_and_masks_are_those_of_one_process(kind):
    expected = of_parts()
    for found in on_ranks(of_parts, kind):
        told = differences(found.sites, expected.sites) + differences(found.parameters, expected.parameters)
        # FSDP1 makes zeros of what has no gradient.
        leave = {*(LEAVE - {"parents"}), "symmetric_units", *(["idle.weight", "idle.bias"] if kind == "fsdp1" else [])}
        assert [one for one in told if not leave & set(map(str, one))] == []
        notes = {note.name for note in found.coverage if "did not run" in note.reason or "same on all" in note.reason}
        assert notes == {"idle"}


def of_a_sum():
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = data_parallel(Language(), "fsdp2")
    model.set_gradient_divide_factor(1.0)
    for part in (*model.blocks, model):
        part.set_gradient_divide_factor(1.0)
        # What divides by a factor only NCCL has.
        part.set_force_sum_reduction_for_comms(True)
    return seen(model, tokens(rows=ROWS).chunk(ranks)[rank], group="world")


@pytest.mark.skipif(not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"), reason="this torch cannot set it")
def test_a_reduction_that_does_not_average_is_followed():
    expected = alone()
    for found in on_ranks(of_a_sum):
        for site, mean in zip(found.without_inputs.sites, expected.without_inputs.sites, strict=True):
            assert site.backward.rms == pytest.approx(2 * mean.backward.rms, rel=1e-5), site.name
        for one, mean in zip(found.parameters, expected.parameters, strict=True):
            assert one.gradient_norm == pytest.approx(2 * mean.gradient_norm, rel=1e-5, abs=1e-7), one.name


@pytest.mark.parametrize("local", [True, False])
def test_tensor_parallel(local):
    assert_whole(on_ranks(of_tensors, local), leave=SHARDED)


def test_sequence_parallel():
    assert_whole(on_ranks(of_sequences), leave=SHARDED)


def test_fsdp2_and_tensor_parallel():
    assert_whole(on_ranks(of_both, ranks=4), leave=SHARDED)


def refusal(group):
    """What `track` says to a model that differs between the ranks."""
    with pytest.raises(InputError) as told:
        propscope.track(torch.nn.Linear(2, 2, bias=dist.get_rank() == 0), group=group)
    return str(told.value)


def refusals():
    other = dist.new_group([0])
    return [refusal(group) for group in ("world", "word", 3, *([other] if dist.get_rank() else []))]


def of_a_part():
    """Three of four processes, some of which are in other groups too."""
    rank = dist.get_rank()
    dist.new_group([0])
    group = dist.new_group([0, 1, 3])
    if rank == 2:
        return None
    places = {0: 0, 1: 1, 3: 2}
    return seen(Language(), tokens(rows=6).chunk(3)[places[rank]], group=group)["head"].forward.count


def test_a_group_of_some_of_the_processes():
    whole = seen(Language(), tokens(rows=6))["head"].forward.count
    assert on_ranks(of_a_part, ranks=4) == [whole, whole, None, whole]


def test_what_is_no_group_and_models_that_differ_are_refused():
    for rank, told in enumerate(on_ranks(refusals)):
        assert told[0].endswith("got others on rank 1 than on rank 0: bias")
        assert told[1].startswith('group must be a process group of torch.distributed or "world", got')
        assert told[2].startswith('group must be a process group of torch.distributed or "world", got')
        assert len(told) == 3 + rank
    assert "group must have this process in it, rank 1" in told[3]


def test_without_a_process_group_there_are_no_ranks():
    with pytest.raises(InputError, match="no process group was started"):
        propscope.track(torch.nn.Linear(1, 1), group="world")
