"""Networks of the zoo that return, or pass between layers, what is no plain dense float tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Statistics(NamedTuple):
    mean: Tensor
    count: Tensor


@dataclass
class Prediction:
    logits: Tensor
    best: Tensor
    sure: Tensor
    statistics: Statistics
    extra: dict[Any, Any] = field(default_factory=dict)
    note: str = ""
    missing: Tensor | None = None


class Classify(nn.Module):
    """Integers and booleans, one of them the first tensor that it returns."""

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return logits.argmax(-1), logits.amax(-1) > 0, torch.softmax(logits, -1)


class MixedOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 4)
        self.classify = Classify()

    def forward(self, x: Tensor) -> Prediction:
        hidden = self.act(self.body(x))
        logits = self.head(hidden)
        best, sure, shares = self.classify(logits)
        statistics = Statistics(hidden.mean(0), torch.tensor(len(x)))
        return Prediction(logits, best, sure, statistics, {"shares": [shares, 3], 7: (hidden,)}, note="fine")


class Node:
    """An object of the user's own class, which no rule of nesting knows."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


@dataclass
class Cycle:
    """An output that contains itself, as a tree whose children know their parent does."""

    value: Tensor
    parent: Cycle | None = None


class CyclicOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Cycle:
        cycle = Cycle(self.linear(x))
        cycle.parent = cycle
        return cycle


class Opaque(nn.Module):
    """Tensors inside an object of an own class, passed on to the next layer."""

    class Wrap(nn.Module):
        def forward(self, x: Tensor) -> Node:
            return Node(x * 2)

    class Unwrap(nn.Module):
        def forward(self, node: Node) -> Tensor:
            return node.value

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.wrap, self.unwrap, self.head = nn.Linear(4, 6), self.Wrap(), self.Unwrap(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.unwrap(self.wrap(self.linear(x))))


class ReturnsInput(nn.Module):
    """Hands its own input back, after children that do the same."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()
        self.dropout = nn.Dropout(0.0)
        self.aside = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.same(x)
        return x, self.aside(self.dropout(x))


class Complex(nn.Module):
    """A spectral layer: complex weights, complex outputs, a conjugate view and its real and imaginary parts."""

    class Conjugate(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.conj()

    class Imaginary(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.imag

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.spectral = nn.Linear(5, 5, dtype=torch.complex64)
        self.conjugate, self.imaginary = self.Conjugate(), self.Imaginary()
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conjugate(self.spectral(torch.fft.rfft(self.linear(x))))
        return self.head(torch.cat([z.real, self.imaginary(z)], dim=-1))


class SparseGradients(nn.Module):
    """Embedding and EmbeddingBag whose gradients are sparse tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(40, 6, sparse=True)
        self.bags = nn.EmbeddingBag(40, 6, mode="sum", sparse=True)
        self.head = nn.Linear(6, 2)

    def forward(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        return self.head(torch.cat([self.tokens(tokens), self.bags(tokens, offsets)]))


class SparseOutput(nn.Module):
    """A layer that returns a sparse tensor, and one that takes it."""

    class ToSparse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().to_sparse()

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.sparsify, self.head = nn.Linear(6, 6), self.ToSparse(), nn.Linear(3, 2)
        self.weight = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sparse.mm(self.sparsify(self.linear(x)), self.weight))


class NestedOutput(nn.Module):
    """A layer that returns a jagged nested tensor: rows of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        ragged = torch.nested.as_nested_tensor([x[0, :2], x[1, :3]], layout=torch.jagged)
        return self.act(self.linear(ragged)).values()


class Float8(nn.Module):
    """A layer that returns an 8-bit float, as quantizers do."""

    class Cast(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.dtype = dtype

        def forward(self, x: Tensor) -> Tensor:
            return x.to(self.dtype)

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
        self.down, self.up = self.Cast(torch.float8_e4m3fn), self.Cast(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.down(self.linear(x))))


class Tagged(Tensor):
    """A subclass of Tensor, without behaviour of its own."""


class Subclassed(nn.Module):
    class Tag(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.as_subclass(Tagged)

    def __init__(self) -> None:
        super().__init__()
        self.tag, self.linear, self.act, self.head = self.Tag(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.linear(self.tag(x))))


class Counted(Tensor):
    """A subclass of Tensor that notes each function called with it, as units and lazy tensors do."""

    calls = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls += 1
        return super().__torch_function__(func, types, args, kwargs or {})


class CountedCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act, self.head = nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        Counted.calls = 0
        x = torch.relu(self.act(self.linear(x.as_subclass(Counted)))) + x
        return self.head(x), Counted.calls


class ZeroElements(nn.Module):
    """Experts that get no tokens, and a layer whose output has no features."""

    class NoFeatures(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :0]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(3))
        self.nothing, self.act, self.head = self.NoFeatures(), nn.Tanh(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            chosen = torch.arange(len(x)) % 2 == index
            out[chosen] = expert(x[chosen])
        return self.head(out), self.act(self.nothing(x))


class NonFinite(nn.Module):
    """NaN and Inf in the middle of the signal, values and gradients alike."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act, self.head = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.linear(x) / torch.tensor([0.0, 1, 1, 1, 1, 1]) * torch.tensor(3e38)))


class Expanded(nn.Module):
    """Outputs that are views with stride zero, without dimensions, or with seven of them."""

    class Reshape(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x[:1].expand(5, -1), x.sum(), x.reshape(1, 1, 1, 1, 1, *x.shape).transpose(-1, -2)

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.reshape, self.act = nn.Linear(6, 6), self.Reshape(), nn.Tanh()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.act(part) for part in self.reshape(self.linear(x))]
