"""Gradients in networks with norms, and residual streams with and without them, each beside a healthy control."""

import pytest
import torch
import torch.nn.functional as F
from building.networks import Made
from torch import nn

import propscope
from propscope.diagnosis import limits
from propscope.diagnosis.architecture import doubled_sums, missing_norms
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.propagation import exploding, vanishing

WIDTH = 48


def found(net, *shape):
    torch.manual_seed(0)
    evidence = Evidence.of([propscope.profile(net, torch.randn(*(shape or (64, WIDTH))), stats="moments")])
    return [*exploding(evidence), *vanishing(evidence)]


def said(net, *shape):
    return [(each.kind, each.severity, each.direction) for each in found(net, *shape)]


def stack(depth, *, norm=nn.BatchNorm1d, activation=nn.ReLU, every=1, gain=1.0):
    """Return a plain stack, with a norm before every activation or before each `every`-th one."""
    torch.manual_seed(0)
    layers = []
    for at in range(depth):
        linear = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(linear.weight, std=gain * (2 / WIDTH) ** 0.5)
        layers += [linear, *([norm(WIDTH)] if norm is not None and at % every == every - 1 else []), activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 5))


class FusedNorm(nn.BatchNorm1d):
    """A norm that runs torch's function and an activation by itself, as timm's do: no site is a norm's."""

    def __init__(self, width, activation):
        super().__init__(width)
        self.drop, self.act = nn.Identity(), activation

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return self.act(self.drop(x))


class Summed(nn.Module):
    """A residual stack: branches of two layers, `last` applied to the last weight of each."""

    def __init__(self, depth, *, last=None, norm=nn.Identity, ending=nn.Identity, width=WIDTH):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(norm(width) for _ in range(depth))
        self.endings = nn.ModuleList(ending(width) for _ in range(depth))
        for layer in (*self.up, *self.down):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in self.down if last else ():
            last(layer.weight)

    def forward(self, x):
        for norm, up, down, ending in zip(self.norms, self.up, self.down, self.endings, strict=True):
            x = ending(x + down(F.relu(up(norm(x)))))
        return x


class Modules(nn.Module):
    """The same with named blocks of convolutions and activations that are modules."""

    def __init__(self, depth):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(depth)
        )
        for layer in (layer for block in self.blocks for layer in block if isinstance(layer, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.parametrize(
    "net",
    [
        stack(24),
        stack(24, gain=0.05),
        stack(24, activation=nn.ReLU6),
        stack(24, norm=nn.LayerNorm),
        stack(24, norm=lambda width: nn.GroupNorm(4, width), activation=nn.Tanh),
        stack(24, norm=lambda width: FusedNorm(width, nn.ReLU()), activation=nn.Identity),
    ],
    ids=["batch", "small weights", "relu6", "layer", "group", "fused"],
)
def test_a_gradient_that_grows_across_norms_is_sound_below_the_limit(net):
    assert said(net) == []


def test_a_stack_of_batch_norms_is_broken_where_the_growth_is_beyond_what_float32_resolves():
    (only,) = found(stack(50))
    assert (only.kind, only.severity, only.direction) == ("exploding", "broken", "backward")
    assert only.evidence["factor"] > 1 / 2**-11.5
    assert only.remedy.action == "residual"
    assert only.remedy.factors == {}


def test_chaos_between_norms_counts_as_before():
    chaotic = [stack(24, norm=None, activation=nn.Tanh, gain=2.0), stack(24, activation=nn.Tanh, gain=2.0, every=12)]
    for net in chaotic:
        assert ("exploding", "broken", "backward") in said(net)


def test_what_a_norm_makes_good_at_each_second_layer_is_no_change_over_the_depth():
    assert said(stack(24, every=2, gain=0.5)) == []


@pytest.mark.parametrize("depth", [12, 20])
def test_a_residual_stream_without_norms_grows_with_its_sums(depth):
    (only,) = found(Summed(depth))
    assert (only.kind, only.direction) == ("exploding", "forward")
    assert only.sites[:2] == ("down.0", "down.1")
    assert only.remedy.factors == {f"down.{at}": pytest.approx(depth**-0.5) for at in range(depth)}
    assert f"1/sqrt({depth})" in only.remedy.text
    assert "zero-initialize" in only.remedy.text


def test_the_remedy_of_a_growing_stream_makes_it_sound():
    net = Summed(20)
    (only,) = found(net)
    with torch.no_grad():
        for name, factor in only.remedy.factors.items():
            net.get_submodule(name).weight.mul_(factor)
    assert said(net) == []


def test_a_growing_stream_of_convolutions_names_the_last_layer_of_each_branch():
    (only,) = found(Modules(16), 4, 3, 8, 8)
    assert set(only.sites) <= {f"blocks.{at}.2" for at in range(16)}
    assert only.sites[:12] == tuple(f"blocks.{at}.2" for at in range(12))


@pytest.mark.parametrize(
    "net",
    [
        Summed(20, last=lambda weight: weight.data.mul_(20**-0.5)),
        Summed(20, last=nn.init.zeros_),
        Summed(4),
        Summed(20, norm=nn.LayerNorm),
        Summed(20, norm=nn.BatchNorm1d),
        Summed(20, ending=nn.LayerNorm),
        Summed(20, ending=nn.BatchNorm1d),
    ],
    ids=["scaled", "zero", "few sums", "pre-norm", "pre-batch-norm", "post-norm", "post-batch-norm"],
)
def test_a_residual_stream_that_something_holds_is_sound(net):
    assert said(net) == []


def test_a_stack_of_many_post_norms_is_told_to_warm_up_and_not_to_rescale_weights():
    # Each norm divides the gradient by the size of a sum of two summands of one size.
    net = Summed(48, ending=nn.LayerNorm)
    with torch.no_grad():
        for layer in net.up:
            layer.weight.zero_()
            layer.bias.normal_(std=2.0)
    (only,) = found(net)
    assert (only.kind, only.severity, only.direction) == ("vanishing", "broken", "backward")
    assert "warm up" in only.remedy.text
    assert only.remedy.factors == {}


def test_the_limit_across_norms_is_that_of_float32():
    assert 40 < limits.EXPLODED / torch.tensor(torch.pi / (torch.pi - 1)).sqrt().log() < 44


class Branch(nn.Module):
    """A pre-norm block: attention stands for a linear layer, the MLP has two."""

    def __init__(self, width, *, without=()):
        super().__init__()
        self.ln_1, self.ln_2 = (nn.Identity() if at in without else nn.LayerNorm(width) for at in (1, 2))
        self.mix, self.up, self.act, self.down = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )

    def forward(self, x):
        x = x + self.mix(self.ln_1(x))
        return x + self.down(self.act(self.up(self.ln_2(x))))


def transformer(*, depth=4, last=True, embedding=1.0, without=()):
    """Return blocks on an embedding; `without`: block and number of the norms that are missing."""
    torch.manual_seed(0)
    net = nn.Sequential()
    net.embed = nn.Embedding(20, WIDTH)
    nn.init.normal_(net.embed.weight, std=embedding)
    net.blocks = nn.Sequential(
        *(Branch(WIDTH, without=[n for block, n in without if block == at]) for at in range(depth))
    )
    net.norm, net.head = nn.LayerNorm(WIDTH) if last else nn.Identity(), nn.Linear(WIDTH, 20)
    return net


class Bottleneck(nn.Module):
    """A block with batch norms, the third of them before the sum, and a shortcut with its own where widths differ."""

    def __init__(self, inputs, outputs, *, without=(), gate=False):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn1, self.bn2, norm = (
            nn.Identity() if at in without else nn.BatchNorm2d(outputs) for at in ("bn1", "bn2", "short")
        )
        self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1), norm) if inputs != outputs else nn.Identity()
        self.squeeze, self.excite = (nn.Conv2d(outputs, outputs, 1) for _ in range(2)) if gate else (None, None)

    def forward(self, x):
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.squeeze is not None:
            pooled = F.adaptive_avg_pool2d(branch, 1)
            branch = branch * torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))
        return F.relu(branch + self.short(x))


def resnet(*, without=(), gate=False):
    """Return blocks of three widths; `without`: stage, block and name of the norms that are missing."""
    torch.manual_seed(0)
    net = nn.Sequential()
    net.stem, width = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()), 8
    for stage in range(3):
        wide = 8 * 2**stage + 8
        sizes = [(width, wide), (wide, wide)]
        net.add_module(
            f"layer{stage}",
            nn.Sequential(
                *(
                    Bottleneck(*size, gate=gate, without=[name for s, b, name in without if (s, b) == (stage, block)])
                    for block, size in enumerate(sizes)
                )
            ),
        )
        width = wide
    net.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))
    return net


def lacking(net, batch):
    evidence = Evidence.of([propscope.profile(net, batch, stats="moments")])
    return [(each.first, each.severity) for each in missing_norms(evidence)]


def tokens():
    return torch.randint(20, (8, 6), generator=torch.Generator().manual_seed(0))


def images():
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("norm", "named"),
    [((0, 1), "blocks.0.mix"), ((2, 1), "blocks.2.mix"), ((3, 2), "blocks.3.up"), ((0, 2), "blocks.0.up")],
)
def test_a_block_of_a_transformer_without_the_norm_of_the_others_is_found(norm, named):
    assert (named, "strained") in lacking(transformer(without=[norm]), tokens())


@pytest.mark.parametrize(
    ("norm", "named"),
    [
        ((0, 0, "bn1"), "layer0.0.conv1.relu"),
        ((1, 1, "bn2"), "layer1.1.add"),
        ((2, 0, "short"), "layer2.0.add"),
        ((2, 1, "bn1"), "layer2.1.conv1.relu"),
    ],
)
def test_a_block_of_another_width_and_a_shortcut_without_a_norm_are_found(norm, named):
    assert lacking(resnet(without=[norm]), images()) == [(named, "strained")]


@pytest.mark.parametrize("at", [1, 4, 10])
def test_a_layer_of_a_plain_sequence_that_no_norm_follows_is_found(at):
    layers = [layer for _ in range(7) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())]
    layers[at] = nn.Identity() if isinstance(layers[at], nn.BatchNorm2d) else layers[at]
    assert lacking(nn.Sequential(*layers), images()) == ([(str(at + 1), "strained")] if at % 3 == 1 else [])


@pytest.mark.parametrize("gate", [False, True])
def test_a_stream_that_enters_its_first_sum_without_a_norm_is_sound(gate):
    blocks = (Bottleneck(8, 8, gate=gate) for _ in range(6))
    assert lacking(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *blocks), images()) == []


class Mixer(nn.Module):
    """A sum of normed branches beside a stream, as in FastViT, behind an activation."""

    def __init__(self, width):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def branches(self, x):
        return self.norms[0](x) + self.norms[1](self.conv(x))

    def forward(self, x):
        x = F.gelu(x)
        return x + self.branches(x)


class Branches(Mixer):
    """The same without a stream."""

    def forward(self, x):
        return self.branches(F.gelu(x))


class PreNormed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.up, self.down = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


def test_a_stream_beside_branches_that_a_norm_starts_is_sound():
    torch.manual_seed(0)
    blocks = (Branches(8) if at != 3 else Mixer(8) for at in range(7))
    assert lacking(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *blocks), images()) == []


def test_a_layer_between_stages_is_not_held_against_the_layers_of_blocks():
    torch.manual_seed(0)
    first, second = ([PreNormed(width) for _ in range(4)] for width in (8, 16))
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *first, nn.Conv2d(8, 16, 2, 2), *second)
    assert lacking(net, images()) == []
    net[7].norm = nn.Identity()
    assert lacking(net, images()) == [("7.up", "strained")]


@pytest.mark.parametrize("net", [resnet(), resnet(gate=True)], ids=["plain", "squeeze and excitation"])
def test_convolutions_whose_norms_are_all_there_are_sound(net):
    assert lacking(net, images()) == []


@pytest.mark.parametrize(("options", "severity"), [({}, "note"), ({"embedding": 0.001}, "strained")])
def test_a_last_norm_is_missed_only_where_the_size_is_off(options, severity):
    net = transformer(last=False, **options)
    with torch.no_grad():
        for block in net.blocks if options else ():
            block.mix.weight.mul_(0.03), block.down.weight.mul_(0.03)
            block.mix.bias.zero_(), block.down.bias.zero_()
    assert lacking(transformer(), tokens()) == []
    assert lacking(net, tokens()) == [("head", severity)]


def test_a_stream_that_every_block_adds_twice_is_meant():
    class Doubling(Branch):
        def forward(self, x):
            return x + (x + self.mix(self.ln_1(x)))

    def severities(blocks):
        net = nn.Sequential(*blocks)
        evidence = Evidence.of([propscope.profile(net, torch.randn(16, WIDTH), stats="moments")])
        return {each.severity for each in doubled_sums(evidence)}

    torch.manual_seed(0)
    assert severities([Branch(WIDTH), Doubling(WIDTH), Branch(WIDTH)]) == {"strained"}
    assert severities([Branch(WIDTH), Doubling(WIDTH), Doubling(WIDTH)]) == {"note"}


def class_token(size, *, gain=1.0):
    """Return a network that reads a class token of this size: blocks whose norm enters beside a way without one."""

    def block(m, x):
        x = torch.cat([m.norm(x[:, :1]), x[:, 1:]], 1)
        return x + torch.cat([m.down(F.gelu(m.up(x[:, :1]))), x[:, 1:]], 1)

    blocks = []
    for _ in range(2):
        up, down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(down.weight, std=gain / WIDTH**0.5)
        blocks.append(Made(block, norm=nn.LayerNorm(WIDTH), up=up, down=down))

    def run(m, x):
        x = torch.cat([m.token.expand(len(x), -1, -1), x], 1)
        x = x + m.enter(x)
        return m.head(m.blocks(x)[:, 0])

    enter = nn.Linear(WIDTH, WIDTH, bias=False)
    token = nn.Parameter(size * torch.randn(1, 1, WIDTH))
    return Made(run, token=token, enter=enter, blocks=nn.Sequential(*blocks), head=nn.Linear(WIDTH, 5))


def test_a_gradient_that_grows_by_a_small_token_before_a_norm_is_the_norms():
    torch.manual_seed(0)
    assert said(class_token(0.02), 16, 9, WIDTH) == []
    # Weights behind the norm are not.
    grown = said(class_token(0.02, gain=500.0), 16, 9, WIDTH)
    assert grown


def blockwise(summed, *, large=1.25):
    """Return a residual network of blocks that sum three summands in two steps, with a last one of this size."""

    def block():
        parts = {"norm": nn.LayerNorm(WIDTH), "one": nn.Linear(WIDTH, WIDTH), "end": nn.LayerNorm(WIDTH)}
        nn.init.constant_(parts["end"].weight, large)
        return Made(lambda m, x: summed(m, F.layer_norm(x, (WIDTH,))), **parts)

    return nn.Sequential(nn.Linear(WIDTH, WIDTH), block(), nn.Linear(WIDTH, 5))


def alone(m, x):
    inner = 0.8 * x + 0.6 * F.layer_norm(m.one(x), (WIDTH,))
    return inner + m.end(torch.roll(inner, 1, -1))


def twice(m, x):
    inner = x + m.end(m.one(x))
    return x + inner


@pytest.mark.parametrize(("summed", "is_found"), [(alone, False), (twice, True)])
def test_a_sum_that_is_the_stream_of_another_is_not_taken_for_its_branch(summed, is_found):
    torch.manual_seed(0)
    evidence = Evidence.of([propscope.profile(blockwise(summed), torch.randn(256, WIDTH), stats="moments")])
    assert bool([*doubled_sums(evidence)]) is is_found
