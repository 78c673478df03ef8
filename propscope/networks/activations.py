"""The nonlinearities: one table, and how a spec string picks from it.

A new activation is one line of `ACTIVATIONS` and its test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from propscope.errors import InputError
from propscope.networks.randomness import global_stream, seeded_generator
from propscope.networks.spec import (
    SpecParameter,
    Value,
    index_names,
    label,
    load_callable,
    look_up,
    own_parameters,
    parse_spec,
)


class Erf(nn.Module):
    """The error function, elementwise: any shape, the same shape back."""

    def forward(self, z: Tensor) -> Tensor:
        """Return erf(z)."""
        return torch.erf(z)


class Sin(nn.Module):
    """The sine, elementwise: any shape, the same shape back."""

    def forward(self, z: Tensor) -> Tensor:
        """Return sin(z)."""
        return torch.sin(z)


class FunctionActivation(nn.Module):
    """A user's function of a tensor as a module, so that it is seen as one; `name` is its spec."""

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


@dataclass(frozen=True, slots=True)
class Activation:
    """A nonlinearity: `formula` of x, where it comes from, and `make(**parameters)`, a new module.

    `shorthands` are names that stand for a parameter's value, as (name, "parameter=value").
    """

    name: str
    formula: str
    source: str
    make: Callable[..., nn.Module]
    aliases: tuple[str, ...] = ()
    parameters: tuple[SpecParameter, ...] = ()
    shorthands: tuple[tuple[str, str], ...] = ()


def _hardtanh(min: float, max: float) -> nn.Module:
    if not min < max:
        raise InputError(f"min of activation hardtanh is {min:g}, max {max:g}; valid is min < max")
    return nn.Hardtanh(min, max)


_APPROXIMATE = SpecParameter("approximate", "none", choices=("none", "tanh"))

# fmt: off
ACTIVATIONS: tuple[Activation, ...] = (
    Activation("identity", "x", "Saxe et al. 2014, deep linear networks", nn.Identity, aliases=("linear",)),
    Activation("relu", "max(0, x)", "Nair, Hinton 2010", nn.ReLU),
    Activation("leaky_relu", "x if x > 0 else negative_slope x", "Maas et al. 2013", nn.LeakyReLU,
               parameters=(SpecParameter("negative_slope", 0.01),)),
    Activation("prelu", "x if x > 0 else a x, a learned, init at first", "He et al. 2015, eq. 1", nn.PReLU,
               parameters=(SpecParameter("init", 0.25),)),
    Activation("relu6", "min(max(0, x), 6)", "Krizhevsky 2010", nn.ReLU6),
    Activation("elu", "x if x > 0 else alpha (e^x - 1)", "Clevert et al. 2016", nn.ELU,
               parameters=(SpecParameter("alpha", 1.0),)),
    Activation("selu", "1.0507 (x if x > 0 else 1.6733 (e^x - 1))", "Klambauer et al. 2017, eq. 2", nn.SELU),
    Activation("celu", "x if x > 0 else alpha (e^(x/alpha) - 1)", "Barron 2017", nn.CELU,
               parameters=(SpecParameter("alpha", 1.0, low=0, above=True),)),
    Activation("gelu", "x Phi(x); tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))", "Hendrycks, Gimpel 2016",
               nn.GELU, parameters=(_APPROXIMATE,), shorthands=(("gelu_tanh", "approximate=tanh"),)),
    Activation("silu", "x / (1 + e^-x)", "Elfwing et al. 2018; Ramachandran et al. 2017", nn.SiLU, aliases=("swish",)),
    Activation("mish", "x tanh(ln(1 + e^x))", "Misra 2019", nn.Mish),
    Activation("softplus", "ln(1 + e^(beta x)) / beta", "Dugas et al. 2001", nn.Softplus,
               parameters=(SpecParameter("beta", 1.0, low=0, above=True),)),
    Activation("softsign", "x / (1 + |x|)", "Bergstra et al. 2009", nn.Softsign),
    Activation("tanh", "tanh(x)", "LeCun et al. 1998", nn.Tanh),
    Activation("hardtanh", "min(max(min, x), max)", "Collobert 2004", _hardtanh,
               parameters=(SpecParameter("min", -1.0), SpecParameter("max", 1.0))),
    Activation("sigmoid", "1 / (1 + e^-x)", "Rumelhart et al. 1986", nn.Sigmoid, aliases=("logistic",)),
    Activation("hardsigmoid", "min(max(0, x/6 + 1/2), 1)", "Howard et al. 2019", nn.Hardsigmoid),
    Activation("hardswish", "x min(max(0, x/6 + 1/2), 1)", "Howard et al. 2019", nn.Hardswish),
    Activation("logsigmoid", "-ln(1 + e^-x)", "torch.nn.LogSigmoid", nn.LogSigmoid),
    Activation("tanhshrink", "x - tanh(x)", "torch.nn.Tanhshrink", nn.Tanhshrink),
    Activation("erf", "erf(x)", "Williams 1997", Erf),
    Activation("sin", "sin(x)", "Parascandolo et al. 2017; Sitzmann et al. 2020", Sin, aliases=("sine",)),
)
# fmt: on

_SHORTHANDS = {name: f"{entry.name}:{rest}" for entry in ACTIVATIONS for name, rest in entry.shorthands}
_INDEX = index_names(ACTIVATIONS)
if taken := _SHORTHANDS.keys() & _INDEX.keys():
    raise ValueError(f"shorthands that are names already: {', '.join(taken)}")


@dataclass(frozen=True, slots=True)
class ActivationSpec:
    """An activation that was picked: every parameter's value, and `label`, its canonical spec.

    The label resolves aliases and holds the parameters that differ from their defaults. Equal labels, equal specs.
    """

    name: str
    parameters: Mapping[str, Value] = field(hash=False)
    label: str

    @property
    def custom(self) -> bool:
        """Whether this is a class or function of the user's."""
        return ":" in self.name

    def module(self) -> nn.Module:
        """Return a new module of it, float32 on the CPU when it has parameters.

        A user's class is called with the parameters; a user's function is wrapped in a `FunctionActivation`.
        """
        if not self.custom:
            return _INDEX[self.name].make(**self.parameters)
        target = load_callable(self.name, "activation")
        if not isinstance(target, type):
            return FunctionActivation(target, self.label, self.parameters)
        made = self._call(lambda: target(**self.parameters))
        if not isinstance(made, nn.Module):
            raise InputError(
                f"activation {self.label!r} makes a {type(made).__name__}",
                hint="valid are an nn.Module class and a function of a tensor",
            )
        return made

    def _call(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # A user's callable may fail in any way.
            raise InputError(
                f"activation {self.label!r} failed ({type(error).__name__}: {error})",
                hint="valid are an nn.Module class and a function of a tensor, elementwise",
            ) from error

    def check(self) -> None:
        """Raise `InputError` when no module can be made of it, or when it fails on a tensor or changes its shape."""
        # A user's class may draw its parameters; making one to see must not be noticed.
        # A numpy function warns of what it cannot do; whether that matters is seen when it is used.
        with global_stream(seeded_generator(0, "check")), torch.no_grad(), np.errstate(all="ignore"):
            module = self.module()
            # A user's class may be made for another width.
            if self.custom and not isinstance(module, FunctionActivation):
                return
            value = self._call(lambda: module(torch.linspace(-1, 1, 6).reshape(2, 3)))
        if not isinstance(value, Tensor) or value.shape != (2, 3):
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(
                f"activation {self.label!r} turns a tensor of shape (2, 3) into {what}",
                hint="valid are an nn.Module class and a function of a tensor, elementwise",
            )


def parse_activation(text: str | ActivationSpec) -> ActivationSpec:
    """Return the activation that a spec names: `relu`, `leaky_relu:negative_slope=0.2`, `package.module:callable`.

    Raises `InputError` for an unknown name (with the nearest one), an unknown parameter, a value that is not valid,
    and a callable of the user's that cannot be loaded or does not keep a tensor's shape.
    """
    if isinstance(text, ActivationSpec):
        return text
    spec = parse_spec(text, "activation")
    if spec.name in _SHORTHANDS:
        rest = "".join(f":{name}={value}" for name, value in spec.parameters.items())
        spec = parse_spec(_SHORTHANDS[spec.name] + rest, "activation")
    if spec.custom:
        own = own_parameters(spec)
        made = ActivationSpec(spec.name, own, label(spec.name, own))
    else:
        entry, values = look_up(_INDEX, spec, "activation")
        made = ActivationSpec(entry.name, values, label(entry.name, values, entry.parameters))
    made.check()
    return made
