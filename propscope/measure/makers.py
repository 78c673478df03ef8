"""`Makers`: the layer whose weights made a tensor, which the sites of functions are named after.

Followed is the first pass only; what a later pass calls besides is named after the module that runs it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from propscope.measure.module_info import CONTAINERS, ModuleInfo
from propscope.measure.outputs import tensors_of
from propscope.measure.parameter_names import ParameterNames
from propscope.measure.tensor_identity import TensorIdentity

# The names that layers give to weights, which do not tell one from another.
_USUAL = frozenset(("weight", "bias", "weight_v", "weight_g", "original0", "original1", "kernel"))
# Stands for a weight that is no parameter of the model: what it makes is named after the operation.
_UNREGISTERED = "?"


class _Made(NamedTuple):
    """What made a tensor: `layer`, "" where it was none or several; `weight`: it was computed from a weight alone."""

    tensor: weakref.ref[Tensor]
    layer: str
    weight: bool


class Makers:
    """Follows one pass; every method is called under the guard."""

    def __init__(self, names: ParameterNames, identity: TensorIdentity, modules: Mapping[str, ModuleInfo]) -> None:
        self.active = False
        # By the key of a site, the layer that made it, "" where several did.
        self.of_sites: dict[str, str] = {}
        self._names = names
        self._identity = identity
        self._modules = modules
        self._made: dict[int, _Made] = {}

    def begin(self, *, active: bool) -> None:
        """Begin a pass, and forget the tensors of the one before."""
        self.active = active
        self._made.clear()

    def note(self, made: tuple[str, bool], result: Any) -> None:
        """Note what an operation returned that was given what is `made` so, by `of`."""
        for tensor in tensors_of(result):
            # What the pass computed and cut off is no weight.
            if made[0] or (tensor.requires_grad and tensor.is_leaf):
                self._made[id(tensor)] = _Made(weakref.ref(tensor), *made)

    def pass_on(self, tensor: Tensor, result: Tensor) -> None:
        """Note that a custom function returned a tensor as it is."""
        if self.active and (made := self._made.get(id(tensor))) is not None and made.tensor() is tensor:
            self._made[id(result)] = made._replace(tensor=weakref.ref(result))

    def note_input(self, tensor: Tensor) -> None:
        """Note that a tensor is given to the model: it is no weight, whether or not it requires a gradient."""
        self._made[id(tensor)] = _Made(weakref.ref(tensor), "", False)

    def note_module(self, key: str, output: Tensor, path: str, module: nn.Module, inputs: Any) -> None:
        """Note which layer made the output of a module: itself where it has weights, else what made its input."""
        own = bool(self._names.own(module))
        own = own or "parametrizations" in module._modules
        layer = self.of_sites[key] = path if own else "" if module._modules else self.of(path, inputs)[0]
        self.note((layer, False), output)

    def of(self, inside: str, args: Any, operation: str = "") -> tuple[str, bool]:
        """Return the layer whose weights made what an operation in the module `inside` is given, and if it is a weight.

        The layer is "" where it is none or several. Where the weights are trainable and no parameters of the model, it
        is the `operation`, if that is given.
        """
        weights: set[str] = set()
        vectors: set[str] = set()
        values: set[str] = set()
        others = False
        for tensor in tensors_of(args):
            if names := self._names.of(tensor):
                (weights if tensor.dim() > 1 else vectors).add(self._owner(inside, names[0]))
            elif (entry := self._identity.find(tensor)) is not None and entry.site is not None:
                values.add(self.of_sites.get(entry.site.name, ""))
            elif (made := self._made.get(id(tensor))) is not None and made.tensor() is tensor:
                if made.layer:
                    (weights if made.weight else values).add(made.layer)
                else:
                    others = True
            elif tensor.requires_grad and tensor.is_leaf:
                (weights if tensor.dim() > 1 else vectors).add(_UNREGISTERED)
            else:
                others = True
        found = weights or values or vectors
        (layer,) = found if len(found) == 1 else ("",)
        alone = bool(weights) and not (values or others)
        if layer == _UNREGISTERED and not (alone and operation):
            path = f"{inside}.{operation}" if inside else operation
            layer = "" if not operation else f"{path}()" if path in self._modules else path
        return layer, alone

    def _owner(self, inside: str, name: str) -> str:
        """Return the layer that a parameter belongs to; one among several weights of a module counts as a layer."""
        path, _, own = name.rpartition(".")
        if own in _USUAL:
            return path
        return name if path == inside or not self._is_layer(path) else path

    def _is_layer(self, path: str) -> bool:
        info = self._modules.get(path)
        return info is not None and not isinstance(info.module, CONTAINERS)
