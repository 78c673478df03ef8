"""Biases that are larger than what their layer makes of its input, and those that are meant."""

import pytest
import torch
from torch import nn

from propscope.diagnosis import diagnose
from propscope.measure import profile
from propscope.remedies import apply_remedy, centre


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def biased(net, at, value):
    nn.init.constant_(net.get_submodule(at).bias, value)
    return net


def mlp(act=nn.ReLU):
    return nn.Sequential(nn.Linear(20, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 4))


def cnn(norm=nn.Identity):
    layers = (nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), norm(8), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


class Highway(nn.Module):
    """Its gate starts closed."""

    def __init__(self):
        super().__init__()
        self.gate, self.new, self.head = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 4)
        nn.init.constant_(self.gate.bias, -5)

    def forward(self, x):
        gate = torch.sigmoid(self.gate(x))
        return self.head(gate * torch.relu(self.new(x)) + (1 - gate) * x)


class Gated(nn.Module):
    """What a gate multiplies is no gate itself."""

    def __init__(self):
        super().__init__()
        self.gate, self.new, self.head = nn.Linear(20, 32), nn.Linear(20, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(torch.sigmoid(self.gate(x)) * torch.tanh(self.new(x)))


class Variational(nn.Module):
    """Its log variance starts small."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_variance, self.decode = nn.Linear(20, 8), nn.Linear(20, 8), nn.Linear(8, 20)
        nn.init.constant_(self.log_variance.bias, -6)

    def forward(self, x):
        mean, log_variance = self.mean(x), self.log_variance(x)
        return self.decode(mean + torch.exp(log_variance / 2) * torch.randn_like(mean)), mean, log_variance


class Scored(nn.Module):
    """Attention whose softmax is written out."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(20, 20) for _ in range(3))
        self.head = nn.Linear(20, 4)

    def forward(self, x):
        scores = (self.query(x)[:, None] * self.key(x)).sum(-1) / 4.5
        shares = (scores - scores.amax(-1, keepdim=True)).exp()
        return self.head((shares / shares.sum(-1, keepdim=True)) @ self.value(x))


class Squeeze(nn.Module):
    """Squeeze and excitation: what enters its gate is as large as the bias of the layer before makes it."""

    def __init__(self, down=1.0, up=1.0):
        super().__init__()
        self.down, self.up, self.head = nn.Linear(20, 8), nn.Linear(8, 20), nn.Linear(20, 4)
        with torch.no_grad():
            self.down.weight.mul_(down)
            self.up.weight.mul_(up)

    def forward(self, x):
        return self.head(x * torch.sigmoid(self.up(torch.relu(self.down(x)))))


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(20), nn.Linear(20, 32), nn.Linear(32, 20)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def prior(last):
    return biased(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5), last), "2", -4.6)


def table():
    return torch.randn(64, 20)


def image():
    return torch.randn(16, 3, 10, 10)


@pytest.mark.parametrize(
    ("make", "at", "value", "batch", "kind"),
    [
        (mlp, "2", 10, table, "collapse"),
        (mlp, "0", 10, table, "collapse"),
        (lambda: mlp(nn.GELU), "4", 10, table, "collapse"),
        (lambda: mlp(nn.Tanh), "2", 3, table, "saturated"),
        (lambda: mlp(nn.Sigmoid), "2", 10, table, "saturated"),
        (lambda: nn.Sequential(Stream(), Stream(), nn.Linear(20, 4)), "0.down", 10, table, "collapse"),
        (cnn, "3", 10, image, "collapse"),
        (Gated, "new", 4, table, "saturated"),
        (Gated, "gate", -10, table, "saturated"),
        (Scored, "query", 10, table, "collapse"),
        (lambda: cnn(nn.BatchNorm2d), "1", 10, image, "collapse"),
        (lambda: Squeeze(4.0, 2.0), "down", 10, table, "saturated"),
    ],
)
def test_a_large_bias_is_blamed_as_a_bias(make, at, value, batch, kind):
    net, taken = biased(make(), at, value), batch()
    (finding,) = [f for f in diagnose(profile(net, taken)).findings if "bias" in f.message]
    assert (finding.kind, finding.first) == (kind, at)
    assert finding.severity in ("strained", "broken")
    assert finding.remedy.text == f"set the bias of {at} to zero"
    apply_remedy(net, finding.remedy, taken)
    assert not net.get_submodule(at).bias.any()
    assert not [f for f in diagnose(profile(net, taken)).findings if "bias" in f.message]


@pytest.mark.parametrize(("act", "value", "kind"), [(nn.ReLU, -10, "inactive"), (nn.Tanh, 50, "saturated")])
def test_a_bias_that_stops_every_gradient_is_found_as_that(act, value, kind):
    found = diagnose(profile(biased(mlp(act), "2", value), table()))
    assert (found.verdict, found.worst.kind, found.worst.first) == ("broken", kind, "2")
    assert "set the bias of 2 to zero" in found.worst.remedy.text
    assert "bias" in found.worst.cause


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (mlp, table),
        (lambda: biased(mlp(), "2", 1.0), table),
        (lambda: biased(Squeeze(4.0, 0.2), "down", 10), table),
        (lambda: prior(nn.Sigmoid()), table),
        (lambda: prior(nn.Softmax(-1)), table),
        (lambda: prior(nn.Identity()), table),
        (Highway, table),
        (Variational, table),
        (lambda: biased(Gated(), "gate", 5), table),
        (lambda: biased(cnn(nn.BatchNorm2d), "0", 10), image),
        (lambda: nn.Sequential(biased(nn.Linear(20, 20), "", -5), nn.Softplus(), nn.Linear(20, 4)), table),
    ],
    ids=[
        "usual",
        "of 1",
        "of a squeezed gate",
        "prior",
        "softmax",
        "logits",
        "gate",
        "log variance",
        "open gate",
        "behind it a norm",
        "step size",
    ],
)
def test_a_bias_that_is_small_or_meant_is_not_accused(make, batch):
    assert diagnose(profile(make(), batch())).verdict == "healthy"


def test_large_weights_are_not_blamed_on_the_bias():
    net = mlp(nn.Tanh)
    with torch.no_grad():
        net[2].weight.mul_(100)
    found = diagnose(profile(net, table()))
    assert found.worst.first == "2"
    assert not [f for f in found.findings if "its bias" in f.message]


def test_the_biases_of_a_trained_network_are_its_own():
    taken = profile(biased(mlp(), "2", 10), table())
    assert not [f for f in diagnose(taken, stage="trained").findings if "its bias" in f.message]


def test_a_bias_that_cancels_the_mean_of_a_layer_is_not_accused():
    net = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(20, 20), nn.Sigmoid())), nn.Linear(20, 4))
    taken = table()
    centre(net, taken)
    assert not [f for f in diagnose(profile(net, taken)).findings if "its bias" in f.message]


def test_a_collapse_behind_a_large_bias_is_its_effect():
    net = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 4))
    nn.init.normal_(net[6].bias, std=50)
    found = diagnose(profile(net, torch.randn(128, 64)))
    assert found.worst.first == "6"
    assert found.worst.remedy.factors == {"6.bias": 0.0}
    assert any("hardly differ" in effect for effect in found.worst.effects)
