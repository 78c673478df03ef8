"""What a reentrant checkpoint computes again in the backward pass has the gradients that it has without one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint

import propscope
from propscope.measure.observer import Observer

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Checkpointed(nn.Module):
    """Runs methods, not modules, under checkpoints; `around`: those that are."""

    def __init__(self, *around: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.around = around
        self.start, self.layer, self.weight = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))

    def run(self, name: str, *args: Tensor) -> Tensor:
        part = getattr(self, name)
        return checkpoint(part, *args, use_reentrant=True) if name in self.around else part(*args)

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        # What is known as a site before the part, and what is none; a layer and functions that run several times.
        x = F.relu(x) + F.relu(self.layer(y))
        return F.softmax(F.gelu(F.linear(x, self.weight)) + F.gelu(self.layer(x * y)), -1) + y

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        return F.silu(self.run("inner", x, y.sin()) * F.relu(self.run("inner", x.tanh(), y)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for _ in range(2):
            x = self.run("outer", x, F.relu(x))
        return F.relu(x) @ self.weight


def gradients(model: nn.Module) -> dict[str, tuple[int, float] | None]:
    with propscope.track(model) as recorder:
        for _ in range(2):
            model(X).square().sum().backward()
    profile = recorder.profile()
    assert "could not be" not in str(profile.coverage)
    return {s.name: None if s.backward is None else (s.backward.count, s.backward.rms) for s in profile.sites}


@pytest.mark.parametrize("around", [("inner",), ("outer",), ("inner", "outer")])
def test_each_site_of_a_part_has_the_gradient_that_it_has_without_a_checkpoint(around):
    expected, found = gradients(Checkpointed()), gradients(Checkpointed(*around))
    assert None not in [entry for name, entry in expected.items() if name != "input"]
    assert found.keys() == expected.keys()
    for name, entry in expected.items():
        assert found[name] == (None if entry is None else (entry[0], pytest.approx(entry[1], rel=1e-5))), name


def test_two_recorders_see_the_same_and_leave_torch_as_it_was():
    forward, model = CheckpointFunction.forward, Checkpointed("outer")
    with propscope.track(model) as other:
        found = gradients(model)
    assert CheckpointFunction.forward is forward
    assert {site.name: site.backward is not None for site in other.profile().sites} == {
        name: entry is not None for name, entry in found.items()
    }


def test_a_part_that_runs_again_after_the_block_is_not_recorded():
    model = Checkpointed("outer")
    with propscope.track(model) as recorder:
        loss = model(X).sum()
    loss.backward()
    assert all(site.backward is None for site in recorder.profile().sites)
    assert model.weight.grad is not None


def test_what_a_part_raises_passes_through_and_the_next_pass_is_recorded():
    class Fails(Checkpointed):
        def inner(self, x: Tensor, y: Tensor) -> Tensor:
            x = F.relu(super().inner(x, y))
            if x.requires_grad and self.failing:
                raise KeyError("again")
            return x

    model = Fails("inner")
    with propscope.track(model) as recorder:
        model.failing = True
        with pytest.raises(KeyError):
            model(X).sum().backward()
        model.failing = False
        model(X).sum().backward()
    by_name = {site.name: site for site in recorder.profile().sites}
    assert by_name["start"].backward is not None
    assert torch.overrides._get_current_function_mode() is None


def test_a_checkpointed_part_keeps_no_tensor_of_the_model_alive():
    model = Checkpointed("inner", "outer")
    with propscope.track(model):
        out = model(X)
        reference = weakref.ref(out)
        out.sum().backward()
        del out
        gc.collect()
        assert reference() is None


@pytest.mark.parametrize("name", ["part_of_checkpoint", "_enter_part"])
def test_an_error_of_propscope_leaves_the_step_as_it_is(monkeypatch, name):
    def step(model):
        model(X).square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    def fail(*arguments):
        raise ValueError("a bug")

    expected = step(Checkpointed("inner", "outer"))
    monkeypatch.setattr(Observer, name, fail)
    with propscope.track(model := Checkpointed("inner", "outer")) as recorder:
        found = step(model)
    assert all(map(torch.equal, found, expected))
    assert "a bug" in str(recorder.profile().coverage)
