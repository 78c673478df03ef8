"""Which modules a pass skips at random, as stochastic depth and LayerDrop do: they run with other random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from propscope.measure.wrappers import modules_in, parameters_in

# A layer that is skipped with probability 1/2 stays unseen in one of 256 cases.
_RUNS = 8


def random_states(model: nn.Module) -> list[Any]:
    """Return the states of the random generators that a model may draw from, to be compared with `==`."""
    devices = {parameter.device for parameter in parameters_in(modules_in(model)) if parameter.device.type == "cuda"}
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in sorted(devices, key=str))]
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  the global one is the one that models draw from
    return [[state.numpy().tobytes() for state in states], random.getstate(), name, np.asarray(keys).tobytes(), rest]


def skipped_at_random(run: Callable[[], object], idle: Mapping[str, nn.Module]) -> set[str]:
    """Return which of these modules run when the model runs again, without gradients and with other random numbers.

    The model runs until all of them have, at most eight times; after an exception it runs no more.
    """
    ran: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: ran.add(path))
        for path, module in idle.items()
    ]
    try:
        with torch.no_grad():
            for _ in range(_RUNS):
                if len(ran) < len(idle):
                    run()
    except Exception:  # The pass that counts went through: this one only adds to what is known.
        return ran
    finally:
        for handle in handles:
            handle.remove()
    return ran
