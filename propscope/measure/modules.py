"""What propscope knows of module classes: their role, their axis of units, which are nonlinearities."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from propscope.measure.saturation import FlatRegion, flat_region, flat_region_of
from propscope.records.network import Role

_ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.Threshold,
    nn.ReLU,
    nn.RReLU,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Tanh,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.Hardshrink,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.PReLU,
    nn.Softsign,
    nn.Tanhshrink,
)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
_CHANNEL_FIRST = (_NormBase, nn.GroupNorm, nn.LocalResponseNorm)
# Packages whose activation classes are elementwise functions without being torch's own.
_ACTIVATION_HOMES = ("propscope.networks.activations", "transformers.activations")


def is_activation(module: nn.Module) -> bool:
    """Return whether the module is an elementwise nonlinearity."""
    if isinstance(module, _ACTIVATIONS):
        return True
    return type(module).__module__ in _ACTIVATION_HOMES and not any(True for _ in module.children())


def role_of(module: nn.Module) -> Role:
    """Return the role that a module's output has by the module's class alone."""
    if is_activation(module):
        return "activation"
    if isinstance(module, _NORMS) or type(module).__name__.endswith(("RMSNorm", "LayerNorm")):
        return "norm"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, nn.MultiheadAttention) or type(module).__name__.endswith("Attention"):
        return "attention"
    return "residual" if type(module).__name__ == "Add" else "other"


def has_units(module: nn.Module) -> bool:
    """Return whether the module's output has units that can be dead or symmetric: one per row of a weight."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag, torch.jit.ScriptModule)):
        return False
    # Not by attribute: reading a parametrized weight computes it, and a spectral norm takes a step of its own then.
    weight = module._parameters.get("weight")
    if weight is None:
        parametrized = module._modules.get("parametrizations")
        return parametrized is not None and "weight" in parametrized._modules
    return is_lazy(weight) or weight.dim() > 1


def is_leaf(module: nn.Module) -> bool:
    """Return whether the module is one of torch's own that has no parts and leaves its input as it is."""
    own = type(module).__module__.startswith("torch.nn.modules.")
    return own and not module._modules and not getattr(module, "inplace", False)


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
    """Return the axis of units of what no class tells about: that of its input, or as an image or a sequence has it."""
    if inherited is not None:
        return inherited
    return 1 if output.dim() > 3 else -1


# What the type and the public attributes of a module, or a function and its arguments, determine. Shared by all
# recorders, since a grid has hundreds of them.
_DETERMINED: dict[object, FlatRegion | None] = {}


class FlatRegions:
    """The flat region of each kind of nonlinearity met, computed once a kind; None where no derivative can be had."""

    def __init__(self) -> None:
        # By identity, for as long as the recorder knows the module.
        self._own: dict[int, FlatRegion | None] = {}

    def of_module(self, module: nn.Module) -> FlatRegion | None:
        """Return the flat region of an elementwise module."""
        if id(module) not in self._own:
            key, known = _determining(module), _DETERMINED
            self._own[id(module)] = (
                _apart(lambda: flat_region(module)) if key is None else _once(known, key, lambda: flat_region(module))
            )
        return self._own[id(module)]

    def of_function(
        self, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> FlatRegion | None:
        """Return the flat region of an elementwise function, called with these arguments after the tensor."""
        rest = {name: value for name, value in kwargs.items() if name not in ("input", "inplace")}

        def compute() -> FlatRegion:
            # On a copy, since the function may work in place.
            return flat_region_of(lambda z: function(z.clone(), *args, **rest))

        if any(isinstance(value, Tensor) for value in (*args, *rest.values())):
            return _apart(compute)
        return _once(_DETERMINED, (function, repr(args), repr(rest)), compute)


def _determining(module: nn.Module) -> object | None:
    """Return what determines a module without parameters; None for the others."""
    if next(module.parameters(), None) is not None:
        return None
    public = [(name, vars(module)[name]) for name in sorted(vars(module)) if name[0] != "_" and name != "training"]
    key = (type(module), tuple(public))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _once(known: dict[Any, FlatRegion | None], key: object, compute: Callable[[], FlatRegion]) -> FlatRegion | None:
    if key not in known:
        known[key] = _apart(compute)
    return known[key]


def _apart(compute: Callable[[], FlatRegion]) -> FlatRegion | None:
    """Run in a thread of its own, where none of the caller's modes hold: autocast, saved-tensor hooks, no_grad.

    What an activation checkpoint saves is counted; a derivative taken in its midst would be counted too.
    """
    found: list[FlatRegion] = []

    def run() -> None:
        # A user's own class may refuse a float64 vector in ways that cannot be foreseen.
        with contextlib.suppress(Exception):
            found.append(compute())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0] if found else None
