"""`ForwardPass`: what a network computes in one pass, site by site, and its layers run again on what they were given.

A site is a module's output. Where the caller of a layer multiplies the output by a number, as muP and the NTK
parametrization do, the factor belongs to the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from propscope.measure.module_info import CONTAINERS
from propscope.measure.outputs import tensors_in

_SCALING = {"mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply"}
_DIVIDING = {"div", "true_divide", "divide", "__truediv__", "div_", "__itruediv__"}


@dataclass(slots=True)
class Call:
    """A call of a module: its arguments, what its output was multiplied by, and torch's random states before it."""

    path: str
    module: nn.Module
    args: Any
    kwargs: Any
    states: list[Tensor]
    parent: Call | None
    factor: float = 1.0
    holds_layers: bool = False


@dataclass(slots=True)
class ForwardPass:
    """What a forward pass shows, by the name of the site: the value, the gradient after a backward pass, and the call.

    A module that is called again has the name of its path with the number of the call, as in "norm#2". A module that
    returns what a site is already, such as a `Sequential`, is no site. `devices`: the numbers of the model's CUDA
    devices.
    """

    devices: Sequence[int] = ()
    values: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    output: Any = None
    _open: list[Call] = field(default_factory=list)
    # By the identity of a tensor and of what was written to it; the tensors are kept so that the identity holds.
    _names: dict[tuple[int, int], str] = field(default_factory=dict)
    _kept: list[Tensor] = field(default_factory=list)
    _handles: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_devices(cls, model: nn.Module) -> ForwardPass:
        """Return a pass that is still to come, of a model on any devices."""
        return cls(sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}))

    @property
    def layers(self) -> list[str]:
        """The sites of modules that have weights of their own, and ran none inside that has."""
        return [name for name, call in self.calls.items() if _has_weights(call.module) and not call.holds_layers]

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Watch every module of a model."""
        handles: list[Any] = []
        for path, module in model.named_modules():
            scripted = isinstance(module, torch.jit.ScriptModule)
            if scripted or isinstance(module, CONTAINERS) or "parametrizations" in path.split("."):
                continue

            def before(module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                self._begin(path, module, args, kwargs)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(lambda module, args, output: self._end(output)))
        try:
            with _Factors(self):
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._kept.clear()
            self._names.clear()

    def _begin(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(index) for index in self.devices)]
        if _has_weights(module):
            args, kwargs = _copied(args), _copied(kwargs)
        else:
            args, kwargs = (), {}
        self._open.append(Call(path, module, args, kwargs, states, self._open[-1] if self._open else None))

    def _end(self, output: Any) -> None:
        call = self._open.pop()
        if call.parent is not None:
            call.parent.holds_layers |= call.holds_layers or _has_weights(call.module)
        value = _value_of(output)
        if value is None or (id(value), value._version) in self._names:
            return
        repeated = sum(other.path == call.path for other in self.calls.values())
        name = (call.path or "(model)") + (f"#{repeated + 1}" if repeated else "")
        self.calls[name] = call
        self._see(name, value)

    def _see(self, name: str, value: Tensor) -> None:
        self.values[name] = value.detach().clone()
        self._names[id(value), value._version] = name
        self._kept.append(value)
        if (earlier := self._handles.pop(name, None)) is not None:
            earlier.remove()
        if value.requires_grad:
            self._handles[name] = value.register_hook(lambda gradient: self.gradients.update({name: gradient}))

    def see_product(self, value: Tensor, version: int, factor: float, product: Tensor) -> None:
        """Take the product of a layer's output and a number as the output, where the layer's caller multiplied them."""
        name = self._names.get((id(value), version))
        if name is None:
            return
        call = self.calls[name]
        here = self._open[-1] if self._open else None
        if call.parent is here and not call.holds_layers and _has_matrix(call.module):
            call.factor *= factor
            self._see(name, product)

    def again(self, name: str, given: ForwardPass) -> Tensor:
        """Return what a layer makes, with its present weights, of the arguments that it had in the pass `given`."""
        call, earlier = self.calls[name], given.calls[name]
        torch.set_rng_state(call.states[0])
        for index, state in zip(self.devices, call.states[1:], strict=True):
            torch.cuda.set_rng_state(state, index)
        with torch.no_grad():
            output = _value_of(call.module.forward(*_copied(earlier.args), **_copied(earlier.kwargs)))
        assert output is not None
        return output * call.factor


class _Factors(TorchFunctionMode):
    """Shows a pass where a tensor is multiplied or divided by a number."""

    def __init__(self, seen: ForwardPass) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        scales = name in _SCALING or (name in _DIVIDING and isinstance(args[0], Tensor))
        if not (scales and len(args) == 2) or kwargs:
            return func(*args, **(kwargs or {}))
        value, factor = args if isinstance(args[0], Tensor) else reversed(args)
        # What is multiplied in place has another version afterwards.
        version = value._version
        product = func(*args)
        if isinstance(factor, (int, float)) and factor:
            self._seen.see_product(value, version, 1 / factor if name in _DIVIDING else factor, product)
        return product


def _value_of(output: Any) -> Tensor | None:
    """Return the first floating-point tensor of what a module returns; None without one."""
    return next((tensor for _, tensor in tensors_in(output) if tensor.is_floating_point()), None)


def _has_weights(module: nn.Module) -> bool:
    return any(p is not None for p in module._parameters.values()) or "parametrizations" in module._modules


def _has_matrix(module: nn.Module) -> bool:
    """Return whether a module has weights of two dimensions or more, as layers have and norms lack."""
    return any(parameter.dim() > 1 for parameter in module.parameters())


def _copied(value: Any) -> Any:
    """Return a copy of the tensors in nested tuples, lists and dicts, cut from the graph."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        parts = [_copied(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [_copied(part) for part in value]
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return value
