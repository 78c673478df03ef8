"""`profile` leaves the model, its caches and the caller's batch as it found them."""

import pytest
import torch
from torch import nn

import propscope
from propscope.measure.undisturbed import undisturbed


class Keeps(nn.Module):
    """A model that keeps things between calls, in every way that is common."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("late", None)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("grown", torch.ones(1))
        self.cache, self.memory = None, torch.ones(4)
        self.history, self.by_name, self.pair = [], {"x": torch.ones(2)}, (torch.ones(1), 2)
        self.calls = 0

    def forward(self, x):
        y = self.linear(x)
        self.late = y.detach().mean(0)
        self.mean.mul_(0.5).add_(1)
        self.grown.resize_(3).fill_(2)
        self.register_buffer("new", y.detach(), persistent=False)
        self.cache = y.detach()
        self.fresh = [y.detach()]
        self.memory.add_(1)
        self.history.append(y.detach())
        self.by_name["x"].zero_()
        self.by_name["y"] = y.detach()
        self.pair[0].add_(1)
        self.calls += 1
        return y


def state(model):
    def values(value):
        if isinstance(value, torch.Tensor):
            return id(value), value.tolist()
        if isinstance(value, dict):
            return {key: values(part) for key, part in value.items()}
        if isinstance(value, set):
            return set(value)
        return [values(part) for part in value] if isinstance(value, (list, tuple)) else value

    names = [name for name in vars(model) if name not in ("_modules", "_parameters", "calls")]
    return {name: values(vars(model)[name]) for name in names}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_buffers_and_caches_are_put_back(mode):
    model = Keeps()
    before = state(model)
    with mode():
        propscope.profile(model, torch.randn(3, 4))
    assert state(model) == before
    assert list(model.state_dict()) == ["mean", "grown", "linear.weight", "linear.bias"]


def test_they_are_put_back_when_the_model_fails():
    model = Keeps()
    before = state(model)
    model.linear.register_forward_hook(lambda *_: model.register_buffer("more", torch.ones(1)))
    with pytest.raises(ValueError, match="in the loss"):
        propscope.profile(model, torch.randn(3, 4), lambda y: (_ for _ in ()).throw(ValueError("in the loss")))
    assert state(model) == before


class InPlace(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.linear, self.write = nn.Linear(4, 4), write

    def forward(self, x, more=None):
        self.write(x)
        if more is not None:
            more["mask"].zero_()
        return self.linear(x)


@pytest.mark.parametrize(
    "write", [lambda x: x.mul_(2), lambda x: x.data.clamp_(min=0), lambda x: x[0].zero_(), lambda x: x.numpy().fill(1)]
)
def test_the_batch_is_put_back(write):
    x, mask = torch.randn(3, 4), torch.ones(3)
    before = x.clone()
    propscope.profile(InPlace(write), (x, {"mask": mask}))
    assert torch.equal(x, before)
    assert mask.tolist() == [1, 1, 1]


def test_a_batch_that_is_only_read_is_not_written_to():
    x = torch.randn(3, 4)
    x[0, 0] = torch.nan
    version = x._version
    propscope.profile(nn.Linear(4, 4), x)
    assert x._version == version


def test_weights_that_a_module_lists_are_parameters_not_caches():
    model = nn.LSTM(3, 5)
    with torch.no_grad(), undisturbed(model):
        model.weight_ih_l0.zero_()
    assert not model.weight_ih_l0.any()
    assert model._flat_weights[0] is model.weight_ih_l0


def test_a_pass_that_was_forward_before_it_can_still_run_backward():
    def gradients(between):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
        loss = model(torch.randn(5, 4)).square().sum()
        if between:
            propscope.profile(model, torch.randn(3, 4), loss=lambda output: output.sum())
        loss.backward()
        return [one.grad for one in model.parameters()]

    assert all(torch.equal(one, other) for one, other in zip(gradients(True), gradients(False), strict=True))
