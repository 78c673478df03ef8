"""Softmaxes over the samples, or over another axis than that of the keys, and those that only look like it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from propscope.diagnosis import diagnose
from propscope.measure import profile


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Network(nn.Module):
    """A network of these modules; `run` is given them by name, and the input."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def layers(**outputs):
    return {name: nn.Linear(32, units) for name, units in outputs.items()}


TOKENS, TABLE = (16, 6, 32), (64, 32)


def attention(softmax):
    def run(net, x):
        return net.o(softmax(net.q(x) @ net.k(x).transpose(1, 2) / math.sqrt(32)) @ net.v(x))

    return Network(run, **layers(q=32, k=32, v=32, o=4))


def of_heads(dim):
    def run(net, x):
        q, k, v = (layer(x).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (net.q, net.k, net.v))
        return net.o(((q @ k.transpose(2, 3)).softmax(dim) @ v).transpose(1, 2).flatten(2))

    return Network(run, **layers(q=32, k=32, v=32, o=4))


def gate(dim):
    return Network(lambda net, x: net.o(net.v(x) * net.g(x).softmax(dim)), **layers(g=32, v=32, o=4))


def experts(dim):
    def run(net, x):
        shares = torch.softmax(net.g(x), dim)
        return net.o(sum(shares[..., n : n + 1] * expert(x) for n, expert in enumerate((net.a, net.b))))

    return Network(run, **layers(g=2, a=32, b=32, o=4))


def pooling(*, dim, axis, keep=False, squeeze=False):
    def run(net, x):
        h = torch.relu(net.f(x))
        scores = net.w(h)
        shares = scores.squeeze(-1).softmax(dim)[..., None] if squeeze else scores.softmax(dim)
        return net.o((shares * h).sum(axis, keepdim=keep))

    return Network(run, **layers(f=32, w=1, o=4))


def judged(net, shape):
    found = diagnose(profile(net, torch.randn(shape)))
    return found, [finding for finding in found.findings if "sums to 1 over axis" in finding.message]


@pytest.mark.parametrize(
    ("net", "shape", "axis"),
    [
        (attention(lambda s: s.softmax(0)), TOKENS, 0),
        (attention(lambda s: s.softmax(1)), TOKENS, 1),
        (attention(lambda s: F.dropout(F.softmax(s, dim=-2), 0.1)), TOKENS, 1),
        (of_heads(0), TOKENS, 0),
        (of_heads(1), TOKENS, 1),
        (of_heads(-2), TOKENS, 2),
        (pooling(dim=0, axis=1, squeeze=True), TOKENS, 0),
        (gate(0), TABLE, 0),
        (experts(0), TABLE, 0),
        (nn.Sequential(nn.Linear(32, 4), nn.Softmax(0)), TABLE, 0),
    ],
)
def test_a_softmax_over_a_wrong_axis_is_found(net, shape, axis):
    found, (finding,) = judged(net, shape)
    assert found.worst is finding
    assert finding.severity == "strained"
    assert finding.message.count(f"over axis {axis} of ({shape[0]}, ") == 1
    assert ("samples of the batch" in finding.message) is (axis == 0)
    assert finding.remedy.text.endswith("dim=-1")


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("softmax", [F.softmax, nn.Softmax()])
def test_a_softmax_without_a_dim_is_over_the_axis_that_torch_takes(softmax):
    assert len(judged(attention(softmax), TOKENS)[1]) == 1
    assert judged(nn.Sequential(nn.Linear(32, 4), nn.Softmax()), TABLE)[1] == []


class Slots(nn.Module):
    """Slots compete for the positions, and then average over those that they got (Locatello et al. 2020)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.slots = nn.Parameter(torch.randn(1, 4, 32))

    def forward(self, x):
        shares = (self.q(self.slots.expand(len(x), -1, -1)) @ self.k(x).transpose(1, 2) / 6).softmax(1) + 1e-8
        return self.o((shares / shares.sum(-1, keepdim=True)) @ self.v(x))


class Images(nn.Module):
    """Attention over the positions of an image, whose values stand on the left (Zhang et al. 2019, SAGAN)."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Conv2d(32, 32, 1) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        return self.o((v @ (k.transpose(1, 2) @ q / 6).softmax(1)).unflatten(2, x.shape[2:]))


def efficient():
    def run(net, x):
        return net.o(net.q(x).softmax(-1) @ (net.k(x).softmax(1).transpose(1, 2) @ net.v(x)))

    return Network(run, **layers(q=32, k=32, v=32, o=4))


def of_steps_first(*, pooled):
    def run(net, x):
        h = net.r(x)[0]
        context = (h * net.w(h).softmax(0)).sum(0)
        return net.o(context if pooled else h + context)

    return Network(run, r=nn.LSTM(32, 32), **layers(w=1, o=4))


def of_nodes():
    return Network(lambda net, x: net.o((net.a(x) @ net.b(x).T / 6).softmax(0) @ x), **layers(a=32, b=32, o=4))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (attention(lambda s: s.softmax(-1)), TOKENS),
        (of_heads(3), TOKENS),
        (gate(1), TABLE),
        (gate(1), (32, 32)),
        (experts(-1), TABLE),
        (pooling(dim=1, axis=1), TOKENS),
        (pooling(dim=0, axis=0), TOKENS),
        (pooling(dim=0, axis=0, keep=True), TABLE),
        (of_steps_first(pooled=True), TOKENS),
        (of_steps_first(pooled=False), TOKENS),
        (of_nodes(), TABLE),
        (efficient(), TOKENS),
        (Slots(), TOKENS),
        (Images(), (16, 32, 3, 3)),
        (nn.Sequential(nn.Linear(32, 4), nn.Softmax(1)), TABLE),
        (attention(lambda s: s.softmax(-1)), (1, 6, 32)),
    ],
)
def test_a_softmax_over_what_is_chosen_from_is_none(net, shape):
    assert judged(net, shape)[1] == []
