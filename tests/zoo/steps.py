"""What the user's own code does with a model: the ordinary step, and the unusual ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.comparison import leaves

Step = Callable[[nn.Module, Any], tuple[Any, Tensor | None]]


def call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def squares(output: Any) -> Tensor | None:
    """Return the model's own loss where it has one, else the sum of the mean squares of its floating outputs."""
    if isinstance(output, Mapping) and output.get("loss") is not None:
        return output["loss"]
    parts = [leaf for _, leaf in leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.numel()]
    return sum(part.abs().square().float().mean() for part in parts) if parts else None


def forward_backward(context: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Step:
    """Return the ordinary step, with the forward pass and the loss inside `context`."""

    def step(model: nn.Module, batch: Any) -> tuple[Any, Tensor | None]:
        with context():
            output = call(model, batch)
            loss = squares(output)
        if loss is not None:
            loss.backward()
        return output, loss

    return step


def training(model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
    """Three updates by Adam with clipping, each from two accumulated backward passes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(2):
            output = call(model, batch)
            loss = squares(output)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return output, loss


def scaled(model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
    """One update of float16 autocast with a GradScaler."""
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with torch.autocast("cpu", torch.float16):
        output = call(model, batch)
        loss = squares(output)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    return (output, scaler.get_scale()), loss


def gradient_penalty(model: nn.Module, batch: Tensor) -> tuple[Any, Tensor]:
    """A loss that contains the gradient with respect to the input: the backward pass is itself differentiated."""
    x = batch.clone().requires_grad_()
    output = model(x)
    (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    loss = output.square().mean() + slope.square().mean()
    loss.backward()
    return (output, slope), loss


def two_backwards(model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
    """Two backward passes through one graph."""
    output = call(model, batch)
    loss = squares(output)
    loss.backward(retain_graph=True)
    output.sum().backward()
    return output, loss


def input_gradients(model: nn.Module, batch: Tensor) -> tuple[Any, Tensor | None]:
    """The step with an input that needs a gradient; it and the outputs keep what hooks the recorder left on them."""
    x = batch.clone().requires_grad_()
    output, loss = forward_backward()(model, x)
    return (output, x, x.grad), loss


def shorter_and_longer(model: nn.Module, batch: Tensor) -> tuple[Any, Tensor]:
    """Batches of different lengths."""
    outputs = [model(batch[:, :length]) for length in (batch.shape[1], 2, batch.shape[1] - 1)]
    loss = sum(output.square().sum() for output in outputs)
    loss.backward()
    return outputs, loss


def per_sample_gradients(model: nn.Module, batch: Tensor) -> tuple[Any, None]:
    """Gradients of each sample by `torch.func`: the model runs on batched tensors inside a transform."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (x[None],)).square().sum()

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch), None


def directional(model: nn.Module, batch: Tensor) -> tuple[Any, Tensor]:
    """A directional derivative by forward-mode differentiation, then an ordinary step."""
    output, slope = torch.func.jvp(model, (batch,), (torch.ones_like(batch),))
    return (output.detach(), slope.detach(), forward_backward()(model, batch)[0]), None


def counted_saves(model: nn.Module, batch: Any) -> tuple[Any, Tensor | None]:
    """The step under the user's own saved-tensor hooks, which count what autograd saves and loads."""
    saved, loaded = [], []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor.clone()

    def unpack(tensor: Tensor) -> Tensor:
        loaded.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        output, loss = forward_backward()(model, batch)
    return (output, saved, loaded), loss


def averaged(model: nn.Module, batch: Any) -> tuple[Any, Tensor | None]:
    """A copy of the model made in the middle of training, as moving averages of weights are; it must carry no hooks."""
    output, loss = forward_backward()(model, batch)
    twin = copy.deepcopy(model)
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in twin.modules())
    return (output, call(twin, batch), hooks), loss


def saved_whole(model: nn.Module, batch: Any) -> tuple[Any, Tensor | None]:
    """The whole model pickled in the middle of training, as checkpoints are, and read back."""
    import io

    output, loss = forward_backward()(model, batch)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return (output, call(torch.load(file, weights_only=False), batch)), loss


def inference(model: nn.Module, batch: Any) -> tuple[Any, None]:
    with torch.inference_mode():
        return call(model, batch), None


def no_grad(model: nn.Module, batch: Any) -> tuple[Any, None]:
    with torch.no_grad():
        return call(model, batch), None
