"""Compiled and parallel wrappers: the model inside them, and how its hooks are made to run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from propscope.records.network import CoverageNote

_PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def walk(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (dotted path, module) for each module once, as `named_modules` does, without the wrappers.

    What a wrapper wraps has the wrapper's own path: the parts `module` and `_orig_mod` that wrappers add are not in
    it, while a child that its author named so keeps its name.
    """
    seen: set[int] = set()

    def inside(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        if isinstance(module, torch.jit.ScriptModule):
            yield path, module
            return
        wraps = is_wrapper(module)
        if not wraps:
            yield path, module
        for name, child in module._modules.items():
            if child is not None:
                yield from inside(path if wraps else f"{path}.{name}" if path else name, child)

    yield from inside("", model)


def walk_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (dotted path, parameter) for each parameter once, under the paths of `walk`."""
    seen: set[int] = set()
    for path, module in walk(model):
        # A scripted module keeps its parameters out of Python's reach but for this.
        own = module.named_parameters() if isinstance(module, torch.jit.ScriptModule) else module._parameters.items()
        for name, parameter in own:
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{path}.{name}" if path else name, parameter


def is_wrapper(module: nn.Module) -> bool:
    """Return whether a module only passes on to the one inside it."""
    return "_orig_mod" in module._modules or type(module).__name__ in _PARALLEL


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside any number of wrappers."""
    while is_wrapper(model):
        model = next(iter(model.children()))
    return model


def is_compiled(model: nn.Module) -> bool:
    """Return whether any part of the model goes through torch.compile."""
    return any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


@contextmanager
def seen_in_full(model: nn.Module) -> Iterator[tuple[CoverageNote, ...]]:
    """Switch off what bypasses hooks, yield notes of what was switched off, and restore it at the end."""
    notes = []
    with ExitStack() as stack:
        # Compiled functions that the model calls would be traced together with the hooks. Where torch has not
        # loaded its compiler, nothing is compiled, and loading it would take seconds.
        if "torch._dynamo" in sys.modules:
            _run_eager(stack)
        if is_compiled(model):
            notes.append(
                CoverageNote("", "model", "torch.compile was off while tracking: the eager model was measured")
            )
        if any(isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoder)) for module in model.modules()):
            before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            stack.callback(torch.backends.mha.set_fastpath_enabled, before)
            if before and not model.training:
                reason = (
                    "the fast path of nn.TransformerEncoder and nn.MultiheadAttention was off while tracking: "
                    "without gradients, outputs differ from it by rounding, and completely at padded positions"
                )
                notes.append(CoverageNote("", "model", reason))
        yield tuple(notes)


def _run_eager(stack: ExitStack) -> None:
    if hasattr(torch.compiler, "set_stance"):
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    else:  # before torch 2.6
        stack.enter_context(torch._dynamo.config.patch(disable=True))
