"""`undisturbed`: a block that leaves a model and the random generators as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from propscope.measure.outputs import tensors_in


@contextmanager
def undisturbed(model: nn.Module, batch: Any = ()) -> Iterator[None]:
    """Restore gradients, buffers and the random states of torch, numpy and Python at the end, also after an exception.

    Inside, `grad` is None for every parameter, and for every leaf of the batch.
    """
    leaves = [tensor for _, tensor in tensors_in(batch) if tensor.is_leaf]
    gradients = [(tensor, tensor.grad) for tensor in (*model.parameters(), *leaves)]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the global one is the one to restore
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
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
            for module, name, buffer, saved in buffers:
                module._buffers[name] = buffer
                if buffer.is_inference():
                    continue
                buffer.copy_(saved)
