"""The compiled pass over a CPU tensor's memory, where it was built; `host.py` and `units.py` do without it otherwise.

`PROPSCOPE_KERNEL=0` in the environment leaves it unused, for comparison and for tracing a fault.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from propscope.measure import _kernel
else:
    try:
        from propscope.measure import _kernel
    except ImportError:
        _kernel = None

AVAILABLE = _kernel is not None and os.environ.get("PROPSCOPE_KERNEL", "1") != "0"
# Cells of a table of bins: those of `LogHistogram`, then some that the kernel works in and leaves at 0.
TABLE = 4100
MOST = 1 << 30

# The kernel reads float32 and bfloat16 as they are.
_READ = {torch.float32: 0, torch.bfloat16: 1}


def can_read(tensor: Tensor) -> bool:
    """Return whether the kernel takes this CPU tensor, as it is or converted."""
    return AVAILABLE and tensor.dtype is not torch.float64 and tensor.numel() <= MOST and tensor.data_ptr() != 0
