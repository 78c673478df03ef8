"""The gradient of a step is the whole one: accumulated, reduced over ranks, before it is clipped."""

import math

import pytest
import torch
import torch.distributed as dist
from building.processes import on_ranks
from building.trainings import training
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import propscope
from propscope.measure import pass_ends
from propscope.measure.hooks import Guard
from propscope.monitoring.gradients import AccumulatedGradients
from propscope.records.network import CoverageNote


def step_of_one_rank():
    """Take one step with data of this rank; the gradients are those of both ranks together."""
    rank = dist.get_rank()
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    # Buckets as small as this are reduced one after the other, the last one at the end of the pass.
    model = DistributedDataParallel(inner, bucket_cap_mb=1e-5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.full((3, 4), rank + 1.0)
    with propscope.monitor(model, optimizer, every=1) as monitor, monitor.step(0):
        model(x).square().sum().backward()
        whole = {name: float(one.grad.norm()) for name, one in inner.named_parameters()}
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seen = {one.name: [one.step_gradient_norm, one.gradient_norm] for one in monitor.profile.parameters}
    return {"whole": whole, "seen": seen, "clip": float(monitor.steps.clip_factor[0])}


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_the_gradient_of_ddp_is_seen_after_its_reduction():
    found = on_ranks(step_of_one_rank)
    for one in found:
        for name, norm in one["whole"].items():
            stepped, own = one["seen"][name]
            assert stepped == pytest.approx(norm, rel=1e-5)
            assert own != pytest.approx(norm, rel=0.1), "the gradient of one rank is another one"
        total = sum(norm**2 for norm in one["whole"].values()) ** 0.5
        assert one["clip"] == pytest.approx(1 / total, rel=1e-4)
    assert found[0]["whole"] == pytest.approx(found[1]["whole"])


class Again(nn.Module):
    """A model whose parts run again in the backward pass, by a backward pass of their own where that is reentrant."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))

    def forward(self, value):
        for part in self.parts:
            value = checkpoint(part, value, use_reentrant=self.reentrant)
        return value


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_pass_within_a_pass_ends_neither_the_gradient_nor_the_recording(reentrant):
    torch.manual_seed(0)
    model = Again(reentrant)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with propscope.monitor(model, optimizer, every=1) as monitor, monitor.step(0):
        model(torch.randn(5, 4, requires_grad=True)).square().sum().backward()
        optimizer.step()
    for one in monitor.profile.parameters:
        norm = float(model.get_parameter(one.name).grad.norm())
        assert one.step_gradient_norm == pytest.approx(norm, rel=1e-5)
        assert one.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert all(site.backward is not None for site in monitor.profile.without_inputs.sites)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_passes_within_a_pass_count_as_the_pass_of_one_micro_batch(micro_batches):
    model = Again(reentrant=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with propscope.monitor(model, optimizer, every=1, micro_batches=micro_batches) as monitor, monitor.step(0):
        for _ in range(3):
            model(torch.randn(5, 4, requires_grad=True)).square().sum().backward()
        optimizer.step()
    assert monitor.profile["parts.2.1"].samples == 5 * micro_batches
    for one in monitor.profile.parameters:
        assert one.step_gradient_norm == pytest.approx(float(model.get_parameter(one.name).grad.norm()), rel=1e-5)


def test_the_norms_are_those_of_the_last_pass_and_nothing_is_left_on_the_parameters():
    run = training()
    parameters = dict(run.model.named_parameters())
    seen = AccumulatedGradients(Guard(), lambda: torch.tensor(4.0))
    seen.watch(run.model, parameters)
    assert seen.norms() is None
    for count in (1, 2):
        run.loss().backward()
        assert seen.passes == count
        found = seen.norms()
        assert list(found.names) == list(parameters)
        assert found.values.tolist() == pytest.approx([float(one.grad.norm()) for one in parameters.values()], rel=1e-5)
        assert float(found.scale) == 4
    torch.autograd.grad(run.loss(), list(parameters.values()))
    assert seen.passes == 2, "what accumulates nothing is no pass"
    seen.unwatch()
    run.loss().backward()
    assert seen.passes == 2
    assert not any(one._post_accumulate_grad_hooks for one in parameters.values())


def test_without_a_callback_at_the_end_of_a_pass_the_gradient_is_that_of_the_step_which_is_said(monkeypatch):
    monkeypatch.setattr(pass_ends, "_queue", None)
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=1) as monitor, monitor.step(0):
        run.loss().backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1e-3)
        run.optimizer.step()
    for one in monitor.profile.parameters:
        norm = float(run.model.get_parameter(one.name).grad.norm())
        assert one.step_gradient_norm == pytest.approx(norm, rel=1e-5)
    reason = (
        "step_gradient_norm of it and 29 other parameters is that of what the optimizer got, after clipping: no "
        "backward pass was seen to end"
    )
    assert CoverageNote("tokens.weight", "parameter", reason) in monitor.profile.coverage
    assert math.isnan(monitor.steps.clip_factor[0])


@pytest.mark.parametrize("end", ["first", "last"])
def test_the_gradient_is_whole_wherever_the_callback_is_armed(end):
    run = training()
    names = [name for name, _ in run.model.named_parameters()]
    armed = names[0] if end == "first" else names[-1]
    seen = AccumulatedGradients(Guard(), lambda: None)
    seen.watch(run.model, dict(run.model.named_parameters()))
    for name, handle in seen._handles.items():
        if name != armed:
            handle.remove()
    run.loss().backward()
    expected = [float(one.grad.norm()) for one in run.model.parameters()]
    assert seen.norms([armed]).values.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("optimizer", "named"), [("SGD", True), ("LBFGS", False)])
def test_what_a_closure_makes_is_judged_before_the_optimizer_steps_with_it(optimizer, named):
    run = training(optimizer=optimizer)

    def broken():
        run.optimizer.zero_grad()
        loss = run.loss() * math.nan
        loss.backward()
        return loss

    def stop(alarm):
        raise RuntimeError(alarm.kind)

    before = [one.detach().clone() for one in run.model.parameters()]
    monitor = propscope.monitor(run.model, run.optimizer, every=10, on_alarm=stop)
    with pytest.raises(RuntimeError, match="non-finite gradient"), monitor.step(0):
        run.optimizer.step(closure=broken) if named else run.optimizer.step(broken)
    assert all(map(torch.equal, before, run.model.parameters()))
    monitor.close()


def test_the_gradient_of_a_closure_that_runs_often_is_the_last_one():
    run = training(optimizer="LBFGS", max_iter=4)
    seen = []

    def closure():
        run.optimizer.zero_grad()
        loss = run.loss()
        loss.backward()
        seen.append({name: float(one.grad.norm()) for name, one in run.model.named_parameters()})
        return loss

    with propscope.monitor(run.model, run.optimizer, every=1, micro_batches=9) as monitor, monitor.step(0):
        assert run.optimizer.step(closure) is not None
    assert len(seen) > 2
    found = {one.name: one.step_gradient_norm for one in monitor.profile.parameters}
    assert found == pytest.approx(seen[-1], rel=1e-5)
    assert monitor.steps.gradient_norm.tolist() == pytest.approx([math.hypot(*seen[-1].values())], rel=1e-5)
