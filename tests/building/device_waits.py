"""`NoWaits`: inside it, whatever would wait for a device fails, on the CPU too."""

from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoWaits(TorchDispatchMode):
    """Fails at whatever would wait for a device: reading a value, or a shape that depends on one."""

    WAITS = (
        "_local_scalar_dense",
        "item",
        "nonzero",
        "masked_select",
        "unique",
        "equal",
        "is_nonzero",
        "bincount",
        "histc",
        "_to_copy.cpu",
    )

    def __enter__(self):
        # On the CPU it reads memory, and dispatches nothing.
        self.tolist = mock.patch.object(torch.Tensor, "tolist", side_effect=AssertionError("tolist waits"))
        self.tolist.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.tolist.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))
