"""`DeviceReads`: follows, on the CPU, what would pass between it and an accelerator that holds some of the tensors."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from building.device_waits import NoWaits


class DeviceReads(TorchDispatchMode):
    """Keeps where in propscope a tensor of the device was read, and where one of the CPU was copied to the device.

    `reads`, `copies`: the functions that were running, the innermost first. `calls`: the operations, each with the
    shapes of what it returned. On the device are the tensors given, what is computed from one that is, and what one is
    written to; on the CPU are Python's and numpy's numbers, what was copied to it, and what is computed from these.
    What is made of no tensor is where it is needed.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.copies: list[str] = []
        self.calls: list[tuple[str, list[torch.Size]]] = []
        self._storages: dict[int, StorageWeakRef] = {}
        self._anywhere: dict[int, StorageWeakRef] = {}
        self.put(tensors)

    def put(self, tensors: Iterable[Tensor]) -> None:
        """Let tensors be on the device."""
        _add(self._storages, tensors)

    def holds(self, tensor: Tensor) -> bool:
        return _is_in(self._storages, tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        name, held = func.overloadpacket.__name__, any(map(self.holds, given))
        truths = [one for one in tree_leaves(args[1:]) if name == "index" and isinstance(one, Tensor)]
        if held and (name in NoWaits.WAITS or any(one.dtype is torch.bool for one in truths)):
            self.reads.append(_running())
        # A single number goes to a device as an argument of the operation, if it is not what is copied.
        on_cpu = [one for one in given if not (self.holds(one) or _is_in(self._anywhere, one))]
        if held and any(one.dim() or "copy" in name for one in on_cpu):
            self.copies.append(_running())
        result = func(*args, **(kwargs or {}))
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        self.calls.append((name, [one.shape for one in made]))
        if held:
            self.put([*made, *(given if func._schema.is_mutable else ())])
        elif not on_cpu:
            _add(self._anywhere, made)
        return result

    def _reading(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            # A device that was asked of a tensor is its own.
            if not self.holds(tensor) or (name == "to" and args[:1] != ("cpu",)):
                return method(tensor, *args, **kwargs)
            self.reads.append(_running())
            if name == "tolist":
                return method(tensor)
            copied = tensor.clone()
            del self._storages[StorageWeakRef(copied.untyped_storage()).cdata]
            return copied

        return read

    def __enter__(self) -> DeviceReads:
        with ExitStack() as stack:
            for name in ("tolist", "cpu", "to"):
                method = getattr(Tensor, name)
                stack.enter_context(mock.patch.object(Tensor, name, self._reading(method, name)))
            self._patches = stack.pop_all()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._patches.close()
        super().__exit__(*error)


def _add(storages: dict[int, StorageWeakRef], tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        # It keeps the address from being used again.
        reference = StorageWeakRef(tensor.untyped_storage())
        storages[reference.cdata] = reference


def _is_in(storages: dict[int, StorageWeakRef], tensor: Tensor) -> bool:
    return StorageWeakRef(tensor.untyped_storage()).cdata in storages


def _running() -> str:
    frames = (frame for frame in reversed(traceback.extract_stack()) if "/propscope/" in frame.filename)
    return " < ".join(frame.name for frame in frames)
