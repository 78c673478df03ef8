"""`ModuleInfo`: what the class of a module tells before it runs, such as its role and its axis of units."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from propscope.errors import InputError
from propscope.measure.wrappers import class_of
from propscope.networks.activations import NONLINEARITIES
from propscope.records.network import Role

# These hold modules or parameters, and are not called.
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_ACTIVATIONS = (*NONLINEARITIES, nn.Threshold, nn.RReLU, nn.Hardshrink, nn.Softshrink)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
# Modules from here, without parts, compute from what they are given and from their parameters alone.
_ATOMIC_HOMES = ("torch.nn.modules.", "propscope.networks.")
_CHANNEL_FIRST = (_NormBase, nn.GroupNorm, nn.LocalResponseNorm)
# Packages whose activation classes are elementwise functions without being torch's own.
_ACTIVATION_HOMES = ("propscope.networks.activations", "transformers.activations")


def is_activation(module: nn.Module) -> bool:
    """Return whether the module is an elementwise nonlinearity."""
    if isinstance(module, _ACTIVATIONS):
        return True
    return class_of(module).__module__ in _ACTIVATION_HOMES and not any(True for _ in module.children())


def role_of(module: nn.Module) -> Role:
    """Return the role that a module's output has by the module's class alone."""
    if is_activation(module):
        return "activation"
    if isinstance(module, _NORMS) or class_of(module).__name__.endswith(("RMSNorm", "LayerNorm")):
        return "norm"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, nn.MultiheadAttention) or class_of(module).__name__.endswith("Attention"):
        return "attention"
    return "residual" if class_of(module).__name__ == "Add" else "other"


def has_units(module: nn.Module) -> bool:
    """Return whether the module's output has units that can be dead or symmetric: one per row of a weight."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag, torch.jit.ScriptModule)):
        return False
    # Not by attribute: reading a parametrized weight computes it, and a spectral norm takes a step of its own then.
    weight = module._parameters.get("weight")
    if weight is None:
        parametrized = module._modules.get("parametrizations")
        return parametrized is not None and "weight" in parametrized._modules
    # FSDP1 keeps the weights flat, by which these cannot be told from those of a norm.
    known = isinstance(module, (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd))
    return known or is_lazy(weight) or weight.dim() > 1


def refuse_lazy(model: nn.Module) -> None:
    """Raise `InputError` for a model whose parameters have no shape yet."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(
            "the model has lazy modules, whose parameters get their shape in the first forward pass",
            hint="run the model once on a batch first",
        )


def is_leaf(module: nn.Module) -> bool:
    """Return whether the module is one of torch's own that has no parts and does not change its input."""
    own = type(module).__module__.startswith("torch.nn.modules.")
    # Each call asks, and a module takes a microsecond to say that it lacks an attribute.
    return own and not module._modules and not module.__dict__.get("inplace", False)


def unit_axis_of(module: nn.Module, output: Tensor, inherited: int | None) -> int:
    """Return the axis of units of a module's output; `inherited` is that of its input, where known.

    Convolutions and batch norms have channels where their class puts them, elementwise modules where their input has
    them; otherwise an image (4-D, 5-D) has them on axis 1 and everything else last.
    """
    if isinstance(module, _ConvNd):
        return output.dim() - len(module.kernel_size) - 1
    if isinstance(module, _CHANNEL_FIRST):
        return 1 if output.dim() > 2 else -1
    if isinstance(module, (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.Embedding)):
        return -1
    return axis_of_unknown(output, inherited)


def axis_of_unknown(output: Tensor, inherited: int | None) -> int:
    """Return the axis of units that the input has; without one, 1 for images (4-D, 5-D) and -1 for all else."""
    if inherited is not None:
        return inherited
    return 1 if output.dim() > 3 else -1


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """A module of the model at its `path`, and the `role` of its output.

    `opaque`: the operations inside it are not sites of their own. `units`: its output has units that can be dead or
    symmetric. `atomic`: it computes from what it is given and its own parameters, in one operation.
    """

    path: str
    module: nn.Module
    role: Role
    opaque: bool
    units: bool
    atomic: bool


def module_info(path: str, module: nn.Module, activations: Collection[int]) -> ModuleInfo:
    """Return what is known of a module; `activations`: ids of modules that are nonlinearities whatever their class."""
    activation = id(module) in activations or is_activation(module)
    role: Role = "activation" if activation else role_of(module)
    atomic = class_of(module).__module__.startswith(_ATOMIC_HOMES) and not module._modules
    return ModuleInfo(path, module, role, hides_operations(module, role), has_units(module), atomic)


def hides_operations(module: nn.Module, role: Role) -> bool:
    """Return whether the operations inside a module are part of the module's own site."""
    if role in ("activation", "norm", "residual"):
        return True
    home = class_of(module).__module__
    composite = (nn.MultiheadAttention, nn.Transformer)
    own = home.startswith("torch.nn.") and not home.endswith(".transformer") and not isinstance(module, composite)
    return own and next(module.children(), None) is None
