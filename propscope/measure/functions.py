"""The functional operations that are recorded as sites, in one table.

A network's forward calls most of its nonlinearities, norms and residual sums as functions; torch shows each call to a
torch function mode. Operations of torch's own leaf modules are not recorded again: the module's output is the site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from propscope.errors import InputError

FunctionRole = Literal["activation", "norm", "softmax", "attention", "residual"]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation by `name`, its `role`, and the Python callables that a model may call for it."""

    name: str
    role: FunctionRole
    functions: tuple[Callable[..., Any], ...]


def _activation(name: str, *extra: str) -> Operation:
    """Gather F.name, torch.name, Tensor.name and their in-place forms, as far as this torch has them."""
    names = [spelled + suffix for spelled in (name, *extra) for suffix in ("", "_")]
    found = [getattr(home, spelled, None) for home in (F, torch, Tensor) for spelled in names]
    return Operation(name, "activation", tuple(dict.fromkeys(f for f in found if callable(f))))


def _having(*found: Callable[..., Any] | None) -> tuple[Callable[..., Any], ...]:
    return tuple(f for f in found if f is not None)


OPERATIONS = (
    *(
        _activation(name)
        for name in (
            "relu",
            "relu6",
            "leaky_relu",
            "prelu",
            "elu",
            "selu",
            "celu",
            "gelu",
            "silu",
            "mish",
            "softplus",
            "softsign",
            "tanh",
            "hardtanh",
            "sigmoid",
            "hardsigmoid",
            "hardswish",
            "logsigmoid",
            "tanhshrink",
            "softshrink",
            "hardshrink",
            "threshold",
            "erf",
        )
    ),
    Operation("layer_norm", "norm", (F.layer_norm, torch.layer_norm)),
    Operation("rms_norm", "norm", _having(getattr(F, "rms_norm", None), getattr(torch, "rms_norm", None))),
    Operation("group_norm", "norm", (F.group_norm, torch.group_norm)),
    Operation("batch_norm", "norm", (F.batch_norm, torch.batch_norm)),
    Operation("instance_norm", "norm", (F.instance_norm, torch.instance_norm)),
    Operation("softmax", "softmax", (F.softmax, torch.softmax, Tensor.softmax)),
    Operation("scaled_dot_product_attention", "attention", (F.scaled_dot_product_attention,)),
    Operation(
        "add",
        "residual",
        (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__),
    ),
)


def index(operations: tuple[Operation, ...]) -> dict[Callable[..., Any], Operation]:
    """Return each callable's operation; a callable that two operations claim raises `InputError`."""
    found: dict[Callable[..., Any], Operation] = {}
    for operation in operations:
        for function in operation.functions:
            if found.setdefault(function, operation) is not operation:
                raise InputError(f"{operation.name} and {found[function].name} both claim {function}")
    return found


BY_FUNCTION = index(OPERATIONS)


def is_residual_sum(args: tuple[Any, ...]) -> bool:
    """Return whether these are the operands of a residual sum: two floating tensors of one shape, batched."""
    if len(args) < 2 or not all(isinstance(arg, Tensor) for arg in args[:2]):
        return False
    a, b = args[:2]
    return bool(a.shape == b.shape and a.dim() > 1 and a.is_floating_point() and b.is_floating_point())


# Functions of one value that act on each element alone.
ELEMENTWISE = frozenset((
    *(operation.name for operation in OPERATIONS if operation.role == "activation"),
    "abs", "absolute", "sign", "square", "pow", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "log", "log1p", "sin",
    "cos", "tan", "sinh", "cosh", "asinh", "atan", "arctan", "clamp", "clip", "clamp_min", "clamp_max", "erfc", "sinc",
    "logit", "special_expit", "floor", "ceil", "round", "trunc", "frac",
))  # fmt: skip
