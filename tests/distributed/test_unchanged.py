"""A parallel model trains bit for bit as without propscope, and what is recorded has the names of the plain model."""

import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from building.parallel import (
    Block,
    Language,
    data_parallel,
    loss_of,
    plain_name,
    sequence_parallel,
    tensor_parallel,
    tokens,
)
from building.processes import on_ranks
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, apply_activation_checkpointing
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper as wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecision, MixedPrecisionPolicy, ShardingStrategy
from torch.distributed.fsdp import fully_shard as shard

import propscope

pytestmark = pytest.mark.slow

STEPS, MICRO_BATCHES = 2, 2


def local(tensor):
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def checkpointed(model, *, reentrant=False):
    implementation = CheckpointImpl.REENTRANT if reentrant else CheckpointImpl.NO_REENTRANT
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=lambda part: wrapper(part, checkpoint_impl=implementation),
        check_fn=lambda part: isinstance(part, Block),
    )
    return model


def meshed(kind):
    def make(model):
        mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tensor",))
        if kind == "sequence":
            return sequence_parallel(model, mesh)
        return tensor_parallel(model, mesh, local=kind == "local")

    return make


def wrapped(kind, prepare=None, **options):
    return lambda model: data_parallel(model if prepare is None else prepare(model), kind, **options)


def each_layer(model):
    for part in model.modules():
        if not list(part.children()) and list(part.parameters()):
            shard(part)
    shard(model)
    return model


def over_two_meshes(model):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    return data_parallel(tensor_parallel(model, mesh["tensor"]), "fsdp2", mesh=mesh["data"])


def hybrid(model):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    return data_parallel(model, "fsdp2", mesh=mesh)


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_blocks(model):
    for block in model.blocks:
        block.compile(backend="eager")
    return model


HALF = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
CASES = {
    "ddp": wrapped("ddp"),
    "ddp, small buckets, views": wrapped("ddp", bucket_cap_mb=1e-4, gradient_as_bucket_view=True),
    "ddp, unused parameters looked for": wrapped("ddp", find_unused_parameters=True),
    "ddp, static graph": wrapped("ddp", static_graph=True),
    "ddp, checkpointed": wrapped("ddp", checkpointed),
    "ddp, compiled inside": wrapped("ddp", compiled_blocks),
    "ddp, compiled": lambda model: compiled(data_parallel(model, "ddp")),
    "fsdp1": wrapped("fsdp1"),
    "fsdp1, reduced in each pass": wrapped("fsdp1"),
    "fsdp1, flat": wrapped("fsdp1", use_orig_params=False),
    "fsdp1, gradients split": wrapped("fsdp1", sharding_strategy=ShardingStrategy.SHARD_GRAD_OP),
    "fsdp1, nothing split": wrapped("fsdp1", sharding_strategy=ShardingStrategy.NO_SHARD),
    "fsdp1, bfloat16": wrapped("fsdp1", mixed_precision=MixedPrecision(**HALF)),
    "fsdp1, checkpointed": lambda model: checkpointed(data_parallel(model, "fsdp1")),
    "fsdp2": wrapped("fsdp2"),
    "fsdp2, reduced in each pass": wrapped("fsdp2"),
    "fsdp2, whole between the passes": wrapped("fsdp2", reshard_after_forward=False),
    "fsdp2, each layer": each_layer,
    "fsdp2, bfloat16": wrapped("fsdp2", mp_policy=MixedPrecisionPolicy(**HALF)),
    "fsdp2, offloaded": wrapped("fsdp2", offload_policy=CPUOffloadPolicy(pin_memory=False)),
    "fsdp2, checkpointed": wrapped("fsdp2", checkpointed),
    "fsdp2, checkpointed reentrant": wrapped("fsdp2", lambda model: checkpointed(model, reentrant=True)),
    "fsdp2, compiled inside": wrapped("fsdp2", compiled_blocks),
    "tensor parallel": meshed("local"),
    "tensor parallel, distributed outputs": meshed("distributed"),
    "tensor parallel, checkpointed": lambda model: checkpointed(meshed("local")(model)),
    "sequence parallel": meshed("sequence"),
}
ON_FOUR = {"fsdp2 and tensor parallel": over_two_meshes, "fsdp2, hybrid": hybrid}


def part_of(case, step, micro):
    """The rows of this rank, which are fewer on the last rank in the last step."""
    if "parallel" in case and "fsdp2" not in case:
        return tokens(10 * step + micro)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if "fsdp2 and" in case:
        rank, ranks = rank // 2, 2
    fewer = step == STEPS - 1 and rank == ranks - 1
    return tokens(10 * step + micro, rows=8, part=slice(2 * rank, 2 * rank + 2 - fewer))


def without_reduction(model, case, last):
    """What switches the reduction of gradients off for all micro-batches but the last one."""
    if "each pass" in case:
        return nullcontext()
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last)
        return nullcontext()
    # torch refuses both together.
    return nullcontext() if last or "static" in case or not hasattr(model, "no_sync") else model.no_sync()


def train(case, how):
    """What a training shows bit for bit, its last profile, and the gradient of the last step."""
    torch.manual_seed(0)
    model = {**CASES, **ON_FOUR}[case](Language())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    monitor = propscope.monitor(model, optimizer, every=1) if how == "monitor" else None
    seen, profile = [], None
    for step in range(STEPS):
        recorder = propscope.track(model) if how == "track" else nullcontext()
        with recorder, nullcontext() if monitor is None else monitor.step():
            for micro in range(MICRO_BATCHES):
                last = micro == MICRO_BATCHES - 1
                with without_reduction(model, case, last):
                    loss = loss_of(model, part_of(case, step, micro))
                    loss.backward()
                seen.append(loss.detach().clone())
            trained = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
            gradients = {name: local(gradient).clone() for name, gradient in trained.items()}
            if how == "profile":
                profile = propscope.profile(model, part_of(case, step, 0))
            optimizer.step()
            optimizer.zero_grad()
        seen += [*gradients.values(), *(local(one).clone() for one in model.parameters())]
        if how == "track":
            profile = recorder.profile()
    if monitor is not None:
        profile = monitor.profile
        monitor.close()
    return seen, profile, gradients


# What torch says of some of these models without propscope.
SAID_BY_TORCH = ("The `NO_SHARD` sharding", "FSDP2-wrapped module .* returned a view", "The .grad attribute of a")


def compared(case):
    for message in SAID_BY_TORCH:
        warnings.filterwarnings("ignore", message)
    plain, _, _ = train(case, "")
    found = {}
    for how in ("track", "monitor", "profile"):
        seen, profile, gradients = train(case, how)
        found[how] = len(seen) == len(plain) and all(map(torch.equal, seen, plain)), profile, gradients
    return found


def single():
    model = Language()
    with propscope.track(model) as recorder:
        loss_of(model, tokens()).backward()
    return recorder.profile()


def shape_of(site):
    parents = [(parent.name, parent.gradient) for parent in site.parents]
    return site.name, site.kind, site.role, site.activation, parents, site.parameters, site.backward is not None


def check(case, ranks):
    expected = single()
    for found in on_ranks(compared, case, ranks=ranks):
        for how, (same, profile, gradients) in found.items():
            assert same, how
            assert [*map(shape_of, profile.sites)] == [*map(shape_of, expected.sites)]
            if case == "fsdp1, flat":
                assert {one.name for one in profile.parameters} == {
                    "_flat_param",
                    *(f"blocks.{block}._flat_param" for block in range(2)),
                }
                assert any("use_orig_params=False" in note.reason for note in profile.coverage)
                continue
            assert [one.name for one in profile.parameters] == [one.name for one in expected.parameters]
            assert not [note for note in profile.coverage if "could not be recorded" in note.reason]
            if how == "monitor":
                norms = {plain_name(name): float(one.norm()) for name, one in gradients.items() if one.numel()}
                stepped = {one.name: one.step_gradient_norm for one in profile.parameters if one.value.count}
                assert stepped == pytest.approx(norms, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_on_two_ranks(case):
    check(case, 2)


@pytest.mark.parametrize("case", ON_FOUR)
def test_on_four_ranks(case):
    check(case, 4)
