"""Networks of any width, in the standard parametrization, in muP and in the NTK parametrization, and their optimizers.

muP follows Yang et al. 2022, table 8, with factors of 1 at width 32: SGD's and Adam's learning rates differ by layer.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE = 32


class Perceptron(nn.Module):
    """Two hidden layers between an input layer from 16 numbers and a readout of 10; `style`: standard, mup or ntk."""

    def __init__(self, width: int, style: str = "standard") -> None:
        super().__init__()
        sizes = (16, width, width, width, 10)
        self.layers = nn.ModuleList(nn.Linear(m, n, bias=False) for m, n in itertools.pairwise(sizes))
        self.style = style
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=1.0 if style == "ntk" else layer.in_features**-0.5)
        if style == "mup":
            nn.init.normal_(self.layers[-1].weight, std=1 / width)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(F.relu(x) * math.sqrt(2) if number else x)
            x = x / math.sqrt(layer.in_features) if self.style == "ntk" else x
        return x


class Block(nn.Module):
    """Attention and an MLP behind norms, in a stream; attention of `power` 1 divides by the size of a head."""

    def __init__(self, width: int, heads: int, power: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -power
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt2(nn.Module):
    """A small GPT-2: two blocks, two heads that widen, a vocabulary of 48; `style`: standard or mup."""

    def __init__(self, width: int, style: str = "standard") -> None:
        super().__init__()
        mup = style == "mup"
        self.tokens, self.places = nn.Embedding(48, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList(Block(width, 2, 1.0 if mup else 0.5) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 48, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        if mup:
            nn.init.normal_(self.head.weight, std=1 / width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def mup_adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam with a learning rate of 1 / fan_in for weights whose fan_in widens."""
    groups = []
    for module in model.modules():
        wide = isinstance(module, nn.Linear) and module.in_features > 16
        for name, parameter in module.named_parameters(recurse=False):
            factor = BASE / module.in_features if wide and name == "weight" else 1.0
            groups.append({"params": [parameter], "lr": lr * factor})
    return torch.optim.Adam(groups, lr=lr)


def mup_sgd(model: Perceptron, lr: float) -> torch.optim.Optimizer:
    """SGD with the learning rates of muP: by fan_out for the input layer, by 1 / fan_in for the readout."""
    first, *hidden, last = model.layers
    grown = last.in_features / BASE
    rates = [(first, lr * grown), *((layer, lr) for layer in hidden), (last, lr / grown)]
    return torch.optim.SGD([{"params": layer.parameters(), "lr": rate} for layer, rate in rates], lr=lr)
