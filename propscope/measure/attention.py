"""What attention shows: the entropy of its rows and the size of its logits, from sampled rows, without waiting."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from propscope.measure.sums import total, widest

_HEADS = 4
_ROWS = 16
_SAMPLED = 1024
_MASKED = -5000.0


class SoftmaxFigures(NamedTuple):
    """What a softmax shows, as 0-d tensors: mean entropy of its rows in nats, largest logit, mean square spread.

    The spread is the standard deviation of the logits about the mean of their row. `masked`: the share of the rows all
    of whose entries are masked.
    """

    entropy: Tensor
    largest: Tensor
    square_spread: Tensor
    masked: Tensor


def softmax_figures(logits: Tensor, weights: Tensor, dim: int = -1) -> SoftmaxFigures:
    """Return what a softmax along `dim` shows, from its logits and the probabilities that it gives.

    Entropy and spread are those of at most 1024 rows. The entropy is ln(keys) when attention is spread evenly, and 0
    when each query attends to one key. Logits below -5000 are taken for masked; a row with fewer than two others has
    no spread.
    """
    tops = logits.amax(dim)
    rows, seen = _rows(weights, dim), _rows(logits, dim)
    entropy = -total(torch.xlogy(rows, rows)) / len(rows)
    kept = seen > _MASKED
    count = kept.sum(-1)
    seen = torch.where(kept, seen, 0.0)
    mean = seen.sum(-1) / count.clamp(min=1)
    squares = torch.where(kept, seen - mean[:, None], 0.0).square().sum(-1) / count.clamp(min=1)
    several = count > 1
    spread = torch.where(several, squares, 0.0).sum() / several.sum().clamp(min=1)
    return SoftmaxFigures(entropy, tops.amax(), spread, _share(tops <= _MASKED))


def masked_share(mask: Tensor) -> Tensor:
    """Return the share of the queries that the mask of scaled dot-product attention leaves no key, as a 0-d tensor.

    `mask`: True where a query attends to a key, or what is added to the scores.
    """
    return _share(~_open(mask).any(-1))


def masked_by(module: nn.MultiheadAttention, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Return the share of the queries that the masks of multi-head attention leave no key; None where there is none.

    `padding`: `key_padding_mask`, shape (samples, keys); `mask`: `attn_mask`, shape (queries, keys) or (samples heads,
    queries, keys); of both True masks.
    """
    if mask is None:
        return None if padding is None else _share(~_open(padding, masks=True).any(-1))
    left = _open(mask, masks=True)
    if padding is not None:
        left = left.unflatten(0, (-1, module.num_heads)) if mask.dim() == 3 else left
        # How many keys both masks leave to a query.
        left = left.float() @ _open(padding, masks=True).float().reshape(-1, 1, padding.shape[-1], 1) > 0
    return _share(~left.any(-1))


def _share(rows: Tensor) -> Tensor:
    return rows.float().mean()


def _open(mask: Tensor, *, masks: bool = False) -> Tensor:
    """Return where a mask lets through; `masks`: what True says in it."""
    if mask.dtype == torch.bool:
        return ~mask if masks else mask
    return mask > _MASKED


def softmax_axis(dim: Any, axes: int) -> int | None:
    """Return the axis of a softmax along `dim` of a tensor of so many axes; None where there is none.

    Without a `dim`, torch takes the first axis of a tensor of one or three axes, else the second, and warns.
    """
    if dim is None:
        return min(int(axes not in (1, 3)), axes - 1) if axes else None
    return dim % axes if isinstance(dim, int) and axes else None


def _rows(values: Tensor, dim: int) -> Tensor:
    rows = values.movedim(dim, -1).reshape(-1, values.shape[dim])
    rows = rows[:: -(-len(rows) // _SAMPLED)]
    return rows.to(widest(rows))


def projected(module: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the queries and keys of a few samples, shape (samples, heads, length, features); None where unknown."""
    if query.dim() != 3 or key.dim() != 3 or query.is_nested or key.is_nested:
        return None
    if not module.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    if module.in_proj_weight is None:
        weights = module.q_proj_weight, module.k_proj_weight
    else:
        weights = module.in_proj_weight.chunk(3)[:2]
    biases = (None, None) if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[:2]
    found = []
    for value, weight, bias in zip((query, key), weights, biases, strict=True):
        some = F.linear(
            value[:_HEADS].detach().to(weight.dtype), weight.detach(), bias if bias is None else bias.detach()
        )
        found.append(some.unflatten(-1, (module.num_heads, -1)).transpose(1, 2))
    return found[0], found[1]


def sampled_logits(query: Tensor, key: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the logits of some rows of scaled dot-product attention, shape (heads, rows, keys), masked with -Inf.

    `query`, `key`: shape (..., heads, length, features); at most 4 heads of the batch and 16 rows of each. `args` and
    `kwargs` are the call's, from the fourth argument on. None for masks that cannot be followed.
    """
    mask, _, causal, scale = (*args, *(None, 0.0, False, None)[len(args) :])[:4]
    mask, causal, scale = kwargs.get("attn_mask", mask), kwargs.get("is_causal", causal), kwargs.get("scale", scale)
    length, keys = query.shape[-2], key.shape[-2]
    if query.dim() < 3 or key.dim() != query.dim() or not length or not keys:
        return None
    heads = query.reshape(-1, length, query.shape[-1])
    shared = query.shape[-3] // key.shape[-3] if query.dim() > 3 else 1
    others = key.repeat_interleave(shared, dim=-3) if shared > 1 else key
    others = others.expand(*query.shape[:-2], *key.shape[-2:]).reshape(-1, keys, key.shape[-1])
    across, along = -(-len(heads) // _HEADS), -(-length // _ROWS)
    # In float32 a matrix product may be lowered to half the digits, as the processor and the user's settings have it.
    wide = widest(query)
    picked = heads[::across, ::along].to(wide)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    logits = picked @ others[::across].to(wide).transpose(-1, -2) * factor
    if causal:
        row = torch.arange(0, length, along, device=query.device)[:, None]
        logits = logits.masked_fill(torch.arange(keys, device=query.device) > row, -math.inf)
    if mask is None:
        return logits
    try:
        spread = mask.expand(*query.shape[:-2], length, keys).reshape(-1, length, keys)[::across, ::along]
    except RuntimeError:
        return None
    return logits.masked_fill(~spread, -math.inf) if spread.dtype == torch.bool else logits + spread.to(wide)
