"""`DeviceCalls`: counts, on the CPU, what the operations inside it would ask of an accelerator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from building.device_waits import NoWaits

# These make or name memory, and start nothing.
_MEMORY = frozenset(("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"))
# These convert all that they read, in memory of their own, before they reduce it, if their result has another dtype;
# half precision that is summed up in float32 is converted on the way. ATen/native/ReduceOpsUtils.h,
# make_reduction_from_out_ty. A dispatch mode does not see it.
_CONVERT = frozenset(("sum", "nansum", "mean", "prod", "linalg_vector_norm", "count_nonzero"))
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Call:
    """One operation: the elements of the largest tensor it reads, the bytes that it reads, writes and allocates.

    `converted`: the bytes of a copy in another dtype that it makes inside.
    """

    name: str
    elements: int
    read: int
    written: int
    allocated: int
    converted: int
    dtype: torch.dtype


class DeviceCalls(NoWaits):
    """Keeps the calls that would start work on a device, as `calls`; fails at whatever would wait for it.

    Views and allocations start nothing. An operation reads each tensor that it is given once, and writes each that it
    returns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        if name == "index":
            places = [one for one in tree_leaves(args[1:]) if isinstance(one, Tensor)]
            assert all(one.dtype not in (torch.bool, torch.uint8) for one in places), "a boolean index waits"
        result = super().__torch_dispatch__(func, types, args, kwargs)
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        memory = {one.untyped_storage().data_ptr() for one in given}
        new = [one for one in made if one.untyped_storage().data_ptr() not in memory]
        if name in _MEMORY or not (new or func._schema.is_mutable):
            return result
        largest = max(given, key=Tensor.numel, default=made[0])
        converted = 0
        if name in _CONVERT and (to := made[0].dtype) is not largest.dtype:
            converted = 0 if to is torch.float32 and largest.dtype in _HALF else largest.numel() * to.itemsize
        written = {id(one): one for one in (made if new else made or given[:1])}.values()
        outputs = {id(one) for one in written}
        self.calls.append(
            Call(
                name,
                max(one.numel() for one in (*given, *made)),
                sum(_bytes(one) for one in given if id(one) not in outputs or func._schema.name.endswith("_")),
                sum(map(_bytes, written)),
                sum(map(_bytes, new)),
                converted,
                made[0].dtype if made else largest.dtype,
            )
        )
        return result

    def reads(self, tensor: Tensor) -> float:
        """Return the bytes read, as multiples of those of a tensor."""
        return sum(call.read for call in self.calls) / _bytes(tensor)

    def writes(self, tensor: Tensor) -> float:
        """Return the bytes written, as multiples of those of a tensor."""
        return sum(call.written for call in self.calls) / _bytes(tensor)

    def largest_new(self, tensor: Tensor) -> float:
        """Return the bytes of the largest new tensor, for each element of a tensor."""
        return max((call.allocated for call in self.calls), default=0) / tensor.numel()

    def wide_copies(self, tensor: Tensor) -> list[str]:
        """Return the operations that return at least as many float64 elements as a tensor has."""
        return [
            call.name
            for call in self.calls
            if call.dtype is torch.float64 and call.allocated >= 8 * tensor.numel() and tensor.numel() > 1
        ]

    def conversions(self, tensor: Tensor) -> list[str]:
        """Return the operations that copy a whole tensor in another dtype inside."""
        return [call.name for call in self.calls if call.converted >= _bytes(tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
