"""`joint_backward`: what `profile` runs backward from where no loss is given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from propscope.measure.outputs import leaves_in

# What models return of their inner states, for later steps or to look at: it feeds the output, or nothing at all.
_INNER = re.compile(r"\[(\w+_)?(past_key_values?|hidden_states|attentions|attn_weights|cache|cache_params|mems)\]")
_PLAIN = (type(None), str, bytes, int, float, complex, torch.dtype, torch.device)
_UNMEASURED = "its backward was not measured"


def joint_backward(output: Any, seed: int) -> list[tuple[str, str]]:
    """Run one backward pass from a model's output; return (place in the output, reason) of what gave no gradient.

    A field `loss` of the output, of one or more elements, wins: their mean is the loss. Without it, gradients from
    N(0, 1) with `seed`, drawn one after the other, enter the first differentiable tensor and each other one that no
    other output was computed from; a tensor without dimensions gets 1. Caches, hidden states and attention weights, by
    the name of their field, are left out where anything else is differentiable.
    """
    leaves = list(leaves_in(output))
    tensors = [(place, leaf) for place, leaf in leaves if isinstance(leaf, Tensor)]
    losses = [tensor for place, tensor in tensors if place == "[loss]" and _is_differentiable(tensor)]
    if (
        not tensors
        and isinstance(found := getattr(output, "__dict__", {}).get("loss"), Tensor)
        and _is_differentiable(found)
    ):
        losses = [found]
    if losses:
        backward_with(losses, [torch.full_like(loss, 1 / loss.numel()) for loss in losses])
        return []
    unmeasured = [
        (place, f"propscope sees no tensor inside a {type(leaf).__name__}: {_UNMEASURED}; give a loss")
        for place, leaf in leaves
        if not isinstance(leaf, (Tensor, *_PLAIN)) and not _INNER.search(place)
    ]
    ends = _ends(tensors)
    if ends:
        generator = torch.Generator().manual_seed(seed)
        backward_with(ends, [_cotangent(end, generator) for end in ends])
    elif tensors:
        kinds = ", ".join(dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors))
        unmeasured.append(("", f"no tensor of the output ({kinds}) requires a gradient: {_UNMEASURED}"))
    elif not unmeasured:
        kind = "None" if output is None else f"a {type(output).__name__}"
        unmeasured.append(("", f"the output is {kind}, without a tensor: {_UNMEASURED}"))
    return unmeasured


def backward_with(ends: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Run backward from tensors with a gradient for each, of its shape."""
    # Where `torch.autograd.backward` is given gradients, it first imports sympy: 0.4 s and 34 MB.
    _Ends.apply(gradients, *ends).backward()  # type: ignore[no-untyped-call]


class _Ends(torch.autograd.Function):
    """A loss whose derivatives are the gradients that it is given."""

    @staticmethod
    def forward(context: Any, gradients: Sequence[Tensor], *ends: Tensor) -> Tensor:
        context.gradients = gradients
        return torch.zeros((), device=ends[0].device)

    @staticmethod
    def backward(context: Any, *one: Tensor) -> Any:
        return None, *context.gradients


def _ends(tensors: Sequence[tuple[str, Tensor]]) -> list[Tensor]:
    """Return the tensors that gradients enter."""
    able = [(place, tensor) for place, tensor in tensors if _is_differentiable(tensor)]
    # A leaf, such as the input handed back, has nothing of the network behind it.
    for choice in (
        [tensor for place, tensor in able if tensor.grad_fn is not None and not _INNER.search(place)],
        [tensor for _, tensor in able if tensor.grad_fn is not None],
        [tensor for _, tensor in able],
    ):
        if choice:
            distinct = list({id(tensor): tensor for tensor in choice}.values())
            fed = _passed_through(distinct) if len(distinct) > 1 else set()
            return [distinct[0], *(t for t in distinct[1:] if (id(t.grad_fn), t.output_nr) not in fed)]
    return []


def _passed_through(tensors: Iterable[Tensor]) -> set[tuple[int, int]]:
    """Return what the gradients of these tensors pass: (id of a node of the autograd graph, number of its output).

    The graph of the tensors keeps its nodes, and so their ids.
    """
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    visited: dict[int, Any] = {id(node): node for node in waiting}
    passed: set[tuple[int, int]] = set()
    while waiting:
        for node, number in waiting.pop().next_functions:
            if node is None:
                continue
            passed.add((id(node), number))
            if id(node) not in visited:
                visited[id(node)] = node
                waiting.append(node)
    return passed


def _is_differentiable(tensor: Tensor) -> bool:
    if not tensor.requires_grad or not (tensor.is_floating_point() or tensor.is_complex()):
        return False
    return tensor.layout is torch.strided and not tensor.is_nested and tensor.numel() > 0


def _cotangent(output: Tensor, generator: torch.Generator) -> Tensor:
    if output.dim() == 0:
        return torch.ones_like(output)
    dtype = torch.complex128 if output.is_complex() else torch.float64
    return torch.randn(output.shape, generator=generator, dtype=dtype).to(output)
