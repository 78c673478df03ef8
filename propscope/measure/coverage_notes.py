"""What a profile lacks, and why: modules that did not run, what was not recorded, weights that are not registered."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import nn

from propscope.measure.module_info import CONTAINERS, ModuleInfo
from propscope.measure.observer import Observer
from propscope.measure.parameters import ParameterAccumulator
from propscope.measure.shards import Sharding
from propscope.measure.wrappers import class_of
from propscope.records.network import CoverageNote, Site
from propscope.records.numerals import counted

_SHAPES_SHOWN = 4
# Methods that make, initialize or hand out parts, and call none of them.
_MAKING = re.compile(r"__|_?(init|reset|get|set|tie|load|save|freeze|unfreeze|resize|prune|extra_repr|post_init)")

# The end of the reason for a module that did not run, but would in other cases.
CALLED_ELSEWHERE = "; the code calls it in other cases"


def coverage_notes(
    observer: Observer,
    modules: Mapping[str, ModuleInfo],
    parameters: Mapping[str, ParameterAccumulator],
    sites: Mapping[str, Site],
    shardings: Mapping[str, Sharding | None],
    gradients: Collection[str],
    *,
    parts: bool = True,
) -> Iterator[CoverageNote]:
    """Yield a note for each module that did not run, each output, operation and parameter that was not recorded.

    `sites`, `shardings`: by the observer's keys. `gradients`: the parameters whose gradient was seen. `parts`:
    whether of distributed parameters only the part of this rank is recorded.
    """
    ran = {outer for path in modules if observer.passes_of(path)[0] for outer in _around(path)}
    used: dict[str, str] = {}
    for site in sites.values():
        for name in site.parameters:
            used.setdefault(name.rpartition(".")[0], site.name)
    for path, info in modules.items():
        if isinstance(info.module, torch.jit.ScriptModule):
            yield CoverageNote(path, "module", "TorchScript calls no hooks: nothing inside was recorded")
        elif not isinstance(info.module, CONTAINERS) and (reason := _not_run(observer, path, info.module, used)):
            idle = "did not run" in reason or "never ran" in reason
            elsewhere = idle and path not in observer.skipped and _is_called_elsewhere(modules, path, ran)
            yield CoverageNote(path, "module", reason + CALLED_ELSEWHERE * elsewhere)
    # A list, since another thread may add to them.
    yield from list(observer.guard.notes.values())
    for path, accumulator in observer.sites.items():
        if accumulator.dtype.startswith("complex"):
            yield CoverageNote(path, "output", "complex values are measured by their magnitude")
    for key, sharding in shardings.items():
        if key in sites and sharding is not None and not (sharding.is_whole and sharding.shape is None):
            yield CoverageNote(sites[key].name, "output", str(sharding))
        if key in sites and (summand := observer.sites[key].gradient_sharding) is not None and summand.partial:
            yield CoverageNote(sites[key].name, "output", _of_summand(summand))
    for name, count in observer.unrecorded.most_common():
        if count:
            yield CoverageNote(
                name, "operation", f"called {'once' if count == 1 else f'{count} times'} between modules, not recorded"
            )
    yield from _unregistered(observer)
    for name, parameter in parameters.items():
        if parts and (sharding := parameter.sharding) is not None:
            yield CoverageNote(name, "parameter", str(sharding))
        if (summand := parameter.gradient_sharding) is not None and summand.partial:
            yield CoverageNote(name, "parameter", _of_summand(summand))
        if name not in gradients:
            yield CoverageNote(name, "parameter", parameter.why_no_gradient)


def _of_summand(sharding: Sharding) -> str:
    return f"its gradient is not summed up yet: {', '.join(map(str, sharding.partial))}"


def _not_run(observer: Observer, path: str, module: nn.Module, used: Mapping[str, str]) -> str:
    """Return in which passes a module did not run, "" where it ran in all."""
    kind, (ran, passes) = class_of(module).__name__, observer.passes_of(path)
    if ran >= passes > 0:
        return ""
    if not ran and path in used:
        place = used[path] or "(model)"
        return f"{kind} was not called, but its parameters took part in {place}: by `.forward` or by a function"
    if ran:
        return f"{kind} ran in {ran} of {passes} passes"
    if path in observer.skipped:
        return f"{kind} did not run, but does with other random numbers: it is skipped at random"
    if passes == 1:
        return f"{kind} did not run in this pass"
    return f"{kind} never ran in {passes} passes" if passes else f"{kind} was never called"


def _is_called_elsewhere(modules: Mapping[str, ModuleInfo], path: str, ran: Collection[str]) -> bool:
    """Return whether code of the model uses a module that did not run, or the outermost one around it that did not.

    It then runs with other inputs, options or modes. Of a list, whose code names no members, nothing can be told.
    """
    outer = next((outer for outer in _around(path) if outer not in ran), path)
    above, _, name = outer.rpartition(".")
    owner = modules.get(above)
    if owner is None or isinstance(owner.module, (nn.Sequential, nn.ModuleList)):
        return False
    use = rf"{re.escape(name)}\b"
    if isinstance(owner.module, nn.ModuleDict):
        # Its key, or a key that the code computes.
        key = rf"(?:[^\s'\"\]]|['\"]{re.escape(name)}['\"])"
        above, _, name = above.rpartition(".")
        owner, use = modules.get(above), rf"{re.escape(name)}\[\s*{key}"
    return owner is not None and any(
        re.search(rf"\b{re.escape(itself)}\.{use}", text) for itself, text in _code_of(type(owner.module))
    )


def _code_of(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the source of each method of a user's class that may call its parts, and what it calls its object."""
    for home in kind.__mro__:
        if home is nn.Module or home.__module__.startswith("torch.nn."):
            return
        for name, method in vars(home).items():
            if inspect.isfunction(method) and method.__code__.co_argcount and not _MAKING.match(name):
                try:
                    yield method.__code__.co_varnames[0], re.sub(r"#.*", "", inspect.getsource(method))
                except (OSError, TypeError):
                    continue


def _around(path: str) -> Iterator[str]:
    """Yield the paths of the modules around a module and its own, the outermost first."""
    parts = path.split(".")
    return (".".join(parts[: level + 1]) for level in range(len(parts)))


def _unregistered(observer: Observer) -> Iterator[CoverageNote]:
    """Yield a note for each operation that was given trainable tensors which are not parameters of the model."""
    shapes: dict[str, Counter[tuple[int, ...]]] = {}
    for (operation, _), shape in observer.graph.unregistered.items():
        shapes.setdefault(operation, Counter())[shape] += 1
    for operation, counts in shapes.items():
        calls = counts.total()
        said = [",".join(map(str, shape)) or "scalar" for shape in counts]
        listed = "; ".join(said[:_SHAPES_SHOWN]) + ("; ..." if len(said) > _SHAPES_SHOWN else "")
        yield CoverageNote(
            operation,
            "operation",
            f"weights of {counted(calls, f'{operation} operation')} are not registered: trainable tensors "
            f"({listed}) that are not the model's parameters",
        )
