"""Single layers at fault, on hand-built models whose layers have no number: what is named, and what is not."""

import math
from collections.abc import Sequence

import pytest
import torch
from building.networks import Made
from building.records import network, summary
from torch import nn

from propscope import diagnose, profile
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.outlier_layers import odd_layers_of_model
from propscope.records import NetworkProfile, Site


def site(name, rms=1.0, gradient=1.0, *, kind="Linear", role="pre-activation", shape=(32, 8), **fields):
    return Site(name, kind, role, shape, forward=summary(rms), backward=summary(gradient), samples=32, **fields)


def chain(rms: Sequence[float], gradients: Sequence[float] | None = None) -> NetworkProfile:
    back = gradients or [1.0] * len(rms)
    return NetworkProfile(
        tuple(site(f"layers.{i}.linear", r, g) for i, (r, g) in enumerate(zip(rms, back, strict=True)))
    )


def found(*sites: Site) -> list[tuple[str, str, str]]:
    """Return kind, direction and first site of each finding that is no note."""
    findings = diagnose(NetworkProfile(sites), notes=False).findings
    return [(finding.kind, finding.direction, finding.first) for finding in findings]


def test_a_sound_stack_has_none():
    assert found(*chain([1.0, 1.1, 0.9, 1.2], [1.0, 0.9, 1.1, 1.0]).sites) == []


def test_a_layer_that_alone_makes_the_signal_larger():
    (finding,) = diagnose(chain([1.0, 1.0, 1.0, 98.0, 98.0, 98.0])).findings
    assert (finding.kind, finding.direction, finding.sites) == ("exploding", "forward", ("layers.3.linear",))
    assert finding.marks == {"layers.3.linear": "x98"}
    assert finding.evidence["ratio"] == pytest.approx(98)


@pytest.mark.parametrize(("gain", "wrong"), [(20.0, False), (20.2, True), (1 / 20.0, False), (1 / 20.2, True)])
def test_the_limit_is_what_a_whole_depth_may_do(gain, wrong):
    assert bool(found(*chain([1.0, gain, gain, gain]).sites)) == wrong


def test_a_gradient_is_made_larger_by_the_weights_behind_the_site_where_it_shows():
    assert found(*chain([1.0] * 5, [50.0, 50.0, 1.0, 1.0, 1.0]).sites) == [("exploding", "backward", "layers.2.linear")]


def test_other_stacks_are_no_chain():
    encoder = [site(f"encoder.{i}.fc", 1.0, 1e-3, activation="ReLU") for i in range(3)]
    decoder = [site(f"decoder.{i}.fc", 0.05, 1.0, activation="ReLU") for i in range(3)]
    assert found(*encoder, *decoder) == []


def test_other_nonlinearities_are_no_chain():
    gates = (("forget", 1.0, "Sigmoid"), ("cell", 30.0, "Tanh"))
    assert found(*(site(f"{i}.{name}", rms, activation=kind) for i in range(2) for name, rms, kind in gates)) == []


def test_layers_are_held_against_those_with_the_same_before_them():
    # The input of `up` is what the norm gives, though the gate's nonlinearity runs between them.
    rms = {"norm": 1.0, "gate": 1.0, "silu": 0.03, "up": 1.0, "down": 0.5}
    assert found(*(site(f"{block}.{name}", rms[name], role="other") for block in range(2) for name in rms)) == []


def test_pooling_is_no_jump():
    assert found(site("a", 1.0, 1 / 64, shape=(32, 8, 8, 8)), site("b", 0.1, 1.0), site("c", 0.1, 1.0)) == []


def test_a_layer_unlike_its_kind_behind_a_norm():
    sites = []
    for block in range(6):
        sites += [site(f"{block}.conv", 100.0 if block == 3 else 1.0, kind="Conv2d", role="other")]
        sites += [site(f"{block}.bn", kind="BatchNorm2d"), site(f"{block}.relu", 0.7, role="activation")]
    (finding,) = diagnose(NetworkProfile(tuple(sites))).findings
    assert (finding.first, finding.evidence["ratio"]) == ("3.conv", pytest.approx(100))
    assert "of the other Conv2d" in finding.message


def test_a_sum_is_not_to_blame_for_its_branch():
    sites = []
    for block in range(4):
        sites += [
            site(f"{block}.norm", kind="LayerNorm", role="norm"),
            site(f"{block}.fc", 100.0 if block == 1 else 1.0, role="other"),
            site(f"{block}.add", 150.0 if block else 1.4, role="residual", kind="add", branch_share=0.5),
        ]
    assert [first for _, _, first in found(*sites)] == ["1.fc"]


def test_a_norm_unlike_its_kind():
    norms = [site(f"{i}.norm", 30.0 if i == 2 else 1.0, kind="LayerNorm", role="norm") for i in range(5)]
    assert ("exploding", "forward", "2.norm") in found(*norms)


def test_a_zero_between_is_no_growth_after_it():
    findings = diagnose(network([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]), notes=False).findings
    assert {finding.kind for finding in findings} == {"vanishing"}


def test_a_signal_that_only_grows_does_not_fade():
    assert {kind for kind, _, _ in found(*chain([1.0, 30.0]).sites)} == {"exploding"}


def test_what_was_not_seen_is_no_fault():
    assert found(site("a", 1.0, None), site("b", 1.0, None)) == []
    assert found(site("a", None, None), site("b", math.nan, None)) == [("non-finite", "forward", "b")]
    assert found() == []


class PreNorm(nn.Module):
    """Residual blocks with a norm before each branch; `scale`: of the weights of one branch's first layer."""

    def __init__(self, act: nn.Module, scale: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(5))
        self.ups, self.downs = (nn.ModuleList(nn.Linear(32, 32) for _ in range(5)) for _ in range(2))
        self.act, self.out = act, nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 4))
        with torch.no_grad():
            self.ups[2].weight.mul_(scale)

    def forward(self, x):
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + down(self.act(up(norm(x))))
        return self.out(x)


def wrong(net: nn.Module, batch: torch.Tensor):
    return [finding for finding in diagnose(profile(net, batch)).findings if finding.severity != "note"]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("act", [nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.GELU(), nn.Softsign()])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_layer_that_brings_the_signal_back_to_size_is_no_jump(act, scale):
    torch.manual_seed(0)
    found = wrong(PreNorm(act, scale), normal(64, 32))
    assert [finding.first for finding in found] == ["ups.2"] * (scale != 1)


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, nn.Hardtanh])
def test_a_layer_behind_a_saturated_function_is_no_jump(act):
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(32, 32), act())), nn.Linear(32, 4))
    with torch.no_grad():
        net[2].weight.mul_(100)
    assert [finding.first for finding in wrong(net, normal(64, 32))] == ["2"]


def test_a_large_bias_is_not_said_to_be_large_weights():
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 4))
    nn.init.normal_(net[6].bias, std=50)
    (finding, *_) = wrong(net, normal(128, 64))
    assert finding.first == "6"
    assert "bias" in f"{finding.cause} {finding.remedy.text}"
    assert "times too" not in finding.cause
    assert finding.remedy.factors == {"6.bias": 0.0}


def test_weights_are_said_to_be_large_where_they_are():
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 4))
    with torch.no_grad():
        net[6].weight.mul_(100)
    (finding,) = wrong(net, normal(128, 64))
    assert finding.first == "6"
    assert "times too large" in finding.cause
    assert finding.remedy.factors["6"] == pytest.approx(0.01, rel=0.5)


class Scores(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.q, self.gain = nn.Linear(16, 16), gain

    def forward(self, x):
        return self.gain * self.q(x) @ x.transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.scores, self.v = Scores(gain), nn.Linear(16, 16)

    def forward(self, x):
        return x + torch.softmax(self.scores(x), -1) @ self.v(x)


def test_softmaxes_are_not_compared_by_what_enters_them():
    torch.manual_seed(0)
    # Scores near zero give even attention, whatever their size.
    net = nn.Sequential(*(Attention(1e-4 if at == 2 else 0.1) for at in range(5)))
    found = odd_layers_of_model(Evidence.of([profile(net, torch.randn(8, 6, 16))]))
    assert [each.first for each in found] == ["2.scores"]


def layer_scaled(gain):
    """Return a residual network whose branches end in a gain; the last one has a norm before it, and is larger."""

    def block(enter):
        parts = {"gain": nn.Parameter(torch.full((16,), gain)), "drop": nn.Identity(), "up": nn.Linear(16, 16)}
        return Made(lambda m, x: x + m.drop(m.gain * m.up(m.enter(x))), enter=enter, **parts)

    small = Made(lambda m, x: torch.relu(0.01 * x))
    net = nn.Sequential(nn.Linear(16, 16), *(block(small) for _ in range(5)), block(nn.LayerNorm(16)), nn.Linear(16, 4))
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    return net


@pytest.mark.parametrize(("gain", "is_found"), [(1e-5, False), (0.3, True)])
def test_a_branch_that_is_large_among_others_changes_nothing_if_the_stream_is_far_larger(gain, is_found):
    torch.manual_seed(0)
    evidence = Evidence.of([profile(layer_scaled(gain), torch.randn(64, 16))])
    assert any("drop" in each.first for each in odd_layers_of_model(evidence)) is is_found
