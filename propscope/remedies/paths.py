"""A module's place in a model, as Python writes it."""

from __future__ import annotations

import keyword

from torch import nn


def spelled(model: nn.Module, name: str, root: str = "model") -> str:
    """Return the expression for a module by its dotted name: "stage2.1.conv1" is model.stage2[1].conv1."""
    text, module = root, model
    for part in name.split(".") if name else ():
        if part.isdecimal() and isinstance(module, (nn.Sequential, nn.ModuleList)):
            text += f"[{part}]"
        elif isinstance(module, nn.ModuleDict):
            text += f"[{part!r}]"
        elif part.isidentifier() and not keyword.iskeyword(part):
            text += f".{part}"
        else:
            return f"{root}.get_submodule({name!r})"
        module = module.get_submodule(part)
    return text
