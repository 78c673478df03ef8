"""Small networks to inspect, healthy and broken: each function returns a `torch.nn.Module`.

propscope inspect examples/models.py:resnet --input-shape 8,3,32,32
propscope inspect examples/models.py:misscaled_resnet --input-shape 8,3,32,32
propscope inspect examples/models.py:sigmoid_net --arg depth=30 --input-shape 64,128
propscope inspect examples/models.py:language_model --input-shape 4,64 --input-kind tokens
propscope width-check examples/models.py:perceptron --width 64,128,256 --input-shape 64,16 --expect standard
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(depth: int = 6, width: int = 128, classes: int = 10) -> nn.Module:
    """A plain ReLU network with He initialization."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(width, classes))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return net


def sigmoid_net(depth: int = 30, width: int = 128, classes: int = 10) -> nn.Module:
    """Broken: the slope of sigmoid is at most 1/4, so the gradient shrinks in each of the 30 layers."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


class Block(nn.Module):
    """Two convolutions with batch norm around a shortcut; the ReLU works in place and is used twice."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet(nn.Module):
    """Three stages of residual blocks for small images (He et al. 2016, section 4.2)."""

    def __init__(self, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True))
        channels = width
        for stage in range(1, 4):
            wide = width * 2 ** (stage - 1)
            stride = 1 if stage == 1 else 2
            rest = [Block(wide, wide, 1) for _ in range(blocks - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(Block(channels, wide, stride), *rest))
            channels = wide
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


def resnet(width: int = 16, blocks: int = 2, classes: int = 10) -> nn.Module:
    """A healthy residual network."""
    return ResNet(width, blocks, classes)


def misscaled_resnet(factor: float = 100.0, width: int = 16, blocks: int = 2) -> nn.Module:
    """Broken: one convolution's weight is `factor` times too large.

    The batch norm after it hides that from the loss. But the gradient of the weight is `factor` times too small, so a
    training step hardly changes it.
    """
    net = ResNet(width, blocks, 10)
    with torch.no_grad():
        net.stage2[1].conv1.weight.mul_(factor)
    return net


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class TransformerBlock(nn.Module):
    """Attention and an MLP, each after a norm and added to the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class LanguageModel(nn.Module):
    """A decoder: embeddings, blocks, a norm and a readout."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x))


def language_model(
    vocabulary: int = 200, width: int = 64, depth: int = 3, heads: int = 4, length: int = 128
) -> nn.Module:
    """A healthy transformer language model; its input is tokens, shape (batch, length)."""
    return LanguageModel(vocabulary, width, depth, heads, length)


def perceptron(width: int, depth: int = 3) -> nn.Module:
    """A ReLU network from 16 numbers to 10 in the standard parametrization: weights of variance 2 / fan_in."""
    sizes = [16, *[width] * depth, 10]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


def mup_perceptron(width: int, depth: int = 3) -> nn.Module:
    """The same network in muP (Yang et al. 2022, table 8); its learning rates are those of `mup_adam`."""
    net = perceptron(width, depth)
    nn.init.normal_(net[-1].weight, std=1 / width)
    return net


def mup_adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam with the learning rates of muP: lr at width 64, and for weights whose fan_in is the width, lr 64 / width."""
    groups = []
    for number, layer in enumerate(model.children()):
        for name, parameter in layer.named_parameters():
            factor = 64 / layer.in_features if number and name == "weight" else 1.0
            groups.append({"params": [parameter], "lr": lr * factor})
    return torch.optim.Adam(groups)
