"""Weights out of scale: just below and above each limit, with peers and without, and zeros."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from building.records import evidence, model, network, scaled, site, weight
from torch import nn

from propscope.diagnosis import diagnose, limits
from propscope.diagnosis.weights import large_embeddings, odd_weights
from propscope.measure import profile

ABOVE, BELOW = math.exp(limits.ODD) * 1.01, math.exp(limits.ODD) * 0.99


def found(*members):
    return [(finding.kind, finding.severity, finding.first) for finding in odd_weights(evidence(*members))]


def blocks(*scales, kind="Linear", **figures):
    sites = [site(f"blocks.{number}.up", kind, **figures) for number in range(len(scales))]
    return model(sites, [weight(f"blocks.{number}.up.weight", scale) for number, scale in enumerate(scales)])


def single(scale, **figures):
    sites = [site("stem"), site("body", **figures), site("end", role="output")]
    return model(sites, [weight("body.weight", scale)])


@pytest.mark.parametrize(
    ("factor", "kind"), [(ABOVE, "exploding"), (BELOW, None), (1 / ABOVE, "vanishing"), (1 / BELOW, None)]
)
@pytest.mark.parametrize("usual", [0.01, 0.5])
def test_a_weight_is_held_against_its_peers(factor, kind, usual):
    # A scale that all of a place share is meant, however faint.
    said = found(blocks(usual, usual * factor, usual, usual))
    assert said == ([(kind, "strained", "blocks.1.up")] if kind else [])


@pytest.mark.parametrize(
    ("scale", "kind"), [(ABOVE, "exploding"), (BELOW, None), (1 / ABOVE, "vanishing"), (1 / BELOW, None)]
)
def test_a_weight_without_peers_is_held_against_one(scale, kind):
    assert found(single(scale)) == ([(kind, "strained", "body")] if kind else [])


def test_weights_that_are_all_too_large_are_all_found():
    assert [first for *_, first in found(blocks(ABOVE, ABOVE, ABOVE, ABOVE))] == [f"blocks.{n}.up" for n in range(4)]


def test_one_of_three_does_not_make_the_others_odd():
    assert found(blocks(1.0, 5000.0, 1.0)) == [("exploding", "strained", "blocks.1.up")]


def test_three_in_a_place_are_enough_and_two_are_not():
    assert found(blocks(0.1, 0.1 * ABOVE, 0.1)) == [("exploding", "strained", "blocks.1.up")]
    assert found(blocks(0.1, 0.1 * ABOVE)) == []


def test_two_at_fault_are_found_beside_three_that_are_not():
    assert [first for *_, first in found(blocks(1.0, 100.0, 1.0, 0.01, 1.0))] == ["blocks.1.up", "blocks.3.up"]


def test_depthwise_filters_are_no_peers_of_dense_ones():
    shapes = [(64, 1, 3, 3)] * 2 + [(64, 64, 3, 3)] * 3
    scales = [0.06, 0.06, 2.0, 2.0, 2.0]
    sites = [site(f"features.{n}", "Conv2d") for n in range(5)]
    parameters = [
        weight(f"features.{n}.weight", s, shape) for n, (s, shape) in enumerate(zip(scales, shapes, strict=True))
    ]
    assert found(model(sites, parameters)) == []


@pytest.mark.parametrize("kind", ["Conv1D", "ConvTranspose2d"])
def test_the_fan_in_of_a_transposed_weight_is_its_first_axis(kind):
    # As if of fan-in 4 its scale is 4 times smaller than it is.
    wide = weight("body.weight", BELOW / 3, (1024, 4))
    sites = [site("stem"), site("body", kind), site("end", role="output")]
    assert found(model(sites, [wide])) == [("exploding", "strained", "body")]


def test_embeddings_and_vectors_have_no_scale():
    sites = [site("embed", "Embedding", role="embedding"), site("body"), site("end")]
    parameters = [weight("embed.weight", 100.0), weight("body.bias", 100.0), weight("body.weight", 100.0, (64,))]
    assert found(model(sites, parameters)) == []


def test_a_norm_is_held_against_its_peers_alone():
    sites = [site(f"blocks.{n}.norm", "LayerNorm", role="norm") for n in range(4)]
    gains = [weight(f"blocks.{n}.norm.weight", scale, (64,)) for n, scale in enumerate((1.0, 1.0, 0.01, 1.0))]
    assert found(model(sites, gains)) == [("vanishing", "strained", "blocks.2.norm")]


def test_the_last_layer_of_attention_is_a_part_of_it_and_judged_by_itself():
    sites = [site("stem"), site("attention[0]", "MultiheadAttention"), site("end")]
    parameters = [weight("attention.in_proj_weight", 1.0), weight("attention.out_proj.weight", 0.01)]
    (finding,) = odd_weights(evidence(model(sites, parameters)))
    assert (finding.first, dict(finding.remedy.factors).keys()) == ("attention[0]", {"attention.out_proj"})


def test_a_faint_readout_is_meant_and_a_loud_one_is_not():
    assert found(single(0.01, role="output")) == [("vanishing", "note", "body")]
    assert found(single(100.0, role="output")) == [("exploding", "strained", "body")]


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_size_of_the_loss_changes_nothing(factor):
    for given in (blocks(1.0, 100.0, 1.0), single(0.01)):
        assert found(scaled(given, factor)) == found(given) != []


def test_seeds_are_judged_together_and_counted():
    (finding,) = odd_weights(evidence(single(ABOVE**3), single(ABOVE), single(0.5)))
    assert finding.confidence == pytest.approx(3 / 5)


def test_networks_of_the_grid_are_left_to_their_own_rules():
    loud = network([1.0] * 4)
    loud = replace(loud, parameters=tuple(weight(p.name, 100.0) for p in loud.parameters))
    assert found(loud) != []
    assert not [each for each in diagnose(loud).findings if "weight_scale" in each.evidence]


class Tied(nn.Module):
    """Embeddings whose weight is also that of the head, in one of the ways in which models write that."""

    def __init__(self, way, std=1.0, width=512):
        super().__init__()
        self.way, self.embed, self.norm = way, nn.Embedding(50, width), nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=std)
        if way == "module":
            self.head = nn.Linear(width, 50, bias=False)
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x, weight = self.norm(self.embed(tokens)), self.embed.weight
        if self.way == "module":
            return self.head(x)
        return F.linear(x, weight) if self.way == "linear" else x @ weight.t()


def tokens():
    return torch.arange(384).view(32, 12) % 50


@pytest.mark.parametrize(("way", "place"), [("module", "head"), ("linear", "embed"), ("matmul", "embed")])
def test_a_shared_weight_is_judged_where_it_is_used(way, place):
    found = diagnose(profile(Tied(way), tokens()))
    assert (found.verdict, found.worst.kind, found.worst.first) == ("strained", "exploding", place)
    assert found.worst.remedy.factors == {"embed": pytest.approx(1 / math.sqrt(512), rel=0.05)}
    assert "embed" in found.worst.remedy.text
    assert diagnose(profile(Tied(way, 0.02), tokens())).verdict == "healthy"


def test_a_shared_weight_is_said_with_all_its_names():
    (finding,) = odd_weights(evidence(profile(Tied("module"), tokens())))
    assert "those of embed too" in finding.message
    assert "the weight that head and embed share" in finding.remedy.text


class Embedded(nn.Module):
    """Embeddings of this std in front of one of the usual things."""

    def __init__(self, std, behind):
        super().__init__()
        self.embed, self.place, self.behind = nn.Embedding(50, 32), nn.Embedding(12, 32), behind
        nn.init.normal_(self.embed.weight, std=std)

    def forward(self, tokens):
        return self.behind(self.embed(tokens) + self.place(torch.arange(12)).expand(len(tokens), -1, -1))


@pytest.mark.parametrize("std", [0.02, 1.0, 100.0])
@pytest.mark.parametrize(
    ("make", "is_held"),
    [
        (lambda: nn.Linear(32, 4), False),
        (lambda: nn.LSTM(32, 16, batch_first=True), False),
        (lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, dropout=0.0), False),
        (lambda: nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 4)), True),
        (lambda: nn.Sequential(nn.Dropout(0.1), nn.LayerNorm(32), nn.Linear(32, 4)), True),
    ],
    ids=["linear", "lstm", "stream", "norm", "norm behind a dropout"],
)
def test_embeddings_are_judged_by_what_follows_them(make, is_held, std):
    torch.manual_seed(0)
    taken = profile(Embedded(std, make()), tokens())
    said = [(finding.kind, finding.severity, finding.first) for finding in large_embeddings(evidence(taken))]
    assert said == [("exploding", "strained", "embed")] * (std == 100.0 and not is_held)


def test_a_layer_of_usual_scale_among_others_that_are_not_is_not_at_fault():
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(32, 32), nn.ReLU())), nn.Linear(32, 32))
    with torch.no_grad():
        for at in range(0, 8, 2):
            net[at].weight.mul_(1e-3)
    found = diagnose(profile(net, torch.randn(64, 32))).findings
    assert all(each.first != "8" for each in found if each.severity != "note")
    assert any(each.kind == "vanishing" for each in found)


def squeezed(*factors):
    """Return a layer that expands 8 channels to 192, and others that reduce them, by fan-out times these factors."""
    sites, layers = [], []
    for number, factor in enumerate(factors):
        # In one place, as where too few blocks are alike: one expands, the others reduce.
        shape = (192, 8, 1, 1) if number == 0 else (8, 192, 1, 1)
        sites.append(site(f"blocks.{number}.conv", "Conv2d"))
        layers.append(weight(f"blocks.{number}.conv.weight", factor * math.sqrt(2 * shape[1] / shape[0]), shape))
    return model(sites, layers)


def test_layers_of_other_shapes_that_are_alike_by_fan_out_are_peers():
    assert found(squeezed(1.0, 1.0, 1.0, 1.0)) == []
    assert found(squeezed(1.0, 0.01, 1.0, 1.0)) == [("vanishing", "strained", "blocks.1.conv")]
    assert found(squeezed(0.01, 1.0, 1.0, 1.0)) == [("vanishing", "strained", "blocks.0.conv")]


def by_fan_in(*factors):
    """Return layers of unequal shapes that were drawn by fan-in times these factors."""
    shapes = [(64, 16), (64, 64), (32, 64), (64, 32)]
    names = [f"blocks.{number}.up" for number in range(len(shapes))]
    return model(
        [*(site(name) for name in names), site("end")],
        [weight(f"{n}.weight", factor, shape) for n, factor, shape in zip(names, factors, shapes, strict=True)],
    )


@pytest.mark.parametrize("factor", [0.03, 1 / 35])
def test_a_layer_of_another_shape_is_held_against_what_its_peers_agree_on(factor):
    assert found(by_fan_in(1.0, 1.0, 1.0, 1.0)) == []
    # By fan-out it differs from the nearest of its peers, which do not agree on that, by less than the limit.
    assert found(by_fan_in(factor, 1.0, 1.0, 1.0)) == [("vanishing", "strained", "blocks.0.up")]
    assert found(by_fan_in(1.0, 1.0, factor, 1.0)) == [("vanishing", "strained", "blocks.2.up")]


def of_std(*deviations, std=0.02):
    """Return a 3 by 3 depthwise convolution and wide layers, all with one std times these factors."""
    shapes = [(64, 1, 3, 3), (64, 64), (256, 64), (64, 256)]
    sites = [site(name, kind) for name, kind in zip("abcd", ("Conv2d", "Linear", "Linear", "Linear"), strict=True)]
    return model(
        [*sites, site("end")],
        [
            weight(f"{name}.weight", factor * std * math.sqrt(math.prod(shape[1:])), shape)
            for name, factor, shape in zip("abcd", deviations, shapes, strict=True)
        ],
    )


def test_a_layer_of_few_inputs_that_has_the_std_of_all_is_not_at_fault():
    assert found(of_std(0.8, 1.0, 1.0, 1.0)) == []
    # Small beside the others, and small where all others differ.
    assert found(of_std(0.1, 1.0, 1.0, 1.0)) == [("vanishing", "strained", "a")]
    assert found(of_std(0.8, 10.0, 7.0, 4.0)) == [("vanishing", "strained", "a")]
