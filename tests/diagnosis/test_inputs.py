"""The scale of inputs: for each fault networks that suffer from it, and those that a norm protects."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from propscope.diagnosis import diagnose
from propscope.measure import profile
from propscope.remedies import standardized, try_remedies


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def mlp(features=20, act=nn.ReLU, *before):
    linear, hidden = nn.Linear(features, 32), nn.Linear(32, 32)
    return nn.Sequential(*before, linear, act(), hidden, act(), nn.Linear(32, 4))


def cnn(act=nn.ReLU, norm=nn.Identity):
    layers = (nn.Conv2d(3, 8, 3), norm(8), act(), nn.Conv2d(8, 8, 3), norm(8), act())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def normal(*shape, mean=0.0, std=1.0):
    return mean + std * torch.randn(*shape)


def pixels(*shape):
    return torch.randint(0, 256, shape).float()


def one_feature(factor, shape=(64, 20)):
    batch = normal(*shape)
    batch[..., 3] *= factor
    return batch


class Scaled(nn.Module):
    """Divides pixels by 255 itself."""

    def __init__(self):
        super().__init__()
        self.net = mlp(20, nn.Tanh)

    def forward(self, x):
        return self.net(x / 255 - 0.5)


class Encoder(nn.Module):
    """A transformer whose stream starts with what the first layer makes of the input."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(20, 32)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 4))

    def forward(self, x):
        return self.head(self.block(self.embed(x)))


class Two(nn.Module):
    """Takes two inputs, each by a layer of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(20, 32), nn.Linear(20, 32), nn.Linear(32, 4)

    def forward(self, a, b):
        return self.head(torch.tanh(self.a(a)) + torch.tanh(self.b(b)))


class Neighbours(nn.Module):
    """Adds to each node those that an edge leads from, and then applies its layers."""

    def __init__(self, act=nn.ReLU, norm=nn.Identity):
        super().__init__()
        self.net = mlp(20, act, norm(20))

    def forward(self, x, edges):
        return self.net(x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))


def graph(**options):
    return normal(64, 20, **options), torch.randint(64, (2, 512))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.head = kind(20, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


def judged(net, batch):
    found = diagnose(profile(net, batch))
    return found, [finding for finding in found.findings if finding.kind == "input"]


FAULTY = {
    "mean 100, tanh": (lambda: mlp(act=nn.Tanh), lambda: normal(64, 20, mean=100, std=20), "too large"),
    "pixels, tanh": (lambda: cnn(nn.Tanh), lambda: pixels(16, 3, 12, 12), "too large"),
    "pixels, sigmoid": (lambda: cnn(nn.Sigmoid), lambda: pixels(16, 3, 12, 12), "too large"),
    "pixels, relu": (cnn, lambda: pixels(16, 3, 12, 12), "too large"),
    "flat pixels": (lambda: nn.Sequential(nn.Flatten(), *mlp(108)), lambda: pixels(32, 3, 6, 6), "too large"),
    "decibels": (lambda: mlp(act=nn.SiLU), lambda: normal(64, 20, mean=-40, std=20), "too large"),
    "pixels, transformer": (Encoder, lambda: pixels(4, 9, 20), "too large"),
    "pixels, lstm": (lambda: Recurrent(nn.LSTM), lambda: pixels(16, 6, 20), "too large"),
    "pixels, two layers": (lambda: Recurrent(partial(nn.LSTM, num_layers=2)), lambda: pixels(16, 6, 20), "too large"),
    "pixels, rnn": (lambda: Recurrent(nn.RNN), lambda: pixels(16, 6, 20), "too large"),
    "years": (lambda: mlp(1), lambda: normal(64, 1, mean=2000, std=5), "off-centre"),
    "mean 12": (mlp, lambda: normal(64, 20, mean=12), "off-centre"),
    "a mean of each feature": (mlp, lambda: normal(64, 20) + 15 * torch.randn(20), "off-centre"),
    "a mean that layer norm leaves": (
        lambda: nn.Sequential(nn.Linear(20, 32), nn.LayerNorm(32), *mlp(32)),
        lambda: normal(64, 20, mean=30),
        "off-centre",
    ),
    "one feature": (mlp, lambda: one_feature(1000), "unequal"),
    "one feature, tanh": (lambda: mlp(20, nn.Tanh), lambda: one_feature(1000), "unequal"),
    "one feature that layer norm leaves": (
        lambda: mlp(20, nn.ReLU, nn.LayerNorm(20)),
        lambda: one_feature(1000),
        "unequal",
    ),
    "tiny": (mlp, lambda: normal(64, 20, std=1e-4), "too small"),
    "tiny before batch norm": (
        lambda: nn.Sequential(nn.Linear(20, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)),
        lambda: normal(64, 20, std=1e-4),
        "too small",
    ),
    "constant": (mlp, lambda: torch.full((64, 20), 0.5), "constant"),
    "zeros": (mlp, lambda: torch.zeros(64, 20), "constant"),
}  # fmt: skip

HEALTHY = {
    "normal": (mlp, lambda: normal(64, 20)),
    "normal, tanh": (lambda: mlp(20, nn.Tanh), lambda: normal(64, 20)),
    "pixels in 0..1": (cnn, lambda: pixels(16, 3, 12, 12) / 255),
    "pixels in 0..1, tanh": (lambda: cnn(nn.Tanh), lambda: pixels(16, 3, 12, 12) / 255),
    "scaled by the model": (Scaled, lambda: pixels(64, 20)),
    "three times too large, relu": (mlp, lambda: normal(64, 20, std=3)),
    "a mean of 3": (mlp, lambda: normal(64, 20, mean=3)),
    "binary": (lambda: mlp(200), lambda: (torch.rand(64, 200) < 0.02).float()),
    "one-hot": (lambda: nn.Sequential(nn.Linear(50, 32), nn.ReLU(), nn.Linear(32, 4)),
                lambda: F.one_hot(torch.arange(64) % 50, 50).float()),
    "ones for a rare feature beside normal ones": (mlp, lambda: torch.cat([normal(64, 19), torch.eye(64)[:, :1]], 1)),
    "a constant column": (mlp, lambda: torch.cat([normal(64, 19), torch.ones(64, 1)], 1)),
    "quiet sound": (
        lambda: nn.Sequential(nn.Conv1d(1, 8, 9, 4), nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4)),
        lambda: normal(16, 1, 400, std=0.03),
    ),
    "counts": (mlp, lambda: torch.poisson(torch.ones(64, 20))),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: normal(16, 6, 20)),
    "tokens": (lambda: nn.Sequential(nn.Embedding(900, 16), nn.Linear(16, 4)), lambda: torch.arange(640).view(32, 20)),
}  # fmt: skip

ABSORBED = {
    "pixels, batch norm": (lambda: cnn(norm=nn.BatchNorm2d), lambda: pixels(16, 3, 12, 12)),
    "pixels, tanh, batch norm": (lambda: cnn(nn.Tanh, nn.BatchNorm2d), lambda: pixels(16, 3, 12, 12)),
    "pixels, layer norm first": (lambda: mlp(20, nn.Tanh, nn.LayerNorm(20)), lambda: pixels(64, 20)),
    "one feature, batch norm first": (lambda: mlp(20, nn.Tanh, nn.BatchNorm1d(20)), lambda: one_feature(1000)),
    "mean 100, batch norm": (
        lambda: nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), *mlp(32)),
        lambda: normal(64, 20, mean=100),
    ),
    "pixels, relu before the norm": (
        lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.BatchNorm1d(32), *mlp(32)),
        lambda: pixels(64, 20),
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_an_input_that_harms_the_first_layers_is_the_finding(name):
    make, batch, word = FAULTY[name]
    found, (finding,) = judged(make(), batch())
    assert found.worst is finding
    assert finding.severity in ("strained", "broken")
    assert (finding.first, finding.marks["input"]) == ("input", word)
    assert not finding.remedy.factors


@pytest.mark.parametrize("name", HEALTHY)
def test_a_usual_input_is_not_accused(name):
    make, batch = HEALTHY[name]
    _, findings = judged(make(), batch())
    assert findings == []


@pytest.mark.parametrize("name", ABSORBED)
def test_what_a_norm_takes_away_is_a_note(name):
    make, batch = ABSORBED[name]
    _, (finding,) = judged(make(), batch())
    assert finding.severity == "note"
    assert "norm" in finding.cause


@pytest.mark.parametrize("size", [{"std": 100}, {"mean": 30}, {"mean": 128, "std": 40}])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh])
def test_an_input_that_is_summed_over_neighbours_is_judged_as_any_other(size, act):
    found, (finding,) = judged(Neighbours(act), graph(**size))
    assert found.worst is finding
    assert (found.verdict, finding.sites) == ("strained", ("input[0]", "net.1"))
    assert judged(Neighbours(act), graph())[1] == []


def test_a_norm_behind_the_sum_over_neighbours_takes_a_size_away():
    _, (finding,) = judged(Neighbours(nn.ReLU, nn.BatchNorm1d), graph(std=100))
    assert finding.severity == "note"


@pytest.mark.parametrize("samples", [4, 8])
def test_few_samples_show_too_that_a_norm_leaves_them_alike(samples):
    net = nn.Sequential(nn.Linear(20, 32), nn.LayerNorm(32), *mlp(32))
    found, (finding,) = judged(net, normal(samples, 20, mean=30))
    assert (found.verdict, finding.marks["input"]) == ("strained", "off-centre")
    _, (finding,) = judged(net, normal(samples, 20, std=30))
    assert finding.severity == "note"


def test_only_the_input_at_fault_is_named():
    _, (finding,) = judged(Two(), {"a": normal(64, 20), "b": pixels(64, 20)})
    assert finding.sites == ("input[b]", "b")
    assert list(finding.remedy.inputs) == ["input[b]"]


def test_weights_that_are_too_large_are_not_blamed_on_the_input():
    net = mlp(20, nn.Tanh)
    with torch.no_grad():
        net[0].weight.mul_(100)
    found, findings = judged(net, normal(64, 20))
    assert findings == []
    assert found.worst.first == "0"


def test_a_large_bias_is_not_blamed_on_the_input():
    net = mlp(20, nn.Tanh)
    nn.init.constant_(net[0].bias, 50)
    assert judged(net, normal(64, 20, std=3))[1] == []


def test_an_input_that_is_constant_beside_another_is_meant():
    assert judged(Two(), (normal(64, 20), torch.zeros(64, 20)))[1] == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_in_the_input_is_named_as_its_own(value):
    batch = normal(64, 20)
    batch[3, 5] = value
    found = diagnose(profile(mlp(), batch))
    assert (found.verdict, found.worst.kind, found.worst.first) == ("broken", "non-finite", "input")


def test_a_mask_of_minus_infinity_is_not_accused():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20)

        def forward(self, x, mask):
            return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), attn_mask=mask)

    mask = torch.full((4, 4), -math.inf).triu(1)
    assert diagnose(profile(Masked(), (normal(8, 4, 20), mask))).verdict == "healthy"


@pytest.mark.parametrize(
    ("net", "batch"),
    [(mlp(20, nn.Tanh), normal(64, 20, mean=100, std=20)), (cnn(), pixels(16, 3, 12, 12)), (mlp(), one_feature(1000))],
    ids=["one mean", "pixels", "features"],
)
def test_the_input_is_standardized_before_anything_else_is_tried(net, batch):
    before = batch.clone()
    trials = try_remedies(net, batch)
    first = trials.trials[0]
    assert first.remedy.action == "standardize"
    assert first.healed
    assert torch.equal(batch, before)
    scope = {"batch": batch}
    exec("\n".join(first.lines), scope)
    torch.testing.assert_close(scope["batch"], standardized(batch, first.remedy.inputs), rtol=0.02, atol=0.02)


def test_arrays_and_named_inputs_are_standardized():
    batch = {"a": normal(64, 20).numpy(), "b": pixels(64, 20).numpy()}
    trial = try_remedies(Two(), batch).trial
    assert trial.healed
    assert trial.lines[0].startswith("batch['b'] = (batch['b'] - 1")
