"""Norms by what they make of a normalized input: gains that are off everywhere alike, and norms of single values."""

import pytest
import torch
from torch import nn

from propscope.diagnosis import diagnose
from propscope.measure import profile
from propscope.remedies import try_remedies


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class RMSNorm(nn.Module):
    """Stores the gain less 1, as Gemma does."""

    def __init__(self, width, gain):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), gain - 1.0))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class Block(nn.Module):
    """A residual branch behind a norm; `last` is a norm or a scale at its end."""

    def __init__(self, norm, last=None):
        super().__init__()
        self.norm, self.up, self.down = norm, nn.Linear(32, 64), nn.Linear(64, 32)
        self.last = last or nn.Identity()

    def forward(self, x):
        return x + self.last(self.down(torch.relu(self.up(self.norm(x)))))


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x):
        return x * self.gamma


class Modulated(nn.Module):
    """A norm without gains of its own, scaled by what a condition says (adaLN)."""

    def __init__(self):
        super().__init__()
        self.norm, self.condition, self.up = (
            nn.LayerNorm(32, elementwise_affine=False),
            nn.Linear(32, 64),
            nn.Linear(32, 32),
        )
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x):
        scale, shift = self.condition(x.detach()).chunk(2, -1)
        return x + self.up(self.norm(x) * (1 + scale) + shift)


def gained(norm, gain):
    nn.init.constant_(norm.weight, gain)
    return norm


def stack(*blocks):
    return nn.Sequential(nn.Linear(16, 32), *blocks, nn.LayerNorm(32), nn.Linear(32, 4))


def cnn(norm, gain):
    layers = [m for c in (3, 8) for m in (nn.Conv2d(c, 8, 3), gained(norm(), gain), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def normal():
    return torch.randn(64, 16)


def image():
    return torch.randn(16, 3, 10, 10)


def mlp(norm):
    return nn.Sequential(nn.Linear(16, 32), norm, nn.ReLU(), nn.Linear(32, 4))


def layer_norms(gain):
    return stack(*(Block(gained(nn.LayerNorm(32), gain)) for _ in range(4)))


FAULTY = {
    "layer norm": (lambda gain: layer_norms(gain), normal, ["1.norm", "2.norm", "3.norm", "4.norm"]),
    "stored less 1": (lambda gain: stack(*(Block(RMSNorm(32, gain)) for _ in range(2))), normal, ["1.norm", "2.norm"]),
    "batch norm": (lambda gain: cnn(lambda: nn.BatchNorm2d(8), gain), image, ["1", "4"]),
    "group norm": (lambda gain: cnn(lambda: nn.GroupNorm(2, 8), gain), image, ["1", "4"]),
    "instance norm": (lambda gain: cnn(lambda: nn.InstanceNorm2d(8, affine=True), gain), image, ["1", "4"]),
    "one norm": (lambda gain: mlp(gained(nn.LayerNorm(32), gain)), normal, ["1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize(("gain", "kind"), [(0.02, "vanishing"), (60.0, "exploding")])
def test_gains_that_are_off_alike_are_one_finding(name, gain, kind):
    make, batch, places = FAULTY[name]
    found = diagnose(profile(make(gain), batch()))
    assert (found.verdict, found.worst.kind, list(found.worst.sites)) == ("strained", kind, places)
    assert "gains" in found.worst.message


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("gain", [0.2, 1.0, 5.0])
def test_gains_near_one_are_not_accused(name, gain):
    make, batch, _ = FAULTY[name]
    assert diagnose(profile(make(gain), batch())).verdict == "healthy"


@pytest.mark.parametrize("make", [
    lambda: stack(*(Block(nn.LayerNorm(32), gained(nn.LayerNorm(32), 0.01)) for _ in range(3))),
    lambda: stack(*(Block(nn.LayerNorm(32), LayerScale(32)) for _ in range(3))),
    lambda: stack(*(Modulated() for _ in range(3))),
], ids=["norms that end a branch", "layer scale", "modulated norms"])  # fmt: skip
def test_small_gains_that_are_meant_are_not_accused(make):
    found = diagnose(profile(make(), normal()))
    assert not [finding for finding in found.findings if "gains" in finding.message]


def test_the_gains_of_a_trained_network_are_its_own():
    taken = profile(layer_norms(0.02), normal())
    assert not [f for f in diagnose(taken, stage="trained").findings if "gains" in f.message]


def test_the_gains_are_set_to_one():
    trial = try_remedies(layer_norms(0.02), normal()).trial
    assert trial.healed
    assert {name: round(factor) for name, factor in trial.remedy.factors.items()} == {
        f"{n}.norm": 50 for n in (1, 2, 3, 4)
    }


def pooled(norm):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize(("make", "batch", "place", "said"), [
    (lambda: pooled(nn.GroupNorm(8, 8)), image, "2", "as many groups as channels"),
    (lambda: nn.Sequential(nn.Linear(16, 1), nn.LayerNorm(1), nn.Linear(1, 4)), normal, "1", "one feature"),
    (lambda: stack(nn.Linear(32, 8), nn.GroupNorm(8, 8), nn.Linear(8, 32)), normal, "2", "as many groups"),
], ids=["pooled", "scalar", "vector"])  # fmt: skip
def test_a_norm_of_single_values_is_named(make, batch, place, said):
    found = diagnose(profile(make(), batch()))
    assert (found.verdict, found.worst.first) == ("broken", place)
    assert "normalizes single values" in found.worst.message
    assert said in found.worst.cause


@pytest.mark.parametrize("groups", [1, 4])
def test_a_norm_of_several_values_is_not_accused(groups):
    assert diagnose(profile(pooled(nn.GroupNorm(groups, 8)), image())).verdict == "healthy"


def test_a_branch_of_single_values_leaves_the_stream():
    class Side(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.GroupNorm(8, 8)

        def forward(self, x):
            return x + self.norm(self.conv(x))

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), Side(), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
    found = diagnose(profile(net, image()))
    assert (found.verdict, found.worst.first) == ("strained", "2.norm")


def test_what_is_smaller_than_the_norms_epsilon_is_not_the_norms_fault():
    net = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 32, bias=False), nn.LayerNorm(32), nn.Linear(32, 4))
    nn.init.normal_(net[1].weight, std=1e-6)
    found = diagnose(profile(net, normal()))
    assert found.worst.first == "1"
