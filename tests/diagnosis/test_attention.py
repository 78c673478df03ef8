"""Softmaxes that have decided before training, however attention is written, and those that are meant."""

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


class Attention(nn.Module):
    """Attention of 64 features, the scores `factor` times as large as usual, in one of the ways to write it."""

    def __init__(self, way, factor=1.0, heads=4):
        super().__init__()
        self.way, self.heads, self.factor = way, heads, factor
        if way == "module":
            self.attention = nn.MultiheadAttention(64, heads, batch_first=True)
            with torch.no_grad():
                self.attention.in_proj_weight[:64].mul_(factor)
        else:
            self.qkv, self.softmax = nn.Linear(64, 192), nn.Softmax(-1)
        self.out = nn.Linear(64, 8)

    def forward(self, x):
        if self.way == "module":
            return self.out(self.attention(x, x, x, need_weights=False)[0])
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        q = q * self.factor
        if self.way == "sdpa":
            return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        if self.way == "bmm":
            scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).unflatten(0, q.shape[:2])
        else:
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k)
        if self.way == "causal":
            scores = scores + torch.full(scores.shape[-2:], torch.finfo(scores.dtype).min).triu(1)
        weights = self.softmax(scores) if self.way == "submodule" else scores.softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Single(nn.Module):
    """One head whose queries are a layer of their own."""

    def __init__(self, width, sharpness):
        super().__init__()
        self.q, self.v, self.out, self.sharpness = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.Linear(width, 8),
            sharpness,
        )

    def forward(self, x):
        return self.out(torch.softmax(self.sharpness * self.q(x) @ x.transpose(1, 2), -1) @ self.v(x))


class Pooling(nn.Module):
    """Attention over the positions, axis 1, by scores with one feature."""

    def __init__(self, factor):
        super().__init__()
        self.score, self.head, self.factor = nn.Linear(64, 1), nn.Linear(64, 8), factor

    def forward(self, x):
        return self.head((torch.softmax(self.factor * self.score(x), 1) * x).sum(1))


class Router(nn.Module):
    """A mixture of four experts, weighed by a gate."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(64, 4), nn.ModuleList(nn.Linear(64, 8) for _ in range(4))

    def forward(self, x):
        share = self.gate(x).softmax(-1)
        return sum(share[..., n : n + 1] * expert(x) for n, expert in enumerate(self.experts))


WAYS = ("module", "sdpa", "bmm", "einsum", "causal", "submodule")
PLACES = {"module": "attention[0]", "sdpa": "scaled_dot_product_attention", "submodule": "softmax"}


def tokens(width=64):
    return torch.randn(16, 12, width)


def judged(net, batch):
    found = diagnose(profile(net, batch))
    return found, [finding for finding in found.findings if "one-hot" in finding.message]


@pytest.mark.parametrize("way", WAYS)
def test_scores_that_are_too_large_are_found_at_the_softmax(way):
    # The weights of the module itself are found where they are larger.
    found, (finding,) = judged(Attention(way, 20.0 if way == "module" else 200.0), tokens())
    assert found.worst is finding
    assert (finding.kind, finding.severity, finding.first) == ("saturated", "strained", PLACES.get(way, "qkv.softmax"))
    assert not finding.remedy.factors


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("factor", [0.0, 1.0, 4.0])
def test_usual_scores_are_not_accused(way, factor):
    assert judged(Attention(way, factor or 1e-3), tokens())[1] == []


def test_the_number_brings_the_logits_to_one_and_names_the_usual_factor():
    _, (finding,) = judged(Single(64, 50.0), tokens())
    assert finding.evidence["logit_spread"] == pytest.approx(50 * 8 / math.sqrt(3), rel=0.05)
    assert finding.remedy.text.startswith("divide the scores by 2")
    assert "sqrt(64) = 8 is the usual factor" in finding.remedy.text
    assert "of ln 12" in finding.message


def test_the_width_is_that_of_a_head():
    _, (finding,) = judged(Attention("einsum", 200.0), tokens())
    assert "sqrt(16) = 4 is" in finding.remedy.text


def test_scores_that_were_not_divided_at_all_are_found_where_heads_are_wide():
    net = Single(512, 3.0)
    assert "sqrt(512) = 22.6" in judged(net, tokens(512))[1][0].remedy.text


@pytest.mark.parametrize(("factor", "count"), [(1.0, 0), (60.0, 1)])
def test_a_softmax_along_another_axis_is_seen_along_that(factor, count):
    assert len(judged(Pooling(factor), tokens())[1]) == count


def test_a_router_is_not_accused():
    assert judged(Router(), tokens())[1] == []


def test_sharp_attention_of_a_trained_network_is_its_own():
    taken = profile(Attention("einsum", 200.0), tokens())
    assert not [f for f in diagnose(taken, stage="trained").findings if "one-hot" in f.message]


def test_one_allowed_key_a_row_is_no_fault():
    class Diagonal(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.out = nn.Linear(64, 64), nn.Linear(64, 8)

        def forward(self, x):
            scores = self.q(x) @ x.transpose(1, 2) / 8
            return self.out(scores.masked_fill(~torch.eye(12, dtype=torch.bool), -math.inf).softmax(-1) @ x)

    assert judged(Diagonal(), tokens())[1] == []


LOWEST = torch.finfo(torch.float32).min
PADDING = torch.zeros(16, 12, dtype=torch.bool)
PADDING[3], PADDING[5, 6:] = True, True


class Masked(nn.Module):
    """Attention of 64 features in one of the ways to mask it; `hidden`, (samples, queries, keys): True hides a key."""

    def __init__(self, way, hidden):
        super().__init__()
        self.way, self.hidden = way, hidden
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.q, self.v, self.softmax = nn.Linear(64, 64), nn.Linear(64, 64), nn.Softmax(-1)

    def forward(self, x):
        way, hidden = self.way, self.hidden
        if way in ("module", "module by keys"):
            by_keys = way == "module by keys" or hidden.shape[1] == 1
            masks = {"key_padding_mask": hidden[:, 0]} if by_keys else {"attn_mask": hidden[0]}
            return self.attention(x, x, x, **masks, need_weights=way == "module")[0]
        if way.startswith("sdpa"):
            mask = ~hidden if way == "sdpa" else torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)
            return F.scaled_dot_product_attention(self.q(x)[:, None], x[:, None], self.v(x)[:, None], mask[:, None])
        scores = self.q(x) @ x.transpose(1, 2) / 8
        if way == "added":
            return (scores + torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)).softmax(-1) @ self.v(x)
        if way == "submodule":
            return self.softmax(scores.masked_fill(hidden, -1e9)) @ self.v(x)
        return scores.masked_fill(hidden, LOWEST if way == "lowest" else -math.inf).softmax(-1) @ self.v(x)


MASKS = ("module", "module by keys", "sdpa", "sdpa added", "added", "submodule", "lowest", "filled")


def said_of_masks(net):
    found = diagnose(profile(net, tokens()))
    return [f for f in found.findings if "masked throughout" in f.message]


@pytest.mark.parametrize("way", MASKS)
def test_a_sample_of_padding_alone_is_named(way):
    (finding,) = said_of_masks(Masked(way, PADDING[:, None]))
    assert finding.evidence["masked_rows"] == 1 / 16
    assert "the mask may hide the diagonal" in finding.cause
    assert "leave padded queries out of the loss" in finding.remedy.text
    assert finding.severity == ("broken" if "NaN" in finding.message else "note")


@pytest.mark.parametrize("way", [way for way in MASKS if way != "module by keys"])
def test_a_causal_mask_that_hides_the_diagonal_is_named(way):
    hidden = torch.ones(1, 12, 12, dtype=torch.bool)
    (finding,) = said_of_masks(Masked(way, hidden.triu(0)))
    assert finding.evidence["masked_rows"] == pytest.approx(1 / 12)
    assert said_of_masks(Masked(way, hidden.triu(1))) == []


def test_padding_and_a_mask_together_may_leave_nothing():
    class Both(nn.Module):
        def __init__(self, heads):
            super().__init__()
            self.attention, self.heads = nn.MultiheadAttention(64, 4, batch_first=True), heads

        def forward(self, x):
            # Without its first key, the first query has none.
            padding = torch.zeros(16, 12, dtype=torch.bool)
            padding[:4, 0] = True
            mask = torch.ones(12, 12, dtype=torch.bool).triu(1)
            mask = mask.expand(64, 12, 12) if self.heads else mask
            return self.attention(x, x, x, padding, attn_mask=mask, need_weights=False)[0]

    for heads in (False, True):
        (finding,) = said_of_masks(Both(heads))
        assert finding.evidence["masked_rows"] == pytest.approx(4 / 16 / 12)


def test_logits_that_are_far_below_zero_themselves_are_no_mask():
    assert said_of_masks(Single(64, 1e5)) == []


def test_what_many_blocks_show_is_one_finding():
    blocks = nn.Sequential(*(Masked("lowest", PADDING[:, None]) for _ in range(3)))
    (finding,) = said_of_masks(blocks)
    assert len(finding.sites) == 3
    assert "and 2 more like it" in finding.message
    blocks = (nn.Sequential(Attention("einsum", 200.0), nn.LayerNorm(8), nn.Linear(8, 64)) for _ in range(3))
    found, (sharp,) = judged(nn.Sequential(*blocks), tokens())
    assert len(sharp.sites) == 3
    assert found.worst is sharp


@pytest.mark.parametrize("last", [nn.Softmax(-1), nn.Sequential(nn.Softmax(-1))])
def test_a_softmax_that_the_model_returns_is_a_note(last):
    found = diagnose(profile(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5), last), torch.randn(64, 20)))
    assert found.verdict == "healthy"
    (note,) = [finding for finding in found.findings if "returns probabilities" in finding.message]
    assert note.severity == "note"
    assert "cross_entropy" in note.cause


@pytest.mark.parametrize("last", [nn.LogSoftmax(-1), nn.Identity(), nn.Sigmoid()])
def test_other_outputs_are_none(last):
    found = diagnose(profile(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5), last), torch.randn(64, 20)))
    assert not [finding for finding in found.findings if "returns probabilities" in finding.message]
