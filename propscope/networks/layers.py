"""The modules that an MLP is made of, named so that a site reads `layers.3.linear` or `layers.3.activation`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class _Unfilled(nn.Linear):
    def reset_parameters(self) -> None:
        pass


def unfilled_linear(fan_in: int, fan_out: int, *, device: torch.device, dtype: torch.dtype) -> nn.Linear:
    """Return an nn.Linear whose weight and bias are uninitialized memory, for an initializer to fill."""
    linear = _Unfilled(fan_in, fan_out, device=device, dtype=dtype)
    # torch.nn.utils.skip_init does the same in eight times the time. From here on it is torch's own class.
    linear.__class__ = nn.Linear  # type: ignore[assignment]
    return linear


class Add(nn.Module):
    """The sum of a residual connection, a module of its own, so that it has a site; `scale` multiplies the branch."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, update: Tensor, stream: Tensor) -> Tensor:
        """Return stream + scale update, all of shape (rows, width)."""
        return stream + (update if self.scale == 1 else self.scale * update)


class Layer(nn.Module):
    """h -> dropout(activation(norm(linear(h)))), with `norm` and `dropout` where there are any."""

    def __init__(
        self,
        linear: nn.Linear,
        activation: nn.Module,
        *,
        norm: nn.Module | None = None,
        dropout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.norm = norm
        self.activation = activation
        self.dropout = dropout

    def forward(self, h: Tensor) -> Tensor:
        """Return the activation, shape (rows, width), of an input of shape (rows, width before)."""
        return self._activate(self.linear(h))

    def _activate(self, z: Tensor) -> Tensor:
        if self.norm is not None:
            z = self.norm(z)
        h: Tensor = self.activation(z)
        return h if self.dropout is None else self.dropout(h)


class ResidualLayer(Layer):
    """A layer that adds to the stream of those before: z' = z + scale linear(h), h' = activation(norm(z')).

    As in He et al. 2016 (Identity mappings in deep residual networks): the stream carries pre-activations, and neither
    norm nor activation acts on it.
    """

    def __init__(
        self, linear: nn.Linear, activation: nn.Module, *, first: bool, scale: float = 1.0, **around: nn.Module | None
    ) -> None:
        super().__init__(linear, activation, **around)
        self.add = None if first else Add(scale)

    # The stream is what a residual layer has beyond a plain one.
    def forward(self, h: Tensor, stream: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the activation and the new stream, both (rows, width); the first layer starts the stream."""
        z = self.linear(h)
        if self.add is not None:
            z = self.add(z, stream)
        return self._activate(z), z


class MLP(nn.Module):
    """`layers` one after the other, then `output`, a linear readout, when there is one. Built by `MLPSpec.build`."""

    def __init__(self, layers: Iterable[Layer], output: nn.Linear | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """Return the last activation, or the readout of it, shape (rows, outputs), of x, shape (rows, inputs)."""
        h, stream = x, None
        for layer in self.layers:
            if isinstance(layer, ResidualLayer):
                h, stream = layer(h, stream)
            else:
                h = layer(h)
        return h if self.output is None else self.output(h)
