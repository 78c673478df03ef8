"""Everything that a run of a model leaves behind, and in what two such runs differ."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_globals


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a tuple, list, mapping or dataclass holds, with its key as a suffix: "[0]", "[logits]"."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs: Any = zip(value._fields, value, strict=True)
    elif isinstance(value, (tuple, list)):
        pairs = enumerate(value)
    elif isinstance(value, Mapping):
        pairs = value.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    else:
        return
    for key, part in pairs:
        yield f"[{key}]", part


def leaves(value: Any, path: str = "", above: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Yield (path, leaf) for everything inside a nested value, objects of unknown classes and cycles included."""
    if isinstance(value, (Tensor, nn.Module, str, int, float, bool, torch.Size, type(None))):
        yield path, value
        return
    if id(value) in above:
        yield path, "again"
        return
    inside = list(parts(value)) or [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]
    yield path, type(value).__name__
    for suffix, part in inside:
        yield from leaves(part, path + suffix, above | {id(value)})


def bits(tensor: Tensor) -> Tensor:
    """Return the tensor's elements as bytes, so that NaN equals NaN and -0 differs from 0."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def difference(a: Any, b: Any) -> str:
    """Return in what two leaves differ, "" when in nothing."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        if isinstance(a, nn.Module) and type(a) is type(b):
            return ""
        return "" if type(a) is type(b) and (a == b or a != a) else f"{a!r} became {b!r}"
    for name, of in _FACTS.items():
        if of(a) != of(b):
            return f"{name} {of(a)} became {of(b)}"
    if a.is_nested:
        return difference(a.values(), b.values()) or difference(a.offsets(), b.offsets())
    if a.layout == torch.sparse_coo:
        return difference(a._indices(), b._indices()) or difference(a._values(), b._values())
    if torch.equal(bits(a), bits(b)):
        # A higher version tells of a write in place that happened to change nothing.
        return "" if version(a) == version(b) else f"version {version(a)} became {version(b)}"
    return f"values, by {(a.detach().to(torch.complex128) - b.detach().to(torch.complex128)).abs().max():.3g}"


_FACTS = {
    "class": type,
    "dtype": lambda tensor: tensor.dtype,
    "layout": lambda tensor: tensor.layout,
    "shape": lambda tensor: str(tensor.shape) if tensor.is_nested else tuple(tensor.shape),
    "strides": lambda tensor: tensor.stride() if tensor.layout == torch.strided else None,
    "requires_grad": lambda tensor: tensor.requires_grad,
    "grad_fn": lambda tensor: type(tensor.grad_fn).__name__.replace("CompiledFunctionBackward", "AddmmBackward0"),
    "coalesced": lambda tensor: tensor.layout == torch.sparse_coo and tensor.is_coalesced(),
    "inference": lambda tensor: tensor.is_inference(),
    "hooks": lambda tensor: len(tensor._backward_hooks or {}),
}


def hooks_of(model: nn.Module) -> dict[str, list[tuple[int, int, str]]]:
    """Return the hooks of every module and parameter, as (key, identity, name) in their order."""
    owners = [(path, name, value) for path, module in model.named_modules() for name, value in vars(module).items()]
    found = {f"{path}.{name}": value for path, name, value in owners if "_hooks" in name}
    for path, parameter in model.named_parameters():
        # After the first hook ever, torch keeps an empty dictionary where there was None.
        found[f"{path} tensor hooks"] = parameter._backward_hooks or {}
        found[f"{path} accumulation hooks"] = parameter._post_accumulate_grad_hooks or {}
    return {
        place: [(key, id(hook), getattr(hook, "__qualname__", type(hook).__name__)) for key, hook in hooks.items()]
        for place, hooks in found.items()
        if isinstance(hooks, Mapping)
    }


def random_states() -> dict[str, Any]:
    """Return the state of every generator of random numbers."""
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tobytes().hex() + str(np.random.get_state()[2:]),  # noqa: NPY002  the global state is the subject
        "python": hash(random.getstate()),
    }


def switches() -> dict[str, Any]:
    """Return torch's global switches and registries, as far as a recorder could leave one changed."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "dtype": torch.get_default_dtype(),
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "global hooks": {name: len(value) for name, value in vars(module_globals).items() if name.endswith("_hooks")},
        "module call": nn.Module.__call__.__qualname__,
    }


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return what a model holds: parameters, buffers, flags, classes and attributes of its modules, hooks by name."""
    modules = dict(model.named_modules())
    return {
        "parameters": {name: parameter for name, parameter in model.named_parameters() if not _lazy(parameter)},
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
        "buffers": {name: buffer for name, buffer in model.named_buffers() if not _lazy(buffer)},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "training": {name: module.training for name, module in modules.items()},
        "classes": {name: type(module).__name__ for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "hooks": {place: [name for _, _, name in hooks] for place, hooks in hooks_of(model).items()},
    }


def _lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedTensorMixin)


def assert_identical(a: Any, b: Any) -> None:
    """Fail with the list of all differences, one a line."""
    __tracebackhide__ = True
    found = differences(a, b)
    if found:
        raise AssertionError(f"{len(found)} differences\n" + "\n".join(found[:20]))


def differences(a: Any, b: Any) -> list[str]:
    """Return every place in which two nested values differ, one line a place; [] when they are bit-identical."""
    left, right = dict(leaves(a)), dict(leaves(b))
    found = [f"{path}: missing" for path in left.keys() - right.keys()]
    found += [f"{path}: additional" for path in right.keys() - left.keys()]
    for path in left.keys() & right.keys():
        text = difference(left[path], right[path])
        if text:
            found.append(f"{path}: {text}")
    return sorted(found)
