"""What attention shows: the entropy of its rows and its largest logit, from sampled rows, without waiting."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from propscope.measure.sums import total, widest

_HEADS = 4
_ROWS = 16


def row_entropy(weights: Tensor) -> Tensor:
    """Return the mean entropy -sum(p ln p), in nats, of at most 1024 rows of probabilities p, a 0-d tensor.

    The rows lie on the last axis. The entropy is ln(keys) when attention is spread evenly, and 0 when each query
    attends to one key.
    """
    rows = weights.reshape(-1, weights.shape[-1])
    rows = rows[:: -(-len(rows) // 1024)]
    rows = rows.to(widest(rows))
    return -total(torch.xlogy(rows, rows)) / len(rows)


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
