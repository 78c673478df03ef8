"""`initialize_`: give the layers of an existing model new weights and biases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from propscope.checks import number
from propscope.errors import InputError
from propscope.networks.initializers import InitializerSpec, parse_initializer
from propscope.networks.randomness import global_stream

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_LAYERS = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, *_CONVOLUTIONS, *_RECURRENT, *_EMBEDDINGS)
_FOUR_GATES, _THREE_GATES = (nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell)


@torch.no_grad()
def initialize_(
    module: nn.Module,
    spec: str | InitializerSpec | Callable[..., Any],
    *,
    bias_std: float | None = None,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Give every layer of `module` that has a weight a new one, in place; return the names of what was set.

    Layers: Linear, Bilinear, convolutions and transposed ones, RNN, LSTM and GRU and their cells (each gate of a
    weight by itself), Embedding (the padding row stays zero), the input projections of MultiheadAttention (query,
    key and value each by itself), and the Conv1D of transformers, a linear layer whose weight is transposed.
    Norms and other modules keep their parameters. A weight that several layers share is set once, by the first of
    them.

    `bias_std`: the biases of these layers are drawn from N(0, bias_std^2); 0 gives zeros. With None the initializer
    decides: N(0, bias_variance) for `critical`, the layer's own `reset_parameters` for `default`, else zeros. `dirac`
    sets only convolutions and `identity` only matrices; the other layers keep weight and bias. `generator` draws every
    number, and torch's global generator stays as it was; without a generator, the global one draws.

    Raises `InputError` for an unknown spec, a negative or infinite `bias_std`, layers that have no shape yet, and a
    module without any weight that the initializer fills.
    """
    initializer = parse_initializer(spec)
    if bias_std is not None:
        bias_std = number("bias_std", bias_std)
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS) or _is_transposed(layer)]
    for layer in layers:
        if any(nn.parameter.is_lazy(parameter) for parameter in layer.parameters(recurse=False)):
            raise InputError(f"a {type(layer).__name__} has no shape yet", hint="run one batch through the model first")
    default = initializer.name == "default"
    done = _reset(layers, generator) if default else _fill(layers, initializer, generator)
    if not default or bias_std is not None:
        for layer in layers:
            if any(id(weight) in done for weight, _ in _weights(layer)):
                done |= _fill_biases(layer, initializer, bias_std, generator)
    if not done:
        weights = ", ".join(name for name, parameter in module.named_parameters() if parameter.ndim > 1)
        raise InputError(
            f"initializer {initializer.name} fills {initializer.shape}, and no layer has such a weight; "
            f"the model's weights: {weights or 'none'}",
            hint="choose another initializer",
        )
    return [name for name, parameter in module.named_parameters() if id(parameter) in done]


def _reset(layers: Iterable[nn.Module], generator: torch.Generator | None) -> set[int]:
    found = [layer for layer in layers if not _is_transposed(layer)]
    parameters = [parameter for layer in found for parameter in layer.parameters(recurse=False)]
    with global_stream(generator, {parameter.device for parameter in parameters}):
        # Children before parents, since attention's reset sets its output projection's bias to zero; and the first
        # of the layers that share a weight has the last word.
        for layer in reversed(found):
            reset = layer._reset_parameters if isinstance(layer, nn.MultiheadAttention) else layer.reset_parameters
            reset()  # type: ignore[operator]
    return {id(parameter) for parameter in parameters}


def _fill(layers: Iterable[nn.Module], initializer: InitializerSpec, generator: torch.Generator | None) -> set[int]:
    done: set[int] = set()
    for layer in layers:
        for weight, blocks in _weights(layer):
            if id(weight) in done or not _fits(initializer, layer, weight):
                continue
            done.add(id(weight))
            if initializer.shape == "a convolution":
                blocks = layer.groups  # type: ignore[assignment]
            matrix = weight.t() if _is_transposed(layer) else weight
            for block in matrix.chunk(blocks):
                initializer.fill(block, generator)
            if isinstance(layer, _EMBEDDINGS) and layer.padding_idx is not None:
                weight[layer.padding_idx].zero_()
    return done


def _is_transposed(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"


def _fits(initializer: InitializerSpec, layer: nn.Module, weight: Tensor) -> bool:
    # A Bilinear weight has as many dimensions as a convolution's.
    return initializer.fits(weight) and (initializer.shape != "a convolution" or isinstance(layer, _CONVOLUTIONS))


def _fill_biases(
    layer: nn.Module, initializer: InitializerSpec, std: float | None, generator: torch.Generator | None
) -> set[int]:
    # bias_k and bias_v of attention are learned tokens, no biases.
    names = ("bias_ih", "bias_hh") if isinstance(layer, _RECURRENT) else ("in_proj_bias", "bias")
    biases = [
        parameter
        for name, parameter in layer.named_parameters(recurse=False)
        if name.startswith(names) and name not in ("bias_k", "bias_v")
    ]
    for bias in biases:
        initializer.fill_bias(bias, fan_in=1, std=std, generator=generator)
    return {id(bias) for bias in biases}


def _weights(layer: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Yield each weight of a layer with the number of equal matrices that its rows stack."""
    gates = 4 if isinstance(layer, _FOUR_GATES) else 3 if isinstance(layer, _THREE_GATES) else 1
    for name, parameter in layer.named_parameters(recurse=False):
        if name == "in_proj_weight":
            yield parameter, 3
        elif name.startswith(("weight_ih", "weight_hh")):
            yield parameter, gates
        elif name == "weight" or name.startswith("weight_hr") or name.endswith("_proj_weight"):
            yield parameter, 1
