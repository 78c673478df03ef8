"""`SignalGraph`: what each site of a forward pass was computed from.

Two sources are read together. The identity of tensors: the function mode shows every operation between modules, a call
of one of torch's own modules is one operation, and a tensor is known by its object and by the memory that it shares
with others. And the autograd graph, for what is computed out of sight: it is walked back to operations that are known.
Nodes are numbers; of the user's tensors only weak references are held, until the pass is over.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from propscope.measure.functions import ELEMENTWISE
from propscope.measure.hooks import in_backward
from propscope.measure.memory_regions import Region, region_of, seen_in
from propscope.measure.module_info import ModuleInfo
from propscope.measure.outputs import tensors_of
from propscope.measure.parameter_names import ParameterNames
from propscope.measure.tensor_identity import version_of
from propscope.measure.undisturbed import tensors_held
from propscope.measure.wrappers import class_of, modules_in
from propscope.records.network import UNKNOWN, Parent

# Of what a stream was summed up, so many operations are looked at: sums, and what only moves their results.
_SUMMANDS = 8
_SUMS_AND_MOVES = frozenset(("", "add", "add_", "view", "reshape", "getitem", "to", "dropout"))
# Where a pass takes another way each time, as through experts, so many passes are traced.
_TRACED_AT_MOST = 32
# What takes only shape, type or device from its first tensor, or from all but the first.
_LIKE = re.compile(r"new_|.*_like$")
_AS = frozenset(("expand_as", "view_as", "reshape_as", "type_as", "to", "resize_as_"))
# Each result comes from the argument at its place.
_EACH = frozenset(("broadcast_tensors", "meshgrid", "atleast_1d", "atleast_2d", "atleast_3d"))
# These leave nothing of what they write to.
_DRAWS = ("normal", "uniform", "bernoulli", "exponential", "random", "log_normal", "cauchy", "geometric")
_OVERWRITES = frozenset(f"{name}_" for name in ("copy", "fill", "zero", *_DRAWS))
_BINARY = frozenset(("add", "sub", "mul", "truediv", "floordiv", "mod", "matmul", "pow", "and", "or", "xor"))
_sequence_number: Callable[[], int] = getattr(torch.autograd, "_get_sequence_nr", lambda: 0)
_thread = threading.get_ident


Source = Literal["", "input", "parameter", "constant", "unregistered", "unknown"]


@dataclass(slots=True)
class Node:
    """One operation of the pass, or where a tensor came from: its `source`, "" for an operation.

    `parents`: the numbers of the nodes that it was computed from, `passes`: whether a gradient goes to each.
    `parameters`: the names of the parameters that it was given. `gradient`: whether its value requires a gradient.
    `hidden`: it ran without a graph, as inside a custom function or a checkpoint; `smooth`: a gradient could pass.
    `sequence`: of a hidden one, the number of the next autograd function when it ran.
    `inner`: the node that it stands for, of the last operation of a module whose operations are seen. `function`: an
    elementwise function of one tensor.
    """

    operation: str = ""
    parents: list[int] = field(default_factory=list)
    passes: list[bool] = field(default_factory=list)
    parameters: tuple[str, ...] = ()
    gradient: bool = False
    hidden: bool = False
    smooth: bool = True
    source: Source = ""
    sequence: int = 0
    inner: int | None = None
    function: nn.Module | partial[Tensor] | None = None


class _Write(NamedTuple):
    """A write to a storage: when, where, its node, and the tensor whose views share the written one's gradient."""

    clock: int
    region: Region
    node: int
    base: int


class _Memory:
    """A storage of the pass: the node that made it, and what has written to it since.

    The storage's address is not used again while this refers to it weakly.
    """

    __slots__ = ("key", "node", "version", "writes")

    def __init__(self, storage: torch.UntypedStorage, node: int, version: int) -> None:
        self.key = int(storage._weak_ref())  # type: ignore[call-overload]
        self.node = node
        self.version = version
        self.writes: list[_Write] = []

    def __del__(self, free: Callable[[int], None] = torch.UntypedStorage._free_weak_ref) -> None:
        free(self.key)


class _Known:
    """A tensor of the pass, and the node that made what it held at a clock.

    `joined`: the node of what it holds at a later clock, from several writes; these clocks.
    """

    __slots__ = ("clock", "joined", "memory", "node", "tensor", "version")

    def __init__(self, tensor: Tensor, node: int, memory: _Memory | None, clock: int) -> None:
        self.tensor = weakref.ref(tensor)
        self.node = node
        self.memory = memory
        self.clock = clock
        self.joined = (-1, -1)
        self.version = version_of(tensor)


class _Given(NamedTuple):
    """A tensor that an operation is given, as it was before."""

    tensor: Tensor
    node: int
    gradient: bool
    version: int


class Call(NamedTuple):
    """The tensors that an operation was given, and the number of nodes before it ran."""

    given: list[_Given]
    start: int


# The operations on a way, each with those before it: (number, before, the last).
_Operations = tuple[int, Any, str]
# The ways back from a node: by the site where each ends, its operations and whether a gradient passes.
_Ways = dict[str, tuple[_Operations | None, bool]]


class Traced(NamedTuple):
    """What was found of one network, see `SignalGraph`; it is the same for each other one of the same structure."""

    nodes: list[Node]
    sites: dict[int, str]
    unregistered: dict[tuple[str, tuple[int, ...]], tuple[int, ...]]
    ways: dict[str, _Ways]
    parameters: dict[str, dict[str, None]]


class SignalGraph:
    """Gathers the parents of the sites of one recorder; every method is called under its guard."""

    def __init__(self, model: nn.Module, names: ParameterNames, *, wanted: bool) -> None:
        self.wanted = wanted
        self.taking = False
        self.nodes: list[Node] = []
        # The key of each site's node, of the nodes that were traced last.
        self.sites: dict[int, str] = {}
        # The shape of a trainable tensor that is no parameter, by the operation that was given it and the ids there.
        self.unregistered: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
        self._model = model
        self._names = names
        self._ways: dict[str, _Ways] = {}
        self._parameters: dict[str, dict[str, None]] = {}
        self._routes: dict[str, set[int]] = {}
        self._stale: set[str] = set()
        self._traced = 0
        self._path: str | None = None
        self._since: set[str] = set()
        self.forget()

    # Passes

    @property
    def traced(self) -> Traced:
        """What was found of the passes that have ended."""
        return Traced(self.nodes, self.sites, self.unregistered, self._ways, self._parameters)

    def adopt(self, known: Traced) -> None:
        """Take over what was found of another network of the same structure, and trace none of this one."""
        self.wanted = False
        self.nodes, self.sites, self.unregistered, self._ways, self._parameters = known

    def forget(self) -> None:
        """Let go of every tensor of the pass; what was found of its sites stays."""
        self._known: dict[int, _Known] = {}
        self._memories: dict[int, _Memory] = {}
        self._keys: dict[tuple[int, int, int], int] = {}
        self._walked: dict[tuple[int, int], int] = {}
        # The nodes that only the autograd graph showed.
        self._unseen: set[int] = set()
        self._marks: list[tuple[str, int]] = []
        self._places: dict[str, int] = {}
        self._marked: dict[int, str] = {}
        self._buffers: set[int] | None = None
        self._own: dict[int, tuple[_Memory, tuple[str, ...]]] | None = None
        self._since.clear()
        # The nodes of trainable tensors that are no parameters.
        self._foreign: set[int] = set()
        self._clock = 0

    def renew(self) -> None:
        """Trace the next pass whatever was seen before."""
        self._routes.clear()
        self._traced = 0

    def begin(self, path: str, inputs: Any, route: Iterable[Any]) -> None:
        """Begin a pass of the module at `path`, which is traced if the calls of its last pass, `route`, were new."""
        if not self.wanted:
            return
        if self._path is not None:
            routes, last = self._routes.setdefault(self._path, set()), hash(tuple(route))
            if last not in routes:
                (self._stale.discard if self.taking else self._stale.add)(self._path)
            if self.taking:
                routes.add(last)
        self._path = path
        self.taking = self._traced < _TRACED_AT_MOST and (path not in self._routes or path in self._stale)
        if not self.taking or not path or path in self._since:
            self.finish()
            self.forget()
        if not self.taking:
            return
        # Parts that are called one after the other are one pass.
        if not self._since:
            self._traced += 1
            self.nodes, self.sites = [], {}
            self._first = _sequence_number()
        self._since.add(path)
        for tensor in tensors_of(inputs):
            if self._lookup(tensor) is None and self._held(tensor) is None:
                if len(self._since) > 1 and _function(tensor) is not None:
                    self._find(tensor)
                else:
                    self._register(
                        tensor,
                        self._new(Node(source="input", gradient=tensor.requires_grad, smooth=_is_smooth(tensor))),
                    )

    def close(self) -> None:
        """End the pass, and let go of its tensors."""
        self.taking = False
        try:
            self.finish()
        finally:
            self.forget()

    # Operations

    def enter(self, info: ModuleInfo, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
        """Return what a module is given before it runs, None where its operations belong to no pass."""
        if in_backward():
            return None
        # What FSDP computed to lend them is not of the model.
        for tensor in self._names.lent(info.module):
            self._known.pop(id(tensor), None)
        return self.before(args, kwargs) if info.atomic else Call([], len(self.nodes))

    def leave(self, info: ModuleInfo, call: Call, output: Any) -> None:
        """Note what a module returned; one that is opaque counts as one operation."""
        name = class_of(info.module).__name__
        if info.atomic:
            own = self._names.own(info.module)
            function = info.module if info.role == "activation" and not own else None
            self._note(name, call.given, call.given, output, tuple(chain.from_iterable(own)), function=function)
            return
        for tensor in tensors_of(output):
            node = self._source(tensor)
            if info.opaque and node >= call.start and node not in self._marked and not self.nodes[node].source:
                self._replace(tensor, node, self._united(name, node, call.start))

    def pass_on(self, tensor: Tensor, result: Tensor) -> None:
        """Note that a tensor is the same signal as another one, which a custom function returned as it is."""
        if self.taking and not in_backward() and self._lookup(tensor) is not None:
            self._register(result, self._source(tensor))

    def before(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
        """Return what a function is given before it runs, None where its operations belong to no pass."""
        if in_backward():
            return None
        given: list[_Given] = []
        for value in chain(args, kwargs.values()) if kwargs else args:
            if isinstance(value, Tensor):
                given.append(_Given(value, self._source(value), value.requires_grad, version_of(value)))
            elif isinstance(value, (tuple, list, dict)):
                given += [self._given(tensor) for tensor in tensors_of(value)]
        return Call(given, len(self.nodes))

    def after(
        self, function: Callable[..., Any], call: Call, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Note what a function returned, and what it wrote to."""
        kind, given = kind_of(function), call.given
        name = kind.name
        first = given[:1] if given and args and given[0].tensor is args[0] else []
        if kind.puts_data:
            self._register(given[0].tensor, given[-1].node)
            return
        if name == "setitem":
            self._set_item(given, args)
            return
        if name == "getitem" and len(given) > 1:
            name = "index"
        used = given
        if kind.skips_first:
            used = given[len(first) :]
        elif name in _AS and first:
            used = first
        elif (out := kwargs.get("out")) is not None:
            outs = {id(tensor) for tensor in tensors_of(out)}
            used = [each for each in given if id(each.tensor) not in outs]
        bound = None
        if kind.is_elementwise and not any(isinstance(value, Tensor) for value in (*args[1:], *kwargs.values())):
            bound = partial(_applied, function, args[1:], kwargs)
        if kind.is_product and any(type(value) in (int, float) and not value for value in args):
            used = [*used, _Given(first[0].tensor, self._new(Node("zeros")), False, 0)]
        self._note(name, given, used, result, each=name in _EACH, function=bound)

    def _is_foreign(self, one: _Given) -> bool:
        """Return whether a tensor is trainable and no parameter of the model, made before the pass or in it."""
        made_now = type(one.tensor) is nn.Parameter and one.gradient and self._held(one.tensor) is None
        if not made_now and one.node not in self._foreign:
            return False
        # `functional_call` and FSDP put other tensors in the place of parameters for a while.
        return not any(one.tensor is parameter for parameter in self._model.parameters())

    def _given(self, tensor: Tensor) -> _Given:
        return _Given(tensor, self._source(tensor), tensor.requires_grad, version_of(tensor))

    def _note(
        self,
        name: str,
        given: Sequence[_Given],
        used: Sequence[_Given],
        result: Any,
        parameters: tuple[str, ...] = (),
        *,
        each: bool = False,
        function: nn.Module | partial[Tensor] | None = None,
    ) -> None:
        results = [result] if isinstance(result, Tensor) else tensors_of(result)
        if (own := [one.tensor for one in used if self._is_foreign(one)]) and any(map(_is_computed, results)):
            self.unregistered[name, tuple(map(id, own))] = tuple(own[0].shape)
        # Tensors made in inference mode count no versions.
        if any(one.version < 0 or version_of(one.tensor) != one.version for one in given):
            for one in _written(name, given, results):
                node = self._operation(name, used, one.tensor, parameters, itself=one, function=function)
                self._write(one.tensor, self._region(one.tensor), node)
        alone = each and len(used) == len(results)
        for at, tensor in enumerate(results):
            if self._lookup(tensor) is None:
                sources = used[at : at + 1] if alone else used
                memory = self._memory_of(tensor)
                if memory is not None and memory.writes and (entry := self._written(used, memory)) is not None:
                    # A view may show a part of what was written: it is looked for when the view is read.
                    base = _Given(tensor, entry.node, self.nodes[entry.node].gradient, 0)
                    node = self._operation(name, [base], tensor, parameters, function=function)
                    self._register(tensor, node, clock=entry.clock)
                    continue
                self._register(tensor, self._operation(name, sources, tensor, parameters, function=function))

    def _written(self, given: Sequence[_Given], memory: _Memory) -> _Known | None:
        """Return the tensor among those that were given whose memory was written to since it was made."""
        for one in given:
            entry = self._lookup(one.tensor)
            if entry is not None and entry.memory is memory and memory.writes[-1].clock > entry.clock:
                return entry
        return None

    def _set_item(self, given: Sequence[_Given], args: Sequence[Any]) -> None:
        target, others = given[0], given[1:]
        tensor, index = target.tensor, args[1]
        parts = index if isinstance(index, tuple) else (index,)
        # Numbers and slices choose a part that is then overwritten; tensors choose elements, which may be any.
        basic = all(each is None or each is ... or type(each) in (int, slice) for each in parts) and _is_plain(tensor)
        node = self._operation("setitem", others if basic else given, tensor, itself=target)
        self._write(tensor, self._region(tensor.detach()[index] if basic else tensor), node)

    def _operation(
        self,
        name: str,
        used: Sequence[_Given],
        result: Tensor,
        parameters: tuple[str, ...] = (),
        *,
        itself: _Given | None = None,
        function: nn.Module | partial[Tensor] | None = None,
    ) -> int:
        enabled = torch.is_grad_enabled()
        # What a custom function returns is joined to the graph only after it.
        gradient = result.requires_grad and (enabled or itself is not None)
        return self._new(
            Node(
                name,
                [one.node for one in used],
                [gradient and one.gradient and (enabled or one is itself) for one in used],
                parameters,
                gradient,
                hidden=not enabled,
                smooth=_is_smooth(result),
                sequence=0 if enabled else _sequence_number(),
                function=function,
            )
        )

    def _new(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _united(self, name: str, node: int, start: int) -> int:
        """Return a new node for the operations from number `start` on that a node was computed by."""
        stops: dict[int, bool] = {}
        parameters: dict[str, None] = {}
        reached = {node: True}
        # Parents have lower numbers: each node is met after all that it feeds.
        inside = [node]
        while inside:
            inside.sort()
            at = self.nodes[current := inside.pop()]
            parameters |= dict.fromkeys(at.parameters)
            for parent, passes in zip(at.parents, at.passes, strict=True):
                passes = passes and reached[current]
                if parent < start or parent in self._marked or self.nodes[parent].source:
                    stops[parent] = stops.get(parent, False) or passes
                elif parent in reached:
                    reached[parent] |= passes
                else:
                    reached[parent] = passes
                    inside.append(parent)
        last = self.nodes[node]
        return self._new(
            Node(
                name,
                list(stops),
                list(stops.values()),
                tuple(parameters),
                last.gradient,
                last.hidden,
                last.smooth,
                sequence=last.sequence,
                inner=node,
            )
        )

    # Tensors

    @staticmethod
    def _region(tensor: Tensor) -> Region | None:
        return region_of(tensor) if _is_plain(tensor) else None

    def _lookup(self, tensor: Tensor) -> _Known | None:
        entry = self._known.get(id(tensor))
        return entry if entry is not None and entry.tensor() is tensor else None

    def _register(self, tensor: Tensor, node: int, *, clock: int | None = None) -> None:
        """Note that a tensor holds what a node made at a clock, now where none is given."""
        memory = None
        if (storage := _storage(tensor)) is not None and (memory := self._memories.get(storage._cdata)) is None:
            memory = self._memories[storage._cdata] = _Memory(storage, node, version_of(tensor))
        self._known[id(tensor)] = _Known(tensor, node, memory, self._clock if clock is None else clock)
        if tensor.requires_grad and (key := _key(tensor)) is not None:
            self._keys[key] = node

    def _replace(self, tensor: Tensor, node: int, new: int) -> None:
        """Put a new node in the place of the one that made a tensor."""
        if (entry := self._lookup(tensor)) is None:
            return
        entry.node = new
        memory = entry.memory
        if memory is not None:
            memory.node = new if memory.node == node else memory.node
            memory.writes = [one._replace(node=new) if one.node == node else one for one in memory.writes]
        if tensor.requires_grad and (key := _key(tensor)) is not None:
            self._keys[key] = new

    def _memory_of(self, tensor: Tensor) -> _Memory | None:
        storage = _storage(tensor)
        return None if storage is None else self._memories.get(storage._cdata)

    def _write(self, tensor: Tensor, region: Region | None, node: int) -> None:
        """Note that a node wrote to a region of a tensor's memory."""
        entry = self._lookup(tensor)
        self._clock += 1
        if entry is None or entry.memory is None or region is None or self._memory_of(tensor) is not entry.memory:
            self._register(tensor, node)
            return
        memory = entry.memory
        memory.writes.append(_Write(self._clock, region, node, _base(tensor)))
        memory.version = max(memory.version, version_of(tensor))

    def _source(self, tensor: Tensor) -> int:
        """Return the node that made what a tensor holds now."""
        entry = self._known.get(id(tensor))
        if entry is None or entry.tensor() is not tensor or self._is_lent(tensor, entry):
            node = self._find(tensor)
        else:
            memory, version = entry.memory, version_of(tensor)
            if version > max(entry.version, -1 if memory is None else memory.version):
                self._write_unseen(tensor, entry)
            node = entry.node
            if memory is not None and memory.writes and memory.writes[-1].clock > entry.clock:
                node = self._after_writes(tensor, entry)
        if tensor.requires_grad and not self.nodes[node].gradient:
            self._complete(node, tensor)
        return node

    def _is_lent(self, tensor: Tensor, entry: _Known) -> bool:
        """Return whether FSDP has put a tensor that it computed in the place of a parameter since it was known."""
        return (
            type(tensor) is nn.Parameter
            and self.nodes[entry.node].source != "parameter"
            and self._names.lent_as(tensor) is not None
        )

    def _after_writes(self, tensor: Tensor, entry: _Known) -> int:
        """Return the node of what a tensor holds after the writes to its memory since it was last looked at."""
        memory = entry.memory
        assert memory is not None
        if entry.joined[1] == self._clock:
            return entry.joined[0]
        sources = self._seen(tensor, entry, memory, region_of(tensor))
        entry.version = version_of(tensor)
        if len(sources) == 1:
            (node,) = sources
            entry.node = node
            entry.clock = self._clock
        else:
            node = self._joined(sources, tensor)
            entry.joined = (node, self._clock)
        # To read a view's function after a write would make it anew.
        if tensor.requires_grad and not tensor._is_view() and (key := _key(tensor)) is not None:
            self._keys[key] = node
        return node

    def _seen(self, tensor: Tensor, entry: _Known, memory: _Memory, region: Region) -> dict[int, bool]:
        """Return the nodes of what a region of a tensor shows after writes, and whether its gradient goes there."""
        late = [write for write in memory.writes if write.clock > entry.clock]

        def seen(writes: Sequence[_Write]) -> list[int]:
            places = seen_in(region, [write.region for write in writes])
            return [entry.node if at < 0 else writes[at].node for at in places]

        values = seen(late)
        if not tensor.requires_grad:
            return dict.fromkeys(values, False)
        # A write past the graph, as by `.data`, changes the value and not where the gradient goes.
        base = _base(tensor)
        passing = [write for write in late if write.base == base and self.nodes[write.node].gradient]
        gradients = values if len(passing) == len(late) else seen(passing)
        return dict.fromkeys(values, False) | {node: self.nodes[node].gradient for node in gradients}

    def _joined(self, sources: Mapping[int, bool], tensor: Tensor) -> int:
        return self._new(Node("", list(sources), list(sources.values()), gradient=tensor.requires_grad))

    def _write_unseen(self, tensor: Tensor, entry: _Known) -> None:
        """Note a write that no operation showed; the autograd graph may tell where it came from."""
        sources = {entry.node: tensor.requires_grad and self.nodes[entry.node].gradient}
        if not tensor._is_view() and (function := _function(tensor)) is not None:
            sources[self._walk(function)] = True
        node = self._joined(sources | {self._new(Node(source="unknown")): False}, tensor)
        entry.version = version_of(tensor)
        self._write(tensor, self._region(tensor), node)

    def _find(self, tensor: Tensor) -> int:
        """Return the node of a tensor that no operation showed, which is known from now on."""
        if (names := self._held(tensor)) is not None:
            source: Source = "parameter" if names else "constant"
            node = self._new(Node(parameters=names, source=source, gradient=tensor.requires_grad))
            self._register(tensor, node)
            return node
        memory = self._memory_of(tensor)
        if memory is not None:
            # A view, or the same tensor under another object: what wrote to the memory tells more than the graph.
            function = None if memory.writes else _function(tensor)
            key = None if function is None else _key(tensor)
            node = memory.node
            if function is not None:
                node = self._keys[key] if key in self._keys else self._walk(function)
            self._register(tensor, node)
            entry = self._known[id(tensor)]
            entry.clock = 0 if memory.writes else entry.clock
            return self._after_writes(tensor, entry) if memory.writes else node
        if (function := _function(tensor)) is not None and _moves_between_ranks(function):
            node = self._walk(function)
        elif function is not None:
            unseen = self._new(Node(source="unknown"))
            node = self._new(Node("", [self._walk(function), unseen], [True, False], gradient=True))
        else:
            node = self._new(self._origin(tensor))
        self._register(tensor, node)
        return node

    def _origin(self, tensor: Tensor) -> Node:
        """Return a node for a tensor that was there before the pass, or that was made out of sight."""
        storage = _storage(tensor)
        if storage is not None and (own := self._own_memories().get(storage._cdata)) is not None:
            names = own[1]
            source: Literal["parameter", "constant"] = "parameter" if names else "constant"
            return Node(parameters=names, source=source, gradient=tensor.requires_grad, smooth=_is_smooth(tensor))
        if tensor.requires_grad:
            self._foreign.add(len(self.nodes))
            return Node(source="unregistered", gradient=True)
        return Node(source="unknown", smooth=_is_smooth(tensor))

    def _held(self, tensor: Tensor) -> tuple[str, ...] | None:
        """Return the names of the parameter that a tensor is or stands for, () for a buffer, None for any other."""
        if self._buffers is None:
            self._buffers = {id(buffer) for module in modules_in(self._model) for buffer in module._buffers.values()}
        return () if id(tensor) in self._buffers else self._names.of(tensor)

    def _own_memories(self) -> dict[int, tuple[_Memory, tuple[str, ...]]]:
        """Return the storages of the model's parameters, with their names, of its buffers and attributes, without."""
        if self._own is None:
            self._own = {}
            for tensor in tensors_held(self._model):
                names = self._held(tensor) or ()
                if (names or not tensor.requires_grad) and (storage := _storage(tensor)) is not None:
                    self._own.setdefault(storage._cdata, (_Memory(storage, -1, 0), names))
        return self._own

    # The autograd graph

    def _walk(self, function: Any) -> int:
        """Return the node of an autograd function, made together with all that lies behind it and is not known yet."""
        waiting = [function]
        while waiting:
            at = waiting[-1]
            key = (_thread(), at._sequence_nr())
            if key in self._walked:
                waiting.pop()
                continue
            behind = [pair for pair in at.next_functions if pair[0] is not None]
            settled = [self._settled(*pair) for pair in behind]
            if None in settled:
                waiting += [pair[0] for pair, node in zip(behind, settled, strict=True) if node is None]
                continue
            parents = [node for node in settled if node is not None]
            name = autograd_name(at.name())
            self._walked[key] = self._new(Node(name, parents, [True] * len(parents), gradient=True))
            self._unseen.add(self._walked[key])
            waiting.pop()
        return self._walked[_thread(), function._sequence_nr()]

    def _settled(self, function: Any, number: int) -> int | None:
        """Return the node of an output of an autograd function, None where its function has to be walked."""
        if (variable := getattr(function, "variable", None)) is not None:
            return self._source(variable)
        sequence = function._sequence_nr()
        if (node := self._keys.get((_thread(), sequence, number))) is not None:
            return node
        if sequence < self._first:
            return self._walked.setdefault((_thread(), sequence), self._new(Node(source="unknown", gradient=True)))
        return self._walked.get((_thread(), sequence))

    def _complete(self, node: int, tensor: Tensor) -> None:
        """Let the gradient through what ran without a graph, as in a custom function, up to what the graph shows."""
        function = _function(tensor)
        if function is not None:
            behind = [pair for pair in function.next_functions if pair[0] is not None]
            found = [(self._settled(*pair), pair[0]) for pair in behind]
            shown = [self._walk(walked) if way is None else way for way, walked in found]
            self._open(node, shown, since=function._sequence_nr())
            if (key := _key(tensor)) is not None:
                self._keys.setdefault(key, node)
        self.nodes[node].gradient = True

    def recomputed(self, path: str, tensor: Tensor) -> None:
        """Note a site that a checkpoint computed again, now with a graph: its edges pass gradients."""
        node = self._places.get(path)
        if node is None or (function := _function(tensor)) is None:
            return
        self._open(node, [self._walk(function)], since=self.nodes[node].sequence - 1)
        if (key := _key(tensor)) is not None:
            self._keys[key] = node

    def _open(self, node: int, shown: Sequence[int], *, since: int) -> None:
        """Let a gradient pass on each way from a node over hidden, smooth operations to what the autograd graph shows.

        `shown`: nodes that it leads to; where they were only walked over, those behind them. `since`: the number of the
        autograd function that hides the operations; what ran before it without a graph stays without.
        """
        targets, waiting = set(shown), list(shown)
        while waiting:
            at = waiting.pop()
            one, behind = self.nodes[at], list[int]()
            if at in self._unseen or not one.operation:
                behind = one.parents
            elif at > node:
                # A write past the graph changed since what the graph shows.
                behind = [parent for parent, passes in zip(one.parents, one.passes, strict=True) if passes]
            waiting += [parent for parent in behind if parent not in targets]
            targets.update(behind)
        inside: set[int] = set()
        waiting = [node]
        while waiting:
            at = waiting.pop()
            one = self.nodes[at]
            within = one.hidden and one.sequence > since
            if at not in inside and within and one.smooth and one.operation != "detach":
                inside.add(at)
                waiting += [parent for parent in one.parents if parent not in targets]
        for at in sorted(inside):
            one = self.nodes[at]
            for place, parent in enumerate(one.parents):
                if self.nodes[parent].gradient if parent in inside else self._leads_to(parent, targets):
                    one.passes[place] = one.gradient = True

    def stream_of(self, first: Tensor, second: Tensor) -> int | None:
        """Return which operand of a residual sum is the stream, 0 or 1; None where the graph does not tell.

        The other one is computed from it, or from what it was summed up from, as where two branches start side by side.
        """
        ends = self._source(first), self._source(second)
        summed = [self._summed(end) for end in ends]
        feeds = [self._reaches(ends[1 - at], summed[at]) for at in (0, 1)]
        return None if feeds[0] == feeds[1] else feeds.index(True)

    def _summed(self, node: int) -> set[int]:
        """Return a node and the last few that it was summed up from."""
        found: set[int] = set()
        waiting = [node]
        while waiting and len(found) < _SUMMANDS:
            at = max(waiting)
            waiting.remove(at)
            if at not in found and self.nodes[at].source in ("", "input"):
                found.add(at)
                waiting += self.nodes[at].parents if self.nodes[at].operation in _SUMS_AND_MOVES else ()
        return found

    def _reaches(self, node: int, targets: set[int]) -> bool:
        """Return whether a node was computed from one of the others."""
        if not targets:
            return False
        least, visited, waiting = min(targets), {node}, list(self.nodes[node].parents)
        while waiting:
            at = waiting.pop()
            if at in targets:
                return True
            # Parents have lower numbers.
            if at > least and at not in visited:
                visited.add(at)
                waiting += self.nodes[at].parents
        return False

    def _leads_to(self, node: int, targets: set[int]) -> bool:
        """Return whether a gradient passes from a node to one of the targets."""
        first, visited, waiting = min(targets, default=0), set[int](), [node]
        while waiting:
            if (at := waiting.pop()) in targets:
                return True
            if at > first and at not in visited:
                visited.add(at)
                ways = zip(self.nodes[at].parents, self.nodes[at].passes, strict=True)
                waiting += [parent for parent, passes in ways if passes]
        return False

    # Sites

    def mark(self, path: str, tensor: Tensor) -> None:
        """Note that a tensor, as it is now, is a site."""
        node = self._source(tensor)
        if node in self._marked:
            one = Node("", [node], [tensor.requires_grad], gradient=tensor.requires_grad)
            node = self._new(one)
        if (entry := self._lookup(tensor)) is not None:
            entry.node, entry.clock = node, self._clock
        self._marked[node] = path
        self._marks.append((path, node))
        self._places[path] = node

    def finish(self) -> None:
        """Find the parents of the sites of the pass so far."""
        active: dict[int, str] = {}
        found: dict[int, tuple[_Ways, dict[str, None]]] = {}
        passed: set[int] = set()
        for path, node in self._marks:
            ways, parameters = self._behind(node, active, found, passed)
            ways.pop(path, None)
            by_site = self._ways.setdefault(path, {})
            for site, way in ways.items():
                by_site[site] = _united_way(by_site.get(site), way)
            self._parameters.setdefault(path, {}).update(parameters)
            if node in passed:
                # Earlier sites were computed from it before it became one.
                found.clear()
                passed.clear()
            active[node] = path
        self.sites.update(active)

    def _behind(
        self,
        node: int,
        active: Mapping[int, str],
        found: dict[int, tuple[_Ways, dict[str, None]]],
        passed: set[int],
    ) -> tuple[_Ways, dict[str, None]]:
        """Return the ways back from a node to the nearest active sites, and the parameters on them.

        `found`: the same of nodes that are no sites; `passed`: those that something else was computed from.
        """
        waiting = [node]
        while waiting:
            at = waiting[-1]
            one = self.nodes[at]
            lacking = [p for p in one.parents if p not in active and p not in found] if at not in found else []
            if lacking:
                waiting += lacking
                continue
            waiting.pop()
            if at in found:
                continue
            ways: _Ways = {}
            parameters = dict.fromkeys(one.parameters)
            if one.source == "unknown" or (one.source == "input" and at != node):
                ways[UNKNOWN] = (None, True)
            for parent, passes in zip(one.parents, one.passes, strict=True):
                if (site := active.get(parent)) is not None:
                    behind: _Ways = {site: (None, True)}
                else:
                    passed.add(parent)
                    behind, more = found[parent]
                    parameters.update(more)
                for name, (operations, open_) in behind.items():
                    ways[name] = _united_way(ways.get(name), (_with(operations, one.operation), open_ and passes))
            found[at] = ways, parameters
        ways, parameters = found[node]
        return dict(ways), parameters

    def order(self, sites: Iterable[str]) -> list[str]:
        """Return the sites in their order, but each behind its parents: a later pass may go over sites that are new."""
        placed: dict[str, None] = {}
        places = {site: place for place, site in enumerate(sites)}
        for first in places:
            waiting, entered = [first], set()
            while waiting:
                site = waiting[-1]
                if site in placed or site in entered:
                    placed[waiting.pop()] = None
                else:
                    entered.add(site)
                    behind = [way for way in self._ways.get(site, ()) if way in places and way not in placed]
                    waiting += sorted((way for way in behind if way not in entered), key=places.__getitem__)
        return list(placed)

    def parents_of(
        self, path: str, places: Mapping[str, int], name_of: Callable[[str], str]
    ) -> tuple[Parent, ...] | None:
        """Return the parents of a site, None where no pass was traced that had it.

        `places`: the position of each site in execution order; what would come later is not known.
        """
        if (ways := self._ways.get(path)) is None:
            return None
        place, named = places[path], _Ways()
        for site, way in ways.items():
            site = site if places.get(site, place) < place else UNKNOWN
            named[site] = _united_way(named.get(site), way)
        order = sorted(named, key=lambda site: places.get(site, place))
        return tuple(
            Parent(site if site == UNKNOWN else name_of(site), tuple(_listed(named[site][0])), named[site][1])
            for site in order
        )

    def sources_of(self, path: str) -> tuple[str, ...]:
        """Return the keys of the sites that a site was computed from, none where no pass was traced that had it."""
        return tuple(key for key in self._ways.get(path, ()) if key != UNKNOWN)

    def parameters_of(self, path: str) -> tuple[str, ...]:
        """Return the names of the parameters that took part between a site's parents and it."""
        return tuple(self._parameters.get(path, ()))


def _moves_between_ranks(function: Any) -> bool:
    """Return whether an autograd function is one by which torch.distributed only spreads a tensor in another way."""
    made_by = getattr(type(function), "_forward_cls", None)
    return made_by is not None and made_by.__module__.startswith("torch.distributed.tensor")


class Kind(NamedTuple):
    """What the name of a torch function tells of how it uses its arguments."""

    name: str
    skips_first: bool
    puts_data: bool
    is_elementwise: bool
    is_product: bool


@lru_cache(maxsize=1024)
def kind_of(function: Callable[..., Any]) -> Kind:
    """Return how a torch function uses its arguments."""
    name = operation_name(function)
    plain = name.rstrip("_")
    return Kind(
        name,
        skips_first=bool(_LIKE.match(name)) or name in _OVERWRITES,
        puts_data=name == "data" and getattr(function, "__name__", "") == "__set__",
        is_elementwise=plain in ELEMENTWISE,
        is_product=plain in ("mul", "multiply"),
    )


def operation_name(function: Callable[..., Any]) -> str:
    """Return the name of a torch function as a reader knows it: "add" of `Tensor.__radd__`, "T" of its getter."""
    name: str = getattr(function, "__name__", "") or type(function).__name__
    if name in ("__get__", "__set__"):
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    name = name.partition(".")[0]
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if name[1:] in _BINARY:
            name = name[1:] + "_" * (name[0] == "i")
    return name.lstrip("_") or name


def autograd_name(name: str) -> str:
    """Return the operation of an autograd function: "scaled_dot_product" of "ScaledDotProductBackward0"."""
    name = re.sub(r"Backward\d*$", "", name.rpartition("::")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _written(name: str, given: Sequence[_Given], results: Sequence[Tensor]) -> Iterator[_Given]:
    """Yield what an operation wrote to: of tensors that share their versions, the one it returned, else the first."""
    changed = [
        one
        for at, one in enumerate(given)
        if version_of(one.tensor) != one.version
        or (one.version < 0 and ((at == 0 and name.endswith("_")) or any(one.tensor is r for r in results)))
    ]
    returned = [one for one in changed if any(one.tensor is result for result in results)]
    taken: set[int] = set()
    for one in [*returned, *changed]:
        storage = _storage(one.tensor)
        key = id(one.tensor) if storage is None else storage._cdata
        if key not in taken:
            taken.add(key)
            yield one


def _applied(function: Callable[..., Tensor], args: Sequence[Any], kwargs: Mapping[str, Any], value: Tensor) -> Tensor:
    """Return what a function makes of a tensor, with the other arguments of a call."""
    return function(value, *args, **{name: one for name, one in kwargs.items() if name not in ("input", "inplace")})


def _is_smooth(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _base(tensor: Tensor) -> int:
    return id(tensor._base) if tensor._is_view() else id(tensor)


def _is_plain(tensor: Tensor) -> bool:
    return _storage(tensor) is not None


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """Return the memory of a tensor, None where it has none that could be shared."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _function(tensor: Tensor) -> Any:
    """Return a tensor's autograd function, None where it has none or where reading it raises."""
    try:
        return tensor.grad_fn
    except RuntimeError:
        return None


def _key(tensor: Tensor) -> tuple[int, int, int] | None:
    """Return what tells a tensor in the autograd graph from others, None for a leaf."""
    function = _function(tensor)
    return None if function is None else (_thread(), function._sequence_nr(), tensor.output_nr)


def _with(operations: _Operations | None, name: str) -> _Operations | None:
    if not name or (operations is not None and operations[2] == name):
        return operations
    return (1 if operations is None else operations[0] + 1, operations, name)


def _listed(operations: _Operations | None) -> list[str]:
    names: list[str] = []
    while operations is not None:
        names.append(operations[2])
        operations = operations[1]
    return names[::-1]


def _united_way(
    one: tuple[_Operations | None, bool] | None, other: tuple[_Operations | None, bool]
) -> tuple[_Operations | None, bool]:
    """Return the one of two ways that a gradient passes, of two such ways the shorter."""
    if one is None:
        return other
    if one[1] != other[1]:
        return one if one[1] else other
    lengths = [0 if way[0] is None else way[0][0] for way in (one, other)]
    return one if lengths[0] <= lengths[1] else other


def _is_computed(tensor: Tensor) -> bool:
    """Return whether a gradient passes to what a tensor was computed from; not so in `no_grad`."""
    return tensor.requires_grad and not tensor.is_leaf
