"""`ModuleInfo`: a module where it stands in the model, and what is known of it before it runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from propscope.measure.modules import has_units, is_activation, role_of
from propscope.records.network import Role


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """A module in the model: its `path`, the `role` of its output, whether it is `opaque` (hides the operations inside)

    and whether its output has `units` that can be dead or symmetric.
    """

    path: str
    module: nn.Module
    role: Role
    opaque: bool
    units: bool


def module_info(path: str, module: nn.Module, activations: Collection[int]) -> ModuleInfo:
    """Return the place of a module; `activations`: ids of modules that are nonlinearities whatever their class."""
    known = id(module) in activations or is_activation(module)
    role: Role = "activation" if known else role_of(module)
    return ModuleInfo(path, module, role, hides_operations(module, role), has_units(module))


def hides_operations(module: nn.Module, role: Role) -> bool:
    """Return whether the operations inside a module are the module's own site, and not sites of their own."""
    if role in ("activation", "norm", "residual"):
        return True
    home = type(module).__module__
    composite = (nn.MultiheadAttention, nn.Transformer)
    own = home.startswith("torch.nn.") and not home.endswith(".transformer") and not isinstance(module, composite)
    return own and next(module.children(), None) is None


def in_backward() -> bool:
    """Return whether a backward pass is running, which is when checkpoints run their forward again."""
    return torch._C._current_graph_task_id() != -1
