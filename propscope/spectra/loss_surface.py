"""How the loss changes around a network's weights: on a plane through them, and by the eigenvalues of its Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from propscope.checks import count, fits_memory, known_arguments, number, seed_number
from propscope.errors import InputError
from propscope.measure.batches import call_model
from propscope.measure.outputs import as_batch
from propscope.measure.profiler import Loss
from propscope.measure.undisturbed import undisturbed
from propscope.networks import seeded_generator
from propscope.records.loss_surface import LossSurface
from propscope.records.network import Floats

# As many products with the Hessian at once as pay off.
_AT_ONCE = 64


@known_arguments
def loss_surface(
    model: nn.Module,
    batch: Any,
    loss: Loss,
    *,
    reach: float = 1.0,
    points: int = 31,
    seed: int = 0,
    name: str = "",
) -> LossSurface:
    """Return the loss on a plane through a model's weights, in two random directions; the model stays as it was.

    `batch` and `loss` are as in `propscope.profile`. Each direction is drawn from N(0, 1) with `seed`, and then scaled
    so that each unit (row, filter) of a weight has the norm of the model's own weights; biases and the weights of norms
    stay (Li et al. 2018, section 4: filter-normalized directions). So networks with large and small weights are shown
    at the same relative distance. `reach`: the largest step each way, in units of the weights. `points`: the steps in
    each direction, an odd number. Every point sees the same random numbers, as those of dropout.

    Raises `InputError` for an argument that is not valid, and for a model without a weight of two dimensions.
    """
    points = count("points", points, least=3)
    if not points % 2:
        raise InputError(f"points must be odd, so that one of them is the model itself, got {points}")
    reach = number("reach", reach, above=True)
    seed_number(seed)
    weights = {key: value.detach() for key, value in model.named_parameters() if value.ndim > 1}
    if not weights:
        raise InputError("the model has no weight of two or more dimensions, and so no direction to move in")
    first, second = (_direction(weights, seeded_generator(seed, "loss surface", axis)) for axis in ("first", "second"))
    steps = np.linspace(-reach, reach, points)
    steps[points // 2] = 0.0
    with _evaluating(model, batch, loss, seed) as loss_at, torch.no_grad():
        losses = [
            loss_at({key: w + across * first[key] + down * second[key] for key, w in weights.items()})
            for down in steps.tolist()
            for across in steps.tolist()
        ]
    values = torch.stack(losses).double().reshape(points, points).cpu().numpy()
    return LossSurface(steps, values, name)


@known_arguments
def hessian_eigenvalues(model: nn.Module, batch: Any, loss: Loss, *, seed: int = 0) -> Floats:
    """Return the eigenvalues of the Hessian of the loss over all parameters, ascending, shape (parameters,).

    `batch` and `loss` are as in `propscope.profile`; the model stays as it was. The whole matrix is computed, one
    backward pass a row, in the type of the parameters: for the small eigenvalues give a model and a batch of float64.
    The largest one bounds the learning rate of gradient descent by 2 / largest. `seed` is that of dropout.

    Raises `InputError` for a model whose matrix does not fit in memory, or without parameters to train.
    """
    seed_number(seed)
    leaves = {key: value.detach() for key, value in model.named_parameters() if value.requires_grad}
    size = sum(value.numel() for value in leaves.values())
    if not size:
        raise InputError("the model has no parameter that requires a gradient")
    item = max(value.element_size() for value in leaves.values())
    fits_memory(f"the Hessian of {size:,} parameters", 3 * size * size * item, hint="take a smaller model")
    moved = {key: value.clone().requires_grad_() for key, value in leaves.items()}
    tensors = list(moved.values())
    with _evaluating(model, batch, loss, seed) as loss_at, torch.enable_grad():
        value = loss_at(moved)
        if not value.requires_grad:
            raise InputError("the loss does not depend on a parameter", hint="compute it from the model's output")
        gradient = _flat(torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True), tensors)
        if not gradient.requires_grad:
            return np.zeros(size)
        again = partial(torch.autograd.grad, gradient, tensors, retain_graph=True, allow_unused=True)
        chosen = torch.eye(size, dtype=gradient.dtype, device=gradient.device).split(_AT_ONCE)
        rows = [_flat(again(grad_outputs=some, is_grads_batched=True), tensors) for some in chosen]
    hessian = torch.cat(rows).detach()
    eigenvalues: Floats = torch.linalg.eigvalsh((hessian + hessian.T) / 2).double().cpu().numpy()
    return eigenvalues


def _direction(weights: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    found = {}
    for key, weight in weights.items():
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64).flatten(1)
        own = torch.linalg.vector_norm(weight.flatten(1).double(), dim=1, keepdim=True).cpu()
        drawn *= own / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
        found[key] = drawn.reshape(weight.shape).to(weight)
    return found


@contextmanager
def _evaluating(model: nn.Module, batch: Any, loss: Loss, seed: int) -> Iterator[Callable[[dict[str, Tensor]], Tensor]]:
    """Yield the loss as a function of the parameters that differ from the model's own."""
    if not callable(loss):
        raise InputError(f"loss must be a function of the model's output, got a {type(loss).__name__}")
    batch = as_batch(model, batch)

    class Whole(nn.Module):
        """The model behind `call_model`, so that its parameters can be replaced whatever the batch is."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return loss(call_model(self.model, batch))

    whole = Whole()

    def loss_at(parameters: dict[str, Tensor]) -> Tensor:
        torch.manual_seed(seed)
        value = functional_call(whole, {f"model.{key}": value for key, value in parameters.items()}, ())
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(f"loss must return a tensor with one element, got {what}")
        return value.reshape(())

    with undisturbed(model, batch):
        yield loss_at


def _flat(gradients: Iterable[Tensor | None], tensors: list[Tensor]) -> Tensor:
    """Return gradients one after the other on the last axis; those that there are not are zero."""
    found = list(gradients)
    lead = next((g.shape[: g.dim() - t.dim()] for g, t in zip(found, tensors, strict=True) if g is not None), ())
    pieces = [
        t.new_zeros(*lead, t.numel()) if g is None else g.reshape(*lead, t.numel())
        for g, t in zip(found, tensors, strict=True)
    ]
    return torch.cat(pieces, dim=-1)
