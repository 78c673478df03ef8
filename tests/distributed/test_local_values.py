"""What one rank records of a parallel model, alone: its own samples, and its own part of what is split."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from building.parallel import Language, data_parallel, loss_of, plain_name, sequence_parallel, tensor_parallel, tokens
from building.processes import on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import propscope

pytestmark = pytest.mark.slow

ROWS = 2


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def recorded(model, *batches):
    with propscope.track(model) as recorder:
        for batch in batches:
            loss_of(model, batch).backward()
    return recorder.profile()


def figures(summary):
    return None if summary is None else (summary.count, summary.mean, summary.std, summary.min, summary.max)


def of(tensor):
    values = local(tensor).detach().double()
    return values.numel(), values.mean(), values.std(correction=0), values.min(), values.max()


def own_rows(*steps):
    rank = dist.get_rank()
    return [tokens(step, part=slice(ROWS * rank, ROWS * rank + ROWS)) for step in steps]


def of_data(kind):
    """Sites of this rank and of a plain model on the same rows; gradients as recorded and as the pass left them."""
    model, plain = data_parallel(Language(), kind), Language()
    found, expected = recorded(model, *own_rows(0)), recorded(plain, *own_rows(0))
    left = {name: one.grad for name, one in model.named_parameters() if one.grad is not None and one.numel()}
    recorded_there = {one.name: figures(one.gradient) for one in found.parameters if one.gradient is not None}
    sites = [
        (figures(a.forward), figures(b.forward), figures(a.backward), figures(b.backward), a.mean_cosine, b.mean_cosine)
        for a, b in zip(found.sites, expected.sites, strict=True)
    ]
    own = {one.name: figures(one.gradient) for one in expected.parameters}
    held = {plain_name(name): one for name, one in left.items() if local(one).numel()}
    squares = {name: float(local(one).double().square().sum()) for name, one in held.items()}
    reduced = {name: of(one) for name, one in held.items()}
    notes = [note.reason for note in found.coverage if not note.name]
    return sites, recorded_there, own, reduced, squares, notes


def approximately(figures, *, rel=1e-5):
    return None if figures is None else pytest.approx([float(one) for one in figures], rel=rel, abs=1e-7)


def gradient_of_both_halves():
    model = Language()
    for rank in range(2):
        (loss_of(model, tokens(0, part=slice(ROWS * rank, ROWS * rank + ROWS))) / 2).backward()
    return {name: float(one.grad.norm()) for name, one in model.named_parameters()}


@pytest.mark.parametrize("kind", ["ddp", "fsdp1", "fsdp2"])
def test_sites_are_those_of_the_own_rows_and_fsdp_shows_the_reduced_gradient(kind):
    ranks = on_ranks(of_data, kind)
    for sites, found, own, reduced, _, notes in ranks:
        for forward, plain_forward, backward, plain_backward, cosine, plain_cosine in sites:
            assert forward == approximately(plain_forward)
            assert backward == approximately(plain_backward)
            assert cosine == (None if plain_cosine is None else pytest.approx(plain_cosine, rel=1e-4))
        if kind == "ddp":
            assert found.keys() == own.keys()
            assert all(found[name] == approximately(own[name]) for name in own)
            assert found["head.weight"] != approximately(reduced["head.weight"], rel=1e-2)
            assert any("before they are reduced" in note for note in notes)
        else:
            assert found.keys() == reduced.keys()
            assert all(found[name] == approximately(reduced[name], rel=1e-4) for name in reduced)
            assert any("the part that this rank holds" in note for note in notes)
    if kind != "ddp":
        # The parts of the ranks are those of one gradient: that of the mean of their losses.
        whole = gradient_of_both_halves()
        total = {name: math.sqrt(sum(squares.get(name, 0.0) for *_, squares, _ in ranks)) for name in whole}
        assert total == pytest.approx(whole, rel=1e-5)


def of_added_gradients(kind):
    """What track records of two passes without zero_grad in between."""
    model = data_parallel(Language(), kind)
    recorded(model, *own_rows(0))
    both = recorded(model, *own_rows(1))
    model.zero_grad()
    again = recorded(model, *own_rows(1))
    return [{one.name: figures(one.gradient) for one in each.parameters} for each in (both, again)]


@pytest.mark.parametrize("kind", ["fsdp1", "fsdp2"])
def test_what_a_pass_adds_to_a_gradient_is_recorded_and_not_the_sum(kind):
    for second, again in on_ranks(of_added_gradients, kind):
        assert any(one is not None for one in again.values())
        for name, expected in again.items():
            assert second[name] == approximately(expected, rel=1e-3)


def of_tensors(kind):
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
    whole = Language()
    model = (
        sequence_parallel(whole, mesh) if kind == "sequence" else tensor_parallel(whole, mesh, local=kind == "local")
    )
    found, expected = recorded(model, tokens()), recorded(Language(), tokens())
    return [
        (a.name, a.shape, b.shape, figures(a.forward), figures(b.forward), a.backward is None)
        for a, b in zip(found.sites, expected.sites, strict=True)
    ]


@pytest.mark.parametrize("kind", ["local", "distributed", "sequence"])
def test_the_ranks_of_tensor_parallel_hold_each_value_once(kind):
    first, second = on_ranks(of_tensors, kind)
    for (name, shape, whole, a, expected, missing), (_, _, _, b, _, _) in zip(first, second, strict=True):
        split = math.prod(shape) < math.prod(whole)
        assert missing == (name == "input")
        count, mean, _, low, high = expected
        if not split:
            assert a == approximately(expected) == b
            continue
        assert (a[0] + b[0], min(a[3], b[3]), max(a[4], b[4])) == approximately((count, low, high))
        assert (a[0] * a[1] + b[0] * b[1]) / count == pytest.approx(mean, rel=1e-4, abs=1e-7)
    assert any(math.prod(shape) < math.prod(whole) for _, shape, whole, *_ in first)


class Functions(nn.Module):
    """Calls as functions, between two layers, what a model may call."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.gate, self.down = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, value):
        hidden, gate = self.up(value), torch.sigmoid(self.gate(value))
        hidden = F.relu(hidden)
        hidden = hidden + torch.tanh(hidden)
        hidden = F.silu(hidden * gate)
        scores = F.softmax(hidden.transpose(0, 1), dim=0)
        return self.down(F.gelu(hidden) + scores.transpose(0, 1))


def of_functions(how):
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))

    def train(watch):
        model = Functions()
        column = ColwiseParallel(use_local_output=False)
        plan = {"up": column, "gate": column, "down": RowwiseParallel()}
        parallelize_module(model, mesh, plan)
        torch.manual_seed(1)
        value = torch.randn(5, 6, requires_grad=True)
        if watch == "profile":
            return propscope.profile(model, value), []
        with propscope.track(model) if watch else torch.enable_grad() as recorder:
            output = model(value)
            output.square().sum().backward()
        results = [output, value.grad, *(local(one.grad) for one in model.parameters())]
        return recorder.profile() if watch else None, results

    _, plain = train("")
    profile, watched = train(how)
    same = how == "profile" or all(map(torch.equal, plain, watched))
    model = Functions()
    with propscope.track(model) as recorder:
        torch.manual_seed(1)
        model(torch.randn(5, 6, requires_grad=True)).square().sum().backward()
    expected = recorder.profile()
    told = [(one.name, one.kind, one.role, one.backward is not None) for one in profile.sites]
    return (
        same,
        told,
        [(one.name, one.kind, one.role, one.backward is not None) for one in expected.sites],
        [(note.name, note.reason) for note in profile.coverage if "could not" in note.reason],
        {one.name: (one.forward.count, one.attention_entropy) for one in profile.sites},
        {one.name: (one.forward.count, one.attention_entropy) for one in expected.sites},
    )


@pytest.mark.parametrize("how", ["track", "profile"])
def test_functions_on_distributed_tensors_are_sites_with_the_names_of_the_plain_model(how):
    for same, found, expected, failed, counts, whole in on_ranks(of_functions, how):
        assert same
        assert failed == []
        assert found == expected
        split = {name for name in counts if 2 * counts[name][0] == whole[name][0]}
        assert split >= {"up", "gate", "up.relu"}
