"""The weights of a model that can be scaled, how to observe the output of each, and which are left alone and why."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from propscope.errors import InputError
from propscope.measure.filters import Filter
from propscope.measure.module_info import role_of, unit_axis_of
from propscope.measure.wrappers import unwrapped_modules
from propscope.networks import parse_initializer, seeded_generator
from propscope.records.calibration import SkippedWeight

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_GATES = {"LSTM": 4, "GRU": 3, "LSTMCell": 4, "GRUCell": 3}
_RECURRENT = "recurrent: its scale sets how long the state lasts"


class Call:
    """One call of a module: its arguments, and its output with the current weights."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs
        self.reruns = 0
        self.stale = False
        self._output = output

    def changed(self) -> None:
        """Note that a weight has changed, so that the output is computed again."""
        self.stale = True
        # Autocast would use the half-precision copy of the weight from the first run.
        torch.clear_autocast_cache()

    @property
    def output(self) -> Any:
        """The output of the module, computed again after a change of its weights."""
        if self.stale:
            self._output = self.module.forward(*self.args, **self.kwargs)
            self.reruns += 1
            self.stale = False
        return self._output

    def argument(self, name: str) -> Any:
        """Return an argument of the module's forward by name; None where it was not given."""
        return inspect.signature(self.module.forward).bind(*self.args, **self.kwargs).arguments.get(name)


Observed = tuple[Tensor, int]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A weight that can be scaled: the rows `rows` of a parameter, or all of it.

    `observe` returns the output of a call and its axis of units, or None where it is not a dense floating tensor.
    `matrices`: the number of matrices stacked along the rows, each of which an orthogonal start makes orthogonal; 0 for
    a weight that is not a matrix. `bias`: what the layer adds to the product.
    """

    name: str
    kind: str
    parameter: nn.Parameter
    observe: Callable[[Call], Observed | None]
    rows: slice | None = None
    bias: Tensor | None = None
    matrices: int = 1

    @property
    def weight(self) -> Tensor:
        """The entries that are scaled, as a view of the parameter."""
        whole = self.parameter.detach()
        return whole if self.rows is None else whole[self.rows]

    @property
    def key(self) -> tuple[torch.device, int]:
        """Identifies the memory of the weight, which tied parts share, also through a transposed view."""
        return self.parameter.device, self.weight.data_ptr()

    def orthogonalize(self, seed: int) -> None:
        """Fill with random orthonormal rows or columns, each matrix by itself (Saxe et al. 2014)."""
        generator = seeded_generator(seed, "calibrate", self.name)
        for matrix in self.weight.chunk(self.matrices) if self.matrices else ():
            parse_initializer("orthogonal").fill(matrix, generator)


def own_output(call: Call) -> Observed | None:
    """Observe the output of a module."""
    output = call.output
    if not isinstance(output, Tensor) or not _dense(output):
        return None
    return output, unit_axis_of(call.module, output, None)


def cell_input(call: Call) -> Observed:
    """Observe the contribution of the input to the gates' pre-activations in a recurrent cell: W_ih x."""
    return nn.functional.linear(call.argument("input"), call.module.weight_ih), -1  # type: ignore[arg-type]


def gate_input(layer: int, name: str) -> Callable[[Call], Observed]:
    """Return an observer of the input's contribution to the gates' pre-activations in a recurrent layer: W_ih x."""

    def observe(call: Call) -> Observed:
        module = call.module
        assert isinstance(module, nn.RNNBase)
        values = input_of_layer(module, call.argument("input"), call.argument("hx"), layer)
        return nn.functional.linear(values, getattr(module, name)), -1

    return observe


def projection(name: str, rows: slice | None, position: int) -> Callable[[Call], Observed | None]:
    """Return an observer of the projected query, key or value of `nn.MultiheadAttention`."""

    def observe(call: Call) -> Observed | None:
        module = call.module
        values = call.argument(("query", "key", "value")[position])
        if not _dense(values):
            return None
        weight = getattr(module, name)
        bias = module.in_proj_bias
        if isinstance(bias, Tensor):
            bias = bias.chunk(3)[position]
        return nn.functional.linear(values, weight if rows is None else weight[rows], bias), -1  # type: ignore[arg-type]

    return observe


def attended(call: Call) -> Observed | None:
    """Observe the first output of `nn.MultiheadAttention`, which comes from its output projection."""
    output = call.output[0]
    return (output, -1) if _dense(output) else None


def _dense(values: Tensor) -> bool:
    return values.is_floating_point() and values.dim() > 0 and values.layout == torch.strided and not values.is_nested


def input_of_layer(module: nn.RNNBase, values: Any, state: Any, layer: int) -> Tensor:
    """Return the input of layer `layer`, features last: that of the module, or the output of the layers below.

    `values` and `state` are the arguments of the module's forward, packed or not. The module does not change.
    """
    if layer:
        directions = 2 if module.bidirectional else 1
        below = copy.copy(module)  # shares parameters; attributes set here are only set on the copy
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


@dataclass(frozen=True, slots=True)
class Survey:
    """The parts of each module, in the order of the model, and the weights that are left alone."""

    parts: dict[nn.Module, tuple[Part, ...]]
    skipped: tuple[SkippedWeight, ...]


def survey(model: nn.Module, wanted: Filter) -> Survey:
    """Return the parts of a model that can be scaled; raises `InputError` for a model that cannot be calibrated."""
    refuse(model)
    free, skipped, skipped_names = _free(model, wanted)
    parts = {module: tuple(part for part in own if part.key not in skipped_names) for module, own in free.items()}
    skipped += [
        SkippedWeight(part.name, part.kind, f"it shares its weight with {skipped_names[part.key]}, which is left alone")
        for own in free.values()
        for part in own
        if part.key in skipped_names
    ]
    if not any(parts.values()):
        what = "; ".join(f"{entry.name or 'the model'}: {entry.reason}" for entry in skipped[:3])
        raise InputError(
            f"the model has no layer to calibrate ({what or 'none has a weight of two dimensions or more'})",
            hint="calibrate scales linear, convolution, attention and recurrent layers; look at include and exclude",
        )
    return Survey({module: own for module, own in parts.items() if own}, tuple(skipped))


def _free(
    model: nn.Module, wanted: Filter
) -> tuple[dict[nn.Module, list[Part]], list[SkippedWeight], dict[object, str]]:
    """Return the parts that may be scaled, those left alone, and the names of the latter by their memory."""
    free: dict[nn.Module, list[Part]] = {}
    skipped: list[SkippedWeight] = []
    skipped_names: dict[object, str] = {}
    inside = {id(module.out_proj) for module in model.modules() if _is_attention(module)}
    for path, module in unwrapped_modules(model):
        # The weights of a parametrization belong to its module; the output projection belongs to its attention module.
        if "parametrizations" in path.split(".") or id(module) in inside:
            continue
        for part in _parts(path, module):
            if isinstance(part, SkippedWeight):
                skipped.append(part)
            elif reason := _obstacle(part, module, wanted):
                skipped.append(SkippedWeight(part.name, part.kind, reason))
                skipped_names[part.key] = part.name
            else:
                free.setdefault(module, []).append(part)
    return free, skipped, skipped_names


def refuse(model: nn.Module) -> None:
    """Raise `InputError` for a model whose weights cannot be changed in place."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got a {type(model).__name__}")
    tensors = (*model.parameters(), *model.buffers())
    if any(is_lazy(tensor) for tensor in tensors):
        raise InputError(
            "the model has lazy modules, whose parameters get their shape in the first forward pass",
            hint="run the model once on a batch first",
        )
    if any(tensor.is_meta for tensor in tensors):
        raise InputError(
            "the model has tensors on the meta device, which hold no values",
            hint="move it with to_empty(device=...) and initialize it first",
        )
    sharded = any(type(tensor).__name__ == "DTensor" for tensor in tensors)
    names = {type(module).__name__ for module in model.modules()}
    replicas = 1
    if "DistributedDataParallel" in names:
        replicas = torch.distributed.get_world_size()
    if sharded or "FullyShardedDataParallel" in names or replicas > 1:
        how = f"has {replicas} replicas, which would become different" if replicas > 1 else "is sharded over processes"
        raise InputError(f"the model {how}", hint="calibrate it before wrapping it, in the same way in every process")
    for path, module in unwrapped_modules(model):
        if ".quantized" in type(module).__module__:
            raise InputError(
                f"{path or 'the model'} is a quantized {type(module).__name__}, whose weight cannot be scaled",
                hint="calibrate the model before quantizing it",
            )


def _parts(path: str, module: nn.Module) -> Iterator[Part | SkippedWeight]:
    """Yield the parts of a module itself, without those of its children."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        if any(parameter.dim() > 1 for parameter in module.parameters()):
            yield SkippedWeight(path, kind, "scripted, so its layers cannot be hooked")
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
        yield SkippedWeight(path, kind, f"propscope has no rule for its {', '.join(names)}")


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


def _obstacle(part: Part, module: nn.Module, wanted: Filter) -> str:
    """Return why a part must not be scaled; "" if it may be."""
    weight = part.parameter
    if isinstance(module, _EMBEDDINGS):
        return "an embedding: its size matters relative to other embeddings and to a readout that is tied to it"
    if not wanted.keeps(part.name, part.kind, module):
        return "not selected by include and exclude"
    if weight.layout != torch.strided or weight.dtype not in _FLOATS:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}, {str(weight.layout).removeprefix('torch.')}"
    if not weight.requires_grad:
        return "frozen: requires_grad is False"
    if weight.is_inference():
        return "made in inference mode, so it cannot be changed in place"
    return "" if weight.numel() else "it is empty"


def _is_attention(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward


def _parametrizations(module: nn.Module) -> dict[str, Any]:
    own = module._modules.get("parametrizations")
    return {} if own is None else dict(own._modules)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
