"""The table of optimizers, and `parse_optimizer`, which finds one by its spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from propscope.networks.spec import Chosen, index_names, parse_spec
from propscope.records.spec_parameter import SpecParameter


@dataclass(frozen=True, slots=True)
class OptimizerKind:
    """An optimizer: `make(parameters, lr=..., weight_decay=..., **parameters)`, with its usual rate and decay."""

    name: str
    formula: str
    source: str
    make: Callable[..., Optimizer]
    learning_rate: float
    weight_decay: float = 0.0
    aliases: tuple[str, ...] = ()
    parameters: tuple[SpecParameter, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizerSpec(Chosen):
    """A chosen optimizer: every parameter's value, and `label`, its canonical spec."""

    @property
    def kind(self) -> OptimizerKind:
        """The entry of `OPTIMIZERS`."""
        return _INDEX[self.name]

    def build(self, parameters: Iterable[nn.Parameter], *, learning_rate: float, weight_decay: float) -> Optimizer:
        """Return torch's optimizer of these parameters."""
        return self.kind.make(parameters, lr=learning_rate, weight_decay=weight_decay, **self.parameters)


def _momentum(parameters: Iterable[nn.Parameter], *, nesterov: str, **options: Any) -> Optimizer:
    return SGD(parameters, nesterov=nesterov == "true", **options)


def _adaptive(kind: type[Adam] | type[AdamW]) -> Callable[..., Optimizer]:
    def make(parameters: Iterable[nn.Parameter], *, beta1: float, beta2: float, **options: Any) -> Optimizer:
        tensors = list(parameters)
        # One operation per step instead of a dozen for each tensor: a step of a small network takes half the time.
        fused = all(p.device.type in ("cpu", "cuda") and p.dtype in (torch.float32, torch.float64) for p in tensors)
        return kind(tensors, betas=(beta1, beta2), fused=fused, **options)

    return make


_BELOW_ONE = 0.999999
_BETAS = (
    SpecParameter("beta1", 0.9, 0.0, _BELOW_ONE),
    SpecParameter("beta2", 0.999, 0.0, _BELOW_ONE),
    SpecParameter("eps", 1e-8, 0.0, above=True),
)
# fmt: off
OPTIMIZERS: tuple[OptimizerKind, ...] = (
    OptimizerKind("sgd", "w - lr g", "Robbins, Monro 1951", SGD, 0.01),
    OptimizerKind("momentum", "v = momentum v + g; w - lr v", "Polyak 1964; Nesterov 1983", _momentum, 0.01,
                  aliases=("sgd_momentum",),
                  parameters=(SpecParameter("momentum", 0.9, 0.0, above=True),
                              SpecParameter("nesterov", "false", choices=("false", "true")))),
    OptimizerKind("adam", "w - lr m / (sqrt(v) + eps)", "Kingma, Ba 2015", _adaptive(Adam), 1e-3, parameters=_BETAS),
    OptimizerKind("adamw", "adam, the weights decaying by lr weight_decay a step", "Loshchilov, Hutter 2019",
                  _adaptive(AdamW), 1e-3, 0.01, parameters=_BETAS),
)
# fmt: on

_INDEX = index_names(OPTIMIZERS)


def parse_optimizer(spec: str | OptimizerSpec) -> OptimizerSpec:
    """Return the optimizer that `sgd`, `momentum:momentum=0.8`, `adam:beta2=0.99` or `adamw` names.

    Raises `InputError` for an unknown name or parameter, and for a value that is not valid.
    """
    if isinstance(spec, OptimizerSpec):
        return spec
    return OptimizerSpec.look_up(_INDEX, parse_spec(spec, "optimizer"), "optimizer", hint="For example adam:beta2=0.99")
