"""How many multiply-adds an operation of torch does, from the shapes that it works on.

The formulas of `torch.utils.flop_counter` come first: matrix products, convolutions and fused attention. Those that it
lacks stand here. What does no product of matrices counts as nothing: elementwise operations, norms, pooling, softmax,
lookups. An operation that multiplies by a formula not known here is named instead, so that it is never 0 in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry


def _product(a: Tensor, *rest: Any, out: Any) -> int:
    """A product of matrices or vectors: every element of the output sums over the last axis of `a`."""
    return int(out.numel() * a.shape[-1])


def _added_product(bias: Tensor, a: Tensor, *rest: Any, out: Any) -> int:
    return _product(a, out=out)


def _outer(bias: Tensor, *rest: Any, out: Any) -> int:
    return int(out.numel())


def _batches_summed(bias: Tensor, a: Tensor, b: Tensor, *rest: Any, out: Any) -> int:
    return a.numel() * b.shape[-1]


def _grouped(a: Tensor, b: Tensor, *rest: Any, out: Any) -> int:
    """Groups of rows, each with its own matrix: a (rows, k), b (groups, k, n); or 3-D, or summed over groups of k."""
    return int(out.numel() * a.shape[-1]) if a.dim() == 3 or b.dim() == 3 else a.numel() * b.shape[-1]


def _bilinear(a: Tensor, weight: Tensor, b: Tensor, e1: Any, e2: Any, e3: Any, *rest: Any, out: Any) -> int:
    """y_k = sum_ij a_i W_kij b_j: one product for each element of the three, put together."""
    shapes = []
    for tensor, new in ((a, e1), (weight, e2), (b, e3)):
        shape = list(tensor.shape)
        for axis in sorted(new):
            shape.insert(axis, 1)
        shapes.append(shape)
    return math.prod(torch.broadcast_shapes(*shapes))


def _recurrent(positions: int, weights: Sequence[Tensor]) -> int:
    """Every weight matrix is applied at each step of each sequence."""
    return positions * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _mkldnn_rnn(input: Tensor, w0: Tensor, w1: Tensor, *rest: Any, out: Any) -> int:
    return _recurrent(math.prod(input.shape[:2]), (w0, w1))


def _cudnn_rnn(input: Tensor, weights: Sequence[Tensor], *rest: Any, out: Any) -> int:
    # (steps, sequences, features), or the rows of packed sequences.
    return _recurrent(math.prod(input.shape[:-1]), weights)


def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, out: Any) -> int:
    """query k^T and its product with the values, masked positions included; key heads may be fewer than query heads."""
    return query.numel() * key.shape[-2] + math.prod(query.shape[:-1]) * key.shape[-2] * value.shape[-1]


def _distances(a: Tensor, b: Tensor, *rest: Any, out: Any) -> int:
    return int(out.numel() * a.shape[-1])


def _conv_tbc(input: Tensor, weight: Tensor, *rest: Any, out: Any) -> int:
    return int(out.numel() * weight.shape[0] * weight.shape[1])


_FORMULAS: dict[str, Callable[..., int]] = {
    "aten.linear": _product,
    "aten.matmul": _product,
    "aten.mv": _product,
    "aten.dot": _product,
    "aten.vdot": _product,
    "aten._int_mm": _product,
    "aten.addmv": _added_product,
    "aten._addmm_activation": _added_product,
    "aten.addr": _outer,
    "aten.addbmm": _batches_summed,
    "aten._grouped_mm": _grouped,
    "aten._scaled_grouped_mm": _grouped,
    "aten._trilinear": _bilinear,
    "aten._cdist_forward": _distances,
    "aten.conv_tbc": _conv_tbc,
    "aten.mkldnn_rnn_layer": _mkldnn_rnn,
    "aten._cudnn_rnn": _cudnn_rnn,
    "aten.miopen_rnn": _cudnn_rnn,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._scaled_dot_product_attention_math_for_mps": _attention,
}
# Where operators live that only move data or run others: their work is seen by itself, or is none.
_PLAIN = frozenset(
    ("aten", "prim", "prims", "c10d", "_c10d_functional", "c10d_functional", "profiler", "fsdp", "rngprims")
)
# Those of aten that multiply, in other ways than the formulas.
_UNKNOWN = (
    *("_fft_", "linalg_", "_linalg_", "cholesky", "lu_solve", "triangular_solve", "grid_sampler", "_sparse_"),
    *("sparse_sampled_addmm", "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_lstm_mps"),
)
_REDUCTIONS = ("linalg_vector_norm", "linalg_cross", "_sparse_softmax", "_sparse_log_softmax", "_sparse_sum")


def name_of(operation: Any) -> str:
    """Return the name of an operation, such as "aten.mm", without its overload."""
    return str(getattr(operation, "overloadpacket", operation))


def has_formula(operation: Any) -> bool:
    """Return whether the multiply-adds of an operation are known."""
    return name_of(operation) in _FORMULAS or _packet(operation) in flop_registry


def multiply_adds(operation: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int | None:
    """Return the multiply-adds of an operation that returned `out`; None where their number is not known.

    Operations without a product of matrices have 0.
    """
    name = name_of(operation)
    try:
        if (formula := _FORMULAS.get(name)) is not None:
            return formula(*args, out=out)
        if (flops := flop_registry.get(_packet(operation))) is not None:
            return int(flops(*args, **kwargs, out_val=out)) // 2
    except Exception:  # A shape that the formula does not foresee, as of nested tensors.
        return None
    home, _, short = name.partition(".")
    unknown = short.startswith(_UNKNOWN) and not short.startswith(_REDUCTIONS)
    return None if home not in _PLAIN or unknown else 0


def _packet(operation: Any) -> Any:
    return getattr(operation, "overloadpacket", operation)
