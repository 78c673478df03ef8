"""Small networks for tests, of parts and a function that calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Made(nn.Module):
    """A network of parts and a function that calls them."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        """Return what the function makes of the parts and the input."""
        return self.run(self, x)


def zeroed(module: nn.Module, *names: str) -> Any:
    """Return a module with these parameters set to zero, its weight without names."""
    for name in names or ("weight",):
        nn.init.zeros_(module.get_parameter(name))
    return module


def biased(layer: nn.Module, value: float) -> Any:
    """Return a layer with this bias."""
    nn.init.constant_(layer.get_parameter("bias"), value)
    return layer
