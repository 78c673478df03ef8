"""Weights that are all zero: on purpose where they learn and open what lies behind, at fault where they do not."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from building.networks import Made, zeroed
from building.records import evidence, model, scaled, site, weight
from torch import nn

import propscope
from propscope.diagnosis.zero_weights import zero_weights


def found(*members):
    return [(finding.kind, finding.severity, finding.sites) for finding in zero_weights(evidence(*members))]


def blocks(*scales, kind="Linear", **figures):
    sites = [site(f"blocks.{number}.up", kind, **figures) for number in range(len(scales))]
    return model(
        [*sites, site("end", role="output")],
        [
            *(weight(f"blocks.{number}.up.weight", scale) for number, scale in enumerate(scales)),
            weight("end.weight", 1.0),
        ],
    )


def test_zeros_among_others_that_are_not_are_at_fault():
    assert found(blocks(1.0, 0.0, 1.0)) == [("vanishing", "strained", ("blocks.1.up",))]


def test_zeros_that_all_share_are_one_note():
    assert found(blocks(0.0, 0.0, 0.0)) == [("vanishing", "note", ("blocks.0.up", "blocks.1.up", "blocks.2.up"))]
    assert propscope.diagnose(blocks(0.0, 0.0, 0.0)).verdict == "healthy"


def test_a_last_layer_of_zeros_is_a_note_whatever_others_have():
    sites = [site("0"), site("2"), site("4", role="output")]
    layers = [weight("0.weight", 1.0), weight("2.weight", 1.0), weight("4.weight", 0.0)]
    assert found(model(sites, layers)) == [("vanishing", "note", ("4",))]


@pytest.mark.parametrize("own", ["conv2", "bn2", "1", "out"])
def test_two_layers_of_a_block_are_two_places(own):
    other = {"conv2": "conv1", "bn2": "bn1", "1": "0", "out": "value"}[own]
    names = [f"stage.{number}.{name}" for number in range(3) for name in (other, own)]
    layers = [weight(f"{name}.weight", 0.0 if name.endswith(own) else 1.0) for name in names]
    said = found(model([*map(site, names), site("end", role="output")], [*layers, weight("end.weight", 1.0)]))
    assert said == [("vanishing", "note", tuple(f"stage.{number}.{own}" for number in range(3)))]


def test_zeros_that_do_not_learn_are_at_fault():
    still = model([site("stem"), site("body"), site("end")], [weight("body.weight", 0.0, gradient=0.0)])
    assert found(still) == [("vanishing", "strained", ("body",))]


def test_a_norm_that_keeps_what_is_added_to_one_may_have_zeros():
    sites = [site("stem"), site("norm", "RMSNorm", role="norm"), site("end")]
    assert found(model(sites, [weight("norm.weight", 0.0, (64,))])) == []


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_size_of_the_loss_changes_nothing(factor):
    assert found(scaled(blocks(1.0, 0.0, 1.0), factor)) == found(blocks(1.0, 0.0, 1.0)) != []


WIDTH = 16


def linear(**options):
    return nn.Linear(WIDTH, WIDTH, **options)


def zero_linear(outputs=WIDTH):
    return zeroed(nn.Linear(WIDTH, outputs), "weight", "bias")


def stack(block, *, head=None):
    return nn.Sequential(linear(), *(block() for _ in range(3)), head or nn.Linear(WIDTH, 4))


def branch(*layers):
    return Made(lambda m, x: x + m.layers(x), layers=nn.Sequential(*layers))


def gated(zero):
    gate = nn.Parameter(torch.zeros(()) if zero else torch.full((WIDTH,), 1e-6))
    return Made(lambda m, x: x + m.gate * m.down(F.relu(m.up(x))), gate=gate, up=linear(), down=linear())


def lora(zero):
    parts = {"a": nn.Linear(WIDTH, 2, bias=False), "b": nn.Linear(2, WIDTH, bias=False)}
    for name in zero:
        zeroed(parts[name])
    return Made(lambda m, x: F.gelu(m.inner(x) + 8 * m.b(m.a(x))), inner=linear().requires_grad_(False), **parts)


def gated_zero_layer():
    parts = {"gate": nn.Parameter(torch.zeros(())), "up": linear(), "down": zero_linear()}
    return Made(lambda m, x: x + m.gate * m.down(F.gelu(m.up(x))), **parts)


def factors(zero):
    """Return a layer with two factors that are parameters of its own."""
    parts = {"a": nn.Parameter(torch.randn(2, WIDTH)), "b": nn.Parameter(torch.randn(WIDTH, 2))}
    for name in zero:
        nn.init.zeros_(parts[name])
    return Made(lambda m, x: F.gelu(m.inner(x) + x @ m.a.t() @ m.b.t()), inner=linear().requires_grad_(False), **parts)


def modulated():
    def run(m, x):
        scale, gate = m.modulation(F.silu(x)).chunk(2, -1)
        return x + gate * m.body(x * (1 + scale))

    return Made(run, modulation=zero_linear(2 * WIDTH), body=nn.Sequential(linear(), nn.GELU(), linear()))


def attention():
    layer = nn.MultiheadAttention(WIDTH // 2, 2, batch_first=True)
    zeroed(layer.out_proj, "weight", "bias")

    def run(m, x):
        tokens = x.unflatten(1, (2, WIDTH // 2))
        return (tokens + m.attention(tokens, tokens, tokens, need_weights=False)[0]).flatten(1)

    return Made(run, attention=layer)


def highway():
    gate = zeroed(linear())
    nn.init.constant_(gate.bias, -1.0)
    return Made(lambda m, x: x + torch.sigmoid(m.gate(x)) * torch.tanh(m.body(x)), gate=gate, body=linear())


def generated():
    layer = zeroed(nn.Linear(4, WIDTH * WIDTH), "weight", "bias")
    parts = {"base": nn.Parameter(torch.randn(WIDTH, WIDTH) / 4), "code": nn.Parameter(torch.randn(4)), "layer": layer}
    return Made(lambda m, x: torch.tanh(F.linear(x, m.base + m.layer(m.code).view(WIDTH, WIDTH))), **parts)


def control():
    return Made(
        lambda m, x: m.end(m.body(x) + m.zero(F.silu(m.copy(x)))),
        body=linear().requires_grad_(False),
        copy=linear(),
        zero=zero_linear(),
        end=nn.Linear(WIDTH, 4).requires_grad_(False),
    )


MEANT = {
    "zero last layers": lambda: stack(lambda: branch(linear(), nn.GELU(), zero_linear())),
    "zero last layers and head": lambda: stack(lambda: branch(linear(), nn.ReLU(), zero_linear()), head=zero_linear(4)),
    "rezero": lambda: stack(lambda: gated(True)),
    "layer scale": lambda: stack(lambda: gated(False)),
    "lora": lambda: stack(lambda: lora("b")),
    "lora of bare parameters": lambda: stack(lambda: factors("b")),
    "the other factor of lora": lambda: stack(lambda: lora("a")),
    "adaln-zero": lambda: stack(modulated),
    "attention": lambda: stack(attention),
    "gates with a bias": lambda: stack(highway),
    "hypernetwork": lambda: stack(generated),
    "control": control,
    "zero head under tanh": lambda: nn.Sequential(linear(), nn.Tanh(), linear(), nn.Tanh(), zero_linear(4), nn.Tanh()),
    "zero norms": lambda: stack(lambda: branch(linear(), nn.GELU(), linear(), zeroed(nn.LayerNorm(WIDTH)))),
}  # fmt: skip
# What never moves: the verdict, and the first place.
FOR_GOOD = {
    "both factors": (lambda: stack(lambda: lora("ab")), "strained", "1.a"),
    "nothing else may learn": (
        lambda: nn.Sequential(lora("ab"), lora("ab"), nn.Linear(WIDTH, 4).requires_grad_(False)),
        "broken",
        "0.a",
    ),
    "both factors, bare": (lambda: stack(lambda: factors("ab")), "strained", "1"),
    "a zero gate of a zero layer": (lambda: stack(gated_zero_layer), "strained", "1.down"),
    "before relu": (lambda: stack(lambda: branch(zero_linear(), nn.ReLU())), "strained", "1.layers.0"),
    "before relu, with nothing beside": (
        lambda: nn.Sequential(linear(), nn.Tanh(), zero_linear(), nn.ReLU(), nn.Linear(WIDTH, 4)),
        "broken",
        "2",
    ),
    "all": (lambda: nn.Sequential(zero_linear(), nn.Tanh(), zero_linear(), nn.Tanh(), zero_linear(4)), "broken", "2"),
}


def batch():
    return torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MEANT)
def test_zeros_that_learn_and_open_what_is_behind_are_healthy(name):
    torch.manual_seed(0)
    diagnosis = propscope.diagnose(propscope.profile(MEANT[name](), batch()))
    assert diagnosis.verdict == "healthy", diagnosis.findings


@pytest.mark.parametrize("name", FOR_GOOD)
def test_zeros_that_never_move_are_one_finding_at_the_zeros(name):
    torch.manual_seed(0)
    make, verdict, first = FOR_GOOD[name]
    diagnosis = propscope.diagnose(propscope.profile(make(), batch()))
    worst = diagnosis.worst
    assert (diagnosis.verdict, worst.first, worst.kind) == (verdict, first, "vanishing")
    assert "at random" in worst.remedy.text
    assert [each for each in diagnosis.findings if each.kind == "stagnant" and each.severity != "note"] == []


@pytest.mark.parametrize("inner", ["ln{}.bn", "conv{}.0"])
def test_parts_of_a_block_are_told_apart_by_their_numbers_where_several_are_alike(inner):
    names = [f"stages.{n}.mlp.{inner.format(part)}" for n in range(3) for part in (1, 2)]
    ends = [name for name in names if inner.format(2) in name]
    layers = [weight(f"{name}.weight", 0.0 if name in ends else 1.0) for name in names]
    sites = [*map(site, names), site("end", role="output")]
    assert found(model(sites, [*layers, weight("end.weight", 1.0)])) == [("vanishing", "note", tuple(ends))]
    # One block that differs from its like is at fault.
    layers[1] = weight(f"{names[1]}.weight", 1.0)
    said = found(model(sites, [*layers, weight("end.weight", 1.0)]))
    assert said == [("vanishing", "strained", (name,)) for name in ends[1:]]


def biased_by_place(gain):
    """Return a residual block with a table of biases, read by an index, and a norm at its end with this gain."""
    parts = {"table": nn.Parameter(torch.zeros(4)), "down": linear(), "norm": nn.LayerNorm(WIDTH)}
    nn.init.constant_(parts["norm"].weight, gain)
    places = torch.arange(WIDTH) % 4
    return Made(lambda m, x: x + m.norm(m.down(torch.tanh(x + m.table[places]))), **parts)


def test_what_lies_behind_a_zero_weight_that_learns_is_not_lost():
    torch.manual_seed(0)
    made = propscope.profile(stack(lambda: biased_by_place(0.0)), torch.randn(32, WIDTH))
    assert {p.gradient_outlook for p in made.parameters if "table" in p.name} <= {"unpredictable", "later"}
    unknown = [
        replace(p, gradient_outlook="unpredictable", gradient_after=None) if "table" in p.name else p
        for p in made.parameters
    ]
    assert propscope.diagnose(replace(made, parameters=tuple(unknown))).verdict == "healthy"
