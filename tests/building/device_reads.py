"""`DeviceReads`: counts, on the CPU, what would wait for an accelerator that holds some of the tensors."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from building.device_waits import NoWaits


class DeviceReads(TorchDispatchMode):
    """Keeps, as `reads`, where in propscope a tensor of the device was read, the innermost line first.

    On the device are the tensors given, what is computed from one that is, and what one is written to; not what was
    copied to the CPU.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.reads: list[str] = []
        self._storages: dict[int, StorageWeakRef] = {}
        self._put(tensors)

    def _put(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            reference = StorageWeakRef(tensor.untyped_storage())
            self._storages[reference.cdata] = reference

    def holds(self, tensor: Tensor) -> bool:
        return StorageWeakRef(tensor.untyped_storage()).cdata in self._storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        held = any(map(self.holds, given))
        if held and func.overloadpacket.__name__ in NoWaits.WAITS:
            self._note()
        result = func(*args, **(kwargs or {}))
        if held:
            self._put(one for one in tree_leaves(result) if isinstance(one, Tensor))
            if func._schema.is_mutable:
                self._put(given)
        return result

    def _note(self) -> None:
        lines = (frame for frame in reversed(traceback.extract_stack()) if "/propscope/" in frame.filename)
        self.reads.append(" < ".join(frame.name for frame in lines))

    def _reading(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            # A device that was asked of a tensor is its own.
            if not self.holds(tensor) or (name == "to" and args[:1] != ("cpu",)):
                return method(tensor, *args, **kwargs)
            self._note()
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
