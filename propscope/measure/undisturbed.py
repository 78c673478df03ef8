"""`undisturbed`: a block that leaves a model, its batch and the random generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter

from propscope.measure.hooks import has_storage
from propscope.measure.outputs import tensors_of
from propscope.measure.wrappers import is_wrapper, modules_in, parameters_in

# What nn.Module keeps for itself, beside attributes of the user's.
_MODULES_OWN = frozenset(vars(nn.Module()))
# Values that are no tensor and hold none.
_PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device))


@contextmanager
def undisturbed(model: nn.Module, batch: Any = ()) -> Iterator[None]:
    """Restore what a run of a model changes at the end, also after an exception.

    That is: gradients; buffers, those that were None, were removed or are new included; attributes of modules that hold
    tensors, alone or in a list, tuple or dict (caches); the batch, where the model works in place on it; the random
    states of torch, numpy and Python. Inside, `grad` is None for every parameter, and for every leaf of the batch.
    """
    given = tensors_of(batch)
    modules = modules_in(model)
    parameters = parameters_in(modules)
    gradients = [(tensor, tensor.grad) for tensor in (*parameters, *(t for t in given if t.is_leaf))]
    # These gradients lie in the memory that DDP reduces the next ones in.
    lent = any(vars(module).get("gradient_as_bucket_view", False) for module in modules)
    values = [_Values(gradient) for _, gradient in gradients if gradient is not None] if lent else []
    buffers = [_Buffers(module) for module in modules]
    attributes = [_Attributes(module) for module in modules if not is_wrapper(module)]
    batches = [_Values(tensor) for tensor in given]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the global one is the one to restore
    held = (buffer for module in modules for buffer in module._buffers.values() if buffer is not None)
    devices = {tensor.device for tensor in (*parameters, *held)}
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for module in attributes:
                module.restore()
            for of_module in buffers:
                of_module.restore()
            for tensor in (*batches, *values):
                tensor.restore()


class _Values:
    """A tensor, and a copy of its values."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        # What FSDP lends to modules has no memory in between.
        plain = type(tensor) in (Tensor, nn.Parameter)
        self._saved = None if plain and not has_storage(tensor) else tensor.detach().clone()
        self._version = _version(tensor)
        self._counter = None if tensor.is_inference() else _unsafe_preserve_version_counter(tensor)

    def restore(self) -> None:
        """Write the values back where they changed."""
        tensor = self.tensor
        if self._saved is None:
            return
        if _version(tensor) == self._version and (tensor.is_meta or _same(tensor, self._saved)):
            return
        with torch.inference_mode(tensor.is_inference()):
            if tensor.shape != self._saved.shape:
                tensor.data = self._saved
            else:
                tensor.detach().copy_(self._saved)
        if self._counter is not None:
            # The graph of a pass that is to run backward yet holds the tensor in this version.
            self._counter.__exit__(None, None, None)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _same(tensor: Tensor, saved: Tensor) -> bool:
    # A write by `.data` or from numpy counts no version.
    try:
        now = tensor.detach()
        return torch.equal(now, saved) or bool(((now == saved) | ((now != now) & (saved != saved))).all())
    except (RuntimeError, NotImplementedError, TypeError):
        return True


class _Buffers:
    """The buffers of one module."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._buffers = dict(module._buffers.items())
        self._not_persistent = set(module._non_persistent_buffers_set)
        self._values = [_Values(buffer) for buffer in self._buffers.values() if buffer is not None]

    def restore(self) -> None:
        if not isinstance(self._module, torch.jit.ScriptModule):
            _restore_items(self._module._buffers, self._buffers)
        if self._module._non_persistent_buffers_set != self._not_persistent:
            self._module._non_persistent_buffers_set = self._not_persistent
        for values in self._values:
            values.restore()


class _Attributes:
    """The attributes of one module that hold tensors, before or after."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._attributes = _attributes(module)
        self._inside: dict[str, Any] = {}
        self._values = []
        for name, value in self._attributes.items():
            if type(value) in _PLAIN:
                continue
            if isinstance(value, MutableMapping):
                self._inside[name] = dict(value)
            elif isinstance(value, list):
                self._inside[name] = list(value)
            self._values += [_Values(tensor) for tensor in _tensors_of(value)]

    def restore(self) -> None:
        module, before = self._module, self._attributes
        for name, value in _attributes(module).items():
            if name not in before:
                if _tensors_of(value):
                    del module.__dict__[name]
            elif before[name] is not value and (_tensors_of(value) or _tensors_of(before[name])):
                module.__dict__[name] = before[name]
        for name, value in before.items():
            if name not in module.__dict__ and _tensors_of(value):
                module.__dict__[name] = value
        for name, inside in self._inside.items():
            value = before[name]
            if not (_tensors_of(inside) or _tensors_of(value)):
                continue
            if isinstance(inside, dict):
                _restore_items(value, inside)
            elif len(value) != len(inside) or any(a is not b for a, b in zip(value, inside, strict=True)):
                value[:] = inside
        for values in self._values:
            values.restore()


def tensors_held(model: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and buffers of a model, and the tensors that are attributes of its modules."""
    for module in modules_in(model):
        yield from (
            tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None
        )
        for value in _attributes(module).values():
            yield from _tensors_of(value)


def _attributes(module: nn.Module) -> dict[str, Any]:
    own = vars(module)
    return {name: own[name] for name in own.keys() - _MODULES_OWN if not isinstance(own[name], nn.Module)}


def _tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors that a value is or holds, one level down; a parameter is none, whatever lists it (LSTM)."""
    if type(value) in _PLAIN:
        return []
    if isinstance(value, nn.Parameter):
        return []
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple, set)):
        return []
    return [part for part in value if isinstance(part, Tensor) and not isinstance(part, nn.Parameter)]


def _restore_items(now: MutableMapping[Any, Any], before: dict[Any, Any]) -> None:
    """Give a mapping the keys and values that it had, in their order; a mapping that has them is not written to."""
    if list(now) == list(before) and all(now[key] is before[key] for key in before):
        return
    now.clear()
    now.update(before)
