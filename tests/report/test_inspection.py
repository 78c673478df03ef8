"""The first screen of `inspect`, and the sentences below the tree."""

import re

import pytest
import torch
from torch import nn

import propscope
from propscope.records import NetworkProfile, Site, TensorSummary
from propscope.report.inspection import attention_sentence, inspection, stream_sentence


def residual(name, rms, share):
    return Site(name, "add", "residual", (2, 2), forward=TensorSummary.of([rms, -rms]), branch_share=share)


def test_a_stream_grows_by_what_its_branches_bring():
    profile = NetworkProfile((residual("a", 1.0, 0.5), residual("b", 2.0, 0.75), residual("c", 4.0, 0.2)))
    sentence = stream_sentence(profile)
    assert "3 sums, rms 1.00 at a to 4.00 at c (x4.00)" in sentence
    assert "20% (c) to 75% (b)" in sentence


def test_one_sum_is_no_stream():
    assert stream_sentence(NetworkProfile((residual("a", 1.0, 0.5),))) == ""
    assert "x" not in stream_sentence(NetworkProfile((residual("a", 0.0, 0.5), residual("b", 0.0, 0.5)))).split("(")[0]


def test_attention_by_its_extremes():
    sites = tuple(
        Site(name, "softmax", "attention", (2, 2), attention_entropy=entropy, largest_logit=logit)
        for name, entropy, logit in (("a", 1.0, 3.0), ("b", 0.25, 9.0))
    )
    sentence = attention_sentence(NetworkProfile(sites))
    assert "0.250 nat (b) to 1.00 nat (a)" in sentence
    assert "largest logit 9.00 (b)" in sentence
    assert attention_sentence(NetworkProfile(())) == ""


class Summed(nn.Module):
    """A stream without norms, which grows with each of its sums."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(64, 64) for _ in range(24))
        for branch in self.branches:
            nn.init.kaiming_normal_(branch.weight)

    def forward(self, x):
        for branch in self.branches:
            x = x + torch.relu(branch(x))
        return x


def dead() -> nn.Module:
    net = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 4))
    nn.init.constant_(net[4].bias, -50.0)
    return net


def bounded() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))


@pytest.mark.parametrize(
    ("make", "scale", "said"),
    [
        (dead, 1.0, "set the bias of 4"),
        (bounded, 100.0, "standardize the input"),
        (Summed, 1.0, "1/sqrt("),
        (bounded, 1.0, ""),
    ],
)
def test_the_first_screen_says_input_verdict_cause_and_remedy_in_this_order(make, scale, said):
    torch.manual_seed(0)
    seen = propscope.profile(make(), scale * torch.randn(128, 64))
    text = inspection(seen, propscope.diagnose(seen), width=80)
    assert max(map(len, text.split("\n"))) <= 80
    heads = [line.partition(":")[0] for line in text.split("\n")[:16] if re.match(r"[a-z]+: ", line)]
    wrong = [head for head in heads if head not in ("explains", "expect")][: 4 if said else 2]
    assert wrong[0] == "input"
    assert wrong[1] in (("strained", "broken") if said else ("healthy",))
    assert wrong[2:] == (["cause", "remedy"] if said else [])
    assert said in " ".join(text.split())
    assert ("with a gradient of zeros" in text) is (make is dead)
