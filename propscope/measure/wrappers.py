"""Compiled and parallel wrappers: the model inside them, and how its hooks are made to run."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from propscope.errors import InputError
from propscope.records.network import CoverageNote

# By name: what a model is not wrapped in need not be imported.
_WRAPPERS = (
    "DataParallel",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    # Of activation checkpointing in torch.distributed.
    "CheckpointWrapper",
    "OffloadWrapper",
    # Of Lightning's Fabric.
    "_FabricModule",
)

# What torch.distributed.pipelining makes of a model.
_PIPELINES = ("Pipe", "_PipelineStageBase", "_PipelineSchedule")
_CLASSES_PUT_BEFORE = ("FSDPModule", "ReplicateModule", "DDP")


def unwrapped_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return (dotted path, module) for each module once, as `named_modules` yields them, without the wrappers.

    What a wrapper wraps has the wrapper's own path: the parts that wrappers add, such as `module` and `_orig_mod`, are
    not in it, while a child that its author named so keeps its name.
    """
    found: list[tuple[str, nn.Module]] = []
    visited: set[int] = set()

    def inside(path: str, module: nn.Module) -> None:
        visited.add(id(module))
        scripted = isinstance(module, torch.jit.ScriptModule)
        wraps = not scripted and bool(module._modules) and is_wrapper(module)
        if not wraps:
            found.append((path, module))
        for name, child in () if scripted else module._modules.items():
            if child is not None and id(child) not in visited:
                inside(path if wraps else f"{path}.{name}" if path else name, child)

    inside("", model)
    return found


def modules_in(model: nn.Module) -> list[nn.Module]:
    """Return what `model.modules()` yields, without the names that it makes for each, in a fifth of the time."""
    found: dict[int, nn.Module] = {}

    def inside(module: nn.Module) -> None:
        found[id(module)] = module
        for child in module._modules.values():
            if child is not None and id(child) not in found:
                inside(child)

    inside(model)
    return list(found.values())


def parameters_in(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Return the parameters that these modules hold themselves, each once."""
    found = {id(one): one for module in modules for one in module._parameters.values() if one is not None}
    return list(found.values())


def unwrapped_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (dotted path, parameter) for each parameter once, under the paths of `unwrapped_modules`."""
    return parameters_at(unwrapped_modules(model))


def parameters_at(places: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (dotted path, parameter) for each parameter that modules at these paths hold themselves, once."""
    visited: set[int] = set()
    for path, module in places:
        # A scripted module keeps its parameters out of Python's reach but for this.
        own = module.named_parameters() if isinstance(module, torch.jit.ScriptModule) else module._parameters.items()
        for name, parameter in own:
            if parameter is not None and id(parameter) not in visited:
                visited.add(id(parameter))
                yield f"{path}.{name}" if path else name, parameter


def parameter_names(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """Return all names of each parameter by its id, that of `unwrapped_parameters` first; a shared one has several."""
    names: dict[int, tuple[str, ...]] = {}

    def inside(path: str, module: nn.Module, above: tuple[int, ...]) -> None:
        scripted = isinstance(module, torch.jit.ScriptModule)
        for name, parameter in module.named_parameters() if scripted else module._parameters.items():
            if parameter is not None:
                full = f"{path}.{name}" if path else name
                names[id(parameter)] = (*(each for each in names.get(id(parameter), ()) if each != full), full)
        if scripted:
            return
        wraps = bool(module._modules) and is_wrapper(module)
        for name, child in module._modules.items():
            if child is not None and id(child) not in above:
                inside(path if wraps else f"{path}.{name}" if path else name, child, (*above, id(child)))

    inside("", model, (id(model),))
    return names


def shared_modules(modules: Iterable[nn.Module]) -> frozenset[int]:
    """Return the ids of the modules that several modules hold, or one under several names, and of all inside them."""
    held: dict[int, nn.Module] = {}
    shared: dict[int, nn.Module] = {}
    for module in modules:
        for child in module._modules.values():
            if child is not None:
                (shared if id(child) in held else held)[id(child)] = child
    return frozenset(id(part) for module in shared.values() for part in module.modules())


def place_inside(outer: nn.Module, module: nn.Module) -> str | None:
    """Return the shortest dotted path of a module inside another one, the first of several; None where it is not."""
    waiting, visited = [("", outer)], {id(outer)}
    while waiting:
        deeper = []
        for path, holder in waiting:
            for name, child in holder._modules.items():
                if child is None or id(child) in visited:
                    continue
                place = path if is_wrapper(holder) else f"{path}.{name}" if path else name
                if child is module:
                    return place
                visited.add(id(child))
                deeper.append((place, child))
        waiting = deeper
    return None


def is_wrapper(module: nn.Module) -> bool:
    """Return whether a module only passes on to the one inside it."""
    return "_orig_mod" in module._modules or class_of(module).__name__ in _WRAPPERS


def class_of(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module that its author wrote.

    `fully_shard` and `replicate` make a class of that one and of one of their own.
    """
    kind = type(module)
    before = kind.__bases__[0]
    made = before.__name__ in _CLASSES_PUT_BEFORE and before.__module__.startswith("torch.distributed.")
    return kind.__bases__[-1] if made else kind


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside any number of wrappers."""
    while is_wrapper(model):
        model = next(iter(model.children()))
    return model


def steps_unevenly(model: nn.Module) -> bool:
    """Return whether DDP runs in its `join()`, where a rank may take more steps than others."""
    while is_wrapper(model):
        if getattr(getattr(model, "_join_config", None), "enable", False):
            return True
        model = next(iter(model.children()))
    return False


def is_redirected(module: nn.Module) -> bool:
    """Return whether the next call of a module runs another of its methods, as Lightning's training step behind DDP."""
    forward = vars(module).get("forward")
    return getattr(forward, "__qualname__", "").endswith("wrapped_forward") and "lightning" in forward.__module__


def require_module(model: object) -> None:
    """Raise `InputError` for what is no module, and for a pipeline, of which this rank runs a part."""
    homes = {kind.__name__: kind.__module__ for kind in type(model).__mro__}
    if any(homes.get(name, "").startswith("torch.distributed.pipelining") for name in _PIPELINES):
        raise InputError(
            f"model must be the part of a pipeline that this rank runs, got a {type(model).__name__}",
            hint="pass the module of the stage, stage.submod; each rank records its own stage, without group",
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got a {type(model).__name__}")


def is_compiled(model: nn.Module) -> bool:
    """Return whether any part of the model goes through torch.compile."""
    return any(
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
        for module in modules_in(model)
    )


class _EagerTorch:
    """Keeps torch's compiler and its fast path of attention off for as long as anybody needs that, in any order."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._stack = ExitStack()
        self._eager = False

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            # Compiled functions that the model calls would be traced together with what watches it. Where torch has
            # not loaded its compiler, nothing is compiled yet, and loading it would take seconds.
            if "torch._dynamo" in sys.modules:
                self._run_eager()
            else:
                self._wait_for_compiler()
            before = torch.backends.mha.get_fastpath_enabled()
            self._stack.callback(torch.backends.mha.set_fastpath_enabled, before)

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._stack.close()
                self._eager = False

    def _wait_for_compiler(self) -> None:
        compile_ = torch.compile

        @functools.wraps(compile_)
        def compile_and_run_eager(*args: Any, **kwargs: Any) -> Any:
            found = compile_(*args, **kwargs)
            with self._lock:
                if self._users and not self._eager and "torch._dynamo" in sys.modules:
                    self._run_eager()
            return found

        def restore() -> None:
            if torch.compile is compile_and_run_eager:
                torch.compile = compile_

        torch.compile = compile_and_run_eager
        self._stack.callback(restore)

    def _run_eager(self) -> None:
        self._eager = True
        if hasattr(torch.compiler, "set_stance"):
            self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        else:  # before torch 2.6
            self._stack.enter_context(torch._dynamo.config.patch(disable=True))


_eager_torch = _EagerTorch()
COMPILED = "torch.compile was off while tracking: the eager model was measured"


@contextmanager
def without_shortcuts(model: nn.Module) -> Iterator[tuple[CoverageNote, ...]]:
    """Switch off what bypasses the recorder, yield notes of what was switched off, and restore it at the end."""
    notes = []
    _eager_torch.enter()
    try:
        if is_compiled(model):
            notes.append(CoverageNote("", "model", COMPILED))
        if any(isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoder)) for module in modules_in(model)):
            before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            if before and not model.training:
                reason = (
                    "the fast path of nn.TransformerEncoder and nn.MultiheadAttention was off while tracking: "
                    "without gradients, outputs differ from it by rounding, and completely at padded positions"
                )
                notes.append(CoverageNote("", "model", reason))
        yield tuple(notes)
    finally:
        _eager_torch.leave()
