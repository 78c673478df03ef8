"""How the parameters and the sites of a parallel model lie on the ranks."""

import pytest
import torch
import torch.distributed as dist
from building.parallel import Language, data_parallel, loss_of, sequence_parallel, tensor_parallel, tokens
from building.processes import on_ranks
from torch import nn

import propscope
from propscope.errors import InputError
from propscope.measure.recorder import Recorder
from propscope.measure.shards import data_groups, model_groups, sharding_of

pytestmark = pytest.mark.slow


def shardings_of(model):
    with Recorder(model) as recorder:
        loss_of(model, tokens()).backward()
    found = recorder.shardings()
    return {key: None if one is None else [(s.kind, s.axis) for s in one.splits] for key, one in found.items()}


def of_tensor_parallel(local):
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
    model = tensor_parallel(Language(1), mesh, local=local)
    named = dict(model.named_parameters())
    weights = {name: sharding_of(named[name]) for name in ("blocks.0.up.weight", "blocks.0.down.weight")}
    assert [group.name for group in model_groups(model)] == ["tensor"]
    assert data_groups(model) == ()
    return shardings_of(model), {name: (one.shape, one.splits[0].dimension) for name, one in weights.items()}


UNITS, SAME = [("sharded", "units")], [("replicated", "")]


@pytest.mark.parametrize("local", [True, False])
def test_sites_of_tensor_parallel_layers_are_split_over_units_also_behind_local_operations(local):
    for sites, weights in on_ranks(of_tensor_parallel, local):
        assert weights == {"blocks.0.up.weight": ((16, 8), 0), "blocks.0.down.weight": ((8, 16), 1)}
        split = {key for key, one in sites.items() if one == UNITS}
        attention = "blocks.0.attention"
        queries = {f"{attention}.{name}" for name in ("query", "key", "value", "scaled_dot_product_attention")}
        assert split == {*queries, "blocks.0.up", "blocks.0.gelu"}
        whole = {f"{attention}.out", "blocks.0.down"}
        assert {key for key, one in sites.items() if one == SAME} >= whole
        assert sites["embedding"] is None


def of_tensors_without_graph(sequence):
    from torch.distributed.device_mesh import init_device_mesh

    model, mesh = Language(1), init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
    model = sequence_parallel(model, mesh) if sequence else tensor_parallel(model, mesh)
    graph = shardings_of(model)
    with torch.no_grad(), Recorder(model) as recorder:
        model(tokens())
    found = recorder.shardings()
    return graph, {key: None if one is None else [(s.kind, s.axis) for s in one.splits] for key, one in found.items()}


@pytest.mark.parametrize("sequence", [False, True])
def test_what_is_split_is_known_without_a_graph(sequence):
    for graph, without in on_ranks(of_tensors_without_graph, sequence):
        assert without == graph
        assert UNITS in without.values()


def of_replicate():
    from torch.distributed._composable.replicate import replicate

    model = replicate(Language(1))
    before = [group.ranks for group in data_groups(model)]
    with propscope.track(model) as recorder:
        loss_of(model, tokens()).backward()
    profile = recorder.profile()
    return before, [group.ranks for group in data_groups(model)], profile.sites[-1].kind, profile.coverage


def test_a_model_that_replicate_spread_over_data():
    for before, groups, kind, notes in on_ranks(of_replicate):
        assert before == groups == [(0, 1)]
        assert kind == "Linear"
        assert any("before they are reduced" in note.reason for note in notes)


def of_sequence_parallel():
    from torch.distributed.device_mesh import init_device_mesh

    return shardings_of(sequence_parallel(Language(1), init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))))


def test_sites_of_sequence_parallel_layers_are_split_over_positions():
    for sites in on_ranks(of_sequence_parallel):
        positions = {key for key, one in sites.items() if one == [("sharded", "positions")]}
        names = ("norm", "attention.out", "add", "behind", "down", "add#1")
        assert positions == {"embedding", "norm", *(f"blocks.0.{name}" for name in names)}
        assert {key for key, one in sites.items() if one == UNITS} >= {"blocks.0.up", "blocks.0.gelu"}


def groups(kind):
    model = data_parallel(Language(1), kind)
    return [group.ranks for group in data_groups(model)], model_groups(model)


@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_the_ranks_of_data_are_known_by_the_wrapper(kind):
    assert on_ranks(groups, kind) == [([(0, 1)], ())] * 2


def groups_of_both():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = tensor_parallel(Language(1), mesh["tensor"])
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh["data"])
    sites = shardings_of(model)
    weight = sharding_of(model.blocks[0].up.weight)
    kinds = [(split.group.name, split.kind, split.dimension) for split in weight.splits]
    first = [(group.name, group.ranks) for group in (*data_groups(model), *model_groups(model))]
    return dist.get_rank(), first, kinds, sites["blocks.0.gelu"], sites["blocks.0.add"]


def test_a_mesh_of_data_and_tensor_parallel_ranks():
    for rank, named, kinds, gelu, added in on_ranks(groups_of_both, ranks=4):
        data, tensor = (rank % 2, rank % 2 + 2), (rank // 2 * 2, rank // 2 * 2 + 1)
        assert named == [("data", data), ("tensor", tensor)]
        assert kinds == [("data", "sharded", 0), ("tensor", "sharded", 0)]
        assert (gelu, added) == (UNITS, SAME)


def notes():
    from torch.distributed.device_mesh import init_device_mesh

    model = tensor_parallel(Language(1), init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",)))
    with propscope.track(model) as recorder:
        loss_of(model, tokens()).backward()
    return {note.name: note.reason for note in recorder.profile().coverage}


def test_the_coverage_says_what_is_recorded_of_a_split_tensor():
    for said in on_ranks(notes):
        units = "local part of a tensor{}: its units split over 2 ranks of tensor"
        assert said["blocks.0.up"] == units.format(f" of shape {(4, 6, 16)}")
        assert said["blocks.0.up.gelu"] == units.format("")
        assert "blocks.0.norm" not in said
        whole = "local part of a tensor of shape (16, 8): dimension 0 split over 2 ranks of tensor"
        assert said["blocks.0.up.weight"] == whole


def summands():
    from torch.distributed.device_mesh import init_device_mesh

    model = sequence_parallel(Language(1), init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",)))
    with propscope.track(model) as recorder:
        loss_of(model, tokens()).backward()
    profile, weight = recorder.profile(), model.norm.weight.grad
    assert weight.placements[0].is_partial()
    notes = {note.name for note in profile.coverage if note.reason.startswith("its gradient is not summed up yet")}
    seen = {one.name: one.gradient_norm for one in profile.parameters}
    return notes, seen["norm.weight"], float(weight.to_local().norm()), float(weight.full_tensor().norm())


def test_a_gradient_that_is_still_to_be_summed_up_is_said_to_be_a_summand():
    norms = {f"{path}.{name}" for path in ("norm", "blocks.0.norm", "blocks.0.behind") for name in ("weight", "bias")}
    for notes, seen, own, whole in on_ranks(summands):
        assert notes == norms
        assert seen == pytest.approx(own, rel=1e-5)
        assert seen != pytest.approx(whole, rel=0.05)


def whole_of_summands():
    from torch.distributed.device_mesh import init_device_mesh

    model = sequence_parallel(Language(1), init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",)))
    with propscope.track(model, group="world") as recorder:
        loss_of(model, tokens()).backward()
    assert model.norm.weight.grad.placements[0].is_partial(), "the gradient that the user has stays as it is"
    profile = recorder.profile()
    notes = [note for note in profile.coverage if "summed up" in note.reason]
    return notes, {one.name: one.gradient_norm for one in profile.parameters if "key.bias" not in one.name}


def test_the_record_of_all_ranks_sums_the_summands_up():
    plain = Language(1)
    loss_of(plain, tokens()).backward()
    # The gradient of a key's bias is zero but for rounding.
    whole = {name: float(one.grad.norm()) for name, one in plain.named_parameters() if "key.bias" not in name}
    for notes, found in on_ranks(whole_of_summands):
        assert notes == []
        assert found == pytest.approx(whole, rel=1e-5)


class Experts(nn.Module):
    """Has the weights of all its experts in one parameter."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(4, 3, 3))


def refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
    from torch.distributed.tensor import Shard, distribute_tensor

    experts, mesh = Experts(), init_device_mesh("cpu", (2,), mesh_dim_names=("expert",))
    experts.weights = nn.Parameter(distribute_tensor(experts.weights.detach(), mesh, [Shard(0)]))
    part, said = nn.Linear(2, 2), []
    stage = PipelineStage(part, dist.get_rank(), 2, torch.device("cpu"))
    optimizer = torch.optim.SGD(part.parameters(), 0.1)
    attempts = [
        lambda: propscope.track(experts, group="world"),
        lambda: propscope.monitor(experts, torch.optim.SGD(experts.parameters(), 0.1), group="world"),
        lambda: propscope.track(stage),
        lambda: propscope.track(stage, group="world"),
        lambda: propscope.profile(stage, torch.zeros(1, 2)),
        lambda: propscope.monitor(stage, optimizer),
        lambda: propscope.track(ScheduleGPipe(stage, 1)),
    ]
    for attempt in attempts:
        with pytest.raises(InputError) as refusal:
            attempt()
        said.append(str(refusal.value).partition("\n")[0])
    propscope.track(experts), propscope.track(stage.submod)
    return said


def test_experts_of_the_ranks_own_and_pipelines_are_refused_by_name():
    experts = "model must have the same layers on all ranks of the group, got experts spread over 2 ranks of expert"
    pipeline = "model must be the part of a pipeline that this rank runs, got a {}"
    stage = pipeline.format("PipelineStage")
    for said in on_ranks(refused):
        assert said == [experts] * 2 + [stage] * 4 + [pipeline.format("ScheduleGPipe")]
