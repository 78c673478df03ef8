"""Routed experts and embeddings of positions differ from their like by design, and are not held against them."""

import pytest
import torch
from building.records import evidence, model, site
from torch import nn

import propscope
from propscope.diagnosis.outlier_layers import odd_layers_of_model

WIDTH = 32


class Experts(nn.Module):
    """Each token goes to one of eight experts, by its size."""

    def __init__(self):
        super().__init__()
        layers = (nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, WIDTH)) for _ in range(8))
        self.experts, self.out = nn.ModuleList(layers), nn.Linear(WIDTH, 4)

    def forward(self, x):
        chosen = x.norm(dim=-1).log2().div(2).sub(0.5).clamp(0, 7).long()
        parts = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                # A token counts as much as any other, whatever its size.
                found = expert(x[rows])
                parts = parts.index_add(0, rows, found / found.detach().norm(dim=-1, keepdim=True))
        return self.out(parts)


class Page(nn.Module):
    """Tokens and their places on a page (Xu et al. 2020, LayoutLM): N(0, 1) beside tables of another size."""

    def __init__(self, std):
        super().__init__()
        self.tokens = nn.Embedding(50, WIDTH)
        self.places = nn.ModuleList(nn.Embedding(20, WIDTH) for _ in range(6))
        for table in self.places:
            nn.init.normal_(table.weight, std=std)
        self.norm, self.up, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x):
        h = self.tokens(x)
        for shift, table in enumerate(self.places):
            h = h + table((torch.arange(x.shape[1]) + shift) % 20)
        return self.out(torch.relu(self.up(self.norm(h))))


def blocks(**figures):
    """Return a profile of blocks with a site of its own in each, that of the third 50 times as large."""
    sites = [site("stem")]
    for n in range(6):
        sites += [site(f"h.{n}.norm", "LayerNorm", role="norm")]
        sites += [site(f"h.{n}.part", rms=50.0 if n == 2 else 1.0, **figures)]
        sites += [site(f"h.{n}.add", "add", role="residual", branch_share=0.5)]
    return model(sites)


@pytest.mark.parametrize(
    ("figures", "count"),
    [({}, 1), ({"kind": "Embedding", "role": "embedding"}, 0), ({"token_share": 0.05}, 0)],
)
def test_what_is_unlike_the_others_by_design_is_not_compared(figures, count):
    assert len([*odd_layers_of_model(evidence(blocks(**figures)))]) == count


def sizes():
    """Return tokens of eight sizes, each four times as large as the one before, with few of the largest."""
    scale = torch.tensor([4.0**n for n in range(8) for _ in range(12 - n)])
    return torch.randn(len(scale), WIDTH) * scale[:, None]


@pytest.mark.parametrize("seed", range(2))
def test_experts_with_few_tokens_of_another_size_are_not_compared(seed):
    torch.manual_seed(seed)
    found = propscope.diagnose(propscope.profile(Experts(), sizes()))
    assert not [f for f in found.findings if "in the same place" in f.message], str(found)


def test_the_weights_of_an_expert_are():
    torch.manual_seed(0)
    net = Experts()
    with torch.no_grad():
        net.experts[2][0].weight.mul_(100)
    found = propscope.diagnose(propscope.profile(net, sizes()))
    assert "experts.2.0" in [f.first for f in found.findings if f.kind == "exploding" and f.severity == "strained"]


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_tables_of_positions_are_not_held_against_those_of_tokens(std):
    torch.manual_seed(0)
    found = propscope.diagnose(propscope.profile(Page(std), torch.randint(0, 50, (16, 12))))
    assert found.verdict == "healthy", str(found)
