"""Networks of the zoo whose signal runs through functions, keyword arguments, shared layers and checkpoints."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Functional(nn.Module):
    """Nonlinearities, attention and normalization without a module of their own; additions in place and not."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(6))
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layers[0](x))
        x = self.layers[1](x).relu()
        x = x + torch.tanh(self.layers[2](x))
        x = F.gelu(self.layers[3](x))
        scores = F.softmax(x @ x.transpose(-1, -2), dim=-1)
        x = F.scaled_dot_product_attention(scores @ x, x, x)
        x = F.layer_norm(x, x.shape[-1:], self.scale)
        branch = self.layers[4](F.relu_(x + 1))
        branch += x
        return self.layers[5](F.dropout(F.silu(branch), 0.2, self.training))


class Keywords(nn.Module):
    """Takes keyword arguments alone, and calls its layers by keyword too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)
        self.act = nn.Tanh()
        self.head = nn.Linear(8, 3)

    def forward(self, *, features: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.act(input=self.linear(input=features))
        if mask is not None:
            hidden = hidden.masked_fill(mask[:, None], 0.0)
        return {"logits": self.head(input=hidden) * scale}


class Shared(nn.Module):
    """The same Linear four times in one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.act = nn.Tanh()
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = self.act(self.linear(x))
        return self.head(x)


class Checkpointed(nn.Module):
    """Two blocks whose activations are computed again in the backward pass; `mode` None runs them plainly."""

    def __init__(self, *, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 8), nn.Tanh()) for _ in range(2)
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


class Residual(nn.Module):
    """A wrapper whose child is called `module`, as in many code bases, though nothing is parallel here."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return x + self.module(x)


def child_named_module() -> nn.Module:
    return nn.Sequential(Residual(nn.Linear(6, 6)), Residual(nn.Sequential(nn.Linear(6, 6), nn.Tanh())))


class Views(nn.Module):
    """In-place changes of a view, of a layer's output and of a slice of it, after the layer returned."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.flat = nn.Flatten()
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden[:, :4] *= 2.0
        view = self.flat(hidden)
        view.relu_()
        out = self.second(hidden)
        out[0] = 0.0
        out += view
        out.clamp_(-1, 1)
        return self.head(out)
