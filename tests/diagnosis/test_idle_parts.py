"""Parts that did not run: those of another task, input or option are a note, and those that nobody calls a finding."""

import pytest
import torch
from torch import nn

import propscope

WIDTH = 16


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


def blocks(count=2):
    return nn.Sequential(*(Block() for _ in range(count)))


class Translator(nn.Module):
    """An encoder and a decoder, of which a pass may want the encoder alone."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = blocks(), blocks(), nn.Linear(WIDTH, 5)

    def forward(self, x, target=None):
        memory = self.encoder(x)
        if target is None:
            return memory
        return self.head(self.decoder(memory + target))


class Tower(nn.Module):
    """Two kinds of input, each with its own part; a method beside `forward` uses both."""

    def __init__(self):
        super().__init__()
        self.text, self.image = blocks(), nn.Sequential(nn.Linear(8, WIDTH), Block())
        self.text_out, self.image_out = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)

    def both(self, x, y):
        return self.forward(x) @ self.image_out(self.image(y)).T

    def forward(self, x):
        return self.text_out(self.text(x))


class Tasks(nn.Module):
    """Heads by the name of their task."""

    def __init__(self):
        super().__init__()
        self.body, self.heads = blocks(), nn.ModuleDict({"a": nn.Linear(WIDTH, 3), "b": nn.Linear(WIDTH, 5)})

    def forward(self, x, task="a"):
        return self.heads[task](self.body(x))


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out, self.aux, self.uses_aux = blocks(), nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3), False

    def forward(self, x):
        h = self.body(x)
        return (self.out(h), self.aux(h)) if self.uses_aux else self.out(h)


class Windowed(nn.Module):
    """Attention with projections of their own for tokens that attend to everything, if there are any."""

    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.ModuleList(Projections() for _ in range(3)), nn.Linear(WIDTH, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Projections(nn.Module):
    def __init__(self):
        super().__init__()
        self.key, self.key_global, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x, everywhere=None):
        keys = self.key(x) if everywhere is None else torch.where(everywhere, self.key_global(x), self.key(x))
        return x + self.out(torch.tanh(keys))


class Forgotten(nn.Module):
    """A layer that the code makes and never calls."""

    def __init__(self, extra):
        super().__init__()
        self.body, self.extra, self.out = blocks(), extra, nn.Linear(WIDTH, 3)

    def forward(self, x):
        # In place of self.extra(x).
        return self.out(self.body(x))


class Skipping(nn.Module):
    """A list of layers whose last one is left out."""

    def __init__(self):
        super().__init__()
        self.layers, self.out = nn.ModuleList(Block() for _ in range(4)), nn.Linear(WIDTH, 3)

    def forward(self, x):
        for number in range(len(self.layers) - 1):
            x = self.layers[number](x)
        return self.out(x)


class Misspelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"a": nn.Linear(WIDTH, WIDTH), "b": nn.Linear(WIDTH, WIDTH)})
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.out(torch.relu(self.parts["a"](x)))


def idle(net):
    torch.manual_seed(0)
    found = propscope.diagnose(propscope.profile(net, torch.randn(32, WIDTH)))
    return found, [finding for finding in found.findings if "did not run" in finding.message]


@pytest.mark.parametrize(
    ("build", "place"),
    [
        (Translator, "decoder"),
        (Tower, "image"),
        (Tasks, "heads.b"),
        (Auxiliary, "aux"),
        (Windowed, "layers.0.key_global"),
    ],
)
def test_a_part_that_the_code_calls_in_other_cases_is_a_note(build, place):
    found, (note,) = idle(build())
    assert found.verdict == "healthy"
    assert (note.severity, note.first) == ("note", place)
    assert "in other cases" in note.cause
    assert note.remedy.text.startswith("change nothing")


@pytest.mark.parametrize(
    ("build", "place"),
    [
        (lambda: Forgotten(nn.Linear(WIDTH, WIDTH)), "extra"),
        (lambda: Forgotten(blocks()), "extra"),
        (Skipping, "layers.3"),
        (Misspelled, "parts.b"),
    ],
)
def test_a_part_that_nobody_calls_is_a_finding(build, place):
    found, (finding,) = idle(build())
    assert found.worst is finding
    assert (finding.severity, finding.first) == ("strained", place)
    assert finding.remedy.text == f"use {place} in the forward pass, or remove it"


def test_one_layer_that_runs_many_times_is_one_finding():
    class Repeated(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.out = Block(), nn.Linear(WIDTH, 3)

        def forward(self, x):
            for _ in range(6):
                x = self.block(x)
            return self.out(x)

    net = Repeated()
    batch = torch.randn(32, WIDTH)
    assert propscope.diagnose(propscope.profile(net, batch)).verdict == "healthy"
    with torch.no_grad():
        net.block.down.weight.mul_(100)
    found = propscope.diagnose(propscope.profile(net, batch), notes=False)
    (finding,) = found.findings
    assert finding.first == "block.down#0"
    assert "block.down" in finding.remedy.factors
