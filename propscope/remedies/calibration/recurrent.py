"""What enters each layer of a recurrent network of several."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


def input_of_layer(module: nn.RNNBase, values: Any, state: Any, layer: int) -> Tensor:
    """Return what layer `layer` takes, features last: the network's input, or what the layers below it return.

    `values` and `state` are the arguments of the module's forward, packed or not. The module stays as it is.
    """
    if layer:
        directions = 2 if module.bidirectional else 1
        below = copy.copy(module)  # shares parameters; what is set here is set on the copy
        below.num_layers = layer
        flat = module._flat_weights
        below._flat_weights = flat[: len(flat) * layer // module.num_layers]
        values = below.forward(values, _first(state, layer * directions))[0]
    dense = values.data if isinstance(values, PackedSequence) else values
    assert isinstance(dense, Tensor)
    return nn.functional.dropout(dense, module.dropout, module.training and layer > 0)


def _first(state: Any, count: int) -> Any:
    if state is None:
        return None
    return tuple(part[:count] for part in state) if isinstance(state, tuple) else state[:count]
