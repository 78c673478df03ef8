"""Networks of the zoo inside something else: wrappers, compilers, parametrizations, hooks of the user's own."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def mlp(*, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16),
        nn.ReLU(),
        nn.LayerNorm(16),
        nn.Linear(16, 16),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(16, 4),
    ).to(dtype)


class Precision(nn.Module):
    """Every layer that the half-precision types have on the CPU: convolution, norms, attention, embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.final = nn.LayerNorm(8)
        self.act = nn.GELU()
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.conv(self.embed(tokens).transpose(1, 2))).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.act(self.final(x)))


def data_parallel() -> nn.Module:
    return nn.DataParallel(mlp(dropout=0.2))


def distributed() -> nn.Module:
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(mlp(dropout=0.2))


def compiled(backend: str, *, warm: bool = False) -> nn.Module:
    """Return a compiled MLP; `warm`: it ran before anyone watched, so that its graph knows of no hooks."""
    torch._dynamo.reset()
    model = torch.compile(mlp(), backend=backend)
    if warm:
        model(torch.randn(5, 8)).sum().backward()
        model.zero_grad()
    return model


def compiled_inside(*, in_place: bool) -> nn.Module:
    """Return an MLP of which one block is compiled, as a module of its own or by its `compile` method."""
    torch._dynamo.reset()
    model = uncompiled_inside()
    if in_place:
        model[1].compile(backend="eager")
    else:
        model[1] = torch.compile(model[1], backend="eager")
    return model


def uncompiled_inside() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16), nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)), nn.Linear(16, 4)
    )


def scripted() -> nn.Module:
    """A layer in TorchScript, which takes no hooks, inside a module that does."""
    return nn.Sequential(nn.Linear(8, 8), torch.jit.script(nn.Sequential(nn.Tanh(), nn.Linear(8, 8))), nn.Linear(8, 2))


def symbolic() -> nn.Module:
    return torch.fx.symbolic_trace(mlp())


def parametrized() -> nn.Module:
    """Weights that are computed each time they are read; spectral norm updates its buffers at every reading."""
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(8, 16)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(16, 16)),
        nn.Tanh(),
        parametrizations.orthogonal(nn.Linear(16, 4)),
    )


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


class UserHooks(nn.Module):
    """Hooks of every kind that the user set before: some replace what passes, and they must stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.head = nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
        self.calls: list[str] = []
        self.first.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
        self.first.register_forward_hook(lambda module, inputs, output: output + 1)
        self.act.register_forward_hook(self._note, with_kwargs=True, always_call=True)
        self.act.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 3,))
        self.act.register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * 0.5,))
        self.head.register_state_dict_pre_hook(lambda module, prefix, keep: None)
        self.head.weight.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
        self.head.bias.register_post_accumulate_grad_hook(self._double)

    def _note(self, module: nn.Module, inputs: Any, keywords: Any, output: Tensor | None) -> None:
        self.calls.append(f"{type(module).__name__} {None if output is None else tuple(output.shape)}")

    @staticmethod
    def _double(parameter: Tensor) -> None:
        parameter.grad.mul_(2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[str]]:
        return self.head(self.act(self.first(x))), self.calls


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * gradient * x**2


class OwnFunction(nn.Module):
    """An autograd.Function of the user's, and a part that runs without gradients, as a target network does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head, self.target = nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = Cube.apply(self.linear(x))
        with torch.no_grad():
            aim = self.target(hidden)
        return self.head(hidden), aim


class CaughtException(nn.Module):
    """A part that fails, and a model that goes on without it."""

    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("as always")

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = self.Fails(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.part(x)
        except ValueError:
            x = torch.relu(x)
        return self.head(x)


class VariableLength(nn.Module):
    """A nonlinearity over the time axis, whose length changes from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.act, self.head = nn.Linear(4, 1), nn.Tanh(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.act(self.score(x).squeeze(-1))
        return self.head((shares.unsqueeze(-1) * x).sum(1))
