"""Which weights of a model can be scaled, which are left alone and why, and which models are refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from propscope.errors import InputError
from propscope.measure.filters import Filter
from propscope.measure.module_info import role_of
from propscope.measure.wrappers import walk
from propscope.records.calibration import SkippedWeight
from propscope.remedies.calibration.parts import Part, attended, cell_input, gate_input, own_output, projection

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_GATES = {"LSTM": 4, "GRU": 3, "LSTMCell": 4, "GRUCell": 3}


@dataclass(frozen=True, slots=True)
class Survey:
    """The parts of each module, by module in the order of the model, and what is left alone."""

    parts: dict[nn.Module, tuple[Part, ...]]
    left: tuple[SkippedWeight, ...]


def survey(model: nn.Module, wanted: Filter) -> Survey:
    """Return what can be scaled in a model; raises `InputError` for a model that cannot be calibrated at all."""
    refuse(model)
    free, left, kept = _free(model, wanted)
    parts = {module: tuple(part for part in own if part.key not in kept) for module, own in free.items()}
    left += [
        SkippedWeight(part.name, part.kind, f"its weight is also that of {kept[part.key]}, which is left alone")
        for own in free.values()
        for part in own
        if part.key in kept
    ]
    if not any(parts.values()):
        what = "; ".join(f"{entry.name or 'the model'}: {entry.reason}" for entry in left[:3])
        raise InputError(
            f"the model has no layer to calibrate ({what or 'none has a weight of two dimensions or more'})",
            hint="calibrate scales linear, convolution, attention and recurrent layers; look at include and exclude",
        )
    return Survey({module: own for module, own in parts.items() if own}, tuple(left))


def _free(
    model: nn.Module, wanted: Filter
) -> tuple[dict[nn.Module, list[Part]], list[SkippedWeight], dict[object, str]]:
    """Return the parts that nothing of their own forbids, the others, and the names of these by their memory."""
    free: dict[nn.Module, list[Part]] = {}
    left: list[SkippedWeight] = []
    kept: dict[object, str] = {}
    inside = {id(module.out_proj) for module in model.modules() if _is_attention(module)}
    for path, module in walk(model):
        # A parametrization's own weights belong to the module that it serves; attention runs no module of its own.
        if "parametrizations" in path.split(".") or id(module) in inside:
            continue
        for part in _parts(path, module):
            if isinstance(part, SkippedWeight):
                left.append(part)
            elif reason := _obstacle(part, module, wanted):
                left.append(SkippedWeight(part.name, part.kind, reason))
                kept[part.key] = part.name
            else:
                free.setdefault(module, []).append(part)
    return free, left, kept


def refuse(model: nn.Module) -> None:
    """Raise `InputError` for a model whose weights cannot be set here."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    tensors = (*model.parameters(), *model.buffers())
    if any(is_lazy(tensor) for tensor in tensors):
        raise InputError(
            "the model has parameters of lazy modules, which get their shape in the first forward pass",
            hint="run the model once on a batch first",
        )
    if any(tensor.is_meta for tensor in tensors):
        raise InputError(
            "the model has tensors on the meta device, which hold no numbers",
            hint="move it with to_empty(device=...) and initialize it first",
        )
    sharded = any(type(tensor).__name__ == "DTensor" for tensor in tensors)
    names = {type(module).__name__ for module in model.modules()}
    replicas = 1
    if "DistributedDataParallel" in names:
        replicas = torch.distributed.get_world_size()
    if sharded or "FullyShardedDataParallel" in names or replicas > 1:
        how = f"has {replicas} replicas, which would come apart" if replicas > 1 else "is sharded over processes"
        raise InputError(f"the model {how}", hint="calibrate it before it is wrapped, the same in every process")
    for path, module in walk(model):
        if ".quantized" in type(module).__module__:
            raise InputError(
                f"{path or 'the model'!r} is a quantized {type(module).__name__}, whose weight cannot be scaled",
                hint="calibrate the model before it is quantized",
            )


def _parts(path: str, module: nn.Module) -> Iterator[Part | SkippedWeight]:
    """Yield what can be scaled in a module itself, not in its children."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        if any(parameter.dim() > 1 for parameter in module.parameters()):
            yield SkippedWeight(path, kind, "scripted, so that its layers cannot be seen")
        return
    if role_of(module) == "norm":
        return
    if _is_attention(module):
        yield from _attention(path, module)
    elif isinstance(module, nn.RNNBase):
        yield from _recurrent(path, module)
    elif isinstance(module, nn.RNNCellBase):
        yield from _cell(path, module)
    else:
        yield from _plain(path, module)


def _plain(path: str, module: nn.Module) -> Iterator[Part | SkippedWeight]:
    kind = type(module).__name__
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is not None and weight.dim() > 1:
        yield Part(path, kind, weight, own_output, bias=bias)
    elif (steps := _parametrizations(module).get("weight")) is not None:
        if [type(step).__name__ for step in steps] == ["_WeightNorm"]:
            yield Part(path, kind, steps.original0, own_output, bias=bias, matrices=0)
        else:
            made = ", ".join(type(step).__name__.lstrip("_") for step in steps)
            yield SkippedWeight(path, kind, f"its weight is computed ({made})")
    elif {"weight_g", "weight_orig"} & module._parameters.keys():
        yield SkippedWeight(path, kind, "its weight is computed by a hook of torch.nn.utils")
    elif names := [name for name, own in module._parameters.items() if own is not None and own.dim() > 1]:
        yield SkippedWeight(path, kind, f"there is no rule for its {', '.join(names)}")


def _attention(path: str, module: nn.Module) -> Iterator[Part | SkippedWeight]:
    kind = type(module).__name__
    for position, short in enumerate(("q_proj", "k_proj", "v_proj")):
        whole = module._parameters.get("in_proj_weight")
        name = "in_proj_weight" if whole is not None else f"{short}_weight"
        weight = module._parameters.get(name)
        if weight is None:
            yield SkippedWeight(_joined(path, short), kind, "its weight is computed")
            continue
        size = len(weight) // 3
        rows = slice(position * size, (position + 1) * size) if whole is not None else None
        yield Part(_joined(path, short), kind, weight, projection(name, rows, position), rows)
    last = module.out_proj._parameters  # type: ignore[union-attr]
    weight = last.get("weight")
    if weight is None:
        yield SkippedWeight(_joined(path, "out_proj"), kind, "its weight is computed")
    else:
        yield Part(_joined(path, "out_proj"), kind, weight, attended, bias=last.get("bias"))


def _recurrent(path: str, module: nn.RNNBase) -> Iterator[Part | SkippedWeight]:
    kind = type(module).__name__
    if _parametrizations(module) or "weight_ih_l0" not in module._parameters:
        yield SkippedWeight(path, kind, "its weight is computed")
        return
    for name, weight in module._parameters.items():
        if name.startswith("weight_ih") and weight is not None:
            layer = int(name.removeprefix("weight_ih_l").removesuffix("_reverse"))
            observe = gate_input(layer, name)
            yield Part(_joined(path, name), kind, weight, observe, matrices=_GATES.get(module.mode.split("_")[0], 1))
        elif name.startswith(("weight_hh", "weight_hr")):
            yield SkippedWeight(_joined(path, name), kind, _RECURRENT)


def _cell(path: str, module: nn.RNNCellBase) -> Iterator[Part | SkippedWeight]:
    kind = type(module).__name__
    weight = module._parameters.get("weight_ih")
    if weight is None:
        yield SkippedWeight(path, kind, "its weight is computed")
        return
    yield Part(_joined(path, "weight_ih"), kind, weight, cell_input, matrices=_GATES.get(kind, 1))
    yield SkippedWeight(_joined(path, "weight_hh"), kind, _RECURRENT)


_RECURRENT = "recurrent: its scale decides how long the state lasts"


def _obstacle(part: Part, module: nn.Module, wanted: Filter) -> str:
    """Return why a part must not be scaled, "" when it may."""
    weight = part.parameter
    if isinstance(module, _EMBEDDINGS):
        return "an embedding: its size counts beside that of others, and of a readout that is tied to it"
    if not wanted.keeps(part.name, part.kind, module):
        return "by include or exclude"
    if weight.layout != torch.strided or weight.dtype not in _FLOATS:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}, {str(weight.layout).removeprefix('torch.')}"
    if not weight.requires_grad:
        return "frozen: requires_grad is False"
    if weight.is_inference():
        return "made in inference mode, so that it cannot be changed in place"
    return "" if weight.numel() else "it is empty"


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward


def _parametrizations(module: nn.Module) -> dict[str, Any]:
    own = module._modules.get("parametrizations")
    return {} if own is None else dict(own._modules)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
