"""Where gradients stop: one finding for one loss, at its place, with what stands there and what to change."""

import copy

import pytest
import torch
import torch.nn.functional as F
from building.networks import Made, biased
from torch import nn

import propscope
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.missing_gradients import lost_gradients
from propscope.records import ProfileSet

WIDTH = 16


def linear(outputs=WIDTH, **options):
    return nn.Linear(WIDTH, outputs, **options)


def between(function):
    """Return a network that passes everything through a function."""
    return Made(
        lambda m, x: m.end(function(m.middle(torch.tanh(m.start(x))))), start=linear(), middle=linear(), end=linear(4)
    )


def beside(function):
    """Return a network that adds what a function makes of a branch."""
    return Made(
        lambda m, x: m.end(x) + function(m.middle(torch.tanh(m.start(x)))),
        start=linear(),
        middle=linear(),
        end=linear(),
    )


def nothing_of(x):
    return torch.ones_like(x, dtype=torch.bool)


def first_half():
    return (torch.arange(64) < 32)[:, None].float()


def two(choose):
    return Made(lambda m, x: m.end(choose(m.one(x), m.other(x))), one=linear(), other=linear(), end=linear(4))


def without_graph(layer):
    """Return a layer whose values have no graph, as one that a wrapper runs under `no_grad`."""
    layer.register_forward_hook(lambda module, given, out: out.detach())
    return layer


def negative(layer):
    """Return a layer whose weights are all negative, as one step that is far too large leaves them."""
    with torch.no_grad():
        layer.weight.copy_(-layer.weight.abs() - 0.1)
    return layer


def attention(**options):
    def run(m, x):
        tokens = x.unflatten(1, (2, WIDTH // 2))
        return m.end(m.attention(tokens, tokens, tokens, need_weights=False)[0]).flatten(1)

    layer = nn.MultiheadAttention(WIDTH // 2, 2, batch_first=True, **options)
    return Made(run, attention=layer, end=nn.Linear(WIDTH // 2, 3))


def relu_stack(kill):
    layers = [module for _ in range(6) for module in (linear(), nn.ReLU())]
    biased(layers[kill], -50.0)
    return nn.Sequential(*layers, linear(4))


def pre_norm(*, kill):
    up = biased(linear(), -50.0 if kill else 0.0)
    return Made(lambda m, x: x + m.down(F.relu(m.up(m.norm(x)))), norm=nn.LayerNorm(WIDTH), up=up, down=linear())


def convolutions(kind, **options):
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 8, 3, padding=1), kind(**options), nn.Flatten(), nn.Linear(128, 4)
    )


# By name: the network, the verdict, the first site of the worst finding, and a word of its message or remedy.
STOPS = {
    "dropout of all": (
        lambda: nn.Sequential(linear(), nn.ReLU(), nn.Dropout(1.0), linear()), "broken", "2", "probability to drop"
    ),
    "dropout of all, within": (
        lambda: nn.Sequential(linear(), nn.ReLU(), nn.Dropout(1.0), linear(), nn.ReLU(), linear()),
        "broken", "2", "probability to drop",
    ),
    "dropout of channels": (lambda: convolutions(nn.Dropout2d, p=1.0), "broken", "2", "probability to drop"),
    "dropout of a branch": (lambda: beside(lambda h: F.dropout(h, 1.0)), "strained", "add", "probability to drop"),
    "dropout of attention": (lambda: attention(dropout=1.0), "broken", "attention[0]", "gives zero"),
    "relu at the end": (
        lambda: nn.Sequential(linear(), nn.ReLU(), biased(linear(1), -9.0), nn.ReLU()), "broken", "2", "is off on all"
    ),
    "functional relu at the end": (
        lambda: Made(lambda m, x: F.relu(m.b(F.relu(m.a(x)))), a=linear(), b=biased(linear(4), -9.0)),
        "broken", "b", "all 4 units are off",
    ),
    "relu6 beyond six": (
        lambda: nn.Sequential(linear(), nn.ReLU6(), biased(linear(), 50.0), nn.ReLU6(), linear(4)),
        "broken", "2", "units are off",
    ),
    "a layer killed": (lambda: relu_stack(4), "broken", "4", "all 16 units are off on all 64 samples"),
    "the first layer killed": (lambda: relu_stack(0), "broken", "0", "units are off"),
    "gelu far below": (lambda: between(lambda h: F.gelu(h - 50)), "broken", "middle.gelu.input", "units are off"),
    "a branch of a residual stream killed": (
        lambda: nn.Sequential(linear(), *(pre_norm(kill=number == 1) for number in range(3)), linear(4)),
        "strained", "2.up", "all 16 units are off",
    ),
    "the output clamped": (
        lambda: Made(lambda m, x: (m.a(x) - 99).clamp(min=0), a=linear(3)), "broken", "", "gives zero on every sample"
    ),
    "a branch off": (lambda: beside(lambda h: F.relu(h - 50)), "strained", "middle.relu.input", "units are off"),
    "softmax of one": (
        lambda: Made(
            lambda m, x: m.end(torch.softmax(m.score(x), -1) * m.f(x)), f=linear(), score=linear(1), end=linear(4)
        ),
        "strained", "score.softmax", "one element",
    ),
    "softmax of one at the end": (
        lambda: nn.Sequential(linear(), nn.ReLU(), linear(1), nn.LogSoftmax(-1)), "broken", "3", "one element"
    ),
    "tanh on one side": (
        lambda: nn.Sequential(linear(), nn.Tanh(), biased(linear(), 99.0), nn.Tanh(), linear(4)),
        "broken", "2", "no slope on any sample",
    ),
    "sigmoid on both sides": (
        lambda: between(lambda h: torch.sigmoid(h * 1e6)), "strained", "middle.sigmoid.input", "no slope on any sample"
    ),
    "hard sigmoid": (
        lambda: between(lambda h: F.hardsigmoid(h - 50)), "broken", "middle.hardsigmoid.input", "no slope"
    ),
    "clamp": (lambda: between(lambda h: (h + 9).clamp(-1, 1)), "broken", "end", "passes clamp"),
    "mask over everything": (
        lambda: between(lambda h: h.masked_fill(nothing_of(h), 0.0)), "broken", "end", "passes masked_fill"
    ),
    "times zero": (lambda: between(lambda h: h * 0), "broken", "end", "multiplies by zeros"),
    "times zeros": (lambda: between(lambda h: h * torch.zeros(WIDTH)), "broken", "end", "multiplies by zeros"),
    "round": (lambda: between(torch.round), "strained", "end", "straight-through"),
    "sign": (lambda: between(torch.sign), "strained", "end", "straight-through"),
    "argmax": (lambda: between(lambda h: F.one_hot(h.argmax(-1), WIDTH).float()), "strained", "middle", "cut off"),
    "detach": (lambda: between(lambda h: h.detach()), "strained", "end", "through detach"),
    "data": (lambda: between(lambda h: h.data), "strained", "end", "through data"),
    "numpy": (lambda: between(lambda h: torch.from_numpy(h.detach().numpy())), "strained", "middle", "cut off"),
    "a new tensor": (lambda: between(lambda h: torch.tensor(h.tolist())), "strained", "middle", "reaches the loss"),
    "a branch detached": (lambda: beside(lambda h: h.detach().clone()), "strained", "add", "through detach, clone"),
    "a layer that gives a value without a graph": (
        lambda: nn.Sequential(linear(), nn.ReLU(), without_graph(linear()), nn.ReLU(), nn.Dropout(0.1), linear(4)),
        "strained", "2", "cut off here",
    ),
    "a part that runs without gradients": (
        lambda: Made(lambda m, x: m.end(torch.no_grad()(m.body)(x)), body=nn.Sequential(linear(), nn.GELU(), linear()),
                     end=linear(4)),
        "strained", "body.2", "cut off here",
    ),
    "keys without a graph": (
        lambda: Made(
            lambda m, x: m.end(x + (torch.softmax(m.q(x) @ m.k(x).transpose(0, 1) / 4, -1) @ m.v(x))),
            q=linear(), k=without_graph(linear()), v=linear(), end=linear(4),
        ),
        "strained", "k", "cut off here",
    ),
    "a function without gradients": (
        lambda: between(torch.no_grad()(lambda h: F.gelu(h) * 2)), "strained", "middle.gelu", "cut off here"
    ),
    "a dropout of all that runs twice": (
        lambda: Made(lambda m, x: m.end(m.drop(m.b(m.drop(m.a(x)).relu())).relu()), a=linear(), b=linear(),
                     drop=nn.Dropout(1.0), end=linear(4)),
        "broken", "drop#0", "probability to drop",
    ),
    "a squeezed gate shut by its bias": (
        lambda: Made(lambda m, x: m.end(x * torch.sigmoid(m.up(F.relu(m.down(x))))), down=biased(linear(4), -10.0),
                     up=nn.Linear(4, WIDTH), end=linear(4)),
        "strained", "down", "because of its bias",
    ),
    "a squeezed gate shut by its weights": (
        lambda: Made(lambda m, x: m.end(x * torch.sigmoid(m.up(F.relu(m.down(x.abs()))))), down=negative(linear(4)),
                     up=nn.Linear(4, WIDTH), end=linear(4)),
        "strained", "down", "a mean that is not zero",
    ),
    "one of two never chosen": (
        lambda: two(lambda a, b: torch.where(torch.ones(WIDTH, dtype=torch.bool), a, b)), "strained", "end", "where"
    ),
    "one of two never taken": (
        lambda: two(lambda a, b: torch.stack([a, b], 1)[:, 0]), "strained", "end", "getitem"
    ),
    "a norm over one value": (
        lambda: Made(lambda m, x: m.end(x * m.norm(m.start(x))), start=linear(1), norm=nn.LayerNorm(1), end=linear(4)),
        "broken", "norm", "single value",
    ),
    "an output that nothing uses": (
        lambda: Made(lambda m, x: (m.aside(x), m.main(x))[1], main=linear(), aside=linear()),
        "strained", "aside", "nothing of its output reaches the loss",
    ),
    "a module that does not run": (
        lambda: Made(lambda m, x: m.main(x), main=linear(), idle=nn.Sequential(linear(), nn.ReLU())),
        "strained", "idle", "use idle in the forward pass, or remove it",
    ),
    "nothing trainable learns": (
        lambda: nn.Sequential(linear(), nn.ReLU(), nn.Dropout(1.0), linear().requires_grad_(False)),
        "broken", "2", "probability to drop",
    ),
    "a hard choice of experts": (
        lambda: Made(
            lambda m, x: m.end(x + torch.where(m.router(x).argmax(-1, keepdim=True) == 0, m.one(x), m.other(x))),
            router=linear(2), one=linear(), other=linear(), end=linear(4),
        ),
        "strained", "router", "cut off",
    ),
}  # fmt: skip


def batch():
    return torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(1))


def profiled(model):
    return propscope.profile(model, batch())


def said(finding):
    return f"{finding.message}. {finding.cause}. {finding.remedy.text}"


@pytest.mark.parametrize("name", STOPS)
def test_a_loss_of_gradient_is_one_finding_at_its_place(name):
    torch.manual_seed(0)
    make, verdict, first, word = STOPS[name]
    profile = profiled(make())
    diagnosis = propscope.diagnose(profile)
    assert (diagnosis.verdict, diagnosis.worst.first) == (verdict, first)
    assert word in said(diagnosis.worst)
    assert [each.first for each in lost_gradients(Evidence.of([profile]))] == [first]
    for finding in diagnosis.findings:
        if finding is not diagnosis.worst:
            assert "in the forward pass, or remove it" not in said(finding)


def test_a_dropout_that_runs_twice_is_named_where_it_first_gives_zeros():
    torch.manual_seed(0)
    found = propscope.diagnose(profiled(STOPS["a dropout of all that runs twice"][0]()))
    assert found.worst.sites == ("drop#0", "drop#1")
    assert not [each for each in found.findings if each.kind == "collapse"]


def test_two_layers_side_by_side_are_no_network_and_its_target():
    torch.manual_seed(0)
    found = propscope.diagnose(profiled(STOPS["keys without a graph"][0]()))
    assert found.worst.severity == "strained"
    assert not any("target network" in said(each) for each in found.findings if each.remedy)


def test_places_by_chance_do_not_hide_one_that_is_not():
    def gated(m, x):
        x = 0.1 * m.start(x) + alike
        for block in m.blocks:
            x = x * torch.sigmoid(block.up(F.relu(block.down(x))))
        return m.end(x)

    torch.manual_seed(0)
    blocks = (
        nn.ModuleDict({"down": down, "up": nn.Linear(2, WIDTH)}) for down in (linear(2), biased(linear(2), -10.0))
    )
    model = Made(gated, start=linear(), blocks=nn.ModuleList(blocks), end=linear(4))
    # What is alike for all samples, and turns off both units of the first block.
    alike = -model.blocks[0].down.weight.detach().sum(0)
    found = propscope.diagnose(profiled(model))
    assert (found.verdict, found.worst.first) == ("strained", "blocks.1.down")
    assert [each.first for each in found.findings if each.kind == "inactive"] == ["blocks.1.down", "blocks.0.down"]


def test_what_lies_behind_is_listed_and_not_accused():
    (found,) = lost_gradients(Evidence.of([profiled(relu_stack(4))]))
    assert found.sites == ("4",)
    assert found.evidence["parameters"] == 7.0
    assert found.marks == {"4": "dead"}
    assert "7 parameters get no gradient (0, 2, 4 and 1 more)" in found.message


class Target(nn.Module):
    """A network that predicts what a copy of itself gives, which learns by no gradient."""

    def __init__(self):
        super().__init__()
        self.online = nn.Sequential(linear(), nn.GELU(), linear())
        self.predictor = linear()
        self.target = copy.deepcopy(self.online)

    def forward(self, x):
        with torch.no_grad():
            aim = self.target(x)
        return -F.cosine_similarity(self.predictor(self.online(x)), aim, dim=-1)


class TwoTargets(nn.Module):
    """Two critics, whose aim is the lesser of what their copies give."""

    def __init__(self):
        super().__init__()
        self.critics = nn.ModuleDict({name: nn.Sequential(linear(), nn.GELU(), linear(1)) for name in ("one", "two")})
        self.copies = copy.deepcopy(self.critics)

    def forward(self, x):
        aim = torch.min(*(copied(x) for copied in self.copies.values())).detach() + x[:, :1]
        return sum((critic(x) - aim).square() for critic in self.critics.values())


class Quantized(nn.Module):
    """An autoencoder with a code book (van den Oord et al. 2017), whose own loss is left to the caller."""

    def __init__(self):
        super().__init__()
        self.encoder, self.codes, self.decoder = linear(), nn.Embedding(32, WIDTH), linear()

    def forward(self, x):
        z = self.encoder(x)
        code = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        return self.decoder(z + (code - z).detach())


class Routed(nn.Module):
    """A mixture of experts of which each sample enters one, and some get none."""

    def __init__(self):
        super().__init__()
        self.router, self.experts = linear(8), nn.ModuleList(linear() for _ in range(8))
        self.end = linear(4)

    def forward(self, x):
        x = x[:5]
        share, chosen = torch.softmax(self.router(x), -1).max(-1)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (rows := (chosen == number).nonzero()[:, 0]).numel():
                result = result.index_add(0, rows, expert(x[rows]) * share[rows, None])
        return self.end(x + result)


NOTED = {
    "a target network": (Target, "online has the same layers and learns"),
    "two target networks": (TwoTargets, "has the same layers and learns"),
    "a code book": (Quantized, "straight-through"),
    "experts without a sample": (Routed, "got no sample"),
    "a parameter that is not used": (
        lambda: Made(lambda m, x: m.end(m.body(x)), body=linear(), end=linear(4), mask=nn.Parameter(torch.ones(3))),
        "mask took no part",
    ),
    "attention to one key": (
        lambda: Made(
            lambda m, x: m.end(x + F.scaled_dot_product_attention(*(f(x)[:, None] for f in (m.q, m.k, m.v)))[:, 0]),
            q=linear(),
            k=linear(),
            v=linear(),
            end=linear(4),
        ),
        "single key",
    ),
    "attention over one element": (
        lambda: Made(
            lambda m, x: m.end(x + (torch.softmax((m.q(x)[:, None] @ m.k(x)[:, :, None]), -1) @ m.v(x)[:, None])[:, 0]),
            q=linear(),
            k=linear(),
            v=linear(),
            end=linear(4),
        ),
        "single key",
    ),
    "masks that exclude each other": (
        lambda: Made(
            lambda m, x: m.end(h := m.start(x)) + m.body(h * first_half()) * (1 - first_half()),
            start=linear(),
            body=linear(bias=False),
            end=linear(),
        ),
        "zero wherever a gradient arrives",
    ),
    "padding alone": (
        lambda: Made(
            lambda m, x: m.end(x + m.types(torch.zeros(len(x), dtype=torch.long))),
            types=nn.Embedding(2, WIDTH, padding_idx=0),
            end=linear(4),
        ),
        "padding index",
    ),
    "a parameter whose result is not used": (
        lambda: Made(
            lambda m, x: (m.mask.expand(3, -1), m.end(m.body(x)))[1],
            body=linear(),
            end=linear(4),
            mask=nn.Parameter(torch.ones(WIDTH)),
        ),
        "mask took no part",
    ),
    "frozen": (lambda: nn.Sequential(linear().requires_grad_(False), nn.ReLU(), linear(4)), "frozen"),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_is_meant_is_a_note(name):
    torch.manual_seed(0)
    make, word = NOTED[name]
    diagnosis = propscope.diagnose(profiled(make()))
    assert diagnosis.verdict == "healthy", diagnosis.findings
    assert any(word in said(finding) for finding in diagnosis.findings if finding.kind == "stagnant")


class Squeeze(nn.Module):
    """Squeeze and excitation with so few units that all may be off on every sample by chance."""

    def __init__(self):
        super().__init__()
        self.start, self.down, self.up, self.end = linear(), linear(2), nn.Linear(2, WIDTH), linear(4)

    def forward(self, x):
        # What is alike for all samples, and turns off both units.
        h = 0.1 * self.start(x) - self.down.weight.sum(0)
        return self.end(h * torch.sigmoid(self.up(F.relu(self.down(h)))))


def test_few_units_may_be_off_by_chance():
    torch.manual_seed(0)
    diagnosis = propscope.diagnose(profiled(Squeeze()))
    assert diagnosis.verdict == "healthy"
    assert [each.first for each in diagnosis.findings if each.kind == "inactive"] == ["down"]


SOUND = {
    "straight-through": lambda: between(lambda h: h + (torch.round(h) - h).detach()),
    "a value that is detached beside the way": lambda: between(lambda h: h / h.detach().abs().mean()),
    "half of the units off": lambda: nn.Sequential(linear(), nn.ReLU(), linear(), nn.ReLU(), linear(4)),
    "biases alone learn": lambda: (
        lambda m: ([p.requires_grad_(p.dim() < 2) for p in m.parameters()], m)[1]
    )(nn.Sequential(linear(), nn.Tanh(), linear(4))),
    "part of a value is masked": lambda: between(lambda h: h.masked_fill(torch.arange(WIDTH) < 4, 0.0)),
    "actor and critic": lambda: Made(
        lambda m, x: (m.actor(h := torch.tanh(m.trunk(x))), m.critic(h)),
        trunk=linear(), actor=linear(4), critic=linear(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_where_gradients_go_through_nothing_is_said(name):
    torch.manual_seed(0)
    profile = profiled(SOUND[name]())
    assert list(lost_gradients(Evidence.of([profile]))) == []


def test_a_place_that_another_seed_opens_is_none():
    models = [nn.Sequential(linear(), nn.ReLU(), biased(linear(4), bias), nn.ReLU()) for bias in (-9.0, 0.0)]
    assert list(lost_gradients(Evidence.of(map(profiled, models)))) == []
    both = ProfileSet.of(profiled(models[0]) for _ in range(2))
    assert propscope.diagnose(both.profiles[0]).verdict == "broken"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gradient_that_underflows_only_as_a_product_with_the_values_is_no_stop(dtype):
    small = {torch.float32: (1e-22, 1e-24), torch.float16: (1e-4, 1e-4)}[dtype]
    net = nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(3)))
    with torch.no_grad():
        for layer, factor in zip(net[::2], small, strict=True):
            layer.weight.mul_(factor)
    found = propscope.diagnose(propscope.profile(net.to(dtype), torch.randn(32, 16).to(dtype)))
    assert found.worst.kind == "vanishing"
    assert not [each for each in found.findings if each.kind == "stagnant"]


def test_a_gradient_that_underflows_vanishes_and_does_not_stop():
    torch.manual_seed(0)
    layers = [module for _ in range(30) for module in (linear(), nn.Sigmoid())]
    for layer in layers[::2]:
        layer.weight.data.mul_(1e-2)
    diagnosis = propscope.diagnose(profiled(nn.Sequential(*layers)))
    assert (diagnosis.verdict, diagnosis.worst.kind) == ("broken", "vanishing")
    assert "stagnant" not in {finding.kind for finding in diagnosis.findings if finding.severity != "note"}


def test_a_loss_whose_gradient_is_zero_is_the_place():
    model = nn.Sequential(linear(), nn.Tanh(), linear(1))
    labels = torch.zeros(64, dtype=torch.long)
    diagnosis = propscope.diagnose(propscope.profile(model, batch(), lambda out: F.cross_entropy(out, labels)))
    assert (diagnosis.verdict, diagnosis.worst.first) == ("broken", "2")
    assert "the gradient of the loss is exactly zero" in diagnosis.worst.message


class Gathered(nn.Module):
    """Experts that are called on the rows that a router sends them, be there none."""

    def __init__(self):
        super().__init__()
        self.enter, self.head = nn.Linear(8, 16), nn.Linear(16, 2)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        x = self.enter(x)
        chosen = (x[:, 0] > 0).long()
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(x[rows]).relu())
        return self.head(x + out)


def test_an_expert_that_is_called_without_a_row_is_a_note():
    torch.manual_seed(0)
    found = propscope.diagnose(propscope.profile(Gathered(), torch.randn(64, 8)))
    assert found.verdict == "healthy"
    (note,) = [each for each in found.findings if each.kind == "stagnant"]
    assert (note.severity, note.first) == ("note", "experts.2")
    assert "got no sample" in note.message


def read_by_a_class_token(count, **changed):
    """Return blocks in which a layer sees all tokens but the first, and a head that reads the first."""

    def block(number):
        def run(m, x):
            mixed = m.mix(x[:, 1:])
            if number in changed.get("cut", ()):
                mixed = mixed.detach()
            query = m.query(torch.cat([x[:, :1], mixed], 1))
            return x + m.out(F.scaled_dot_product_attention(query, x, x))

        return Made(run, mix=linear(), query=linear(), out=linear())

    blocks = nn.Sequential(*map(block, range(count)))
    return Made(lambda m, x: m.head(m.blocks(x)[:, 0]), blocks=blocks, head=linear(4))


def test_what_the_last_block_computes_at_positions_that_are_not_read_is_a_note():
    torch.manual_seed(0)
    profile = propscope.profile(read_by_a_class_token(3), torch.randn(16, 5, WIDTH))
    assert [p.name for p in profile.parameters if p.gradient.rms == 0] == ["blocks.2.mix.weight", "blocks.2.mix.bias"]
    (finding,) = lost_gradients(Evidence.of([profile]))
    assert (finding.severity, finding.first) == ("note", "blocks.2.query")
    assert propscope.diagnose(profile).verdict == "healthy"


def test_what_is_cut_off_in_a_block_is_no_note():
    torch.manual_seed(0)
    profile = propscope.profile(read_by_a_class_token(3, cut=[1]), torch.randn(16, 5, WIDTH))
    assert propscope.diagnose(profile).verdict == "strained"


class Taking(nn.Module):
    """Gives the weights of its layer to a function, and has a parameter itself."""

    def __init__(self):
        super().__init__()
        self.up, self.gain = linear(), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.gain * F.gelu(F.linear(x, self.up.weight, self.up.bias))


class Dropped(nn.Module):
    """Blocks that are skipped at random (Fan et al. 2020, LayerDrop)."""

    def __init__(self):
        super().__init__()
        self.blocks, self.end = nn.ModuleList(Taking() for _ in range(8)), linear(4)

    def forward(self, x):
        for block in self.blocks:
            if torch.rand(()) > 0.5:
                x = x + block(x)
        return self.end(x)


def test_a_layer_of_a_block_that_is_skipped_at_random_is_a_note_where_a_function_takes_its_weights():
    torch.manual_seed(0)
    diagnosis = propscope.diagnose(profiled(Dropped()))
    assert diagnosis.verdict == "healthy"
    assert [each.severity for each in diagnosis.findings if each.kind == "stagnant"]
