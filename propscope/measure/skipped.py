"""Which modules a pass skips at random, as stochastic depth and LayerDrop do: they run with other random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from propscope.measure.random_choices import ChoiceWatch, python_state
from propscope.measure.wrappers import modules_in, parameters_in

# A layer that is skipped with probability 1/2 stays unseen in one of 256 cases.
_RUNS = 8


def random_states(model: nn.Module) -> list[Any]:
    """Return the states of the random generators that a model may draw from, to be compared with `==`."""
    return [*torch_states(model)(), *python_state()]


def torch_states(model: nn.Module) -> Callable[[], list[bytes]]:
    """Return what returns the states of torch's random generators on the devices of a model."""
    found = {parameter.device for parameter in parameters_in(modules_in(model)) if parameter.device.type == "cuda"}
    devices = sorted(found, key=str)

    def states() -> list[bytes]:
        own = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
        return [state.numpy().tobytes() for state in own]

    return states


def skipped_at_random(run: Callable[[], object], model: nn.Module, idle: Mapping[str, nn.Module]) -> set[str]:
    """Return which of these modules of a model run when it runs again, without gradients, with other random numbers.

    The model runs until all of them have, at most eight times, and once where random numbers decide nothing of what
    runs; after an exception it runs no more.
    """
    ran: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: ran.add(path))
        for path, module in idle.items()
    ]
    try:
        with torch.no_grad():
            watch = ChoiceWatch(modules_in(model), torch_states(model))
            for number in range(_RUNS):
                if number and (len(ran) == len(idle) or not watch.found):
                    break
                with nullcontext() if number else watch:
                    run()
    except Exception:  # The pass that counts went through: this one only adds to what is known.
        return ran
    finally:
        for handle in handles:
            handle.remove()
    return ran
