"""The modules that the table of activations makes, and how a spec string or a callable picks one.

The table itself, which needs no torch, is `propscope.records.activations`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from propscope.errors import InputError, error_line
from propscope.networks.randomness import global_stream, seeded_generator
from propscope.networks.spec import ChosenCallable, Value, index_names, load_callable, parse_spec
from propscope.records.activations import ACTIVATIONS

_VALID = "give an nn.Module class, or an elementwise function of a tensor"


class FunctionActivation(nn.Module):
    """A user's function of a tensor as a module, so that a recorder sees it; `name` is its spec."""

    def __init__(self, function: Callable[..., Tensor], name: str, arguments: Mapping[str, Value]) -> None:
        super().__init__()
        self.function = function
        self.name = name
        self.arguments = dict(arguments)

    def forward(self, z: Tensor) -> Tensor:
        """Return the function's value at z."""
        return self.function(z, **self.arguments)

    def extra_repr(self) -> str:
        """Return the spec, for the module's repr."""
        return self.name


def _hardtanh(min: float, max: float) -> nn.Module:
    if not min < max:
        raise InputError(f"min of activation hardtanh must be below max, got min {min:g} and max {max:g}")
    return nn.Hardtanh(min, max)


def _module_class(torch_name: str) -> type[nn.Module]:
    """Return the class of torch.nn, or a new one, named like Erf, that calls the elementwise function of torch."""
    if hasattr(nn, torch_name):
        return getattr(nn, torch_name)  # type: ignore[no-any-return]
    function: Callable[[Tensor], Tensor] = getattr(torch, torch_name)

    def forward(self: nn.Module, z: Tensor) -> Tensor:
        return function(z)

    doc = f"torch.{torch_name}, elementwise: any shape, the same shape back."
    return type(torch_name.capitalize(), (nn.Module,), {"forward": forward, "__module__": __name__, "__doc__": doc})


_CLASSES = {entry.name: _module_class(entry.torch_name) for entry in ACTIVATIONS}
Erf, Sin = _CLASSES["erf"], _CLASSES["sin"]
# Pickle finds a class by its name in its module.
globals().update({made.__name__: made for made in _CLASSES.values() if made.__module__ == __name__})
_MAKE: dict[str, Callable[..., nn.Module]] = {**_CLASSES, "hardtanh": _hardtanh}
# The classes that propscope takes for a nonlinearity where a model has them; nn.Identity stands for none.
NONLINEARITIES = tuple(made for name, made in _CLASSES.items() if name != "identity")
_SHORTHANDS = {name: f"{entry.name}:{rest}" for entry in ACTIVATIONS for name, rest in entry.shorthands}
_INDEX = index_names(ACTIVATIONS)
if taken := _SHORTHANDS.keys() & _INDEX.keys():
    raise ValueError(f"shorthands that are names already: {', '.join(taken)}")
# Torch's classes and functions that do, without arguments, what an entry of the table does.
_ENTRY_OF = {
    target: entry.name
    for entry in ACTIVATIONS
    for target in (
        _CLASSES[entry.name],
        *(getattr(home, entry.name, None) for home in (torch, nn.functional) if entry.name != "prelu"),
    )
    if target is not None
}


@dataclass(frozen=True, slots=True)
class ActivationSpec(ChosenCallable):
    """A chosen activation: an entry of `ACTIVATIONS`, or the user's own class or function."""

    def module(self) -> nn.Module:
        """Return a new module, in float32 on the CPU.

        A user's class is called with the parameters, and so is a function that makes a module; a user's function of a
        tensor is wrapped in a `FunctionActivation`.
        """
        if not self.custom:
            return _MAKE[self.name](**self.parameters)
        target = self.target or load_callable(self.name, "activation")
        if not isinstance(target, type) and not _takes_nothing(target, self.parameters):
            return FunctionActivation(target, self.label, self.parameters)
        made = self._call(lambda: target(**self.parameters))
        if not isinstance(made, nn.Module):
            raise InputError(
                f'activation "{self.label}" must make an nn.Module, got a {type(made).__name__}', hint=_VALID
            )
        return made

    def _call(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (Exception, SystemExit) as error:  # A user's callable may fail in any way.
            raise InputError(f'activation "{self.label}" failed ({error_line(error)})', hint=_VALID) from error

    def check(self) -> None:
        """Raise `InputError` when no module can be made, or when it fails on a tensor or changes its shape."""
        # A user's class may draw its parameters; the draw made for this check must leave no trace.
        # A numpy function warns of what it cannot do; whether that matters is seen when it is used.
        with global_stream(seeded_generator(0, "check")), torch.no_grad(), np.errstate(all="ignore"):
            module = self.module()
            # A user's class may be made for another width.
            if self.custom and not isinstance(module, FunctionActivation):
                return
            value = self._call(lambda: module(torch.linspace(-1, 1, 6).reshape(2, 3)))
        if not isinstance(value, Tensor) or value.shape != (2, 3):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(
                f'activation "{self.label}" must keep the shape of a tensor; shape (2, 3) became {got}', hint=_VALID
            )


def _takes_nothing(target: Callable[..., Any], parameters: Mapping[str, Value]) -> bool:
    """Return whether a function takes nothing but its parameters, so that it can only make a module."""
    try:
        expected = inspect.signature(functools.partial(target, **parameters)).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(each.kind is each.KEYWORD_ONLY or each.kind is each.VAR_KEYWORD for each in expected)


def parse_activation(activation: str | ActivationSpec | Callable[..., Any]) -> ActivationSpec:
    """Return the activation that a spec names, or that a Python callable is.

    A spec: `relu`, `leaky_relu:negative_slope=0.2`, `package.module:callable`. A callable: an nn.Module class, a
    function without arguments that makes a module, a function of a tensor, or a `functools.partial` of one of them.
    Torch's own classes and functions become the table's entry: `nn.ReLU` is "relu". The label of any other is its
    qualified name, `package.module:name`.

    Raises `InputError` for an unknown name (with the nearest one as hint), an unknown parameter, a value that is not
    valid, and a callable that cannot be loaded or does not keep the shape of a tensor.
    """
    if isinstance(activation, ActivationSpec):
        return activation
    made = _spelled(activation) if isinstance(activation, str) else _of_callable(activation)
    made.check()
    return made


def _spelled(text: str) -> ActivationSpec:
    spec = parse_spec(text, "activation")
    if spec.name in _SHORTHANDS:
        rest = "".join(f":{name}={value}" for name, value in spec.parameters.items())
        spec = parse_spec(_SHORTHANDS[spec.name] + rest, "activation")
    return ActivationSpec.parse(_INDEX, spec, "activation")


def _of_callable(target: Callable[..., Any]) -> ActivationSpec:
    if isinstance(target, nn.Module):
        raise InputError(
            f"activation must be a name or a callable that makes a module for each layer, got the module {target}",
            hint=f"give the class {type(target).__name__}, or functools.partial of it with its arguments",
        )
    if (name := _entry_of(target)) is not None:
        return _spelled(name)
    return ActivationSpec.of_callable(target, "activation")


def _entry_of(target: Callable[..., Any]) -> str | None:
    try:
        return _ENTRY_OF.get(target)
    except TypeError:  # It has no hash.
        return None
