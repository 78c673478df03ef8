"""A second observer of a model's run, written apart from propscope: what it sees, propscope must show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.comparison import parts
from zoo.models import Entry
from zoo.running import prepare


@dataclass(slots=True)
class Moment:
    """Count and second moment of the finite elements, over every tensor of one place."""

    count: int = 0
    finite: int = 0
    power: float = 0.0

    def add(self, tensor: Tensor) -> None:
        values = tensor.detach()
        values = (values.abs() if values.is_complex() else values).double()
        kept = values[torch.isfinite(values)]
        self.count += values.numel()
        self.finite += kept.numel()
        self.power += float(kept.square().sum())

    @property
    def rms(self) -> float:
        return math.sqrt(self.power / self.finite) if self.finite else math.nan


@dataclass(slots=True)
class Seen:
    """One tensor that a module returned: `own` when the module is one of torch's own layers without children."""

    name: str
    own: bool
    shape: tuple[int, ...]
    dtype: str
    forward: Moment
    backward: Moment


def measurable(tensor: Tensor) -> bool:
    """Return whether a tensor is dense, floating and not empty: what must have a site."""
    floating = tensor.is_floating_point() or tensor.is_complex()
    return floating and tensor.layout == torch.strided and not tensor.is_nested and tensor.numel() > 0


def witness(entry: Entry) -> list[Seen]:
    """Run the entry's step on its plain model and return what each module returned, in the order of the calls."""
    model, batch = prepare(entry, plain=True)
    found: dict[tuple[str, int, str], Seen] = {}
    calls: Counter[str] = Counter()
    known: list[tuple[Tensor, int]] = []

    def begin(module: nn.Module, inputs: Any) -> None:
        calls.clear()

    def after(module: nn.Module, inputs: Any, output: Any, *, name: str) -> None:
        call = calls[name]
        calls[name] += 1
        for suffix, tensor in _tensors(output):
            version = -1 if tensor.is_inference() else tensor._version
            if not measurable(tensor) or any(tensor is one and version == at for one, at in known):
                continue
            known.append((tensor, version))
            key = (name, call, suffix)
            if key not in found:
                # What a module hands through may have been seen as what it is: the result of a function before it.
                through = any(tensor is one for one in inputs)
                own = (
                    not through
                    and type(module).__module__.startswith("torch.nn")
                    and not any(True for _ in module.children())
                )
                kind = str(tensor.dtype).removeprefix("torch.")
                found[key] = Seen(name, own, tuple(tensor.shape), kind, Moment(), Moment())
            found[key].forward.add(tensor)
            if tensor.requires_grad:
                tensor.register_hook(found[key].backward.add)

    model.register_forward_pre_hook(begin, prepend=True)
    for name, module in model.named_modules():
        # What a parametrization returns is a weight, and TorchScript takes no hooks.
        if "parametrizations" in name.split(".") or type(module).__module__ == "torch.jit._script":
            continue
        module.register_forward_hook(lambda module, inputs, output, name=name: after(module, inputs, output, name=name))
    entry.step(model, batch)
    repeated = {(name, suffix) for name, call, suffix in found if call}
    for (name, call, suffix), seen in found.items():
        seen.name = f"{name}#{call}{suffix}" if (name, suffix) in repeated else name + suffix
    return list(found.values())


def _tensors(value: Any, path: str = "", above: frozenset[int] = frozenset()) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif id(value) not in above:
        for suffix, part in parts(value):
            yield from _tensors(part, path + suffix, above | {id(value)})
