"""Logits over tokens that begin far too large, and the ways in which published models keep theirs at one."""

import pytest
import torch
from torch import nn

from propscope.diagnosis import diagnose
from propscope.measure import profile

WIDTH = 256


class Language(nn.Module):
    """Tokens, an LSTM or a layer, a norm and a head; what is read is `before` and `after` it times these factors."""

    def __init__(
        self, *, width=WIDTH, tokens=100, std=1.0, tied=True, recurrent=False, before=1.0, after=1.0, read=1.0
    ):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(tokens, width), nn.LayerNorm(width)
        self.body = nn.LSTM(width, width, batch_first=True) if recurrent else nn.Linear(width, width)
        self.head = nn.Linear(width, tokens, bias=False)
        self.before, self.after, self.read = before, after, read
        nn.init.normal_(self.head.weight, std=std)
        if tied:
            self.embedding.weight = self.head.weight

    def forward(self, x):
        h = self.embedding(x) * self.read
        h = self.body(h)[0] if isinstance(self.body, nn.LSTM) else h + torch.tanh(self.body(h))
        logits = self.head(self.norm(h) * self.before)
        return logits if self.after == 1 else logits * self.after


def judged(net, tokens=100, stage=None):
    torch.manual_seed(0)
    found = diagnose(profile(net, torch.randint(0, tokens, (16, 8))), stage=stage)
    return found, [finding for finding in found.findings if "logits over" in finding.message]


@pytest.mark.parametrize(
    "options",
    [{}, {"tokens": 1000}, {"tied": False}, {"recurrent": True}, {"recurrent": True, "tied": False}, {"width": 320}],
)
def test_a_head_of_standard_normal_weights_is_found(options):
    found, (finding,) = judged(Language(**options), options.get("tokens", 100))
    assert found.worst is finding
    assert (finding.severity, finding.first) == ("strained", "head")
    assert ("embedding" in finding.sites) is options.get("tied", True)
    # With tied embeddings the logit of the token itself is larger yet.
    spread = finding.evidence["logit_spread"]
    assert spread > 0.9 * options.get("width", WIDTH) ** 0.5
    ((name, factor),) = finding.remedy.factors.items()
    assert factor == 1 / spread
    assert name in ("head", "embedding")
    assert ("share by" in finding.remedy.text) is options.get("tied", True)


@pytest.mark.parametrize(
    "options",
    [
        {"std": 0.02},
        {"std": WIDTH**-0.5},
        {"std": WIDTH**-0.5, "read": WIDTH**0.5},
        {"before": WIDTH**-0.5},
        {"after": WIDTH**-0.5},
        {"width": 64},
        {"tied": False, "std": 0.02},
        {"recurrent": True, "std": 0.02},
    ],
)
def test_published_ways_to_scale_logits_are_healthy(options):
    found, logits = judged(Language(**options))
    assert logits == []
    assert found.verdict == "healthy"


def test_the_logits_of_a_trained_network_are_its_own():
    assert judged(Language(), stage="trained")[1] == []


def test_outputs_that_are_no_tokens_are_none():
    net = nn.Sequential(nn.Embedding(100, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5))
    nn.init.normal_(net[3].weight)
    assert judged(net)[1] == []
