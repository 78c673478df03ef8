"""Gradients in networks with norms, and residual streams with and without them, each beside a healthy control."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import propscope
from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.propagation import exploding, vanishing

WIDTH = 48


def found(net, *shape):
    torch.manual_seed(0)
    evidence = Evidence.of([propscope.profile(net, torch.randn(*(shape or (64, WIDTH))), stats="moments")])
    return [*exploding(evidence), *vanishing(evidence)]


def said(net, *shape):
    return [(each.kind, each.severity, each.direction) for each in found(net, *shape)]


def stack(depth, *, norm=nn.BatchNorm1d, activation=nn.ReLU, every=1, gain=1.0):
    """Return a plain stack, with a norm before every activation or before each `every`-th one."""
    torch.manual_seed(0)
    layers = []
    for at in range(depth):
        linear = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(linear.weight, std=gain * (2 / WIDTH) ** 0.5)
        layers += [linear, *([norm(WIDTH)] if norm is not None and at % every == every - 1 else []), activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 5))


class FusedNorm(nn.BatchNorm1d):
    """A norm that runs torch's function and an activation by itself, as timm's do: no site is a norm's."""

    def __init__(self, width, activation):
        super().__init__(width)
        self.drop, self.act = nn.Identity(), activation

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return self.act(self.drop(x))


class Summed(nn.Module):
    """A residual stack: branches of two layers, `last` applied to the last weight of each."""

    def __init__(self, depth, *, last=None, norm=nn.Identity, ending=nn.Identity, width=WIDTH):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(norm(width) for _ in range(depth))
        self.endings = nn.ModuleList(ending(width) for _ in range(depth))
        for layer in (*self.up, *self.down):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in self.down if last else ():
            last(layer.weight)

    def forward(self, x):
        for norm, up, down, ending in zip(self.norms, self.up, self.down, self.endings, strict=True):
            x = ending(x + down(F.relu(up(norm(x)))))
        return x


class Modules(nn.Module):
    """The same with named blocks of convolutions and activations that are modules."""

    def __init__(self, depth):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(depth)
        )
        for layer in (layer for block in self.blocks for layer in block if isinstance(layer, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.parametrize(
    "net",
    [
        stack(24),
        stack(24, gain=0.05),
        stack(24, activation=nn.ReLU6),
        stack(24, norm=nn.LayerNorm),
        stack(24, norm=lambda width: nn.GroupNorm(4, width), activation=nn.Tanh),
        stack(24, norm=lambda width: FusedNorm(width, nn.ReLU()), activation=nn.Identity),
    ],
    ids=["batch", "small weights", "relu6", "layer", "group", "fused"],
)
def test_a_gradient_that_grows_across_norms_is_sound_below_the_limit(net):
    assert said(net) == []


def test_a_stack_of_batch_norms_is_broken_where_the_growth_is_beyond_what_float32_resolves():
    (only,) = found(stack(50))
    assert (only.kind, only.severity, only.direction) == ("exploding", "broken", "backward")
    assert only.evidence["factor"] > 1 / 2**-11.5
    assert only.remedy.action == "residual"
    assert only.remedy.factors == {}


def test_chaos_between_norms_counts_as_before():
    chaotic = [stack(24, norm=None, activation=nn.Tanh, gain=2.0), stack(24, activation=nn.Tanh, gain=2.0, every=12)]
    for net in chaotic:
        assert ("exploding", "broken", "backward") in said(net)


def test_what_a_norm_makes_good_at_each_second_layer_is_no_change_over_the_depth():
    assert said(stack(24, every=2, gain=0.5)) == []


@pytest.mark.parametrize("depth", [12, 20])
def test_a_residual_stream_without_norms_grows_with_its_sums(depth):
    (only,) = found(Summed(depth))
    assert (only.kind, only.direction) == ("exploding", "forward")
    assert only.sites[:2] == ("down.0", "down.1")
    assert only.remedy.factors == {f"down.{at}": pytest.approx(depth**-0.5) for at in range(depth)}
    assert f"1/sqrt({depth})" in only.remedy.text
    assert "zero-initialize" in only.remedy.text


def test_the_remedy_of_a_growing_stream_makes_it_sound():
    net = Summed(20)
    (only,) = found(net)
    with torch.no_grad():
        for name, factor in only.remedy.factors.items():
            net.get_submodule(name).weight.mul_(factor)
    assert said(net) == []


def test_a_growing_stream_of_convolutions_names_the_last_layer_of_each_branch():
    (only,) = found(Modules(16), 4, 3, 8, 8)
    assert set(only.sites) <= {f"blocks.{at}.2" for at in range(16)}
    assert only.sites[:12] == tuple(f"blocks.{at}.2" for at in range(12))


@pytest.mark.parametrize(
    "net",
    [
        Summed(20, last=lambda weight: weight.data.mul_(20**-0.5)),
        Summed(20, last=nn.init.zeros_),
        Summed(4),
        Summed(20, norm=nn.LayerNorm),
        Summed(20, norm=nn.BatchNorm1d),
        Summed(20, ending=nn.LayerNorm),
        Summed(20, ending=nn.BatchNorm1d),
    ],
    ids=["scaled", "zero", "few sums", "pre-norm", "pre-batch-norm", "post-norm", "post-batch-norm"],
)
def test_a_residual_stream_that_something_holds_is_sound(net):
    assert said(net) == []


def test_a_stack_of_many_post_norms_is_told_to_warm_up_and_not_to_rescale_weights():
    # Each norm divides the gradient by the size of a sum of two summands of one size.
    net = Summed(48, ending=nn.LayerNorm)
    with torch.no_grad():
        for layer in net.up:
            layer.weight.zero_()
            layer.bias.normal_(std=2.0)
    (only,) = found(net)
    assert (only.kind, only.severity, only.direction) == ("vanishing", "broken", "backward")
    assert "warm up" in only.remedy.text
    assert only.remedy.factors == {}


def test_the_limit_across_norms_is_that_of_float32():
    assert 40 < limits.EXPLODED / torch.tensor(torch.pi / (torch.pi - 1)).sqrt().log() < 44
