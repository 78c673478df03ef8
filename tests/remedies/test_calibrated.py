"""What `calibrate` does to a sound network is no fault to `diagnose`."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import propscope


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Basic(nn.Module):
    """The basic block of a ResNet (He et al. 2016), with its shortcut where the shape changes."""

    def __init__(self, inputs, outputs):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.down = nn.Sequential() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.down(x))


class Block(nn.Module):
    """A pre-norm block of a transformer."""

    def __init__(self, width, causal):
        super().__init__()
        self.n1, self.n2, self.causal = nn.LayerNorm(width), nn.LayerNorm(width), causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(self.n1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    def __init__(self, tied, std=0.02):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, 32), nn.Embedding(12, 32)
        self.blocks = nn.Sequential(*(Block(32, causal=True) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.tokens(x) + self.positions(torch.arange(x.shape[1])))))


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 32, 4, 4), nn.Sequential(*(Block(32, causal=False) for _ in range(3)))
        self.token, self.positions = (nn.Parameter(0.02 * torch.randn(1, n, 32)) for n in (1, 17))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Latents(nn.Module):
    """Learned queries that read a set, as in a Perceiver: an average over twenty keys is small."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(1, 4, 32))
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(128, 5)

    def forward(self, x):
        return self.head(self.attention(self.queries.expand(len(x), -1, -1), x, x)[0].flatten(1))


def mlp(activation, depth):
    return nn.Sequential(*(each for _ in range(depth) for each in (nn.Linear(32, 32), activation())), nn.Linear(32, 4))


def resnet():
    blocks = (Basic(*sizes) for sizes in ((8, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)))
    stem = (nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


IMAGES, TOKENS = (16, 3, 16, 16), (16, 12)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (resnet, IMAGES),
        (ViT, IMAGES),
        (lambda: GPT(tied=True), TOKENS),
        (lambda: GPT(tied=False), TOKENS),
        (lambda: mlp(nn.ReLU, 12), (64, 32)),
        (lambda: mlp(nn.Tanh, 12), (64, 32)),
        (lambda: mlp(nn.GELU, 6), (64, 32)),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2), (16, 20, 32)),
        (Latents, (16, 20, 32)),
    ],
)
def test_a_calibrated_network_is_healthy(build, shape):
    net = build()
    batch = torch.randint(0, 50, shape) if shape == TOKENS else torch.randn(shape)
    propscope.calibrate(net, batch)
    found = propscope.diagnose(propscope.profile(net, batch))
    assert found.verdict == "healthy", str(found)


def test_a_large_weight_that_makes_its_values_large_is_one_still():
    net = Latents()
    with torch.no_grad():
        net.attention.out_proj.weight.mul_(300)
    assert propscope.diagnose(propscope.profile(net, torch.randn(16, 20, 32))).worst.first == "attention[0]"
