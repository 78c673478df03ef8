"""How a parallel model's tensors lie on the ranks: what is whole on each, split, or still to be summed up.

The groups of ranks that a model is spread over are of two sorts. Those of data see different samples: what a site
holds there comes from other rows of the same batch. Those of the model see the same samples: a plain tensor is the same
on each of their ranks, unless it was computed from one that is split.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from propscope.measure.wrappers import modules_in, parameters_in
from propscope.records.numerals import counted

# What the ranks of one group hold of a tensor: the same, different positions of one dimension, different runs of its
# elements in order, or summands of it.
Kind = Literal["replicated", "sharded", "flat", "partial"]
# What the split dimension of a site's tensor counts.
Axis = Literal["", "units", "samples", "positions"]


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks that work together: their numbers in the whole job, and the `name` of the mesh dimension, "" without one.

    `process_group`: what collectives of these ranks take.
    """

    ranks: tuple[int, ...]
    name: str = field(default="", compare=False)
    process_group: Any = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return counted(len(self.ranks), "rank") + f" of {self.name}" * bool(self.name)


@dataclass(frozen=True, slots=True)
class Split:
    """What the ranks of one group hold of a tensor.

    `dimension`: the one that is sharded, None where it is not known or none is. `axis`: what it counts, of a site's
    tensor. `reduction`: what makes the tensor of partial ones, such as "sum".
    """

    group: Group
    kind: Kind
    dimension: int | None = None
    axis: Axis = ""
    reduction: str = ""

    def __str__(self) -> str:
        if self.kind == "sharded":
            what = f"its {self.axis}" if self.axis else f"dimension {self.dimension}"
            return f"{what} split over {self.group}"
        if self.kind == "flat":
            return f"its elements in order split over {self.group}"
        if self.kind == "partial":
            return f"a summand ({self.reduction}) on each of {self.group}"
        return f"the same on {self.group}"


@dataclass(frozen=True, slots=True)
class Sharding:
    """How one tensor lies on the ranks: the shape of the whole, and a split for each group that it is spread over.

    `shape` is None where it is not known, as for what was computed from a shard by local operations.
    """

    splits: tuple[Split, ...]
    shape: tuple[int, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every rank holds the whole tensor."""
        return all(split.kind == "replicated" for split in self.splits)

    @property
    def partial(self) -> tuple[Split, ...]:
        """The groups whose ranks hold summands."""
        return tuple(split for split in self.splits if split.kind == "partial")

    def __str__(self) -> str:
        shape = "" if self.shape is None else f" of shape {self.shape}"
        what = "whole tensor" if self.is_whole else "local part of a tensor"
        return f"{what}{shape}: {', '.join(map(str, self.splits))}"

    def along(self, unit_axis: int, dimensions: int) -> Sharding:
        """Return the sharding with what each split dimension of a site's tensor counts."""
        named = (
            replace(split, axis=_axis(split.dimension, unit_axis, dimensions)) if split.kind == "sharded" else split
            for split in self.splits
        )
        return replace(self, splits=tuple(named))


def _axis(dimension: int | None, unit_axis: int, dimensions: int) -> Axis:
    if dimension is None:
        return ""
    if dimension % dimensions == unit_axis % dimensions:
        return "units"
    return "samples" if dimension % dimensions == 0 else "positions"


def local_shard(tensor: Tensor) -> Tensor:
    """Return the part of a distributed tensor that this process holds; any other tensor as it is."""
    if tensor.__class__ is Tensor or tensor.__class__ is nn.Parameter:
        return tensor
    if (distributed := _distributed_tensor()) is not None and isinstance(tensor, distributed):
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    # What a collective is still to fill.
    return tensor.wait() if type(tensor).__name__ == "AsyncCollectiveTensor" else tensor  # type: ignore[attr-defined]


def summed_up(tensor: Tensor) -> Tensor:
    """Return a distributed tensor with its summands summed up, which all its ranks enter together; any other as it is.

    Under sequence parallel the gradients of norms are left as summands.
    """
    if (distributed := _distributed_tensor()) is None or not isinstance(tensor, distributed):
        return tensor
    placements = tensor.placements  # type: ignore[attr-defined]
    if not any(one.is_partial() for one in placements):
        return tensor
    replicate = sys.modules[type(placements[0]).__module__].Replicate
    whole = [replicate() if one.is_partial() else one for one in placements]
    with torch.no_grad():
        found: Tensor = tensor.redistribute(placements=whole)  # type: ignore[attr-defined]
    return found


def expert_groups(model: nn.Module) -> tuple[Group, ...]:
    """Return the groups of ranks each of which has experts of its own, by the weights that hold one for each row.

    Such ranks see different samples, though their mesh is one of the model, and exchange them between the layers.
    """
    found: dict[Group, None] = {}
    for parameter in parameters_in(modules_in(model)):
        sharding = sharding_of(parameter) if parameter.dim() == 3 else None
        for split in () if sharding is None else sharding.splits:
            if split.kind == "sharded" and split.dimension == 0 and len(split.group.ranks) > 1:
                found[split.group] = None
    data = set(data_groups(model))
    return tuple(group for group in found if group not in data)


def sharding_of(tensor: Tensor) -> Sharding | None:
    """Return how a distributed tensor lies on the ranks, or one whose local part this is; None for any other."""
    if (distributed := _distributed_tensor()) is None:
        return None
    if isinstance(tensor, distributed):
        return _of_spec(tensor._spec)  # type: ignore[attr-defined]
    # What `DTensor.to_local` returns remembers what it is of, where there is a graph.
    spec = getattr(tensor.grad_fn, "dtensor_spec", None)
    return None if spec is None else _of_spec(spec)


def sharding_behind(made: Any, local: Tensor) -> Sharding | None:
    """Return the sharding of a plain tensor that is a local part of what a module computed as a distributed one.

    The shapes tell it, where no graph does. `made`: what the module computed, before its hooks spread it in another
    way. None where they do not tell.
    """
    distributed = _distributed_tensor()
    if distributed is None or not isinstance(made, distributed) or local.dim() != made.dim():
        return None
    known = _of_spec(made._spec)  # type: ignore[attr-defined]
    split = [at for at, (here, whole) in enumerate(zip(local.shape, made.shape, strict=True)) if here != whole]
    if not split:
        return Sharding(tuple(Split(one.group, "replicated") for one in known.splits), known.shape)
    if len(split) > 1 or len(known.splits) > 1:
        return known if local.shape == local_shard(made.detach()).shape else None
    return Sharding((Split(known.splits[0].group, "sharded", split[0]),), known.shape)


def _of_spec(spec: Any) -> Sharding:
    groups = groups_of_mesh(spec.mesh)
    splits = tuple(_split(group, placement) for group, placement in zip(groups, spec.placements, strict=True))
    return Sharding(splits, None if spec.tensor_meta is None else tuple(spec.tensor_meta.shape))


def _split(group: Group, placement: Any) -> Split:
    if placement.is_partial():
        return Split(group, "partial", reduction=str(placement.reduce_op))
    if placement.is_replicate():
        return Split(group, "replicated")
    return Split(group, "sharded", dimension=placement.dim)


def groups_of_mesh(mesh: Any) -> tuple[Group, ...]:
    """Return the group of this rank along each dimension of a device mesh."""
    names = mesh.mesh_dim_names or ("",) * mesh.ndim
    return tuple(_group(mesh.get_group(at), name) for at, name in enumerate(names))


def _group(process_group: Any, name: str = "") -> Group:
    return Group(tuple(torch.distributed.get_process_group_ranks(process_group)), name, process_group)


def inherited(parents: Iterable[Sharding | None]) -> Sharding | None:
    """Return the sharding of what local operations made of these tensors, None where all of them are whole.

    Of each group the first split counts that is not replicated: what is computed from a shard, with anything else, is
    a shard.
    """
    found: dict[Group, Split] = {}
    for parent in parents:
        for split in () if parent is None else parent.splits:
            before = found.get(split.group)
            if before is None or before.kind == "replicated":
                found[split.group] = replace(split, dimension=None)
    return Sharding(tuple(found.values())) if found else None


def with_inherited(
    own: Mapping[str, Sharding | None], parents: Mapping[str, Iterable[str]]
) -> dict[str, Sharding | None]:
    """Return the sharding of each site, in execution order; what has none of its own has that of its parents."""
    found: dict[str, Sharding | None] = {}
    for name, sharding in own.items():
        found[name] = sharding or inherited(found.get(parent) for parent in parents.get(name, ()))
    return found


def data_groups(model: nn.Module) -> tuple[Group, ...]:
    """Return the groups whose ranks see different samples, by the wrappers of the model: DDP, FSDP, `fully_shard`."""
    found: dict[tuple[int, ...], Group] = {}
    for module in modules_in(model):
        for group in _data_groups_of(module):
            if len(group.ranks) > 1:
                found.setdefault(group.ranks, group)
    return tuple(found.values())


def losses_of(model: nn.Module) -> float | None:
    """Return by what the reduction divides the sum of the ranks' gradients, None where the model is not wrapped.

    It is the number of ranks that see different samples, or what `set_gradient_divide_factor` of FSDP2 says.
    """
    for module in modules_in(model):
        for of_parameters in _parameter_groups(module):
            if (factor := getattr(of_parameters, "gradient_divide_factor", None)) is not None:
                return float(factor)
    sizes = [len(group.ranks) for group in data_groups(model)]
    return float(math.prod(sizes)) if sizes else None


def is_fully_sharded(model: nn.Module) -> bool:
    """Return whether FSDP puts the gradients of some parameters in place itself."""
    return any(_is_fsdp1(module) or _is_fsdp2(module) for module in modules_in(model))


def flat_parameters(model: nn.Module) -> list[Any]:
    """Return the flat parameters of FSDP1, each of which holds those of several modules."""
    handles = (vars(module).get("_handle") for module in modules_in(model) if _is_fsdp1(module))
    found = [handle.flat_param for handle in handles if handle is not None]
    # What a model holds that was taken out of its wrapper. The parameters of a scripted module have no `get`.
    held = (module._parameters for module in modules_in(model))
    found += [own["_flat_param"] for own in held if "_flat_param" in own]
    return list({id(flat): flat for flat in found}.values())


def reduced_in_place(model: nn.Module) -> set[int]:
    """Return the ids of the parameters whose gradients FSDP reduces and puts in place, past their hooks."""
    return kept_parts(model) | {id(each) for flat in flat_parameters(model) for each in flat._params or (flat,)}


def kept_parts(model: nn.Module) -> set[int]:
    """Return the ids of the parts of parameters that FSDP2 keeps, and puts the wholes in the place of."""
    return {
        id(one.sharded_param)
        for module in modules_in(model)
        for group in _parameter_groups(module)
        for one in group.fsdp_params
    }


def flat_shardings(model: nn.Module) -> dict[int, Sharding]:
    """Return how the parameters under FSDP1 lie on the ranks, by id: each rank holds a run of their elements."""
    found: dict[int, Sharding] = {}
    for module in modules_in(model):
        if not _is_fsdp1(module) or (handle := vars(module).get("_handle")) is None:
            continue
        kind: Kind = "flat" if handle.uses_sharded_strategy else "replicated"
        splits = [Split(_group(module.process_group, "data"), kind)]
        if (between := getattr(module, "_inter_node_pg", None)) is not None:
            splits.append(Split(_group(between, "data"), "replicated"))
        flat = handle.flat_param
        for parameter, shape in zip(flat._params or (), flat._shapes, strict=False):
            found[id(parameter)] = Sharding(tuple(splits), tuple(shape))
        found[id(flat)] = Sharding(tuple(splits), tuple(flat._unpadded_unsharded_size))
    return found


def _is_fsdp1(module: nn.Module) -> bool:
    return type(module).__name__ == "FullyShardedDataParallel"


def _data_groups_of(module: nn.Module) -> Iterator[Group]:
    if type(module).__name__ == "DistributedDataParallel" or _is_fsdp1(module):
        for name in ("process_group", "_inter_node_pg"):
            if (process_group := getattr(module, name, None)) is not None:
                yield _group(process_group, "data")
    for of_parameters in _parameter_groups(module):
        yield from groups_of_mesh(of_parameters.mesh_info.mesh)
    home = sys.modules.get("torch.distributed._composable.replicate")
    if home is not None and isinstance(module, getattr(home, "DDP", ())):
        state = home.replicate.state(module)
        # Before the first forward, what it will be made of.
        options = state._init_kwargs
        if (ddp := getattr(state, "_ddp", None)) is not None or options.get("device_mesh") is None:
            own = ddp.process_group if ddp is not None else options.get("process_group")
            yield _group(own or torch.distributed.group.WORLD, "data")
        else:
            yield from groups_of_mesh(options["device_mesh"])


def _is_fsdp2(module: nn.Module) -> bool:
    # Asked of the class, as a module takes a microsecond to say that it lacks an attribute.
    return hasattr(type(module), "_get_fsdp_state")


def _parameter_groups(module: nn.Module) -> list[Any]:
    if not _is_fsdp2(module):
        return []
    state: Any = module._get_fsdp_state()  # type: ignore[operator]
    if (several := getattr(state, "_fsdp_param_groups", None)) is not None:
        return list(several)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]


def said_of_parameters(model: nn.Module, *, alone: bool) -> Iterator[str]:
    """Yield what is seen of the parameters of a model, by its wrappers; `alone`: by one rank alone."""
    if alone and data_groups(model):
        if is_fully_sharded(model):
            yield "of each parameter, and of its reduced gradient, the part that this rank holds is recorded"
        else:
            yield "the gradients of parameters are those of this rank, before they are reduced over the ranks"
    if any(flat._params is None for flat in flat_parameters(model)):
        yield (
            "FSDP made flat parameters (use_orig_params=False): the names, shapes and gradients of single ones are "
            "not seen; pass use_orig_params=True"
        )


def model_groups(model: nn.Module) -> tuple[Group, ...]:
    """Return the groups whose ranks see the same samples, by the distributed parameters: those of tensor parallel."""
    data, found = set(data_groups(model)), dict[Group, None]()
    for parameter in parameters_in(modules_in(model)):
        if (sharding := sharding_of(parameter)) is not None:
            found |= dict.fromkeys(split.group for split in sharding.splits if len(split.group.ranks) > 1)
    return tuple(group for group in found if group not in data)


def _distributed_tensor() -> type[Tensor] | None:
    # Before torch 2.5 it lives elsewhere; what nobody has loaded, nobody uses.
    home = sys.modules.get("torch.distributed.tensor") or sys.modules.get("torch.distributed._tensor")
    return getattr(home, "DTensor", None)
