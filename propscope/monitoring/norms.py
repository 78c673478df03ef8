"""`norms`: the L2 norms of many tensors in few operations, without waiting for their device."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from propscope.measure.shards import local_shard
from propscope.measure.sums import widest

# The entry of what is None in place of a tensor.
NONE = -1.0


@dataclass(frozen=True, slots=True)
class NamedNorms:
    """Norms of parameters, which wait on their device: `values` has the shape (len(names),), `NONE` for what had none.

    `only`: the names that count, None for all. `scale`: what the norms are yet to be divided by, None for nothing.
    """

    names: Sequence[str]
    values: Tensor
    only: Collection[str] | None = None
    scale: Tensor | None = None


def norms(tensors: Sequence[Tensor | None]) -> Tensor:
    """Return the L2 norm of each tensor, shape (len(tensors),), on the device of the first one; `NONE` for None.

    What a sparse tensor does not store counts as zero; of a distributed tensor, the shard of this process counts. Norms
    are taken in float32, where torch's error for millions of elements is some 1e-4 of the norm, and in float64 for
    tensors of float64.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    dense = {at: _dense(tensor) for at, tensor in enumerate(tensors) if tensor is not None}
    for at, one in dense.items():
        groups.setdefault((one.device, one.dtype), []).append(at)
    if not groups:
        return torch.full((len(tensors),), NONE, device="cpu")
    first = next(iter(dense.values()))
    device = first.device
    found: list[Tensor] = [torch.full((), NONE, dtype=widest(first), device=device)] * len(tensors)
    for places in groups.values():
        lengths = torch.stack(torch._foreach_norm([dense[at] for at in places]))
        lengths = lengths.to(device=device, dtype=widest(first), non_blocking=True)
        if len(places) == len(tensors):
            return lengths
        for at, length in zip(places, lengths.unbind(), strict=True):
            found[at] = length
    return torch.stack(found)


def _dense(tensor: Tensor) -> Tensor:
    if tensor.__class__ is Tensor and tensor.dtype is torch.float32 and tensor.layout is torch.strided:
        return tensor
    tensor = local_shard(tensor.detach())
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor.abs() if tensor.is_complex() else tensor
