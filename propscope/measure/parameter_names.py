"""`ParameterNames`: the names of a model's parameters, also of what FSDP puts in their place while a module runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from propscope.measure.shards import flat_parameters, is_fully_sharded, kept_parts
from propscope.measure.wrappers import parameter_names, parameters_in, unwrapped_modules


class ParameterNames:
    """Tells the names of a tensor that is a parameter of `model` in the present pass, or stands for one.

    FSDP keeps a part of each parameter, and lends the modules the whole in the same place while they run.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.begin()

    def begin(self) -> None:
        """Begin a pass: the names are read when the first one is asked for."""
        self._names: dict[int, tuple[str, ...]] = {}
        self._places: list[tuple[nn.Module, str, tuple[str, ...]]] = []
        self._read = False

    def _read_names(self) -> None:
        self._read, model = True, self._model
        self._names = parameter_names(model)
        if not is_fully_sharded(model):
            return
        paths = {id(module): path for path, module in unwrapped_modules(model)}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._places.append((module, name, self._names[id(parameter)]))
        # The part that FSDP2 keeps it only gathers the whole from, also where no module uses that.
        self._names.update(dict.fromkeys(kept_parts(model), ()))
        for flat in flat_parameters(model):
            self._names[id(flat)] = ()
            for name, module, _ in flat._param_infos:
                if name not in module._parameters and (within := paths.get(id(module))) is not None:
                    self._places.append((module, name, (f"{within}.{name}" if within else name,)))

    def of(self, tensor: Tensor) -> tuple[str, ...] | None:
        """Return the names of a parameter, the first one its own; None for any other tensor."""
        if not self._read:
            self._read_names()
        if (found := self._names.get(id(tensor))) is not None:
            return found
        return self.lent_as(tensor)

    def lent_as(self, tensor: Tensor) -> tuple[str, ...] | None:
        """Return the names of the parameter in whose place a tensor is now, None where it is in the place of none."""
        if not self._read:
            self._read_names()
        # A whole parameter is one of its own, or a view of the flat one.
        if not self._places or not (type(tensor) is nn.Parameter or tensor._is_view()):
            return None
        return next((names for module, name, names in self._places if _in_place(module, name) is tensor), None)

    def lent(self, module: nn.Module) -> list[Tensor]:
        """Return the tensors that stand for the parameters of a module now."""
        if not self._read:
            self._read_names()
        found = (_in_place(owner, name) for owner, name, _ in self._places if owner is module)
        return [one for one in found if isinstance(one, Tensor) and id(one) not in self._names]

    def own(self, module: nn.Module) -> list[tuple[str, ...]]:
        """Return the names of the parameters that a module holds itself."""
        if not self._read:
            self._read_names()
        if self._places:
            return [names for owner, _, names in self._places if owner is module]
        scripted = isinstance(module, torch.jit.ScriptModule)
        held = module.parameters(recurse=False) if scripted else parameters_in((module,))
        return [names for one in held if (names := self._names.get(id(one)))]


def _in_place(module: nn.Module, name: str) -> Any:
    return module._parameters.get(name) if name in module._parameters else module.__dict__.get(name)
