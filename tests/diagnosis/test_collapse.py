import math
from functools import partial

import numpy as np
import pytest
import torch
from building.records import evidence, network
from torch import nn

import propscope
from propscope.diagnosis import limits
from propscope.diagnosis.collapse import collapse
from propscope.measure.geometry import geometries

ALIKE = 1 - 0.99 * limits.COLLAPSED


def found(cosines, **figures):
    return list(collapse(evidence(network([1.0] * len(cosines), mean_cosine=cosines, **figures))))


def test_three_layers_that_see_no_difference_are_broken_and_two_are_strained():
    assert [f.severity for f in found([0.1, 0.9, ALIKE, ALIKE, ALIKE])] == ["broken"]
    assert [f.severity for f in found([0.1, 0.9, 0.99, ALIKE, ALIKE])] == ["strained"]


def test_it_is_said_from_six_depth_scales_on_and_strained_where_it_slows_adam():
    assert [f.severity for f in found([0.1, 0.5, 1 - 0.99 * math.exp(-6)])] == ["note"]
    limit = limits.COLLAPSED**limits.SLOWED
    assert [f.severity for f in found([0.1, *[1 - 1.01 * limit] * 3])] == ["note"]
    assert [f.severity for f in found([0.1, *[1 - 0.99 * limit] * 3])] == ["strained"]
    assert [f.severity for f in found([0.1, *[1 - 0.99 * limit] * 2])] == ["note"]
    assert [f.severity for f in found([0.1, 1.0, 1.0])] == ["strained"]
    assert found([0.1, 0.5, 1 - 1.01 * math.exp(-6)]) == []


def test_it_starts_where_inputs_stop_being_told_apart_for_good():
    (one,) = found([0.1, 1 - 1e-4, 0.5, 1 - 1e-3, 1 - 1e-4])
    assert one.sites == ("layers.3.linear", "layers.4.linear")
    assert one.marks == {"layers.3.linear": "alike", "layers.4.linear": "alike"}
    assert found([0.1, 1 - 1e-4, 0.5]) == []


def test_inputs_that_come_in_alike_are_no_fault_of_the_network():
    assert found([1 - 1e-5, 1 - 1e-5, 1 - 1e-6]) == []
    assert found([None, None, None]) == []


def test_a_few_samples_tell_nothing():
    assert found([0.1, 0.9, ALIKE, ALIKE, ALIKE], samples=15) == []


def test_a_line_with_samples_on_both_sides_is_seen_by_the_rank():
    line = np.outer(np.tile([1.0, -1.0], 16), np.tile([1.0, -1.0], 16)).astype(np.float32)
    ((_, rank),) = geometries([line])
    (one,) = found([0.0] * 6, effective_rank=[8.0, 2.0, rank, rank, rank, rank])
    assert one.severity == "broken"
    assert "one line" in one.message
    assert "mean that is not zero" in one.cause


@pytest.mark.parametrize("share", [1e-5, 1e-3, 0.1, 0.4])
def test_the_share_of_a_rank_is_the_one_that_gives_it(share):
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert limits.share_of_rank(math.exp(entropy)) == pytest.approx(share, rel=1e-6)


def test_ranks_beyond_what_can_be_told():
    assert limits.share_of_rank(1.0) == 0.0
    assert limits.share_of_rank(1 + 1e-7) == 0.0
    assert limits.share_of_rank(2.0) == limits.share_of_rank(17.0) == 1.0


def test_the_share_is_the_mean_over_seeds():
    members = [network([1.0] * 3, mean_cosine=[0.1, 0.5, c], seed=i) for i, c in enumerate([1 - 1e-3, 1 - 3e-3])]
    (one,) = collapse(evidence(*members))
    assert one.evidence["share_apart"] == pytest.approx(2e-3)
    assert one.confidence == pytest.approx(2 / 4)


def test_the_limits_are_those_that_the_docs_state():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text()
    stated = {
        "e^-3 = 0.05": math.exp(-limits.STRAINED),
        "eps^-1/2 = 2,900": math.exp(limits.EXPLODED),
        "100 where the gradient grows": math.exp(limits.CHAOTIC),
        "| 1e-6 |": math.exp(-limits.VANISHED),
        "e^-6 = 0.0025": limits.COLLAPSING,
        "eps is the machine epsilon of float32, 1.2e-7": limits.COLLAPSED,
    }
    values = (0.0498, 2896.3, 100.0, 1e-6, 0.00248, 1.19e-7)
    assert [words for words in stated if words not in text] == []
    assert list(stated.values()) == pytest.approx(values, rel=0.005)


class Averaging(nn.Module):
    """Layers that average over neighbours, before or after their weights; `neighbours`: how the average is written."""

    def __init__(self, neighbours, *, first, depth=16):
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth)), nn.Linear(32, 4)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        edges = (torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.1).float() + torch.eye(64)
        self.register_buffer("adjacency", edges / edges.sum(1, keepdim=True))
        self.neighbours, self.first = neighbours, first

    def forward(self, x):
        for layer in self.layers:
            mean = partial(self.neighbours, self.adjacency)
            x = torch.relu(layer(mean(x)) if self.first else mean(layer(x)))
        return self.head(x)


def scattered(adjacency, x):
    at, source = adjacency.nonzero().T
    return torch.zeros_like(x).index_add(0, at, adjacency[at, source, None] * x[source])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("neighbours", [torch.matmul, partial(torch.einsum, "ij,jk->ik"), scattered])
def test_averages_over_neighbours_are_told_from_biases(neighbours, first):
    torch.manual_seed(0)
    net = Averaging(neighbours, first=first)
    (found,) = wrong(net, torch.randn(64, 32, generator=torch.Generator().manual_seed(1)))
    assert (found.kind, found.severity) == ("collapse", "broken")
    assert "averaged over neighbours" in found.cause
    assert "calibrate" not in found.remedy.text
    assert "residual" in found.remedy.text


def test_without_neighbours_the_same_layers_are_not_said_to_average():
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(16) for layer in (nn.Linear(32, 32), nn.ReLU())), nn.Linear(32, 4))
    (found,) = collapse(evidence(propscope.profile(net, torch.randn(64, 32))))
    assert "biases" in found.cause
    assert found.evidence["averaged"] == 0


def wrong(net, batch):
    return [each for each in propscope.diagnose(propscope.profile(net, batch)).findings if each.severity != "note"]
