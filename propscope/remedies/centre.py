"""`centre`: bring the layers of an existing model to mean 0 and std 1 through weights and biases, in one pass."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from propscope.errors import InputError
from propscope.measure.batches import call_model
from propscope.measure.outputs import as_batch
from propscope.measure.undisturbed import undisturbed

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def centre(model: nn.Module, batch: Any) -> tuple[str, ...]:
    """Change weights and biases in place so that each unit has mean 0 over the batch and each layer has std 1.

    This is data-dependent initialization (Kraehenbuehl et al. 2016, section 3.1; Salimans, Kingma 2016, section 3) with
    one scale per layer, layer after layer in execution order: W <- W / std, b <- (b - mean) / std, where `mean` is that
    of each unit and `std` that of the layer. It removes what all samples have in common, such as the mean 1/2 of a
    sigmoid; `propscope.calibrate`, which does not change biases, keeps it. `batch` is as in `propscope.profile`;
    buffers, gradients and random states do not change.

    Changes Linear and convolution layers whose weight and bias require gradients and belong to no other module, and
    returns their names in execution order. Later runs of a layer, and layers whose output is constant or not finite,
    change nothing. Raises `InputError` where no layer was changed. In that case, and if the model raises or is
    interrupted, all weights are as before.
    """
    batch = as_batch(model, batch)
    names = {id(module): name for name, module in model.named_modules()}
    waiting = _own(model)
    done: list[str] = []
    saved: list[tuple[nn.Parameter, Tensor]] = []

    def changed(module: nn.Module, arguments: Any, output: Any) -> Tensor | None:
        if id(module) not in waiting or not isinstance(output, Tensor):
            return None
        waiting.discard(id(module))
        found = _centred(module, output, saved)
        if found is not None:
            done.append(names[id(module)])
        return found

    try:
        with ExitStack() as stack, undisturbed(model, batch), torch.no_grad():
            for module in model.modules():
                if id(module) in waiting:
                    stack.callback(module.register_forward_hook(changed).remove)
            call_model(model, batch)
        if not done:
            raise InputError("no layer was centred: no layer has a trainable bias and an output that varies")
    except BaseException:
        with torch.no_grad():
            for parameter, before in saved:
                parameter.copy_(before)
        raise
    return tuple(done)


def _own(model: nn.Module) -> set[int]:
    """Return the ids of the layers whose weight and bias require gradients and belong to no other module."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return {
        id(module)
        for module in model.modules()
        if isinstance(module, _LAYERS)
        and all(name in module._parameters and module._parameters[name] is not None for name in ("weight", "bias"))
        and all(p.requires_grad and owners[id(p)] == 1 for p in module.parameters(recurse=False))
    }


def _centred(module: nn.Module, output: Tensor, saved: list[tuple[nn.Parameter, Tensor]]) -> Tensor | None:
    """Change one layer and return its new output; None where the layer is left alone."""
    axis = output.dim() - 1 if isinstance(module, nn.Linear) else 1
    values = output.double()
    mean = values.mean([i for i in range(output.dim()) if i != axis], keepdim=True)
    deviation = (values - mean).std(correction=0)
    if not deviation.isfinite() or deviation <= 1e-6 * values.square().mean().sqrt():
        return None
    weight, bias = module._parameters["weight"], module._parameters["bias"]
    assert weight is not None
    assert bias is not None
    saved += [(weight, weight.detach().clone()), (bias, bias.detach().clone())]
    weight.div_(deviation.to(weight.dtype))
    bias.copy_((bias.double() - mean.flatten()) / deviation)
    return ((values - mean) / deviation).to(output.dtype)
